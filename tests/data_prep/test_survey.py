"""The figures of a scan, against the slow obvious way."""

import base64
import dataclasses
import io
from pathlib import Path

import handmade_nifti
import numpy as np
import phantom_chaos
import pytest
from dicom_studies import write_rtstruct, write_series
from PIL import Image

from data_prep import chaos, folder, phantom, promise12, survey
from thrifty_jax import config as configs
from thrifty_jax.scans import pictures, slices, volumes
from thrifty_jax.scans.volumes import Case, Volume

SOURCE = Case(case='a', patient='p', image=(Path('scan'),), label=(Path('mask'),))


@pytest.fixture
def data():
  data = configs.default().data
  data.classes = ('background', 'big', 'small', 'absent')
  return data


@pytest.fixture
def volume():
  random = np.random.default_rng(0)
  label = np.zeros((7, 8, 9), np.uint8)
  label[2:5, 1:7, 1:8], label[3, 3, 3] = 1, 2
  affine = np.diag([3.0, 0.5, 0.25, 1])
  image = random.normal(0, 1, (7, 8, 9, 2)).astype(np.float32)
  return Volume(image, label, affine, 'a', 'p', 'LPS')


def test_figures_are_those_of_the_voxels(volume, data):
  scan = survey.measure(volume, SOURCE, data)
  assert (scan.case, scan.patient, scan.orientation) == ('a', 'p', 'LPS')
  assert scan.shape == (7, 8, 9) and scan.spacing_mm == (3.0, 0.5, 0.25)
  voxel_ml = 3.0 * 0.5 * 0.25 / 1000
  counts = [sum(value == k for value in volume.label.flat) for k in (1, 2, 3)]
  np.testing.assert_allclose(scan.class_size, np.multiply(counts, voxel_ml))
  for m in range(2):
    np.testing.assert_allclose(
      scan.intensity[m],
      [np.percentile(volume.image[..., m], at) for at in (0.5, 50, 99.5)],
      rtol=1e-5,
    )
  assert scan.pictured == 4  # of slices 3 to 5
  assert scan.picture.startswith('data:image/png;base64,')


def test_what_drawing_slices_smaller_leaves_of_each_class_is_measured(volume, data):
  label = np.zeros((2, 64, 64), np.uint8)
  label[:, 8:48, 8:48], label[:, 50:53, 50:53] = 1, 2
  drawn = dataclasses.replace(volume, label=label, image=np.ones((2, 64, 64, 1), np.float32))
  data.image_size = 64
  assert survey.measure(drawn, SOURCE, data).kept is None
  data.image_size = 16
  kept = survey.measure(drawn, SOURCE, data).kept
  assert kept is not None and kept[0] > 0.9 > kept[1] and np.isnan(kept[2])


def test_what_is_left_of_a_volume_is_the_dsc_of_its_slices_together(data):
  d, h, w = np.mgrid[-10:11, -32:32, -32:32]
  label = (d**2 / 104 + h**2 / 400 + w**2 / 196 < 1).astype(np.uint8)  # its outer slices are small
  data.classes, data.image_size = ('background', 'big'), 16
  image = np.ones((*label.shape, 1), np.float32)
  kept = survey.measure(Volume(image, label, np.eye(4), 'a', 'p', 'LPS'), SOURCE, data).kept
  small = [slices.draw_label(plane, (16, 16)) for plane in label]
  back = np.stack([slices.draw_label(plane, (64, 64)) for plane in small])
  dsc = 2 * np.sum(back & label) / (back.sum() + label.sum())
  apart = [2 * (b & a).sum() / (b.sum() + a.sum()) for b, a in zip(back, label, strict=True)]
  assert kept == pytest.approx([dsc]) and dsc > np.mean(apart) + 0.03


def test_an_empty_mask_has_no_digest_and_the_middle_slice_is_shown(volume, data):
  empty = dataclasses.replace(volume, label=np.zeros_like(volume.label))
  scan = survey.measure(empty, SOURCE, data)
  assert scan.label_digest == '' and not scan.class_size.any() and scan.pictured == 4


def test_a_slice_that_shows_nothing_but_has_a_mask_is_named(volume, data):
  image = volume.image.copy()
  image[[0, 3]] = 5  # slice 1 has no mask
  scan = survey.measure(dataclasses.replace(volume, image=image), SOURCE, data)
  assert scan.blank == (4,)


def test_the_digest_follows_the_voxels_and_not_how_a_file_stores_them(tmp_path, data):
  data.classes = ('background', 'organ')
  phantom.write_promise12(tmp_path / 'raw', patients=2, seed=0)
  first, second = promise12.find_cases(tmp_path / 'raw')
  one = promise12.read_case(first)
  turned, affine = phantom.turn(one.image, one.affine, 'RIA')
  label, _ = phantom.turn(one.truth, one.affine, 'RIA')
  again = volumes.make_volume(first, image=turned, affine=affine, label=label, label_affine=affine)
  scans = [survey.measure(v, first, data) for v in (one, again, promise12.read_case(second))]
  assert scans[0].image_digest == scans[1].image_digest != scans[2].image_digest
  assert scans[0].label_digest == scans[1].label_digest != scans[2].label_digest
  assert [scan.orientation for scan in scans] == ['LPS', 'AIR', 'LAS']
  brighter = one.image.copy()
  brighter[0, 0, 0] += 1
  changed = survey.measure(dataclasses.replace(one, image=brighter), first, data)
  assert changed.image_digest != scans[0].image_digest
  assert changed.label_digest == scans[0].label_digest


