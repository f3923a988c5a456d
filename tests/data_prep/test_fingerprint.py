"""What is chosen from the scans' grids, and from the training patients' intensities."""

import numpy as np
import pytest
from recorded import OPEN

from data_prep import fingerprint, folder, phantom_folders
from data_prep.fingerprint import Grids
from thrifty_jax.errors import InputError
from thrifty_jax.scans.volumes import Case, Volume


def grids(shape=(30, 200, 180), spacing_mm=(3.0, 1.0, 1.0), scans=1):
  return Grids(np.asarray([shape] * scans), np.asarray([spacing_mm] * scans))


@pytest.mark.parametrize(
  ('spacing_mm', 'axis'),
  [
    ((3, 1, 1), 'axial'),
    ((1, 3, 1), 'coronal'),
    ((1, 1, 3), 'sagittal'),
    ((1, 1, 1), 'axial'),
    ((1, 1, 1.4), 'axial'),  # nearly a cube
    ((1, 1, 1.5), 'axial'),  # the most that is nearly one
    ((1, 1, 1.6), 'sagittal'),
    ((0.5, 3, 3), 'axial'),  # two thick axes: neither is the axis of slices
  ],
)
def test_slices_follow_the_axis_of_the_thickest_spacing_else_they_are_axial(spacing_mm, axis):
  assert fingerprint.slice_axis(grids(spacing_mm=spacing_mm)) == axis


def test_voxels_are_cubes_up_to_half_as_long_again_as_wide():
  assert fingerprint.are_cubes(grids(spacing_mm=(1, 1, 1.5)))
  assert not fingerprint.are_cubes(grids(spacing_mm=(1, 1, 1.6)))


def test_one_odd_scan_does_not_turn_all_the_others():
  many = Grids(np.ones((5, 3), int), np.array([[1, 1, 4]] * 4 + [[99, 1, 1]], float))
  assert fingerprint.slice_axis(many) == 'sagittal'


@pytest.mark.parametrize(
  ('shape', 'axis', 'size'),
  [
    ((36, 50, 35), 'axial', 64),
    ((36, 50, 35), 'sagittal', 64),
    ((70, 50, 35), 'axial', 64),
    ((70, 50, 35), 'coronal', 96),
    ((5, 64, 64), 'axial', 64),
    ((5, 65, 10), 'axial', 96),
    ((5, 512, 512), 'axial', 256),
    ((5, 9, 9), 'axial', 32),
  ],
)
def test_a_slice_is_as_large_as_the_scans_are_in_multiples_of_32_up_to_the_limit(shape, axis, size):
  assert fingerprint.image_size(grids(shape), axis=axis, largest=256) == size


def test_the_size_is_that_of_the_median_scan():
  many = Grids(np.array([[9, 60, 50], [9, 40, 70], [9, 300, 300]]), np.ones((3, 3)))
  assert fingerprint.image_size(many, axis='axial', largest=512) == 96


@pytest.mark.parametrize('axis', ['axial', 'coronal', 'sagittal'])
def test_grids_are_those_of_the_scans_whichever_way_their_files_lie(tmp_path, axis):
  phantom_folders.write_decathlon(tmp_path / 'raw', patients=6, seed=0, slice_axis=axis)
  cases = folder.find_cases(tmp_path / 'raw', OPEN)
  found = fingerprint.read_grids(cases)
  for case, shape, spacing_mm in zip(cases, found.shape, found.spacing_mm, strict=True):
    volume = folder.read_case(case)
    np.testing.assert_array_equal(shape, volume.truth.shape)
    np.testing.assert_allclose(spacing_mm, volume.spacing_mm, rtol=1e-5)
  assert fingerprint.slice_axis(found) == axis


# --- the window

CASES = [Case(name, name, (), ()) for name in 'abc']


def scan_of(values, foreground):
  """A scan of one row of voxels, the first of which are foreground."""
  image = np.asarray(values, np.float32).reshape(1, 1, -1, 1)
  label = (np.arange(image.size) < foreground).astype(np.uint8).reshape(1, 1, -1)
  return Volume(image, label, np.eye(4), 'a', 'a')


def test_the_window_is_that_of_the_foreground_rounded_outward():
  random = np.random.default_rng(0)
  tissue = {name: random.normal(60, 20, 4000) for name in 'abc'}
  air = np.full(9000, -1000.0)
  window = fingerprint.foreground_window(
    CASES, lambda case: scan_of(np.concatenate([tissue[case.case], air]), 4000)
  )
  low, high = np.percentile(np.concatenate(list(tissue.values())), (0.5, 99.5))
  assert -50 < low < 50 and 100 < high < 150  # else the next line would test less
  assert window == ((0, 150) if low > 0 else (-50, 150))


def test_scans_weigh_the_same_however_much_foreground_they_show():
  sizes = {'a': 100_000, 'b': 300, 'c': 300}
  levels = {'a': 20.0, 'b': 1020.0, 'c': 2020.0}
  window = fingerprint.foreground_window(
    CASES, lambda case: scan_of(np.full(sizes[case.case], levels[case.case]), sizes[case.case])
  )
  assert window == (0, 2050)  # by voxels, b and c were 0.6 percent: 1050


def test_a_constant_foreground_on_a_multiple_still_gives_a_window():
  assert fingerprint.foreground_window(CASES, lambda case: scan_of([100.0] * 9, 9)) == (100, 150)


def test_voxels_that_are_not_finite_are_left_to_the_check():
  values = [120.0] * 9 + [np.nan, np.inf]
  assert fingerprint.foreground_window(CASES, lambda case: scan_of(values, 11)) == (100, 150)


def test_several_processes_learn_the_same_window(tmp_path):
  phantom_folders.write_nnunet(tmp_path / 'raw', patients=4, seed=0, channels=('CT',))
  cases = folder.find_cases(tmp_path / 'raw', OPEN)
  one, two = (
    fingerprint.foreground_window(cases, folder.read_case, processes=count) for count in (1, 2)
  )
  assert one == two and one[0] < one[1]


def test_masks_without_foreground_have_no_window(tmp_path):
  cases = [Case('a', 'a', (), (tmp_path / 'labelsTr' / 'a.nii',))]
  with pytest.raises(InputError, match=r'no mask of a training patient.*--config\.data\.window'):
    fingerprint.foreground_window(cases, lambda case: scan_of([1.0, 2.0], 0))
