"""A race by the command, with stand-ins for times and trainings: what stops it, what goes on."""

import json
import types

import fake_race
import pytest

from thrifty_jax import config as configs
from thrifty_jax import main
from thrifty_jax.cost import stopwatch
from thrifty_jax.racing import timing


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with phantoms and their slices."""
  return tmp_path_factory.mktemp('phantoms')


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capfd):
  """The function `stage` that runs one in <tmp_path>/run, and the stand-ins `stands`.

  It returns the status, the output and the errors.
  """
  fields = {
    'data.raw_dir': folder / 'raw', 'data.data_dir': folder / 'tfds', 'data.image_size': 64,
    'cost.runtime': 'jax', 'front.entrants': 6, 'front.rungs': 2, 'front.folds': 1,
    'front.workers': 1,
  }  # fmt: skip
  options = [f'--config.{name}={value}' for name, value in fields.items()]

  def command(stage, *arguments):
    place = f'--workdir={tmp_path / "run"}'
    status = main.main(
      ['--config=phantom:lean', place, f'--stage={stage}', *options, *map(str, arguments)]
    )
    out, err = capfd.readouterr()
    return status, out, err

  status, _, err = command('prepare')
  assert status == 0, err
  return types.SimpleNamespace(stage=command, stands=fake_race.Stands(monkeypatch))


def read_error(err):
  """Returns the only line of the errors that is no progress bar."""
  (line,) = [line for line in err.splitlines() if line.startswith('error: ')]
  assert err.rstrip('\n').endswith(line)
  return line


def test_a_damaged_list_of_networks_is_written_anew_as_the_report_advises(run, tmp_path):
  status, out, err = run.stage('search', '--config.search.max_ms=20')
  assert status == 0, err
  path = tmp_path / 'run' / 'search' / 'front.json'
  content, trained = path.read_bytes(), len(run.stands.trained)
  assert 'search: done' in run.stage('search', '--config.search.max_ms=20')[1]
  path.write_text('[{')
  status, _, err = run.stage('report', '--config.search.max_ms=20')
  assert status == 2 and str(path) in read_error(err)
  path.write_text('[{}]')
  status, _, err = run.stage('report', '--config.search.max_ms=20')
  assert status == 2 and 'remove it and run the stage that writes it again' in read_error(err)
  path.unlink()
  status, out, err = run.stage('search', '--config.search.max_ms=20')
  assert status == 0 and 'search: done' not in out, err
  assert path.read_bytes() == content and len(run.stands.trained) == trained


def test_a_budget_below_every_network_is_one_line_and_keeps_the_times(run, tmp_path):
  costs = tmp_path / 'run' / 'search' / timing.COSTS
  for _ in range(2):
    status, _, err = run.stage('search', '--config.search.max_ms=0.001')
    assert status == 2
    assert 'no network is within 0.001 ms for a slice of 64 x 64 pixels' in read_error(err)
    names = [one['name'] for one in json.loads(costs.read_text())]
    assert names == run.stands.timed == [*dict.fromkeys(names)]  # each once
  assert not run.stands.trained
  status, _, err = run.stage('search', '--config.search.max_ms=20')
  assert status == 0 and run.stands.timed[: len(names)] == names, err


def test_a_machine_that_is_too_busy_is_one_line_and_keeps_the_times(run, tmp_path):
  stands = run.stands

  def measured(names):
    if stands.timed:
      clock = iter([0, 1, 1, 4] * 99)
      stopwatch.time_in_turns(
        {names[0]: lambda: None}, repeats=4, warm_up=0, clock=lambda: next(clock),
        most_spread=configs.default().cost.spread,
      )  # fmt: skip

  stands.measured = measured
  status, _, err = run.stage('search', '--config.search.max_ms=20')
  assert status == 2 and 'the machine is too busy to time' in read_error(err)
  kept = json.loads((tmp_path / 'run' / 'search' / timing.COSTS).read_text())
  assert [one['name'] for one in kept] == stands.timed and len(kept) == timing.AT_ONCE
  stands.measured = lambda names: None
  status, _, err = run.stage('search', '--config.search.max_ms=20')
  assert status == 0, err
  assert len(stands.timed) == len({*stands.timed}) > len(kept)
