"""What several folds come to as one result."""

import dataclasses

import pytest

from thrifty_jax import config as configs
from thrifty_jax import files
from thrifty_jax.errors import InputError
from thrifty_jax.running import folds
from thrifty_jax.running.command_line import Command
from thrifty_jax.scores import over_folds, standings


def test_a_fold_that_was_trained_anew_is_left_out_with_a_line(monkeypatch, tmp_path, capsys):
  written = []
  monkeypatch.setattr(over_folds, 'write', lambda workdir, there: written.append(there))
  command = Command(configs.default(), 'x.py', tmp_path, 'retrain', folds=(0, 1, 2))
  runs = folds.make_commands(command)
  for fold, weights in ((0, 'scored'), (1, 'longer')):  # the third is not scored yet
    place = tmp_path / f'fold_{fold}'
    files.write_json(place / 'evaluate' / 'summary.json', {'weights_sha256': ['scored']})
    checksums = {'sha256': {'weights.safetensors': weights}}
    files.write_json(place / 'model' / 'checksums.json', checksums)
  folds.sum_up(command, runs)
  assert written == [[tmp_path / 'fold_0']]
  line = f'scores    {tmp_path / "fold_1"}: left out, as trained anew since; run'
  assert line in capsys.readouterr().out


def test_folds_and_a_file_that_makes_one_split_are_refused_together(tmp_path):
  (tmp_path / 'splits.json').write_text('{}')
  command = Command(configs.default(), 'x.py', tmp_path, 'all', folds=(0, 1))
  with pytest.raises(InputError, match=r'splits.json: makes one split; leave out --folds, or move'):
    folds.make_commands(command)
  assert folds.make_commands(dataclasses.replace(command, folds=())) != []
  assert len(folds.make_commands(dataclasses.replace(command, stage='report'))) == 2


@pytest.mark.parametrize('stage', ['front', 'compare'])
def test_folds_beside_a_front_or_a_comparison_do_not_mind_its_split(stage, tmp_path):
  (tmp_path / 'splits.json').write_text('{}')
  (tmp_path / stage).mkdir()
  command = Command(configs.default(), 'x.py', tmp_path, 'all', folds=(0, 1))
  assert len(folds.make_commands(command)) == 2


def test_a_report_leaves_a_comparison_as_it_is_whose_networks_were_trained_anew(
  monkeypatch, tmp_path, capsys
):
  def write(workdir, there):
    raise standings.TrainedAnew(f'{there[0]}: was trained anew')

  monkeypatch.setattr(standings, 'write', write)
  files.write_json(tmp_path / 'fold_0' / 'compare' / 'results.json', [])
  command = Command(configs.default(), 'x.py', tmp_path, 'report', folds=(0,))
  folds.sum_up(command, folds.make_commands(command))
  line = f'not summed up anew: {tmp_path / "fold_0"}: was trained anew'
  assert line in capsys.readouterr().out
  command = Command(configs.default(), 'x.py', tmp_path, 'compare', folds=(0,))
  with pytest.raises(standings.TrainedAnew):
    folds.sum_up(command, folds.make_commands(command))
