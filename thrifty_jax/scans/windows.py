"""Windows of a plane: overlapping squares in which a network sees a plane larger than its input.

Neighbouring windows overlap by half, so that what lies at the border of one lies inside another.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


def reduced(size: tuple[int, int], reduction: float) -> tuple[int, int]:
  """Returns height and width of a plane of this size once it is reduced by a factor from 1."""
  height, width = (max(1, int(length / reduction + 0.5)) for length in size)
  return height, width


def starts(length: int, side: int) -> list[int]:
  """Returns where windows begin along an axis of a plane, which the last one reaches the end of."""
  last = max(length - side, 0)
  return [*range(0, last, max(side // 2, 1)), last]


def count(size: tuple[int, int], side: int) -> int:
  """Returns the number T of windows of a plane of this height and width."""
  return len(starts(size[0], side)) * len(starts(size[1], side))


def cut(plane: np.ndarray, side: int) -> np.ndarray:
  """Returns the windows of a plane, [H, W] to [T, S, S], row by row; it is padded with 0 to S."""
  return np.stack([*iterate(plane, side)])


def iterate(plane: Any, side: int) -> Iterator[np.ndarray]:
  """Yields the windows of a plane as `cut` returns them, [H, W, ...] to [S, S, ...] each.

  Any `plane` that has a shape and returns rows by `plane[first:last]` will do: each row is asked
  for once, and those of windows side by side are in memory.
  """
  height, width = plane.shape[:2]
  tops = starts(height, side)
  band = plane[: min(side, height)]
  for top, below in zip(tops, [*tops[1:], height], strict=True):
    framed = _framed(band, side)
    for left in starts(width, side):
      yield framed[:, left : left + side]
    if below < height:
      band = np.concatenate([band[below - top :], plane[top + side : below + side]])


def join(parts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Returns the plane of this height and width from values in its windows, [T, S, S] to [H, W].

  It undoes `cut`. Where windows overlap the values are averaged, with weights that fall linearly
  from the middle of a window to its border.
  """
  return np.concatenate([*blend(parts, size)])


def blend(parts: Iterable[np.ndarray], size: tuple[int, int]) -> Iterator[np.ndarray]:
  """Yields the plane that `join` returns, [N, W, ...] at a time, once no more windows reach there.

  The values in the windows, [S, S, ...] each, are taken one after the other.
  """
  parts = iter(parts)
  first = next(parts)
  side, more = len(first), (1,) * (first.ndim - 2)
  height, width = (max(length, side) for length in size)
  above, before = _margin(size[0], side), _margin(size[1], side)
  inside = slice(above, above + size[0]), slice(before, before + size[1])
  if height == width == side:
    yield first[inside]
    return
  parts = itertools.chain([first], parts)
  ramp = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)).astype(np.float32)
  weight = np.outer(ramp, ramp).reshape(side, side, *more)
  downs, acrosses = _sum_at(ramp, height), _sum_at(ramp, width)
  total = np.zeros((side, width, *first.shape[2:]), np.float32)
  for top, below in itertools.pairwise([*starts(height, side), height]):
    for left in starts(width, side):
      total[:, left : left + side] += weight * next(parts)
    done = below - top
    weights = np.outer(downs[top:below], acrosses).reshape(done, width, *more)
    yield (total[:done] / weights)[inside]
    total = np.concatenate([total[done:], np.zeros_like(total[:done])])


def _sum_at(ramp: np.ndarray, length: int) -> np.ndarray:
  """Returns the sum of the ramps of all windows along an axis, [length]."""
  total = np.zeros(length, np.float32)
  for start in starts(length, len(ramp)):
    total[start : start + len(ramp)] += ramp
  return total


def _framed(plane: np.ndarray, side: int) -> np.ndarray:
  """Pads a plane, [H, W, ...], with 0 to at least a window, the plane in the middle."""
  if min(plane.shape[:2]) >= side:
    return plane
  margins = [(0, 0)] * plane.ndim
  for axis, length in enumerate(plane.shape[:2]):
    before = _margin(length, side)
    margins[axis] = before, max(side - length, 0) - before
  return np.pad(plane, margins)


def _margin(length: int, side: int) -> int:
  """Returns how many zeros stand before an axis shorter than a window."""
  return max(side - length, 0) // 2
