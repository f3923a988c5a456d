"""Scans read back as what was written, whichever way round their files lie."""

from pathlib import Path

import handmade_nifti
import image_settings
import nibabel
import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from data_prep import phantom
from thrifty_jax.errors import InputError
from thrifty_jax.scans import slices, volumes
from thrifty_jax.scans.volumes import Case

ORIENTATIONS = ('SPL', 'IAR', 'SLP', 'PLS', 'RIA')


def case_of(image, *label):
  return Case(case='a', patient='a', image=(image,), label=label)


def scan():
  return phantom.make_scan(patient=0, seed=3)


def write(folder, orientation, *, name='scan.mhd', voxels=None):
  made = scan()
  voxels = made.image if voxels is None else voxels
  path = folder / name
  SimpleITK.WriteImage(phantom.itk_image(voxels, made.affine, orientation), str(path))
  return path


def test_the_affine_of_a_metaimage_agrees_with_simpleitk_at_every_corner(tmp_path):
  path = write(tmp_path, 'PLS')
  image = SimpleITK.ReadImage(str(path))
  voxels, affine = volumes.read_metaimage(path)
  for d, h, w in np.ndindex(2, 2, 2):
    index = [d * (voxels.shape[0] - 1), h * (voxels.shape[1] - 1), w * (voxels.shape[2] - 1)]
    x, y, z = image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]])
    np.testing.assert_allclose((affine @ [*index, 1])[:3], (-x, -y, z), atol=1e-4)
    assert voxels[tuple(index)] == image[tuple(int(i) for i in index[::-1])]


@pytest.mark.parametrize('orientation', ORIENTATIONS)
def test_a_scan_reads_back_the_same_whichever_way_its_file_lies(tmp_path, orientation):
  made = scan()
  image = write(tmp_path, orientation)
  label = write(tmp_path, orientation, name='mask.mhd', voxels=made.label)
  voxels, affine = volumes.read_metaimage(image)
  truth, label_affine = volumes.read_metaimage(label)
  volume = volumes.make_volume(
    case_of(image, label), image=voxels, affine=affine, label=truth, label_affine=label_affine
  )
  np.testing.assert_array_equal(volume.image[..., 0], made.image)
  np.testing.assert_array_equal(volume.label, made.label)
  np.testing.assert_allclose(volume.affine, made.affine, atol=1e-4)
  expected = np.linalg.norm(made.affine[:3, :3], axis=0)
  np.testing.assert_allclose(volume.spacing_mm, expected, rtol=1e-5)
  assert (volume.image.dtype, volume.truth.dtype) == (np.float32, np.uint8)


@pytest.mark.parametrize('orientation', ORIENTATIONS)
def test_nifti_and_metaimage_of_one_scan_are_one_volume(tmp_path, orientation):
  volume = {}
  for name in ('scan.mhd', 'scan.nii.gz'):
    path = write(tmp_path, orientation, name=name)
    read = volumes.read_nifti if name.endswith('.gz') else volumes.read_metaimage
    voxels, affine = read(path)
    volume[name] = volumes.make_volume(case_of(path), image=voxels, affine=affine)
  np.testing.assert_array_equal(volume['scan.mhd'].image, volume['scan.nii.gz'].image)
  np.testing.assert_allclose(volume['scan.mhd'].affine, volume['scan.nii.gz'].affine, atol=1e-4)


def test_the_last_axis_of_a_4d_nifti_is_the_modality(tmp_path):
  voxels = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
  path = tmp_path / 'scan.nii'
  nibabel.save(nibabel.Nifti1Image(voxels, np.diag((-1.0, -1.0, 1.0, 1.0))), path)
  read, affine = volumes.read_nifti(path)
  volume = volumes.make_volume(case_of(path), image=read, affine=affine)
  assert volume.image.shape == (4, 3, 2, 5)
  np.testing.assert_array_equal(volume.image[1, 2, 0], voxels[0, 2, 1])


def test_an_oblique_scan_keeps_its_voxels_and_its_spacing(tmp_path):
  angle = np.deg2rad(20)
  turn = np.eye(4)
  turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
  made = scan()
  volume = volumes.make_volume(
    case_of(tmp_path / 'scan.mhd'), image=made.image, affine=turn @ made.affine
  )
  np.testing.assert_array_equal(volume.image[..., 0], made.image)
  np.testing.assert_allclose(volume.spacing_mm, np.linalg.norm(made.affine[:3, :3], axis=0))


