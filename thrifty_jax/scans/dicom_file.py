"""Reads the slices that a DICOM file holds: one, or the frames of an enhanced object.

Besides pixels and their rescaling only position, direction and distance are read. Each of these
tags is valid or the slice is refused: nothing is taken for 0 or 1 instead.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.16 (functional groups), C.11.1 (rescaling).
"""

import contextlib
import dataclasses
import io
import struct
import zlib
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thrifty_jax.errors import InputError
from thrifty_jax.scans import dicom_pixels, unreadable
from thrifty_jax.scans.metaimage import read_numbers

# Tags of a frame, and the sequence in a functional group that has them.
_MACROS = {
  'ImagePositionPatient': 'PlanePositionSequence',
  'ImageOrientationPatient': 'PlaneOrientationSequence',
  'PixelSpacing': 'PixelMeasuresSequence',
  'RescaleSlope': 'PixelValueTransformationSequence',
  'RescaleIntercept': 'PixelValueTransformationSequence',
  'ReferencedSegmentNumber': 'SegmentIdentificationSequence',
}
_GEOMETRY = ('ImagePositionPatient', 'ImageOrientationPatient', 'PixelSpacing')
_SCALING = ('RescaleSlope', 'RescaleIntercept')
_GROUPS = ('PerFrameFunctionalGroupsSequence', 'SharedFunctionalGroupsSequence')
_GRID = (*_GEOMETRY, *_GROUPS, 'Rows', 'Columns', 'NumberOfFrames')
_HEADER = (
  *('SOPClassUID', 'SOPInstanceUID', 'SeriesInstanceUID', 'FrameOfReferenceUID', 'PatientID'),
  *('Modality', 'ImageType', 'Rows', 'SamplesPerPixel', 'PhotometricInterpretation'),
  *('ImagePositionPatient', 'ReferencedSeriesSequence', 'ReferencedFrameOfReferenceSequence'),
  'StructureSetROISequence',
)
IMAGE, SEGMENTS, CONTOURS = 'image', 'DICOM SEG', 'RTSTRUCT'  # kinds of objects
_LOCALIZERS = ('LOCALIZER', 'SCOUT')
_ERRORS = (AttributeError, LookupError, TypeError, struct.error)  # of pydicom about damaged files
_PIXELS = 0x7FE00010
_MOST_INFLATED = 1 << 28  # bytes of an object that is deflated as a whole, which few are
_PIECE_BYTES = 1 << 20
_ROUNDING = 0.01  # of directions: some programs write three digits


@dataclasses.dataclass(frozen=True, eq=False)
class Plane:
  """One slice, or one frame of several."""

  path: Path  # of its file, with the number of the frame where there are several
  pixels: np.ndarray  # [H, W]
  is_scaled: bool  # whether it says by which slope and intercept its pixels are scaled
  series: str  # SeriesInstanceUID, '' if there is none
  position: np.ndarray  # of the first pixel, LPS millimetres, [3]
  directions: np.ndarray  # of a row, of a column and their normal, as columns, [3, 3]
  spacing: np.ndarray  # between rows and between columns, mm, [2]


@dataclasses.dataclass(frozen=True)
class Header:
  """What a DICOM file is and belongs to; of it only kind and modality are ever printed."""

  kind: str  # IMAGE, SEGMENTS or CONTOURS; '' for anything else: plans, reports, localizers
  modality: str
  patient: str  # PatientID
  series: str
  instance: str
  frames_of_reference: frozenset[str]  # spaces in which it has positions
  # Of segments and contours, the series and the images that they say they were drawn on.
  referenced_series: frozenset[str]
  referenced_instances: frozenset[str]


class Lay(NamedTuple):
  """Where a slice lies, or one frame of several."""

  position: np.ndarray  # of the first pixel, LPS millimetres, [3]
  directions: np.ndarray  # of a row, of a column and their normal, as columns, [3, 3]
  spacing: np.ndarray  # between rows and between columns, mm, [2]


