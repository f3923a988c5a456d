"""Several searches in one program against the same searches one by one."""

import contextlib
import functools
import json
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_prep import phantom, prepare
from thrifty_jax import config as configs
from thrifty_jax import files, logbook, stages, stopping
from thrifty_jax.data import mesh
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype
from thrifty_jax.searching import bilevel, budget, results, search, seeds
from thrifty_jax.searching.progress import Progress
from thrifty_jax.training import memory, packing, train_data
from thrifty_jax.training.checkpoint import Checkpoints
from thrifty_jax.training.train_data import TrainData, seed_bits

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

SEEDS = (0, 1)
# Of numbers up to 6; measured 6e-7 after 12 steps.
ROUNDING = 2e-5


# --- the step of several, on made-up steps


def toy_step(seed, state, batch):
  """Random numbers, a kernel of its own for each search, sums over a batch."""
  noise = jax.random.normal(jax.random.fold_in(jax.random.key(seed), state['step']), batch.shape)
  output = (batch + noise) @ state['kernel']
  moved = {'step': state['step'] + 1, 'kernel': state['kernel'] + 0.1 * output.mean(0)}
  return moved, {'loss': output.sum(), 'of_rows': output.mean(1)}


def toy_states(count):
  random = np.random.default_rng(0)
  return [
    {'step': jnp.asarray(2, jnp.int32), 'kernel': jnp.asarray(random.normal(size=(5, 5)))}
    for _ in range(count)
  ]


def one_device():
  return jax.sharding.Mesh(np.asarray(jax.devices()[:1]), (mesh.AXIS,))


@pytest.mark.parametrize('vectorised', [False, True])
def test_searches_side_by_side_take_the_step_of_each_and_one_that_rests_takes_none(vectorised):
  states = toy_states(3)
  batches = [np.full((4, 5), value, np.float32) for value in (1, 2, 3)]
  step = seeds.side_by_side(toy_step, count=3, mesh=one_device(), vectorised=vectorised)
  searches = seeds.told(
    [seed_bits(seed) for seed in (7, 8, 9)], one_device(), going=np.asarray([True, False, True])
  )
  moved, metrics = jax.jit(step)(seeds.stack(states), searches, np.concatenate(batches))
  found = zip(seeds.each(moved, 3), seeds.each(metrics, 3), strict=True)
  for seed, state, batch, (after, told) in zip((7, 8, 9), states, batches, found, strict=True):
    expected, known = toy_step(seed_bits(seed), state, batch)
    if seed == 8:
      expected, known = state, jax.tree.map(jnp.zeros_like, known)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), after, expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), told, known)


def test_what_several_searches_need_in_memory_is_that_of_all_of_them():
  def fixed(count):
    state = {'step': jnp.zeros((), jnp.int32), 'kernel': jnp.zeros((64, 64))}
    arguments = (
      seeds.stack([state] * count),
      seeds.told([seed_bits(seed) for seed in range(count)], one_device()),
      np.zeros((4 * count, 64), np.float32),
    )
    step = seeds.side_by_side(toy_step, count=count, mesh=one_device())
    return memory._need(jax.jit(step).lower(*arguments).compile(), (), copies=1)

  one, four = fixed(1), fixed(4)
  assert one is not None and four is not None
  assert four.fixed == pytest.approx(4 * one.fixed, rel=0.02)


@pytest.mark.parametrize('seed', [0, 3, 2**31 + 5, 2**32 - 1, 2**32 + 7, 2**40])
def test_a_seed_that_a_program_is_told_gives_the_random_numbers_of_the_seed_itself(seed):
  logging.disable(logging.WARNING)  # JAX says that a seed is longer than it takes
  try:
    expected = jax.random.key_data(jax.random.key(seed))
  except OverflowError:
    expected = jax.random.key_data(jax.random.key(seed % 2**32))
  finally:
    logging.disable(logging.NOTSET)
  found = jax.jit(lambda bits: jax.random.key_data(jax.random.key(bits)))(seed_bits(seed))
  np.testing.assert_array_equal(found, expected)


# --- the search


