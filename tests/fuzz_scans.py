"""Scans with damaged or hostile headers: each is read as another reader does, or refused in a line.

  PYTHONPATH=. python tests/fuzz_scans.py --seconds=600 --seed=1
  PYTHONPATH=. python tests/fuzz_scans.py --seed=1 --case=4711

Every case follows from the seed and its number: a small file of one format in which one to three
things are changed. It is read as predict reads it. What passes must have the voxels and
the place in space that a reader of another origin finds: nibabel for NIfTI, SimpleITK for DICOM,
and for MetaImage and NRRD, which SimpleITK reads here, the few lines below. A case also fails by a
crash, a traceback, over 10 seconds, by voxels from outside of its folder, and by more than 256 MiB
of memory. Whatever fails is printed with the files that repeat it. The last line is JSON with the
counts; the exit status is 1 if anything failed. `--case` reads one case in the process itself.
"""

import argparse
import base64
import collections
import contextlib
import faulthandler
import gzip
import io
import json
import math
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import SimpleITK
from pydicom import uid

from thrifty_jax.errors import InputError
from thrifty_jax.scans import sources, unreadable, volumes

SECONDS = 10  # for a case to be read here
PATIENCE = 120  # seconds, for a case with the other reader, which may wait for what is not there
MOST_BYTES = 256 << 20  # of memory that a case may take
SECRET = 24242  # value of every voxel outside of the folder
VOXELS = np.random.default_rng(0).integers(0, 3000, (3, 4, 5)).astype(np.int16)  # [D, H, W]
Files = dict[str, bytes]

_NIFTI = {  # where a field lies, and how it is packed
  **{'dim': (40, '8h'), 'datatype': (70, 'h'), 'bitpix': (72, 'h'), 'pixdim': (76, '8f')},
  **{'vox_offset': (108, 'f'), 'slope': (112, 'f'), 'inter': (116, 'f'), 'units': (123, 'B')},
  **{'qform': (252, 'h'), 'sform': (254, 'h'), 'quatern': (256, '3f'), 'qoffset': (268, '3f')},
  **{'srow': (280, '12f'), 'size': (0, 'i')},
}
_NUMBERS = (0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 255, 256, 512, 1000, 32767, -32768, 2**31 - 1)
_FLOATS = (*_NUMBERS, 0.5, 1e-38, 1e38, -1e38, float('nan'), float('inf'), 352, 353, 352.5)
_WORDS = (
  *('', '0', '1', '-1', '2', '3', '4', '8', '60', '100000', '2147483647', '4294967296', '1e9'),
  *('nan', 'inf', '-inf', '1e-320', '1e308', '1e999', '0x10', '1_0', '1,5', '٣', '9' * 400),
  *('True', 'False', 'true', 'LOCAL', 'LIST', 'scan%d.raw 1 3 1', '%s%n 1 3 1', '%9999999d 1 3 1'),
  *('../secret.raw', '/etc/passwd', '/dev/zero', 'secret.raw', 'scan.mha', 'x' * 5000, '\0', '\r'),
  *('MET_SHORT', 'MET_USHORT', 'MET_FLOAT', 'MET_UCHAR', 'MET_STRING', 'MET_LONG', 'MET_DOUBLE'),
  *('short', 'ushort', 'uint8', 'int64', 'float', 'double', 'block', 'raw', 'gzip', 'bzip2', 'hex'),
  *('3 4 5', '5 4 3 1', '5 4 3 2', '1 1 60', '5 4', '5 4 3', '1 5 4 3', '0 4 3', '-5 -4 3'),
  *('(1,0,0) (0,1,0) (0,0,1)', '(0,0,0) (0,1,0) (0,0,1)', 'none (1,0,0) (0,1,0) (0,0,1)', '(1,2)'),
  *('1 0 0 0 1 0 0 0 1', '0 1 0 1 0 0 0 0 1', '1 1 1', '2 0 0 0 2 0 0 0 2', 'LPS', 'RAS', 'LAS'),
  *('scanner-xyz', 'left-posterior-superior', 'right-anterior-superior', 'big', 'little', 'mm'),
)
_LINES = (
  *('CompressedData = True', 'HeaderSize = -1', 'HeaderSize = 4', 'ElementNumberOfChannels = 2'),
  *('ElementByteOrderMSB = True', 'CompressedDataSize = 3', 'ElementToIntensityFunctionSlope = 2'),
  *('DistanceUnits = cm', 'ElementSize = 1 1 1', 'ObjectType = Mesh', 'ElementDataFile = LOCAL'),
  *('data file: ../secret.raw', 'data file: LIST', 'byte skip: -1', 'encoding: hex'),
  *('endian: big', 'spacings: 1 1 1', 'space dimension: 4', 'axis mins: 0 0 0', 'space: RAS'),
  *('content: x', 'centerings: cell cell', 'old min: 0', 'units: "cm" "cm" "cm"', 'key:=value'),
)
_META_TYPES = {'CHAR': 'i1', 'SHORT': 'i2', 'INT': 'i4', 'LONG': 'i4', 'LONG_LONG': 'i8'} | {
  **{'UCHAR': 'u1', 'USHORT': 'u2', 'UINT': 'u4', 'ULONG': 'u4', 'ULONG_LONG': 'u8'},
  **{'FLOAT': 'f4', 'DOUBLE': 'f8'},
}
_NRRD_TYPES = {'short': 'i2', 'int16': 'i2', 'ushort': 'u2', 'uint8': 'u1', 'int64': 'i8'} | {
  **{'float': 'f4', 'double': 'f8'},
}


