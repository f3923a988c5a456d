"""Evaluation on the slices of a phantom, with stand-ins for the network."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
from recorded import prepare_for

from data_prep import phantom
from thrifty_jax import config as configs
from thrifty_jax import evaluate as command_of_folders
from thrifty_jax import files, records
from thrifty_jax.data import splits
from thrifty_jax.data.prepared import open_slices
from thrifty_jax.errors import InputError
from thrifty_jax.model_folder import LoadedModel
from thrifty_jax.networks.model_spec import make_spec
from thrifty_jax.reporting import report
from thrifty_jax.run_files import Evaluated, ScoredMasks
from thrifty_jax.scans import slices
from thrifty_jax.scores import cases, evaluate, metrics, summaries, tables

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')


@pytest.fixture(scope='module')
def settings(tmp_path_factory):
  """Settings of a phantom whose slices are prepared."""
  folder = tmp_path_factory.mktemp('data')
  config = configs.default()
  config.data.name = 'phantom'
  config.data.classes = ('background', 'organ')
  config.data.image_size = 32
  config.data.raw_dir = str(folder / 'raw')
  config.data.data_dir = str(folder / 'tfds')
  config.evaluate.batch_size = 4
  prepare_for(config, folder)
  return config


@pytest.fixture(scope='module')
def prepared(settings):
  return open_slices(Path(settings.data.data_dir).parent, settings)


@pytest.fixture(autouse=True)
def recorded(settings, tmp_path):
  """The run of each test has the prepared slices."""
  prepare_for(settings, tmp_path)


def stand_in(monkeypatch, settings, logits):
  """Makes evaluate load a model that has these logits for each case's slices, in order."""
  values = np.zeros(settings.data.modalities)
  spec = make_spec(settings, {'mean': values, 'std': values + 1})
  params = {'kernel': np.zeros((3, 4)), 'bias': np.zeros(4)}
  loaded = LoadedModel(spec, None, 'digest', params)
  vars(loaded)['logits'] = logits
  monkeypatch.setattr(evaluate.model_folder, 'load', lambda folder: loaded)


def oracle(prepared, patients):
  """Logits that know the truth: found by comparing the images with the prepared slices."""
  rows = [row for case in prepared.cases_of(patients) for row in case.rows]
  known = prepared.read_rows(rows)
  images = known['image'].astype(np.float32)

  def logits(image):
    label = np.stack(
      [
        known['label'][np.abs(images - one).reshape(len(images), -1).max(1).argmin()]
        for one in np.asarray(image)
      ]
    )
    return jnp.asarray(np.eye(2, dtype=np.float32)[label])

  return logits


def test_a_network_that_knows_the_truth_scores_nearly_one(
  settings, prepared, tmp_path, monkeypatch
):
  test = splits.assign(settings, prepared.classes_of_patients)['test']
  stand_in(monkeypatch, settings, oracle(prepared, test))
  summary = evaluate.evaluate(settings, tmp_path)
  assert summary.mean.pooled_2d_dsc == 1.0
  assert (
    summary.mean.dsc and 0.9 < summary.mean.dsc.mean < 1.0
  )  # network resolution loses a little at the borders
  assert summary.classes['organ'].dsc_mean == summary.mean.dsc_mean


def test_the_scores_go_into_the_model_folder_without_the_names_of_patients(
  settings, prepared, tmp_path, monkeypatch
):
  patients = splits.assign(settings, prepared.classes_of_patients)
  stand_in(monkeypatch, settings, oracle(prepared, patients['test']))
  summary = evaluate.evaluate(settings, tmp_path)
  scores = files.read_json(tmp_path / 'model' / 'scores.json')
  assert scores['dsc_mean'] == summary.mean.dsc_mean and scores['held_out'] and scores['note']
  assert 'not a medical device' in scores['research_use']
  text = (tmp_path / 'model' / 'scores.json').read_text()
  assert not any(name in text for names in patients.values() for name in names)


