"""DICOM series: the same voxels at the same places as other readers see, in whatever order."""

import numpy as np
import pytest
import SimpleITK

from data_prep import dicom, phantom_chaos
from thrifty_jax.errors import InputError

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


def test_a_series_of_another_library_reads_as_it_was_written(tmp_path):
  """Oblique, unsigned with a slope, names that say nothing, no thickness at all."""
  pydicom = pytest.importorskip('pydicom')
  random = np.random.default_rng(0)
  stored = random.integers(0, 4000, (5, 6, 7), np.uint16)
  angle = np.deg2rad(25)
  row, column = np.array([np.cos(angle), np.sin(angle), 0]), np.array([0.0, 0.0, -1.0])
  normal, origin = np.cross(row, column), np.array([-20.5, 11.25, 300.0])
  for d in range(5):
    slice_ = pydicom.Dataset()
    slice_.SOPClassUID = pydicom.uid.CTImageStorage
    slice_.SOPInstanceUID = pydicom.uid.generate_uid()
    slice_.SeriesInstanceUID = pydicom.uid.generate_uid()  # another one in each slice
    slice_.Modality = 'CT'
    slice_.Rows, slice_.Columns = 6, 7
    slice_.PixelSpacing = [0.75, 1.5]  # between rows, between columns
    slice_.ImageOrientationPatient = [round(float(x), 10) for x in (*row, *column)]
    slice_.ImagePositionPatient = [round(float(x), 8) for x in origin + 2.25 * d * normal]
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, 'MONOCHROME2'
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 16, 15
    slice_.PixelRepresentation = 0
    slice_.RescaleSlope, slice_.RescaleIntercept = 2, -1024
    slice_.PixelData = stored[d].tobytes()
    slice_.file_meta = pydicom.dataset.FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    slice_.save_as(tmp_path / f'{(d * 3) % 5}.dcm', enforce_file_format=True)
  files = slices_of(tmp_path)
  series = dicom.read_series(files)
  np.testing.assert_array_equal(series.voxels, stored * 2.0 - 1024)
  lps = np.stack([2.25 * normal, 0.75 * column, 1.5 * row, origin], axis=1)
  np.testing.assert_allclose(series.affine[:3], lps * [[-1], [-1], [1]], atol=1e-4)
  reader = SimpleITK.ImageSeriesReader()
  reader.SetFileNames([str(files[i]) for i in series.order])
  image = reader.Execute()
  np.testing.assert_array_equal(series.voxels, SimpleITK.GetArrayFromImage(image))
  np.testing.assert_allclose(image.GetSpacing(), (1.5, 0.75, 2.25), rtol=1e-5)


@pytest.mark.parametrize('count', [0, 1])
def test_fewer_than_two_slices_are_no_series(raw, count):
  with pytest.raises(InputError, match=f'{count} slices in its folder; expected two'):
    dicom.read_series(slices_of(raw / 'CT' / '1' / 'DICOM_anon')[:count])
