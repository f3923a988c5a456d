"""Checks MetaImage files (.mhd, .mha) against their own headers.

ITK's reader trusts a header: if a compressed file has fewer voxels, it invents the rest, if more,
it leaves some out; and it verifies no checksum. Source: MetaIO's documentation of the entries.
"""

import math
import re
import zlib
from pathlib import Path

from thrifty_jax.errors import InputError

_HEADER_BYTES = 65536  # no header is longer
_CHUNK_BYTES = 1 << 20
# A long has 4 bytes on every system.
_BYTES = {'CHAR': 1, 'SHORT': 2, 'INT': 4, 'LONG': 4, 'LONG_LONG': 8, 'FLOAT': 4, 'DOUBLE': 8}


def require_whole(path: Path) -> None:
  """Refuses a file whose voxels are missing, damaged, or not as many as its header states.

  A file without such a header, or with voxels as text or in several files, is left to ITK's reader.
  """
  with path.open('rb') as file:
    start = file.read(_HEADER_BYTES)
  entries, end = _entries(start)
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
  if entries.get('CompressedData', '').lower() == 'true':
    found = _inflated_bytes(path, voxels, skipped)
  else:
    found = voxels.stat().st_size - skipped
  if found != expected:
    raise InputError(
      f'{path}: its voxels, {voxels.name}, are {found} bytes; expected {expected}, for '
      f'{" x ".join(entries["DimSize"].split())} of {entries["ElementType"]}. Copy or download '
      'both files again.'
    )


def _entries(start: bytes) -> tuple[dict[str, str], int]:
  """Returns a header's entries by name and its length in bytes; no entries if it is no header."""
  last = re.search(rb'^ElementDataFile\s*=.*?(\n|\Z)', start, re.MULTILINE)
  if not last:
    return {}, 0
  pairs = (line.partition('=') for line in start[: last.end()].decode('latin-1').splitlines())
  return {name.strip(): value.strip() for name, _, value in pairs}, last.end()


def _expected_bytes(entries: dict[str, str]) -> int:
  """Returns the number of bytes of the voxels; 0 if it is unknown or there are none."""
  kind = re.fullmatch(r'MET_U?(\w+)', entries.get('ElementType', ''))
  sizes = [*entries.get('DimSize', '0').split(), entries.get('ElementNumberOfChannels', '1')]
  is_text = entries.get('BinaryData', '').lower() == 'false'
  if is_text or not kind or not all(map(str.isdigit, [*sizes, entries.get('HeaderSize', '0')])):
    return 0
  return _BYTES.get(kind[1], 0) * math.prod(map(int, sizes))


def _inflated_bytes(path: Path, voxels: Path, skipped: int) -> int:
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
