"""DICOM as no library wrote it: the standard's own layout, explicit types, little-endian."""

import struct

import numpy as np


def element(group, number, kind, *values):
  """One tag with its values."""
  if kind in ('US', 'OB', 'OW', 'UL'):
    value = values[0] if kind[0] == 'O' else struct.pack('<I' if kind == 'UL' else '<H', *values)
  else:
    value = '\\'.join(map(str, values)).encode()
  value += (b'\0' if kind == 'UI' else b' ') * (len(value) % 2)
  length = (
    struct.pack('<HI', 0, len(value)) if kind in ('OB', 'OW') else struct.pack('<H', len(value))
  )
  return struct.pack('<HH', group, number) + kind.encode() + length + value


def slice_bytes(
  pixels, *, position, directions, spacing, rescale, series, syntax=None, instead=None, data=None
):
  """The bytes of a CT slice; pixels [H, W], uint16 or int16.

  `instead` has elements by tag, (group, number), which replace the usual ones; b'' leaves one out.
  `data` are the bytes of the pixels if they are compressed, by `syntax`.
  """
  storage = '1.2.840.10008.5.1.4.1.1.2'
  meta = [
    element(2, 1, 'OB', b'\0\1'),
    element(2, 2, 'UI', storage),
    element(2, 3, 'UI', f'1.2.3.{series}.1'),
    element(2, 0x10, 'UI', syntax or '1.2.840.10008.1.2.1'),
  ]
  signed = int(pixels.dtype.kind == 'i')
  body = [
    element(8, 0x16, 'UI', storage),
    element(8, 0x18, 'UI', f'1.2.3.{series}.1'),
    element(8, 0x60, 'CS', 'CT'),
    element(0x20, 0xE, 'UI', f'1.2.3.{series}'),
    element(0x20, 0x32, 'DS', *(f'{x:.9g}' for x in position)),
    element(0x20, 0x37, 'DS', *(f'{x:.12f}' for x in directions)),
    element(0x28, 2, 'US', 1),
    element(0x28, 4, 'CS', 'MONOCHROME2'),
    element(0x28, 0x10, 'US', pixels.shape[0]),
    element(0x28, 0x11, 'US', pixels.shape[1]),
    element(0x28, 0x30, 'DS', *spacing),
    element(0x28, 0x100, 'US', 16),
    element(0x28, 0x101, 'US', 16),
    element(0x28, 0x102, 'US', 15),
    element(0x28, 0x103, 'US', signed),
    element(0x28, 0x1052, 'DS', rescale[0]),
    element(0x28, 0x1053, 'DS', rescale[1]),
    element(0x7FE0, 0x10, 'OW', pixels.astype('<u2' if not signed else '<i2').tobytes()),
  ]
  if data is not None:
    items = struct.pack('<HHI', 0xFFFE, 0xE000, 0), struct.pack('<HHI', 0xFFFE, 0xE000, len(data))
    end = struct.pack('<HHI', 0xFFFE, 0xE0DD, 0)
    packed = struct.pack('<HH', 0x7FE0, 0x10) + b'OB\0\0' + b'\xff' * 4
    body[-1] = b''.join([packed, *items, data, end])
  by_tag = {struct.unpack('<HH', one[:4]): one for one in body} | (instead or {})
  body = [by_tag[tag] for tag in sorted(by_tag)]
  length = element(2, 0, 'UL', sum(map(len, meta)))
  return bytes(128) + b'DICM' + length + b''.join([*meta, *body])


STORED = np.random.default_rng(0).integers(0, 4000, (4, 6, 7)).astype(np.uint16)


