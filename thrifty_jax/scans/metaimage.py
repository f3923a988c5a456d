"""Checks MetaImage files (.mhd, .mha) against their own headers.

ITK's reader trusts a header: if a compressed file has fewer voxels, it invents the rest, if more,
it leaves some out; and it verifies no checksum. What it cannot read it takes for 0 or 1, and units
and scaling it passes over. It ends the process by a signal at some headers, and waits for ever for
a named pipe: whatever it takes memory, opens files or formats names by is bounded here first.
Source: MetaIO's documentation of the entries.
"""

import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from thrifty_jax.errors import InputError

_TRUE, _FALSE = ('true', 't', '1'), ('false', 'f', '0')
_TURNS = ('TransformMatrix', 'Rotation', 'Orientation')
# Entries of numbers, as many as axes to this power.
_NUMBERS = {
  **dict.fromkeys(('ElementSpacing', 'ElementSize', 'Offset', 'Origin', 'Position'), 1),
  **dict.fromkeys(_TURNS, 2),
}
_BYTE_ORDER = ('BinaryDataByteOrderMSB', 'ElementByteOrderMSB')
# Values, in small letters, of entries that are only read where they have one of these.
_ALLOWED = {
  'BinaryData': _TRUE,  # voxels as text are read nowhere
  'CompressedData': (*_TRUE, *_FALSE),
  **dict.fromkeys(_BYTE_ORDER, (*_TRUE, *_FALSE)),
  'DistanceUnits': ('mm', '?', ''),
}
_SCALING = {'ElementToIntensityFunctionSlope': 1.0, 'ElementToIntensityFunctionOffset': 0.0}
_ROUNDING = 1e-2  # of the products of axes, which some programs write with three digits
_HEADER_BYTES = 65536  # no header is longer
_MOST_AXES = 7  # as many as NIfTI has; MetaIO has no place for more than 10, teem for 16
_LONGEST_NAME = 100  # characters of an entry's name; MetaIO has place for 255
_ENTRY = re.compile(rf'([^\s=:][^=:]{{0,{_LONGEST_NAME}}}?)\s*[=:](.*)')
_PATTERN = re.compile(r'([^%]*%0?[1-9]?d[^%]*?)\s+(\d{1,9})\s+(\d{1,9})\s+(\d{1,9})', re.ASCII)
_CHUNK_BYTES = 1 << 20
# A long has 4 bytes on every system.
_BYTES = {'CHAR': 1, 'SHORT': 2, 'INT': 4, 'LONG': 4, 'LONG_LONG': 8, 'FLOAT': 4, 'DOUBLE': 8}


def require_valid(path: Path) -> None:
  """Refuses entries that move or scale voxels and are not valid, or that ITK's reader ignores."""
  entries, _ = _read_entries(path)
  if not entries:
    raise ValueError('it has no header of a MetaImage')  # which the caller reports
  axes = require_sizes(path, entries, 'NDims', 'DimSize')
  if not _expected_bytes(entries):
    kinds = ', '.join(f'MET_{kind}' for kind in _BYTES)
    raise header_error(path, 'ElementType', entries.get('ElementType', ''), f'one of {kinds}')
  for name, power in _NUMBERS.items():
    values, count = read_numbers(entries.get(name, '')), axes**power
    if name in entries and not (len(values) == count and np.isfinite(values).all()):
      raise header_error(path, name, entries[name], f'{count} numbers')
  distances = [name for name in ('ElementSpacing', 'ElementSize') if name in entries]
  if not distances:
    raise header_error(path, 'ElementSpacing', '', 'the distance of voxels')
  for name in distances:
    if min(read_numbers(entries[name])) <= 0:
      raise header_error(path, name, entries[name], 'distances above 0')
  for name in _TURNS:
    if name in entries:
      turn = np.reshape(read_numbers(entries[name]), (axes, -1))
      with np.errstate(over='ignore', invalid='ignore'):
        off = np.abs(turn @ turn.T - np.eye(len(turn))).max()
      if not off <= _ROUNDING:  # nor is it where numbers are too large to multiply
        raise header_error(path, name, entries[name], 'axes of length 1 at right angles')
  for names in (('Offset', 'Origin', 'Position'), _TURNS):
    told = {name: read_numbers(entries[name]) for name in names if name in entries}
    if any(values != next(iter(told.values())) for values in told.values()):
      raise header_error(path, ' and '.join(told), 'different', 'one of them')
  for name, wanted in _SCALING.items():
    if read_numbers(entries.get(name, str(wanted))) != [wanted]:
      raise header_error(path, name, entries[name], f'{wanted:g}, as no reader applies another')
  orders = {entries[name].lower() in _TRUE for name in _BYTE_ORDER if name in entries}
  if len(orders) > 1:
    raise header_error(path, ' and '.join(_BYTE_ORDER), 'different', 'one of them')
  for name, allowed in _ALLOWED.items():
    if name in entries and entries[name].lower() not in allowed:
      raise header_error(path, name, entries[name], ' or '.join(allowed))