def whole_nifti(compressed: bool) -> Files:
  header = bytearray(352)
  values = {'size': 348, 'dim': (3, 5, 4, 3, 1, 1, 1, 1), 'datatype': 4, 'bitpix': 16}
  values |= {'pixdim': (1, 2, 3, 4, 0, 0, 0, 0), 'vox_offset': 352, 'units': 2, 'qform': 1}
  values |= {'sform': 1, 'srow': (2, 0, 0, -7, 0, 3, 0, 8, 0, 0, 4, 9), 'slope': 1}
  for name, value in values.items():
    struct.pack_into(f'<{_NIFTI[name][1]}', header, _NIFTI[name][0], *np.ravel(value).tolist())
  header[344:348] = b'n+1\0'
  content = bytes(header) + VOXELS.tobytes()
  return {'scan.nii.gz': gzip.compress(content, mtime=0)} if compressed else {'scan.nii': content}


def whole_metaimage(place: str, compressed: bool) -> Files:
  voxels = zlib.compress(VOXELS.tobytes()) if compressed else VOXELS.tobytes()
  lines = ['ObjectType = Image', 'NDims = 3', 'BinaryData = True', 'BinaryDataByteOrderMSB = False']
  lines += [f'CompressedData = {compressed}', f'CompressedDataSize = {len(voxels)}']
  lines += ['TransformMatrix = 0 1 0 -1 0 0 0 0 1', 'Offset = 5 6 7', 'ElementSpacing = 2 3 4']
  lines += ['DimSize = 5 4 3', 'ElementType = MET_SHORT', f'ElementDataFile = {place}']
  header = ('\n'.join(lines) + '\n').encode()
  return {'scan.mha': header + voxels} if place == 'LOCAL' else {'scan.mhd': header, place: voxels}


def whole_nrrd(compressed: bool) -> Files:
  lines = ['NRRD0004', 'type: short', 'dimension: 3', 'space: left-posterior-superior']
  lines += ['sizes: 5 4 3', 'space directions: (0,1.5,0) (-2,0,0) (0,0,2.5)', 'endian: little']
  lines += ['kinds: domain domain domain', f'encoding: {"gzip" if compressed else "raw"}']
  lines += ['space origin: (5,6,7)']
  voxels = gzip.compress(VOXELS.tobytes(), mtime=0) if compressed else VOXELS.tobytes()
  return {'scan.nrrd': '\n'.join(lines).encode() + b'\n\n' + voxels}


