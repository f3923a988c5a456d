"""CHAOS' layout with its traps, on made-up DICOM."""

import numpy as np
import PIL.Image
import pytest

from data_prep import chaos, checks, phantom, prepare
from thrifty_jax import config as configs
from thrifty_jax.errors import InputError

PATIENTS = 4


@pytest.fixture
def raw(tmp_path):
  phantom.write_chaos(tmp_path / 'raw', patients=PATIENTS, seed=0)
  return tmp_path / 'raw'


def test_every_patient_reads_back_as_made_whatever_the_order_of_its_files(raw):
  for patient, case in enumerate(chaos.find_cases(raw)):
    volume, made = chaos.read_case(case), phantom.make_scan(patient=patient, seed=0)
    np.testing.assert_array_equal(volume.label, made.label)
    np.testing.assert_allclose(volume.affine, made.affine, atol=1e-4)
    tissue = volume.image[:, 2:, :, 0]
    np.testing.assert_allclose(tissue, made.image[:, 2:] * 400 - 100, atol=0.51)


def test_the_step_between_slices_is_that_of_the_positions_not_the_written_thickness(raw):
  for patient, case in enumerate(chaos.find_cases(raw)):
    made = phantom.make_scan(patient=patient, seed=0)
    expected = np.linalg.norm(made.affine[:3, :3], axis=0)
    assert abs(expected[0] - 3.2) > 0.05
    np.testing.assert_allclose(chaos.read_case(case).spacing_mm, expected, rtol=1e-4)


def test_padding_becomes_air(raw):
  volume = chaos.read_case(chaos.find_cases(raw)[0])
  assert (volume.image[:, :2, :2] == -1000).all()
  assert volume.image.max() < 1000


def test_patients_are_sorted_by_number_and_named_by_it(raw):
  (raw / 'Train_Sets' / 'CT' / '3').rename(raw / 'Train_Sets' / 'CT' / '21')
  assert [case.case for case in chaos.find_cases(raw)] == ['ct01', 'ct02', 'ct04', 'ct21']


def test_without_the_data_it_is_said_what_to_download_and_what_runs_without(tmp_path):
  with pytest.raises(InputError) as caught:
    chaos.find_cases(tmp_path / 'nothing')
  message = str(caught.value)
  for part in ('nothing/Train_Sets/CT', '3431873', 'CHAOS_Train_Sets.zip', 'configs/brain.py'):
    assert part in message
  assert '\n' not in message


def patient_folder(raw):
  return raw / 'Train_Sets' / 'CT' / '2'


def test_a_missing_slice_in_the_middle_is_refused(raw):
  folder = patient_folder(raw)
  (folder / 'DICOM_anon' / 'IMG-0004-00005.dcm').unlink()
  with pytest.raises(InputError, match='9 slices in DICOM_anon and 10 masks'):
    chaos.find_cases(raw)
  (folder / 'Ground' / 'liver_GT_004.png').unlink()
  with pytest.raises(InputError, match='mm away from even steps'):
    chaos.read_case(chaos.find_cases(raw)[1])


def test_a_damaged_slice_is_named(raw):
  path = patient_folder(raw) / 'DICOM_anon' / 'IMG-0004-00005.dcm'
  path.write_bytes(b'nothing')
  with pytest.raises(InputError, match=r'IMG-0004-00005\.dcm: cannot be read'):
    chaos.read_case(chaos.find_cases(raw)[1])


def test_a_damaged_mask_is_named(raw):
  path = patient_folder(raw) / 'Ground' / 'liver_GT_004.png'
  path.write_bytes(path.read_bytes()[:40])
  with pytest.raises(InputError, match=r'liver_GT_004\.png: the mask cannot be read'):
    chaos.read_case(chaos.find_cases(raw)[1])


def test_a_mask_of_another_size_is_named(raw):
  path = patient_folder(raw) / 'Ground' / 'liver_GT_004.png'
  PIL.Image.new('L', (3, 5)).save(path)
  with pytest.raises(InputError, match=r'liver_GT_004\.png: the mask has \(5, 3\) pixels'):
    chaos.read_case(chaos.find_cases(raw)[1])


def test_it_prepares(raw, tmp_path):
  config = configs.default()
  config.model.name = 'unet'  # one patient that trains is too few to search on
  config.data.update({'name': 'chaos', 'classes': ('background', 'liver'), 'image_size': 32})
  config.data.update({'intensity': 'window', 'folds': 3})
  config.data.update({'raw_dir': str(raw), 'data_dir': str(tmp_path / 'tfds')})
  checks.check(config)
  assert prepare.prepare(config).is_dir()
