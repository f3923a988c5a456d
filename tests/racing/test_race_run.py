"""A whole run that races, from scans to a report, by the command."""

import dataclasses
import importlib.util
import json

import pytest

from thrifty_jax import config as configs
from thrifty_jax import main, stages
from thrifty_jax.networks import genotype, lean_space
from thrifty_jax.racing import entrants
from thrifty_jax.running import readiness

NEEDED = ('onnx', 'onnxruntime')
pytestmark = [
  pytest.mark.usefixtures('quick_compilation'),
  pytest.mark.skipif(
    not all(map(importlib.util.find_spec, NEEDED)), reason='needs requirements-export.txt'
  ),
]


@pytest.fixture
def run(tmp_path, monkeypatch):
  """The function that runs the command on phantoms, with two shapes and a U-Net in the race."""
  known, unets = entrants.list_known()[:2], entrants.list_unets()[:1]
  small = [
    dataclasses.replace(one, genotype=lean_space.unet(width, levels=3, skip=skip))
    for one, width, skip in zip([*known, *unets], (4, 8, 4), ('add', 'add', 'concat'), strict=True)
  ]  # which are soon compiled
  monkeypatch.setattr(entrants, 'list_known', lambda: small[:2])
  monkeypatch.setattr(entrants, 'list_unets', lambda: small[2:])
  monkeypatch.setattr(entrants, 'draw', lambda generator, known: iter(()))
  monkeypatch.setattr(entrants, 'mutate', lambda *arguments: iter(()))
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # in the processes of the race too
  settings = {
    'data.raw_dir': tmp_path / 'raw', 'data.data_dir': tmp_path / 'tfds',
    'augment.elastic_probability': 0.0, 'augment.rotate_degrees': 0.0,
    'augment.translate': (0.0, 0.0), 'augment.scale': (1.0, 1.0), 'augment.gamma': (1.0, 1.0),
    'augment.flip_left_right': False, 'cost.spread': 1e9, 'cost.precision': 'int8',
    'front.entrants': 2, 'front.rungs': 1, 'front.minutes': 60, 'front.folds': 1,
    'front.workers': 1, 'retrain.warmup_epochs': 0,
  }  # fmt: skip

  def command(*arguments):
    fields = [f'--config.{name}={value}' for name, value in settings.items()]
    place = f'--workdir={tmp_path / "run"}'
    return main.main(['--config=configs/phantom.py:lean', place, *fields, *arguments])

  return command


def test_a_run_races_trains_scores_and_reports(run, tmp_path, capsys):
  options = ('--config.search.max_ms=1000', '--config.retrain.epochs=1')
  assert run(*options) == 0, capsys.readouterr()
  workdir = tmp_path / 'run'
  raced = json.loads((workdir / 'search' / 'front.json').read_text())
  (best,) = [one for one in raced if one['chosen']]
  assert len(raced) == 3 and best['budgets_ms'] == [1000]
  found = genotype.load_any(workdir / 'search' / 'genotype.json')
  assert genotype.load_any(workdir / 'model' / 'genotype.json') == found
  assert genotype.load_any(workdir / best['genotype']) == found
  page = (workdir / 'report.html').read_text(encoding='utf-8')
  assert 'The race' in page and f'Take {best["name"]}' in page
  out = capsys.readouterr().out
  told = json.loads((workdir / 'search' / 'pace.json').read_text())
  assert told['trainings'] == [3] and told['epoch_seconds'] > 0 and told['epochs'] == [1]
  assert 'rung 1' in out and 'test DSC' not in out.partition('retrain:')[0]
  assert run(*options) == 0
  assert 'search: done' in capsys.readouterr().out


def test_a_run_for_a_time_races_for_a_time_and_goes_on_where_it_was(run, tmp_path, capsys):
  options = ('--config.search.max_ms=1000', '--config.retrain.minutes=0.05')
  assert run(*options, '--stage=prepare') == run(*options, '--stage=search') == 0, (
    capsys.readouterr()
  )
  search = tmp_path / 'run' / 'search'
  (rung,) = json.loads((search / 'race.json').read_text())['rungs']
  assert 0 < rung['minutes'] <= 0.05
  written = {
    path: path.read_bytes() for path in search.glob('*/rung_1/fold_0/retrain/metrics.jsonl')
  }
  assert len(written) == 3
  (search / 'front.json').unlink()  # as if it had been stopped before the end
  assert run(*options, '--stage=search') == 0, capsys.readouterr()
  assert {path: path.read_bytes() for path in written} == written
  raced = json.loads((search / 'front.json').read_text())
  assert [one['minutes'] for one in raced] == 3 * [rung['minutes']]


def test_a_front_alone_can_be_reported_on(tmp_path):
  (tmp_path / 'front').mkdir()
  readiness.require(stages.REPORT, configs.default(), tmp_path)