def test_a_network_that_finds_nothing_scores_zero_and_the_floor_more(
  settings, prepared, tmp_path, monkeypatch
):
  stand_in(monkeypatch, settings, lambda image: jnp.eye(2)[jnp.zeros(image.shape[:3], int)])
  summary = evaluate.evaluate(settings, tmp_path)
  assert summary.mean.dsc_mean == 0.0 == summary.mean.pooled_2d_dsc
  assert summary.mean.missed == summary.patients > 0 == summary.mean.invented
  diagonals = [
    np.linalg.norm(np.multiply(case.native_shape, case.spacing_mm))
    for case in prepared.cases_of(summary.patient_names['test'])
  ]
  assert summary.mean.hd95_mm and summary.mean.assd_mm
  assert summary.mean.hd95_mm.mean == summary.mean.assd_mm.mean == pytest.approx(np.mean(diagonals))
  assert summary.floor_dsc == summary.floors['mean_mask'].mean.dsc_mean
  assert summary.floor_dsc and summary.floor_dsc > 0.1


def test_distances_are_in_millimetres_of_the_raw_scans(settings, prepared, tmp_path, monkeypatch):
  stand_in(monkeypatch, settings, lambda image: jnp.concatenate([0.6 - image, image], -1))
  settings = settings.copy_and_resolve_references()
  settings.evaluate.nsd_tolerance_mm = 3.0
  summary = evaluate.evaluate(settings, tmp_path)
  assert summary.nsd_tolerance_mm == 3.0
  with (tmp_path / 'evaluate' / 'scores.csv').open() as file:
    rows = {row['patient']: row for row in csv.DictReader(file)}
  raw = {case.case: case for case in phantom.find_cases(Path(settings.data.raw_dir))}
  for patient, row in rows.items():
    volume = phantom.read_case(raw[patient])  # on phantoms slices lie 2 to 4 times as far as pixels
    (case,) = prepared.cases_of([patient])
    image = prepared.read(case)['image'].astype(np.float32)
    scores = np.concatenate([np.float32(0.6) - image, image], -1)
    native = slices.native_classes([scores], volume.truth.shape[1:])[0]
    expected = metrics.score_volume(
      native == 1, volume.truth == 1, spacing_mm=volume.spacing_mm, nsd_tolerance_mm=3.0
    )
    assert expected.hd95_mm > 0
    for name, value in expected._asdict().items():
      assert float(row[name]) == pytest.approx(float(value), abs=1e-5)
  for name in (*metrics.DISTANCES, 'nsd', 'ravd_percent'):
    values = [float(row[name]) for row in rows.values()]
    assert getattr(summary.mean, name).mean == pytest.approx(np.mean(values), abs=1e-5)


def test_a_folder_of_the_same_masks_has_the_same_scores(settings, prepared, tmp_path, monkeypatch):
  stand_in(monkeypatch, settings, lambda image: jnp.concatenate([0.6 - image, image], -1))
  summary = evaluate.evaluate(settings, tmp_path)
  masks, truths = tmp_path / 'masks', tmp_path / 'truths'
  masks.mkdir()
  truths.mkdir()
  raw = {case.case: case for case in phantom.find_cases(Path(settings.data.raw_dir))}
  for one in summary.cases:  # as another program would write them, from the scan alone
    volume = phantom.read_case(raw[one.case])
    (case,) = prepared.cases_of([one.patient])
    image = prepared.read(case)['image'].astype(np.float32)
    scores = np.concatenate([np.float32(0.6) - image, image], -1)
    native = slices.native_classes([scores], volume.truth.shape[1:])[0]
    stored = nibabel.Nifti1Image(native.astype(np.uint8).T, volume.affine[:, [2, 1, 0, 3]])
    nibabel.save(stored, masks / f'{one.case}.nii')
    for path in raw[one.case].label[0].parent.glob(f'{raw[one.case].label[0].stem}.*'):
      shutil.copy(path, truths)  # its axes are in another order than those of the mask
  command = [f'--masks={masks}', f'--truths={truths}', f'--output={tmp_path / "scores"}']
  assert command_of_folders.main([*command, "--classes=('background','organ')"]) == 0
  found, expected = (
    summaries.read_rows(tmp_path / place / 'scores.csv', ('patient', 'class', 'dsc'))
    for place in ('scores', 'evaluate')
  )
  own = {'patient', 'cases', 'mean_mask_dsc'}
  assert [*found[0], 'mean_mask_dsc'] == [*expected[0]] and len(found) == summary.patients > 1
  for row, of_run in zip(found, expected, strict=True):
    assert row['patient'].startswith(of_run['patient'])
    assert {name: row[name] for name in row.keys() - own} == {
      name: of_run[name] for name in of_run.keys() - own
    }
  scored = records.read(tmp_path / 'scores' / 'summary.json', ScoredMasks)
  assert replace(scored.mean, pooled_2d_dsc=0) == replace(summary.mean, pooled_2d_dsc=0)


