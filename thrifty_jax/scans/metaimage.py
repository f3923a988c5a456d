"""Checks MetaImage files (.mhd, .mha) against their own headers.

ITK's reader trusts a header: if a compressed file has fewer voxels, it invents the rest, if more,
it leaves some out; and it verifies no checksum. What it cannot read it takes for 0 or 1, and units
and scaling it passes over. Source: MetaIO's documentation of the entries.
"""

import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from thrifty_jax.errors import InputError

_TRUE, _FALSE = ('true', 't', '1'), ('false', 'f', '0')
# Entries of numbers, as many as axes to this power.
_NUMBERS = {
  **dict.fromkeys(('ElementSpacing', 'ElementSize', 'Offset', 'Origin', 'Position'), 1),
  **dict.fromkeys(('TransformMatrix', 'Rotation', 'Orientation'), 2),
}
# Values, in small letters, of entries that are only read where they have one of these.
_ALLOWED = {
  **dict.fromkeys(('BinaryData', 'CompressedData'), (*_TRUE, *_FALSE)),
  **dict.fromkeys(('BinaryDataByteOrderMSB', 'ElementByteOrderMSB'), (*_TRUE, *_FALSE)),
  'DistanceUnits': ('mm', '?', ''),
}
_SCALING = {'ElementToIntensityFunctionSlope': 1.0, 'ElementToIntensityFunctionOffset': 0.0}
_ROUNDING = 1e-2  # of the products of axes, which some programs write with three digits
_HEADER_BYTES = 65536  # no header is longer
_CHUNK_BYTES = 1 << 20
# A long has 4 bytes on every system.
_BYTES = {'CHAR': 1, 'SHORT': 2, 'INT': 4, 'LONG': 4, 'LONG_LONG': 8, 'FLOAT': 4, 'DOUBLE': 8}


def require_valid(path: Path) -> None:
  """Refuses entries that move or scale voxels and are not valid, or that ITK's reader ignores."""
  entries, _ = _read_entries(path)
  if not entries:
    raise ValueError('it has no header of a MetaImage')  # which the caller reports
  axes = entries.get('NDims', '')
  if not axes.isdigit():
    raise header_error(path, 'NDims', axes, 'the number of axes')
  for name, power in _NUMBERS.items():
    values, count = read_numbers(entries.get(name, '')), int(axes) ** power
    if name in entries and not (len(values) == count and np.isfinite(values).all()):
      raise header_error(path, name, entries[name], f'{count} numbers')
  distances = [name for name in ('ElementSpacing', 'ElementSize') if name in entries]
  if not distances:
    raise header_error(path, 'ElementSpacing', '', 'the distance of voxels')
  for name in distances:
    if min(read_numbers(entries[name])) <= 0:
      raise header_error(path, name, entries[name], 'distances above 0')
  for name in ('TransformMatrix', 'Rotation', 'Orientation'):
    if name in entries:
      turn = np.reshape(read_numbers(entries[name]), (int(axes), -1))
      if np.abs(turn @ turn.T - np.eye(len(turn))).max() > _ROUNDING:
        raise header_error(path, name, entries[name], 'axes of length 1 at right angles')
  for names in (('Offset', 'Origin', 'Position'), ('TransformMatrix', 'Rotation', 'Orientation')):
    told = {name: read_numbers(entries[name]) for name in names if name in entries}
    if any(values != next(iter(told.values())) for values in told.values()):
      raise header_error(path, ' and '.join(told), 'different', 'one of them')
  for name, wanted in _SCALING.items():
    if read_numbers(entries.get(name, str(wanted))) != [wanted]:
      raise header_error(path, name, entries[name], f'{wanted:g}, as no reader applies another')
  for name, allowed in _ALLOWED.items():
    if name in entries and entries[name].lower() not in allowed:
      raise header_error(path, name, entries[name], ' or '.join(allowed))


