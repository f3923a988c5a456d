"""The search stage: trains the supernet and derives a genotype from it."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from data_prep import splits
from thrifty_jax import (
  bilevel,
  budget,
  files,
  genotype,
  logbook,
  mesh,
  model,
  parameters,
  programs,
)
from thrifty_jax.bilevel import Learners, SearchState
from thrifty_jax.data import Batch, Examples, steps_per_epoch
from thrifty_jax.losses import segmentation_loss
from thrifty_jax.network import Architecture, Supernet, architecture_weights
from thrifty_jax.programs import Program
from thrifty_jax.running import debug, hosts, memory, not_finite, resources
from thrifty_jax.running.autosave import Autosave, planned_epochs
from thrifty_jax.train_data import Figures, TrainData, fault_recorded, open_train_data

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
  patients = splits.search_halves(train_data.patients['train'], seed=config.seed)
  for_weights, for_architecture = map(train_data.examples, patients)
  steps = steps_per_epoch(len(for_weights), config.search.batch_size)
  return Halves(patients, (for_weights, for_architecture), steps)


def build(config: ConfigDict, train_data: TrainData, *, steps: int) -> Learners:
  """The supernet and both optimisers, the weights' rate falling over so many steps an epoch."""
  settings = config.search
  steps *= settings.epochs
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
    background=tuple(model.background(train_data.statistics, context=config.data.context)),
  )
  return Learners(
    net,
    bilevel.weight_optimizer(settings, steps=steps),
    bilevel.architecture_optimizer(settings),
    bilevel.weight_optimizer(settings, steps=steps, clipped=False) if second else None,
  )