@pytest.fixture(scope='module')
def config(tmp_path_factory, phantom_config):
  """A tiny search of two seeds on phantoms."""
  folder = tmp_path_factory.mktemp('seeds')
  config = phantom_config(folder)
  config.model.depth = 2
  config.model.nodes = 1
  settings = config.search
  settings.seeds = len(SEEDS)
  settings.epochs = 4
  settings.warmup_epochs = 1
  settings.batch_size = 2
  settings.channels = 4
  settings.architecture_learning_rate = 0.02
  phantom.write_promise12(folder / 'raw', patients=7, seed=0)
  prepare.prepare(config)
  return config


def changed(config, **fields):
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict({name.replace('__', '.'): fields[name] for name in fields})
  return config


@pytest.fixture(scope='module', autouse=True)
def compiled_once():
  """The steps of a number of searches are compiled once: they are those of every seed."""
  compiled, compile_steps = {}, search.compile_steps

  def once(config, *arguments):
    if config.search.seeds not in compiled:
      compiled[config.search.seeds] = compile_steps(config, *arguments)
    return compiled[config.search.seeds]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(search, 'compile_steps', once)
    yield


@pytest.fixture(scope='module')
def together(config, tmp_path_factory):
  """The workdir of both searches in one program."""
  workdir = tmp_path_factory.mktemp('together')
  search.search(config, workdir)
  return workdir


@pytest.fixture(scope='module')
def alone(config, tmp_path_factory):
  """The workdirs of a run for each seed."""
  workdirs = [tmp_path_factory.mktemp(f'alone_{seed}') for seed in SEEDS]
  for seed, workdir in zip(SEEDS, workdirs, strict=True):
    search.search(changed(config, seed=seed, search__seeds=1), workdir)
  return workdirs


def states(config, workdir):
  """The last arrays and notes in a workdir, the arrays search by search."""
  opened = train_data.open_train_data(config)
  learners = search.build(config, opened.facts(0, epoch_steps=1))
  start = [
    bilevel.init_state(learners, opened.image_shape(2), seed=seed) for seed in seeds.of(config)
  ]
  progress = Progress(seeds.stack(start), seeds.stack([each.architecture for each in start]))
  like = packing.all_unpacked(progress.arrays())
  with contextlib.closing(Checkpoints(workdir / 'search' / 'checkpoints')) as checkpoints:
    arrays, notes = checkpoints.restore(like)
  return seeds.each(arrays, config.search.seeds), notes


def entries(folder):
  """The lines of metrics.jsonl less the seconds, which differ from run to run."""
  found = logbook.Logbook(folder).entries()
  return [{name: value for name, value in line.items() if name != 'seconds'} for line in found]


def without_places(tree):
  """Shapes and types, as a program on one device has them."""
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def assert_close(found, expected):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=ROUNDING, atol=ROUNDING), found, expected
  )


def test_each_of_several_searches_is_the_run_with_its_seed_alone(config, together, alone):
  found, _ = states(config, together)
  for seed, own, workdir in zip(SEEDS, found, alone, strict=True):
    (expected,), _ = states(changed(config, seed=seed, search__seeds=1), workdir)
    assert_close(own, expected)
    folder = together / 'search' / f'seed_{seed}'
    lines, known = entries(folder), entries(workdir / 'search')
    assert jax.tree.structure(lines) == jax.tree.structure(known)
    assert_close(lines, known)
    paths = [place / 'genotype.json' for place in (folder, workdir / 'search')]
    assert genotype.load(paths[0]) == genotype.load(paths[1])
    provenance = [json.loads(path.read_text())['provenance'] for path in paths]
    for one in provenance:
      one['search'].pop('seeds')
    assert provenance[0] == provenance[1] and provenance[0]['seed'] == seed


def test_the_best_one_on_the_architecture_half_is_the_result(config, together, alone, capsys):
  folder = together / 'search'
  table = json.loads((folder / 'seeds.json').read_text())
  scores = [entries(workdir / 'search')[-1]['architecture_dsc'] for workdir in alone]
  assert scores[0] != scores[1]
  best = SEEDS[int(np.argmax(scores))]
  assert table['picked'] == best
  assert [row['seed'] for row in table['searches']] == list(SEEDS)
  assert [row['architecture_dsc'] for row in table['searches']] == pytest.approx(scores, abs=1e-5)
  for row in table['searches']:
    provenance = json.loads((folder / f'seed_{row["seed"]}' / 'genotype.json').read_text())
    assert row['parameters'] == provenance['provenance']['parameters'] and row['epochs'] == 4
  for name in ('genotype.json', 'metrics.jsonl'):
    assert (folder / name).read_bytes() == (folder / f'seed_{best}' / name).read_bytes()
  found = search.search(config, together)  # as if it had been killed before it wrote them
  assert found == genotype.load(folder / 'genotype.json')
  picked = [line for line in capsys.readouterr().out.splitlines() if line.endswith('picked')]
  assert [line.split()[0] for line in picked] == [str(best)]