def whole_dicom(syntax: str, compressor: str = '') -> Files:
  """Two slices of a series; pixels that SimpleITK compressed, if there is a compressor."""
  found = {}
  packed = syntax == uid.RLELossless or bool(compressor)
  # SimpleITK ends the process where it has to write less in JPEG 2000, and reads no less in RLE.
  planes = np.kron(VOXELS[:2], np.ones((1, 8, 7), np.int16)) if packed else VOXELS[:2]
  for number, plane in enumerate(planes):
    slice_ = pydicom.Dataset()
    slice_.file_meta = pydicom.dataset.FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = uid.UID(uid.ExplicitVRLittleEndian if packed else syntax)
    slice_.SOPClassUID, slice_.SOPInstanceUID = uid.CTImageStorage, f'1.2.3.{number}'
    slice_.Modality, slice_.SeriesInstanceUID = 'CT', '1.2.3'
    slice_.ImagePositionPatient = [-20.5, 11.25, 300 + 2.5 * number]
    slice_.ImageOrientationPatient, slice_.PixelSpacing = [1, 0, 0, 0, 1, 0], [3.5, 3]
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, 'MONOCHROME2'
    slice_.Rows, slice_.Columns = plane.shape
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 16, 15
    slice_.PixelRepresentation, slice_.RescaleSlope, slice_.RescaleIntercept = 1, 2, -1024
    big = syntax == uid.ExplicitVRBigEndian
    slice_.PixelData = plane.astype('>i2' if big else '<i2').tobytes()
    if syntax == uid.RLELossless:
      slice_.compress(syntax)
    elif compressor:
      with tempfile.TemporaryDirectory() as folder:
        writer = SimpleITK.ImageFileWriter()
        writer.SetFileName(f'{folder}/a.dcm')
        writer.SetImageIO('GDCMImageIO')
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.Execute(SimpleITK.GetImageFromArray(plane))
        written = pydicom.dcmread(f'{folder}/a.dcm')
      slice_.PixelData = written.PixelData
      slice_.file_meta.TransferSyntaxUID = written.file_meta.TransferSyntaxUID
    slice_['PixelData'].VR = 'OB' if packed else 'OW'
    content = io.BytesIO()
    pydicom.dcmwrite(content, slice_, enforce_file_format=True)
    found[f'{number}.dcm'] = content.getvalue()
  return found


def change_text(chance: random.Random, data: bytes) -> bytes:
  """Changes a line of a header in text: its value, or the line is gone, double, moved or new."""
  end = re.search(rb'\n\n|ElementDataFile = .*\n', data)
  end = end.end() - 1 if end else len(data)
  lines, rest = data[:end].split(b'\n'), data[end:]
  here, kind = chance.randrange(len(lines)), chance.randrange(10)
  if kind < 6:
    name = re.match(rb'[^=:]*[=:] ?', lines[here])
    word = chance.choice(_WORDS)
    if chance.random() < 0.3:  # a single one of several numbers
      words = lines[here][name.end() if name else 0 :].split() or [b'']
      words[chance.randrange(len(words))] = word.encode()
      lines[here] = (name[0] if name else b'') + b' '.join(words)
    else:
      lines[here] = (name[0] if name else b'') + word.encode()
  elif kind == 6:
    del lines[here]
  elif kind == 7:
    lines.insert(chance.randrange(len(lines)), lines[here])
  elif kind == 8:
    lines.insert(chance.randrange(len(lines)), lines.pop(here))
  else:
    lines.insert(max(0, len(lines) - 3), chance.choice(_LINES).encode())
  return b'\n'.join(lines) + rest


