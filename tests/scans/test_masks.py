"""Masks in files: exactly the grid of the scan, and nothing else of it."""

import gzip
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from data_prep import phantom
from thrifty_jax.errors import InputError
from thrifty_jax.scans import masks, pictures, sources, volumes

SECRET = 'Doe^Jane'


def turned_by(degrees, axis=(1, 2, 3)):
  """A rotation of the world, [4, 4]."""
  x, y, z = np.asarray(axis) / np.linalg.norm(axis)
  angle = np.radians(degrees)
  cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
  rotation = np.eye(4)
  rotation[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
  return rotation


def load(path) -> Any:
  return nibabel.load(path)


def scan_of(path):
  return sources.read(sources.find(path, channels=1)[0])


def random_mask(shape):
  return np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)


def write_back(folder, volume, grid, ending):
  """A mask of random classes in a file; and its path."""
  mask = random_mask(volume.image.shape[:3])
  path = folder / f'mask{ending}'
  path.write_bytes(masks.to_bytes(mask, grid, ending=ending))
  return mask, path


@pytest.mark.parametrize('ending', masks.ENDINGS)
@pytest.mark.parametrize(('orientation', 'degrees'), [('SPL', 0), ('LIP', 20), ('AIR', 44.9)])
@pytest.mark.parametrize('source', ['.nii.gz', '.mha', '.nrrd'])
def test_a_mask_lies_on_the_grid_of_its_scan_for_two_libraries(
  tmp_path, source, orientation, degrees, ending
):
  made = phantom.make_scan(patient=0, seed=0)
  image = phantom.itk_image(made.image, turned_by(degrees) @ made.affine, orientation)
  SimpleITK.WriteImage(image, str(tmp_path / f'scan{source}'))
  image = SimpleITK.ReadImage(str(tmp_path / f'scan{source}'))
  mask, path = write_back(tmp_path, *scan_of(tmp_path / f'scan{source}'), ending)
  found = SimpleITK.ReadImage(str(path))
  np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(found), mask)
  assert found.GetPixelID() == SimpleITK.sitkUInt8
  for name, tolerance in (('Spacing', 1e-6), ('Direction', 1e-6), ('Origin', 1e-4)):
    ours, theirs = getattr(found, f'Get{name}')(), getattr(image, f'Get{name}')()
    np.testing.assert_allclose(ours, theirs, atol=tolerance)
    if source == ending:  # NRRD has spacing and direction in one: a bit is lost on the way
      np.testing.assert_allclose(ours, theirs, rtol=1e-14, atol=1e-14)
  if '.nii' in source and '.nii' in ending:
    ours, theirs = load(path), load(tmp_path / f'scan{source}')
    np.testing.assert_array_equal(ours.affine, theirs.affine)


