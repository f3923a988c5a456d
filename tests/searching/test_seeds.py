"""Searches of several seeds against a search of each seed alone."""

import json
import signal
from typing import Any

import interrupted
import numpy as np
import pytest
from few_operations import FEW
from recorded import open_data, prepare_for

from data_prep import phantom
from thrifty_jax import config as configs
from thrifty_jax import files, logbook, stages, stopping
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype
from thrifty_jax.searching import search, steps
from thrifty_jax.training import compiling

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

SEEDS = (0, 1)


@pytest.fixture(scope='module')
def config(tmp_path_factory, phantom_config):
  """A tiny search of two seeds on phantoms."""
  folder = tmp_path_factory.mktemp('seeds')
  config = phantom_config(folder)
  config.model.depth = 2
  config.model.nodes = 1
  settings = config.search
  settings.seeds = len(SEEDS)
  settings.epochs = 3
  settings.warmup_epochs = 1
  settings.batch_size = 2
  settings.channels = 4
  settings.operations = FEW
  settings.architecture_learning_rate = 0.02
  phantom.write_promise12(folder / 'raw', patients=7, seed=0)
  return config


@pytest.fixture(autouse=True)
def slices(config, tmp_path):
  """The run of each test has the prepared slices."""
  prepare_for(config, tmp_path)


def changed(config, **fields):
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict({name.replace('__', '.'): fields[name] for name in fields})
  return config


@pytest.fixture(scope='module')
def programs(config):
  """The half steps, compiled once for the searches of this file."""
  halves = steps.divide(config, open_data(config), seed=0)
  return steps.compile_steps(config, halves, *steps.start(config, halves))


@pytest.fixture(scope='module')
def compiled(config, tmp_path_factory):
  """The folder of a search of both seeds, and how many programs it compiled."""
  workdir, compile_step, count = tmp_path_factory.mktemp('both'), compiling.compile_step, []

  def counted(*arguments, **settings):
    count.append(True)
    return compile_step(*arguments, **settings)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(compiling, 'compile_step', counted)
    prepare_for(config, workdir)
    search.search(config, workdir)
  return workdir / 'search', len(count)


@pytest.fixture(scope='module')
def both(compiled):
  return compiled[0]


@pytest.fixture(scope='module')
def alone(config, programs, tmp_path_factory):
  """The folders of a search for each seed."""
  workdirs = [tmp_path_factory.mktemp(f'alone_{seed}') for seed in SEEDS]
  prepare_for(config, *workdirs)
  for seed, workdir in zip(SEEDS, workdirs, strict=True):
    search.search(changed(config, seed=seed, search__seeds=1), workdir, programs=programs)
  return [workdir / 'search' for workdir in workdirs]


def entries(folder):
  """The lines of metrics.jsonl less the seconds, which differ from run to run."""
  found = logbook.Logbook(folder).entries()
  return [{name: value for name, value in line.items() if name != 'seconds'} for line in found]


def assert_same_search(found, expected):
  """Figures, result and the last state of two searches are the same, bit for bit."""
  assert entries(found) == entries(expected)
  results = [json.loads((folder / 'genotype.json').read_text()) for folder in (found, expected)]
  for one in results:
    one['provenance']['search'].pop('seeds')
  assert results[0] == results[1]
  states = [interrupted.last_state(folder / 'checkpoints') for folder in (found, expected)]
  assert states[0].keys() == states[1].keys()
  for name, array in states[0].items():
    assert array.tobytes() == states[1][name].tobytes(), name


def test_each_of_several_searches_is_bit_for_bit_the_run_with_its_seed_alone(both, alone):
  for seed, folder in zip(SEEDS, alone, strict=True):
    assert_same_search(both / f'seed_{seed}', folder)
    provenance = json.loads((folder / 'genotype.json').read_text())['provenance']
    assert provenance['seed'] == seed
  assert entries(alone[0]) != entries(alone[1])


def test_both_seeds_take_the_programs_that_are_compiled_for_the_first(compiled):
  assert compiled[1] == 2  # one for each half


def test_the_best_one_on_the_architecture_half_is_the_result(config, programs, both, alone, capsys):
  scores = [entries(folder)[-1]['architecture_dsc'] for folder in alone]
  assert scores[0] != scores[1]
  best = SEEDS[int(np.argmax(scores))]
  for name in ('genotype.json', 'metrics.jsonl'):
    assert (both / name).read_bytes() == (both / f'seed_{best}' / name).read_bytes()
  table = json.loads((both / 'seeds.json').read_text())
  provenance = [json.loads((each / 'genotype.json').read_text())['provenance'] for each in alone]
  assert table == {
    'picked': best,
    'searches': [
      {'seed': seed, 'architecture_dsc': dsc, 'parameters': one['parameters'], 'epochs': 3}
      for seed, dsc, one in zip(SEEDS, scores, provenance, strict=True)
    ],
  }
  # Once more, as if it had been killed before it wrote them.
  found = search.search(config, both.parent, programs=programs)
  assert found == genotype.load(both / 'genotype.json')
  told = [line.split() for line in capsys.readouterr().out.splitlines()]
  (picked,) = [line for line in told if line[-1:] == ['picked']]
  assert picked == [str(best), f'{100 * max(scores):.2f}', *picked[2:]]


class Signalled:
  """A program at whose call of that number a signal to stop arrives."""

  def __init__(self, program, number):
    self.program, self.left = program, number

  def __call__(self, *arguments):
    self.left -= 1
    if not self.left:
      signal.raise_signal(signal.SIGTERM)
    return self.program(*arguments)

  def begin(self):
    return self.program.begin()

  def wait(self):
    return self.program.wait()


def test_a_search_stopped_in_the_second_seed_goes_on_there_with_the_same_bits(
  config, programs, both, tmp_path, capsys
):
  at = entries(both / 'seed_0')[-1]['step'] + 2
  stopped: Any = [Signalled(programs[0], at), programs[1]]
  with pytest.raises(stopping.Stopped, match='search is saved'), stopping.handle():
    search.search(config, tmp_path, programs=stopped)
  folder = tmp_path / 'search'
  assert (folder / 'seed_0' / 'genotype.json').exists()
  assert not (folder / 'seed_1' / 'genotype.json').exists()
  assert not (folder / 'genotype.json').exists()
  assert stages.SEARCH.is_begun(tmp_path) and not stages.SEARCH.is_done(tmp_path)
  capsys.readouterr()
  with stopping.handle():
    search.search(config, tmp_path, programs=programs)
  assert 'after step 2, in epoch 1' in capsys.readouterr().out
  for seed in SEEDS:
    assert_same_search(folder / f'seed_{seed}', both / f'seed_{seed}')
  for name in ('seeds.json', 'genotype.json'):
    assert (folder / name).read_bytes() == (both / name).read_bytes()


@pytest.mark.parametrize('value', [0, -1])
def test_less_than_one_search_is_refused(value, config):
  with pytest.raises(InputError, match=f'search.seeds is {value}; expected a whole number from 1'):
    configs.validate(changed(config, search__seeds=value, model__depth=3))


def test_a_workdir_that_was_begun_with_another_number_of_searches_is_refused(config, tmp_path):
  files.write_json(tmp_path / 'config.json', stages.to_json(config))
  (tmp_path / 'search' / 'seed_0' / 'checkpoints' / '1').mkdir(parents=True)
  stages.refuse_changes(config, tmp_path)
  with pytest.raises(InputError, match=r'search is half done with .*search.seeds 2 -> 3'):
    stages.refuse_changes(changed(config, search__seeds=3), tmp_path)
