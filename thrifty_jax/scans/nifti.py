"""Reads NIfTI files, whose headers are checked before anything else uses them.

Readers mend what a header says wrongly, each in its own way: they invent distances, codes, or where
the voxels begin. What moves, scales or sizes the voxels is valid here or it is refused. An export
has a copy of this file beside its script, so it needs numpy and nibabel alone.

Source: nifti1.h and nifti2.h of the NIfTI Data Format Working Group.
"""

import gzip
import math
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import nibabel
import numpy as np
from nibabel.volumeutils import apply_read_scaling

# By the first number of a file, the size of its header: how it is read, and its magic number with
# the place of that.
_KINDS = {348: (nibabel.Nifti1Header, b'n+1\0', 344), 540: (nibabel.Nifti2Header, b'n+2\0', 4)}
_LONGEST = 540  # bytes of a header
_DEFLATED = 1032  # bytes that one of gzip can become, by zlib.net/zlib_tech.html
_PIECE_BYTES = 1 << 24
_EXTENDER = 4  # bytes behind a header, before extensions or voxels
_GEOMETRY = (  # fields of a header that define the position of voxels and the unit
  *('dim_info', 'pixdim', 'xyzt_units', 'qform_code', 'sform_code', 'srow_x', 'srow_y', 'srow_z'),
  *('quatern_b', 'quatern_c', 'quatern_d', 'qoffset_x', 'qoffset_y', 'qoffset_z'),
)
_CODES = range(6)  # of qform and sform
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # a unit: unknown, metre, mm, micrometre
_POSSIBLE_MM = (1e-4, 100.0)  # sides of a voxel: beyond, the unit rather than the scan is odd
_SHEAR = 0.02  # cosine between two axes: 1.1 degrees, as of slices in DICOM
_ROUNDING = 1e-3  # by which the square of a quaternion may be above 1
UNSURE = (  # of a header, with the directions that axes have without one
  'its header does not say where its axes point; x, y, z are taken to point to {}: check that they '
  'do'
)
# Cosine between an axis by both forms of a header, 45 degrees but for rounding: mirror images are
# below it, registered scans above.
_APART = 0.7071
_TWO_FORMS = (
  'its header says two things of where its axes point, as sform and qform lie more than 45 '
  'degrees apart; the sform is taken: check that it is right'
)


class HeaderError(ValueError):
  """A header that cannot be taken at its word; the text says what is wrong and what to do."""


class Nifti(NamedTuple):
  """A NIfTI file."""

  header: Any  # of nibabel, without trailing axes of length 1
  affine: np.ndarray  # of voxel indices (x, y, z, 1) to RAS millimetres, [4, 4]
  voxels: np.ndarray  # as stored, with slope and intercept, [X, Y, Z] or [X, Y, Z, M]; of a file's
  # header alone, none


def read(path: Path) -> Nifti:
  """Reads a file, compressed or not whatever its name says.

  Raises:
    HeaderError: If the header is not valid, or the voxels are not as many as it says.
    OSError, EOFError, zlib.error: If the file cannot be read or decompressed.
  """
  with _opened(path) as stream:
    content = bytearray(stream.read(_LONGEST))
    header = _possible_header(path, stream, bytes(content))
    end = int(header['vox_offset']) + _bytes_of(header)
    # Not to the end, as a few bytes of gzip can become terabytes, but a piece further, as damage
    # may show behind the voxels.
    while len(content) <= end and (piece := stream.read(_PIECE_BYTES)):
      content += piece
  if len(content) != end:
    raise _wrong_size(header, len(content), 'at least ' if len(content) > end else '')
  shape, dtype = header.get_data_shape(), header.get_data_dtype()
  start, count = int(header['vox_offset']), math.prod(shape)
  stored = np.frombuffer(content, dtype, count, start).reshape(shape, order='F')
  slope, intercept = header.get_slope_inter()
  scaled = stored if slope is None else apply_read_scaling(stored, slope, intercept)
  return Nifti(header, affine_of(header), scaled)


def read_header(path: Path) -> Nifti:
  """Reads a file as `read`, without its voxels."""
  with _opened(path) as stream:
    header = _possible_header(path, stream, stream.read(_LONGEST))
  return Nifti(header, affine_of(header), np.empty(0))


def image_like(voxels: np.ndarray, header: Any) -> Any:
  """Returns an image, [X, Y, Z], with the geometry of a checked header and nothing else of it."""
  is_2 = isinstance(header, nibabel.Nifti2Header)
  kind = nibabel.Nifti2Image if is_2 else nibabel.Nifti1Image
  own: Any = kind.header_class()
  own.set_data_dtype(voxels.dtype)
  own.set_data_shape(voxels.shape)
  for field in _GEOMETRY:
    own[field] = header[field]
  own['pixdim'][4:] = 1  # axes that it does not have
  sides = own['pixdim'][1:4]
  if not (np.isfinite(sides) & (sides > 0)).all():
    # Beside a matrix they decide nothing; nibabel would invent others, and say so in its log.
    own['pixdim'][1:4] = np.linalg.norm(header.get_best_affine()[:3, :3], axis=0)
  return kind(voxels, None, header=own)


