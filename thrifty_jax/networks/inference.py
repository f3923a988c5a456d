"""Inference: from the slices of a scan to class scores, batch by batch.

On a CPU each slice of a batch is computed by itself, as many at a time as there are cores: its
activations fit in the caches, and small operations leave the other cores to other slices.
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
# A flip of [B, S, S, C] is its own inverse. The diagonal swaps rows and columns.
FLIP = {
  'up_down': lambda image: image[:, ::-1],
  'left_right': lambda image: image[:, :, ::-1],
  'diagonal': lambda image: image.swapaxes(1, 2),
}


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
    flips: Flips over which logits are averaged, names in FLIP.
    mesh: Devices that share a batch, which is enlarged to a multiple of their number; None is the
      default device.
  """
  averaged = average_over_flips(logits, flips)
  if mesh is not None and mesh.size > 1:
    network = normalise_for(averaged, spec, sharding=meshes.split(mesh))
    batch_size = -(-batch_size // mesh.size) * mesh.size
  else:
    network = normalise_for(run_slice_by_slice(averaged), spec)
  return functools.partial(class_scores, network, context=spec.context, batch_size=batch_size)


def normalise_for(
  logits: Callable[[Any], Any], spec: ModelSpec, *, sharding: Sharding | None = None
) -> Callable[[np.ndarray], Any]:
  """Returns the function for `class_scores` of a network from normalised images to logits."""
  statistics = spec.statistics
  return lambda slices: logits(batching.normalise(meshes.place(slices, sharding), **statistics))


def class_scores(
  network: Callable[[np.ndarray], Any], image: np.ndarray, *, context: int, batch_size: int
) -> np.ndarray:
  """Returns the class scores of all slices of a scan, [D, S, S, K] float32.

  Args:
    network: Function from slices with their neighbours, [B, 2c + 1, S, S, M] float16 in [0, 1], to
      class scores [B, S, S, K].
    image: Neighbouring slices, [D, S, S, M] float16 in [0, 1].
    context: Neighbours on each side, c.
    batch_size: Slices in a batch, B; the last batch is filled with repeats.
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
  """Returns a network [B, S, S, C] to [B, S, S, K] averaged over all combinations of flips.

  The flips are names in FLIP; without any, the network itself is returned.
  """
  if not flips:
    return logits
  sizes = range(len(flips) + 1)  # none of the flips is a combination, too
  combinations = [chosen for size in sizes for chosen in itertools.combinations(flips, size)]

  def averaged(image: Any) -> Any:
    total = 0
    for chosen in combinations:
      found = logits(_flip(image, chosen))
      total = total + _flip(found, chosen[::-1])
    return total / len(combinations)

  return averaged


def _flip(image: Any, flips: Sequence[str]) -> Any:
  """Returns the image flipped by one after the other; in the reverse order, that is undone."""
  return functools.reduce(lambda found, flip: FLIP[flip](found), flips, image)


def split_batch(batch_size: int) -> tuple[int, int]:
  """Returns how many programs compute a batch at the same time, and the slices in each."""
  if jax.default_backend() != 'cpu':
    return 1, batch_size
  return min(device.cores(), batch_size), 1


def run_slice_by_slice(logits: Callable[[Any], Any]) -> Callable[[Any], Any]:
  """Returns the function of the same shapes that runs a compiled network as `split_batch` says.

  On the CPU its results are numpy arrays.
  """
  if jax.default_backend() != 'cpu':
    return logits
  compiled = set()

  def run(image: Any) -> np.ndarray:
    image = np.asarray(image)

    def one(index: int) -> np.ndarray:
      return np.asarray(logits(image[index : index + 1]))

    # The first slice runs alone; otherwise each thread would compile.
    found = [] if image.shape[1:] in compiled else [one(0)]
    compiled.add(image.shape[1:])
    with ThreadPoolExecutor(split_batch(len(image))[0]) as pool:
      found += pool.map(one, range(len(found), len(image)))
    return np.concatenate(found)

  return run
