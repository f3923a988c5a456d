"""Networks in use on a CPU: each slice by itself, as many at the same time as there are cores.

The activations of one slice stay in the caches where those of a batch do not, and an operation too
small to be shared leaves the other cores to another slice.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from thrifty_jax import device


def split(batch_size: int) -> tuple[int, int]:
  """How a batch is computed on the default device: programs at the same time, slices in each."""
  if jax.default_backend() != 'cpu':
    return 1, batch_size
  return min(device.cores(), batch_size), 1


def network(logits: Callable[[Any], Any]) -> Callable[[Any], Any]:
  """The function of a batch that runs `logits` as `split` has it.

  Args:
    logits: Compiled, [B, S, S, C] to [B, S, S, K] for any B.

  Returns:
    A function of the same shapes; on the CPU it gives a numpy array.
  """
  if jax.default_backend() != 'cpu':
    return logits
  compiled = set()

  def slice_by_slice(image: Any) -> np.ndarray:
    image = np.asarray(image)

    def one(index: int) -> np.ndarray:
      return np.asarray(logits(image[index : index + 1]))

    # The first alone, or each thread would compile.
    found = [] if image.shape[1:] in compiled else [one(0)]
    compiled.add(image.shape[1:])
    with ThreadPoolExecutor(split(len(image))[0]) as pool:
      found += pool.map(one, range(len(found), len(image)))
    return np.concatenate(found)

  return slice_by_slice