def test_the_study_of_dicom_files_is_compared_and_never_shown(tmp_path, data):
  phantom_chaos.write(tmp_path / 'raw', patients=2, seed=0)
  data.classes = ('background', 'liver')
  cases = chaos.find_cases(tmp_path / 'raw')
  scans = [survey.measure(chaos.read_case(case), case, data) for case in (*cases, cases[0])]
  studies = [scan.study_digest for scan in scans]
  assert studies[0] == studies[2] != studies[1] and all(studies)
  assert '1.2.826' not in ''.join(studies)


@pytest.mark.parametrize('axis', volumes.SLICE_AXES)
@pytest.mark.parametrize('orientation', ['SPL', 'LIP'])
def test_a_slice_without_a_contour_between_others_is_noted(data, tmp_path, axis, orientation):
  """Slices are those of the series, whichever those of the data set are."""
  label = np.zeros((7, 8, 9), np.uint8)
  label[1:4, 1:4, 1:4], label[[1, 3], 5:7, 1:4] = 1, 2
  affine = phantom.turn(label, np.diag([3.0, 0.5, 0.25, 1])[[2, 1, 0, 3]], orientation)[1]
  headers = write_series(tmp_path / 'ct', label.astype(int), affine, number=1, patient=1)
  path = tmp_path / 'rt.dcm'
  write_rtstruct(path, headers, label, ['big', 'small'])
  case = dataclasses.replace(
    SOURCE, image=(*(tmp_path / 'ct').iterdir(),), label=(path,), segments=('big', 'small')
  )
  data.slice_axis = axis
  drawn = volumes.along(folder.read_case(case), axis)
  assert survey.measure(drawn, case, data).gaps == (False, True)
  assert survey.measure(drawn, SOURCE, data).gaps == ()


@pytest.mark.parametrize('brightest', [1e-7, 1.0, 900.0])
def test_a_scan_that_is_mostly_masked_out_is_not_drawn_dark(volume, data, brightest):
  image = np.zeros((7, 80, 90, 2), np.float32)
  image[3, 40:46, 40:46, 0] = brightest  # 36 voxels of 50,400
  label = np.zeros(image.shape[:3], np.uint8)
  label[3, :4, :4] = 1
  scan = survey.measure(dataclasses.replace(volume, image=image, label=label), SOURCE, data)
  with Image.open(io.BytesIO(base64.b64decode(scan.picture.partition(',')[2]))) as picture:
    shown = np.asarray(picture.convert('L'))
  assert shown[len(shown) // 3 : 2 * len(shown) // 3].max() > 200


def test_a_picture_in_colours_is_shown_in_them_and_measured_in_pixels(data):
  label = np.zeros((1, 40, 60), np.uint8)
  label[0, 10:20, 10:30] = 1
  image = np.full((1, 40, 60, 3), (200, 100, 20), np.float32)
  image[0, 0, 0] = 255
  flat = Volume(image, label, pictures.AFFINE, 'a', 'p')
  data.unit = 'pixels'
  scan = survey.measure(flat, SOURCE, data)
  assert scan.class_size.tolist() == [200, 0, 0]
  content = base64.b64decode(scan.picture.split(',')[1])
  with Image.open(io.BytesIO(content)) as picture:
    shown = np.asarray(picture.convert('RGB')).astype(int)
  assert np.abs(shown[90, 150] - (200, 100, 20)).max() < 8
  data.unit = 'mm'  # three channels of MR are no colours
  content = base64.b64decode(survey.measure(flat, SOURCE, data).picture.split(',')[1])
  with Image.open(io.BytesIO(content)) as picture:
    assert len({*np.asarray(picture.convert('RGB'))[90, 150].tolist()}) == 1


def test_a_file_that_does_not_say_where_its_axes_point_is_noted(volume, data, tmp_path):
  path = tmp_path / 'a.nii'
  path.write_bytes(handmade_nifti.content(**handmade_nifti.NO_FORM))
  case = dataclasses.replace(SOURCE, image=(path,))
  told = survey.measure(volume, case, data).unsure
  assert told.startswith(f'{tmp_path.name}/a.nii: its header') and 'L, A, S' in told
  channel = dataclasses.replace(SOURCE, image=(*SOURCE.image, path))
  mask = dataclasses.replace(SOURCE, label=(path,))
  assert [survey.measure(volume, one, data).unsure for one in (channel, mask)] == [told, told]
  assert survey.measure(volume, SOURCE, data).unsure == ''
