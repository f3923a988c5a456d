"""Slices whose pixels are compressed: samples of pydicom, slices of other writers, damaged ones."""

import io
import struct

import enhanced_dicom
import handmade_dicom as handmade
import numpy as np
import PIL.Image
import pydicom
import pytest
import SimpleITK
from pydicom import encaps
from pydicom.data import get_testdata_file
from pydicom.uid import RLELossless

JPEG = '1.2.840.10008.1.2.4.'
PLANES = np.kron(handmade.STORED, np.ones((1, 8, 8), np.uint16))  # [4, 48, 56], below 4000
EIGHT_BITS = handmade.number(0x28, 0x100, 8) | handmade.number(0x28, 0x101, 8)
EIGHT_BITS |= handmade.number(0x28, 0x102, 7)
SAMPLES = (  # of pydicom: JPEG of 12 bits with loss, JPEG-LS and JPEG 2000 with and without, RLE
  *('JPEG-lossy', 'JPGExtended', 'JPEGLSNearLossless_08', 'JPEGLSNearLossless_16'),
  *('MR_small_jpeg_ls_lossless', 'MR_small_jp2klossless', 'JPEG2000', '693_J2KI'),
  *('J2K_pixelrep_mismatch', 'MR_small_RLE'),
)
PLACE = {  # which not all samples have
  'ImagePositionPatient': [0, 0, 0],
  'ImageOrientationPatient': [1, 0, 0, 0, 1, 0],
  'PixelSpacing': [1, 1],
}


def pieces(content):
  return content + bytes(len(content) % 2)


def by_pillow(plane, kind, **options):
  content = io.BytesIO()
  PIL.Image.fromarray(plane).save(content, kind, **options)
  return pieces(content.getvalue())


def write(folder, syntax, data, stored=PLANES[:1], instead=None):
  """A slice whose pixels are compressed already."""
  settings = {'instead': instead or {}, 'syntax': JPEG + syntax if syntax != 'RLE' else RLELossless}
  (path,) = handmade.series_of(folder, stored=stored, data=[data], all=True, **settings)
  return path


def by_simpleitk(folder, compressor):
  """A slice that GDCM compresses, signed, with scaling and place."""
  image = SimpleITK.GetImageFromArray(PLANES[:1].astype(np.int16) - 1500)
  image.SetMetaData('0008|0060', 'CT')
  image.SetMetaData('0008|0016', '1.2.840.10008.5.1.4.1.1.2')
  for tag, value in (('0028|1052', '0'), ('0028|1053', '1')):
    image.SetMetaData(tag, value)
  writer = SimpleITK.ImageFileWriter()
  writer.SetImageIO('GDCMImageIO')
  writer.SetCompressor(compressor)
  writer.UseCompressionOn()
  writer.SetFileName(str(folder / 'a.dcm'))
  writer.Execute(image)
  return folder / 'a.dcm'


def of_pydicom(folder, name):
  """A sample, placed where it is not, as one that says its shades are grey."""
  found = get_testdata_file(f'{name}.dcm', download=False)
  if found is None:
    return None
  dataset = pydicom.dcmread(str(found))
  for keyword, value in PLACE.items():
    if keyword not in dataset and not dataset.get('PerFrameFunctionalGroupsSequence'):
      setattr(dataset, keyword, value)
  dataset.save_as(folder / 'a.dcm')
  return folder / 'a.dcm'


def by_run_lengths(folder, plane):
  (path, *_) = handmade.series_of(folder, stored=plane[None], all=True)
  dataset = pydicom.dcmread(path)
  dataset.compress(RLELossless)
  dataset.save_as(path)
  return path


def in_two_pieces(folder):
  """A slice whose stream goes on in another piece."""
  data = by_pillow(PLANES[0], 'JPEG2000', irreversible=False, no_jp2=True)
  path = write(folder, '90', data)
  item = struct.Struct('<HHI')
  half = len(data) // 4 * 2
  parts = [item.pack(0xFFFE, 0xE000, len(one)) + one for one in (data[:half], data[half:])]
  whole = item.pack(0xFFFE, 0xE000, len(data)) + data
  path.write_bytes(path.read_bytes().replace(whole, b''.join(parts)))
  return path


def of_frames(folder, syntax):
  """An enhanced object whose frames are compressed one by one."""
  dataset = pydicom.dcmread(enhanced_dicom.write(folder / 'a.dcm', PLANES, slopes=(1, 0.5)))
  if syntax == 'RLE':
    dataset.compress(RLELossless)
  else:
    options = {'irreversible': False, 'no_jp2': True}
    frames = [by_pillow(plane, 'JPEG2000', **options) for plane in PLANES]
    dataset.PixelData = encaps.encapsulate(frames)
    dataset['PixelData'].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG + syntax
  dataset.save_as(folder / 'a.dcm')
  return folder / 'a.dcm'


