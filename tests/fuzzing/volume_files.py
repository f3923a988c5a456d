"""Whole files of volumes and series, each in its own format, and changes of their headers."""

import gzip
import io
import random
import re
import struct
import tempfile
import zlib

import numpy as np
import pydicom
import SimpleITK
from pydicom import uid

from fuzzing.damage import NUMBERS

VOXELS = np.random.default_rng(0).integers(0, 3000, (3, 4, 5)).astype(np.int16)  # [D, H, W]
Files = dict[str, bytes]

_NIFTI = {  # where a field lies, and how it is packed
  **{'dim': (40, '8h'), 'datatype': (70, 'h'), 'bitpix': (72, 'h'), 'pixdim': (76, '8f')},
  **{'vox_offset': (108, 'f'), 'slope': (112, 'f'), 'inter': (116, 'f'), 'units': (123, 'B')},
  **{'qform': (252, 'h'), 'sform': (254, 'h'), 'quatern': (256, '3f'), 'qoffset': (268, '3f')},
  **{'srow': (280, '12f'), 'size': (0, 'i')},
}
_FLOATS = (*NUMBERS, 0.5, 1e-38, 1e38, -1e38, float('nan'), float('inf'), 352, 353, 352.5)
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
    value = (chance.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, 'little')
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
    new = struct.pack('<H', chance.choice(NUMBERS) % 65536)
    return data[: place + 8] + new + data[place + 10 :]
  if kind == 3:
    names = (b'US', b'DS', b'SQ', b'UN', b'OB', b'IS', b'UL', b'FD', b'UT', b'??', b'AT')
    return data[: place + 4] + chance.choice(names) + data[place + 6 :]
  if kind == 4:
    new = struct.pack('<H', chance.choice((0, 1, 2, 65535, length + 2, max(0, length - 2))))
    return data[: place + 6] + new + data[place + 8 :]
  other = chance.choice(places)
  return data[:place] + data[other : other + 16] + data[place:]
