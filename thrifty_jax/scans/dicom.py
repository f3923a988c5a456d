"""Reads a DICOM series as one volume, its slices in spatial order.

Besides pixels and their rescaling only position, direction and distance are read, of each slice and
of each frame of an enhanced object: SliceThickness is not the distance of slices, names follow any
order, and after anonymisation a series may have several ids, or two one. Each of these tags is
valid or the slice is refused: nothing is taken for 0 or 1 instead.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.16 (functional groups), C.11.1 (rescaling).
"""

import contextlib
import dataclasses
import logging
import struct
import tempfile
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax.errors import InputError
from thrifty_jax.scans import volumes

# Tags of a frame, and the sequence in a functional group that has them.
_MACROS = {
  'ImagePositionPatient': 'PlanePositionSequence',
  'ImageOrientationPatient': 'PlaneOrientationSequence',
  'PixelSpacing': 'PixelMeasuresSequence',
  'RescaleSlope': 'PixelValueTransformationSequence',
  'RescaleIntercept': 'PixelValueTransformationSequence',
}
_GEOMETRY = ('ImagePositionPatient', 'ImageOrientationPatient', 'PixelSpacing')
_SCALING = ('RescaleSlope', 'RescaleIntercept')
_PIXELS = (
  *('SamplesPerPixel', 'PhotometricInterpretation', 'Rows', 'Columns', 'BitsAllocated'),
  *('BitsStored', 'HighBit', 'PixelRepresentation', 'NumberOfFrames', 'PixelData'),
)
_GRAYS = ('MONOCHROME1', 'MONOCHROME2')  # white is the lowest or the highest stored value
_LOCALIZERS = ('LOCALIZER', 'SCOUT')
_SECONDARY_CAPTURE = '1.2.840.10008.5.1.4.1.1.7.3'  # a class of objects that have pixels alone
_ERRORS = (AttributeError, LookupError, TypeError, struct.error)  # of pydicom about damaged files
_ROUNDING = 0.01  # of directions: some programs write three digits
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


@dataclasses.dataclass(frozen=True, eq=False)
class _Plane:
  """One slice, or one frame of several."""

  path: Path  # of its file, with the number of the frame where there are several
  pixels: np.ndarray  # [H, W]
  is_scaled: bool  # whether it says by which slope and intercept its pixels are scaled
  position: np.ndarray  # of the first pixel, LPS millimetres, [3]
  directions: np.ndarray  # of a row, of a column and their normal, as columns, [3, 3]
  spacing: np.ndarray  # between rows and between columns, mm, [2]


def read_series(files: Sequence[Path]) -> Series:
  """Reads the slices of one DICOM series in any order: at least two, in files or frames of a file.

  Raises:
    InputError: If a slice is unreadable, lacks a geometry or has another one than the first, two
      lie at one place, one is missing, or the slices are not evenly spaced along their normal.
  """
  planes = [plane for path in files for plane in _read_planes(path)]
  if len(planes) < 2:
    raise InputError(
      f'{files[0] if files else "DICOM series"}: {len(planes)} slices in its folder; expected two '
      'or more. Restore the others.'
    )
  for plane in planes:
    _require_alike(plane, planes[0])
  row, column, normal = planes[0].directions.T
  positions = np.array([plane.position for plane in planes])
  order = np.argsort(positions @ normal, kind='stable')
  step = _step([planes[i].path for i in order], positions[order], normal)
  down, across = planes[0].spacing
  axes = np.stack([step, column * down, row * across], axis=1)
  return Series(
    voxels=np.stack([planes[i].pixels for i in order]),
    affine=volumes.affine_from_lps(axes, positions[order[0]].tolist()),
    order=order,
  )


def holds_image(path: Path) -> bool:
  """Returns whether a DICOM file holds an image of a patient, or should: not a plan or a report.

  Segmentations count as none. A file of which this cannot be said counts as one, so that it is
  refused rather than passed over.
  """
  try:
    with _unreadable(path):
      header = _read(path, stop_before_pixels=True, specific_tags=['SOPClassUID', 'Rows'])
      name = _class_of(header)
  except InputError:
    return True
  if 'Rows' in header:
    return 'Segmentation' not in name
  return not name or ('Image Storage' in name and 'Non-Image' not in name)