@pytest.mark.parametrize('kind', [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize(('sform', 'qform'), [(0, 0), (0, 1), (4, 1), (2, 0), (3, 3)])
def test_the_codes_and_both_transforms_of_nifti_are_kept(tmp_path, kind, sform, qform):
  affine = turned_by(30) @ np.diag((0.7, 0.8, 3.0, 1))
  image = kind(np.random.default_rng(0).normal(size=(4, 5, 6)), None)
  image.header.set_sform(affine, sform)
  image.header.set_qform(turned_by(2) @ affine, qform)
  image.header.set_xyzt_units('mm', 'sec')
  image.header['descrip'], image.header['aux_file'] = SECRET.encode(), SECRET.encode()
  image.header['intent_name'] = SECRET[:8].encode()
  image.header.extensions.append(nibabel.nifti1.Nifti1Extension('comment', SECRET.encode()))
  nibabel.save(image, tmp_path / 'scan.nii.gz')
  theirs = load(tmp_path / 'scan.nii.gz')
  mask, path = write_back(tmp_path, *scan_of(tmp_path / 'scan.nii.gz'), '.nii.gz')
  ours = load(path)
  assert type(ours) is kind
  np.testing.assert_array_equal(np.asarray(ours.dataobj), mask.transpose())
  np.testing.assert_array_equal(ours.affine, theirs.affine)
  for name in ('sform_code', 'qform_code', 'xyzt_units'):
    assert ours.header[name] == theirs.header[name]
  for get in ('get_sform', 'get_qform'):
    np.testing.assert_array_equal(getattr(ours.header, get)(), getattr(theirs.header, get)())
  content = gzip.decompress(path.read_bytes())
  for secret in (b'Doe', b'Jane'):
    assert secret not in content
  assert ours.header['descrip'].item() == b'Research use only, not a medical device.'


def test_a_file_of_a_channel_axis_gives_a_mask_of_three_axes(tmp_path):
  image = nibabel.Nifti1Image(np.ones((4, 5, 6, 2), np.int16), np.diag((2, 2, 3, 1)))
  nibabel.save(image, tmp_path / 'scan.nii.gz')
  volume, grid = sources.read(sources.find(tmp_path, channels=2)[0])
  _, path = write_back(tmp_path, volume, grid, '.nii.gz')
  assert load(path).shape == (4, 5, 6)
  assert SimpleITK.ReadImage(str(path)).GetSize() == (4, 5, 6)


@pytest.mark.parametrize('source', ['.mha', '.nrrd'])
@pytest.mark.parametrize('ending', masks.ENDINGS)
def test_a_fourth_axis_of_length_1_is_none_of_the_mask(tmp_path, source, ending):
  made = phantom.make_scan(patient=0, seed=0)
  image = phantom.itk_image(made.image, made.affine, 'IAR')
  SimpleITK.WriteImage(SimpleITK.JoinSeries([image]), str(tmp_path / f'scan{source}'))
  mask, path = write_back(tmp_path, *scan_of(tmp_path / f'scan{source}'), ending)
  found = SimpleITK.ReadImage(str(path))
  np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(found), mask)
  for name in ('Spacing', 'Direction', 'Origin'):
    ours, theirs = getattr(found, f'Get{name}')(), getattr(image, f'Get{name}')()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_same_mask_is_the_same_file(tmp_path):
  grid = sources.Grid(np.diag((3.0, 1.0, 1.0, 1.0)))
  for ending in masks.ENDINGS:
    first, second = (masks.to_bytes(random_mask((3, 4, 5)), grid, ending=ending) for _ in range(2))
    assert first == second


def test_slices_that_lean_are_kept_in_nifti_and_refused_elsewhere(tmp_path):
  affine = np.diag((3.0, 1.0, 1.0, 1.0))[:, [2, 1, 0, 3]]
  affine[1, 0] = 0.01  # each slice lies further back than the one before, by half a degree
  path = tmp_path / 'mask.nii.gz'
  path.write_bytes(masks.to_bytes(random_mask((3, 4, 5)), sources.Grid(affine), ending='.nii.gz'))
  np.testing.assert_allclose(volumes.read_nifti(path)[1], affine)
  for ending in ('.mha', '.nrrd'):
    with pytest.raises(InputError, match='sheared.*--format=nifti'):
      masks.to_bytes(random_mask((3, 4, 5)), sources.Grid(affine), ending=ending)


@pytest.mark.parametrize(
  'colours', [(), ('#000000', '#ff0000', '#ffffff'), ('#101010', '#808080', '#ffffff')]
)
def test_the_mask_of_a_picture_is_read_back_by_number_or_by_colour(tmp_path, colours):
  mask, grid = random_mask((1, 30, 40)), sources.Grid(pictures.AFFINE)
  for ending in masks.PICTURES:
    path = tmp_path / f'mask{ending}'
    path.write_bytes(masks.to_bytes(mask, grid, ending=ending, colours=colours))
    legend = pictures.Legend(colours if ending == '.png' else (), classes=3)
    np.testing.assert_array_equal(pictures.read_mask(path, legend), mask)
    with Image.open(path) as picture:
      np.testing.assert_array_equal(np.asarray(picture), mask[0])  # indices are class numbers
      assert picture.mode == ('P' if ending == '.png' else 'L')


def test_every_class_of_a_picture_has_a_colour_of_its_own(tmp_path):
  mask = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
  path = tmp_path / 'mask.png'
  path.write_bytes(masks.to_bytes(mask, sources.Grid(pictures.AFFINE), ending='.png'))
  with Image.open(path) as picture:
    assert len(np.unique(np.asarray(picture.convert('RGB')).reshape(-1, 3), axis=0)) > 250
    assert picture.info['Description'] == 'Research use only, not a medical device.'
  np.testing.assert_array_equal(pictures.read_mask(path, pictures.Legend()), mask)


def test_probabilities_of_a_picture_are_float32(tmp_path):
  share = np.random.default_rng(0).random((1, 5, 6)).astype(np.float32)
  path = tmp_path / 'share.tif'
  path.write_bytes(masks.to_bytes(share, sources.Grid(pictures.AFFINE), ending='.tif'))
  np.testing.assert_array_equal(pictures.read(path), share)
