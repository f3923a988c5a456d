"""Setup of a search: two halves of the patients, the supernet, and the compiled half steps."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from thrifty_jax.data import mesh, splits
from thrifty_jax.data.batching import Batch
from thrifty_jax.networks import build
from thrifty_jax.networks.grid import Supernet
from thrifty_jax.networks.losses import make_target, segmentation_loss
from thrifty_jax.networks.model_spec import background
from thrifty_jax.searching import bilevel, budget
from thrifty_jax.searching.bilevel import Learners, Metrics, SearchState
from thrifty_jax.training import compiling, memory, not_finite
from thrifty_jax.training.compiling import Program
from thrifty_jax.training.train_data import Epochs, Facts, TrainData


@dataclasses.dataclass(frozen=True, eq=False)
class Halves:
  """The training patients and their slices, divided between the weights and the architecture."""

  patients: tuple[tuple[str, ...], tuple[str, ...]]  # names
  epochs: tuple[Epochs, Epochs]  # of as many steps as one pass for the weights has

  @property
  def train_data(self) -> TrainData:
    """Slices of the run."""
    return self.epochs[0].train_data

  @property
  def steps(self) -> int:
    """Number of steps in an epoch."""
    return self.epochs[0].steps

  def batches(self, epoch: int, *, first: int) -> Iterator[tuple[Batch, Batch]]:
    """Returns pairs of batches, for weights and architecture, from the step `first` of an epoch."""
    return zip(*(half.batches(epoch, first=first) for half in self.epochs), strict=True)

  def with_seed(self, seed: int) -> 'Halves':
    """Returns the same slices, shared on the devices, in the order of another seed."""
    weights, architecture = (dataclasses.replace(half, seed=seed) for half in self.epochs)
    return dataclasses.replace(self, epochs=(weights, architecture))

  def slices_of(self, step: int) -> dict[str, Any]:
    """Returns the names of the slices in both batches of a step, counted from 1."""
    return self.named(half.slices_of(step) for half in self.epochs)

  def named(self, halves: Iterable[Any]) -> dict[str, Any]:
    """Returns something of each half by the name of the half."""
    return dict(zip(('weights', 'architecture'), halves, strict=True))


def divide(config: ConfigDict, train_data: TrainData, *, seed: int) -> Halves:
  """Halves the training patients; the seed decides only the order of the slices."""
  patients = splits.search_halves(train_data.patients['train'])
  epochs = functools.partial(train_data.epochs, batch_size=config.search.batch_size, seed=seed)
  for_weights = epochs(patients[0])
  return Halves(patients, (for_weights, epochs(patients[1], steps=for_weights.steps)))


def make_learners(config: ConfigDict, facts: Facts) -> Learners:
  """Returns the supernet and both optimisers; the facts of the run may be traced."""
  settings = config.search
  steps = facts.epoch_steps * settings.epochs
  second = settings.order == 'second'
  shared = ('channels', 'sample', 'sampling', 'cell_path', 'operations', 'remat')
  net = Supernet(
    classes=len(config.data.classes),
    depth=config.model.depth,
    nodes=config.model.nodes,
    **{name: settings[name] for name in shared},
  )
  return Learners(
    net,
    background(facts.statistics, context=config.data.context),
    bilevel.weight_optimizer(settings, steps=steps),
    bilevel.architecture_optimizer(settings),
    bilevel.weight_optimizer(settings, steps=steps, clipped=False) if second else None,
  )


def start(config: ConfigDict, halves: Halves) -> tuple[SearchState, Facts]:
  """Returns the state before the first step and the facts of the run, on the devices."""
  train_data = halves.train_data
  learners = make_learners(config, halves.epochs[0].facts)
  image = train_data.image_shape(config.search.batch_size)
  find_shapes = compiling.make_shapes_finder(config, learners.net, image)
  seed = halves.epochs[0].seed
  state = bilevel.init_state(learners, image, seed=seed, find_shapes=find_shapes)
  return mesh.place((state, halves.epochs[0].facts), mesh.whole(train_data.mesh))


def compile_steps(
  config: ConfigDict, halves: Halves, state: SearchState, facts: Facts
) -> list[Program]:
  """Returns the programs of both half steps, weights first; compilation of the first is begun.

  One program, (state, facts, *batches) -> (state, metrics), serves every seed and fold: it contains
  nothing of the run but the shapes of these arguments and the config.

  They are compiled one after the other. On a CPU only the first is needed at the start, and the
  second would take cores from it, so it is begun after the first step. On a GPU two compilations
  can delay each other by 100 ms at every kernel that XLA tries
  (github.com/openxla/xla/pull/41399): on an H200 the first was not done after 7 minutes, while one
  after the other both took 2. On a TPU XLA tries no kernels, so both are begun.
  """
  train_data = halves.train_data

  def half_step(
    half: int, state: SearchState, facts: Facts, *batches: Batch
  ) -> tuple[SearchState, Metrics]:
    step = bilevel.make_half_steps(
      make_learners(config, facts),
      augment=functools.partial(train_data.augment, statistics=facts.statistics),
      parts=config.search.microbatches,
      random_sampling=config.search.sampling == 'random',
      penalty=budget.penalty_of(config),
      target=make_target(config),
    )[half]
    return step(facts.seed, state, *batches)

  batch = train_data.batch_shape(config.search.batch_size)
  examples = [half.examples for half in halves.epochs]
  check = functools.partial(memory.require_fit, config=config, stage='search', examples=examples)
  programs = [
    Program(
      mesh.replicate(functools.partial(half_step, half), train_data.mesh),
      lambda half=half: (state, facts, *[batch] * (half + 1)),
      place=compiling.place(config, half=half, image=batch['image'].shape),
      lean=True,
      check=functools.partial(check, quiet=half == 1),  # the progress bar is there by then
    )
    for half in range(2)
  ]
  for program in programs if jax.default_backend() == 'tpu' else programs[:1]:
    program.begin()
  return programs


def watch(config: ConfigDict, halves: Halves, programs: Sequence[Program]) -> list[Any]:
  """Returns the half steps, which now name the source of a non-finite value; see not_finite."""

  def source(half: int, state: SearchState, facts: Facts, *batches: Batch) -> str:
    augment_key, sample_key = jax.random.split(bilevel.half_key(facts.seed, state, half))
    learners = make_learners(config, facts)
    net = learners.net.copy(remat=False)  # to run layer by layer
    return not_finite.first_source(
      functools.partial(build.apply, net, background=learners.background),
      state.params,
      jax.jit(halves.train_data.augment)(augment_key, batches[-1]),
      state.architecture,
      sample_key if config.search.sampling == 'random' else None,
      loss=functools.partial(segmentation_loss, target=make_target(config)),
    )

  return [
    not_finite.watch(step, functools.partial(source, half), stage='search')
    for half, step in enumerate(programs)
  ]