LOW = (PLANES[0] // 16).astype(np.uint8)
SMOOTH = np.add.outer(np.arange(48) ** 2 // 9, np.arange(56)).astype(np.uint8)
MADE = {
  'JPEG': lambda folder: write(
    folder, '50', by_pillow(SMOOTH, 'JPEG', quality=80), SMOOTH[None], EIGHT_BITS
  ),
  'JPEG of steep edges': lambda folder: write(
    folder, '50', by_pillow(LOW, 'JPEG', quality=40), LOW[None], EIGHT_BITS
  ),
  'JPEG in several scans': lambda folder: write(
    folder, '50', by_pillow(SMOOTH, 'JPEG', progressive=True), SMOOTH[None], EIGHT_BITS
  ),
  'JPEG 2000': lambda folder: write(
    folder, '90', by_pillow(PLANES[0], 'JPEG2000', irreversible=False, no_jp2=True)
  ),
  'JPEG 2000 with loss': lambda folder: write(
    folder,
    '91',
    by_pillow(PLANES[0], 'JPEG2000', irreversible=True, no_jp2=True, quality_layers=[20]),
  ),
  'JPEG-LS': lambda folder: write(
    folder,
    '80',
    pieces(pytest.importorskip('jpeg_ls').encode(np.ascontiguousarray(PLANES[0])).tobytes()),
  ),
  'RLE': lambda folder: by_run_lengths(folder, PLANES[0]),
  'RLE of several frames': lambda folder: of_frames(folder, 'RLE'),
  'JPEG 2000 in two pieces': lambda folder: in_two_pieces(folder),
  'JPEG 2000 of several frames': lambda folder: of_frames(folder, '90'),
  'JPEG without loss, of GDCM': lambda folder: by_simpleitk(folder, 'JPEG'),
  'JPEG 2000, of GDCM': lambda folder: by_simpleitk(folder, 'JPEG2000'),
}


def damaged(folder, name):
  """A slice of JPEG 2000 or JPEG in which something is wrong."""
  whole = by_pillow(PLANES[0], 'JPEG2000', irreversible=False, no_jp2=True)
  if name == 'more between its pieces':
    path = write(folder, '90', whole)
    path.write_bytes(path.read_bytes().replace(whole, whole + whole[40:104]))
    return path
  if name == 'its last piece cut off':
    return write(folder, '90', whole[:-2])
  if name == 'cut off':
    path = write(folder, '90', whole)
    path.write_bytes(path.read_bytes()[: -len(whole) // 2])
    return path
  if name == 'a stream cut off':
    return write(folder, '90', pieces(whole[:30]))
  if name == 'no stream':
    return write(folder, '90', bytes(64))
  if name == 'another stream than it says':
    return write(folder, '80', whole)
  if name == 'bits that are not the lowest':
    instead = handmade.number(0x28, 0x101, 12) | handmade.number(0x28, 0x102, 13)
    return write(folder, '90', whole, instead=instead)
  if name == 'other rows than its stream':
    return write(folder, '90', whole, instead=handmade.number(0x28, 0x10, 40))
  if name == 'more rows than it can hold':
    return write(
      folder,
      '90',
      whole,
      instead=handmade.number(0x28, 0x10, 60000) | handmade.number(0x28, 0x11, 60000),
    )
  if name == 'run lengths of no segment':
    return write(folder, 'RLE', bytes(64) + b'\x81\0' * 4)
  if name in ('run lengths without a piece', 'no piece'):
    path = write(folder, 'RLE' if 'run' in name else '90', bytes(64))
    piece = struct.pack('<HHI', 0xFFFE, 0xE000, 64) + bytes(64)
    path.write_bytes(path.read_bytes().replace(piece, b''))
    return path
  if name == 'colours':
    colours = np.stack([SMOOTH] * 3, axis=-1)
    return write(folder, '50', by_pillow(colours, 'JPEG'), SMOOTH[None], EIGHT_BITS)
  if name == 'colours in JPEG 2000':
    data = by_pillow(np.stack([SMOOTH] * 3, axis=-1), 'JPEG2000', no_jp2=True)
    return write(folder, '90', data, SMOOTH[None], EIGHT_BITS)
  if name == 'JPEG of other columns':
    columns = EIGHT_BITS | handmade.number(0x28, 0x11, 50)
    return write(folder, '50', by_pillow(SMOOTH, 'JPEG'), SMOOTH[None], columns)
  if name == 'JPEG-LS of other columns':
    data = pieces(pytest.importorskip('jpeg_ls').encode(PLANES[0]).tobytes())
    return write(folder, '80', data, instead=handmade.number(0x28, 0x11, 50))
  if name == 'not in pieces':
    content = write(folder, '90', whole).read_bytes()
    plain = handmade.series_of(folder, stored=PLANES[:1])[0]
    usual = b'1.2.840.10008.1.2.1\0'
    plain.write_bytes(plain.read_bytes().replace(usual, b'1.2.840.10008.1.2.4.90', 1))
    assert content != plain.read_bytes()
    return plain
  assert name == 'a syntax of films'
  return write(folder, '102', whole)


DAMAGED = {
  'more between its pieces': 'cut off or damaged',
  'its last piece cut off': '',
  'cut off': '',
  'a stream cut off': '',
  'no stream': 'cannot be decoded',
  'another stream than it says': 'cannot be decoded',
  'bits that are not the lowest': 'its stored bits are not the lowest',
  'other rows than its stream': '48 x 56 of 1 samples, but its tags say 40 x 56',
  'JPEG of other columns': '48 x 56 of 1 samples, but its tags say 48 x 50',
  'JPEG-LS of other columns': '48 x 56 of 1 samples, but its tags say 48 x 50',
  'more rows than it can hold': 'compressed bytes; expected 7200000000',
  'run lengths of no segment': 'cut off or damaged',
  'run lengths without a piece': 'compressed bytes; expected 5376',
  'no piece': 'cut off or damaged',
  'colours': '48 x 56 of 3 samples',
  'colours in JPEG 2000': '48 x 56 of 3 samples',
  'not in pieces': '',
  'a syntax of films': 'its transfer syntax 1.2.840.10008.1.2.4.102 is not read here',
}