def test_choosing_a_checkpoint_measures_no_distances(settings, prepared, monkeypatch):
  monkeypatch.setattr(metrics, 'score_volume', None)  # would fail if it were called
  patients = splits.assign(settings, prepared.classes_of_patients)['validation']

  known = oracle(prepared, patients)

  def predict(image):
    return np.asarray(known(image.astype(np.float32)))

  assert cases.validation_dsc(prepared, patients, predict) > 0.9
  names = ('background', 'organ')
  scores, of_one_piece = cases.judge(prepared, patients, predict, classes=names)
  assert scores.keys() == {*patients} and min(scores.values()) > 0.9
  assert of_one_piece == ()


def test_a_validation_patient_without_a_class_has_no_score(settings, prepared, monkeypatch):
  patients = splits.assign(settings, prepared.classes_of_patients)['validation']
  whole = type(prepared).label_volume
  healthy = patients[0]

  def label_volume(self, case):
    return whole(self, case) * (case.patient != healthy)

  def nothing(image):
    return np.eye(2, dtype=np.float32)[np.zeros(image.shape[:3], int)]

  monkeypatch.setattr(type(prepared), 'label_volume', label_volume)
  scores, _ = cases.judge(prepared, patients, nothing, classes=('background', 'organ'))
  assert scores == dict.fromkeys(patients[1:], 0.0)
  assert cases.validation_dsc(prepared, patients, nothing) == 0
  alone = cases.validation_dsc(prepared, [healthy], nothing)
  assert np.isnan(alone)


def test_the_files_are_what_the_summary_says(settings, prepared, tmp_path, monkeypatch, capsys):
  stand_in(monkeypatch, settings, lambda image: jnp.concatenate([0.3 - image, image], -1))
  settings = settings.copy_and_resolve_references()
  settings.evaluate.threshold_floor = True
  summary = evaluate.evaluate(settings, tmp_path)
  assert records.read(tmp_path / 'evaluate' / 'summary.json', Evaluated) == summary
  assert summary.parameters == 16 and summary.weights_sha256 == ('digest',)
  assert summary.split == 'test' and summary.held_out
  assert list(summary.floors) == ['mean_mask', 'intensity_thresholds']
  with (tmp_path / 'evaluate' / 'scores.csv').open() as file:
    rows = list(csv.DictReader(file))
  patients = splits.assign(settings, prepared.classes_of_patients)['test']
  assert tuple(row['patient'] for row in rows) == patients
  assert summary.mean.dsc_mean == pytest.approx(
    np.mean([float(row['dsc']) for row in rows]), abs=1e-5
  )
  for case in summary.cases:
    with np.load(tmp_path / 'evaluate' / 'predictions' / f'{case.case}.npz') as saved:
      assert {saved[name].dtype for name in saved} == {np.dtype(np.uint8)}
      assert saved['image'].shape == saved['truth'].shape == saved['prediction'].shape
      clear = np.abs(saved['image'] / 255.0 - 0.15) > 1 / 255
      expected = saved['image'] / 255 > 0.15
      np.testing.assert_array_equal(saved['prediction'][clear], expected[clear])
  printed, bars = capsys.readouterr()
  for split, names in splits.assign(settings, prepared.classes_of_patients).items():
    count, what = len(prepared.cases_of(names)), 'evaluate' if split == 'test' else 'suspects in'
    assert f'{what} {split}: {count} of {count}' in bars
  assert f'{100 * summary.mean.dsc_mean:.2f}' in printed and 'thresholds' in printed
  assert summary.mean.hd95_mm and f'{summary.mean.hd95_mm.mean:.2f}' in printed


def test_more_labels_than_thresholds_are_fitted_for_leave_them_out(
  settings, prepared, tmp_path, monkeypatch, capsys
):
  stand_in(monkeypatch, settings, lambda image: jnp.concatenate([0.3 - image, image], -1))
  settings = settings.copy_and_resolve_references()
  settings.evaluate.threshold_floor = True
  monkeypatch.setattr(evaluate.floors, 'MOST_LABELS', 1)
  summary = evaluate.evaluate(settings, tmp_path)
  assert records.read(tmp_path / 'evaluate' / 'summary.json', Evaluated) == summary
  assert [*summary.floors] == ['mean_mask']
  assert 'floors    without thresholds, which are for 1 labels' in capsys.readouterr().out


