"""A label goes to slices and back to the file it came from, voxel for voxel, however that lies.

The way back is ITK's: the slices become an image by their affine alone, and ITK looks up each voxel
of the original by its position in the patient.
"""

import dataclasses

import image_settings
import nibabel
import numpy as np
import phantom_chaos
import pytest
import SimpleITK

from data_prep import chaos, chaos_t1, phantom, promise12
from thrifty_jax.scans import masks, slices, sources, volumes
from thrifty_jax.scans.volumes import Case

# Axial, upside down, mirrored, coronal and sagittal slices one after the other, transposed.
ORIENTATIONS = ('SPL', 'IPL', 'SAR', 'IAR', 'PIL', 'LIP', 'RSA', 'SLP')
TILTS = (0.0, 13.0, -31.0)  # degrees
SETTINGS = image_settings.make(image_size=1, percentiles=(0.0, 100.0))


def itk_of(label, affine):
  """[D, H, W] at an affine to RAS, as ITK has it; nothing of the reader's is used."""
  axes = np.diag((-1.0, -1.0, 1.0)) @ affine[:3, :3]
  spacing = np.linalg.norm(axes, axis=0)
  image = SimpleITK.GetImageFromArray(label)
  image.SetSpacing(spacing[::-1].tolist())
  image.SetDirection((axes / spacing)[:, ::-1].ravel().tolist())
  image.SetOrigin((np.diag((-1.0, -1.0, 1.0)) @ affine[:3, 3]).tolist())
  return image


def on_the_grid_of(original, label, affine):
  """The label on the voxels of another image, by position; 255 where it has none."""
  nearest, background = SimpleITK.sitkNearestNeighbor, 255.0
  moved = SimpleITK.Resample(
    itk_of(label, affine), original, SimpleITK.Transform(), nearest, background
  )
  return SimpleITK.GetArrayFromImage(moved)


def through_slices(volume):
  """The truth as square slices of the full size, scored by a network that is always right."""
  side = max(volume.truth.shape[1:])
  _, label = slices.to_slices(volume, dataclasses.replace(SETTINGS, image_size=side))
  scores = np.eye(5, dtype=np.float32)[label]
  return slices.to_native(scores, volume.truth.shape[1:]).argmax(axis=-1).astype(np.uint8)


def assert_every_voxel_is_where_it_was_made(volume, image, label, placed):
  """Whatever way round the volume lies; image and label are [D, H, W] at the affine `placed`.

  Args:
    volume: Read.
    image: As it was made, or None.
    label: As it was made.
    placed: From its (d, h, w) to RAS millimetres.
  """
  there = np.indices(volume.truth.shape).reshape(3, -1)
  at = (np.linalg.inv(placed) @ volume.affine @ np.vstack([there, np.ones(there.shape[1])]))[:3]
  index = np.rint(at).astype(int)
  off_mm = np.linalg.norm(placed[:3, :3] @ (at - index), axis=0)
  assert off_mm.max() < 1e-4
  assert (index >= 0).all() and len({*map(tuple, index.T)}) == label.size
  np.testing.assert_array_equal(volume.truth.ravel(), label[tuple(index)])
  if image is not None:
    np.testing.assert_array_equal(volume.image[..., 0].ravel(), image[tuple(index)])


def tilted(degrees):
  turn = np.eye(4)
  c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
  turn[1:3, 1:3] = [[c, -s], [s, c]]
  also = np.eye(4)
  also[:2, :2] = [[c, -s], [s, c]]
  return turn @ also


@pytest.mark.parametrize('axis', volumes.SLICE_AXES)
@pytest.mark.parametrize('tilt', TILTS)
@pytest.mark.parametrize('orientation', ORIENTATIONS)
def test_a_label_comes_back_voxel_for_voxel(tmp_path, orientation, tilt, axis):
  made = phantom_chaos.make_scan(patient=0, seed=2, protocol='T2SPIR')
  placed = tilted(tilt) @ made.affine
  names = {'scan.mhd': made.image, 'mask.mhd': made.label}
  for name, voxels in names.items():
    image = phantom.itk_image(voxels, placed, orientation)
    SimpleITK.WriteImage(image, str(tmp_path / name))
  scan, mask = (tmp_path / name for name in names)
  (image, affine), (label, label_affine) = map(volumes.read_metaimage, (scan, mask))
  read = volumes.make_volume(
    Case('a', 'a', (scan,), (mask,)),
    image=image,
    affine=affine,
    label=label,
    label_affine=label_affine,
  )
  volume = volumes.along(read, axis)
  original = SimpleITK.ReadImage(str(mask))
  back = on_the_grid_of(original, through_slices(volume), volume.affine)
  np.testing.assert_array_equal(back, SimpleITK.GetArrayFromImage(original))
  assert_every_voxel_is_where_it_was_made(volume, made.image, made.label, placed)
  if axis == 'axial':
    np.testing.assert_allclose(volume.affine, placed, atol=1e-4)


