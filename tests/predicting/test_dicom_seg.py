"""DICOM Segmentations: read by other programs they are the NIfTI mask, and where names may stand.

The series are written by pydicom, and what is read back is read by pydicom and highdicom: neither
has a part in reading scans or in writing NIfTI.
"""

import gzip
import importlib.util
import logging
import re
import warnings
from typing import Any

import jax
import nibabel
import numpy as np
import pytest
from laid_series import ABOUT, BAD, CLASSES, LAYS, NAMES, OTHERS, SECRETS, to_enhanced, write_series

from data_prep import phantom
from thrifty_jax import config as configs
from thrifty_jax import predict
from thrifty_jax.errors import InputError
from thrifty_jax.predicting import dicom_rtstruct, dicom_seg
from thrifty_jax.scans import dicom, dicom_truth, masks, sources

highdicom: Any = pytest.importorskip('highdicom')
pydicom: Any = pytest.importorskip('pydicom')


def written(series, mask=None, about=ABOUT):
  """The mask [D, H, W], its NIfTI image and its Segmentation."""
  (source,) = sources.find(series, channels=1)
  volume, grid = sources.read(source)
  if mask is None:
    shape = volume.image.shape[:3]
    mask = np.random.default_rng(1).choice(4, shape, p=(0.7, 0.1, 0.1, 0.1)).astype(np.uint8)
    mask[2] = 0  # a slice without any class, which is not stored
  nifti: Any = nibabel.Nifti1Image.from_bytes(masks.to_bytes(mask, grid, ending='.nii'))
  content = dicom_seg.to_bytes(mask, affine=grid.affine, series=series, about=about)
  return mask, nifti, read(content)


def read(content):
  return pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))


def voxel_by_voxel(seg, nifti, numbers=(1, 2, 3)):
  """The classes of a Segmentation put on the grid of a NIfTI image, by its frames' own geometry."""
  found = np.zeros(nifti.shape, np.uint8)
  shared = seg.SharedFunctionalGroupsSequence[0]
  directions = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
  down, across = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
  rows, columns = np.indices((seg.Rows, seg.Columns)).reshape(2, 1, -1)
  for pixels, frame in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
    corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)[:, None]
    place = corner + directions[:3, None] * across * columns + directions[3:, None] * down * rows
    ras = np.concatenate([place * [[-1], [-1], [1]], np.ones((1, place.shape[1]))])
    index = np.linalg.solve(nifti.affine, ras)[:3]
    assert np.abs(index - index.round()).max() < 0.01
    index = tuple(index.round().astype(int))
    inside = pixels.ravel() > 0
    segment = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    if segment not in numbers:
      continue
    assert not found[index][inside].any()  # no voxel has two classes
    found[index] = np.where(inside, segment, found[index])
  return found


@pytest.mark.parametrize('lay', LAYS)
def test_it_is_the_nifti_mask_voxel_for_voxel_however_the_series_lies(tmp_path, lay):
  mask, nifti, seg = written(write_series(tmp_path / 'series', lay=lay))
  found = voxel_by_voxel(seg, nifti)
  np.testing.assert_array_equal(found, np.asarray(nifti.dataobj))
  assert (found > 0).sum() == (mask > 0).sum() > 50
  assert len(seg.PerFrameFunctionalGroupsSequence) == 3 * 4  # the empty slice is left out


def test_highdicom_reads_the_same_volume_and_geometry(tmp_path):
  mask, nifti, seg = written(write_series(tmp_path / 'series', lay='oblique, reversed'))
  volume = highdicom.seg.Segmentation.from_dataset(seg).get_volume(combine_segments=True)
  lps = np.diag((-1.0, -1.0, 1.0, 1.0))
  turn = np.linalg.solve(nifti.affine[:, [2, 1, 0, 3]], lps @ volume.affine)
  np.testing.assert_allclose(np.abs(turn[:3, :3]), np.eye(3), atol=1e-4)
  signs = np.sign(np.diag(turn))[:3].astype(int)
  first = -np.minimum(0, signs) * (np.array(mask.shape) - 1)  # a turned axis begins at its end
  np.testing.assert_allclose(turn[:3, 3], first, atol=1e-3)
  np.testing.assert_array_equal(volume.array[tuple(slice(None, None, s) for s in signs)], mask)
  np.testing.assert_allclose(volume.spacing, (2.25, 0.75, 1.5), rtol=1e-5)


