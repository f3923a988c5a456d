"""What each half of a step leaves alone; a resumed search against an unbroken one."""

import contextlib
import functools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from few_operations import FEW
from ml_collections import ConfigDict
from recorded import open_data, prepare_for

from data_prep import phantom
from thrifty_jax import device, logbook, stopping
from thrifty_jax.errors import InputError
from thrifty_jax.networks import build, genotype, parameters
from thrifty_jax.networks.grid import architecture_weights
from thrifty_jax.networks.space import space_of
from thrifty_jax.searching import bilevel, budget, results, search, steps
from thrifty_jax.searching.results import Progress
from thrifty_jax.training import train_data
from thrifty_jax.training.checkpoint import Checkpoints
from thrifty_jax.training.train_data import Epochs

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')


@pytest.fixture(scope='module')
def config(tmp_path_factory, phantom_config):
  """A tiny search on phantoms; augmentation draws random numbers, but its warp costs too much."""
  folder = tmp_path_factory.mktemp('search')
  config = phantom_config(folder)
  config.data.image_size = 18  # filled up with the background to 20
  config.model.depth = 2
  config.model.nodes = 1
  settings = config.search
  settings.epochs = 4
  settings.warmup_epochs = 1
  settings.batch_size = 2
  settings.channels = 4
  settings.operations = FEW
  settings.weight_decay = 0.05
  settings.clip_norm = 0.5
  settings.architecture_learning_rate = 0.02
  phantom.write_promise12(folder / 'raw', patients=7, seed=0)
  return config


@pytest.fixture(autouse=True)
def slices(config, tmp_path):
  """The run of each test has the prepared slices."""
  prepare_for(config, tmp_path)


@pytest.fixture(scope='module')
def opened(config):
  return open_data(config)


@pytest.fixture(scope='module')
def halves(config, opened):
  return steps.divide(config, opened, seed=config.seed)


@pytest.fixture(scope='module')
def learners(config, halves):
  return steps.make_learners(config, halves.epochs[0].facts)


@pytest.fixture(scope='module')
def started(config, halves):
  """The state before the first step, and what every step is told."""
  return steps.start(config, halves)


@pytest.fixture(scope='module')
def start(started):
  return started[0]


@pytest.fixture(scope='module')
def programs(config, halves, started):
  """Both half steps, compiled once for all of this file."""
  return steps.compile_steps(config, halves, *started)


@pytest.fixture(scope='module')
def half_steps(programs, started):
  """weight_step and architecture_step, (state, *batches) -> (state, metrics)."""
  return [lambda state, *batches, run=run: run(state, started[1], *batches) for run in programs]


@pytest.fixture(scope='module')
def batch(opened, config):
  epochs = opened.epochs(opened.patients['train'], batch_size=config.search.batch_size, seed=0)
  return next(epochs.batches(0))


def differs(one, other):
  """Whether any bit of two pytrees differs."""
  leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return any(np.asarray(a).tobytes() != np.asarray(b).tobytes() for a, b in leaves)


# --- each half step and what it leaves alone


def test_the_weight_step_leaves_the_architecture_and_its_optimiser_alone(half_steps, start, batch):
  weight_step, architecture_step = half_steps
  state, _ = architecture_step(start, batch, batch)  # an optimiser that has something to lose
  moved, _ = weight_step(state, batch)
  assert not differs(moved.architecture, state.architecture)
  assert not differs(moved.architecture_optimizer, state.architecture_optimizer)
  assert differs(moved.params, state.params)
  assert differs(moved.weight_optimizer, state.weight_optimizer)
  assert int(moved.step) == int(state.step) + 1