def read_planes(path: Path) -> list[Plane]:
  """Reads the slice of a file, or all its frames."""
  with report_unreadable(path):
    dataset = read_tags(path)
    _require_slices(path, dataset)
    pixels = dicom_pixels.read_stored(path, dataset)
    names = [path]
    if len(pixels) > 1:
      names = [path.with_name(f'{path.name}, frame {k + 1}') for k in range(len(pixels))]
    return [_plane(names[k], dataset, k, stored) for k, stored in enumerate(pixels)]


def read_lays(path: Path) -> tuple[tuple[int, int], list[Lay]]:
  """Reads the number of rows and columns of a slice or of frames, and where each lies."""
  with report_unreadable(path):
    dataset = read_tags(path, only=_GRID)
    count = dicom_pixels.count_frames(dataset)
    lays = [read_lay(path, dataset, frame) for frame in range(count)]
    return (int(dataset.Rows), int(dataset.Columns)), lays


def read_header(path: Path) -> Header:
  """Reads what a file is, and which patient, series and images it belongs to."""
  with report_unreadable(path):
    dataset = read_tags(path, only=_HEADER)
    references = [*(dataset.get('ReferencedSeriesSequence') or ())]
    kind, spaces = _kind_of(dataset), [dataset]
    if kind == CONTOURS:  # whose own frame of reference is that of no structure
      spaces = dataset.get('StructureSetROISequence') or ()
    for space in dataset.get('ReferencedFrameOfReferenceSequence') or ():  # of an RTSTRUCT
      for study in space.get('RTReferencedStudySequence') or ():
        references += study.get('RTReferencedSeriesSequence') or ()
    images = [
      _uid(image, 'ReferencedSOPInstanceUID')
      for series in references
      for name in ('ReferencedInstanceSequence', 'ContourImageSequence')
      for image in series.get(name) or ()
    ]
    frames = [
      _uid(space, name)
      for space in spaces
      for name in ('FrameOfReferenceUID', 'ReferencedFrameOfReferenceUID')
    ]
    return Header(
      kind=kind,
      modality=str(dataset.get('Modality') or ''),
      patient=' '.join(str(dataset.get('PatientID') or '').split()),
      series=_uid(dataset, 'SeriesInstanceUID'),
      instance=_uid(dataset, 'SOPInstanceUID'),
      frames_of_reference=frozenset(frames) - {''},
      referenced_series=frozenset(_uid(one, 'SeriesInstanceUID') for one in references) - {''},
      referenced_instances=frozenset(images) - {''},
    )


def _uid(dataset: Any, keyword: str) -> str:
  return str(dataset.get(keyword) or '').strip()


def _kind_of(dataset: Any) -> str:
  """Returns the kind of an object by its class, and of images whether one is of a volume."""
  name = name_class(dataset)
  if not name and 'Rows' not in dataset:
    raise ValueError('no DICOM')  # which `report_unreadable` reports
  if 'Segmentation' in name:
    return SEGMENTS
  if name == 'RT Structure Set Storage':
    return CONTOURS
  is_photo = 'Secondary Capture' in name and 'ImagePositionPatient' not in dataset
  is_image = not name or name[0].isdigit() or ('Image Storage' in name and not is_photo)
  if 'Rows' in dataset and is_image and not _is_localizer(dataset) and not _is_coloured(dataset):
    return IMAGE
  return ''


def holds_image(path: Path) -> bool:
  """Returns whether a DICOM file holds an image of a patient, or should: not a plan or a report.

  Segmentations count as none. A file of which this cannot be said counts as one, so that it is
  refused rather than passed over.
  """
  try:
    with report_unreadable(path):
      header = read_tags(path, only=['SOPClassUID', 'Rows'])
      name = name_class(header)
  except InputError:
    return True
  if 'Rows' in header:
    return 'Segmentation' not in name
  return not name or ('Image Storage' in name and 'Non-Image' not in name)


def has_frames(path: Path) -> bool:
  """Returns whether a file is DICOM with several frames; False if it is unreadable."""
  try:
    with report_unreadable(path):
      header = read_tags(path, only=['NumberOfFrames'])
      return dicom_pixels.count_frames(header) > 1
  except InputError:
    return False