@pytest.mark.parametrize('axis', volumes.SLICE_AXES)
@pytest.mark.parametrize('tilt', TILTS)
@pytest.mark.parametrize('orientation', ORIENTATIONS)
def test_a_label_of_nifti_is_written_back_onto_its_file(tmp_path, orientation, tilt, axis):
  """Through slices into a file by the way that predicted masks go, read there by ITK."""
  made = phantom_chaos.make_scan(patient=1, seed=2, protocol='T2SPIR')
  placed = tilted(tilt) @ made.affine
  for name, voxels in (('scan', made.image), ('mask', made.label)):
    stored, affine = phantom.turn(voxels, placed, orientation)
    nibabel.save(nibabel.Nifti1Image(stored.T, affine[:, [2, 1, 0, 3]]), tmp_path / f'{name}.nii')
  voxels, read = volumes.read_nifti(tmp_path / 'scan.nii')
  labels, label_affine = volumes.read_nifti(tmp_path / 'mask.nii')
  case = Case('a', 'a', (tmp_path / 'scan.nii',), (tmp_path / 'mask.nii',))
  whole = volumes.make_volume(
    case, image=voxels, affine=read, label=labels, label_affine=label_affine
  )
  volume = volumes.along(whole, axis)
  assert_every_voxel_is_where_it_was_made(volume, made.image, made.label, placed)
  _, grid = sources.read(sources.find(tmp_path / 'scan.nii', channels=1)[0])
  back = volumes.turn_like(through_slices(volume), volume.affine, grid.affine)
  (tmp_path / 'back.nii').write_bytes(masks.to_bytes(back, grid, ending='.nii'))
  original, written = (SimpleITK.ReadImage(str(tmp_path / f'{n}.nii')) for n in ('mask', 'back'))
  voxels, expected = map(SimpleITK.GetArrayFromImage, (written, original))
  np.testing.assert_array_equal(voxels, expected)
  for get in ('GetOrigin', 'GetSpacing', 'GetDirection'):
    np.testing.assert_allclose(getattr(written, get)(), getattr(original, get)(), atol=1e-4)


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  folder = tmp_path_factory.mktemp('geometry')
  phantom_chaos.write(folder / 'chaos', patients=4, seed=3)
  phantom.write_promise12(folder / 'promise12', patients=5, seed=3)
  return folder


def mask_of_files(folder, masks):
  """The masks of a folder of DICOM where ITK puts its slices; names go together, by hand."""
  reader = SimpleITK.ImageSeriesReader()
  by_position = reader.GetGDCMSeriesFileNames(str(folder))
  reader.SetFileNames(by_position)
  by_name = dict(zip(sorted(by_position), sorted(masks.glob('*.png')), strict=True))
  grey = [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(by_name[p]))) for p in by_position]
  return reader.Execute(), np.stack(grey)


@pytest.mark.parametrize('patient', range(4))
def test_a_liver_of_chaos_comes_back_to_its_masks(raw, patient):
  volume = chaos.read_case(chaos.find_cases(raw / 'chaos')[patient])
  place = raw / 'chaos' / 'Train_Sets' / 'CT' / str(patient + 1)
  original, grey = mask_of_files(place / 'DICOM_anon', place / 'Ground')
  back = on_the_grid_of(original, through_slices(volume), volume.affine)
  np.testing.assert_array_equal(back, grey > 0)
  made = phantom_chaos.make_scan(patient=patient, seed=3, protocol='CT')
  np.testing.assert_allclose(volume.affine, made.affine, atol=1e-4)


@pytest.mark.parametrize('patient', range(4))
def test_organs_of_chaos_mr_come_back_to_their_masks(raw, patient):
  volume = chaos_t1.read_case(chaos_t1.find_cases(raw / 'chaos')[patient])
  place = raw / 'chaos' / 'Train_Sets' / 'MR' / str(patient + 1) / 'T1DUAL'
  original, grey = mask_of_files(place / 'DICOM_anon' / 'InPhase', place / 'Ground')
  back = on_the_grid_of(original, through_slices(volume), volume.affine)
  np.testing.assert_array_equal(np.array(phantom_chaos.GREYS)[back], grey)
  made = phantom_chaos.make_scan(patient=patient, seed=3, protocol='InPhase')
  np.testing.assert_allclose(volume.affine, made.affine, atol=1e-4)


@pytest.mark.parametrize('patient', range(5))
def test_a_prostate_of_promise12_comes_back_to_its_file(raw, patient):
  case = promise12.find_cases(raw / 'promise12')[patient]
  volume = promise12.read_case(case)
  original = SimpleITK.ReadImage(str(case.label[0]))
  back = on_the_grid_of(original, through_slices(volume), volume.affine)
  np.testing.assert_array_equal(back, SimpleITK.GetArrayFromImage(original))
  made = phantom.make_scan(patient=patient, seed=3)
  np.testing.assert_allclose(volume.affine, made.affine, atol=1e-4)