def change_nifti(chance: random.Random, data: bytes) -> bytes:
  """Changes a number of a field of the header."""
  packed = data[:2] == b'\x1f\x8b'
  try:
    content = bytearray(gzip.decompress(data) if packed else data)
  except (OSError, EOFError, zlib.error):  # by an earlier change
    return data
  place, form = _NIFTI[chance.choice([*_NIFTI])]
  kind, count = form[-1], int(form[:-1] or 1)
  place += chance.randrange(count) * struct.calcsize(kind)
  size = struct.calcsize(kind)
  if kind == 'f':
    value = struct.pack('<f', chance.choice(_FLOATS))
  else:
    value = (chance.choice(_NUMBERS) % (1 << 8 * size)).to_bytes(size, 'little')
  content[place : place + size] = value[: max(0, len(content) - place)]
  return gzip.compress(bytes(content), mtime=0) if packed else bytes(content)


def change_dicom(chance: random.Random, data: bytes) -> bytes:
  """Changes the value of an element as text or number, its type or length, or puts in another."""
  places = [one.start() for one in re.finditer(rb'[\x08\x20\x28\x02]\0..[A-Z][A-Z]..', data, re.S)]
  if not places:
    return data
  place, kind = chance.choice(places), chance.randrange(6)
  length = int.from_bytes(data[place + 6 : place + 8], 'little')
  value = slice(place + 8, place + 8 + length)
  if kind < 2:
    new = chance.choice(_WORDS).replace(' ', '\\').encode()[:200]
    new += b' ' * (len(new) % 2)
    head = data[place : place + 6] + struct.pack('<H', len(new))
    return data[:place] + head + new + data[value.stop :]
  if kind == 2:
    new = struct.pack('<H', chance.choice(_NUMBERS) % 65536)
    return data[: place + 8] + new + data[place + 10 :]
  if kind == 3:
    names = (b'US', b'DS', b'SQ', b'UN', b'OB', b'IS', b'UL', b'FD', b'UT', b'??', b'AT')
    return data[: place + 4] + chance.choice(names) + data[place + 6 :]
  if kind == 4:
    new = struct.pack('<H', chance.choice((0, 1, 2, 65535, length + 2, max(0, length - 2))))
    return data[: place + 6] + new + data[place + 8 :]
  other = chance.choice(places)
  return data[:place] + data[other : other + 16] + data[place:]


def change_bytes(chance: random.Random, data: bytes) -> bytes:
  """Flips bits, or cuts off, cuts out, repeats or replaces a piece."""
  a = chance.randrange(len(data) + 1)
  b, kind = min(len(data), a + chance.choice((1, 2, 4, 64, 1000))), chance.randrange(6)
  if kind < 2 and data:
    flipped = bytearray(data)
    for _ in range(chance.randint(1, 4)):
      flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(flipped)
  if kind == 2:
    return data[:a]
  if kind == 3:
    return data[:a] + data[b:]
  if kind == 4:
    return data[:b] + data[a:]
  return data[:a] + chance.randbytes(b - a) + data[b:]