def affine_of(header: Any) -> np.ndarray:
  """Returns the affine of a checked header, (x, y, z, 1) to RAS millimetres, [4, 4]."""
  unit = _MILLIMETRES[int(header['xyzt_units']) & 7]
  return np.diag((unit, unit, unit, 1.0)) @ header.get_best_affine()


def find_unsure(header: Any) -> str:
  """Returns how the axes are taken, if a header does not say clearly where they point; else ''.

  Source: nibabel's affine of a file without qform and sform, or with both.
  """
  if header['qform_code'] and header['sform_code']:
    return _TWO_FORMS if _forms_are_apart(header) else ''
  return '' if header['qform_code'] or header['sform_code'] else UNSURE.format('L, A, S')


def require_possible(affine: np.ndarray) -> None:
  """Refuses, by a HeaderError, an affine [4, 4] that no scan in millimetres can have."""
  with np.errstate(all='ignore'):  # infinite or NaN then
    sides_mm = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / sides_mm
    cosine = np.abs(axes.T @ axes - np.eye(3)).max()
  if not (np.isfinite(affine).all() and np.isfinite(cosine)):
    raise HeaderError(
      'its header gives no valid spacing and direction of the axes; expected three axes of a '
      'length above 0. Export it again.'
    )
  least, most = _POSSIBLE_MM
  if sides_mm.min() < least or sides_mm.max() > most:
    raise HeaderError(
      f'its header gives voxels of {" x ".join(f"{side:g}" for side in sides_mm)} mm; expected '
      f'sides from {least:g} to {most:g} mm. Correct the spacing or its unit (xyzt_units in NIfTI).'
    )
  if cosine > _SHEAR:  # a network would see its slices distorted, or shifted against one another
    raise HeaderError(
      f'its axes are not at right angles, but lean by {np.degrees(np.arcsin(min(cosine, 1))):.1f} '
      'degrees; expected at most 1.1, or slices are not what they seem. Resample it.'
    )


def require_grid(
  shape: tuple[int, ...],
  affine: np.ndarray,
  scan: str,
  scan_shape: tuple[int, ...],
  scan_affine: np.ndarray,
) -> None:
  """Refuses, by a HeaderError, voxels that do not lie where those of a scan of this name do.

  The shapes must be equal, and no corner of the first three axes may lie more than half a voxel
  away by the affines of voxel indices to millimetres, [4, 4].
  """
  if shape != scan_shape:
    raise HeaderError(
      f'has {shape} voxels along its axes, but {scan} has {scan_shape}; expected one grid. '
      'Resample one to the other or replace the file.'
    )
  corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(shape[:3])[:, None] - 1)
  off = np.linalg.norm((affine - scan_affine)[:3] @ np.vstack([corners, np.ones(8)]), axis=0)
  voxel = np.linalg.norm(scan_affine[:3, :3], axis=0).min()
  if not off.max() <= voxel / 2:
    raise HeaderError(
      f'lies up to {off.max():.3g} mm away from {scan}, whose voxels are {voxel:.3g} mm; expected '
      'one origin, spacing and direction. Where the voxels do match, copy the header of the scan; '
      'else resample the file.'
    )


def _forms_are_apart(header: Any) -> bool:
  """Returns whether an axis by the qform is more than 45 degrees from that by the sform.

  A qform without a valid quaternion says nothing of it.
  """
  imaginary = [float(header[f'quatern_{name}']) for name in 'bcd']
  square = sum(one * one for one in imaginary)
  if not square <= 1 + _ROUNDING:
    return False
  real = math.sqrt(max(0, 1 - square))
  turned = nibabel.quaternions.quat2mat((real, *imaginary))
  turned[:, 2] *= -1 if header['pixdim'][0] < 0 else 1
  axes = header.get_sform()[:3, :3]
  cosines = (turned * axes).sum(axis=0) / np.linalg.norm(axes, axis=0)
  return bool(cosines.min() < _APART)


def _opened(path: Path) -> BinaryIO:
  """Opens a file, decompressed if its first bytes are gzip's."""
  with path.open('rb') as file:
    packed = file.read(2) == b'\x1f\x8b'
  return cast(BinaryIO, gzip.open(path)) if packed else path.open('rb')


def _possible_header(path: Path, stream: BinaryIO, content: bytes) -> Any:
  """Returns the header, checked, of as many voxels as a file of its size can hold."""
  header = _header_of(content)
  there, end = path.stat().st_size, int(header['vox_offset']) + _bytes_of(header)
  if not isinstance(stream, gzip.GzipFile) and end != there:
    raise _wrong_size(header, there, '')
  if end > there * _DEFLATED:
    raise _wrong_size(header, there * _DEFLATED, 'at most ')
  return header


def _bytes_of(header: Any) -> int:
  """Returns the number of bytes of the voxels."""
  return math.prod(map(int, header.get_data_shape())) * header.get_data_dtype().itemsize


