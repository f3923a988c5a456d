"""Pixels of a DICOM object as they are stored, and the tags that say how.

The monochrome kind says how pixels are shown and changes none.

Source: DICOM PS3.3, C.7.6.3 (image pixel); PS3.5, 8 (encoding of pixels).
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax.errors import InputError
from thrifty_jax.scans import dicom_pieces, unreadable

GRAYS = ('MONOCHROME1', 'MONOCHROME2')  # white is the lowest or the highest stored value
_PIXELS = (
  *('SamplesPerPixel', 'PhotometricInterpretation', 'Rows', 'Columns', 'BitsAllocated'),
  *('BitsStored', 'HighBit', 'PixelRepresentation', 'NumberOfFrames', 'PixelData'),
)
# Bytes that one of RLE can become, as two stand for up to 128, and one of other compressed pixels,
# of which JPEG 2000 knows no bound: an empty slice has a few hundred.
_RLE, _OTHER = 64, 1032
_SURELY = 1 << 27  # bytes of pixels, for which any number of compressed ones is enough
_SECONDARY_CAPTURE = '1.2.840.10008.5.1.4.1.1.7.3'  # a class of objects that have pixels alone


def require_valid(path: Path, dataset: Any) -> None:
  """Refuses tags by which pixels are read, where they are not valid, and pixels of no scaling."""
  for keyword, valid, expected in (
    ('PhotometricInterpretation', lambda value: value in GRAYS, ' or '.join(GRAYS)),
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


def count_frames(dataset: Any) -> int:
  """Returns the number of frames of an object."""
  try:
    return int(dataset.get('NumberOfFrames') or 1)
  except (TypeError, ValueError) as error:
    raise ValueError('its NumberOfFrames is no number') from error  # which the caller reports


def require_little_endian(dataset: Any) -> None:
  """Refuses pixels in the order of bytes that is not read here."""
  _, is_little_endian = dataset.original_encoding
  if not is_little_endian:
    raise ValueError('its pixels are in big-endian order')  # which the caller reports


def read_stored(path: Path, dataset: Any) -> np.ndarray:
  """Returns the stored values of all frames, [N, H, W], integers."""
  from pydicom import uid

  syntax = getattr(dataset, 'file_meta', {}).get('TransferSyntaxUID')
  if syntax and not syntax.is_transfer_syntax:  # of one maker, who may swap bytes
    raise ValueError(f'its transfer syntax {syntax} is not of DICOM')
  shape = (count_frames(dataset), dataset.Rows, dataset.Columns)
  if syntax and syntax.is_encapsulated:
    return _decoded(path, dataset, syntax, shape)
  count, allocated = int(np.prod(shape)), dataset.BitsAllocated
  content = dataset.PixelData
  expected = count * allocated // 8
  if len(content) not in (expected, expected + expected % 2):
    raise _wrong_size(path, dataset, shape, f'{len(content)}', expected)
  if syntax == uid.ExplicitVRBigEndian:
    return _decoded(path, dataset, syntax, shape)
  require_little_endian(dataset)
  bits = np.frombuffer(content, f'<u{allocated // 8}', count).reshape(shape)
  # What lies beside the stored bits goes: above them by the first shift, below by the second.
  aligned = bits << (allocated - 1 - dataset.HighBit)
  signed = aligned.view(f'<i{allocated // 8}') if dataset.PixelRepresentation else aligned
  return signed >> (allocated - dataset.BitsStored)


def _wrong_size(
  path: Path, dataset: Any, shape: tuple[int, ...], found: str, expected: int
) -> InputError:
  return InputError(
    f'{path}: its pixels are {found} bytes; expected {expected}, for {" x ".join(map(str, shape))} '
    f'of {dataset.BitsAllocated} bits. Replace it by the original file.'
  )


def _decoded(path: Path, dataset: Any, syntax: Any, shape: tuple[int, ...]) -> np.ndarray:
  """Returns pixels that GDCM, within SimpleITK, decompresses from a file of nothing else."""
  import pydicom
  import SimpleITK

  if dataset.HighBit != dataset.BitsStored - 1:
    raise ValueError('its stored bits are not the lowest')  # where GDCM would look for them
  packed, expected = len(dataset.PixelData), int(np.prod(shape)) * dataset.BitsAllocated // 8
  most = _RLE * packed if syntax == pydicom.uid.RLELossless else max(_SURELY, _OTHER * packed)
  if expected > most and syntax.is_encapsulated:
    raise _wrong_size(path, dataset, shape, f'{packed} compressed', expected)
  if syntax.is_encapsulated:
    is_rle = syntax == pydicom.uid.RLELossless
    segments = dataset.BitsAllocated // 8 if is_rle else 0
    size = dataset.Rows, dataset.Columns
    dicom_pieces.require_valid(dataset.PixelData, size, segments=segments)
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
    with unreadable.silence_libraries():
      image = SimpleITK.ReadImage(str(place), imageIO='GDCMImageIO')
  pixels = SimpleITK.GetArrayFromImage(image)
  if pixels.shape != shape:
    raise InputError(
      f'{path}: its pixels are {" x ".join(map(str, pixels.shape))}; expected '
      f'{" x ".join(map(str, shape))}. Replace it by the original file.'
    )
  return pixels