def has_frames(path: Path) -> bool:
  """Returns whether a file is DICOM with several frames; False if it is unreadable."""
  try:
    with _unreadable(path):
      header = _read(path, stop_before_pixels=True, specific_tags=['NumberOfFrames'])
      return _count(header) > 1
  except InputError:
    return False


def read_study(path: Path) -> str:
  """Returns the StudyInstanceUID of a slice, equal for one visit of one patient; '' if unknown."""
  with _unreadable(path):
    header = _read(path, stop_before_pixels=True, specific_tags=['StudyInstanceUID'])
    return str(header.get('StudyInstanceUID') or '').strip()


@contextlib.contextmanager
def quiet() -> Generator[None]:
  """Silences warnings of pydicom and highdicom about odd tags, as they quote the values."""
  before = logging.root.manager.disable
  logging.disable(logging.CRITICAL)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      yield
  finally:
    logging.disable(before)


@contextlib.contextmanager
def _unreadable(path: Path) -> Generator[None]:
  """Refuses a file that pydicom cannot read."""
  from pydicom import errors  # here, as everywhere: most scans are none

  with volumes.report_unreadable(path), quiet():
    try:
      yield
    except (*_ERRORS, errors.BytesLengthException, errors.InvalidDicomError) as error:
      raise ValueError(f'{type(error).__name__} in pydicom') from error


def _read(path: Path, **settings: Any) -> Any:
  import pydicom

  return pydicom.dcmread(path, force=True, **settings)


def _class_of(dataset: Any) -> str:
  """Returns the name of what an object is, such as CT Image Storage, or '' if it does not say."""
  from pydicom.uid import UID

  meta = getattr(dataset, 'file_meta', {})
  found = dataset.get('SOPClassUID') or meta.get('MediaStorageSOPClassUID')
  return UID(str(found)).name if found else ''


def _read_planes(path: Path) -> list[_Plane]:
  """Reads the slice of a file, or all its frames."""
  with _unreadable(path):
    dataset = _read(path)
    _require_slices(path, dataset)
    pixels = _stored_pixels(path, dataset)
    names = [path]
    if len(pixels) > 1:
      names = [path.with_name(f'{path.name}, frame {k + 1}') for k in range(len(pixels))]
    return [_plane(names[k], dataset, k, stored) for k, stored in enumerate(pixels)]


def _plane(path: Path, dataset: Any, frame: int, stored: np.ndarray) -> _Plane:
  holders = {keyword: _holder(dataset, frame, keyword) for keyword in _MACROS}
  missing = [keyword for keyword in _GEOMETRY if keyword not in holders[keyword]]
  if missing:
    raise InputError(
      f'{path}: has no {", ".join(missing)}; expected a slice that says where it lies. Replace it '
      'by the original file.'
    )
  position = _numbers(path, holders, 'ImagePositionPatient', 3)
  six = _numbers(path, holders, 'ImageOrientationPatient', 6).reshape(2, 3)
  if np.abs(six @ six.T - np.eye(2)).max() > _ROUNDING:
    raise _tag_error(path, holders, 'ImageOrientationPatient', 'two directions at right angles')
  row = six[0] / np.linalg.norm(six[0])
  column = six[1] - (six[1] @ row) * row
  column /= np.linalg.norm(column)
  spacing = _numbers(path, holders, 'PixelSpacing', 2)
  if spacing.min() <= 0:
    raise _tag_error(path, holders, 'PixelSpacing', 'two distances above 0')
  slope, intercept = _scaling(path, holders)
  scaled = stored if (slope, intercept) == (1, 0) else stored * slope + intercept
  directions = np.stack([row, column, np.cross(row, column)], axis=1)
  is_scaled = _SCALING[0] in holders[_SCALING[0]]
  return _Plane(path, scaled.astype(np.float32), is_scaled, position, directions, spacing)