def test_it_belongs_to_patient_study_and_frame_of_reference_and_refers_to_every_slice(tmp_path):
  series = write_series(tmp_path / 'series')
  _, _, seg = written(series)
  for name, value in NAMES.items():
    assert seg[name].value == value
  for name, number in (('StudyInstanceUID', 1), ('FrameOfReferenceUID', 3)):
    assert seg[name].value == f'1.2.826.0.1.77.{number}'
  assert seg.SeriesInstanceUID != '1.2.826.0.1.77.2' and seg.SeriesNumber == 1007
  (referenced,) = seg.ReferencedSeriesSequence
  assert referenced.SeriesInstanceUID == '1.2.826.0.1.77.2'
  instances = {one.ReferencedSOPInstanceUID for one in referenced.ReferencedInstanceSequence}
  assert instances == {f'1.2.826.0.1.77.4.{d + 1}' for d in range(5)}
  headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in series.iterdir()]
  places = {one.SOPInstanceUID: list(one.ImagePositionPatient) for one in headers}
  for frame in seg.PerFrameFunctionalGroupsSequence:  # of each frame, the slice at its place
    (image,) = frame.DerivationImageSequence[0].SourceImageSequence
    place = places[image.ReferencedSOPInstanceUID]
    assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == place


def test_segments_have_the_names_of_the_classes_what_found_them_and_what_it_is_not_for(tmp_path):
  _, _, seg = written(write_series(tmp_path / 'series'))
  assert seg.SOPClassUID == pydicom.uid.SegmentationStorage
  assert [one.SegmentLabel for one in seg.SegmentSequence] == list(CLASSES[1:])
  kinds = [one.SegmentedPropertyTypeCodeSequence[0] for one in seg.SegmentSequence]
  assert [(kind.CodeValue, kind.CodingSchemeDesignator) for kind in kinds] == [
    ('10200004', 'SCT'),  # SNOMED's liver
    ('389081007', 'SCT'),
    ('3', '99THRIFTY_JAX'),
  ]
  assert kinds[2].CodeMeaning == CLASSES[3]
  assert {one.SegmentAlgorithmType for one in seg.SegmentSequence} == {'AUTOMATIC'}
  algorithm = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
  assert algorithm.AlgorithmName == 'thrifty_jax' and 'ab' * 32 in algorithm.AlgorithmParameters
  for text in (seg.ContentDescription, seg.SeriesDescription, algorithm.AlgorithmParameters):
    assert 'not a medical device' in text


def test_a_mask_without_any_class_and_a_series_without_a_patient_make_one_too(tmp_path):
  nobody = dict.fromkeys((*NAMES, *OTHERS, 'SeriesNumber'))
  series = write_series(tmp_path / 'series', **nobody)
  mask, nifti, seg = written(series, np.zeros((5, 9, 7), np.uint8))
  np.testing.assert_array_equal(voxel_by_voxel(seg, nifti), mask.T)
  assert not seg.PatientName and 'PatientName' in seg and len(seg.SegmentSequence) == 3


@pytest.mark.parametrize('lay', LAYS)
def test_of_an_enhanced_series_too_it_is_the_nifti_mask_voxel_for_voxel(tmp_path, lay):
  plain = write_series(tmp_path / 'series', lay=lay, ImageType=['ORIGINAL', 'PRIMARY', 'OTHER'])
  series = to_enhanced(plain, tmp_path / 'enhanced')
  (one, grid), (other, its_grid) = (
    sources.read(sources.find(place, channels=1)[0]) for place in (plain, series)
  )
  np.testing.assert_array_equal(one.image, other.image)
  np.testing.assert_allclose(grid.affine, its_grid.affine, atol=1e-6)
  alone, _ = sources.read(sources.find(series / 'all.dcm', channels=1)[0])
  np.testing.assert_array_equal(one.image, alone.image)
  mask, nifti, seg = written(series)
  found = voxel_by_voxel(seg, nifti)
  np.testing.assert_array_equal(found, np.asarray(nifti.dataobj))
  assert (found > 0).sum() == (mask > 0).sum() > 50


@pytest.mark.parametrize('name', BAD)
def test_a_series_to_which_it_cannot_belong_is_told_without_its_names(tmp_path, capfd, name):
  changes, message = BAD[name]
  series = write_series(tmp_path / 'series', **changes)
  with pytest.raises(InputError, match=message.replace('(', r'\(').replace(')', r'\)')) as raised:
    written(series)
  said = str(raised.value) + ''.join(capfd.readouterr())
  assert str(series) in said and '--dicom_seg' in said
  assert not any(secret in said.replace(str(tmp_path), '') for secret in (*SECRETS, 'JANE'))


SEVERAL = {  # tags with the byte of a backslash, some in a letter, and the character set
  'a letter of GB18030': ('PatientName', b'\x81\\\x82\\^X', 'GB18030'),
  'two names': ('PatientName', b'Jane\\Doe ', 'ISO_IR 100'),
  'two numbers': ('SeriesNumber', b'3\\4 ', 'ISO_IR 100'),
  'two ids': ('PatientID', b'Jane\\4', 'ISO_IR 100'),
}