def test_the_architecture_step_leaves_the_weights_and_their_optimiser_alone(
  half_steps, start, batch
):
  weight_step, architecture_step = half_steps
  state, _ = weight_step(start, batch)
  moved, _ = architecture_step(state, batch, batch)
  assert not differs(moved.params, state.params)
  assert not differs(moved.weight_optimizer, state.weight_optimizer)
  assert differs(moved.architecture, state.architecture)
  assert differs(moved.architecture_optimizer, state.architecture_optimizer)
  assert int(moved.step) == int(state.step)
  for before, after in zip(
    jax.tree.leaves(state.architecture), jax.tree.leaves(moved.architecture), strict=True
  ):
    assert (np.asarray(before) != np.asarray(after)).all()  # every alpha and beta is learned


def velocity_of(optimizer):
  """The momentum of the weights, from the optimiser's state."""
  traces = [
    leaf
    for leaf in jax.tree.leaves(optimizer, is_leaf=lambda x: isinstance(x, optax.TraceState))
    if isinstance(leaf, optax.TraceState)
  ]
  assert len(traces) == 1
  return traces[0].trace


def norm(tree):
  return math.sqrt(sum((np.asarray(leaf, float) ** 2).sum() for leaf in jax.tree.leaves(tree)))


def test_clip_norm_and_decay_of_a_weight_step_see_the_weights_only(
  half_steps, start, batch, config
):
  settings, (weight_step, architecture_step) = config.search, half_steps
  state, velocity = start, jax.tree.map(np.zeros_like, start.params)
  for _ in range(3):
    state, _ = architecture_step(state, batch, batch)
    moved, metrics = weight_step(state, batch)
    after = velocity_of(moved.weight_optimizer)
    assert jax.tree.structure(after) == jax.tree.structure(state.params)
    # What is left of the velocity without momentum and decay is the gradient, clipped.
    gradient = jax.tree.map(
      lambda v, old, p: np.asarray(v, float) - settings.weight_momentum * old - 0.05 * p,
      *(after, velocity, state.params),
    )
    assert float(metrics['weight_gradient']) > settings.clip_norm  # else nothing is tested
    assert norm(gradient) == pytest.approx(settings.clip_norm, rel=1e-3)
    state, velocity = moved, after


def test_both_steps_are_pure_functions_of_state_and_batch(half_steps, start, batch):
  weight_step, architecture_step = half_steps
  assert not differs(weight_step(start, batch), weight_step(start, batch))
  first, again = (architecture_step(start, batch, batch) for _ in range(2))
  assert not differs(first, again)


def not_finite(batch):
  return {**batch, 'image': batch['image'] * math.nan}


def test_first_order_never_computes_on_the_weight_batch(half_steps, start, batch):
  _, architecture_step = half_steps
  with_it, without = (architecture_step(start, b, batch) for b in (batch, not_finite(batch)))
  assert not differs(with_it, without)


def test_augmentation_differs_from_step_to_step_and_between_the_halves(half_steps, start, batch):
  weight_step, architecture_step = half_steps
  later = start._replace(step=start.step + 1)
  losses = [
    float(weight_step(start, batch)[1]['weight_loss']),
    float(weight_step(later, batch)[1]['weight_loss']),
    float(architecture_step(start, batch, batch)[1]['architecture_loss']),
    float(architecture_step(later, batch, batch)[1]['architecture_loss']),
  ]
  assert len(set(losses)) == 4


@pytest.mark.parametrize('sampling', ['random', 'shuffle'])
def test_random_sampling_differs_by_step_and_follows_from_the_seed(
  sampling, config, halves, start, batch
):
  config = config.copy_and_resolve_references()
  config.search.sampling = sampling
  learners = steps.make_learners(config, halves.epochs[0].facts)

  def losses(seed):
    _, step = bilevel.make_half_steps(
      learners,
      augment=lambda key, batch: batch,
      random_sampling=config.search.sampling == 'random',
    )
    step = functools.partial(jax.jit(step), train_data.seed_bits(seed))
    found = [step(start._replace(step=jnp.asarray(at)), batch, batch)[1] for at in (0, 1, 2, 3, 0)]
    return [float(metrics['architecture_loss']) for metrics in found]

  *several, again = losses(seed=0)
  assert several[0] == again
  assert len(set(several)) > 1 if sampling == 'random' else len(set(several)) == 1


