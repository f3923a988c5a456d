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


@pytest.mark.parametrize('state', ['done', 'half done'])
@pytest.mark.parametrize('before', ['lean', 'thrifty'])
def test_cells_and_lean_networks_do_not_share_a_search(config, tmp_path, before, state):
  if state == 'done':
    space = {'space': 'lean'} if before == 'lean' else {}  # as of older versions
    files.write_json(tmp_path / 'search' / 'genotype.json', space)
  else:
    (tmp_path / 'search' / 'a' / 'checkpoints' / '7').mkdir(parents=True)
  if (before == 'lean') == (state == 'half done'):  # neither tells what is done
    (tmp_path / 'search' / 'genotypes').mkdir()
  other = 'thrifty' if before == 'lean' else 'lean'
  for model in (before, 'unet'):
    configs.set_model(config, model)
    files.write_json(tmp_path / 'config.json', stages.to_json(config))  # of the last training
    stages.refuse_changes(config, tmp_path)
    configs.set_model(config, before)
    stages.refuse_changes(config, tmp_path)
    configs.set_model(config, other)
    message = f"search is {state} .*: model.name '{before}' -> '{other}'"
    with pytest.raises(InputError, match=message):
      stages.refuse_changes(config, tmp_path)


def test_a_race_that_is_half_done_is_gone_on_with_after_a_given_genotype(config, tmp_path):
  for path in ('genotypes', 'a/checkpoints/7'):
    (tmp_path / 'search' / path).mkdir(parents=True)
  config.genotype = 'given.json'
  files.write_json(tmp_path / 'config.json', stages.to_json(config))
  config.genotype = ''
  configs.set_model(config, 'lean')
  stages.refuse_changes(config, tmp_path)


def test_cells_are_searched_where_a_race_was_stopped_before_it_trained(config, tmp_path):
  (tmp_path / 'search' / 'genotypes').mkdir(parents=True)
  stages.refuse_changes(config, tmp_path)
  files.write_json(tmp_path / 'config.json', stages.to_json(config))
  (tmp_path / 'search' / 'checkpoints' / '7').mkdir(parents=True)
  stages.refuse_changes(config, tmp_path)
  files.write_json(tmp_path / 'search' / 'genotype.json', {'space': 'thrifty'})
  stages.refuse_changes(config, tmp_path)


def test_a_race_without_the_list_of_its_networks_is_to_be_run_again(config, tmp_path):
  configs.set_model(config, 'lean')
  folder = tmp_path / 'search'
  files.write_json(tmp_path / 'config.json', stages.to_json(config))
  files.write_json(folder / 'genotype.json', {'space': 'lean'})
  assert stages.SEARCH.is_done(tmp_path)  # a copy
  (folder / 'genotypes').mkdir()
  assert not stages.SEARCH.is_done(tmp_path) and stages.SEARCH.is_begun(tmp_path)
  config.seed = 1
  with pytest.raises(InputError, match='search is half done .*: seed 0 -> 1'):
    stages.refuse_changes(config, tmp_path)
  files.write_json(folder / 'front.json', [])
  assert stages.SEARCH.is_done(tmp_path)
  (folder / 'front.json').unlink()
  files.write_json(folder / 'genotype.json', {'space': 'thrifty'})  # cells were searched after it
  assert stages.SEARCH.is_done(tmp_path)


def test_what_is_done_with_settings_that_are_not_known_is_refused(config, workdir):
  (workdir / 'config.json').unlink()
  with pytest.raises(InputError, match=r'config\.json: there is no such file, but retrain is done'):
    stages.refuse_changes(config, workdir)
  shutil.rmtree(workdir / 'retrain')
  stages.refuse_changes(config, workdir)
  files.write_json(workdir / 'search' / 'genotype.json', {})
  with pytest.raises(InputError, match=r'search is done .*remove .*named by --config\.genotype'):
    stages.refuse_changes(config, workdir)


def test_scores_are_those_of_the_weights_whatever_the_times_of_the_files(workdir):
  summary = workdir / 'evaluate' / 'summary.json'
  assert not stages.is_scored(workdir)
  files.write_json(summary, {'weights_sha256': ['one']})
  os.utime(summary, (0, 0))  # as a copy may have it
  assert not stages.is_scored(workdir)  # longer training may write the same weights anew
  files.write_json(workdir / 'model' / 'scores.json', {})
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