def write_several(folder, name):
  """A series of which one tag has several values."""
  keyword, value, characters = SEVERAL[name]
  write_series(folder)
  for path in folder.iterdir():
    one = pydicom.dcmread(path)
    one.SpecificCharacterSet = characters
    one.pop(keyword)
    tag, kind = pydicom.tag.Tag(keyword), pydicom.datadict.dictionary_VR(keyword)
    value += b' ' * (len(value) % 2)
    one[tag] = pydicom.dataelem.RawDataElement(tag, kind, len(value), value, 0, False, True)
    one.save_as(path)
  return folder


@pytest.mark.parametrize(
  ('made', 'option'), [(dicom_seg, '--dicom_seg'), (dicom_rtstruct, '--rtstruct')]
)
@pytest.mark.parametrize('name', SEVERAL)
def test_a_tag_of_several_values_is_refused_by_its_name(tmp_path, name, made, option):
  series = write_several(tmp_path / 'series', name)
  volume, grid = sources.read(sources.find(series, channels=1)[0])
  mask = np.ones(volume.image.shape[:3], np.uint8)
  with pytest.raises(InputError, match=f'its {SEVERAL[name][0]} has the byte of a .* {option}'):
    made.to_bytes(mask, affine=grid.affine, series=series, about=ABOUT)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('StudyDate', '2026-13-45'),
    ('PatientBirthDate', '31.12.1970'),
    ('StudyTime', '25:61'),
    ('PatientBirthDate', 'unknown'),
    ('StudyDate', '20261345'),
  ],
)
def test_an_invalid_date_is_named_and_never_quoted(tmp_path, name, value):
  series = write_series(tmp_path / 'series', **{name: value})
  with pytest.raises(InputError, match=f'{name} is not as DICOM has it') as refused:
    written(series)
  assert value not in str(refused.value)


def test_odd_tags_are_repeated_and_what_libraries_say_of_them_is_kept_away(tmp_path, caplog, capfd):
  odd = {'PatientName': 'Jane Doe', 'StudyInstanceUID': '1.2.Jane', 'StudyID': 'Jane' * 5}
  series = write_series(tmp_path / 'series', **odd)
  caplog.clear()  # of what pydicom said when it wrote them
  with caplog.at_level(logging.INFO):
    _, _, seg = written(series)  # a warning would be an error here
  assert caplog.text == '' == ''.join(capfd.readouterr())
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    assert {name: str(seg[name].value) for name in odd} == odd


def test_a_value_of_a_type_that_highdicom_does_not_take_is_told_without_it(tmp_path, monkeypatch):
  def refuse(**settings):
    raise TypeError('Jane')

  series = write_series(tmp_path / 'series')
  monkeypatch.setattr(highdicom.seg, 'Segmentation', refuse)
  with pytest.raises(InputError, match=r'TypeError in highdicom.*--dicom_seg') as refused:
    written(series)
  assert 'Jane' not in str(refused.value)


def test_slices_of_another_place_than_the_mask_are_refused(tmp_path):
  series = write_series(tmp_path / 'series')
  with pytest.raises(InputError, match='changed while they were read'):
    dicom_seg.to_bytes(
      np.zeros((5, 9, 7), np.uint8), affine=np.diag((2.0, 1, 1, 1)), series=series, about=ABOUT
    )


# --- the command


@pytest.mark.parametrize('place', ['masks', 'study'])
def test_one_that_lies_in_a_folder_of_scans_is_no_scan(tmp_path, place):
  folder = write_series(tmp_path / 'study')
  before = sources.find(tmp_path, channels=1), sources.slices_of(folder)
  (tmp_path / place).mkdir(exist_ok=True)
  *_, segmentation = written(folder)
  segmentation.save_as(tmp_path / place / 'case_seg.dcm')
  assert (sources.find(tmp_path, channels=1), sources.slices_of(folder)) == before


@pytest.fixture(scope='module')
def trained(tmp_path_factory, random_model):
  """A model folder; and JAX afterwards as before, whatever the command set."""
  names = ('jax_enable_compilation_cache', 'jax_compilation_cache_dir')
  before = {name: jax.config.values[name] for name in names}
  config = configs.default()
  config.data.classes = CLASSES[:3]
  config.data.image_size = 16
  config.model.update({'channels': 4, 'depth': 2})
  ranges = {'slices': [50, 60], 'slice_spacing_mm': [1, 9], 'pixel_spacing_mm': [0.1, 9]}
  ranges['field_of_view_mm'] = [1, 900]
  place = tmp_path_factory.mktemp('trained') / 'model'
  yield random_model(place, config, training_scans=ranges)
  for name, value in before.items():
    jax.config.update(name, value)


def command(trained, place, output, *more):
  arguments = [f'--model={trained}', f'--input={place}', f'--output={output}', '--dicom_seg', *more]
  return predict.main(arguments)


