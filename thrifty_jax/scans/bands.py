"""Pictures of any size reduced for networks that see windows, and back, by bands of rows.

A picture is an array [H, W, M], or anything else that has a shape and returns rows by
`picture[first:last]`, such as `pictures.Rows`. Each result is to the last bit that of `slices`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from scipy import sparse

from thrifty_jax.scans import levels, pictures, windows
from thrifty_jax.scans.levels import Levels
from thrifty_jax.scans.preprocessing import ImageSettings
from thrifty_jax.scans.resizing import ORDERS, weights
from thrifty_jax.scans.slices import clip_to_unit

Picture = np.ndarray | pictures.Rows
_BAND_PIXELS = 1 << 20  # of a picture that are processed at a time: bounds the memory


def split(height: int, width: int) -> Iterator[slice]:
  """Yields the bands of rows of a picture."""
  step = max(1, _BAND_PIXELS // width)
  for first in range(0, height, step):
    yield slice(first, min(first + step, height))


def find_levels(picture: Picture) -> list[Levels]:
  """Finds the values of each channel and how often each occurs.

  A picture whose values are not of 8 or 16 bits without sign is sorted, for which it is read whole.
  """
  height, width, channels = picture.shape
  counts = np.zeros((channels, 1 << 16), np.int64)
  for rows in split(height, width):
    band = picture[rows]
    if band.dtype not in (np.uint8, np.uint16):
      whole = picture[:height].astype(np.float32)
      return [Levels(*np.unique(whole[..., m], return_counts=True)) for m in range(channels)]
    for m, count in enumerate(counts):
      count += np.bincount(band[..., m].ravel(), minlength=len(count))
  return [levels.make_levels(count, np.arange(len(count))) for count in counts]


def thin(picture: Picture, step: int) -> np.ndarray:
  """Returns every `step`-th row and column of a picture, [H, W, M]."""
  parts = [picture[rows][-rows.start % step :: step, ::step] for rows in split(*picture.shape[:2])]
  return np.concatenate(parts)


class Reduced:
  """A picture reduced for its windows, of which `reduced[first:last]` are rows, [N, W', M].

  They are float16 in [0, 1], as `slices.image_to_slices` has them; CLAHE and curvature flow, which
  need the whole picture, are left out. `levels` are those of the picture's channels.
  """

  def __init__(self, picture: Picture, settings: ImageSettings, levels: Iterable[Levels]):
    self._picture, order = picture, ORDERS[settings.resize]
    height, width, channels = picture.shape
    self.shape = (*windows.reduced((height, width), settings.reduction), channels)
    self._down = weights(height, self.shape[0], order)
    self._right = weights(width, self.shape[1], order)
    self._limits = [_find_limits(one, settings) for one in levels]

  def __getitem__(self, rows: slice) -> np.ndarray:
    first, last, _ = rows.indices(self.shape[0])
    found = np.empty((last - first, *self.shape[1:]), np.float16)
    native = self._picture.shape
    step = max(1, int(_BAND_PIXELS / native[1] * self.shape[0] / native[0]))
    for start in range(first, last, step):
      end = min(start + step, last)
      down, span = _cut_weights(self._down, slice(start, end))
      band = self._picture[span]
      for m, (low, high) in enumerate(self._limits):
        plane = clip_to_unit(band[..., m].astype(np.float32), low, high)
        if native[:2] != self.shape[:2]:
          plane = (self._right @ (down @ plane).T).T
        found[start - first : end - first, :, m] = plane.clip(0.0, 1.0)
    return found


def _find_limits(levels: Levels, settings: ImageSettings) -> tuple[float, float]:
  """Returns the values of a channel that become 0 and 1."""
  low, high = settings.limits
  if settings.intensity == 'percentiles':
    low, high = levels.percentiles((low, high))
    if low == high:
      low, high = levels.values[[0, -1]]
  return low, high


def enlarge(
  bands: Iterable[np.ndarray], size: tuple[int, int], native_size: tuple[int, int]
) -> Iterator[np.ndarray]:
  """Yields scores on the native grid, [N, W, K] float32 for each band of `split`.

  Args:
    bands: Scores of the reduced picture from the top, [N, W', K] each.
    size: Height H' and width W' of the reduced picture.
    native_size: Height H and width W of the picture.
  """
  down, right = (weights(*pair, 1) for pair in zip(size, native_size, strict=True))
  bands = iter(bands)
  kept, start = next(bands), 0  # rows from `start`, of which none is needed any more before it
  for rows in split(*native_size):
    part, span = _cut_weights(down, rows)
    while start + len(kept) < span.stop:
      done = max(span.start - start, 0)
      kept, start = np.concatenate([kept[done:], next(bands)]), start + min(done, len(kept))
    planes = kept[span.start - start : span.stop - start]
    if size == native_size:
      yield planes
      continue
    native = np.empty((rows.stop - rows.start, native_size[1], kept.shape[-1]), np.float32)
    for k in range(kept.shape[-1]):
      native[..., k] = (right @ (part @ planes[..., k]).T).T
    yield native


def _cut_weights(down: sparse.csr_array, rows: slice) -> tuple[sparse.csr_array, slice]:
  """Returns the weights of some rows, and the span of the rows that they are of."""
  part: Any = down[rows]
  span = slice(int(part.indices.min()), int(part.indices.max()) + 1)
  return part[:, span], span