def read_metaimage(path: Path) -> tuple[np.ndarray, np.ndarray]:
  """Voxels and affine of (d, h, w) to RAS, by the entries alone."""
  data = path.read_bytes()
  end = re.search(rb'(?m)^ElementDataFile.*(\n|\Z)', data)
  assert end
  lines = [re.split('[=:]', line, maxsplit=1) for line in data[: end.end()].decode().splitlines()]
  entries = {name.strip(): value.strip() for name, *values in lines for value in values}
  place = entries['ElementDataFile']
  voxels = data[end.end() :] if place.upper() == 'LOCAL' else (path.parent / place).read_bytes()
  if entries.get('CompressedData', '').lower() in ('true', 't', '1'):
    voxels = zlib.decompress(voxels, wbits=47)
  msb = [entries.get(name, '') for name in ('BinaryDataByteOrderMSB', 'ElementByteOrderMSB')]
  order = '>' if any(one.lower() in ('true', 't', '1') for one in msb) else '<'
  kind = np.dtype(order + _META_TYPES[entries['ElementType'].removeprefix('MET_')])
  sizes = [int(one) for one in entries['DimSize'].split()]
  count = int(np.prod(sizes))
  if entries.get('HeaderSize') not in (None, '0'):
    voxels = voxels[-count * kind.itemsize :]
  axes = len(sizes)
  sides = entries.get('ElementSpacing', entries.get('ElementSize', ''))
  spacing = [float(one) for one in sides.split()]
  turn, origin = np.eye(axes), np.zeros(axes)
  for name in ('TransformMatrix', 'Rotation', 'Orientation'):
    if name in entries:
      turn = np.reshape([float(one) for one in entries[name].split()], (axes, axes))
  for name in ('Offset', 'Origin', 'Position'):
    if name in entries:
      origin = np.array([float(one) for one in entries[name].split()])
  steps = (turn.T * spacing)[:3, 2::-1]
  array = np.frombuffer(voxels, kind, count).reshape(sizes[::-1]).reshape([*sizes[2::-1]])
  return array, volumes.affine_from_lps(steps, origin[:3].tolist())


def read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
  """Voxels and affine of (d, h, w) to RAS, by the fields alone."""
  header, voxels = re.split(rb'\r?\n\r?\n', path.read_bytes(), maxsplit=1)
  lines = [line.split(': ', 1) for line in header.decode().splitlines()[1:] if line[:1] != '#']
  fields = {name.lower(): value for name, *values in lines for value in values}
  if fields['encoding'].strip().lower() != 'raw':
    voxels = gzip.decompress(voxels)
  kind = np.dtype(_NRRD_TYPES[fields['type'].strip()])
  kind = kind.newbyteorder('>' if fields.get('endian', '').strip() == 'big' else '<')
  sizes = [int(one) for one in fields['sizes'].split()]
  array = np.frombuffer(voxels, kind).reshape([size for size in sizes[::-1] if size > 1])
  vectors = re.findall(r'\(([^)]*)\)', fields['space directions'])
  steps = np.array([[float(one) for one in vector.split(',')] for vector in vectors[:3]]).T
  origin = [float(one) for one in fields.get('space origin', '(0,0,0)').strip(' ()').split(',')]
  affine = np.eye(4)
  affine[:3, :3], affine[:3, 3] = steps[:, ::-1], origin
  space = fields['space'].strip().lower()
  if space in ('left-posterior-superior', 'lps'):
    signs = (-1, -1, 1)
  else:
    signs = (1, 1, 1) if space in ('right-anterior-superior', 'ras') else (-1, 1, 1)
  return array, np.diag((*map(float, signs), 1.0)) @ affine


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
  """Voxels and affine of (d, h, w) to RAS, by nibabel."""
  image: Any = nibabel.load(path)
  assert image.dataobj.offset, 'nibabel takes the header for voxels'
  unit = {1: 1000.0, 3: 0.001}.get(int(image.header['xyzt_units']) & 7, 1.0)
  return image.get_fdata().T, (np.diag((unit, unit, unit, 1)) @ image.affine)[:, [2, 1, 0, 3]]


def read_series(folder: Path) -> tuple[np.ndarray, np.ndarray | None]:
  """Voxels and affine of (d, h, w) to RAS by SimpleITK, which knows the place of a CT alone."""
  headers = {path: pydicom.dcmread(path, force=True) for path in folder.glob('*.dcm')}
  for one in headers.values():
    assert one.HighBit == one.BitsStored - 1, 'SimpleITK takes other bits'
  (row, column), *_ = (
    np.reshape(np.array(one.ImageOrientationPatient, float), (2, 3)) for one in headers.values()
  )
  along = {
    path: np.array(one.ImagePositionPatient, float) @ np.cross(row, column)
    for path, one in headers.items()
  }
  files = sorted(map(str, headers), key=lambda path: along[Path(path)])
  # One by one, as a series has the type of its first slice.
  planes = [SimpleITK.ReadImage(file, imageIO='GDCMImageIO') for file in files]
  voxels = np.concatenate([SimpleITK.GetArrayFromImage(plane) for plane in planes])
  image = SimpleITK.ReadImage(files, imageIO='GDCMImageIO')
  is_ct = all(one.get('SOPClassUID') == uid.CTImageStorage for one in headers.values())
  return voxels, volumes._itk_affine(image) if is_ct else None