def study(folder):
  """Two series, of which one cannot be segmented."""
  made = phantom.make_scan(patient=0, seed=0).image * 800 + 500
  write_series(folder / 'one', lay='oblique, reversed', voxels=np.clip(made, 0, None))
  write_series(folder / 'two', PatientSex='JANE')
  return folder


@pytest.mark.usefixtures('quick_compilation')
def test_names_stand_in_the_segmentation_and_nowhere_else(trained, tmp_path, capfd):
  output = tmp_path / 'masks'
  place = study(tmp_path / 'study')
  output.mkdir()
  (output / 'two_seg.dcm').write_bytes(b'of an earlier mask')
  capfd.readouterr()
  more = ('--overlays', '--probabilities', '--rtstruct', '--statistics', '--overwrite')
  assert command(trained, place, output, *more) == 2
  written = sorted(path.name for path in output.iterdir())
  shares = [f'{scan}_probability_{number}.nii.gz' for scan in ('one', 'two') for number in (1, 2)]
  others = [f'{scan}{end}' for scan in ('one', 'two') for end in ('.nii.gz', '_overlay.png')]
  both = ['one_seg.dcm', 'one_rtstruct.dcm']
  assert written == sorted(['classes.json', 'statistics.csv', *both, *others, *shares])
  out, err = capfd.readouterr()
  assert 'error: two: ' in err and 'Traceback' not in err
  assert 'but no DICOM SEG and no RTSTRUCT: ' in err
  # All else there is of the scan whose tags cannot be repeated.
  rows = (output / 'statistics.csv').read_text().splitlines()[1:]
  assert [row.split(',')[0] for row in rows] == ['one', 'one', 'two', 'two']
  assert 'done      2 of 2' in out and re.search('unlike +two: ', out)
  texts = [out.replace(str(tmp_path), ''), err.replace(str(tmp_path), ''), *written]
  for path in output.iterdir():
    content = path.read_bytes()
    if path.suffix == '.gz':
      content = gzip.decompress(content)
    if path.suffix != '.dcm':
      texts.append(content.decode('latin-1'))
  for secret in SECRETS:
    assert not any(secret in text for text in texts), secret
  seg = read((output / 'one_seg.dcm').read_bytes())
  nifti: Any = nibabel.load(output / 'one.nii.gz')
  assert seg.PatientName == NAMES['PatientName'] and seg.PatientID == NAMES['PatientID']
  for value in OTHERS.values():
    assert value not in str(seg)
  found = voxel_by_voxel(seg, nifti)
  np.testing.assert_array_equal(found, np.asarray(nifti.dataobj))
  assert {*np.unique(found)} == {0, 1, 2}
  grid = dicom.read_grid(sources.slices_of(place / 'one'))
  filled = dicom_truth.read_mask(output / 'one_rtstruct.dcm', CLASSES[1:3], *grid)
  np.testing.assert_array_equal(filled, found.T)
  assert command(trained, place / 'one', output) == 2  # the files are there
  assert 'exist already' in capfd.readouterr().err


def test_it_is_refused_for_a_scan_that_is_no_dicom_and_where_highdicom_is_missing(
  trained, tmp_path, capfd, monkeypatch
):
  nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.eye(4)), tmp_path / 'a.nii.gz')
  before = sorted(tmp_path.rglob('*'))
  assert command(trained, tmp_path / 'a.nii.gz', tmp_path / 'm.nii.gz') == 2
  assert 'a.nii.gz: is no DICOM series' in capfd.readouterr().err
  arguments = [f'--input={tmp_path / "a.nii.gz"}', f'--output={tmp_path / "m.nii.gz"}']
  assert predict.main([f'--model={trained}', *arguments, '--rtstruct']) == 2
  assert 'to which an RTSTRUCT could belong; leave out --rtstruct' in capfd.readouterr().err
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  assert command(trained, tmp_path / 'a.nii.gz', tmp_path / 'm.nii.gz') == 2
  error = capfd.readouterr().err
  assert error == (
    'error: --dicom_seg needs highdicom, which is not installed: pip install -r '
    'requirements-dicom.txt\n'
  )
  assert sorted(tmp_path.rglob('*')) == before


def test_regions_are_segments_which_overlap(tmp_path):
  series, regions = write_series(tmp_path / 'series', lay='oblique'), [[1, 2, 3], [2, 3], [3]]
  mask, nifti, seg = written(series, about=ABOUT | {'regions': regions})
  for number, own in enumerate(regions, start=1):
    found = voxel_by_voxel(seg, nifti, numbers=[number])
    np.testing.assert_array_equal(found > 0, np.isin(mask.T, own))
  assert [one.SegmentLabel for one in seg.SegmentSequence] == list(CLASSES[1:])