# --- who is searched on


def test_search_halves_share_no_patient_and_no_slice_with_each_other_or_other_splits(
  halves, opened
):
  groups = [*halves.patients, opened.patients['validation'], opened.patients['test']]
  everyone = [patient for group in groups for patient in group]
  assert len(everyone) == len(set(everyone)) == 7
  rows = [opened.examples(tuple(group))._rows for group in groups]
  for half, expected in zip(halves.epochs, rows[:2], strict=True):
    np.testing.assert_array_equal(half.examples._rows, expected)
  together = np.concatenate(rows)
  assert len(together) == len(set(together.tolist())) == len(opened.prepared.slices)


def test_the_halves_and_the_steps_of_an_epoch_are_those_of_every_seed(config, opened, halves):
  other = steps.divide(config, opened, seed=5)
  assert (other.patients, other.steps) == (halves.patients, halves.steps)


def test_another_seed_has_another_order_of_the_same_slices_which_are_read_once(
  config, opened, halves
):
  other, expected = halves.with_seed(5), steps.divide(config, opened, seed=5)
  assert other.slices_of(1) == expected.slices_of(1) != halves.slices_of(1)
  assert [one.epochs[0].facts.seed for one in (halves, other)] == [config.seed, 5]
  for half, same in zip(other.epochs, halves.epochs, strict=True):
    assert half.examples is same.examples


def test_what_a_search_has_traced_serves_every_seed_and_fold(config, programs, tmp_path):
  programs[0].wait()
  before = device.cache_folder(config.compilation_cache)
  assert before is not None
  config = config.copy_and_resolve_references()
  config.seed, config.data.fold, config.compilation_cache = 3, 1, str(tmp_path)
  halves = steps.divide(config, open_data(config), seed=config.seed)
  steps.compile_steps(config, halves, *steps.start(config, halves))[0].wait()
  traced = [*(tmp_path / 'traced').iterdir()]
  assert len(traced) == 2  # the step, and the shapes of the weights
  for path in traced:
    assert path.read_bytes() == (before / 'traced' / path.name).read_bytes()


# --- the whole loop


def entries_of(workdir):
  """The lines of metrics.jsonl less the seconds, which differ from run to run."""
  entries = logbook.Logbook(workdir / 'search').entries()
  return [{name: value for name, value in e.items() if name != 'seconds'} for e in entries]


def last_state(workdir, start):
  checkpoints = Checkpoints(workdir / 'search' / 'checkpoints')
  with contextlib.closing(checkpoints):
    return checkpoints.restore(Progress(start, start.architecture).arrays())


def genotype_file(workdir):
  return (workdir / 'search' / 'genotype.json').read_bytes()


@pytest.fixture(scope='module')
def unbroken(config, programs, tmp_path_factory):
  """The workdir of a search that nothing stopped."""
  workdir = tmp_path_factory.mktemp('unbroken')
  prepare_for(config, workdir)
  search.search(config, workdir, programs=programs)
  return workdir


def test_a_line_per_epoch_says_what_the_report_needs(unbroken, halves):
  entries = logbook.Logbook(unbroken / 'search').entries()
  assert halves.steps > 1
  assert [entry['epoch'] for entry in entries] == [1, 2, 3, 4]
  assert [entry['step'] for entry in entries] == [halves.steps * epoch for epoch in (1, 2, 3, 4)]
  for entry in entries:
    assert 'penalty' not in entry and 'path_gates' not in entry
    assert 0 <= entry['architecture_dsc'] <= 1
    assert [len(alphas) for alphas in entry['down_alphas']] == [2, 2]
    assert [len(alphas) for alphas in entry['up_alphas']] == [3, 2]
    for weights in (*entry['down_alphas'], *entry['up_alphas'], entry['down_betas']):
      assert sum(weights) == pytest.approx(1, abs=1e-5)


