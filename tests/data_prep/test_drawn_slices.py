"""The plane of the slices in which masks were drawn, told from the masks alone."""

import nibabel
import numpy as np
import pytest

from data_prep import data_sets, drawn_slices, folder
from thrifty_jax import config as configs
from thrifty_jax import labels
from thrifty_jax.errors import InputError
from thrifty_jax.scans.volumes import SLICE_AXES, Case

CASES = [Case(f'p{number}', f'p{number}', image=()) for number in range(30)]
RAS = {'S': (0, 0, 1), 'I': (0, 0, -1), 'P': (0, -1, 0), 'L': (-1, 0, 0)}


def ball(jitter, seed=0, side=32):
  """A ball of two classes, whose slices along the first axis are shifted at random by a person."""
  shift = np.random.default_rng(seed).uniform(-jitter, jitter, (side, 1, 1, 2))
  first, second, third = np.mgrid[:side, :side, :side] - (side - 1) / 2
  second, third = second + shift[..., 0], third + shift[..., 1]
  inside = first**2 + second**2 + third**2 < (0.4 * side) ** 2
  return (inside * (1 + (second > 3))).astype(np.uint8)


def affine_of(axis, spacing_mm=1.0):
  """The first axis of voxels is that of slices along an axis of SLICE_AXES, as they are turned."""
  affine = np.eye(4)
  affine[:3, :3] = np.transpose([RAS[to] for to in SLICE_AXES[axis]]) * spacing_mm
  return affine


@pytest.mark.parametrize('axis', SLICE_AXES)
@pytest.mark.parametrize('stored', [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_slices_that_were_drawn_one_by_one_are_found_however_the_file_lies(axis, stored):
  def read(case):
    affine = affine_of(axis)
    affine[:, :3] = affine[:, stored]
    return ball(1.5, int(case.case[1:])).transpose(stored), affine

  assert drawn_slices.find_axis(CASES, read) == axis


@pytest.mark.parametrize(
  'label', [ball(0.0), np.zeros((9, 9, 9), np.uint8)], ids=['smooth', 'none']
)
def test_masks_that_are_smooth_in_every_direction_tell_no_plane(label):
  assert drawn_slices.find_axis(CASES, lambda case: (label, affine_of('coronal'))) is None
  assert drawn_slices.find_axis([], lambda case: (label, np.eye(4))) is None


def test_masks_as_rough_in_every_direction_tell_no_plane():
  noise = np.random.default_rng(0).integers(0, 2, (20, 20, 20))
  assert drawn_slices.find_axis(CASES, lambda case: (noise, np.eye(4))) is None


def test_slices_that_nobody_labelled_are_no_changes():
  label = ball(0.0)
  sparse = label.copy()
  sparse[::2] = labels.IGNORED
  counts = drawn_slices.count_changes(sparse, affine_of('axial'))
  assert counts[:, 0].tolist() == [0, 0]
  full = drawn_slices.count_changes(label, affine_of('axial'))
  assert 0 < counts[0, 1] < full[0, 1]


def test_changes_are_counted_along_each_axis():
  label = np.zeros((5, 6, 7), int)
  label[2, 1:5, 3:5] = 1  # a slice of 4 x 2 voxels, alone
  changes, back = drawn_slices.count_changes(label, affine_of('sagittal'))
  # Of a file that lies in sagittal slices the first axis is left, the second feet, the third back.
  assert changes.tolist() == [4, 8, 16]
  assert back.tolist() == [0, 0, 8]


def test_a_mask_that_cannot_be_read_is_left_to_the_check():
  def read(case):
    if case.case == 'p0':
      raise InputError('damaged')
    return ball(1.5), affine_of('sagittal')

  assert drawn_slices.find_axis(CASES, read) == 'sagittal'


@pytest.mark.parametrize(
  ('jitter', 'thick', 'axis', 'told'),
  [
    (1.5, 1.0, 'coronal', 'masks look as if drawn in such slices'),
    (0.0, 1.0, 'axial', 'masks do not tell a plane'),
    (0.0, 3.0, 'coronal', None),  # the headers tell
  ],
)
def test_a_folder_of_cubic_voxels_gets_the_plane_of_its_training_masks(
  tmp_path, jitter, thick, axis, told
):
  affine = affine_of('coronal')
  affine[:3, 0] *= thick
  for name in ('images', 'masks'):
    (tmp_path / name).mkdir()
  for number in range(4):
    label = ball(jitter, number)
    if number == 3:  # does not train
      label = label.swapaxes(0, 1)
    for name, voxels in (('images', label + np.float32(0.5)), ('masks', label)):
      nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / name / f'p{number}.nii.gz')
  config = configs.default()
  config.data.name = 'folder'
  configs.leave_to_data(config)
  config.data.images, config.data.masks = str(tmp_path / 'images'), str(tmp_path / 'masks')
  config.data.classes = ('background', 'one', 'two')
  found = dict(folder.resolve(config, data_sets.find(config), ('p0', 'p1', 'p2')))
  assert config.data.slice_axis == axis
  assert found.get('plane') == (told and f'{axis}: voxels are nearly cubes, and {told}')
