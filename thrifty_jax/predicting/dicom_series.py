"""The slices of a series as other DICOM objects refer to them.

What a mask in DICOM repeats of patient and study comes from here. No value of a tag is printed.
"""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax.errors import InputError
from thrifty_jax.scans import sources

# Required in every slice, and equal in all of them; SOPInstanceUID is required too.
IDS = ('SOPClassUID', 'StudyInstanceUID', 'SeriesInstanceUID', 'FrameOfReferenceUID')
# Required but possibly empty, by the standard's modules for the patient and the study.
MAY_BE_EMPTY = (
  *('PatientName', 'PatientID', 'PatientBirthDate', 'PatientSex', 'StudyDate', 'StudyTime'),
  *('ReferringPhysicianName', 'StudyID', 'AccessionNumber'),
)
SERIES = 1000  # added to the number of the scan's series, for that of its masks
LONGEST = 64  # letters of a DICOM text of type LO
_SEXES = ('', 'M', 'F', 'O')
_FRAMES = 'PerFrameFunctionalGroupsSequence'
_OFF = 0.3  # of a step: largest offset of a slice from its place; dicom.py allows a quarter


@dataclasses.dataclass(frozen=True, eq=False)
class Slices:
  """Headers of a series' files, and which of them, or of their frames, each slice of a mask is."""

  headers: list[Any]  # one of all frames, or one a slice, as the files come
  has_frames: bool
  order: np.ndarray  # number of the header or frame of each slice, [D]
  positions: np.ndarray  # of the first pixel of each slice, LPS millimetres, [D, 3]


def read_slices(
  series: Path,
  affine: np.ndarray,
  depth: int,
  copied: Collection[str],
  *,
  kind: str,
  option: str,
) -> Slices:
  """Reads the headers of a series, in a folder, for a mask of `depth` slices.

  `affine` maps (d, h, w) of the mask to RAS millimetres, [4, 4]; `copied` are the tags that the
  mask repeats; `kind` and `option` say in errors what is to be written, and what asked for it.
  """
  import pydicom

  paths = sources.slices_of(series)
  headers = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in paths]
  for path, header in zip(paths, headers, strict=True):
    for name in (*IDS, 'SOPInstanceUID'):
      if not header.get(name):
        raise InputError(
          f'{path}: has no {name}, to which a {kind} would refer; restore the original series, '
          f'or leave out {option}'
        )
      if name in IDS and header[name].value != headers[0][name].value:
        raise InputError(
          f'{path}: has another {name} than other slices of its folder; a {kind} belongs to one '
          f'series. Restore the original one, or leave out {option}'
        )
    for name in MAY_BE_EMPTY:
      if name not in header:
        setattr(header, name, None)
    for name in (*copied, 'SeriesNumber'):
      if name in header and header[name].VM > 1:
        raise InputError(  # a name in GB18030 or Shift-JIS may have the byte in a letter
          f'{path}: its {name} has the byte of a backslash, which separates two values, so no '
          f'{kind} can repeat it; correct the series, or leave out {option}'
        )
  if len({header.SOPInstanceUID for header in headers}) < len(headers):
    raise InputError(
      f'{series}: two slices have one SOPInstanceUID, so a {kind} cannot refer to them; restore '
      f'the original series, or leave out {option}'
    )
  frames = [frame for header in headers for frame in header.get(_FRAMES) or ()]
  if frames and len(headers) > 1:
    raise InputError(
      f'{series}: has frames in {len(headers)} files, but a {kind} can refer to one of them; '
      f'leave out {option}'
    )
  places = [frame.PlanePositionSequence[0] for frame in frames] or headers
  positions = np.array([place.ImagePositionPatient for place in places], float)
  ras = np.c_[positions * (-1, -1, 1), np.ones(len(positions))]
  numbers = np.linalg.solve(affine, ras.T)[0]
  order = np.argsort(numbers)
  if len(order) != depth or np.abs(numbers[order] - np.arange(depth)).max() > _OFF:
    raise InputError(f'{series}: its slices changed while they were read; start again')
  return Slices(headers, bool(frames), order, positions[order])


def find_invalid(header: Any, names: Collection[str]) -> list[str]:
  """Returns which of the tags of a header violate the standard, without their values."""
  from pydicom.config import RAISE
  from pydicom.valuerep import validate_value

  found = []
  for name in sorted({*names} & {*header.dir()}):
    element = header[name]
    try:
      validate_value(element.VR, element.value, RAISE)
    except ValueError:
      found.append(name)
  if 'PatientSex' in names and (header.get('PatientSex') or '') not in _SEXES:
    found.append('PatientSex')
  return found