@pytest.mark.parametrize('name', ['scan.mhd', 'scan.nii.gz', 'scan.nrrd'])
@pytest.mark.parametrize('orientation', ORIENTATIONS)
def test_a_header_says_the_grid_that_the_whole_file_has(tmp_path, orientation, name):
  path = write(tmp_path, orientation, name=name)
  voxels, affine = (volumes.read_nifti if volumes.is_nifti(path) else volumes.read_metaimage)(path)
  shape, header_affine = volumes.read_header(path)
  assert shape == voxels.shape
  np.testing.assert_allclose(header_affine, affine, atol=1e-9)


@pytest.mark.parametrize('axis', volumes.SLICE_AXES)
@pytest.mark.parametrize('orientation', ORIENTATIONS)
def test_along_another_axis_every_voxel_stays_where_it_is_in_the_patient(orientation, axis):
  made = scan()
  voxels, affine = phantom.turn(np.stack([made.image, -made.image], -1), made.affine, orientation)
  label, _ = phantom.turn(made.label, made.affine, orientation)
  read = volumes.Volume(voxels, label, affine, 'a', 'a')
  sliced = volumes.along(read, axis)
  assert nibabel.aff2axcodes(sliced.affine) == volumes.SLICE_AXES[axis]
  for index in np.ndindex(2, 2, 2):
    here = np.array(index) * (np.array(sliced.truth.shape) - 1) // 3
    there = np.linalg.solve(read.affine, sliced.affine @ [*here, 1])
    there = tuple(np.round(there[:3]).astype(int))
    np.testing.assert_array_equal(sliced.image[tuple(here)], read.image[there])
    assert sliced.truth[tuple(here)] == read.truth[there]


def test_a_volume_that_lies_as_asked_is_not_copied():
  made = scan()
  volume = volumes.Volume(made.image[..., None], made.label, made.affine, 'a', 'a')
  assert np.shares_memory(volumes.along(volume, 'axial').image, volume.image)


@pytest.mark.parametrize('column', [0, np.nan])
def test_axes_without_a_length_are_refused(tmp_path, column):
  made = scan()
  made.affine[:, 1] = column
  with pytest.raises(InputError, match=r'scan\.mhd: its header gives no valid spacing'):
    volumes.make_volume(case_of(tmp_path / 'scan.mhd'), image=made.image, affine=made.affine)


@pytest.mark.parametrize('read', [volumes.read_metaimage, volumes.read_header])
def test_a_missing_file_is_named(tmp_path, read):
  with pytest.raises(InputError, match=r'gone\.mhd: no such file'):
    read(tmp_path / 'gone.mhd')


@pytest.mark.parametrize('name', ['scan.mhd', 'scan.nii.gz'])
def test_a_damaged_scan_is_named_in_one_line(tmp_path, name):
  path = write(tmp_path, 'SPL', name=name)
  data = tmp_path / 'scan.raw' if name == 'scan.mhd' else path
  data.write_bytes(data.read_bytes()[:500])
  read = volumes.read_nifti if name.endswith('.gz') else volumes.read_metaimage
  reason = 'its voxels, scan.raw, are 500 bytes' if name == 'scan.mhd' else 'cannot be read'
  with pytest.raises(InputError, match=f'{name}: {reason}') as caught:
    read(path)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('at', [0.3, 0.6, 0.99])
def test_a_compressed_scan_with_one_wrong_byte_is_refused(tmp_path, at):
  noise = np.random.default_rng(0).integers(0, 30_000, (6, 20, 20)).astype(np.int16)
  nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), tmp_path / 'scan.nii.gz')
  path = tmp_path / 'scan.nii.gz'
  np.testing.assert_array_equal(
    volumes.read_nifti(path)[0], np.moveaxis(noise, (0, 1, 2), (2, 1, 0))
  )
  content = bytearray(path.read_bytes())
  content[int(at * len(content))] ^= 0x40  # mostly still voxels, but not those that were written
  path.write_bytes(content)
  with pytest.raises(InputError, match=r'scan\.nii\.gz: cannot be read'):
    volumes.read_nifti(path)


@pytest.mark.parametrize('place', ['bytes 40 to 44', 'bytes 42 to 46', 'bytes 70 to 74'])
def test_a_header_that_makes_no_sense_is_refused(tmp_path, place):
  first, last = (int(number) for number in place.split()[1::2])
  nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / 'a.nii')
  content = bytearray((tmp_path / 'a.nii').read_bytes())
  content[first:last] = b'\xff\xfe\xff\x7f'  # of its dimensions and type
  (tmp_path / 'a.nii').write_bytes(content)
  with pytest.raises(InputError, match=r'a\.nii: (its header has dim|has voxels of the type)'):
    volumes.read_nifti(tmp_path / 'a.nii')


