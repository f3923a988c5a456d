"""Slice axis, image size and CT window that the scans of a data set suggest.

The first two follow from the headers of all labelled scans, and are the same for every fold. A
window depends on intensities, so it is learned from the training patients of the fold alone.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np

from data_prep import workers
from thrifty_jax import labels
from thrifty_jax.errors import InputError
from thrifty_jax.scans import dicom, volumes
from thrifty_jax.scans.volumes import SLICE_AXES, Case, Volume

# Ratio of a voxel's longest side to the others from which slices count as thick: CT of 0.7 mm in
# slices of 1.0 mm is nearly isotropic, MR of 1 mm in slices of 2 mm is not.
_ANISOTROPIC = 1.5
_MULTIPLE = 32  # pixels: can be halved five times, as often as the default network does
RULE = 1  # version of the rule by which a window is learned: raise it when that changes
_PERCENTILES = (0.5, 99.5)  # of the foreground, as nnU-Net clips CT (Isensee et al., 2021)
# Window limits are rounded outward, so that folds, whose percentiles differ by a few Hounsfield
# units, mostly get the same limits and share their slices.
_STEP = 50
_QUANTILES = 1000  # per scan: all scans weigh the same, however much foreground they show


@dataclasses.dataclass(frozen=True, eq=False)
class Grids:
  """Voxels of N scans along each axis, turned to head, back and left: numbers and distances."""

  shape: np.ndarray  # [N, 3]
  spacing_mm: np.ndarray  # [N, 3]


def read_grids(cases: Sequence[Case]) -> Grids:
  """Returns the grids of the scans, from their headers alone.

  A scan whose header is unreadable is left out here, unless all are: check and prepare refuse it.
  """
  axial = nibabel.orientations.axcodes2ornt(SLICE_AXES['axial'])
  shapes, spacings_mm, errors = [], [], []
  for case in cases:
    try:
      shape, affine = (
        dicom.read_grid(case.image) if case.segments else volumes.read_header(case.image[0])
      )
    except InputError as error:
      errors.append(error)
      continue
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), axial)
    order = np.argsort(turn[:, 0])  # the file's axis for each axis of the result
    shapes.append(np.asarray(shape)[order])
    spacings_mm.append(np.linalg.norm(affine[:3, :3], axis=0)[order])
  if not shapes:
    raise errors[0]
  return Grids(np.asarray(shapes), np.asarray(spacings_mm))


def count_channels(cases: Sequence[Case]) -> int:
  """Returns the number of channels in the first file of each scan, which must be one number.

  Unreadable files are left out here, as by `read_grids`; 0 if all are.
  """
  first: dict[int, Path] = {}
  for case in cases:
    with contextlib.suppress(InputError):
      first.setdefault(volumes.count_channels(case.image[0]), case.image[0])
  if len(first) > 1:
    (count, one), (other, differs) = list(first.items())[:2]
    raise InputError(
      f'{differs}: has {other} channels, but {one.name} has {count}; expected one number. Convert '
      'the scans to grey or to colours, or move some away.'
    )
  return next(iter(first), 0)


def are_cubes(grids: Grids) -> bool:
  """Returns whether no axis is that of thick slices, as where voxels are nearly cubes."""
  second, largest = np.sort(np.median(grids.spacing_mm, axis=0))[1:]
  return bool(largest <= _ANISOTROPIC * second)


def slice_axis(grids: Grids) -> str:
  """Returns the axis of thick slices, one of SLICE_AXES; axial if voxels are nearly cubes."""
  if are_cubes(grids):
    return 'axial'
  return tuple(SLICE_AXES)[int(np.median(grids.spacing_mm, axis=0).argmax())]


def image_size(grids: Grids, *, axis: str, largest: int) -> int:
  """Returns the number of pixels on each side of a slice along an axis of SLICE_AXES.

  It is the median of the longer sides of the scans' slices, rounded up to a multiple of 32, and at
  most `largest`.
  """
  inside = [name != axis for name in SLICE_AXES]
  side = float(np.median(grids.shape[:, inside].max(axis=1)))
  return min(_MULTIPLE * math.ceil(side / _MULTIPLE), largest)


def foreground_window(
  cases: Sequence[Case], read_case: Callable[[Case], Volume], *, processes: int = 1
) -> tuple[float, float]:
  """Returns limits that contain nearly all intensities of the foreground of CT.

  They are the percentiles 0.5 and 99.5 over all scans and channels, each scan weighing the same,
  rounded outward to multiples of 50.
  """
  found = []
  with workers.map_cases(processes, 'window of the training patients') as cases_map:
    for quantiles in cases_map(functools.partial(_foreground_quantiles, read_case), cases):
      found += [quantiles] if quantiles.size else []
  if not found:
    raise InputError(
      f'{cases[0].label[0].parent}: no mask of a training patient has a voxel of foreground; '
      'expected some to learn the window of. Set --config.data.window or correct the masks.'
    )
  low, high = np.percentile(np.concatenate(found), _PERCENTILES)
  return _STEP * float(math.floor(low / _STEP)), _STEP * float(math.floor(high / _STEP) + 1)


def _foreground_quantiles(read_case: Callable[[Case], Volume], case: Case) -> np.ndarray:
  """Returns quantiles of the foreground's finite intensities, [_QUANTILES]; [0] if none."""
  try:
    volume = read_case(case)
  except InputError:  # the check reports it
    return np.zeros(0)
  values = volume.image[labels.foreground(volume.truth)]
  values = values[np.isfinite(values)]
  places = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
  return np.quantile(values, places) if values.size else values
