"""Reads a DICOM series as one volume, its slices in spatial order.

SliceThickness is not the distance of slices, names follow any order, and after anonymisation a
series may have several ids, or two one: only where the slices lie decides. Only slices of two ids
that alternate are refused, as two series may lie half a step beside one another.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax.errors import InputError
from thrifty_jax.scans import dicom_file, volumes
from thrifty_jax.scans.dicom_file import Lay, Plane

_SAME_PLACE_MM = 0.01
_UNEVEN = 0.25  # share of a step: positions are rounded, and some tables move unevenly
_SHEAR = 0.02  # sideways share of a step: 1.1 degrees, up to which distances are right within 2 %


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
  """The slices of one series, in order along their normal, rows x columns."""

  voxels: np.ndarray  # [D, H, W], slope and intercept applied (CT: Hounsfield units)
  affine: np.ndarray  # of (d, h, w) to RAS millimetres, [4, 4]
  # Index of each slice's file, [D]: masks[order] puts masks into this order. Of files with several
  # frames these count, one file after the other.
  order: np.ndarray


def read_series(files: Sequence[Path]) -> Series:
  """Reads the slices of one DICOM series in any order: at least two, in files or frames of a file.

  Raises:
    InputError: If a slice is unreadable, lacks a geometry or has another one than the first, two
      lie at one place, one is missing, the slices are not evenly spaced along their normal, or
      those of two series lie between one another.
  """
  planes = [plane for path in files for plane in dicom_file.read_planes(path)]
  if len(planes) < 2:
    raise InputError(
      f'{files[0] if files else "DICOM series"}: {len(planes)} slices in its folder; expected two '
      'or more. Restore the others.'
    )
  for plane in planes:
    _require_alike(plane, planes[0])
  order, affine = _arrange(
    [plane.path for plane in planes], np.array([plane.position for plane in planes]), planes[0]
  )
  _require_unmixed([planes[i] for i in order])
  return Series(voxels=np.stack([planes[i].pixels for i in order]), affine=affine, order=order)


def read_grid(files: Sequence[Path]) -> tuple[tuple[int, int, int], np.ndarray]:
  """Reads numbers of voxels (D, H, W) and affine of a series, as `read_series`, without pixels.

  Whether the slices are alike in all else is left to `read_series`.
  """
  found = [(path, *dicom_file.read_lays(path)) for path in files]
  lays = [(path, lay) for path, _, several in found for lay in several]
  positions = np.array([lay.position for _, lay in lays])
  _, affine = _arrange([path for path, _ in lays], positions, lays[0][1])
  return (len(lays), *found[0][1]), affine


def _arrange(
  paths: Sequence[Path], positions: np.ndarray, first: Plane | Lay
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the order of slices along their normal, [D], and the affine of the series, [4, 4]."""
  row, column, normal = first.directions.T
  order = np.argsort(positions @ normal, kind='stable')
  step = _step([paths[i] for i in order], positions[order], normal)
  down, across = first.spacing
  axes = np.stack([step, column * down, row * across], axis=1)
  return order, volumes.affine_from_lps(axes, positions[order[0]].tolist())


def _require_alike(plane: Plane, first: Plane) -> None:
  """Refuses a slice whose pixel grid differs from that of the first: it is of another series."""
  for what, here, there, tolerance in (
    ('pixels', plane.pixels.shape[::-1], first.pixels.shape[::-1], 0),
    ('slopes and intercepts', [plane.is_scaled], [first.is_scaled], 0),
    ('mm between pixels', plane.spacing[::-1], first.spacing[::-1], 1e-3),
    ('as direction of rows', plane.directions[:, 0], first.directions[:, 0], 1e-3),
    ('as direction of columns', plane.directions[:, 1], first.directions[:, 1], 1e-3),
  ):
    if not np.allclose(here, there, rtol=0, atol=tolerance):
      raise InputError(
        f'{plane.path}: the slice has {_join(here)} {what}, but {first.path.name} has '
        f'{_join(there)}; expected slices of one series. Keep only one series in the folder.'
      )


def _require_unmixed(planes: Sequence[Plane]) -> None:
  """Refuses slices, in their order, of several series that are not one block each."""
  changes = [k for k in range(1, len(planes)) if planes[k].series != planes[k - 1].series]
  if len(changes) >= len({plane.series for plane in planes}):
    raise InputError(
      f'{planes[changes[0]].path}: is of another series (SeriesInstanceUID) than '
      f'{planes[changes[0] - 1].path.name}, and slices of both lie between one another; expected '
      'slices of one series. Keep only one series in the folder.'
    )


def _step(files: Sequence[Path], positions: np.ndarray, normal: np.ndarray) -> np.ndarray:
  """Returns the vector from each slice to the next, [3], of positions [D, 3], mm, if it is one."""
  _require_even(files, np.diff(positions @ normal))
  step = (positions[-1] - positions[0]) / (len(files) - 1)
  off = np.linalg.norm(positions - positions[0] - np.arange(len(files))[:, None] * step, axis=1)
  along = float(step @ normal)
  if off.max() > _UNEVEN * along:
    raise InputError(
      f'{files[int(off.argmax())]}: lies {off.max():.2f} mm away from even steps of {along:.2f} mm '
      'through the series; expected slices on one line. Restore the original slices.'
    )
  sideways = float(np.linalg.norm(step - along * normal))
  if sideways > _SHEAR * along:
    raise InputError(
      f'{files[0]}: each next slice lies {along:.2f} mm on and {sideways:.2f} mm sideways, as from '
      'a tilted gantry; expected slices straight above one another. Resample the series.'
    )
  return step


def _require_even(files: Sequence[Path], gaps: np.ndarray) -> None:
  """Refuses slices at one place, missing slices and uneven steps."""
  double = np.flatnonzero(gaps < _SAME_PLACE_MM)
  if len(double):
    first, second = files[double[0]], files[double[0] + 1]
    remedy = 'Remove the one that is double, and its mask.'
    if len(double) > len(files) / 3:
      remedy = 'Keep only one series in the folder.'
    raise InputError(
      f'{first}: lies where {second.name} does, and {len(double)} of {len(files)} slices lie like '
      f'that; expected every slice once. {remedy}'
    )
  usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # of two the smaller: slices go missing
  k = int(np.abs(gaps - usual).argmax())
  if abs(gaps[k] - usual) <= _UNEVEN * usual:
    return
  missing = round(gaps[k] / usual) - 1
  whole = missing > 0 and abs(gaps[k] / usual - missing - 1) <= _UNEVEN
  gone = f': {missing} missing' if whole else ''
  raise InputError(
    f'{files[k]}: lies {gaps[k]:.2f} mm from {files[k + 1].name}, others {usual:.2f} mm apart{gone}'
    '; expected even steps. Restore the original slices of one series.'
  )


def _join(values: Any) -> str:
  return ' x '.join(f'{value:.6g}' for value in values)