def read_study(path: Path) -> str:
  """Returns the StudyInstanceUID of a slice, equal for one visit of one patient; '' if unknown."""
  with report_unreadable(path):
    header = read_tags(path, only=['StudyInstanceUID'])
    return str(header.get('StudyInstanceUID') or '').strip()


@contextlib.contextmanager
def report_unreadable(path: Path) -> Generator[None]:
  """Refuses a file that pydicom cannot read."""
  from pydicom import errors  # here, as everywhere: most scans are none

  with unreadable.report_unreadable(path), unreadable.quiet():
    try:
      yield
    except RecursionError as error:  # the interpreter's own bound, long before its stack ends
      raise ValueError('its sequences are nested too deeply') from error
    except (*_ERRORS, errors.BytesLengthException, errors.InvalidDicomError) as error:
      raise ValueError(f'{type(error).__name__} in pydicom') from error


class _File(io.BufferedReader):
  """A file that must not become too large: pydicom reads all that is left only to inflate it."""

  def read(self, size: int | None = -1, /) -> bytes:
    content = super().read(size)
    if size == -1:
      unpacked, stream, packed = 0, zlib.decompressobj(wbits=-zlib.MAX_WBITS), content
      while packed and unpacked <= _MOST_INFLATED:
        unpacked += len(stream.decompress(packed, _PIECE_BYTES))
        packed = stream.unconsumed_tail
      if unpacked > _MOST_INFLATED:
        raise ValueError(f'it inflates to over {_MOST_INFLATED >> 20} MiB')
    return content


def read_tags(path: Path, *, only: Sequence[str] = ()) -> Any:
  """Reads a file, or some of its tags except pixels; refuses a tag that is there twice.

  Of two pydicom takes the last, other readers the first.
  """
  from pydicom import filereader, tag

  seen: set[int] = set()
  wanted: list[Any] | None = [tag.Tag(keyword) for keyword in only] or None

  def ends(number: Any, kind: str | None, length: int) -> bool:
    if number in seen and len(seen) > 1:  # pydicom asks for the first one two times
      raise ValueError(f'it has the tag {number} twice')
    seen.add(number)
    return bool(only) and number == _PIXELS

  with _File(io.FileIO(path)) as file:
    return filereader.read_partial(file, ends, specific_tags=wanted, force=True)


def name_class(dataset: Any) -> str:
  """Returns the name of what an object is, such as CT Image Storage, or '' if it does not say."""
  from pydicom.uid import UID

  meta = getattr(dataset, 'file_meta', {})
  found = dataset.get('SOPClassUID') or meta.get('MediaStorageSOPClassUID')
  return ' '.join(UID(str(found)).name.split())[:100] if found else ''


def _plane(path: Path, dataset: Any, frame: int, stored: np.ndarray) -> Plane:
  lay = read_lay(path, dataset, frame)
  holders = {keyword: find_holder(dataset, frame, keyword) for keyword in _SCALING}
  slope, intercept = _scaling(path, holders)
  scaled = stored if (slope, intercept) == (1, 0) else stored * slope + intercept
  is_scaled = _SCALING[0] in holders[_SCALING[0]]
  series = _uid(dataset, 'SeriesInstanceUID')
  return Plane(path, scaled.astype(np.float32), is_scaled, series, *lay)


def read_lay(path: Path, dataset: Any, frame: int) -> Lay:
  """Returns where a frame of an object lies, the first if it is a slice; `path` is for errors."""
  holders = {keyword: find_holder(dataset, frame, keyword) for keyword in _GEOMETRY}
  missing = [keyword for keyword in _GEOMETRY if keyword not in holders[keyword]]
  if missing:
    raise InputError(
      f'{path}: has no {", ".join(missing)}; expected a slice that says where it lies. Replace it '
      'by the original file.'
    )
  position = read_values(path, holders, 'ImagePositionPatient', 3)
  six = read_values(path, holders, 'ImageOrientationPatient', 6).reshape(2, 3)
  if np.abs(six @ six.T - np.eye(2)).max() > _ROUNDING:
    raise _tag_error(path, holders, 'ImageOrientationPatient', 'two directions at right angles')
  row = six[0] / np.linalg.norm(six[0])
  column = six[1] - (six[1] @ row) * row
  column /= np.linalg.norm(column)
  spacing = read_values(path, holders, 'PixelSpacing', 2)
  if spacing.min() <= 0:
    raise _tag_error(path, holders, 'PixelSpacing', 'two distances above 0')
  return Lay(position, np.stack([row, column, np.cross(row, column)], axis=1), spacing)


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
  (slope,), (intercept,) = (read_values(path, holders, keyword, 1) for keyword in _SCALING)
  if not slope:
    raise _tag_error(path, holders, 'RescaleSlope', 'a number other than 0')
  return slope, intercept


