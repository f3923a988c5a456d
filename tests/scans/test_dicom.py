"""DICOM series: the same voxels at the same places as other readers see, in whatever order."""

import struct

import numpy as np
import phantom_chaos
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from thrifty_jax.errors import InputError
from thrifty_jax.scans import dicom

PATIENTS = 4  # one for each way the files lie


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  folder = tmp_path_factory.mktemp('dicom') / 'raw'
  phantom_chaos.write(folder, patients=PATIENTS, seed=1)
  return folder / 'Train_Sets'


def slices_of(folder):
  return sorted(folder.glob('[!.]*.dcm'))


def itk_corners(image):
  """Position of the first pixel of each corner slice and so on, LPS, by index (d, h, w)."""
  w, h, d = (n - 1 for n in image.GetSize())
  corners = [(i * d, j * h, k * w) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
  return corners, [image.TransformIndexToPhysicalPoint((k, j, i)) for i, j, k in corners]


@pytest.mark.parametrize('patient', range(PATIENTS))
@pytest.mark.parametrize('place', ['CT/{}/DICOM_anon', 'MR/{}/T1DUAL/DICOM_anon/OutPhase'])
def test_it_reads_what_simpleitks_own_series_reader_reads(raw, patient, place):
  folder = raw / place.format(patient + 1)
  reader = SimpleITK.ImageSeriesReader()
  reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))  # by position
  image = reader.Execute()
  series = dicom.read_series(slices_of(folder))
  np.testing.assert_array_equal(series.voxels, SimpleITK.GetArrayFromImage(image))
  spacing = np.linalg.norm(series.affine[:3, :3], axis=0)
  np.testing.assert_allclose(spacing, image.GetSpacing()[::-1], rtol=1e-5)
  for corner, (x, y, z) in zip(*itk_corners(image), strict=True):
    np.testing.assert_allclose((series.affine @ [*corner, 1])[:3], (-x, -y, z), atol=1e-4)


def test_any_order_of_the_files_gives_one_volume_and_says_which_file_is_which(raw):
  files = slices_of(raw / 'CT' / '3' / 'DICOM_anon')
  shuffled = [files[i] for i in np.random.default_rng(0).permutation(len(files))]
  one, other = dicom.read_series(files), dicom.read_series(shuffled)
  np.testing.assert_array_equal(one.voxels, other.voxels)
  np.testing.assert_array_equal(one.affine, other.affine)
  assert [files[i] for i in one.order] == [shuffled[i] for i in other.order]
  assert list(one.order) != sorted(one.order)


def test_the_written_thickness_is_not_the_step(raw):
  files = slices_of(raw / 'CT' / '1' / 'DICOM_anon')
  _, tags = phantom_chaos.read_slice(files[0])
  made = phantom_chaos.make_scan(patient=0, seed=1, protocol='CT')
  step = np.linalg.norm(dicom.read_series(files).affine[:3, 0])
  assert abs(step - np.linalg.norm(made.affine[:3, 0])) < 1e-4
  assert abs(step - float(tags['0018|0050'])) > 0.3


# DICOM as no library wrote it: the standard's own layout, explicit types, little-endian.


def element(group, number, kind, *values):
  """One tag with its values."""
  if kind in ('US', 'OB', 'OW', 'UL'):
    value = values[0] if kind[0] == 'O' else struct.pack('<I' if kind == 'UL' else '<H', *values)
  else:
    value = '\\'.join(map(str, values)).encode()
  value += (b'\0' if kind == 'UI' else b' ') * (len(value) % 2)
  length = (
    struct.pack('<HI', 0, len(value)) if kind in ('OB', 'OW') else struct.pack('<H', len(value))
  )
  return struct.pack('<HH', group, number) + kind.encode() + length + value


