"""Inference: from the slices of a scan to class scores, batch by batch.

On a CPU each slice of a batch is computed separately, as many at the same time as there are cores:
the activations of one slice fit in the caches while those of a batch do not, and an operation that
is too small to be split leaves the other cores to other slices.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, Sharding

from thrifty_jax import device
from thrifty_jax.data import batching
from thrifty_jax.data import mesh as meshes
from thrifty_jax.networks.model_spec import ModelSpec

# Maps the slices of a scan, [D, S, S, M] float16 in [0, 1], to class scores [D, S, S, K] float32.
Predict = Callable[[np.ndarray], np.ndarray]
FLIP_AXES = {'up_down': 1, 'left_right': 2}  # axes of [B, H, W, C]


def predict_with(
  logits: Callable[[Any], Any],
  spec: ModelSpec,
  *,
  batch_size: int,
  flips: Sequence[str] = (),
  mesh: Mesh | None = None,
) -> Predict:
  """Returns the function from the slices of a scan to a network's logits.

  Args:
    logits: Compiled network, normalised images [B, S, S, C] to [B, S, S, K], for any B.
    spec: Description of the network.
    batch_size: Slices in a batch; the last batch is filled, so that only one size is compiled.
    flips: Flips over which logits are averaged, names in FLIP_AXES.
    mesh: Devices that share a batch, which is enlarged to a multiple of their number; None is the
      default device.
  """
  averaged = average_over_flips(logits, flips)
  several = mesh is not None and mesh.size > 1
  network = normalise_for(
    averaged if several else slice_by_slice(averaged),
    spec,
    sharding=meshes.split(mesh) if several else None,
  )
  shared_by = mesh.size if several else 1
  batch_size = -(-batch_size // shared_by) * shared_by
  return functools.partial(class_scores, network, context=spec.context, batch_size=batch_size)


def normalise_for(
  logits: Callable[[Any], Any], spec: ModelSpec, *, sharding: Sharding | None = None
) -> Callable[[np.ndarray], Any]:
  """Returns the function of slices with their neighbours that `class_scores` takes.

  Args:
    logits: Network, normalised images [B, S, S, C] to [B, S, S, K].
    spec: Description of the network.
    sharding: Sharding of a batch; None is the default device.
  """
  statistics = spec.statistics
  return lambda found: logits(batching.normalised(meshes.place(found, sharding), **statistics))


def class_scores(
  network: Callable[[np.ndarray], Any], image: np.ndarray, *, context: int, batch_size: int
) -> np.ndarray:
  """Returns the class scores of all slices of a scan.

  Args:
    network: Function from slices with their neighbours, [B, 2c + 1, S, S, M] float16 in [0, 1], to
      class scores [B, S, S, K].
    image: Neighbouring slices, [D, S, S, M] float16 in [0, 1].
    context: Neighbours on each side, c.
    batch_size: Slices in a batch, B; the last batch is filled with repeats.

  Returns:
    Class scores [D, S, S, K], float32.
  """
  # Gathered on the host, so that another number of slices needs no compilation.
  rows = neighbours(len(image), context=context)
  found = []
  for first in range(0, len(image), batch_size):
    middle = np.minimum(np.arange(first, first + batch_size), len(image) - 1)
    found.append(np.asarray(network(image[rows[middle]]), np.float32))
  return np.concatenate(found)[: len(image)]


def neighbours(slices: int, *, context: int) -> np.ndarray:
  """Returns the indices d-c..d+c for each slice d, [D, 2c + 1]; the outermost slices repeat."""
  rows = np.arange(slices)[:, None] + np.arange(-context, context + 1)
  return np.clip(rows, 0, slices - 1)


def average_over_flips(logits: Callable[[Any], Any], flips: Sequence[str]) -> Callable[[Any], Any]:
  """Returns the function that averages logits over all combinations of the flips, none included.

  Args:
    logits: Network, [B, S, S, C] to [B, S, S, K].
    flips: Names in FLIP_AXES; () returns `logits` itself.

  Returns:
    A function of the same shapes.
  """
  if not flips:
    return logits
  axes = [FLIP_AXES[flip] for flip in flips]
  combinations = [
    combination
    for size in range(len(axes) + 1)
    for combination in itertools.combinations(axes, size)
  ]

  def averaged(image: Any) -> Any:
    total = 0
    for combination in combinations:
      flip = tuple(slice(None, None, -1 if axis in combination else 1) for axis in range(4))
      total = total + logits(image[flip])[flip]
    return total / len(combinations)

  return averaged


def split_batch(batch_size: int) -> tuple[int, int]:
  """Returns how many programs compute a batch at the same time, and the slices in each."""
  if jax.default_backend() != 'cpu':
    return 1, batch_size
  return min(device.cores(), batch_size), 1


def slice_by_slice(logits: Callable[[Any], Any]) -> Callable[[Any], Any]:
  """Returns the function of a batch that runs `logits` as `split_batch` says.

  Args:
    logits: Compiled network, [B, S, S, C] to [B, S, S, K] for any B.

  Returns:
    A function of the same shapes; on the CPU it returns a numpy array.
  """
  if jax.default_backend() != 'cpu':
    return logits
  compiled = set()

  def of_batch(image: Any) -> np.ndarray:
    image = np.asarray(image)

    def one(index: int) -> np.ndarray:
      return np.asarray(logits(image[index : index + 1]))

    # The first slice runs alone; otherwise each thread would compile.
    found = [] if image.shape[1:] in compiled else [one(0)]
    compiled.add(image.shape[1:])
    with ThreadPoolExecutor(split_batch(len(image))[0]) as pool:
      found += pool.map(one, range(len(found), len(image)))
    return np.concatenate(found)

  return of_batch