def _wrong_size(header: Any, found: int, about: str) -> HeaderError:
  """Returns the error about a content of another number of bytes than its header states."""
  shape, start = header.get_data_shape(), int(header['vox_offset'])
  return HeaderError(
    f'its voxels, from byte {start} on, are {about}{max(0, found - start)} bytes; expected '
    f'{_bytes_of(header)}, for {" x ".join(map(str, shape))} of {header.get_data_dtype()}. Copy or '
    'download it again, or correct its header.'
  )


def _header_of(content: bytes) -> Any:
  """Returns the header at the start of a file's content, checked."""
  for endianness, order in (('<', 'little'), ('>', 'big')):
    size = int.from_bytes(content[:4], cast(Any, order))
    kind, magic, at = _KINDS.get(size, (None, b'', 0))
    if kind and len(content) >= size and content[at : at + 4] == magic:
      header: Any = kind(content[:size], endianness, check=False)
      _check(header, size + _EXTENDER)
      return header
  raise HeaderError(
    'has no header of a NIfTI file with its voxels in it (n+1, n+2); expected one. Copy or '
    'download it again, or convert it.'
  )


def _check(header: Any, least: int) -> None:
  """Refuses what is not valid and drops trailing axes of length 1.

  Args:
    header: Header of nibabel, as stored.
    least: First byte where voxels can begin.
  """
  _check_size(header)
  start = float(header['vox_offset'])
  _require(start == 0 or (start >= least and start % 1 == 0), header, 'vox_offset', f'>= {least}')
  header['vox_offset'] = start or least  # 0 says nothing
  _check_type(header)
  for name in ('qform_code', 'sform_code'):
    _require(int(header[name]) in _CODES, header, name, '0 to 5')
  if header['sform_code']:
    for name in ('srow_x', 'srow_y', 'srow_z'):
      _require(np.isfinite(header[name]).all(), header, name, 'numbers')
  else:
    _check_distances(header)
  unit = int(header['xyzt_units']) & 7
  _require(unit in _MILLIMETRES, header, 'xyzt_units', '1 m, 2 mm or 3 micrometres')
  require_possible(affine_of(header))


def _check_size(header: Any) -> None:
  dim = header['dim']
  known = 1 <= dim[0] <= 7 and (dim[1 : dim[0] + 1] > 0).all()
  _require(known, header, 'dim', 'the number of axes, then a length for each')
  shape = [int(size) for size in dim[1 : dim[0] + 1]]
  while len(shape) > 3 and shape[-1] == 1:
    shape.pop()
  if len(shape) not in (3, 4):
    raise HeaderError(
      f'has {len(shape)} dimensions ({" x ".join(map(str, shape))}); expected a volume of 3, or 4 '
      'with modalities last. Convert the file.'
    )
  header.set_data_shape(shape)


def _check_type(header: Any) -> None:
  """Refuses voxels that are no numbers, and a scaling that is none."""
  code = int(header['datatype'])
  try:
    dtype = header.get_data_dtype()
  except (LookupError, nibabel.spatialimages.HeaderDataError):
    dtype = None
  if dtype is None or dtype.kind not in 'iuf':
    label = nibabel.nifti1.data_type_codes.label.get(code, 'unknown')
    raise HeaderError(
      f'has voxels of the type {code} ({label}); expected one number for each. Convert the file.'
    )
  slope, intercept = float(header['scl_slope']), float(header['scl_inter'])
  _require(not math.isinf(slope), header, 'scl_slope', 'a number, or 0 for none')
  if slope and not math.isnan(slope):  # 0 and NaN are the ways to say that there is no scaling
    _require(math.isfinite(intercept), header, 'scl_inter', 'a number')


def _check_distances(header: Any) -> None:
  """Refuses distances and a quaternion that are none, where there is no matrix; mends rounding."""
  sides = header['pixdim'][1:4]
  _require(np.isfinite(sides).all() and (sides > 0).all(), header, 'pixdim', 'distances above 0')
  if not header['qform_code']:
    return
  _require(header['pixdim'][0] in (-1, 0, 1), header, 'pixdim', '1 or -1 first')
  header['pixdim'][0] = header['pixdim'][0] or 1  # as the standard has it
  names = ('quatern_b', 'quatern_c', 'quatern_d')
  square = sum(float(header[name]) ** 2 for name in names)
  for name in names:
    _require(square <= 1 + _ROUNDING, header, name, 'a quaternion of length 1')
    header[name] = header[name] / max(1, math.sqrt(square) * (1 + 1e-7))
  for name in ('qoffset_x', 'qoffset_y', 'qoffset_z'):
    _require(np.isfinite(header[name]), header, name, 'a number')


def _require(valid: Any, header: Any, name: str, expected: str) -> None:
  """Refuses a field by its name and value."""
  if not valid:
    value = ' '.join(f'{one:g}' for one in np.ravel(header[name]).tolist())
    raise HeaderError(
      f'its header has {name} {value}; expected {expected}. Correct the header or export the scan '
      'again.'
    )
