"""The search stage: trains the supernet, or several of them, and derives a genotype from each."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import files, logbook
from thrifty_jax.data import mesh, splits
from thrifty_jax.data.batching import Batch, Examples, steps_per_epoch
from thrifty_jax.networks import build as building
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.grid import Supernet
from thrifty_jax.networks.model_spec import background
from thrifty_jax.running import hosts
from thrifty_jax.searching import bilevel, budget, faults, results, seeds
from thrifty_jax.searching.bilevel import Learners, SearchState
from thrifty_jax.searching.progress import Progress
from thrifty_jax.training import cache, debug, memory, programs, resources
from thrifty_jax.training.autosave import Autosave
from thrifty_jax.training.programs import Program
from thrifty_jax.training.train_data import Facts, TrainData, fault_recorded, open_train_data

# Batches at the end of an epoch that tell the DSC of the architecture half in the warm-up, which
# trains only the weights: by then the architecture's step is compiled.
PROBED_BATCHES = 4


class Halves(NamedTuple):
  """The training patients, divided between the weights and the architecture."""

  patients: tuple[tuple[str, ...], tuple[str, ...]]
  examples: tuple[Examples, Examples]
  steps: int  # an epoch


def divide(config: ConfigDict, train_data: TrainData) -> Halves:
  """Halves the training patients; an epoch is one pass over those for the weights."""
  patients = splits.search_halves(train_data.patients['train'])
  for_weights, for_architecture = map(train_data.examples, patients)
  steps = steps_per_epoch(len(for_weights), config.search.batch_size)
  return Halves(patients, (for_weights, for_architecture), steps)


def build(config: ConfigDict, facts: Facts) -> Learners:
  """The supernet and both optimisers; what they need to know of the run may be traced."""
  settings = config.search
  steps = facts.epoch_steps * settings.epochs
  second = settings.order == 'second'
  net = Supernet(
    classes=len(config.data.classes),
    channels=settings.channels,
    depth=config.model.depth,
    nodes=config.model.nodes,
    sample=settings.sample,
    sampling=settings.sampling,
    cell_path=settings.cell_path,
    remat=settings.remat,
  )
  return Learners(
    net,
    background(facts.statistics, context=config.data.context),
    bilevel.weight_optimizer(settings, steps=steps),
    bilevel.architecture_optimizer(settings),
    bilevel.weight_optimizer(settings, steps=steps, clipped=False) if second else None,
  )


def search(config: ConfigDict, workdir: Path | str) -> Genotype:
  """Searches an architecture and writes <workdir>/search/genotype.json.

  Goes on from the last checkpoint if there is one. Several searches, config.search.seeds, have a
  folder each, search/seed_<seed>; the best one's files are those of the stage.

  Args:
    config: Of the run.
    workdir: Its folder.

  Returns:
    The genotype.

  Raises:
    InputError: Unprepared data, too few patients, or a number that is not finite.
    Stopped: If asked to stop; the state is saved.
  """
  resources.forget_peak()
  folder, settings, numbers = Path(workdir) / 'search', config.search, seeds.of(config)
  mesh.require_even(config, 'search')
  hosts.call('search', config)
  train_data = open_train_data(config)
  hosts.meet(train_data.in_words())
  halves = divide(config, train_data)
  learners = build(config, train_data.facts(config.seed, epoch_steps=halves.steps))
  drawn: Future[SearchState] = Future()
  began = time.monotonic()
  steps = compile_steps(config, train_data, halves, drawn.result)
  image = train_data.image_shape(settings.batch_size)
  find_shapes = functools.partial(cache.shapes, config)
  states = [
    bilevel.init_state(learners, image, seed=seed, find_shapes=find_shapes) for seed in numbers
  ]
  _tell(config, halves, states)
  state = mesh.place(seeds.stack(states), seeds.sharding(train_data.mesh, len(numbers)))
  drawn.set_result(state)
  del states  # of which there is a copy now
  # Beside the genotype and not in it: a genotype is passed on, names of patients are not.
  for_weights, for_architecture = map(list, halves.patients)
  files.write_json(
    folder / 'halves.json', {'weights': for_weights, 'architecture': for_architecture}
  )
  autosave = Autosave(folder / 'checkpoints', 'search', seconds=config.save_seconds)
  folders = [folder / f'seed_{seed}' for seed in numbers] if len(numbers) > 1 else [folder]
  logs = [logbook.Logbook(one, tensorboard=config.tensorboard) for one in folders]
  progress = Progress(
    state, state.architecture, numbers, settings.patience, planned=(settings.epochs,)
  )
  if config.debug:
    sources = (faults.source(config, train_data, learners, half=half) for half in range(2))
    steps = [
      step.watched(functools.partial(debug.watched, stage='search', source=source))
      for step, source in zip(steps, sources, strict=True)
    ]
  slices_of = functools.partial(
    faults.slices, config, train_data, halves.examples, steps=halves.steps
  )
  autosave.resume(progress, *logs)
  if not _is_finished(progress, settings):
    # Before the loop, where a signal to stop need not wait for it.
    logbook.say_compiling()
    # On a GPU both: XLA tries kernels as it compiles, which steps beside it would slow down.
    for step in steps if hosts.several() or jax.default_backend() == 'gpu' else steps[:1]:
      step.wait()
    hosts.meet('compiled')  # on a CPU no device waits for another longer than 30 s
    logbook.say('compiled', f'in {logbook.duration(time.monotonic() - began)}')

  with (
    autosave,
    contextlib.ExitStack() as ends,
    logbook.progress(settings.epochs * halves.steps, 'search') as bar,
    fault_recorded(folder, slices_of),
  ):
    for log in logs:
      ends.callback(log.close)
    bar.update(progress.step)
    while not _is_finished(progress, settings):
      _train_epoch(config, train_data, halves, steps, progress, autosave, bar)
      _end_epoch(config, progress, logs)
      autosave.offer(progress.keep, epoch_ended=True, finished=_is_finished(progress, settings))
  lasted = (sum(entry['seconds'] for entry in log.entries()) for log in logs)
  resources.write(folder, seconds=max(lasted))
  return _leave(config, folder, folders, progress, steps=halves.steps)


def compile_steps(
  config: ConfigDict,
  train_data: TrainData,
  halves: Halves,
  state: Callable[[], SearchState],
) -> list[Program]:
  """The half steps as programs, of the weights and of the architecture; the first is begun.

  One after the other. On a CPU the first alone is needed as yet, and the second would take cores
  from it: it is begun after the first step. On a GPU two can hold up each other at every kernel
  that XLA tries, 100 ms each time (github.com/openxla/xla/pull/41399): on an H200 the first was not
  done after 7 minutes, where one after the other both took 2. A TPU tries none, so there both are
  begun. They wait for the state, unless they are kept from an earlier run.
  """

  def half_step(
    half: int, facts: Facts, state: SearchState, *batches: Batch
  ) -> tuple[SearchState, bilevel.Metrics]:
    step = bilevel.make_half_steps(
      build(config, facts),
      augment=functools.partial(train_data.augment, statistics=facts.statistics),
      parts=config.search.microbatches,
      random_sampling=config.search.sampling == 'random',
      penalty=budget.penalty_of(config),
    )[half]
    return step(facts.seed, state, *batches)

  count = config.search.seeds
  batch = train_data.batch_shape(count * config.search.batch_size)
  searches = _told(config, train_data, halves)
  compiled: list[Program] = []
  for half in range(2):
    program = Program(
      seeds.side_by_side(functools.partial(half_step, half), count=count, mesh=train_data.mesh),
      lambda half=half: (state(), searches, *[batch] * (half + 1)),
      kept=cache.place(config, half=half, image=batch['image'].shape),
      named_in=None if compiled else programs.note(config, 'search'),
      check=functools.partial(
        memory.require_fit,
        config=config,
        stage='search',
        examples=halves.examples,
        quiet=bool(compiled),  # the bar is on the screen by then
      ),
    )
    compiled.append(program)
    if half == 0 or jax.default_backend() == 'tpu':
      program.begin()
  return compiled


def _told(
  config: ConfigDict, train_data: TrainData, halves: Halves, *, going: np.ndarray | None = None
) -> seeds.Searches:
  """What a step is told of the searches that go on."""
  facts = [train_data.facts(seed, epoch_steps=halves.steps) for seed in seeds.of(config)]
  return seeds.told(facts, train_data.mesh, going=going)


def _train_epoch(
  config: ConfigDict,
  train_data: TrainData,
  halves: Halves,
  steps: Sequence[Program],
  progress: Progress,
  autosave: Autosave,
  bar: Any,
) -> None:
  """The steps of the present epoch that are left."""
  weight_step, architecture_step = steps
  going = progress.going
  searches = _told(config, train_data, halves, going=going)
  warm_up = progress.epoch < config.search.warmup_epochs
  probed = max(0, halves.steps - PROBED_BATCHES) if warm_up else 0
  first = progress.step - progress.epoch * halves.steps
  batches = _batches(config, train_data, halves, epoch=progress.epoch, first=first)
  for index, (weight_batch, architecture_batch) in enumerate(batches, start=first):
    step = progress.epoch * halves.steps + index + 1
    if index >= probed:
      with autosave.interruptible(progress.keep):
        architecture_step.wait()
      moved, metrics = architecture_step(progress.state, searches, weight_batch, architecture_batch)
      progress.for_architecture.add(step, metrics)
      progress.state = progress.state if warm_up else moved
    progress.state, metrics = weight_step(progress.state, searches, weight_batch)
    progress.for_weights.add(step, metrics)
    architecture_step.begin()
    if progress.for_architecture.steps:
      shown = progress.for_weights.mean('weight_loss'), progress.for_architecture.dsc()
      loss, dsc = (np.mean(np.asarray(value)[going]) for value in shown)  # over the searches
      bar.set_postfix(loss=f'{loss:.3f}', dsc=f'{dsc:.3f}', refresh=False)
    bar.update(1)
    autosave.offer(progress.keep)


def _end_epoch(config: ConfigDict, progress: Progress, logs: Sequence[logbook.Logbook]) -> None:
  """Writes the figures of each search that goes on, and counts the epoch."""
  progress.for_weights.flush()
  progress.for_architecture.flush()
  count, warm_up = len(progress.seeds), progress.epoch < config.search.warmup_epochs
  for_weights, for_architecture = progress.for_weights, progress.for_architecture
  figures = {
    'weight_loss': for_weights.mean('weight_loss'),
    'weight_gradient': for_weights.mean('weight_gradient'),
    'architecture_loss': None if warm_up else for_architecture.mean('architecture_loss'),
    'architecture_dsc': for_architecture.dsc(),
  }
  architecture = progress.state.architecture
  of_each = (
    seeds.each(tree, count)
    for tree in (progress.going, progress.unchanged, progress.derived_from, architecture, figures)
  )
  unchanged = []
  for log, (going, rested, before, now, own) in zip(logs, zip(*of_each, strict=True), strict=True):
    if going:
      same = not warm_up and results.derive(now, config) == results.derive(before, config)
      rested = int(rested) + 1 if same else 0
      log.append(
        {
          'epoch': progress.epoch + 1,
          'step': progress.step,
          **own,
          'unchanged_epochs': rested,
          'seconds': time.monotonic() - progress.began,
          **results.size(now, config),
          **results.weights_as_lists(now, config),
        }
      )
    unchanged.append(rested)
  progress.unchanged = np.reshape(unchanged, np.shape(progress.unchanged))
  progress.derived_from = architecture
  progress.end_epoch()


def _leave(
  config: ConfigDict, folder: Path, folders: Sequence[Path], progress: Progress, *, steps: int
) -> Genotype:
  """Derives a genotype from each search and keeps the best one; an epoch had so many steps."""
  count = len(progress.seeds)
  found = [
    results.save(
      one,
      architecture,
      config,
      seed=seed,
      epochs=int(step) // steps,
      planned=progress.planned,
    )
    for one, architecture, seed, step in zip(
      folders,
      seeds.each(progress.state.architecture, count),
      progress.seeds,
      seeds.each(progress.state.step, count),
      strict=True,
    )
  ]
  return results.keep_best(folder, found).genotype


def _is_finished(progress: Progress, settings: ConfigDict) -> bool:
  return progress.epoch >= settings.epochs or not progress.going.any()


def _batches(
  config: ConfigDict, train_data: TrainData, halves: Halves, *, epoch: int, first: int
) -> Iterator[tuple[Batch, Batch]]:
  """Pairs of a batch for the weights and one for the architecture; both halves keep in step."""
  weight_batches, architecture_batches = (
    train_data.batches(
      examples,
      batch_size=config.search.batch_size,
      epoch=epoch,
      steps=halves.steps,
      first=first,
      searches=config.search.seeds,
    )
    for examples in halves.examples
  )
  return zip(weight_batches, architecture_batches, strict=True)


def _tell(config: ConfigDict, halves: Halves, states: Sequence[SearchState]) -> None:
  weights, architecture = halves.patients
  numbers = seeds.of(config)
  if len(numbers) > 1:
    logbook.say('seeds', f'{numbers[0]} to {numbers[-1]}, searched side by side; figures are means')
  count = building.count(states[0].params)
  logbook.say('supernet', f'{count:,} weights, {config.search.channels} channels')
  logbook.say(
    'halves',
    f'{len(weights)} patients for the weights, {len(architecture)} for the architecture; '
    f'{halves.steps} steps an epoch',
  )
  sizes = [results.size(one.architecture, config)['expected_parameters'] for one in states]
  size = f'{round(np.mean(sizes)):,} parameters on average at the start'
  limit = config.search.max_parameters
  logbook.say('derived', size + (f'; the limit is {limit:,}' if limit else ''))
