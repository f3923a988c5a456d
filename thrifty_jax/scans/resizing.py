"""Planes resized by products with sparse matrices, which may be those of some rows alone."""

import functools

import numpy as np
from scipy import sparse

ORDERS = {'nearest': 0, 'linear': 1}  # of `resize`, by the setting


def resize(plane: np.ndarray, size: tuple[int, int], *, order: int = 1) -> np.ndarray:
  """Resizes a plane, float32, with the corners (not centres) of both grids aligned.

  Order 1 is linear and blurs first if the plane is reduced; 0 takes the nearest pixel.
  """
  plane = plane.astype(np.float32, copy=False)
  if plane.shape == size:
    return plane
  down, right = (weights(old, new, order) for old, new in zip(plane.shape, size, strict=True))
  return np.ascontiguousarray((right @ (down @ plane).T).T)


@functools.lru_cache(maxsize=64)
def weights(old: int, new: int, order: int) -> sparse.csr_array:
  """Returns the weight of each old pixel of a row in each new one, [new, old], float32.

  It is what scikit-image's resize makes of unit vectors: a Gaussian blur of (old / new - 1) / 2
  pixels, cut off at 4 of its deviations, then the value at the middle of each new pixel.
  """
  at = (np.arange(new) + 0.5) * (old / new) - 0.5
  if order == 0:
    found = _place_taps(np.floor(at + 0.5)[:, None], np.ones((1, 1)), old)
  else:
    below = np.floor(at)
    part = at - below
    found = _place_taps(below[:, None] + (0, 1), np.stack([1 - part, part], axis=1), old)
    deviation = (old / new - 1) / 2
    if deviation > 0 and (reach := int(4 * deviation + 0.5)):
      steps = np.arange(-reach, reach + 1)
      kernel = np.exp(-0.5 / deviation**2 * steps**2)
      found = found @ _place_taps(np.arange(old)[:, None] + steps, kernel[None] / kernel.sum(), old)
  found = sparse.csr_array(found.astype(np.float32))
  found.eliminate_zeros()
  found.sort_indices()
  return found


def _place_taps(columns: np.ndarray, shares: np.ndarray, old: int) -> sparse.csr_array:
  """Returns rows of weights, [new, old], given as columns [new, T] and shares [new or 1, T].

  A column outside of the pixels is the nearest of them.
  """
  columns = np.clip(columns, 0, old - 1).astype(np.int32)
  rows = np.arange(len(columns)).repeat(columns.shape[1])
  shares = np.broadcast_to(shares, columns.shape).ravel()
  return sparse.csr_array((shares, (rows, columns.ravel())), shape=(len(columns), old))