def _scaling(path: Path, holders: Any) -> tuple[float, float]:
  """Returns slope and intercept, 1 and 0 if a slice has neither; refuses one of both alone."""
  there = [keyword for keyword in _SCALING if keyword in holders[keyword]]
  if not there:
    return 1.0, 0.0
  if len(there) == 1:
    raise InputError(
      f'{path}: has no {" or ".join({*_SCALING} - {*there})}, but {there[0]}; expected both or '
      'neither. Replace it by the original file.'
    )
  (slope,), (intercept,) = (_numbers(path, holders, keyword, 1) for keyword in _SCALING)
  if not slope:
    raise _tag_error(path, holders, 'RescaleSlope', 'a number other than 0')
  return slope, intercept


def _holder(dataset: Any, frame: int, keyword: str) -> Any:
  """Returns the part of an object that has a tag of a frame: its functional groups, or itself."""
  for groups, index in (
    ('PerFrameFunctionalGroupsSequence', frame),
    ('SharedFunctionalGroupsSequence', 0),
  ):
    items = dataset.get(groups) or ()
    macros = items[index].get(_MACROS[keyword]) or () if index < len(items) else ()
    if macros and keyword in macros[0]:
      return macros[0]
  return dataset


def _numbers(path: Path, holders: Any, keyword: str, count: int) -> np.ndarray:
  """Returns the numbers of a tag, which must be finite and as many as `count`."""
  try:
    found = np.array([float(word) for word in _text(holders[keyword], keyword).split('\\')])
  except ValueError:
    found = np.full(1, np.nan)
  if found.shape != (count,) or not np.isfinite(found).all():
    raise _tag_error(path, holders, keyword, f'{count} number{"s" if count > 1 else ""}')
  return found


def _text(dataset: Any, keyword: str) -> str:
  """Returns a tag as it is written, which pydicom may not be able to convert."""
  value = dataset.get_item(keyword).value
  if isinstance(value, bytes):
    return value.decode('latin-1').strip(' \0')
  several = value if isinstance(value, list | tuple) or hasattr(value, '__iter__') else [value]
  is_text = value is None or isinstance(value, str)
  return str(value or '') if is_text else '\\'.join(map(str, several))


def _tag_error(path: Path, holders: Any, keyword: str, expected: str) -> InputError:
  text = _text(holders[keyword], keyword)
  return InputError(
    f'{path}: its {keyword} is {text!r:.60}; expected {expected}. Replace it by the original file.'
  )


def _require_slices(path: Path, dataset: Any) -> None:
  """Refuses what is no slice of a scan by its name, and tags of pixels that are not valid."""
  what = _class_of(dataset)
  if 'Rows' not in dataset and not what:
    raise ValueError('no DICOM')  # which `_unreadable` reports
  kind = str(dataset.get('PhotometricInterpretation') or '')
  if what and 'Image' not in what and not what[0].isdigit():  # a private one has a number alone
    name = what
  elif any(one in _LOCALIZERS for one in dataset.get('ImageType') or ()):
    name = f'localizer ({what})'
  elif dataset.get('SamplesPerPixel', 1) != 1 or kind not in ('', *_GRAYS):
    name = f'colour image ({what}, {kind})'
  else:
    name = ''
  if name:
    raise InputError(
      f'{path}: is no slice but a {name}; expected slices of one series, of intensities. Move it '
      'out of the folder.'
    )
  for keyword, valid, expected in (
    ('PhotometricInterpretation', lambda value: value in _GRAYS, ' or '.join(_GRAYS)),
    ('Rows', lambda value: value > 0, 'a number above 0'),
    ('Columns', lambda value: value > 0, 'a number above 0'),
    ('BitsAllocated', lambda value: value in (8, 16, 32), '8, 16 or 32'),
    ('BitsStored', lambda value: 0 < value <= dataset.BitsAllocated, 'at most BitsAllocated'),
    (
      'HighBit',
      lambda value: dataset.BitsStored - 1 <= value < dataset.BitsAllocated,
      'BitsStored - 1',
    ),
    ('PixelRepresentation', lambda value: value in (0, 1), '0 or 1'),
  ):
    value = dataset.get(keyword)
    if not isinstance(value, int | str) or not valid(value):
      raise InputError(
        f'{path}: its {keyword} is {value!r:.60}; expected {expected}. Replace it by the original '
        'file.'
      )
  if 'ModalityLUTSequence' in dataset or 'PixelData' not in dataset:
    raise InputError(
      f'{path}: has no pixels that a slope and an intercept make intensities; expected a slice of '
      'such. Replace it by the original file.'
    )
  frames = len(dataset.get('PerFrameFunctionalGroupsSequence') or ())
  if _count(dataset) != max(1, frames):
    raise InputError(
      f'{path}: has {_count(dataset)} frames ({what}), of which {frames} say where they lie; '
      'expected all, or one slice in each file. Replace it by the original file.'
    )