FORMATS: dict[str, tuple[Files, Callable[..., bytes], Callable[[Path], Any]]] = {
  'nifti': (whole_nifti(False), change_nifti, read_nifti),
  'nifti, gzip': (whole_nifti(True), change_nifti, read_nifti),
  'mha': (whole_metaimage('LOCAL', False), change_text, read_metaimage),
  'mha, zlib': (whole_metaimage('LOCAL', True), change_text, read_metaimage),
  'mhd': (whole_metaimage('scan.raw', False), change_text, read_metaimage),
  'mhd, zlib': (whole_metaimage('scan.zraw', True), change_text, read_metaimage),
  'nrrd': (whole_nrrd(False), change_text, read_nrrd),
  'nrrd, gzip': (whole_nrrd(True), change_text, read_nrrd),
  'dicom': (whole_dicom(uid.ExplicitVRLittleEndian), change_dicom, read_series),
  'dicom, implicit': (whole_dicom(uid.ImplicitVRLittleEndian), change_bytes, read_series),
  'dicom, big': (whole_dicom(uid.ExplicitVRBigEndian), change_bytes, read_series),
  'dicom, deflated': (whole_dicom(uid.DeflatedExplicitVRLittleEndian), change_bytes, read_series),
  'dicom, rle': (whole_dicom(uid.RLELossless), change_dicom, read_series),
  'dicom, jpeg': (whole_dicom('', 'JPEG'), change_dicom, read_series),
  'dicom, jpeg 2000': (whole_dicom('', 'JPEG2000'), change_dicom, read_series),
}


def make_case(seed: int, number: int) -> tuple[str, Files]:
  """The format of a case and its files."""
  chance = random.Random(f'{seed} {number}')
  name = [*FORMATS][number % len(FORMATS)]
  files, change, _ = FORMATS[name]
  changed = chance.choice([*files] if name.startswith('mhd') else [*files][:1])
  data = files[changed]
  for _ in range(chance.choice((1, 1, 1, 1, 2, 3))):
    data = (change if chance.random() < 0.7 else change_bytes)(chance, data)
  return name, files | {changed: data}


@contextlib.contextmanager
def bounded_memory() -> Generator[None]:
  """Fails if the body took more than MOST_BYTES, where the system can tell."""
  clear, status = Path('/proc/self/clear_refs'), Path('/proc/self/status')
  if not clear.exists():
    yield
    return
  clear.write_text('5')  # the peak is what is taken now
  before = _peak(status)
  try:
    yield
  finally:
    if (taken := _peak(status) - before) > MOST_BYTES:
      raise MemoryError(f'{taken >> 20} MiB were taken')


def _peak(status: Path) -> int:
  return int(status.read_text().partition('VmHWM:')[2].split()[0]) << 10


