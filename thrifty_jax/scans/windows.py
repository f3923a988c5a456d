"""Windows of a plane: overlapping squares in which a network sees a plane larger than its input.

Neighbouring windows overlap by half, so that what lies at the border of one lies inside another.
"""

import itertools

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
  plane = _framed(plane, side)
  corners = itertools.product(*(starts(length, side) for length in plane.shape))
  return np.stack([plane[top : top + side, left : left + side] for top, left in corners])


def join(parts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Returns the plane of this height and width from values in its windows, [T, S, S] to [H, W].

  It undoes `cut`. Where windows overlap the values are averaged, with weights that fall linearly
  from the middle of a window to its border.
  """
  side = parts.shape[1]
  height, width = (max(length, side) for length in size)
  if len(parts) == 1:
    total = parts[0]
  else:
    ramp = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)).astype(np.float32)
    weight = np.outer(ramp, ramp)
    total, weights = np.zeros((2, height, width), np.float32)
    corners = itertools.product(starts(height, side), starts(width, side))
    for part, (top, left) in zip(parts, corners, strict=True):
      here = slice(top, top + side), slice(left, left + side)
      total[here] += weight * part
      weights[here] += weight
    total /= weights
  top, left = _margin(size[0], side), _margin(size[1], side)
  return total[top : top + size[0], left : left + size[1]]


def _framed(plane: np.ndarray, side: int) -> np.ndarray:
  """Pads a plane with 0 to at least a window, the plane in the middle."""
  if min(plane.shape) >= side:
    return plane
  margins = []
  for length in plane.shape:
    before = _margin(length, side)
    margins.append((before, max(side - length, 0) - before))
  return np.pad(plane, margins)


def _margin(length: int, side: int) -> int:
  """Returns how many zeros stand before an axis shorter than a window."""
  return max(side - length, 0) // 2