def test_the_architecture_rests_in_the_warm_up_and_moves_after_it(unbroken, start):
  entries = entries_of(unbroken)
  first = architecture_weights(start.architecture, nodes=1)
  for entry, rests in zip(entries, (True, False, False, False), strict=True):
    same = np.allclose(entry['up_alphas'][0], first.up.alphas[0], atol=2e-6)
    assert same == rests
    assert (entry['architecture_loss'] is None) == rests


def test_the_genotype_is_that_of_the_last_architecture_and_tells_where_it_came_from(
  unbroken, start, config, halves
):
  state = last_state(unbroken, start)[0]['state']
  weights = jax.device_get(architecture_weights(state['architecture'], nodes=1))
  expected = genotype.derive(weights, space_of(config))
  assert genotype.load(unbroken / 'search' / 'genotype.json') == expected
  provenance = json.loads(genotype_file(unbroken))['provenance']
  weight_patients, architecture_patients = halves.patients
  told = json.loads((unbroken / 'search' / 'halves.json').read_text())
  assert told == {'weights': list(weight_patients), 'architecture': list(architecture_patients)}
  assert not set(weight_patients) & set(json.dumps(provenance).split('"'))
  assert provenance['epochs'] == 4 and provenance['data'] == 'phantom'
  assert provenance['depth'] == 2


def assert_same_run(workdir, unbroken, start):
  assert entries_of(workdir) == entries_of(unbroken)
  assert genotype_file(workdir) == genotype_file(unbroken)
  (arrays, notes), (expected, expected_notes) = (
    last_state(folder, start) for folder in (workdir, unbroken)
  )
  assert notes | {'seconds': 0} == expected_notes | {'seconds': 0}
  assert notes['epoch'] == 4
  assert not differs(arrays, expected)


# An epoch has 3 steps; the first one is the warm-up.
@pytest.mark.parametrize('step', [1, 3, 4, 6, 8, 12])
def test_a_search_asked_to_stop_after_any_step_goes_on_with_the_same_bits(
  step, config, programs, unbroken, start, tmp_path, stop_at, capsys
):
  with stop_at(step), pytest.raises(stopping.Stopped, match='search is saved'):
    search.search(config, tmp_path, programs=programs)
  arrays, notes = last_state(tmp_path, start)
  assert int(arrays['state']['step']) == step
  assert not (tmp_path / 'search' / 'genotype.json').exists()
  search.search(config, tmp_path, programs=programs)
  assert f'after step {step}, in epoch {notes["epoch"] + 1}' in capsys.readouterr().out
  assert_same_run(tmp_path, unbroken, start)


@pytest.mark.parametrize('stopped_in', [2, 4])
def test_a_line_that_was_written_after_the_last_save_is_written_again(
  stopped_in, config, programs, unbroken, start, tmp_path, monkeypatch
):
  append = logbook.Logbook.append

  def stop(log, entry):
    append(log, entry)
    if entry['epoch'] == stopped_in:
      raise RuntimeError('killed')

  config = config.copy_and_resolve_references()
  config.save_seconds = 0.0  # after every step: the last one's state is saved
  with monkeypatch.context() as patch, pytest.raises(RuntimeError, match='killed'):
    patch.setattr(logbook.Logbook, 'append', stop)
    search.search(config, tmp_path, programs=programs)
  assert len(entries_of(tmp_path)) == stopped_in
  search.search(config, tmp_path, programs=programs)
  assert_same_run(tmp_path, unbroken, start)


