"""Loads prepared slices as batches on the device.

The order of the examples is a function of (seed, epoch) alone. A split that fits its budget stays
on the device, as compact as on disk; a larger one is read ahead by a thread, with equal batches.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from thrifty_jax.data import mesh as meshes
from thrifty_jax.data.read_ahead import read_ahead
from thrifty_jax.errors import InputError
from thrifty_jax.labels import Regions

# A channel that varies less is constant except for float16 rounding, which must not be enlarged.
SMALLEST_STD = 1e-3
MARKED = 1 / 3  # least share of windows with foreground among those that are drawn

Batch = dict[str, jax.Array]
Statistics = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class PreparedCase:
  """One scan among the prepared slices."""

  case: str
  patient: str
  first_slice: int
  slices: int
  native_shape: tuple[int, int, int]  # D, H, W
  spacing_mm: tuple[float, float, float]  # D, H, W
  affine: tuple[tuple[float, ...], ...]  # 4 x 4, voxel index to mm
  classes: tuple[int, ...] = ()  # foreground classes in its mask; unknown of slices before 1.3
  marked: tuple[int, ...] = ()  # windows with foreground, counted from 0; not known of whole slices
  unlabelled: tuple[int, ...] = ()  # slices or windows in which every pixel is ignored

  @property
  def rows(self) -> range:
    """Rows of its slices among all prepared slices."""
    return range(self.first_slice, self.first_slice + self.slices)


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
  """A prepared data set in a folder; slices are read on demand."""

  folder: Path
  cases: tuple[PreparedCase, ...]
  slices: Any  # sequence of records; TFDS has no narrower type for it
  slice_shape: tuple[int, int, int]  # of an image, (S, S, M)
  classes: tuple[str, ...] = ()  # background first
  note: str = ''  # warning that applies to the data and to everything made from it
  # Intensity from which on voxels were outside the scan, and the value that replaced them.
  padding: tuple[float, float] | None = None
  reduction: float = 0.0  # of slices that were cut into windows; 0 where they are drawn whole
  citation: str = ''
  regions: Regions = ()  # labels of each class, see labels.py

  def remembering(self, budget_bytes: int) -> 'Prepared':
    """Returns the same data set, which keeps records in memory up to the budget."""
    return dataclasses.replace(self, slices=_Remembered(self.slices, budget_bytes))

  @property
  def classes_of_patients(self) -> dict[str, set[int]]:
    """Foreground classes that each patient has."""
    found: dict[str, set[int]] = {}
    for case in self.cases:
      found.setdefault(case.patient, set()).update(case.classes)
    return found

  def cases_of(self, patients: Iterable[str]) -> tuple[PreparedCase, ...]:
    """Returns all cases of these patients."""
    patients = set(patients)
    return tuple(case for case in self.cases if case.patient in patients)

  def read(self, case: PreparedCase) -> dict[str, np.ndarray]:
    """Reads a case: image [D, S, S, M] float16 in [0, 1], label [D, S, S] uint8."""
    return self.read_rows(case.rows)

  def read_rows(self, rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Reads slices: image [n, S, S, M] float16 in [0, 1], label [n, S, S] uint8."""
    image = np.empty((len(rows), *self.slice_shape), np.float16)
    label = np.empty(image.shape[:3], np.uint8)
    for place, row in enumerate(rows):
      record = self._record(int(row))
      image[place], label[place] = record['image'], record['label']
    return {'image': image, 'label': label}

  def label_volume(self, case: PreparedCase) -> np.ndarray:
    """Reads the true mask of a case on its native grid, [D, H, W], uint8."""
    rows = [self._record(row)['native_label'] for row in case.rows]
    if sum(part.size for part in rows) != math.prod(case.native_shape):
      raise InputError(
        f'{self.folder}: the mask of {case.case} is no {case.native_shape}; copy the folder again, '
        'or remove it and prepare again'
      )
    return np.concatenate(rows).reshape(case.native_shape)

  def _record(self, row: int) -> dict[str, np.ndarray]:
    """Reads a record, whose checksum ArrayRecord verifies."""
    try:
      return self.slices[row]
    except (RuntimeError, ValueError, LookupError) as error:
      raise InputError(
        f'{self.folder}: slice {row} is damaged ({" ".join(str(error).split()):.100}); copy the '
        'folder again, or remove it and prepare again'
      ) from error


