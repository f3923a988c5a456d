"""Training reads files with more axes of length 1, and refuses voxels that are no numbers."""

import nibabel
import numpy as np
import pytest
import SimpleITK

from data_prep import fingerprint, folder
from thrifty_jax.errors import InputError
from thrifty_jax.scans.volumes import Case

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(-900, 3000, (6, 5, 4)).astype(np.int16)  # [x, y, z]
LABEL = RANDOM.integers(0, 3, (6, 5, 4)).astype(np.uint8)
AFFINE = np.array([[-2, 0, 0, 7], [0, -3, 0, 8], [0, 0, 4, 9], [0, 0, 0, 1.0]])


def write(path, voxels, more=0):
  """Voxels [x, y, z], with so many axes of length 1 behind them."""
  if path.name.endswith('.nii.gz'):
    axes = voxels.shape + (1,) * more
    nibabel.save(nibabel.Nifti1Image(voxels.reshape(axes), AFFINE), path)
    return path
  image = SimpleITK.GetImageFromArray(voxels.transpose())
  image.SetSpacing((2, 3, 4))
  image.SetOrigin((-7, -8, 9))
  for _ in range(more):
    image = SimpleITK.JoinSeries([image])
  SimpleITK.WriteImage(image, str(path))
  return path


def read(folder_, ending='.nii.gz', *, of_image=0, of_label=0):
  image = write(folder_ / f'image{ending}', IMAGE, of_image)
  label = write(folder_ / f'label{ending}', LABEL, of_label)
  case = Case('a', 'a', (image,), (label,))
  return folder.read_case(case), folder.read_classes(case)


@pytest.mark.parametrize(
  ('ending', 'of_image', 'of_label'),
  [
    ('.nii.gz', 0, 1),
    ('.nii.gz', 1, 0),
    ('.nii.gz', 1, 2),
    ('.nii.gz', 2, 4),
    ('.nii.gz', 4, 3),
    ('.mhd', 1, 0),
    ('.mha', 0, 1),
    ('.mha', 1, 1),
    ('.nrrd', 0, 1),
    ('.nrrd', 1, 1),
  ],
)
def test_trailing_axes_of_length_1_are_none(tmp_path, ending, of_image, of_label):
  volume, classes = read(tmp_path, ending, of_image=of_image, of_label=of_label)
  np.testing.assert_array_equal(volume.image[..., 0], IMAGE.transpose())
  np.testing.assert_array_equal(volume.truth, LABEL.transpose())
  np.testing.assert_allclose(volume.affine, AFFINE[:, [2, 1, 0, 3]])
  assert classes == [1, 2]


def several(path, voxels, kind):
  """A file of more than one number a voxel."""
  if path.name.endswith('.nii.gz'):
    kinds = {'RGB': [(one, 'u1') for one in 'RGB'], 'RGBA': [(one, 'u1') for one in 'RGBA']}
    made = voxels if kind in ('two', 'five axes') else np.zeros(voxels.shape, kinds.get(kind, kind))
    if kind == 'two':
      made = np.stack([voxels] * 2, axis=-1)
    if kind == 'five axes':
      made = np.stack([voxels[..., None]] * 2, axis=-1)
    nibabel.save(nibabel.Nifti1Image(made, AFFINE), path)
    return
  plain = SimpleITK.GetImageFromArray(voxels.transpose())
  complex_ = SimpleITK.GetImageFromArray(voxels.transpose().astype(np.complex64))
  image = (
    complex_ if kind == 'complex64' else SimpleITK.Compose([plain] * (3 if kind == 'RGB' else 2))
  )
  image.SetSpacing((2, 3, 4))
  image.SetOrigin((-7, -8, 9))
  SimpleITK.WriteImage(image, str(path))


NO_NUMBERS = [
  *(('.nii.gz', kind) for kind in ('complex64', 'complex128', 'RGB', 'RGBA', 'five axes')),
  *((ending, kind) for ending in ('.mha', '.nrrd') for kind in ('complex64', 'RGB', 'two')),
]


@pytest.mark.parametrize('what', ['image', 'label'])
@pytest.mark.parametrize(('ending', 'kind'), NO_NUMBERS)
def test_voxels_that_are_no_numbers_are_one_line_with_their_file(tmp_path, ending, kind, what):
  read(tmp_path, ending)
  several(tmp_path / f'{what}{ending}', IMAGE if what == 'image' else LABEL, kind)
  case = Case('a', 'a', (tmp_path / f'image{ending}',), (tmp_path / f'label{ending}',))
  with pytest.raises(InputError, match=rf'{what}\{ending}: has .*Convert the file') as caught:
    folder.read_case(case)
  assert '\n' not in str(caught.value)
  if what == 'label':
    with pytest.raises(InputError, match=rf'label\{ending}: has '):
      folder.read_classes(case)


def test_a_mask_of_two_axes_more_is_told_to_be_one_class_a_voxel(tmp_path):
  read(tmp_path)
  several(tmp_path / 'label.nii.gz', LABEL, 'two')
  case = Case('a', 'a', (tmp_path / 'image.nii.gz',), (tmp_path / 'label.nii.gz',))
  with pytest.raises(InputError, match='has 4 axes, .*of masks its class. Convert the file'):
    folder.read_case(case)


@pytest.mark.parametrize(('ending', 'kind'), NO_NUMBERS[:5])
@pytest.mark.parametrize('what', ['image', 'label'])
def test_a_window_is_learned_without_them(tmp_path, ending, kind, what):
  """The check lists them; learning the window of CT, before it, shows no traceback."""
  cases = []
  for name in ('good', 'bad'):
    (tmp_path / name).mkdir()
    read(tmp_path / name, ending)
    paths = [tmp_path / name / f'{part}{ending}' for part in ('image', 'label')]
    cases.append(Case(name, name, (paths[0],), (paths[1],)))
  wanted = fingerprint.foreground_window(cases[:1], folder.read_case)
  several(tmp_path / 'bad' / f'{what}{ending}', IMAGE if what == 'image' else LABEL, kind)
  assert fingerprint.foreground_window(cases, folder.read_case) == wanted
