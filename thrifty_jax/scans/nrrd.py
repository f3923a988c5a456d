"""Checks NRRD files (.nrrd) against their own headers.

ITK's reader takes any space for left-posterior-superior, any unit for millimetres and a missing
distance for 1, and passes over voxels that are more than the header states. It ends the process by
a signal at some headers, and waits for ever for a named pipe: only voxels behind the header, raw or
in gzip, as many as it states, come to it. Source: the definition of NRRD,
teem.sourceforge.net/nrrd/format.html.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from thrifty_jax.errors import InputError
from thrifty_jax.scans.metaimage import (
  header_error,
  inflated_bytes,
  read_numbers,
  require_sizes,
  split_lines,
)

_HEADER_BYTES = 65536  # no header is longer
_LONGEST_LINE = 500  # characters of a field; teem ends the process at some thousand
_ENCODINGS = ('raw', 'gzip', 'gz')
_SPACES = (  # that ITK tells apart
  *('left-posterior-superior', 'lps', 'right-anterior-superior', 'ras'),
  *('left-anterior-superior', 'las'),
)
_WORDS = {'float': 4, 'double': 8}
_BYTES = {'char': 1, 'short': 2, 'int': 4, 'longlong': 8, 'long long': 8}
# Names of fields, which may be written as one word.
_FIELDS = (
  *('space dimension', 'space directions', 'space origin', 'space units', 'line skip', 'byte skip'),
  'data file',
)
_WITHOUT_BLANK = {name.replace(' ', ''): name for name in _FIELDS}
_UNITS = ('mm', 'millimeter', 'millimetre', '')


def require_valid(path: Path) -> None:
  """Refuses a header that does not say where voxels lie, and another number of voxels than it says.

  Files of one or two dimensions are left to ITK's reader, but for the number of voxels.
  """
  fields, end = _read_fields(path)
  if not fields:
    raise ValueError('it has no header of an NRRD')  # which the caller reports
  _require_form(path, fields)
  if fields['dimension'] not in ('1', '2'):
    _require_geometry(path, fields)
  expected = math.prod(map(int, fields['sizes'].split())) * _value_bytes(fields['type'])
  if fields['encoding'].lower() == 'raw':
    found = path.stat().st_size - end
  else:
    found = inflated_bytes(path, path, end, most=expected)
  if found != expected:
    raise InputError(
      f'{path}: its voxels are {found} bytes; expected {expected}, for {fields["sizes"]} of '
      f'{fields["type"]}. Copy or download it again.'
    )


def has_directions(path: Path) -> bool:
  """Returns whether a header says where its axes point; ITK's reader takes x, y, z as L, P, S."""
  return 'space directions' in _read_fields(path)[0]


def read_segments(path: Path) -> dict[int, str]:
  """Returns the names that 3D Slicer wrote into a mask for its numbers; {} in other masks.

  Those that it gives by itself, such as Segment_1, say nothing and are left out.
  """
  lines, _ = _read_lines(path)
  pairs = re.findall(r'^Segment(\d+)_(Name|LabelValue):=(.*)$', '\n'.join(lines), re.MULTILINE)
  found = {
    (segment, key): value.strip()
    for segment, key, value in pairs
    if not re.fullmatch(r'Segment_\d+', value.strip())
  }
  return {
    int(number): found[segment, 'Name']
    for (segment, key), number in found.items()
    if key == 'LabelValue' and re.fullmatch(r'[0-9]{1,5}', number) and (segment, 'Name') in found
  }


def _require_form(path: Path, fields: Mapping[str, str]) -> None:
  """Refuses what says nothing, or nothing that is read, of how many voxels there are and where."""
  require_sizes(path, fields, 'dimension', 'sizes')
  if not _value_bytes(fields.get('type', '')):
    raise header_error(path, 'type', fields.get('type', ''), 'one of numbers, such as short')
  if fields.get('encoding', '').lower() not in _ENCODINGS:
    raise header_error(path, 'encoding', fields.get('encoding', ''), 'raw or gzip')
  for name, allowed in (('data file', ''), ('line skip', '0'), ('byte skip', '0')):
    if fields.get(name, allowed) != allowed:
      raise header_error(path, name, fields[name], 'the voxels right behind the header')


