"""Rows of a TIFF by tifffile, of which only the strips or tiles that hold them are decoded."""

import math
from pathlib import Path
from typing import Any

import numpy as np

_KEPT = 2  # rows of tiles that stay decoded: where one band ends, another may begin


class TiffRows:
  """Rows of a page of tifffile, whose file is open only while they are read."""

  def __init__(self, path: Path, page: Any):
    planes, _, height, width, samples = page.shaped
    self._path, self._size = path, (planes, height, width, samples)
    self._dtype = np.dtype(page.parent.byteorder + page.dtype.char)
    self._offsets, self._counts = tuple(page.dataoffsets), tuple(page.databytecounts)
    self._is_plain, self._decode_segment = page.is_final, page.decode
    self._length = min(page.chunks[0], height)  # rows of a strip or a tile
    down = math.ceil(height / self._length)
    self._segments = np.arange(len(self._offsets)).reshape(planes, down, -1)
    self._kept: dict[int, np.ndarray] = {}

  def read(self, first: int, last: int) -> np.ndarray:
    """Reads the rows from `first` until before `last`, [N, W, M], as stored."""
    planes, height, width, samples = self._size
    rows = np.empty((planes, last - first, width, samples), self._dtype.newbyteorder('='))
    with self._path.open('rb') as file:
      if self._is_plain:
        for plane, found in enumerate(rows):
          start = (plane * height + first) * width * samples * self._dtype.itemsize
          file.seek(self._offsets[0] + start)
          found[:] = _require_whole(np.fromfile(file, self._dtype, found.size), found.shape)
      else:
        for row in range(first // self._length, math.ceil(last / self._length)):
          top = row * self._length
          start, end = max(top, first), min(top + self._length, last)
          rows[:, start - first : end - first] = self._decode_row(file, row)[
            :, start - top : end - top
          ]
    return np.concatenate(rows, axis=-1) if planes > 1 else rows[0]

  def _decode_row(self, file: Any, row: int) -> np.ndarray:
    """Returns the pixels of a row of strips or tiles, [planes, N, W, samples]."""
    if row not in self._kept:
      planes, height, width, samples = self._size
      length = min(self._length, height - row * self._length)
      found = np.empty((planes, length, width, samples), self._dtype.newbyteorder('='))
      for index in self._segments[:, row].ravel():
        file.seek(self._offsets[index])
        pixels, (plane, _, _, left, _), _ = self._decode_segment(
          file.read(self._counts[index]), int(index)
        )
        right = min(left + pixels.shape[2], width)
        found[plane, :, left:right] = pixels[0, :length, : right - left]
      self._kept = dict([*self._kept.items(), (row, found)][-_KEPT:])
    return self._kept[row]


def _require_whole(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Returns values of a file in a shape, which they do not fill if the file breaks off."""
  if values.size != math.prod(shape):
    raise ValueError('it breaks off')
  return values.reshape(shape)