def test_several_searches_asked_to_stop_go_on_with_the_same_bits(
  config, together, tmp_path, stop_at
):
  with stop_at(7), pytest.raises(stopping.Stopped, match='search is saved'):
    search.search(config, tmp_path)
  assert not (tmp_path / 'search' / 'genotype.json').exists()
  search.search(config, tmp_path)
  (found, notes), (expected, known) = (states(config, place) for place in (tmp_path, together))
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert notes | {'seconds': 0} == known | {'seconds': 0}
  for name in ('seeds.json', 'genotype.json', 'seed_0/genotype.json', 'seed_1/genotype.json'):
    paths = [place / 'search' / name for place in (tmp_path, together)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
  for name in ('.', 'seed_0', 'seed_1'):
    assert entries(tmp_path / 'search' / name) == entries(together / 'search' / name)


def test_a_search_that_is_finished_keeps_its_state_while_the_others_go_on(
  config, alone, tmp_path, monkeypatch, stop_at
):
  ends, steps = 2, entries(alone[0] / 'search')[0]['step']
  going = property(lambda progress: np.asarray([True, progress.epoch < ends]))
  with monkeypatch.context() as patch:
    patch.setattr(Progress, 'going', going)
    search.search(config, tmp_path / 'together')
  of_one = changed(config, seed=1, search__seeds=1)
  with stop_at(ends * steps), pytest.raises(stopping.Stopped):
    search.search(of_one, tmp_path / 'alone')
  (first, second), _ = states(config, tmp_path / 'together')
  assert_close(first, states(changed(config, search__seeds=1), alone[0])[0][0])
  assert_close(second['state'], states(of_one, tmp_path / 'alone')[0][0]['state'])
  folder = tmp_path / 'together' / 'search'
  assert [len(entries(folder / f'seed_{seed}')) for seed in SEEDS] == [4, ends]
  table = json.loads((folder / 'seeds.json').read_text())['searches']
  assert [row['epochs'] for row in table] == [4, ends]


def test_a_search_goes_on_until_its_own_genotype_has_rested(config, tmp_path, monkeypatch):
  nothing: Any = {}
  state = bilevel.SearchState(jnp.zeros(3, int), {}, nothing, (), ())
  progress = Progress(state, nothing, (4, 5, 6), patience=2)
  progress.unchanged = np.asarray([0, 2, 1])
  assert progress.going.tolist() == [True, False, True]
  found = genotype.Genotype(
    down=(((0, 'down_conv_3x3'), (1, 'down_max_pool')),),
    up=(((0, 'identity'), (1, 'up_conv_3x3')),),
  )
  monkeypatch.setattr(results, 'derive', lambda *arguments: found)
  search.search(changed(config, search__patience=2), tmp_path)
  for seed in SEEDS:
    lines = entries(tmp_path / 'search' / f'seed_{seed}')
    assert [line['unchanged_epochs'] for line in lines] == [0, 1, 2]  # one of warm-up


@pytest.mark.parametrize('debug', [False, True])
def test_a_loss_that_is_not_finite_says_of_which_search_it_is(debug, config, tmp_path, monkeypatch):
  batches = TrainData.batches

  def poisoned(opened, examples, **which):
    for index, batch in enumerate(batches(opened, examples, **which)):
      bad = which['epoch'] == 0 and index == 1
      image = batch['image'].at[2:].multiply(np.nan) if bad else batch['image']
      yield {**batch, 'image': image}

  monkeypatch.setattr(TrainData, 'batches', poisoned)
  place = 'search, epoch 1, step 2, seed 1: [a-z_]+ is not finite'
  if debug:
    place = 'search, step 2: [a-z_]+ is not finite, first of all of seed 1, the image batch: '
  with pytest.raises(InputError, match=place):
    search.search(changed(config, debug=debug), tmp_path)
  told = json.loads((tmp_path / 'search' / 'not_finite.json').read_text())['slices']
  assert {*told} == {'seed_0', 'seed_1'} and {*told['seed_0']} == {'weights', 'architecture'}
  assert told['seed_0'] != told['seed_1']


def test_every_kind_of_search_can_be_one_of_several(config):
  config = changed(
    config,
    search__order='second',
    search__sampling='random',
    search__microbatches=2,
    search__remat=True,
    search__max_parameters=100_000,
  )
  opened = train_data.open_train_data(config)
  learners = search.build(config, opened.facts(0, epoch_steps=1))
  state = seeds.stack([bilevel.init_state(learners, opened.image_shape(2), seed=0)] * 2)
  _, step = bilevel.make_half_steps(
    learners,
    augment=opened.augment,
    parts=config.search.microbatches,
    random_sampling=config.search.sampling == 'random',
    penalty=budget.penalty_of(config),
  )
  step = seeds.side_by_side(step, count=2, mesh=opened.mesh, vectorised=True)
  told = seeds.told([seed_bits(seed) for seed in SEEDS], opened.mesh)
  arguments = state, told, *[opened.batch_shape(4)] * 2
  moved, metrics = jax.eval_shape(step, *without_places(arguments))
  shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), one) for one in (moved, state)]
  assert shapes[0] == shapes[1]
  assert {leaf.shape[0] for leaf in jax.tree.leaves(metrics)} == {2}