def test_a_mask_that_lies_elsewhere_is_refused_and_one_half_a_voxel_away_is_not(tmp_path):
  made = scan()
  case = case_of(tmp_path / 'scan.mhd', tmp_path / 'mask.mhd')
  pixel_mm = np.linalg.norm(made.affine[:3, :3], axis=0).min()

  def read(shift_mm):
    affine = made.affine.copy()
    affine[0, 3] += shift_mm
    return volumes.make_volume(
      case, image=made.image, affine=made.affine, label=made.label, label_affine=affine
    )

  assert read(0.4 * pixel_mm).truth.any()
  with pytest.raises(InputError, match='away from scan'):
    read(0.6 * pixel_mm)
  with pytest.raises(InputError, match=r'mask\.mhd: lies up to 5 mm away from scan\.mhd'):
    read(5)


def test_a_mask_of_another_shape_is_refused(tmp_path):
  made = scan()
  with pytest.raises(InputError, match=r'mask\.mhd: has \(7, 40, 48\) voxels'):
    volumes.make_volume(
      case_of(tmp_path / 'scan.mhd', tmp_path / 'mask.mhd'),
      image=made.image,
      affine=made.affine,
      label=made.label[1:],
    )


def test_a_mask_whose_header_alone_lies_the_other_way_is_refused(tmp_path):
  made = scan()
  flipped = made.affine @ np.diag((-1.0, 1.0, 1.0, 1.0))
  with pytest.raises(InputError, match=r'mask\.mhd: lies up to 18\.4 mm away from scan\.mhd'):
    volumes.make_volume(
      case_of(tmp_path / 'scan.mhd', tmp_path / 'mask.mhd'),
      image=made.image,
      affine=made.affine,
      label=made.label,
      label_affine=flipped,
    )


@pytest.mark.parametrize('orientation', ['SPL', 'IAR', 'SLP', 'PLS', 'RIA', 'ALS'])
@pytest.mark.parametrize('of_mask', ['LPS', 'SPR'])
def test_a_mask_stored_in_another_order_of_axes_is_turned_as_its_scan(orientation, of_mask):
  made = scan()
  image, affine = phantom.turn(made.image, made.affine, orientation)
  label, label_affine = phantom.turn(made.label, made.affine, of_mask)
  volume = volumes.make_volume(
    case_of(Path('scan'), Path('mask')),
    image=image,
    affine=affine,
    label=label,
    label_affine=label_affine,
  )
  np.testing.assert_array_equal(volume.truth, made.label)
  np.testing.assert_array_equal(volume.image[..., 0], made.image)


@pytest.mark.parametrize('degrees', [44.99, 45.0, 45.01])
@pytest.mark.parametrize('off', [-0.02, -0.001, 0.001, 0.02])
@pytest.mark.parametrize('axis', ['x', 'z'])
def test_a_mask_beside_a_scan_at_45_degrees_may_differ_by_rounding(degrees, off, axis):
  made = scan()
  turn, its_turn = (np.eye(4) for _ in range(2))
  turn[:3, :3], its_turn[:3, :3] = (
    Rotation.from_euler(axis, one, degrees=True).as_matrix() for one in (degrees, degrees + off)
  )
  volume = volumes.make_volume(
    case_of(Path('scan.nii'), Path('mask.nii')),
    image=made.image,
    affine=turn @ made.affine,
    label=made.label,
    label_affine=its_turn @ made.affine,
  )
  steps = np.linalg.solve(volume.affine, turn @ made.affine)[:3, :3]
  axes = np.abs(steps).argmax(axis=0)
  turned = nibabel.apply_orientation(
    made.label, np.stack([axes, np.sign(steps[axes, range(3)])], axis=1)
  )
  np.testing.assert_array_equal(volume.truth, turned)


@pytest.mark.parametrize(
  'label',
  [
    np.array([0, 255, 510]) * float(np.float32(1 / 255)),
    np.array([0, 0.9995, 2.0005], np.float32),
    np.array([1e-12, 1 - 1e-9, 2 + 1e-9]),
    np.array([-0.0009, 1.0009, 1.9991], np.float32),
    np.array([-0.0, 1, 2], np.float32),
  ],
)
def test_class_numbers_may_be_off_by_the_rounding_of_a_scaling(label):
  image = np.arange(3.0).reshape(1, 1, 3)
  volume = volumes.make_volume(
    case_of(Path('scan.nii'), Path('mask.nii')),
    image=image,
    affine=np.diag((1.0, -1.0, -1.0, 1.0))[[2, 1, 0, 3]],
    label=label.reshape(1, 1, 3),
  )
  assert volume.truth.ravel().tolist() == [0, 1, 2]