@pytest.mark.parametrize(('epoch', 'debug'), [(1, False), (3, False), (3, True)])
def test_a_loss_that_is_not_finite_stops_with_its_place_and_the_checkpoint_stays(
  epoch, debug, config, programs, halves, unbroken, start, tmp_path, monkeypatch
):
  batches = Epochs.batches

  def poisoned(epochs, number, **which):
    for index, batch in enumerate(batches(epochs, number, **which)):
      yield not_finite(batch) if (number, index) == (epoch - 1, 1) else batch

  step = (epoch - 1) * halves.steps + 2
  place = f'search, epoch {epoch}, step {step}: [a-z_]+ is non-finite; .*debug=True'
  if debug:
    place = f'search, step {step}: [a-z_]+ is non-finite; .* is the image batch: '
  config = config.copy_and_resolve_references()
  config.save_seconds, config.debug = 0.0, debug
  with monkeypatch.context() as patch, pytest.raises(InputError, match=place):
    patch.setattr(Epochs, 'batches', poisoned)
    search.search(config, tmp_path, programs=programs)
  assert len(entries_of(tmp_path)) == epoch - 1
  assert not (tmp_path / 'search' / 'genotype.json').exists()
  told = json.loads((tmp_path / 'search' / 'not_finite.json').read_text())
  for name, patients in zip(('weights', 'architecture'), halves.patients, strict=True):
    assert {slice_.split()[0] for slice_ in told['slices'][name]} <= set(patients)
  search.search(config, tmp_path, programs=programs)  # the sound data again
  assert_same_run(tmp_path, unbroken, start)


def test_the_search_asks_for_training_patients_only(
  config, programs, opened, halves, tmp_path, monkeypatch
):
  asked, read = [], Epochs.batches

  def watched(epochs, number, **which):
    asked.append(tuple(sorted({case.patient for case in epochs.examples.cases})))
    return read(epochs, number, **which)

  monkeypatch.setattr(Epochs, 'batches', watched)
  search.search(config, tmp_path, programs=programs)
  weight_patients, architecture_patients = halves.patients
  assert asked == [weight_patients, architecture_patients] * config.search.epochs
  assert set(weight_patients + architecture_patients) == set(opened.patients['train'])


def test_a_search_ends_when_its_genotype_rests_for_as_long_as_patience(
  config, programs, tmp_path, monkeypatch
):
  config = config.copy_and_resolve_references()
  config.search.patience = 2
  found = genotype.Genotype(
    down=(((0, 'down_conv_3x3'), (1, 'down_max_pool')),),
    up=(((0, 'identity'), (1, 'up_conv_3x3')),),
  )
  monkeypatch.setattr(results, 'derive', lambda *arguments: found)
  search.search(config, tmp_path, programs=programs)
  entries = entries_of(tmp_path)
  assert [entry['unchanged_epochs'] for entry in entries] == [0, 1, 2]  # one of warm-up
  (tmp_path / 'search' / 'genotype.json').unlink()
  search.search(
    config, tmp_path, programs=programs
  )  # as if it had been killed before it wrote the genotype
  assert entries_of(tmp_path) == entries


