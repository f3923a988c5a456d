"""PROMISE12's layout: what is found, what is missed, and the real scans where they are."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from data_prep import checks, phantom, promise12
from thrifty_jax.errors import InputError

REAL = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'promise12_half'


@pytest.fixture
def raw(tmp_path):
  phantom.write_promise12(tmp_path / 'raw', patients=3, seed=0)
  return tmp_path / 'raw'


def test_labelled_cases_are_found_each_a_patient_and_test_scans_are_left_out(raw):
  assert [path.name for path in (raw / 'TestData').glob('*.mhd')] == ['Case03.mhd']
  cases = promise12.find_cases(raw)
  assert [case.case for case in cases] == ['Case00', 'Case01', 'Case02']
  assert [case.patient for case in cases] == ['Case00', 'Case01', 'Case02']


def test_without_the_data_it_is_said_what_to_download_and_what_runs_without(tmp_path):
  with pytest.raises(InputError) as caught:
    promise12.find_cases(tmp_path / 'nothing')
  message = str(caught.value)
  for part in ('nothing/TrainingData', '8026660', 'training_data.zip', '--config=brain'):
    assert part in message
  assert '\n' not in message


@pytest.mark.parametrize(
  ('removed', 'message'),
  [
    ('Case01_segmentation.mhd', r'Case01\.mhd: its mask Case01_segmentation\.mhd is missing'),
    ('Case01.mhd', r'Case01_segmentation\.mhd: its scan Case01\.mhd is missing'),
  ],
)
def test_a_scan_or_a_mask_without_the_other_is_refused(raw, removed, message):
  (raw / 'TrainingData' / removed).unlink()
  with pytest.raises(InputError, match=message):
    promise12.find_cases(raw)


def test_a_header_without_its_voxels_is_refused(raw):
  (raw / 'TrainingData' / 'Case01.zraw').unlink()
  with pytest.raises(InputError, match=r'Case01\.mhd: its voxels, Case01.zraw, are not'):
    promise12.read_case(promise12.find_cases(raw)[1])


def test_plain_and_compressed_voxels_are_the_same_scan(tmp_path):
  phantom.write_promise12(tmp_path / 'raw', patients=6, seed=0)
  for case in promise12.find_cases(tmp_path / 'raw'):
    plain = case.image[0].with_suffix('.raw').exists()
    assert plain == (case.case == 'Case05')
    before = promise12.read_case(case)
    for path in (*case.image, *case.label):
      image = SimpleITK.ReadImage(str(path))
      SimpleITK.WriteImage(image, str(path), useCompression=plain)
      path.with_suffix('.raw' if plain else '.zraw').unlink()
    after = promise12.read_case(case)
    np.testing.assert_array_equal(before.image, after.image)
    np.testing.assert_array_equal(before.truth, after.truth)
    np.testing.assert_allclose(before.affine, after.affine, atol=1e-9)


@pytest.mark.skipif(not REAL.is_dir(), reason='the real scans are not here')
def test_real_scans_are_read_and_usable():
  cases = promise12.find_cases(REAL)
  assert len(cases) == 36
  volume = promise12.read_case(cases[0])
  names = ('background', 'prostate')
  assert not checks.find_problems(volume, classes=names, modalities=1, source=cases[0])
  assert volume.image.shape == (29, 256, 256, 1)
  np.testing.assert_allclose(volume.spacing_mm, (3.6, 1.25, 1.25))
  middle = np.argwhere(volume.truth).mean(axis=0) / volume.truth.shape
  assert np.abs(middle - 0.5).max() < 0.2  # the prostate lies near the middle of the scan
