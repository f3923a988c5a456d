"""Masks of slices from contours and back.

Coordinates are (row, column) of pixels, whose centres are whole numbers.
"""

from collections.abc import Sequence

import numpy as np
from skimage import measure

# Where a contour passes between a pixel within (1) and one without (0). Not in the middle, so that
# readers that round its points find the pixel within.
_LEVEL = 0.55
_ON = 0.01  # of a pixel, by which a centre may lie beside a contour: files have rounded points


def fill(contours: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
  """Returns the pixels whose centres lie within an odd number of contours, or on one.

  So a contour within another is a hole. Programs that draw contours through the centres of the
  outermost pixels, as OpenCV does, mean these pixels too, also those around a hole.

  Args:
    contours: Closed polygons, the last point joined to the first, [N, 2] each.
    shape: Numbers of rows and columns (H, W).

  Returns:
    Mask, [H, W], bool.
  """
  height, width = shape
  crossings = np.zeros((height, width + 1), np.int32)  # per row, first pixel beyond each crossing
  lines = np.zeros(shape, bool)
  for contour in contours:
    other = np.roll(contour, -1, axis=0)
    down = (contour[:, 0] <= other[:, 0])[:, None]
    # Each edge from its upper end, so that one that is passed both ways crosses at equal places.
    (top, left), (bottom, right) = (
      np.where(down, contour, other).T,
      np.where(down, other, contour).T,
    )
    edge, row = _count_through(np.ceil(top), np.ceil(bottom) - 1, height)
    share = (row - top[edge]) / (bottom - top)[edge]
    column = np.ceil(left[edge] + share * (right - left)[edge])
    np.add.at(crossings, (row, np.clip(column, 0, width).astype(int)), 1)
    _draw(lines, contour, other)
  return (np.cumsum(crossings[:, :width], axis=1) % 2 == 1) | lines


def _draw(lines: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
  """Marks the pixels, [H, W] bool, whose centres lie on edges from `start` to `end`, [N, 2]."""
  step = end - start
  across = np.abs(step[:, 1]) > np.abs(step[:, 0])
  for turned, chosen in ((False, ~across), (True, across)):  # along rows, then along columns
    (first, beside), (last, _) = (
      ends[chosen][:, :: -1 if turned else 1].T for ends in (start, end)
    )
    slope = step[chosen][:, int(not turned)]
    low, high = np.ceil(np.minimum(first, last) - _ON), np.floor(np.maximum(first, last) + _ON)
    edge, place = _count_through(low, high, lines.shape[int(turned)])
    length = np.where(first == last, 1, last - first)
    share = np.clip((place - first[edge]) / length[edge], 0, 1)
    exact = beside[edge] + share * slope[edge]
    near = np.rint(exact)
    on = (np.abs(near - exact) <= _ON) & (near >= 0) & (near < lines.shape[int(not turned)])
    pixels = (place[on], near[on].astype(int))
    lines[pixels[::-1] if turned else pixels] = True


def _count_through(low: np.ndarray, high: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns whose, and which, are the whole numbers from `low` to `high`, [N], within [0, size)."""
  low, high = np.clip(low, 0, size).astype(int), np.clip(high, -1, size - 1).astype(int)
  counts = np.maximum(high - low + 1, 0)
  index = np.repeat(np.arange(len(counts)), counts)
  return index, np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts) + low[index]


def trace(mask: np.ndarray) -> list[np.ndarray]:
  """Returns contours around the pixels of a mask, [H, W] bool, [N, 2] each; undoes `fill`.

  They do not cross. A hole is joined to what lies around it by a line that is passed both ways, as
  DICOM has it, so that readers that unite contours find it too.
  """
  if not mask.any():
    return []
  (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis=k))[[0, -1]] for k in (1, 0))
  padded = np.pad(mask[top : bottom + 1, left : right + 1], 1)  # the rest would only take time
  found = [line[:-1] for line in measure.find_contours(padded.astype(float), _LEVEL)]
  outer, holes = list[np.ndarray](), list[np.ndarray]()
  for line in found:
    (outer if _area(line) > 0 else holes).append(line)
  # From left to right: what lies to the left of a hole is joined already.
  for hole in sorted(holes, key=lambda line: line[:, 1].min()):
    start = int(hole[:, 1].argmin())
    row, column = int(hole[start, 0]), int(hole[start, 1])
    outside = int(np.flatnonzero(~padded[row, :column])[-1])
    k, at = _find_point(outer, np.array([row, outside + _LEVEL]))
    there_and_back = np.concatenate([hole[start:], hole[: start + 1]])
    outer[k] = np.concatenate([outer[k][: at + 1], there_and_back, outer[k][at:]])
  return [line + (top - 1, left - 1) for line in outer]


def _area(line: np.ndarray) -> float:
  """Returns the area within a polygon, above 0 if it runs as `measure` draws it around a mask."""
  row, column = line.T
  return float(column @ np.roll(row, -1) - row @ np.roll(column, -1))


def _find_point(lines: Sequence[np.ndarray], point: np.ndarray) -> tuple[int, int]:
  """Returns which line has a point, and where."""
  nearest = [np.abs(line - point).max(axis=1) for line in lines]
  k = int(np.argmin([distances.min() for distances in nearest]))
  return k, int(nearest[k].argmin())
