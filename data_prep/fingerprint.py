"""What the scans of a data set suggest: how to slice them, how large, in which window of CT.

The first two follow from the headers of all labelled scans: they depend on how scans were taken,
not on what they show, and are the same for every fold. A window depends on intensities, so it is
learned from the training patients of the fold alone.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import nibabel
import numpy as np

from data_prep import workers
from thrifty_jax import logbook
from thrifty_jax.errors import InputError
from thrifty_jax.scans import volumes
from thrifty_jax.scans.volumes import SLICE_AXES, Case, Volume

# How much longer the longest side of a voxel is where scans were taken in thick slices: CT of 0.7
# mm in slices of 1.0 mm is as good as isotropic, MR of 1 mm in slices of 2 mm is not.
_ANISOTROPIC = 1.5
_MULTIPLE = 32  # pixels: halved five times, as many as the default network halves, it stays whole
# How a window is learned: a new number when that changes.
RULE = 1
_PERCENTILES = (0.5, 99.5)  # of the foreground, as nnU-Net clips CT (Isensee et al., 2021)
# Window limits are rounded outward, so that folds, whose percentiles differ by a few Hounsfield
# units, mostly get the same limits and share their slices.
_STEP = 50
_QUANTILES = 1000  # of each scan: all scans weigh the same, however much foreground they show


@dataclasses.dataclass(frozen=True, eq=False)
class Grids:
  """Grids of N scans turned to axial: axes to head, back and left, as in SLICE_AXES.

  Attributes:
    shape: Numbers of voxels, [N, 3].
    spacing_mm: Distances of neighbouring voxels, [N, 3].
  """

  shape: np.ndarray
  spacing_mm: np.ndarray


def read_grids(cases: Sequence[Case]) -> Grids:
  """The grids of the scans, from their headers alone.

  A scan whose header cannot be read is left out here: check and prepare refuse it by its name.

  Raises:
    InputError: If no header can be read.
  """
  found, errors = [], []
  for case in cases:
    try:
      found.append(_axial_grid(*volumes.read_header(case.image[0])))
    except InputError as error:
      errors.append(error)
  if not found:
    raise errors[0]
  shapes, spacings = zip(*found, strict=True)
  return Grids(np.asarray(shapes), np.asarray(spacings))


def slice_axis(grids: Grids) -> str:
  """The axis of thick slices, one of SLICE_AXES; axial where the voxels are nearly cubes."""
  spacing_mm = np.median(grids.spacing_mm, axis=0)
  second, largest = np.sort(spacing_mm)[1:]
  if largest <= _ANISOTROPIC * second:
    return 'axial'
  return tuple(SLICE_AXES)[int(spacing_mm.argmax())]


def image_size(grids: Grids, *, axis: str, largest: int) -> int:
  """Pixels on each side of a slice.

  Args:
    grids: Of the scans.
    axis: What slices follow one another along.
    largest: The size is never above it.

  Returns:
    The median of the longer sides of the scans' slices, rounded up to a multiple of 32.
  """
  inside = [name != axis for name in SLICE_AXES]
  side = float(np.median(grids.shape[:, inside].max(axis=1)))
  return min(_MULTIPLE * math.ceil(side / _MULTIPLE), largest)


def foreground_window(
  cases: Sequence[Case], read_case: Callable[[Case], Volume], *, processes: int = 1
) -> tuple[float, float]:
  """Limits that hold nearly all intensities of the foreground, for CT.

  Args:
    cases: Scans of the training patients; of each process one is in memory at a time.
    read_case: Reads one.
    processes: As workers.cases_map has them.

  Returns:
    The 0.5 and 99.5 percentiles over all scans and channels, each scan weighing the same, rounded
    outward to multiples of 50.

  Raises:
    InputError: If no scan that can be read has a voxel of foreground.
  """
  found = []
  with (
    logbook.progress(len(cases), 'window of the training patients') as bar,
    workers.cases_map(processes) as cases_map,
  ):
    for quantiles in cases_map(functools.partial(_foreground_quantiles, read_case), cases):
      found += [quantiles] if quantiles.size else []
      bar.update(1)
  if not found:
    raise InputError(
      f'{cases[0].label[0].parent}: no mask of a training patient has a voxel of foreground; '
      'expected some to learn the window of. Set --config.data.window or correct the masks.'
    )
  low, high = np.percentile(np.concatenate(found), _PERCENTILES)
  return _STEP * float(math.floor(low / _STEP)), _STEP * float(math.floor(high / _STEP) + 1)


def _foreground_quantiles(read_case: Callable[[Case], Volume], case: Case) -> np.ndarray:
  """Of finite intensities of the foreground; what cannot be read or is not finite the check says.

  Returns:
    [_QUANTILES], or [0] where there is no foreground.
  """
  try:
    volume = read_case(case)
  except InputError:
    return np.zeros(0)
  values = volume.image[volume.truth > 0]
  values = values[np.isfinite(values)]
  if not values.size:
    return values
  return np.quantile(values, (np.arange(_QUANTILES) + 0.5) / _QUANTILES)


def _axial_grid(shape: tuple[int, int, int], affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Shape and spacing with the axes in the order of SLICE_AXES, [3] each."""
  turn = nibabel.orientations.ornt_transform(
    nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(SLICE_AXES['axial'])
  )
  order = np.argsort(turn[:, 0])  # where each axis of the result lies in the file
  return np.asarray(shape)[order], np.linalg.norm(affine[:3, :3], axis=0)[order]