def _require_geometry(path: Path, fields: Mapping[str, str]) -> None:
  """Refuses distances, directions, an origin, a space or units that cannot be relied on."""
  # ITK writes four axes in LPS, for which there is no name then.
  is_itk = 'space' not in fields and fields.get('space dimension') == '4'
  axes = 4 if is_itk else 3
  vectors = re.findall(r'none|\([^)]*\)', fields.get('space directions', ''))
  numbers = [read_numbers(one.strip('()').replace(',', ' ')) for one in vectors if one != 'none']
  if 'space directions' in fields:
    if not is_itk and fields.get('space', '').lower() not in _SPACES:
      raise header_error(path, 'space', fields.get('space', ''), 'LPS, RAS or LAS')
    if len(numbers) < 3 or any(len(n) != axes or not np.isfinite(n).all() for n in numbers):
      raise header_error(
        path,
        'space directions',
        fields['space directions'],
        f'a vector of {axes} numbers for each axis',
      )
  else:
    steps = [one for one in read_numbers(fields.get('spacings', '')) if not math.isnan(one)]
    if len(steps) < 3 or not (np.isfinite(steps).all() and min(steps) > 0):
      raise header_error(
        path, 'spacings', fields.get('spacings', ''), 'distances above 0, or space directions'
      )
  if 'space origin' in fields:
    origin = read_numbers(fields['space origin'].strip('() ').replace(',', ' '))
    if len(origin) != axes or not np.isfinite(origin).all():
      raise header_error(path, 'space origin', fields['space origin'], f'{axes} numbers')
  for name in ('space units', 'units'):
    if any(
      unit.strip().lower() not in _UNITS for unit in re.findall('"(.*?)"', fields.get(name, ''))
    ):
      raise header_error(path, name, fields[name], 'millimetres')


def _value_bytes(kind: str) -> int:
  """Returns the bytes of a voxel of a type; 0 if it is not read."""
  return _WORDS.get(kind.lower()) or _integer_bytes(kind.lower())


def _integer_bytes(kind: str) -> int:
  """Returns the bytes of an integer by one of NRRD's many names for it; 0 for another type."""
  if sized := re.fullmatch(r'u?int(8|16|32|64)(_t)?', kind):
    return int(sized[1]) // 8
  plain = re.sub(r'^(signed|unsigned) |^u(?=char|short|int|long)| int$', '', kind)
  return _BYTES.get(plain, 0)


def _read_lines(path: Path) -> tuple[list[str], int]:
  """Returns the lines of a header and its length in bytes; no line if it is no header."""
  with path.open('rb') as file:
    start = file.read(_HEADER_BYTES)
  blank = re.search(rb'\r?\n\r?\n', start)
  if not start.startswith(b'NRRD') or not blank:
    return [], 0
  return split_lines(start[: blank.start()])[1:], blank.end()


def _read_fields(path: Path) -> tuple[dict[str, str], int]:
  """Returns a header's fields by name and its length in bytes; no fields if it is no header."""
  fields: dict[str, str] = {}
  lines, end = _read_lines(path)
  for line in lines:
    name, colon, value = line.partition(': ')
    if line.startswith('#') or ':=' in (name if colon else line):
      continue  # a comment, or a key with a value, which is of programs
    if not colon or len(line) > _LONGEST_LINE:
      raise header_error(path, 'a line', line, 'FIELD: VALUE')
    name = ' '.join(name.lower().split())
    name = _WITHOUT_BLANK.get(name, name)
    if fields.setdefault(name, value.strip()) != value.strip():
      raise header_error(path, name, f'{fields[name]}, then {value.strip()}', 'one value')
  return fields, end