def test_floors_are_fitted_on_training_patients_only(settings, prepared):
  train = splits.assign(settings, prepared.classes_of_patients)['train']
  training = evaluate.TrainingCases(prepared, train)
  first = [case.patient for case in training]
  assert sorted(set(first)) == sorted(train)
  assert first == [case.patient for case in training]  # it can be read again


def test_the_papers_protocol_scores_those_who_chose_the_checkpoint(
  settings, prepared, tmp_path, monkeypatch
):
  settings = settings.copy_and_resolve_references()
  settings.evaluate.protocol = 'pooled_2d'
  stand_in(monkeypatch, settings, lambda image: jnp.concatenate([0.3 - image, image], -1))
  summary = evaluate.evaluate(settings, tmp_path)
  assert summary.split == 'validation' and not summary.held_out
  names = splits.assign(settings, prepared.classes_of_patients)['validation']
  assert {case.patient for case in summary.cases} == set(names)
  # What retraining chooses its checkpoint by is the same figure.
  predict = evaluate.model_folder.load(tmp_path).predict_with(batch_size=4)
  assert cases.validation_dsc(prepared, names, predict) == pytest.approx(summary.mean.dsc_mean)


def test_without_test_patients_the_validation_patients_are_scored_and_nobody_as_test(
  settings, prepared, tmp_path, monkeypatch
):
  settings = settings.copy_and_resolve_references()
  held_out = splits.assign(settings, prepared.classes_of_patients)
  settings.evaluate.protocol, settings.data.hold_out_test = 'pooled_2d', False
  stand_in(monkeypatch, settings, lambda image: jnp.concatenate([0.3 - image, image], -1))
  summary = evaluate.evaluate(settings, tmp_path)
  assert summary.split == 'validation' and not summary.held_out
  assert summary.patient_names['test'] == () and summary.slices['test'] == 0
  assert [*summary.patient_names['train']] == sorted(held_out['train'] + held_out['test'])
  assert ', not held out' in tables.format_evaluation(summary)
  assert 'not held out' in report.report(tmp_path).read_text(encoding='utf-8')


@pytest.mark.parametrize('listed', [True, False])
def test_scored_validation_cases_are_looked_at_too(settings, tmp_path, monkeypatch, listed):
  settings = settings.copy_and_resolve_references()
  settings.evaluate.protocol, settings.evaluate.list_suspects = 'pooled_2d', listed
  stand_in(monkeypatch, settings, lambda image: jnp.concatenate([0.3 - image, image], -1))
  looked_at = []
  monkeypatch.setattr(
    evaluate.agreement, 'find_suspects', lambda measured: looked_at.extend(measured) or ()
  )
  summary = evaluate.evaluate(settings, tmp_path)
  names = summary.patient_names
  expected = {*names['train'], *names['validation']} if listed else set()
  assert {one.patient for one in looked_at} == expected
  assert len(looked_at) == len(expected) and summary.split == 'validation'
  assert len(summary.agreements) == (len(names['validation']) if listed else 0)


def test_only_flips_that_training_saw_are_averaged(settings, tmp_path, monkeypatch):
  settings = settings.copy_and_resolve_references()
  settings.augment.flip_left_right = True
  for wanted in (False, True):
    calls = []
    settings.evaluate.flips = wanted
    stand_in(
      monkeypatch,
      settings,
      lambda image, calls=calls: calls.append(image) or np.concatenate([0.3 - image, image], -1),
    )
    summary = evaluate.evaluate(settings, tmp_path)
    assert summary.flips == (('left_right',) if wanted else ())
    assert any(np.array_equal(calls[0], one[:, :, ::-1]) for one in calls[1:2]) == wanted


def test_a_missing_model_is_bad_input(settings, tmp_path):
  with pytest.raises(InputError):
    evaluate.evaluate(settings, tmp_path)
  assert not (tmp_path / 'evaluate').exists()


def test_the_report_is_made_from_what_evaluation_wrote(settings, prepared, tmp_path, monkeypatch):
  stand_in(monkeypatch, settings, lambda image: jnp.concatenate([0.3 - image, image], -1))
  summary = evaluate.evaluate(settings, tmp_path)
  text = report.report(tmp_path).read_text(encoding='utf-8')
  assert summary.mean.dsc and f'{100 * summary.mean.dsc.mean:.2f}' in text
  assert 'Best:' in text and 'Worst:' in text
