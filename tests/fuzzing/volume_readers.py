"""What volumes and series hold, by readers of another origin than those that are tried.

nibabel reads NIfTI here and SimpleITK DICOM; MetaImage and NRRD, which SimpleITK reads in what is
tried, are read by a few lines.
"""

import gzip
import re
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import SimpleITK
from pydicom import uid

from thrifty_jax.scans import volumes

_META_TYPES = {'CHAR': 'i1', 'SHORT': 'i2', 'INT': 'i4', 'LONG': 'i4', 'LONG_LONG': 'i8'} | {
  **{'UCHAR': 'u1', 'USHORT': 'u2', 'UINT': 'u4', 'ULONG': 'u4', 'ULONG_LONG': 'u8'},
  **{'FLOAT': 'f4', 'DOUBLE': 'f8'},
}
_NRRD_TYPES = {'short': 'i2', 'int16': 'i2', 'ushort': 'u2', 'uint8': 'u1', 'int64': 'i8'} | {
  **{'float': 'f4', 'double': 'f8'},
}


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