class _Remembered:
  """Records that are kept once read, as far as they fit the budget."""

  def __init__(self, records: Any, budget_bytes: int):
    self._records, self._left = records, budget_bytes
    self._known: dict[int, dict[str, np.ndarray]] = {}

  def __getitem__(self, row: int) -> dict[str, np.ndarray]:
    if row in self._known:
      return self._known[row]
    record = self._records[row]
    size = sum(np.asarray(value).nbytes for value in record.values())
    if size <= self._left:
      self._known[row] = record
      self._left -= size
    return record


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
  """The slices of some cases, numbered from 0."""

  prepared: Prepared
  cases: tuple[PreparedCase, ...]
  budget_bytes: int = 0  # largest size of slices that stay on the device
  mesh: Mesh = dataclasses.field(default_factory=meshes.make_full_mesh)  # shares the batches

  def __len__(self) -> int:
    return sum(case.slices for case in self.cases)

  @property
  def bytes(self) -> int:
    """Memory of the slices: two bytes a pixel and modality, one a label."""
    height, width, modalities = self.prepared.slice_shape
    return len(self) * height * width * (2 * modalities + 1)

  @functools.cached_property
  def resident(self) -> Batch | None:
    """All slices on each device, image [N, S, S, M] float16, label [N, S, S] uint8; or None."""
    if self.bytes > self.budget_bytes:
      return None
    return meshes.place(self.read(np.arange(len(self))), meshes.whole(self.mesh))

  @functools.cached_property
  def drawn(self) -> np.ndarray:
    """Examples of a pass, in which windows with foreground are repeated until they are a third.

    Those without any label are left out.
    """
    every = np.setdiff1d(np.arange(len(self)), self._find('unlabelled'))
    if not every.size:
      raise InputError(
        f'{self.prepared.folder}: no slice of {self.cases[0].case} and the others keeps a label as '
        'it is drawn; raise data.image_size, or label more'
      )
    marked = self._find('marked')
    if not marked.size:
      return every
    more = math.ceil((len(every) - len(marked)) * MARKED / (1 - MARKED) / len(marked)) - 1
    return np.concatenate([every, *[marked] * more])

  def _find(self, field: str) -> np.ndarray:
    """Returns the examples that a field of their cases lists."""
    rows = [case.first_slice + np.asarray(getattr(case, field), int) for case in self.cases]
    return np.flatnonzero(np.isin(self._rows, np.concatenate(rows)))

  def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Reads examples to the host: image [n, S, S, M] float16, label [n, S, S] uint8."""
    return self.prepared.read_rows(self._rows[indices])

  def name(self, index: int) -> str:
    """Returns case and slice of an example, 'Case12 slice 4', slices counted from 0."""
    row = self._rows[index]
    case = next(case for case in self.cases if row in case.rows)
    return f'{case.case} slice {row - case.first_slice}'

  def neighbours(self, indices: np.ndarray, *, context: int) -> np.ndarray:
    """Returns examples i-c..i+c of each i, [n, 2c + 1], clamped to the slices of its case."""
    slices = np.asarray([case.slices for case in self.cases])
    last = np.repeat(np.cumsum(slices), slices)[indices, None] - 1
    first = last + 1 - np.repeat(slices, slices)[indices, None]
    found = indices[:, None] + np.arange(-context, context + 1)
    return np.clip(found, first, last).astype(np.int32)

  @functools.cached_property
  def _rows(self) -> np.ndarray:
    """Row of each example among all prepared slices, [N]."""
    return np.concatenate([case.rows for case in self.cases])


def intensity_statistics(examples: Examples) -> Statistics:
  """Returns mean and deviation of each modality, [M] float32; for the training patients alone."""
  height, width, modalities = examples.prepared.slice_shape
  count = len(examples) * height * width
  total, squares = np.zeros((2, modalities))
  for index in range(len(examples)):  # slice by slice: the memory stays small
    pixels = examples.read(np.asarray([index]))['image'].astype(np.float64)
    total += pixels.sum(axis=(0, 1, 2))
    squares += (pixels**2).sum(axis=(0, 1, 2))
  mean = total / count
  # For intensities in [0, 1] in double precision the cancellation is harmless.
  std = np.sqrt(np.maximum(squares / count - mean**2, 0))
  std = np.maximum(std, SMALLEST_STD)
  return {'mean': mean.astype(np.float32), 'std': std.astype(np.float32)}


def steps_per_epoch(count: int, batch_size: int, *, least: int = 1, most: int = 0) -> int:
  """Returns the steps of an epoch: the full batches of a pass over `count` examples, within limits.

  A set smaller than a batch gives one, with repeats; `most` of 0 is no limit.
  """
  steps = max(1, least, count // batch_size)
  return min(steps, most) if most else steps


def order(count: int, *, batch_size: int, seed: int, epoch: int, steps: int = 0) -> np.ndarray:
  """Returns the order of the examples in an epoch, [steps, batch_size].

  The seed is not negative; epochs count from 0. 0 steps are one pass. Another number continues
  through as many freshly shuffled passes as needed, from one epoch into the next: so the half of
  the patients with fewer slices keeps in step with the other and shows every slice equally often.
  """
  own = steps_per_epoch(count, batch_size)
  steps = steps or own
  first = epoch * steps
  laps = range(first // own, (first + steps - 1) // own + 1)
  passes = [np.random.default_rng((seed, lap)).permutation(count) for lap in laps]
  plan = np.concatenate([np.resize(one, (own, batch_size)) for one in passes])
  start = first - laps.start * own
  return plan[start : start + steps]


def batches(
  examples: Examples,
  *,
  batch_size: int,
  seed: int,
  epoch: int,
  statistics: Statistics,
  context: int = 0,
  steps: int = 0,
  first: int = 0,
  prefetch: int = 2,
) -> Generator[Batch]:
  """Yields the shuffled training batches of an epoch, on the devices.

  Args:
    examples: Examples to draw from.
    batch_size: Examples in a batch, B.
    seed, epoch, steps: Order of the examples, see `order`.
    statistics: Intensities of the training patients, see `intensity_statistics`.
    context: Neighbouring slices on each side, c, as further channels: C = M (2c + 1).
    first: Number of the first batch, if an epoch is resumed.
    prefetch: Batches read ahead if the examples are not resident.

  Yields:
    'image' [B, S, S, C] float32, normalised; 'label' [B, S, S] int32.
  """
  drawn = examples.drawn
  plan = order(len(drawn), batch_size=batch_size, seed=seed, epoch=epoch, steps=steps)[first:]
  places = [examples.neighbours(drawn[indices], context=context) for indices in plan]
  split = meshes.split(examples.mesh)
  if (stored := examples.resident) is not None:
    for place in places:
      yield _gather(stored, meshes.place(place, split), statistics, split=split)
    return

  own = meshes.own_rows(examples.mesh, batch_size)

  def read() -> Iterator[dict[str, np.ndarray]]:
    for place in places:
      # Neighbours and repeats are read once, for this process's part of the batch alone.
      needed, where = np.unique(place[own], return_inverse=True)
      found = examples.read(needed)
      where = where.reshape(-1, 2 * context + 1)
      yield {'image': found['image'][where], 'label': found['label'][where[:, context]]}

  with contextlib.closing(read_ahead(read(), depth=prefetch)) as found:
    for rows in found:
      yield _finished(meshes.place_rows(rows, split), statistics, split=split)


@functools.partial(jax.jit, static_argnames='split')
def _gather(
  stored: Batch, place: jax.Array, statistics: Statistics, *, split: NamedSharding
) -> Batch:
  """Returns rows `place` [B, 2c + 1] of compact slices as a normalised batch."""
  middle = place[:, place.shape[1] // 2]
  found = {
    'image': stored['image'].at[place].get(mode='promise_in_bounds'),
    'label': stored['label'].at[middle].get(mode='promise_in_bounds'),
  }
  return _finished(found, statistics, split=split)


@functools.partial(jax.jit, static_argnames='split')
def _finished(found: Batch, statistics: Statistics, *, split: NamedSharding) -> Batch:
  """Returns slices with neighbours, [B, 2c + 1, S, S, M], and labels [B, S, S] as a batch."""
  image = normalise(found['image'], **statistics)
  batch = {'image': image, 'label': found['label'].astype(jnp.int32)}
  return jax.lax.with_sharding_constraint(batch, split)


@jax.jit
def normalise(found: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
  """Returns the network's input, [B, S, S, (2c + 1) M], float32, with neighbours as channels.

  Args:
    found: Slices between their neighbours, [B, 2c + 1, S, S, M], intensities in [0, 1].
    mean, std: Mean and standard deviation of the training patients, [M].
  """
  found = (found.astype(jnp.float32) - mean) / std
  found = jnp.moveaxis(found, 1, 3)  # [B, S, S, 2c + 1, M]
  return found.reshape(*found.shape[:3], -1)
