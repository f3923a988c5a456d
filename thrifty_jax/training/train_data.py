"""Training data of search and retraining: the prepared slices of a run, split by patient."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from thrifty_jax import device
from thrifty_jax.data import batching, splits
from thrifty_jax.data import mesh as meshes
from thrifty_jax.data.augment import augment
from thrifty_jax.data.batching import Batch, Examples
from thrifty_jax.data.prepared import open_slices
from thrifty_jax.errors import NotFinite
from thrifty_jax.training import hosts


class Schedule(NamedTuple):
  """Learning rate of a retraining, float32 [] each: a linear warm-up, then a cosine to 0."""

  peak: Any
  warmup: Any  # epochs in which it rises, fewer than all
  epochs: Any


class Facts(NamedTuple):
  """Facts of a run that a step receives: one program serves every seed, fold and schedule."""

  seed: Any  # of the step's random numbers, see `seed_bits`, uint32 []
  statistics: batching.Statistics  # mean and standard deviation for normalisation, [M] each
  epoch_steps: Any  # number of steps in an epoch, int32 []
  schedule: Schedule  # of a retraining
  teachers: Any = ()  # weights and statistics of the models that teach, see teacher.Weights


def make_schedule(settings: ConfigDict, epochs: int) -> Schedule:
  """Returns the schedule of so many epochs, of which at most a quarter rise if time decides."""
  warmup = min(settings.warmup_epochs, epochs / 4) if settings.minutes else settings.warmup_epochs
  peak = settings.learning_rate * (settings.start_rate if settings.start_from else 1)
  return Schedule(*map(np.float32, (peak, warmup, epochs)))


def seed_bits(seed: int) -> np.uint32:
  """Returns the bits of a seed that give the same `jax.random.key` as the seed itself."""
  return np.uint32(seed % 2**32)  # without double precision JAX uses no more bits


@dataclasses.dataclass(frozen=True, eq=False)
class TrainData:
  """Prepared slices, the patients of each split, and the statistics for normalisation."""

  config: ConfigDict
  prepared: batching.Prepared
  patients: Mapping[str, tuple[str, ...]]  # names under train, validation and test
  statistics: batching.Statistics  # mean and standard deviation, [M] each
  mesh: Mesh  # devices that share a batch

  def examples(self, patients: tuple[str, ...]) -> Examples:
    """Returns the slices of these patients, on every device if they fit."""
    cases = self.prepared.cases_of(patients)
    return Examples(self.prepared, cases, self.config.data.device_budget_bytes, self.mesh)

  @functools.cached_property
  def validation(self) -> batching.Prepared:
    """Data set for validation, which reads it every few epochs; what fits is kept in memory."""
    return self.prepared.remembering(self.config.data.device_budget_bytes)

  def epochs(
    self,
    patients: tuple[str, ...],
    *,
    batch_size: int,
    seed: int,
    steps: int = 0,
    least_steps: int = 0,
    most_steps: int = 0,
  ) -> 'Epochs':
    """Returns the epochs of a training on these patients.

    An epoch has so many steps; 0 is one pass over the slices, within the limits, see
    batching.steps_per_epoch.
    """
    examples = self.examples(patients)
    steps = steps or batching.steps_per_epoch(
      len(examples.drawn), batch_size, least=least_steps, most=most_steps
    )
    return Epochs(self, examples, batch_size, seed, steps)

  def image_shape(self, batch_size: int) -> jax.ShapeDtypeStruct:
    """Returns the shape and type of a batch of images, [B, S, S, C] float32."""
    side, _, modalities = self.prepared.slice_shape
    channels = modalities * (2 * self.config.data.context + 1)
    return jax.ShapeDtypeStruct((batch_size, side, side, channels), np.float32)

  def batch_shape(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes, types and shardings of a batch."""
    shape, split = self.image_shape(batch_size).shape, meshes.split(self.mesh)
    return {
      'image': jax.ShapeDtypeStruct(shape, np.float32, sharding=split),
      'label': jax.ShapeDtypeStruct(shape[:3], np.int32, sharding=split),
    }

  def augment(
    self, key: jax.Array, batch: Batch, statistics: batching.Statistics | None = None
  ) -> Batch:
    """Returns the batch with random warps and intensities; to be traced by jit.

    The images have the precision of the run, which the layers of a network follow. `statistics`
    replaces those of the data with traced arguments of the same values.
    """
    known = self.statistics if statistics is None else statistics
    mean, std = (jnp.asarray(known[name]) for name in ('mean', 'std'))
    image, label = augment(
      key, batch['image'], batch['label'], settings=self.config.augment, mean=mean, std=std
    )
    return {'image': image.astype(device.precision(self.config.precision)), 'label': label}