def find_holder(dataset: Any, frame: int, keyword: str) -> Any:
  """Returns the part of an object that has a tag of a frame: its functional groups, or itself."""
  for groups, index in zip(_GROUPS, (frame, 0), strict=True):
    items = dataset.get(groups) or ()
    macros = items[index].get(_MACROS[keyword]) or () if index < len(items) else ()
    if macros and keyword in macros[0]:
      return macros[0]
  return dataset


def _is_localizer(dataset: Any) -> bool:
  return any(one.strip() in _LOCALIZERS for one in _words(dataset, 'ImageType'))


def _is_coloured(dataset: Any) -> bool:
  samples = dataset.get('SamplesPerPixel', 1)
  return samples != 1 or _photometry(dataset) not in ('', *dicom_pixels.GRAYS)


def _photometry(dataset: Any) -> str:
  return ' '.join(str(dataset.get('PhotometricInterpretation') or '').split())


def read_values(path: Path, holders: Any, keyword: str, count: int) -> np.ndarray:
  """Returns the numbers of a tag, which must be finite and as many as `count`."""
  words = read_text(holders[keyword], keyword).split('\\')
  found = np.concatenate([read_numbers(word) for word in words])
  if not len(words) == len(found) == count or not np.isfinite(found).all():
    raise _tag_error(path, holders, keyword, f'{count} number{"s" if count > 1 else ""}')
  return found


def read_text(dataset: Any, keyword: str) -> str:
  """Returns a tag as it is written, which pydicom may not be able to convert."""
  value = dataset.get_item(keyword).value
  if isinstance(value, bytes):
    return value.decode('latin-1').rstrip(' \0').lstrip()
  return str(value or '')


def _words(dataset: Any, keyword: str) -> list[str]:
  """Returns the values of a tag of texts, of which pydicom has one as a text, several in a list."""
  values = dataset.get(keyword) or ()
  return [values] if isinstance(values, str) else list(map(str, values))


def _tag_error(path: Path, holders: Any, keyword: str, expected: str) -> InputError:
  text = read_text(holders[keyword], keyword)
  return InputError(
    f'{path}: its {keyword} is {text!r:.60}; expected {expected}. Replace it by the original file.'
  )


def _require_slices(path: Path, dataset: Any) -> None:
  """Refuses what is no slice of a scan by its name, and frames that do not say where they lie."""
  what = name_class(dataset)
  if 'Rows' not in dataset and not what:
    raise ValueError('no DICOM')  # which `report_unreadable` reports
  if what and 'Image' not in what and not what[0].isdigit():  # a private one has a number alone
    name = what
  elif _is_localizer(dataset):
    name = f'localizer ({what})'
  elif _is_coloured(dataset):
    name = f'colour image ({what}, {_photometry(dataset):.40})'
  else:
    name = ''
  if name:
    raise InputError(
      f'{path}: is no slice but a {name}; expected slices of one series, of intensities. Move it '
      'out of the folder.'
    )
  dicom_pixels.require_valid(path, dataset)
  frames = dicom_pixels.count_frames(dataset)
  described = len(dataset.get('PerFrameFunctionalGroupsSequence') or ())
  if frames != max(1, described):
    raise InputError(
      f'{path}: has {frames} frames ({what}), of which {described} say where they lie; expected '
      'all, or one slice in each file. Replace it by the original file.'
    )
