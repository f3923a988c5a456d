"""What a folder tells of its stages: what is done, with which settings, and for which weights."""

import os
import shutil

import pytest

from thrifty_jax import config as configs
from thrifty_jax import files, stages
from thrifty_jax.errors import InputError


@pytest.fixture
def config():
  config = configs.default()
  config.retrain.epochs = 50
  return config


@pytest.fixture
def workdir(config, tmp_path):
  """The folder of a run that is trained for 50 epochs."""
  files.write_json(tmp_path / 'config.json', stages.to_json(config))
  files.write_json(tmp_path / 'retrain' / 'summary.json', {'planned_epochs': [20, 50]})
  train(tmp_path, 'one')
  return tmp_path


def train(workdir, weights):
  """Leaves a model with such weights."""
  checksums = {'sha256': {'weights.safetensors': weights}}
  files.write_json(workdir / 'model' / 'checksums.json', checksums)


def test_more_epochs_that_were_asked_for_and_not_trained_lock_nothing(config, workdir):
  config.retrain.epochs = 80
  files.write_json(workdir / 'config.json', stages.to_json(config))
  for epochs in (80, 60, 50):
    config.retrain.epochs = epochs
    stages.refuse_changes(config, workdir)
    assert stages.RETRAIN.is_done(workdir, config) == (epochs == 50)
  config.retrain.epochs = 40
  with pytest.raises(InputError, match='retrain is done .*: retrain.epochs 50 -> 40; go back'):
    stages.refuse_changes(config, workdir)
  (workdir / 'retrain' / 'summary.json').unlink()
  (workdir / 'retrain' / 'checkpoints' / '7').mkdir(parents=True)
  with pytest.raises(InputError, match='retrain is half done .*: retrain.epochs 80 -> 40; go back'):
    stages.refuse_changes(config, workdir)


def test_a_training_for_a_time_has_not_read_the_epochs(config, workdir):
  config.retrain.minutes = 5.0
  files.write_json(workdir / 'config.json', stages.to_json(config))
  config.retrain.epochs = 40
  stages.refuse_changes(config, workdir)


@pytest.mark.parametrize('before', ['lean', 'thrifty'])
def test_cells_and_lean_networks_do_not_share_a_search(config, tmp_path, before):
  place = 'search/genotypes/a.json' if before == 'lean' else 'search/halves.json'
  files.write_json(tmp_path / place, {})
  files.write_json(tmp_path / 'search' / 'genotype.json', {})
  other = 'thrifty' if before == 'lean' else 'lean'
  for model in (before, 'unet'):
    configs.set_model(config, model)
    files.write_json(tmp_path / 'config.json', stages.to_json(config))  # of the last training
    stages.refuse_changes(config, tmp_path)
    configs.set_model(config, before)
    stages.refuse_changes(config, tmp_path)
    configs.set_model(config, other)
    with pytest.raises(InputError, match=f"search is done .*: model.name '{before}' -> '{other}'"):
      stages.refuse_changes(config, tmp_path)


def test_what_is_done_with_settings_that_are_not_known_is_refused(config, workdir):
  (workdir / 'config.json').unlink()
  with pytest.raises(InputError, match=r'config\.json: there is no such file, but retrain is done'):
    stages.refuse_changes(config, workdir)
  shutil.rmtree(workdir / 'retrain')
  stages.refuse_changes(config, workdir)


def test_scores_are_those_of_the_weights_whatever_the_times_of_the_files(workdir):
  summary = workdir / 'evaluate' / 'summary.json'
  assert not stages.is_scored(workdir)
  files.write_json(summary, {'weights_sha256': ['one']})
  os.utime(summary, (0, 0))  # as a copy may have it
  assert stages.is_scored(workdir)
  train(workdir, 'other')
  os.utime(summary)
  assert not stages.is_scored(workdir)


def test_scores_of_an_older_version_go_by_the_times_of_the_files(workdir):
  summary = workdir / 'evaluate' / 'summary.json'
  files.write_json(summary, {})
  assert stages.is_scored(workdir)
  os.utime(summary, (0, 0))
  assert not stages.is_scored(workdir)
