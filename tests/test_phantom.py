"""Made-up scans that are made once and look like scans."""

import nibabel
import numpy as np
import pytest
import SimpleITK

from data_prep import phantom, promise12
from thrifty_jax.errors import InputError


def contents(folder):
  return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_the_same_seed_writes_the_same_scans_and_another_does_not(tmp_path):
  for name, seed in (('a', 0), ('b', 0), ('c', 1)):
    phantom.write_promise12(tmp_path / name, patients=2, seed=seed)
  assert contents(tmp_path / 'a') == contents(tmp_path / 'b')
  assert contents(tmp_path / 'a').keys() == contents(tmp_path / 'c').keys()
  assert contents(tmp_path / 'a') != contents(tmp_path / 'c')


def test_they_are_made_where_there_is_no_folder_and_an_existing_one_stays_as_it_is(tmp_path):
  cases = phantom.find_cases(tmp_path / 'raw')
  assert len(cases) == phantom.PATIENTS and cases == phantom.find_cases(tmp_path / 'raw')
  (tmp_path / 'mine').mkdir()
  with pytest.raises(InputError, match=r'mine: there is no TrainingData in it; .* Name another'):
    phantom.find_cases(tmp_path / 'mine')
  assert not list((tmp_path / 'mine').iterdir())


def test_files_lie_every_way_round_but_read_back_as_they_were_made(tmp_path):
  phantom.write_promise12(tmp_path / 'raw', patients=5, seed=0)
  orientations, shapes = set(), set()
  for patient, case in enumerate(promise12.find_cases(tmp_path / 'raw')):
    image = SimpleITK.ReadImage(str(case.image[0]))
    orientations.add(
      SimpleITK.DICOMOrientImageFilter().GetOrientationFromDirectionCosines(image.GetDirection())
    )
    volume, made = promise12.read_case(case), phantom.make_scan(patient=patient, seed=0)
    shapes.add(volume.truth.shape)
    np.testing.assert_array_equal(volume.label, made.label)
    np.testing.assert_allclose(volume.affine, made.affine, atol=1e-4)
    correlation = np.corrcoef(volume.image.ravel(), np.clip(made.image, 0, None).ravel())[0, 1]
    assert correlation > 0.999
    assert nibabel.aff2axcodes(volume.affine) == ('S', 'P', 'L')
    assert volume.spacing_mm[0] > 1.5 * volume.spacing_mm[1]
  assert len(orientations) == 5
  assert any(height != width for _, height, width in shapes)
  assert len(shapes) >= 4


@pytest.mark.parametrize('patient', range(10))
def test_brightness_alone_does_not_find_the_organ_but_helps(patient):
  scan = phantom.make_scan(patient=patient, seed=0)
  truth = scan.label.astype(bool)
  assert 0.02 < truth.mean() < 0.2
  assert scan.image[truth].mean() > 1.5 * scan.image[~truth].mean()
  scores = [
    2 * np.sum(truth & (scan.image > level)) / (truth.sum() + np.sum(scan.image > level))
    for level in np.linspace(0.1, 0.9, 33)
  ]
  assert 0.4 < max(scores) < 0.9


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
  make_scan = phantom.make_scan

  def broken(*, patient, seed):
    if patient == 2:
      raise RuntimeError('disk full')
    return make_scan(patient=patient, seed=seed)

  monkeypatch.setattr(phantom, 'make_scan', broken)
  with pytest.raises(RuntimeError, match='disk full'):
    phantom.write_promise12(tmp_path / 'raw', patients=3, seed=0)
  assert list(tmp_path.iterdir()) == []


def test_the_raw_folder_is_made_when_it_is_not_there_and_then_left_alone(tmp_path):
  cases = phantom.find_cases(tmp_path / 'deep' / 'raw')
  assert len(cases) == phantom.PATIENTS
  before = contents(tmp_path)
  for path in (cases[3].image[0], cases[3].label[0]):
    path.unlink()
  assert len(phantom.find_cases(tmp_path / 'deep' / 'raw')) == phantom.PATIENTS - 1
  assert len(contents(tmp_path)) == len(before) - 2


def test_some_scans_are_oblique_and_voxels_lie_in_files_of_both_kinds(tmp_path):
  phantom.write_promise12(tmp_path / 'raw', patients=6, seed=0)
  cases = promise12.find_cases(tmp_path / 'raw')
  axes = [np.abs(promise12.read_case(case).affine[:3, :3]) for case in cases]
  oblique = [np.count_nonzero(a > 0.05 * a.max(axis=0)) > 3 for a in axes]
  assert oblique == [False, False, True, True, False, False]
  endings = {path.suffix for path in (tmp_path / 'raw' / 'TrainingData').iterdir()}
  assert endings == {'.mhd', '.raw', '.zraw'}
  assert len(list((tmp_path / 'raw' / 'TestData').glob('*.mhd'))) == 1