def dicom_file(pixels, *, position, directions, spacing, rescale, series):
  """The bytes of a CT slice; pixels [H, W], uint16 or int16."""
  storage = '1.2.840.10008.5.1.4.1.1.2'
  meta = [
    element(2, 1, 'OB', b'\0\1'),
    element(2, 2, 'UI', storage),
    element(2, 3, 'UI', f'1.2.3.{series}.1'),
    element(2, 0x10, 'UI', '1.2.840.10008.1.2.1'),
  ]
  signed = int(pixels.dtype.kind == 'i')
  body = [
    element(8, 0x16, 'UI', storage),
    element(8, 0x18, 'UI', f'1.2.3.{series}.1'),
    element(8, 0x60, 'CS', 'CT'),
    element(0x20, 0xE, 'UI', f'1.2.3.{series}'),
    element(0x20, 0x32, 'DS', *(f'{x:.9g}' for x in position)),
    element(0x20, 0x37, 'DS', *(f'{x:.12f}' for x in directions)),
    element(0x28, 2, 'US', 1),
    element(0x28, 4, 'CS', 'MONOCHROME2'),
    element(0x28, 0x10, 'US', pixels.shape[0]),
    element(0x28, 0x11, 'US', pixels.shape[1]),
    element(0x28, 0x30, 'DS', *spacing),
    element(0x28, 0x100, 'US', 16),
    element(0x28, 0x101, 'US', 16),
    element(0x28, 0x102, 'US', 15),
    element(0x28, 0x103, 'US', signed),
    element(0x28, 0x1052, 'DS', rescale[0]),
    element(0x28, 0x1053, 'DS', rescale[1]),
    element(0x7FE0, 0x10, 'OW', pixels.astype('<u2' if not signed else '<i2').tobytes()),
  ]
  length = element(2, 0, 'UL', sum(map(len, meta)))
  return bytes(128) + b'DICM' + length + b''.join([*meta, *body])


# Directions of rows and columns before they are turned by so many degrees about the first axis.
LAYS = {
  'axial': ((1, 0, 0), (0, 1, 0), 0),
  'oblique': ((1, 0, 0), (0, 1, 0), 25),
  'coronal, oblique': ((1, 0, 0), (0, 0, -1), -11),
  'sagittal': ((0, 1, 0), (0, 0, -1), 0),
  'feet first, face down': ((-1, 0, 0), (0, -1, 0), 0),
}


@pytest.mark.parametrize(('kind', 'rescale'), [(np.uint16, (-1024, 2)), (np.int16, (0, 1))])
@pytest.mark.parametrize('lay', LAYS)
def test_a_series_that_itk_did_not_write_reads_as_it_was_written(tmp_path, lay, kind, rescale):
  """Names and ids that say nothing, no thickness, pixels that are not square."""
  low, high = (-1000, 2000) if kind is np.int16 else (0, 4000)
  stored = np.random.default_rng(0).integers(low, high, (5, 6, 7)).astype(kind)
  *axes, degrees = LAYS[lay]
  turn = Rotation.from_euler('x', degrees, degrees=True).as_matrix()
  row, column = (turn @ axis for axis in axes)
  normal, origin = np.cross(row, column), np.array([-20.5, 11.25, 300.0])
  for d in range(5):
    content = dicom_file(
      stored[d],
      position=origin + 2.25 * d * normal,
      directions=(*row, *column),
      spacing=(0.75, 1.5),  # between rows, between columns
      rescale=rescale,
      series=d + 1,  # another one in each slice
    )
    (tmp_path / f'{(d * 3) % 5}.dcm').write_bytes(content)
  files = slices_of(tmp_path)
  series = dicom.read_series(files)
  np.testing.assert_array_equal(series.voxels, stored.astype(float) * rescale[1] + rescale[0])
  lps = np.stack([2.25 * normal, 0.75 * column, 1.5 * row, origin], axis=1)
  np.testing.assert_allclose(series.affine[:3], lps * [[-1], [-1], [1]], atol=1e-4)
  reader = SimpleITK.ImageSeriesReader()
  reader.SetFileNames([str(files[i]) for i in series.order])
  image = reader.Execute()
  np.testing.assert_array_equal(series.voxels, SimpleITK.GetArrayFromImage(image))
  np.testing.assert_allclose(image.GetSpacing(), (1.5, 0.75, 2.25), rtol=1e-5)
  for corner, (x, y, z) in zip(*itk_corners(image), strict=True):
    np.testing.assert_allclose((series.affine @ [*corner, 1])[:3], (-x, -y, z), atol=1e-4)


@pytest.mark.parametrize('count', [0, 1])
def test_fewer_than_two_slices_are_no_series(raw, count):
  with pytest.raises(InputError, match=f'{count} slices in its folder; expected two'):
    dicom.read_series(slices_of(raw / 'CT' / '1' / 'DICOM_anon')[:count])