def test_a_vectorised_step_of_the_supernet_is_that_of_one_after_the_other(config, together):
  opened = train_data.open_train_data(config)
  halves = search.divide(config, opened)
  facts = [opened.facts(seed, epoch_steps=halves.steps) for seed in SEEDS]
  learners = search.build(config, facts[0])
  state = seeds.stack(
    [bilevel.init_state(learners, opened.image_shape(2), seed=seed) for seed in SEEDS]
  )
  examples = opened.examples(opened.patients['train'])
  batch = next(opened.batches(examples, batch_size=2, epoch=0, searches=2))
  told = seeds.told(facts, opened.mesh)
  _, step = bilevel.make_half_steps(learners, augment=opened.augment)

  def of_facts(facts, *arguments):
    return step(facts.seed, *arguments)

  several = seeds.side_by_side(of_facts, count=2, mesh=opened.mesh, vectorised=True)
  del together  # which has compiled the other form
  _, other = search.compile_steps(config, opened, halves, lambda: state)
  (found, metrics), (expected, known) = (
    jax.jit(several)(*jax.device_get((state, told, batch, batch))),
    other(state, told, batch, batch),
  )
  assert_close(metrics, known)
  # Adam divides a gradient by its own size: where that is rounding so is the step.
  momentum = [each.architecture_optimizer[1][0].mu for each in (found, expected)]
  assert_close(*momentum)


# --- what is refused


@pytest.mark.parametrize('value', [0, -1])
def test_less_than_one_search_is_refused(value, config):
  with pytest.raises(InputError, match=f'search.seeds is {value}; expected a whole number from 1'):
    configs.validate(changed(config, search__seeds=value))


def test_a_number_of_searches_that_is_not_whole_is_refused(config):
  with pytest.raises(TypeError):
    changed(config, search__seeds=1.5)


def test_several_processes_are_refused_with_what_to_do_instead(config):
  refused = changed(config, distributed=True, model__depth=3)
  with pytest.raises(InputError, match=r'seeds is 2; expected 1 .* --config.seed and --workdir'):
    configs.validate(refused)


def test_a_workdir_that_was_begun_with_another_number_of_searches_is_refused(config, tmp_path):
  files.write_json(tmp_path / 'config.json', stages.as_json(config))
  (tmp_path / 'search' / 'checkpoints' / '1').mkdir(parents=True)
  stages.refuse_changes(config, tmp_path)
  with pytest.raises(InputError, match=r'search is half done with .*search.seeds 2 -> 3'):
    stages.refuse_changes(changed(config, search__seeds=3), tmp_path)