def run_case(seed: int, number: int, place: Path) -> str:
  """Reads a case: 'read', 'refused', or 'read here alone' where the other reader has no answer.

  Raises whatever should not happen.
  """
  name, files = make_case(seed, number)
  folder = place / 'scan'
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  for file, content in files.items():
    (folder / file).write_bytes(content)
  where = folder if name.startswith('dicom') else folder / next(iter(files))
  began = time.monotonic()
  try:
    with bounded_memory():
      (source,) = sources.find(where, channels=1)
      size = None if where.is_dir() else volumes.read_header(where)[0]
      volume, _ = sources.read(source)
  except InputError as error:
    assert '\n' not in str(error) and len(str(error)) < 1000, error
    return 'refused'
  finally:
    assert time.monotonic() - began < SECONDS, f'took {time.monotonic() - began:.0f} s'
  image = volume.image[..., 0]
  assert size in (None, image.shape), (size, image.shape)
  assert SECRET not in image
  try:
    with unreadable.silence_libraries(), unreadable.quiet(), np.errstate(all='ignore'):
      expected, affine = FORMATS[name][2](where)
  except Exception:
    return 'read here alone'
  with np.errstate(over='ignore'):
    expected = expected.reshape(image.shape).astype(np.float32)
    np.testing.assert_array_equal(image.astype(np.float32), expected)
  if affine is not None:
    # SimpleITK steps along the normal where the slices of a series lie a little sideways.
    nearly = 0.06 if where.is_dir() else 1e-3
    np.testing.assert_allclose(volume.affine, affine, rtol=1e-4, atol=nearly)
  return 'read'


def run_cases(seed: int, first: int, *, seconds: float, count: int = 1 << 60) -> Iterator[Any]:
  """Yields the number of each case before it is read and its outcome, or its traceback, after."""
  ends = time.monotonic() + seconds
  with tempfile.TemporaryDirectory(prefix='fuzz_scans_') as place:
    Path(place, 'secret.raw').write_bytes(np.full(VOXELS.shape, SECRET, np.int16).tobytes())
    for number in range(first, first + count):
      if time.monotonic() > ends:
        return
      yield number
      try:
        outcome = run_case(seed, number, Path(place))
      except Exception:
        outcome = traceback.format_exc()
      yield outcome


def _run_child(seed: int, first: int, seconds: float) -> None:
  """Runs cases and prints a line of JSON for each event."""
  with os.fdopen(os.dup(2), 'w') as errors:  # as readers are silenced
    faulthandler.enable(errors)
    for event in run_cases(seed, first, seconds=seconds):
      if isinstance(event, int):
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=errors)
      print(json.dumps(event), flush=True)
    faulthandler.cancel_dump_traceback_later()
    faulthandler.disable()


def _print_failure(seed: int, number: int, reason: str) -> None:
  name, files = make_case(seed, number)
  print(f'case {number} of seed {seed}, {name}:\n{reason.strip()}')
  for file, content in files.items():
    print(f'  {file}: {base64.b64encode(content).decode()}')
  sys.stdout.flush()


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--seconds', type=float, default=60)
  parser.add_argument('--case', type=int, help='one case, in this process')
  parser.add_argument('--child', type=int, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.child is not None:
    _run_child(options.seed, options.child, options.seconds)
    return 0
  if options.case is not None:
    outcomes = [*run_cases(options.seed, options.case, seconds=math.inf, count=1)]
    _print_failure(options.seed, options.case, str(outcomes[-1]))
    return 0
  counts: collections.Counter[str] = collections.Counter()
  ends, number = time.monotonic() + options.seconds, -1
  while (left := ends - time.monotonic()) > 0:
    command = [sys.executable, __file__, f'--seed={options.seed}', f'--child={number + 1}']
    with tempfile.TemporaryFile('w+') as said:
      process = subprocess.Popen(
        [*command, f'--seconds={left}'], stdout=subprocess.PIPE, stderr=said, text=True
      )
      assert process.stdout
      for line in process.stdout:
        event = json.loads(line)
        if isinstance(event, int):
          number = event
          continue
        known = event in ('read', 'refused', 'read here alone')
        counts[event if known else 'failed'] += 1
        if not known:
          _print_failure(options.seed, number, event)
      if process.wait() != 0:
        said.seek(0)
        counts['failed'] += 1
        _print_failure(options.seed, number, f'status {process.returncode}\n{said.read()}')
  print(json.dumps({'seed': options.seed, 'cases': counts.total(), **counts}))
  return 1 if counts['failed'] else 0


if __name__ == '__main__':
  with contextlib.suppress(KeyboardInterrupt):
    sys.exit(main())