def has_directions(path: Path) -> bool:
  """Returns whether a header says where its axes point; ITK's reader takes x, y, z as L, P, S."""
  entries, _ = _read_entries(path)
  return any(name in entries for name in _TURNS)


def header_error(path: Path, name: str, value: str, expected: str) -> InputError:
  """Returns the error about an entry of a header."""
  return InputError(
    f'{path}: its header has {name} {value!r:.80}; expected {expected}. Correct the header or '
    'export the scan again.'
  )


def read_numbers(text: str) -> list[float]:
  """Returns the numbers of a text, [NaN] if it holds anything else.

  Python alone takes underscores, and digits and blanks of other scripts.
  """
  if not text.isascii() or '_' in text:
    return [math.nan]
  try:
    return [float(word) for word in text.split()] or [math.nan]
  except ValueError:
    return [math.nan]


def require_sizes(path: Path, entries: Mapping[str, str], axes: str, sizes: str) -> int:
  """Returns the number of axes; refuses too many of them, or other than a size for each.

  Args:
    path: File, for messages.
    entries: Entries of its header by name.
    axes: Name of the entry with the number of axes.
    sizes: Name of the entry with their sizes in voxels.
  """
  number, told = entries.get(axes, ''), entries.get(sizes, '')
  each = told.split() if told.isascii() else []
  if not is_count(number, _MOST_AXES):
    raise header_error(path, axes, number, f'the number of axes, 1 to {_MOST_AXES}')
  if len(each) != int(number) or not all(map(is_count, each)):
    raise header_error(path, sizes, told, f'{number} numbers above 0')
  return int(number)


def is_count(word: str, most: int = 2**31 - 1) -> bool:
  """Returns whether a word is a whole number from 1 to `most`."""
  return re.fullmatch('0{0,9}[1-9][0-9]{0,9}', word) is not None and int(word) <= most


def require_whole(path: Path) -> None:
  """Refuses a valid file whose voxels are missing, damaged, or not as many as its header states."""
  entries, end = _read_entries(path)
  files = find_voxels(path)
  expected, parts = _expected_bytes(entries), len(files)
  is_packed = entries.get('CompressedData', '').lower() in _TRUE
  if is_packed and parts > 1:
    raise header_error(path, 'CompressedData', 'True', 'False, as the voxels are in several files')
  for voxels in files:
    if not voxels.is_file():
      raise InputError(
        f'{path}: its voxels, {voxels.name}, are not beside it as a file. Copy or download them.'
      )
    skipped = end if voxels == path else _skipped_bytes(path, entries, voxels, expected)
    there = voxels.stat().st_size - skipped
    found = there
    if is_packed:
      found = inflated_bytes(path, voxels, skipped, most=expected)
      # ITK reads as many bytes as this says, and of an .mha without it none.
      said = entries.get('CompressedDataSize', '' if voxels == path else str(there))
      if said != str(there):
        raise header_error(path, 'CompressedDataSize', said, str(there))
    if found != expected // parts:
      raise InputError(
        f'{path}: its voxels, {voxels.name}, are {found} bytes; expected {expected // parts}, for '
        f'{" x ".join(entries["DimSize"].split())} of {entries["ElementType"]}'
        f'{f" in {parts} files" if parts > 1 else ""}. Copy or download them again.'
      )