def _count(dataset: Any) -> int:
  """Returns the number of frames of an object."""
  return int(dataset.get('NumberOfFrames') or 1)


def _stored_pixels(path: Path, dataset: Any) -> np.ndarray:
  """Returns the stored values of all frames, [N, H, W], integers."""
  from pydicom import uid

  syntax = getattr(dataset, 'file_meta', {}).get('TransferSyntaxUID')
  if syntax and not syntax.is_transfer_syntax:  # of one maker, who may swap bytes
    raise ValueError(f'its transfer syntax {syntax} is not of DICOM')
  shape = (_count(dataset), dataset.Rows, dataset.Columns)
  if syntax and (syntax.is_encapsulated or syntax == uid.ExplicitVRBigEndian):
    return _decoded(path, dataset, syntax, shape)
  count, allocated = int(np.prod(shape)), dataset.BitsAllocated
  content = dataset.PixelData
  expected = count * allocated // 8
  if len(content) not in (expected, expected + expected % 2):
    raise InputError(
      f'{path}: its pixels are {len(content)} bytes; expected {expected}, for '
      f'{" x ".join(map(str, shape))} of {allocated} bits. Replace it by the original file.'
    )
  bits = np.frombuffer(content, f'<u{allocated // 8}', count).reshape(shape)
  # What lies beside the stored bits goes: above them by the first shift, below by the second.
  aligned = bits << (allocated - 1 - dataset.HighBit)
  signed = aligned.view(f'<i{allocated // 8}') if dataset.PixelRepresentation else aligned
  return signed >> (allocated - dataset.BitsStored)


def _decoded(path: Path, dataset: Any, syntax: Any, shape: tuple[int, ...]) -> np.ndarray:
  """Returns pixels that GDCM, within SimpleITK, decompresses from a file of nothing else."""
  import pydicom
  import SimpleITK

  bare = pydicom.Dataset()
  bare.SOPClassUID = _SECONDARY_CAPTURE
  for keyword in _PIXELS:
    if keyword in dataset:
      bare[keyword] = dataset[keyword]
  bare.PhotometricInterpretation = 'MONOCHROME2'  # or the values would be complemented
  bare.file_meta = pydicom.dataset.FileMetaDataset()
  bare.file_meta.TransferSyntaxUID = syntax
  bare.preamble = bytes(128)
  with tempfile.TemporaryDirectory() as folder:
    place = Path(folder, 'pixels.dcm')
    pydicom.dcmwrite(place, bare)
    with volumes.silence_itk():
      image = SimpleITK.ReadImage(str(place), imageIO='GDCMImageIO')
  pixels = SimpleITK.GetArrayFromImage(image)
  if pixels.shape != shape:
    raise InputError(
      f'{path}: its pixels are {" x ".join(map(str, pixels.shape))}; expected '
      f'{" x ".join(map(str, shape))}. Replace it by the original file.'
    )
  return pixels


def _require_alike(plane: _Plane, first: _Plane) -> None:
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


def _join(values: Any) -> str:
  return ' x '.join(f'{value:.6g}' for value in values)
