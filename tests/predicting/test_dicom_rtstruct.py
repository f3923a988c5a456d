"""RTSTRUCTs: filled again they are the mask voxel for voxel, and belong to series and patient."""

import numpy as np
import pydicom
import pytest
from laid_series import (
  ABOUT,
  BAD,
  CLASSES,
  LAYS,
  NAMES,
  OTHERS,
  SECRETS,
  to_enhanced,
  write_series,
)

from thrifty_jax.errors import InputError
from thrifty_jax.predicting import dicom_rtstruct
from thrifty_jax.scans import dicom, dicom_truth, sources

pytest.importorskip('highdicom')  # which writes the enhanced series

SHAPE = (5, 9, 7)


def make_mask():
  mask = np.random.default_rng(1).choice(4, SHAPE, p=(0.4, 0.3, 0.2, 0.1)).astype(np.uint8)
  mask[2] = 0  # a slice without any class
  mask[3, 1:8, 1:6] = 1
  mask[3, 3:6, 2:4] = 0  # a hole
  return mask


def write(series, path, mask=None, about=ABOUT):
  """The mask, what was written of it, and the grid of the series."""
  mask = make_mask() if mask is None else mask
  (source,) = sources.find(series, channels=1)
  _, grid = sources.read(source)
  content = dicom_rtstruct.to_bytes(mask, affine=grid.affine, series=series, about=about)
  path.write_bytes(content)
  return mask, pydicom.dcmread(path), dicom.read_grid(sources.slices_of(series))


@pytest.mark.parametrize('kind', ['plain', 'enhanced'])
@pytest.mark.parametrize('lay', LAYS)
def test_filled_again_it_is_the_mask_however_the_series_lies(tmp_path, lay, kind):
  plain = write_series(tmp_path / 'series', lay=lay, ImageType=['ORIGINAL', 'PRIMARY', 'OTHER'])
  series = plain if kind == 'plain' else to_enhanced(plain, tmp_path / 'enhanced')
  mask, made, grid = write(series, tmp_path / 'rt.dcm')
  found = dicom_truth.read_mask(tmp_path / 'rt.dcm', CLASSES[1:], *grid)
  np.testing.assert_array_equal(found, mask)
  places = {}  # of the images, by the number of the frame where there are several
  for path in plain.iterdir():
    one = pydicom.dcmread(path, stop_before_pixels=True)
    places[str(one.SOPInstanceUID)] = np.array(one.ImagePositionPatient, float)
  if kind == 'enhanced':
    frames = pydicom.dcmread(series / 'all.dcm').PerFrameFunctionalGroupsSequence
    positions = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames]
    places = {n: np.array(position, float) for n, position in enumerate(positions, 1)}
  first = pydicom.dcmread(next(plain.iterdir()), stop_before_pixels=True)
  row, column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
  for structure in made.ROIContourSequence:
    for contour in structure.ContourSequence:
      (image,) = contour.ContourImageSequence
      place = places[image.get('ReferencedFrameNumber') or image.ReferencedSOPInstanceUID]
      points = np.array(contour.ContourData, float).reshape(-1, 3)
      assert len(points) == contour.NumberOfContourPoints
      assert np.abs((points - place) @ np.cross(row, column)).max() < 1e-4  # they lie on that slice


def test_it_belongs_to_patient_study_and_frame_of_reference_and_names_the_classes(tmp_path):
  _, made, _ = write(write_series(tmp_path / 'series'), tmp_path / 'rt.dcm')
  for name, value in NAMES.items():
    assert made[name].value == value
  for value in OTHERS.values():
    assert value not in str(made)
  (space,) = made.ReferencedFrameOfReferenceSequence
  (study,) = space.RTReferencedStudySequence
  (series,) = study.RTReferencedSeriesSequence
  assert space.FrameOfReferenceUID == '1.2.826.0.1.77.3'
  assert study.ReferencedSOPInstanceUID == made.StudyInstanceUID == '1.2.826.0.1.77.1'
  assert series.SeriesInstanceUID == '1.2.826.0.1.77.2' != made.SeriesInstanceUID
  images = {one.ReferencedSOPInstanceUID for one in series.ContourImageSequence}
  assert images == {f'1.2.826.0.1.77.4.{d + 1}' for d in range(SHAPE[0])}
  assert [one.ROIName for one in made.StructureSetROISequence] == list(CLASSES[1:])
  assert {one.ROIGenerationAlgorithm for one in made.StructureSetROISequence} == {'AUTOMATIC'}
  assert 'not a medical device' in made.SeriesDescription
  assert made.ApprovalStatus == 'UNAPPROVED' and made.Modality == 'RTSTRUCT'
  kinds = {c.ContourGeometricType for one in made.ROIContourSequence for c in one.ContourSequence}
  assert kinds == {'CLOSED_PLANAR'}


def test_a_class_without_a_voxel_is_a_structure_without_contours(tmp_path):
  mask, made, grid = write(
    write_series(tmp_path / 'series'), tmp_path / 'rt.dcm', np.zeros(SHAPE, np.uint8)
  )
  assert len(made.ROIContourSequence) == 3
  assert not any('ContourSequence' in one for one in made.ROIContourSequence)
  found = dicom_truth.read_mask(tmp_path / 'rt.dcm', CLASSES[1:], *grid)
  np.testing.assert_array_equal(found, mask)


def test_regions_are_structures_of_all_their_labels(tmp_path):
  regions = [[1, 2, 3], [2, 3], [3]]
  series, path = write_series(tmp_path / 'series'), tmp_path / 'rt.dcm'
  mask, made, grid = write(series, path, about=ABOUT | {'regions': regions})
  assert [one.ROIName for one in made.StructureSetROISequence] == list(CLASSES[1:])
  for name, own in zip(CLASSES[1:], regions, strict=True):
    found = dicom_truth.read_mask(path, [name], *grid)  # one by one, as they overlap
    np.testing.assert_array_equal(found, np.isin(mask, own))


@pytest.mark.parametrize('name', BAD)
def test_a_series_to_which_it_cannot_belong_is_told_without_its_names(tmp_path, capfd, name):
  changes, message = BAD[name]
  series = write_series(tmp_path / 'series', **changes)
  with pytest.raises(InputError) as raised:
    write(series, tmp_path / 'rt.dcm')
  said = str(raised.value) + ''.join(capfd.readouterr())
  assert message.split(' (')[0] in said.replace('PatientSex is', 'is')
  assert str(series) in said and '--rtstruct' in said and '\n' not in str(raised.value)
  assert not any(secret in said.replace(str(tmp_path), '') for secret in (*SECRETS, 'JANE'))


def test_a_number_that_is_none_is_told_without_it(tmp_path):
  series = write_series(tmp_path / 'series')
  for path in series.iterdir():  # a text of digits alone
    content = path.read_bytes()
    place = content.index(b'\x20\x00\x11\x00IS')
    path.write_bytes(content[: place + 8] + b'J ' + content[place + 10 :])
  with pytest.raises(InputError, match='is not as DICOM has it, so an RTSTRUCT cannot') as told:
    write(series, tmp_path / 'rt.dcm')
  assert "'J'" not in str(told.value)