@pytest.mark.parametrize('value', [0.5, 0.9985, 1.002, -1, -0.002, 255.9995, 256, np.nan, np.inf])
def test_a_mask_with_values_that_are_no_classes_is_refused(tmp_path, value):
  made = scan()
  label = made.label.astype(np.float64)
  label[0, 0, 0] = value
  with pytest.raises(InputError, match=r'mask\.mhd: the mask holds values'):
    volumes.make_volume(
      case_of(tmp_path / 'scan.mhd', tmp_path / 'mask.mhd'),
      image=made.image,
      affine=made.affine,
      label=label,
    )


def test_a_two_dimensional_picture_is_no_scan(tmp_path):
  SimpleITK.WriteImage(SimpleITK.Image([4, 4], SimpleITK.sitkInt16), str(tmp_path / 'flat.mhd'))
  with pytest.raises(InputError, match='has 2 dimensions'):
    volumes.read_metaimage(tmp_path / 'flat.mhd')
  with pytest.raises(InputError, match=r'flat\.mhd: has \(0, 4, 4\) voxels'):
    volumes.read_header(tmp_path / 'flat.mhd')


TOWARDS = {'R': (0, 1), 'L': (0, -1), 'A': (1, 1), 'P': (1, -1), 'S': (2, 1), 'I': (2, -1)}


@pytest.mark.parametrize('axis', [*volumes.SLICE_AXES])
@pytest.mark.parametrize('orientation', ['RAS', 'LPI', 'PSR', 'IRA'])
def test_the_letters_at_the_borders_of_a_slice_are_sides_of_the_patient(
  tmp_path, orientation, axis
):
  borders = [(0, -1), (1, 1), (0, 1), (1, -1)]  # upper, right, lower, left: axis and way
  for letter, (border, way) in zip(volumes.list_sides(axis), borders, strict=True):
    along, sign = TOWARDS[letter]  # in the world of NIfTI
    voxels = np.zeros((16, 16, 16), np.float32)
    voxels[(slice(None),) * along + (slice(-4, None) if sign > 0 else slice(4),)] = 1
    image = nibabel.Nifti1Image(voxels, np.eye(4))
    turn = nibabel.orientations.axcodes2ornt(orientation)
    nibabel.save(image.as_reoriented(turn), tmp_path / 'scan.nii')
    voxels, affine = volumes.read_nifti(tmp_path / 'scan.nii')
    volume = volumes.make_volume(case_of(tmp_path / 'scan.nii'), image=voxels, affine=affine)
    settings = image_settings.make_window(0, 1, slice_axis=axis)
    turned = volumes.along(volume, axis)
    assert volumes.find_sides(turned.affine) == volumes.list_sides(axis)
    drawn = slices.image_to_slices(turned, settings)[..., 0]
    profile = drawn.mean(axis=0).mean(axis=1 - border)
    assert profile[::way][-4:].min() == 1 and profile[::way][:-4].max() == 0, letter


def without_form(path):
  path.write_bytes(handmade_nifti.content(**handmade_nifti.NO_FORM))


def without_matrix(path):
  SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones((2, 3, 4), np.uint8)), str(path))
  lines = path.read_bytes().split(b'\n')
  path.write_bytes(b'\n'.join(line for line in lines if not line.startswith(b'TransformMatrix')))


def without_directions(path):
  fields = ('type: uchar', 'dimension: 3', 'sizes: 4 3 2', 'spacings: 1 2 3', 'encoding: raw')
  path.write_bytes('\n'.join(['NRRD0004', *fields, '', '']).encode() + bytes(24))


UNSURE = {'a.nii': without_form, 'a.mha': without_matrix, 'a.nrrd': without_directions}


@pytest.mark.parametrize('name', UNSURE)
def test_a_header_that_does_not_say_where_its_axes_point_is_told_as_it_is_taken(tmp_path, name):
  path = tmp_path / name
  UNSURE[name](path)
  _, affine = volumes.read_nifti(path) if name == 'a.nii' else volumes.read_metaimage(path)
  taken = ', '.join(map(str, nibabel.aff2axcodes(affine[:, [2, 1, 0, 3]])))
  assert f'x, y, z are taken to point to {taken}: check' in volumes.find_unsure(path)
  image = phantom.itk_image(np.ones((2, 3, 4), np.int16), np.eye(4), 'SPL')
  SimpleITK.WriteImage(image, str(path))
  assert volumes.find_unsure(path) == ''