def test_a_penalty_adds_its_gradient_to_that_of_the_architecture(learners, start, batch):
  learners = learners._replace(for_architecture=optax.sgd(1.0))  # the step is the gradient
  start = start._replace(architecture_optimizer=optax.sgd(1.0).init(start.architecture))

  def penalty(architecture):
    return 3 * architecture.up.betas[0] ** 2 + architecture.down.alphas[1].sum()

  moved = []
  for added in (None, penalty):
    _, architecture_step = bilevel.make_half_steps(
      learners, augment=lambda key, batch: batch, penalty=added
    )
    state, metrics = jax.jit(architecture_step)(train_data.seed_bits(0), start, batch, batch)
    moved.append((state.architecture, float(metrics['architecture_loss'])))
  (without, loss), (with_, same_loss) = moved
  assert loss == same_loss  # of the data alone
  difference = jax.tree.map(jnp.subtract, without, with_)
  expected = jax.grad(penalty)(start.architecture)
  for found, leaf in zip(jax.tree.leaves(difference), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(found, leaf, atol=1e-6)


def test_a_search_of_the_path_within_a_limit_tells_sizes_and_keeps_the_limit(
  config, opened, tmp_path, capsys
):
  config = config.copy_and_resolve_references()
  config.model.depth = 3
  config.search.epochs, config.search.warmup_epochs = 3, 1
  config.search.cell_path = True
  space = space_of(config)
  least = budget.least(space)
  config.search.max_parameters = least + 1000
  halves = steps.divide(config, opened, seed=config.seed)
  programs = steps.compile_steps(config, halves, *steps.start(config, halves))
  found = search.search(config, tmp_path, programs=programs)
  out = capsys.readouterr().out
  assert f'the limit is {least + 1000:,}' in out

  entries = entries_of(tmp_path)
  for entry in entries:
    ((keep, skip),) = entry['path_gates']
    assert keep + skip == pytest.approx(1, abs=1e-5)
    excess = entry['expected_parameters'] / config.search.max_parameters
    penalty = budget.PENALTY_WEIGHT * max(0, math.log(excess))
    assert entry['penalty'] == pytest.approx(penalty, abs=1e-4)
  # From a start that is even, all of the few steps lead down.
  sizes = [entry['expected_parameters'] for entry in entries]
  assert config.search.max_parameters < sizes[2] < sizes[1] < sizes[0]

  count = parameters.count(found, space)
  assert least <= count <= config.search.max_parameters
  content = json.loads(genotype_file(tmp_path))
  assert content['provenance']['parameters'] == count and f'{count:,} parameters' in out
  assert [gate['cell'] for gate in content['gates']] == [[1, 0]]
  assert genotype.load(tmp_path / 'search' / 'genotype.json') == found
  before = genotype_file(tmp_path)
  (tmp_path / 'search' / 'genotype.json').unlink()
  search.search(config, tmp_path, programs=programs)  # from the checkpoint, which holds the gates
  assert genotype_file(tmp_path) == before


class Recorded:
  """A program that is called, and what it was given and made noted with a name."""

  def __init__(self, program, name, calls):
    self.program, self.name, self.calls = program, name, calls

  def __call__(self, state, facts, *batches):
    moved, metrics = self.program(state, facts, *batches)
    self.calls.append((self.name, state, batches, moved))
    return moved, metrics

  def begin(self):
    return self.program.begin()

  def wait(self):
    return self.program.wait()


def test_a_second_order_search_looks_ahead_along_the_batch_of_the_weight_step_that_follows(
  config, halves, started, start, batch, tmp_path
):
  config = config.copy_and_resolve_references()
  config.search.order = 'second'
  programs = steps.compile_steps(config, halves, *started)
  calls: list[Any] = []
  recorded: Any = [
    Recorded(program, name, calls)
    for program, name in zip(programs, ('weights', 'architecture'), strict=True)
  ]
  found = search.search(config, tmp_path, programs=recorded)
  assert genotype.load(tmp_path / 'search' / 'genotype.json') == found
  assert len(entries_of(tmp_path)) == config.search.epochs
  count = int(last_state(tmp_path, start)[0]['state']['step'])
  assert [name for name, *_ in calls] == ['architecture', 'weights'] * count
  for (_, before, (ahead, behind), moved), (_, _, (stepped,), _) in zip(
    calls[::2], calls[1::2], strict=True
  ):
    assert ahead is stepped and behind is not stepped
    assert not differs(moved.params, before.params)
    assert not differs(moved.weight_optimizer, before.weight_optimizer)
    assert differs(moved.architecture, before.architecture)
  _, metrics = programs[1](*started, not_finite(batch), batch)
  assert math.isnan(metrics['architecture_loss'])


def test_one_training_patient_is_too_few_for_two_halves(config, tmp_path):
  config = config.copy_and_resolve_references()
  config.data.validation_patients = ('Case00', 'Case01', 'Case02')
  config.data.test_patients = ('Case03', 'Case04', 'Case05')
  with pytest.raises(InputError, match='needs at least 2'):
    search.search(config, tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['data.json']


def test_the_supernet_starts_from_the_seed(learners, opened, config, start):
  image = opened.image_shape(config.search.batch_size)
  again, other = (bilevel.init_state(learners, image, seed=seed) for seed in (config.seed, 1))
  assert not differs(again, start)
  assert differs(again.architecture, other.architecture) and differs(again.params, other.params)
  assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(start.architecture)) < 0.01
  assert build.count(start.params) > 0 and isinstance(config, ConfigDict)