def find_voxels(path: Path) -> list[Path]:
  """Returns the file of the voxels, or one for each step along the last axis, of a valid header.

  They lie beside the header or below it. Their names are listed behind it, or follow from a
  pattern and three numbers: the first, the last and the step.
  """
  entries, end = _read_entries(path)
  place, count = entries['ElementDataFile'], int(entries['DimSize'].split()[-1])
  if place.lower() == 'local':
    if entries.get('HeaderSize', '0') != '0':
      raise header_error(path, 'HeaderSize', entries['HeaderSize'], '0, as the voxels follow it')
    return [path]
  names = [place]
  if place.startswith('LIST') or '%' in place:
    pattern = _PATTERN.fullmatch(place)
    if pattern:
      first, last, step = map(int, pattern.groups()[1:])
      numbers = range(first, last + 1, step or 1)
      names = [pattern[1] % number for number in numbers[: count + 1]]
    else:
      with path.open('rb') as file:
        file.seek(end)
        names = file.read(_HEADER_BYTES).decode('utf-8', 'surrogateescape').split('\n')
      names = [name.strip() for name in names if name.strip()] if place == 'LIST' else []
    if len(names) != count or entries.get('HeaderSize', '0') != '0':
      raise header_error(
        path,
        'ElementDataFile',
        place,
        f'one file, or {count} without headers: by LIST and a line for each, or as '
        f'NAME%03d.raw 1 {count} 1',
      )
  for name in names:
    if Path(name).is_absolute() or '..' in Path(name).parts or '\0' in name:
      raise header_error(path, 'ElementDataFile', name, 'a file beside the header')
  return [path.parent / name for name in names]


def _skipped_bytes(path: Path, entries: Mapping[str, str], voxels: Path, expected: int) -> int:
  """Returns the number of bytes before the voxels in their file; of -1, what is more than them."""
  said = entries.get('HeaderSize', '0')
  if said == '-1' and entries.get('CompressedData', '').lower() not in _TRUE:
    return max(0, voxels.stat().st_size - expected)
  if said != '0' and not is_count(said):
    raise header_error(path, 'HeaderSize', said, 'a number of bytes')
  return int(said)


def _read_entries(path: Path) -> tuple[Mapping[str, str], int]:
  """Returns a header's entries by name and its length in bytes; no entries if it is no header."""
  with path.open('rb') as file:
    start = file.read(_HEADER_BYTES)
  last = re.search(rb'^ElementDataFile\s*[=:].*?(\n|\Z)', start, re.MULTILINE)
  if not last:
    return {}, 0
  entries: dict[str, str] = {}
  for line in filter(None, map(str.strip, split_lines(start[: last.end()]))):
    if not (entry := _ENTRY.fullmatch(line)):
      raise header_error(path, 'a line', line, 'NAME = VALUE')
    name, value = entry[1], entry[2].strip()
    if entries.setdefault(name, value) != value:
      raise header_error(path, name, f'{entries[name]}, then {value}', 'one value')
  return entries, last.end()


def split_lines(header: bytes) -> list[str]:
  """Returns the lines of a header; a character at which a reader may end a line sooner is none."""
  text = header.decode('utf-8', 'surrogateescape').replace('\r\n', '\n')
  if control := re.search(r'[\x00-\x08\x0b-\x1f\x7f]', text):
    raise ValueError(f'its header has the character {control[0]!r}')  # which the caller reports
  return text.removesuffix('\n').split('\n')


def _expected_bytes(entries: Mapping[str, str]) -> int:
  """Returns the number of bytes of the voxels; 0 of a type that is not read."""
  kind = re.fullmatch(r'MET_U?(\w+)', entries.get('ElementType', ''))
  channels = entries.get('ElementNumberOfChannels', '1')
  if not kind or not is_count(channels):
    return 0
  return _BYTES.get(kind[1], 0) * math.prod(map(int, [*entries['DimSize'].split(), channels]))


def inflated_bytes(path: Path, voxels: Path, skipped: int, *, most: int) -> int:
  """Returns the number of bytes of decompressed voxels, whose checksum is verified.

  Of more than `most` bytes it returns early, as a small file may have terabytes.
  """
  count, stream = 0, zlib.decompressobj(wbits=47)  # zlib's own format or gzip's
  most += _CHUNK_BYTES  # or damage would pass for another number of bytes
  with voxels.open('rb') as file:
    file.seek(skipped)
    try:
      while not stream.eof and (packed := file.read(_CHUNK_BYTES)):
        while packed:
          count += len(stream.decompress(packed, _CHUNK_BYTES))
          if count > most:
            return count
          packed = stream.unconsumed_tail
      if not stream.eof:
        raise zlib.error('cut off')
    except zlib.error as error:
      raise InputError(
        f'{path}: its voxels, {voxels.name}, are damaged ({error}); expected an intact file. Copy '
        'or download it again.'
      ) from error
  return count
