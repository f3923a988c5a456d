"""Reads a DICOM series as one volume, its slices in spatial order.

Besides the rescaling only position and direction are read: SliceThickness is not the distance of
slices, names follow any order, and after anonymisation a series may have several ids, or two one.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax.errors import InputError
from thrifty_jax.scans import volumes

# If any of these is missing, ITK invents a geometry.
_GEOMETRY = {
  '0020|0032': 'ImagePositionPatient',
  '0020|0037': 'ImageOrientationPatient',
  '0028|0030': 'PixelSpacing',
}
_SAME_PLACE_MM = 0.01
_UNEVEN = 0.25  # share of a step: positions are rounded, and some tables move unevenly
_SHEAR = 0.02  # sideways share of a step: 1.1 degrees, up to which distances are right within 2 %


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
  """The slices of one series, in order along their normal, rows x columns."""

  voxels: np.ndarray  # [D, H, W], slope and intercept applied (CT: Hounsfield units)
  affine: np.ndarray  # of (d, h, w) to RAS millimetres, [4, 4]
  order: np.ndarray  # index of each slice's file, [D]: masks[order] puts masks into this order


def read_series(files: Sequence[Path]) -> Series:
  """Reads the slices of one DICOM series, at least two files of one slice each, in any order.

  Raises:
    InputError: If a slice is unreadable, lacks a geometry or has another one than the first, two
      lie at one place, one is missing, or the slices are not evenly spaced along their normal.
  """
  import SimpleITK

  if len(files) < 2:
    raise InputError(
      f'{files[0] if files else "DICOM series"}: {len(files)} slices in its folder; expected two '
      'or more. Restore the others.'
    )
  planes = [_read_slice(path) for path in files]
  for path, plane in zip(files, planes, strict=True):
    _require_alike(path, plane, files[0], planes[0])
  # Columns: along a row, along a column, normal.
  directions = np.reshape(planes[0].GetDirection(), (3, 3))
  positions = np.array([plane.GetOrigin() for plane in planes])
  order = np.argsort(positions @ directions[:, 2], kind='stable')
  step = _step([files[i] for i in order], positions[order], directions[:, 2])
  across, down, _ = planes[0].GetSpacing()
  axes = np.stack([step, directions[:, 1] * down, directions[:, 0] * across], axis=1)
  return Series(
    voxels=np.concatenate([SimpleITK.GetArrayFromImage(planes[i]) for i in order]),
    affine=volumes.affine_from_lps(axes, positions[order[0]]),
    order=order,
  )


def _read_slice(path: Path) -> Any:
  import SimpleITK

  with volumes.report_unreadable(path), volumes.silence_itk():
    plane = SimpleITK.ReadImage(str(path), imageIO='GDCMImageIO')
  size, values = plane.GetSize(), plane.GetNumberOfComponentsPerPixel()
  if size[2:] != (1,) or values > 1:
    raise InputError(
      f'{path}: has {"x".join(map(str, size))} pixels of {values} values; expected one slice with '
      'one value a pixel. Replace it by the original file.'
    )
  missing = [name for tag, name in _GEOMETRY.items() if not plane.HasMetaDataKey(tag)]
  if missing:
    raise InputError(
      f'{path}: has no {", ".join(missing)}; expected a slice that says where it lies. Replace it '
      'by the original file.'
    )
  return plane


def _require_alike(path: Path, plane: Any, first_path: Path, first: Any) -> None:
  """Refuses a slice whose pixel grid differs from that of the first: it is of another series."""
  for what, here, there, tolerance in (
    ('pixels', plane.GetSize()[:2], first.GetSize()[:2], 0),
    ('mm between pixels', plane.GetSpacing()[:2], first.GetSpacing()[:2], 1e-3),
    ('as direction of rows', plane.GetDirection()[::3], first.GetDirection()[::3], 1e-3),
    ('as direction of columns', plane.GetDirection()[1::3], first.GetDirection()[1::3], 1e-3),
  ):
    if not np.allclose(here, there, rtol=0, atol=tolerance):
      raise InputError(
        f'{path}: the slice has {_numbers(here)} {what}, but {first_path.name} has '
        f'{_numbers(there)}; expected slices of one series. Keep only one series in the folder.'
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
  usual = float(np.median(gaps))
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


def _numbers(values: Sequence[float]) -> str:
  return ' x '.join(f'{value:.6g}' for value in values)