def header_error(path: Path, name: str, value: str, expected: str) -> InputError:
  """Returns the error about an entry of a header."""
  return InputError(
    f'{path}: its header has {name} {value!r:.80}; expected {expected}. Correct the header or '
    'export the scan again.'
  )


def read_numbers(text: str) -> list[float]:
  """Returns the numbers of a text, [NaN] if it holds anything else."""
  try:
    return [float(word) for word in text.split()] or [math.nan]
  except ValueError:
    return [math.nan]


def require_whole(path: Path) -> None:
  """Refuses a file whose voxels are missing, damaged, or not as many as its header states.

  A file without such a header, or with voxels as text or in several files, is left to ITK's reader.
  """
  entries, end = _read_entries(path)
  name = entries.get('ElementDataFile', '')
  if name in ('', 'LIST') or '%' in name:
    return
  voxels = path if name == 'LOCAL' else path.parent / name
  if not voxels.is_file():
    raise InputError(f'{path}: its voxels, {name}, are not beside it. Copy or download them.')
  expected = _expected_bytes(entries)
  if not expected:
    return
  skipped = end if voxels == path else int(entries.get('HeaderSize', '0'))
  if entries.get('CompressedData', '').lower() in _TRUE:
    found = inflated_bytes(path, voxels, skipped)
    # ITK reads as many bytes as this says, and of an .mha without it none.
    there = str(voxels.stat().st_size - skipped)
    said = entries.get('CompressedDataSize', '' if voxels == path else there)
    if said != there:
      raise header_error(path, 'CompressedDataSize', said, there)
  else:
    found = voxels.stat().st_size - skipped
  if found != expected:
    raise InputError(
      f'{path}: its voxels, {voxels.name}, are {found} bytes; expected {expected}, for '
      f'{" x ".join(entries["DimSize"].split())} of {entries["ElementType"]}. Copy or download '
      'both files again.'
    )


def _read_entries(path: Path) -> tuple[Mapping[str, str], int]:
  """Returns a header's entries by name and its length in bytes; no entries if it is no header."""
  with path.open('rb') as file:
    start = file.read(_HEADER_BYTES)
  last = re.search(rb'^ElementDataFile\s*[=:].*?(\n|\Z)', start, re.MULTILINE)
  if not last:
    return {}, 0
  entries: dict[str, str] = {}
  for line in start[: last.end()].decode('latin-1').splitlines():
    name, value = map(str.strip, (*re.split('[=:]', line, maxsplit=1), '')[:2])
    if entries.setdefault(name, value) != value:
      raise header_error(path, name, f'{entries[name]}, then {value}', 'one value')
  return entries, last.end()


def _expected_bytes(entries: Mapping[str, str]) -> int:
  """Returns the number of bytes of the voxels; 0 if it is unknown or there are none."""
  kind = re.fullmatch(r'MET_U?(\w+)', entries.get('ElementType', ''))
  sizes = [*entries.get('DimSize', '0').split(), entries.get('ElementNumberOfChannels', '1')]
  is_text = entries.get('BinaryData', '').lower() in _FALSE
  if is_text or not kind or not all(map(str.isdigit, [*sizes, entries.get('HeaderSize', '0')])):
    return 0
  return _BYTES.get(kind[1], 0) * math.prod(map(int, sizes))


def inflated_bytes(path: Path, voxels: Path, skipped: int) -> int:
  """Returns the number of bytes of decompressed voxels, whose checksum is verified."""
  count, stream = 0, zlib.decompressobj(wbits=47)  # zlib's own format or gzip's
  with voxels.open('rb') as file:
    file.seek(skipped)
    try:
      while not stream.eof and (packed := file.read(_CHUNK_BYTES)):
        while packed:
          count += len(stream.decompress(packed, _CHUNK_BYTES))
          packed = stream.unconsumed_tail
      if not stream.eof:
        raise zlib.error('cut off')
    except zlib.error as error:
      raise InputError(
        f'{path}: its voxels, {voxels.name}, are damaged ({error}); expected an intact file. Copy '
        'or download it again.'
      ) from error
  return count