@dataclasses.dataclass
class Progress:
  """Where a search stands: all that another process needs to go on with the same bits.

  Attributes:
    state: After the last step.
    derived_from: The architecture at the end of the last epoch: the next genotype is compared with
      the one of these variables.
    epoch: Epochs that are done.
    unchanged: Epochs since the genotype changed.
    for_weights, for_architecture: Figures of the present epoch.
    began: When it began, by time.monotonic; earlier by what it took before it was stopped.
    planned: Epochs it was to take, from call to call: more of them stretch the schedules.
  """

  state: SearchState
  derived_from: Architecture
  epoch: int = 0
  unchanged: int = 0
  for_weights: Figures = dataclasses.field(default_factory=lambda: Figures('search', 0))
  for_architecture: Figures = dataclasses.field(default_factory=lambda: Figures('search', 0))
  began: float = dataclasses.field(default_factory=time.monotonic)
  planned: tuple[int, ...] = ()

  def arrays(self) -> dict[str, Any]:
    """The part that is arrays, a pytree."""
    return {'state': self.state._asdict(), 'derived_from': self.derived_from}

  def keep(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays and notes for a checkpoint."""
    return self.arrays(), {
      'epoch': self.epoch,
      'unchanged': self.unchanged,
      'for_weights': self.for_weights.notes(),
      'for_architecture': self.for_architecture.notes(),
      'seconds': time.monotonic() - self.began,
      'planned': list(self.planned),
    }

  def take_up(self, arrays: Any, notes: Mapping[str, Any]) -> None:
    """Goes on from a checkpoint."""
    self.state, self.derived_from = SearchState(**arrays['state']), arrays['derived_from']
    self.epoch, self.unchanged = notes['epoch'], notes['unchanged']
    self.for_weights = Figures('search', self.epoch, notes['for_weights'])
    self.for_architecture = Figures('search', self.epoch, notes['for_architecture'])
    self.began = time.monotonic() - notes['seconds']
    self.planned = planned_epochs(notes['planned'], self.planned[-1])

  def end_epoch(self) -> None:
    """Counts the epoch and clears its figures."""
    self.epoch += 1
    self.for_weights = Figures('search', self.epoch)
    self.for_architecture = Figures('search', self.epoch)
    self.began = time.monotonic()


def search(config: ConfigDict, workdir: Path | str) -> genotype.Genotype:
  """Searches an architecture and writes <workdir>/search/genotype.json.

  Goes on from the last checkpoint if there is one.

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
  folder, settings = Path(workdir) / 'search', config.search
  mesh.require_even(config, 'search')
  hosts.call('search', config)
  train_data = open_train_data(config)
  hosts.meet(train_data.in_words())
  halves = divide(config, train_data)
  learners = build(config, train_data, steps=halves.steps)
  batch_shape = train_data.batch_shape(settings.batch_size)
  state = bilevel.init_state(learners, batch_shape['image'], seed=config.seed)
  state = mesh.place(state, mesh.whole(train_data.mesh))
  _tell(config, halves, state)
  # Beside the genotype and not in it: a genotype is passed on, names of patients are not.
  for_weights, for_architecture = map(list, halves.patients)
  files.write_json(
    folder / 'halves.json', {'weights': for_weights, 'architecture': for_architecture}
  )
  autosave = Autosave(folder / 'checkpoints', 'search', seconds=config.save_seconds)
  log = logbook.Logbook(folder, tensorboard=config.tensorboard)
  progress = Progress(state, state.architecture, planned=(settings.epochs,))
  steps = compile_steps(config, train_data, halves, learners, state)
  if config.debug:
    sources = (_source(config, train_data, learners, half) for half in range(2))
    steps = [
      step.watched(functools.partial(debug.watched, stage='search', source=source))
      for step, source in zip(steps, sources, strict=True)
    ]
  autosave.resume(progress, log)
  if not _is_finished(progress, settings):
    # Before the loop, where a signal to stop need not wait for it.
    for step in steps if hosts.several() else steps[:1]:
      step.wait()
    hosts.meet('compiled')  # on a CPU no device waits for another longer than 30 s
    logbook.say('compiled', f'in {logbook.duration(steps[0].seconds)}')

  with (
    autosave,
    contextlib.closing(log),
    logbook.progress(settings.epochs * halves.steps, 'search') as bar,
    fault_recorded(folder, functools.partial(_slices, config, train_data, halves)),
  ):
    bar.update(int(progress.state.step))
    while not _is_finished(progress, settings):
      _train_epoch(config, train_data, halves, steps, progress, autosave, bar)
      _end_epoch(config, progress, log)
      autosave.offer(progress.keep, epoch_ended=True, finished=_is_finished(progress, settings))
  resources.write(folder, seconds=sum(entry['seconds'] for entry in log.entries()))
  found = derive(progress.state, config)
  _save_genotype(folder / 'genotype.json', found, config, progress)
  return found


def compile_steps(
  config: ConfigDict,
  train_data: TrainData,
  halves: Halves,
  learners: Learners,
  state: SearchState,
) -> list[Program]:
  """Begins to compile the half steps, of the weights and of the architecture.

  One after the other: the first alone is needed as yet, and the second would keep it waiting.
  """
  half_steps = bilevel.make_half_steps(
    learners,
    augment=train_data.augment,
    seed=config.seed,
    parts=config.search.microbatches,
    random_sampling=config.search.sampling == 'random',
    penalty=penalty(config),
  )
  batch = train_data.batch_shape(config.search.batch_size)
  given = {name: value.tolist() for name, value in train_data.statistics.items()}
  compiled: list[Program] = []
  for half, step in enumerate(half_steps):
    program = Program(
      mesh.replicated(step, train_data.mesh),
      state,
      [batch] * (half + 1),
      kept=programs.place(config, half=half, steps=halves.steps, **given),
      after=compiled[0] if compiled else None,
      check=functools.partial(
        memory.require_fit,
        config=config,
        stage='search',
        examples=halves.examples,
        quiet=bool(compiled),  # the bar is on the screen by then
      ),
    )
    compiled.append(program)
  return compiled


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
  warm_up = progress.epoch < config.search.warmup_epochs
  probed = max(0, halves.steps - PROBED_BATCHES) if warm_up else 0
  first = int(progress.state.step) - progress.epoch * halves.steps
  batches = _batches(config, train_data, halves, epoch=progress.epoch, first=first)
  for index, (weight_batch, architecture_batch) in enumerate(batches, start=first):
    step = progress.epoch * halves.steps + index + 1
    if index >= probed:
      with autosave.interruptible(progress.keep):
        architecture_step.wait()
      moved, metrics = architecture_step(progress.state, weight_batch, architecture_batch)
      progress.for_architecture.add(step, metrics)
      progress.state = progress.state if warm_up else moved
    progress.state, metrics = weight_step(progress.state, weight_batch)
    progress.for_weights.add(step, metrics)
    if progress.for_architecture.steps:
      loss, dsc = progress.for_weights.mean('weight_loss'), progress.for_architecture.dsc()
      bar.set_postfix(loss=f'{loss:.3f}', dsc=f'{dsc:.3f}')
    bar.update(1)
    autosave.offer(progress.keep)


def _end_epoch(config: ConfigDict, progress: Progress, log: logbook.Logbook) -> None:
  """Derives the genotype of now, writes the figures of the epoch and counts it."""
  progress.for_weights.flush()
  progress.for_architecture.flush()
  state, warm_up = progress.state, progress.epoch < config.search.warmup_epochs
  before = state._replace(architecture=progress.derived_from)
  same = not warm_up and derive(state, config) == derive(before, config)
  progress.unchanged = progress.unchanged + 1 if same else 0
  progress.derived_from = state.architecture
  for_weights, for_architecture = progress.for_weights, progress.for_architecture
  log.append(
    {
      'epoch': progress.epoch + 1,
      'step': int(state.step),
      'weight_loss': for_weights.mean('weight_loss'),
      'weight_gradient': for_weights.mean('weight_gradient'),
      'architecture_loss': None if warm_up else for_architecture.mean('architecture_loss'),
      'architecture_dsc': for_architecture.dsc(),
      'unchanged_epochs': progress.unchanged,
      'seconds': time.monotonic() - progress.began,
      **_size(state, config),
      **_weights_as_lists(state, config),
    }
  )
  progress.end_epoch()


def _source(
  config: ConfigDict, train_data: TrainData, learners: Learners, half: int
) -> Callable[..., str | None]:
  """(state, *batches) -> where a half step meets what is no finite number."""

  def source(state: SearchState, *batches: Batch) -> str | None:
    augment_key, sample_key = jax.random.split(bilevel.half_key(config.seed, state, half))
    return not_finite.first_source(
      learners.net.copy(remat=False),  # layer by layer
      state.params,
      jax.jit(train_data.augment)(augment_key, batches[-1]),
      loss=segmentation_loss,
      architecture=state.architecture,
      key=sample_key if config.search.sampling == 'random' else None,
    )

  return source


def _slices(
  config: ConfigDict, train_data: TrainData, halves: Halves, step: int
) -> dict[str, list[str]]:
  """The slices of the two batches of a step, counted from 1."""
  epoch, index = divmod(step - 1, halves.steps)
  which = {'batch_size': config.search.batch_size, 'steps': halves.steps}
  return {
    name: train_data.slices_of(examples, epoch=epoch, index=index, **which)
    for name, examples in zip(('weights', 'architecture'), halves.examples, strict=True)
  }


def _is_finished(progress: Progress, settings: ConfigDict) -> bool:
  return progress.epoch >= settings.epochs or 0 < settings.patience <= progress.unchanged


def _batches(
  config: ConfigDict, train_data: TrainData, halves: Halves, *, epoch: int, first: int
) -> Iterator[tuple[Batch, Batch]]:
  """Pairs of a batch for the weights and one for the architecture; both halves keep in step."""
  weight_batches, architecture_batches = (
    train_data.batches(
      examples, batch_size=config.search.batch_size, epoch=epoch, steps=halves.steps, first=first
    )
    for examples in halves.examples
  )
  return zip(weight_batches, architecture_batches, strict=True)


def _tell(config: ConfigDict, halves: Halves, state: SearchState) -> None:
  weights, architecture = halves.patients
  count = model.count(state.params)
  logbook.say('supernet', f'{count:,} weights, {config.search.channels} channels')
  logbook.say(
    'halves',
    f'{len(weights)} patients for the weights, {len(architecture)} for the architecture; '
    f'{halves.steps} steps an epoch',
  )
  size = f'{_size(state, config)["expected_parameters"]:,} parameters on average at the start'
  limit = config.search.max_parameters
  logbook.say('derived', size + (f'; the limit is {limit:,}' if limit else ''))


def _save_genotype(
  path: Path,
  found: genotype.Genotype,
  config: ConfigDict,
  progress: Progress,
) -> None:
  """Writes the genotype with its scores and where it came from."""
  state = progress.state
  weights, nodes, depth = _weights(state, config), config.model.nodes, config.model.depth
  count = parameters.count(found, parameters.space_of(config))
  provenance = {
    'data': config.data.name,
    'seed': config.seed,
    'fold': config.data.fold,
    'epochs': progress.epoch,
    'planned_epochs': list(progress.planned),
    'depth': config.model.depth,
    'parameters': count,  # of the network at this width
    'channels': config.model.channels,
    'search': config.search.to_dict(),
  }
  scores = genotype.all_scores(weights, nodes=nodes, depth=depth)
  genotype.save(path, found, scores=scores, provenance=provenance)
  logbook.say('genotype', f'{path}, {count:,} parameters')


def penalty(config: ConfigDict) -> Callable[[Architecture], jax.Array] | None:
  """What a limit to the parameters adds to the architecture's loss, None without one."""
  limit = config.search.max_parameters
  if not limit:
    return None
  return functools.partial(budget.penalty, space=parameters.space_of(config), limit=limit)


def _size(state: SearchState, config: ConfigDict) -> dict[str, Any]:
  """The expected parameters, whole, and the penalty where there is a limit."""
  expected = parameters.expected(state.architecture, parameters.space_of(config))
  added = penalty(config)
  size: dict[str, Any] = {'expected_parameters': round(float(expected))}
  return size if added is None else {**size, 'penalty': float(added(state.architecture))}


def _weights(state: SearchState, config: ConfigDict) -> dict[str, Any]:
  """Softmax weights as numpy arrays."""
  return jax.device_get(architecture_weights(state.architecture, nodes=config.model.nodes))


def derive(state: SearchState, config: ConfigDict) -> genotype.Genotype:
  """The genotype that the architecture variables stand for now."""
  weights, space = _weights(state, config), parameters.space_of(config)
  if limit := config.search.max_parameters:
    return budget.derive(weights, space, limit=limit)
  return genotype.derive(
    weights, nodes=space.nodes, edges_per_node=space.edges_per_node, depth=space.depth
  )


def _weights_as_lists(state: SearchState, config: ConfigDict) -> dict[str, Any]:
  """down_alphas [E][N], down_betas [E], as much for up, path_gates [G][2], for metrics.jsonl."""
  return {
    f'{kind}_{name}': [np.asarray(value).round(6).tolist() for value in values]
    for kind, part in _weights(state, config).items()
    for name, values in part.items()
  }