def series_of(folder, *, instead=None, stored=STORED, **changes):
  """Files of a series, of which the second has other elements."""
  files = []
  for d, plane in enumerate(stored):
    settings = {
      'position': (-20.5, 11.25, 300 + 2.5 * d),
      'directions': (1, 0, 0, 0, 1, 0),
      'spacing': (3.5, 3.0),
      'rescale': (-1024, 1),
      'series': 1,
    }
    own = instead if d == 1 or 'all' in changes else None
    more = {name: value[d] if name == 'data' else value for name, value in changes.items()}
    more.pop('all', None)
    files.append(folder / f'{d}.dcm')
    files[-1].write_bytes(slice_bytes(plane, **settings | more, instead=own))
  return files


def text(group, number, *values, kind='DS'):
  return {(group, number): element(group, number, kind, *values)}


def number(group, number, value):
  return {(group, number): element(group, number, 'US', value)}


SPACING, DIRECTIONS, POSITION = (0x28, 0x30), (0x20, 0x37), (0x20, 0x32)
SLOPE, INTERCEPT = (0x28, 0x1053), (0x28, 0x1052)
UNREADABLE = {
  **{f'distances {value}': (text(*SPACING, value), 'PixelSpacing') for value in (
    '3,5\\3,0', '3.5,3.0', '3.5', '', '0\\0', 'unknown', '-3.5\\3', '3.5\\3\\3', 'nan\\3',
    '3.5\\inf', '3.5 mm\\3 mm',
  )},
  **{f'directions {value}': (text(*DIRECTIONS, value), 'ImageOrientationPatient') for value in (
    '', '0\\0\\0\\0\\0\\0', '1\\0\\0', '1\\0\\0\\1\\0\\0', '1,0\\0\\0\\0\\1\\0',
    '2\\0\\0\\0\\2\\0', '1\\0\\0\\0\\0.5\\0', '1\\0\\0\\0\\0.97\\0', 'axial',
  )},
  **{f'position {value}': (text(*POSITION, value), 'ImagePositionPatient') for value in (
    '', '1\\2', '1,5\\2\\3', 'nan\\0\\0', '0\\0\\0\\0', 'here',
  )},
  **{f'slope {value}': (text(*SLOPE, value), 'RescaleSlope') for value in (
    '', '0', '0.0', '-0', '1,5', 'inf', '1\\2', 'one', '1_0', '1 0',
  )},
  **{f'intercept {value}': (text(*INTERCEPT, value), 'RescaleIntercept') for value in (
    '', '-1024,0', 'nan', '0\\0', 'HU', '\0\000024.0',
  )},
  'no slope': ({SLOPE: b''}, 'has no RescaleSlope, but RescaleIntercept'),
  'no intercept': ({INTERCEPT: b''}, 'has no RescaleIntercept, but RescaleSlope'),
  'neither, while others have both': (
    {SLOPE: b'', INTERCEPT: b''},
    'the slice has 0 slopes and intercepts, but 0.dcm has 1',
  ),
  'no distances': ({SPACING: b''}, 'has no PixelSpacing'),
  'no directions': ({DIRECTIONS: b''}, 'has no ImageOrientationPatient'),
  'no position': ({POSITION: b''}, 'has no ImagePositionPatient'),
  '12 bits a pixel': (number(0x28, 0x100, 12), 'BitsAllocated is 12; expected 8, 16 or 32'),
  '17 of 16 bits': (number(0x28, 0x101, 17), 'BitsStored is 17'),
  'no bits stored': ({(0x28, 0x101): b''}, 'BitsStored is None'),
  'a high bit beyond': (number(0x28, 0x102, 16), 'HighBit is 16'),
  'a high bit below': (number(0x28, 0x102, 3), 'HighBit is 3'),
  'neither signed nor not': (number(0x28, 0x103, 2), 'PixelRepresentation is 2'),
  'a row less': (number(0x28, 0x10, 5), 'pixels are 84 bytes; expected 70'),
  'a row more': (number(0x28, 0x10, 7), 'pixels are 84 bytes; expected 98'),
  'wider pixels': (number(0x28, 0x100, 32), 'pixels are 84 bytes; expected 168'),
  'two bytes more': (
    {(0x7FE0, 0x10): element(0x7FE0, 0x10, 'OW', STORED[1].tobytes() + bytes(2))},
    'pixels are 86 bytes; expected 84',
  ),
  'no rows of pixels': (number(0x28, 0x10, 0), 'Rows is 0'),
  'a kind of two lines': (text(0x28, 4, 'RGB\n(0028,0010)', kind='CS'), 'is no slice but a colour'),
  'a class of two lines': (text(8, 0x16, 'Text\nSR', kind='UI'), 'is no slice but a Text SR'),
  'a position twice': (
    {(0x18, 0x50): text(*POSITION, '0\\0\\0')[POSITION]},
    'it has the tag .0020,0032. twice',
  ),
  'no kind of gray': ({(0x28, 4): b''}, 'PhotometricInterpretation is None'),
  'no pixels': ({(0x7FE0, 0x10): b''}, 'has no pixels'),
  'a table for a slope': (
    {(0x28, 0x3000): struct.pack('<HH', 0x28, 0x3000) + b'SQ\0\0' + bytes(4)},
    'has no pixels that a slope',
  ),
  'frames that are no number': (text(0x28, 8, 'x', kind='IS'), 'NumberOfFrames is no number'),
  'frames without places': (text(0x28, 8, 2, kind='IS'), 'has 2 frames .*of which 0 say where'),
}  # fmt: skip

