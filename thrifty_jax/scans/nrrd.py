"""Checks NRRD files (.nrrd) against their own headers.

ITK's reader takes any space for left-posterior-superior, any unit for millimetres and a missing
distance for 1, and passes over voxels that are more than the header states. Source: the definition
of NRRD, teem.sourceforge.net/nrrd/format.html.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from thrifty_jax.errors import InputError
from thrifty_jax.scans.metaimage import header_error, inflated_bytes, read_numbers

_HEADER_BYTES = 65536  # no header is longer
_SPACES = (  # that ITK tells apart
  *('left-posterior-superior', 'lps', 'right-anterior-superior', 'ras'),
  *('left-anterior-superior', 'las'),
)
_WORDS = {'float': 4, 'double': 8}
_BYTES = {'char': 1, 'short': 2, 'int': 4, 'longlong': 8, 'long long': 8}
_UNITS = ('mm', 'millimeter', 'millimetre', '')


def require_valid(path: Path) -> None:
  """Refuses a header that does not say where voxels lie, and another number of voxels than it says.

  Voxels as text, in several files or behind skipped lines are left to ITK's reader, as are files of
  less than three dimensions.
  """
  with path.open('rb') as file:
    start = file.read(_HEADER_BYTES)
  fields, end = _fields_of(start)
  if not fields:
    raise ValueError('it has no header of an NRRD')  # which the caller reports
  if fields.get('dimension') in ('1', '2'):
    return
  _require_geometry(path, fields)
  expected = _expected_bytes(fields)
  # Detached voxels are of .nhdr, which is no format that is read.
  if not expected or 'data file' in fields or 'datafile' in fields:
    return
  encoding, skipped = fields.get('encoding', ''), end
  if encoding == 'raw':
    found = path.stat().st_size - skipped
  elif encoding in ('gzip', 'gz'):
    found = inflated_bytes(path, path, skipped)
  else:
    return
  if found != expected:
    raise InputError(
      f'{path}: its voxels are {found} bytes; expected {expected}, for {fields["sizes"]} of '
      f'{fields["type"]}. Copy or download it again.'
    )


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


def _expected_bytes(fields: Mapping[str, str]) -> int:
  """Returns the number of bytes of the voxels; 0 if it is unknown."""
  sizes = fields.get('sizes', '').split()
  skips = [fields.get(name, '0') for name in ('line skip', 'lineskip', 'byte skip', 'byteskip')]
  if not sizes or not all(map(str.isdigit, sizes)) or any(skip != '0' for skip in skips):
    return 0
  kind = fields.get('type', '').lower()
  return math.prod(map(int, sizes)) * (_WORDS.get(kind) or _integer_bytes(kind))


def _integer_bytes(kind: str) -> int:
  """Returns the bytes of an integer by one of NRRD's many names for it; 0 for another type."""
  if sized := re.fullmatch(r'u?int(8|16|32|64)(_t)?', kind):
    return int(sized[1]) // 8
  plain = re.sub(r'^(signed|unsigned) |^u(?=char|short|int|long)| int$', '', kind)
  return _BYTES.get(plain, 0)


def _fields_of(start: bytes) -> tuple[dict[str, str], int]:
  """Returns a header's fields by name and its length in bytes; no fields if it is no header."""
  if not start.startswith(b'NRRD'):
    return {}, 0
  blank = re.search(rb'\r?\n\r?\n', start)
  if not blank:
    return {}, 0
  fields = {}
  for line in start[: blank.start()].decode('latin-1').splitlines()[1:]:
    name, colon, value = line.partition(': ')
    if colon and not line.startswith('#'):
      fields[name.strip().lower()] = value.strip()
  return fields, blank.end()
