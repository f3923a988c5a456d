"""Reads masks that DICOM stores beside a series: segmentations (SEG) and structures (RTSTRUCT).

Segments and structures are found by their names, whatever their numbers are. What cannot be put on
the slices of the series exactly is refused; nothing is filled in between slices.

Source: DICOM PS3.3, C.8.20 (segmentation), C.8.8.5 and C.8.8.6 (structure set, contours).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax.errors import InputError
from thrifty_jax.scans import contours, dicom_file, dicom_pixels

_CLOSED = ('CLOSED_PLANAR', 'CLOSEDPLANAR_XOR')  # the second says that a contour within is a hole
# Of a step or a pixel: how far a frame or a point may lie beside a slice, of which the positions
# may be uneven by a quarter.
_OFF = 0.3

# Class, slice and pixels of it, [H, W] bool.
_Layer = tuple[int, int, np.ndarray]


def simplify(name: str) -> str:
  """Returns a name without what does not count in it: capital letters and further blanks."""
  return ' '.join(name.split()).casefold()


def read_names(path: Path) -> list[str]:
  """Returns the names of the segments or structures in a file, in its order."""
  with dicom_file.report_unreadable(path):
    dataset = dicom_file.read_tags(path, only=('SegmentSequence', 'StructureSetROISequence'))
    return [' '.join(name.split()) for name, _ in _list(dataset)]


def read_mask(
  path: Path, names: Sequence[str], shape: tuple[int, int, int], affine: np.ndarray
) -> np.ndarray:
  """Reads the classes of a scan from the segments or structures that have their names.

  Args:
    path: DICOM SEG or RTSTRUCT.
    names: Names of the foreground classes; one that is not there has no voxel.
    shape: Numbers of voxels of the scan, (D, H, W).
    affine: Affine of the scan's (d, h, w) to RAS millimetres, [4, 4].

  Returns:
    Class of each voxel, [D, H, W], uint8.

  Raises:
    InputError: If the file is of a kind that cannot be read exactly, does not lie on the slices, or
      two classes claim a voxel.
  """
  wanted = {simplify(name): k for k, name in enumerate(names, 1)}
  label = np.zeros(shape, np.uint8)
  with dicom_file.report_unreadable(path):
    dataset = dicom_file.read_tags(path)
    classes = {
      number: wanted[simplify(name)] for name, number in _list(dataset) if simplify(name) in wanted
    }
    read: Callable[..., Iterator[_Layer]] = (
      _read_segments if 'SegmentSequence' in dataset else _read_structures
    )
    for k, d, inside in read(path, dataset, classes, shape, affine):
      taken = label[d][inside]
      if taken.any():
        both = f'{names[int(taken.max()) - 1]} and {names[k - 1]}'
        raise InputError(
          f'{path}: {both} have {np.count_nonzero(taken)} voxels of slice {d + 1} in common; '
          'expected one class a voxel. Correct the file, or leave one out of --config.data.classes.'
        )
      label[d][inside] = k
  return label


def _list(dataset: Any) -> list[tuple[str, int]]:
  """Returns names and numbers of the segments or structures."""
  segments = dataset.get('SegmentSequence') or ()
  structures = dataset.get('StructureSetROISequence') or ()
  return [
    *((str(one.get('SegmentLabel') or ''), int(one.SegmentNumber)) for one in segments),
    *((str(one.get('ROIName') or ''), int(one.ROINumber)) for one in structures),
  ]


def _read_segments(
  path: Path,
  dataset: Any,
  classes: Mapping[int, int],
  shape: tuple[int, int, int],
  affine: np.ndarray,
) -> Iterator[_Layer]:
  """Yields the frames of the segments in `classes`, which has the class of each number."""
  kind, bits = dataset.get('SegmentationType'), dataset.get('BitsAllocated')
  if kind != 'BINARY' or bits != 1:
    raise InputError(
      f'{path}: its SegmentationType is {str(kind)!r:.40} of {bits} bits; expected BINARY, which '
      'says of each voxel whether it is inside. Export it as such.'
    )
  rows, columns = int(dataset.Rows), int(dataset.Columns)
  if (rows, columns) != shape[1:]:
    raise InputError(
      f'{path}: has {rows} x {columns} pixels (rows x columns), but the slices of its series have '
      f'{shape[1]} x {shape[2]}; expected one grid. Resample it to the series.'
    )
  dicom_pixels.require_little_endian(dataset)
  frames, size = dicom_pixels.count_frames(dataset), rows * columns
  content = dataset.PixelData
  expected = -(-frames * size // 8)
  if len(content) not in (expected, expected + expected % 2):
    raise InputError(
      f'{path}: its pixels are {len(content)} bytes; expected {expected}, for {frames} frames of '
      f'{rows} x {columns} pixels of 1 bit, not compressed. Export it again.'
    )
  packed = np.frombuffer(content, np.uint8)  # frames follow one another without a gap
  seen = set[tuple[int, int]]()
  for frame in range(frames):
    holder = dicom_file.find_holder(dataset, frame, 'ReferencedSegmentNumber')
    number = int(holder.ReferencedSegmentNumber)
    if number not in classes:
      continue
    d = _find_slice(path, dicom_file.read_lay(path, dataset, frame), shape, affine)
    if (number, d) in seen:
      raise InputError(
        f'{path}: frame {frame + 1} shows segment {number} on slice {d + 1}, as one before it '
        'does; expected one frame of each. Export it again.'
      )
    seen.add((number, d))
    first, last = frame * size, (frame + 1) * size
    unpacked = np.unpackbits(packed[first // 8 : -(-last // 8)], bitorder='little')
    yield classes[number], d, unpacked[first % 8 :][:size].reshape(rows, columns) > 0


def _find_slice(
  path: Path, lay: dicom_file.Lay, shape: tuple[int, int, int], affine: np.ndarray
) -> int:
  """Returns the slice on which a frame lies, pixel on pixel."""
  corners = np.array([(h, w) for h in (0, shape[1] - 1) for w in (0, shape[2] - 1)])
  steps = (lay.directions[:, :2] * lay.spacing[::-1]).T  # of a column and of a row, mm
  index = _to_index(lay.position + corners[:, ::-1] @ steps, affine)
  d = int(np.rint(index[0, 0]))
  off = np.abs(index - np.c_[np.full(4, d), corners]).max()
  if off > _OFF or not 0 <= d < shape[0]:
    raise InputError(
      f'{path}: has a frame that lies on no slice of its series '
      f'({_describe_off(index[0, 0], off, shape)}); expected the grid of the series. Resample it '
      'to the series, or export it for the right one.'
    )
  return d


def _read_structures(
  path: Path,
  dataset: Any,
  classes: Mapping[int, int],
  shape: tuple[int, int, int],
  affine: np.ndarray,
) -> Iterator[_Layer]:
  """Yields the filled contours of the structures in `classes`, by class and slice."""
  names = {number: name for name, number in _list(dataset)}
  for structure in dataset.get('ROIContourSequence') or ():
    roi = int(structure.ReferencedROINumber)
    if roi not in classes:
      continue
    by_slice: dict[int, list[np.ndarray]] = {}
    for number, contour in enumerate(structure.get('ContourSequence') or (), 1):
      what = f'{path}: contour {number} of {names[roi]}'
      d, points = _read_contour(what, contour, shape, affine)
      by_slice.setdefault(d, []).append(points)
    steps = np.diff(sorted(by_slice))
    if len(steps) >= 3 and steps.min() > 1:
      raise InputError(
        f'{path}: {names[roi]} has contours on no two slices that are neighbours; expected them on '
        'each that it reaches, as one without is background. Interpolate them, and export again.'
      )
    for d, found in by_slice.items():
      yield classes[roi], d, contours.fill(found, shape[1:])


def _read_contour(
  what: str, contour: Any, shape: tuple[int, int, int], affine: np.ndarray
) -> tuple[int, np.ndarray]:
  """Returns the slice of a contour, and its points as (row, column), [N, 2]; `what` names it."""
  kind = str(contour.get('ContourGeometricType') or '')
  if kind not in _CLOSED:
    raise InputError(
      f'{what} is {kind!r:.40}; expected {_CLOSED[0]}, which has an inside. Close it, or remove it '
      'from the structure.'
    )
  with np.errstate(all='ignore'):
    try:
      values = np.array(dicom_file.read_text(contour, 'ContourData').split('\\'), float)
    except ValueError:
      values = np.array([np.nan])
  count = int(contour.get('NumberOfContourPoints') or len(values) // 3)
  if len(values) != 3 * count or not np.isfinite(values).all():
    raise InputError(
      f'{what} has {len(values)} coordinates that are not three numbers for each of {count} '
      'points; expected these. Export it again.'
    )
  index = _to_index(values.reshape(-1, 3), affine)
  d = int(np.rint(np.clip(index[0, 0], -1, shape[0])))
  off = np.abs(index[:, 0] - d).max()
  if off > _OFF or not 0 <= d < shape[0]:
    raise InputError(
      f'{what} lies on no slice of its series ({_describe_off(index[0, 0], off, shape)}); expected '
      'contours on the slices. Export it for this series.'
    )
  points = index[:, 1:]
  if (points.max(axis=0) < -0.5).any() or (points.min(axis=0) > np.array(shape[1:]) - 0.5).any():
    raise InputError(
      f'{what} lies beside the pixels of slice {d + 1}; expected it on them. Export it for this '
      'series.'
    )
  return d, points


def _to_index(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
  """Returns (d, h, w) of points in LPS millimetres, [N, 3]."""
  ras = np.c_[points * (-1, -1, 1), np.ones(len(points))]
  return np.linalg.solve(affine, ras.T)[:3].T


def _describe_off(place: float, off: float, shape: tuple[int, int, int]) -> str:
  return f'at {place + 1:.4g} of the slices 1 to {shape[0]}, off by up to {off:.2g} voxels'