SAME = {
  'as it should be': {},
  'white is low': text(0x28, 4, 'MONOCHROME1', kind='CS'),
  'no distance of slices': text(0x18, 0x88, '0'),
  'none with a point': text(0x18, 0x88, '0.0'),
  'none with a sign': text(0x18, 0x88, '-0'),
  'an unreadable distance of slices': text(0x18, 0x88, 'unknown'),
  'another distance of slices': text(0x18, 0x88, '99'),
  'no thickness': text(0x18, 0x50, ''),
  'a window': text(0x28, 0x1050, '40') | text(0x28, 0x1051, '400'),
  'spaces around': text(*SPACING, ' 3.5 \\ 3.0 ') | text(*POSITION, ' -20.5\\11.25 \\302.5'),
  'with exponents': text(*SPACING, '3.5E+00\\3e0') | text(*INTERCEPT, '-1.024E3'),
  'rounded directions': text(*DIRECTIONS, '1.000\\0.0004\\0\\0\\0.9998\\0'),
}

OTHERS = {
  'RT Dose Storage': text(8, 0x16, '1.2.840.10008.5.1.4.1.1.481.2', kind='UI'),
  r'colour image \(Secondary Capture Image Storage, RGB\)': {
    **text(8, 0x16, '1.2.840.10008.5.1.4.1.1.7', kind='UI'),
    **number(0x28, 2, 3),
    **text(0x28, 4, 'RGB', kind='CS'),
  },
  r'colour image \(CT Image Storage, PALETTE COLOR\)': text(0x28, 4, 'PALETTE COLOR', kind='CS'),
  r'localizer \(CT Image Storage\)': text(8, 8, 'ORIGINAL', 'PRIMARY', 'LOCALIZER', kind='CS'),
  r'localizer \(CT Image Storage\); expected slices of': text(
    8, 8, 'ORIGINAL', 'LOCALIZER ', 'AXIAL', kind='CS'
  ),
  r'localizer \(CT Image Storage\); expected slices of one': text(8, 8, 'LOCALIZER', kind='CS'),
  r'localizer \(MR Image Storage\)': {
    **text(8, 8, 'DERIVED', 'PRIMARY', 'SCOUT', 'M', kind='CS'),
    **text(8, 0x16, '1.2.840.10008.5.1.4.1.1.4', kind='UI'),
  },
  'Parametric Map Storage': text(8, 0x16, '1.2.840.10008.5.1.4.1.1.30', kind='UI'),
}