@dataclasses.dataclass(frozen=True, eq=False)
class Epochs:
  """Slices of some patients for each epoch, in an order that the seed determines."""

  train_data: TrainData
  examples: Examples
  batch_size: int  # slices in a batch
  seed: int  # of the order of the slices and of the random numbers
  steps: int  # in an epoch

  @property
  def facts(self) -> Facts:
    """Facts of this training that a step receives as an argument, in numpy."""
    settings, statistics = self.train_data.config.retrain, self.train_data.statistics
    schedule = make_schedule(settings, settings.epochs)
    return Facts(seed_bits(self.seed), statistics, np.int32(self.steps), schedule)

  def plan(self, facts: Facts, epochs: int) -> Facts:
    """Returns the facts with the schedule of so many epochs of these steps, on the devices."""
    schedule = make_schedule(self.train_data.config.retrain, epochs)
    planned = meshes.place((np.int32(self.steps), schedule), meshes.whole(self.train_data.mesh))
    return facts._replace(epoch_steps=planned[0], schedule=planned[1])

  def batches(self, epoch: int, *, first: int = 0) -> Any:
    """Returns the shuffled batches of an epoch from step `first`, see batching.batches."""
    data = self.train_data.config.data
    return batching.batches(
      self.examples,
      batch_size=self.batch_size,
      seed=self.seed,
      epoch=epoch,
      statistics=self.train_data.statistics,
      context=data.context,
      steps=self.steps,
      first=first,
      prefetch=data.prefetch,
    )

  def slices_of(self, step: int) -> list[str]:
    """Returns names such as 'Case12 slice 4' (from 0) of the slices in a step, counted from 1."""
    epoch, index = divmod(step - 1, self.steps)
    drawn = self.examples.drawn
    order = batching.order(
      len(drawn), batch_size=self.batch_size, seed=self.seed, epoch=epoch, steps=self.steps
    )
    return [self.examples.name(int(example)) for example in drawn[order[index]]]


def open_stage(
  config: ConfigDict, workdir: Path, stage: str, *, genotype_file: Path | None = None
) -> TrainData:
  """Opens the prepared slices for a stage that trains, in every process of the run.

  Raises InputError also if the devices cannot share a batch evenly, or the processes differ.
  """
  meshes.require_even(config, stage)
  hosts.call(stage, config, workdir, genotype_file=genotype_file)
  train_data = open_train_data(config, workdir)
  values = np.concatenate([train_data.statistics['mean'], train_data.statistics['std']]).tolist()
  prepared = train_data.prepared
  hosts.meet(f'{len(prepared.slices)} slices in {prepared.folder.name}, mean, std {values}')
  return train_data


def open_train_data(config: ConfigDict, workdir: Path) -> TrainData:
  """Opens the prepared slices of a run, which its data.json in the workdir locates.

  Mean and standard deviation are those of the config, or else of the training patients. Raises
  InputError if the slices are not prepared, or there are too few patients.
  """
  prepared = open_slices(workdir, config)
  patients = splits.assign(config, prepared.classes_of_patients)
  if config.data.mean:
    statistics = {name: np.asarray(config.data[name], np.float32) for name in ('mean', 'std')}
  else:
    training = Examples(prepared, prepared.cases_of(patients['train']))
    statistics = batching.intensity_statistics(training)
  return TrainData(config, prepared, patients, statistics, meshes.make_mesh(config))


class Figures:
  """Sums of an epoch's metrics, read from the device one step late so that it never waits.

  A non-finite value stops the run.
  """

  def __init__(self, stage: str, epoch: int, notes: Mapping[str, Any] | None = None):
    """Begins the epoch with this index, from 0, of a stage, or continues one from its notes."""
    self.stage, self.epoch = stage, epoch
    notes = notes or {'steps': 0, 'sums': {}}
    self.steps: int = notes['steps']
    self.sums = {name: np.asarray(value, np.float64) for name, value in notes['sums'].items()}
    self._pending: tuple[int, dict[str, jax.Array]] | None = None

  def notes(self) -> dict[str, Any]:
    """Returns what another process needs to continue, in JSON types."""
    self.flush()
    return {'steps': self.steps, 'sums': {name: sums.tolist() for name, sums in self.sums.items()}}

  def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Takes the metrics of a step, which are still on the device, and reads those of the last."""
    self.flush()
    self._pending = (step, metrics)

  def flush(self) -> None:
    """Reads pending metrics; raises NotFinite if one is non-finite."""
    if self._pending is None:
      return
    (step, metrics), self._pending = self._pending, None
    for name, value in jax.device_get(metrics).items():
      if not np.all(np.isfinite(value)):
        raise NotFinite(
          f'{self.stage}, epoch {self.epoch + 1}, step {step}: {name} is non-finite; lower the '
          f'learning rate or clip_norm in config.{self.stage}, or run it with --config.debug=True, '
          'which continues from the last checkpoint and finds the first non-finite value',
          step=step,
        )
      # In double precision: float32 counts pixels only up to 16,777,216.
      self.sums[name] = self.sums.get(name, 0) + np.asarray(value, np.float64)
    self.steps += 1

  def mean(self, name: str) -> Any:
    """Returns the mean of a metric over the steps so far."""
    return self.sums[name] / self.steps if name in self.sums else math.nan

  def dsc(self) -> Any:
    """Returns the DSC of all pixels so far by `losses.overlap`, mean over foreground classes."""
    if 'overlap' not in self.sums:
      return math.nan
    both, predicted, true = np.moveaxis(self.sums['overlap'], -1, 0)
    total = predicted + true
    return np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0).mean(-1)
