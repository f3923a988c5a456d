"""NIfTI as no library wrote it, byte by byte: what is read and what is refused."""

import struct
from typing import Any

import numpy as np

STORED = np.random.default_rng(0).integers(-900, 3000, (4, 5, 6)).astype(np.int16)  # [x, y, z]
# By name: where a field lies in NIfTI-1 and how it is packed.
FIELDS = {
  'dim': (40, '8h'),
  'datatype': (70, 'h'),
  'pixdim': (76, '8f'),
  'vox_offset': (108, 'f'),
  'slope': (112, 'f'),
  'inter': (116, 'f'),
  'units': (123, 'B'),
  'qform': (252, 'h'),
  'sform': (254, 'h'),
  'quaternion': (256, '3f'),
  'qoffset': (268, '3f'),
  'srow': (280, '12f'),
}
PLAIN = {
  'dim': (3, 4, 5, 6, 1, 1, 1, 1),
  'datatype': (4,),
  'pixdim': (1, 2, 3, 4, 0, 0, 0, 0),
  'vox_offset': (352,),
  'slope': (0,),
  'inter': (0,),
  'units': (2,),
  'qform': (0,),
  'sform': (1,),
  'quaternion': (0, 0, 0),
  'qoffset': (-7, 8, 9),
  'srow': (2, 0, 0, -7, 0, 3, 0, 8, 0, 0, 4, 9),
}
BY_QFORM = {'sform': 0, 'qform': 1}
NO_FORM = {'sform': 0}


def content(*, between=b'', order: Any = '<', **fields):
  """The bytes of a file: header, four bytes, what lies between, voxels."""
  header = bytearray(352)
  struct.pack_into(order + 'i', header, 0, 348)
  struct.pack_into('4s', header, 344, b'n+1')
  for name, (at, form) in FIELDS.items():
    values = fields.get(name, PLAIN[name])
    struct.pack_into(order + form, header, at, *np.ravel(values).tolist())
  stored = STORED.astype(STORED.dtype.newbyteorder(order))
  return bytes(header) + between + stored.tobytes(order='F')


AFFINE = np.array([[2, 0, 0, -7], [0, 3, 0, 8], [0, 0, 4, 9], [0, 0, 0, 1.0]])
READ = {
  'as it should be': ({}, STORED),
  'voxels begin where they can, without a word of it': ({'vox_offset': 0}, STORED),
  'voxels behind a gap': ({'vox_offset': 400, 'between': bytes(48)}, STORED),
  'voxels behind an odd gap': ({'vox_offset': 355, 'between': b'abc'}, STORED),
  'big-endian': ({'order': '>'}, STORED),
  'a slope': ({'slope': 0.5, 'inter': -3}, STORED * 0.5 - 3),
  'a falling slope': ({'slope': -2}, STORED * -2.0),
  'an intercept without a slope is none': ({'inter': 5}, STORED),
  'a slope that is none': ({'slope': np.nan, 'inter': 5}, STORED),
  'neither a slope nor an intercept': ({'slope': np.nan, 'inter': np.nan}, STORED),
  'one more axis': ({'dim': (4, 4, 5, 6, 1, 0, 0, 0)}, STORED),
  'two more axes': ({'dim': (5, 4, 5, 6, 1, 1, 0, 0)}, STORED),
  'four more axes': ({'dim': (7, 4, 5, 6, 1, 1, 1, 1)}, STORED),
  'axes behind the last are not counted': ({'dim': (3, 4, 5, 6, 9, -1, 0, 0)}, STORED),
}


def affine_of(*columns):
  affine = np.eye(4)
  affine[:3] = np.transpose(columns)
  return affine


HALF = np.sqrt(0.5)
GEOMETRY = {
  'micrometres': ({'units': 3, 'srow': 1000 * np.ravel(AFFINE[:3])}, AFFINE),
  'metres': ({'units': 1, 'srow': np.ravel(AFFINE[:3]) / 1000}, AFFINE),
  'micrometres and seconds': ({'units': 3 + 8, 'srow': 1000 * np.ravel(AFFINE[:3])}, AFFINE),
  'no unit': ({'units': 0}, AFFINE),
  'micrometres by a quaternion': (
    {
      **BY_QFORM,
      'units': 3,
      'pixdim': (1, 2000, 3000, 4000, 1, 1, 1, 1),
      'qoffset': (-7e3, 8e3, 9e3),
    },
    AFFINE,
  ),
  'metres without a form': (
    {**NO_FORM, 'units': 1, 'pixdim': (1, 0.002, 0.003, 0.004, 1, 1, 1, 1)},
    affine_of((-2, 0, 0), (0, 3, 0), (0, 0, 4), (3, -6, -10)),
  ),
  'a quaternion': (BY_QFORM, AFFINE),
  'a quaternion a hair over 1': (
    {**BY_QFORM, 'quaternion': (HALF, HALF + 1e-5, 0)},
    affine_of((0, 2, 0), (3, 0, 0), (0, 0, -4), (-7, 8, 9)),
  ),
  'a quaternion of one axis over 1': (
    {**BY_QFORM, 'quaternion': (0, 0, 1.0002)},
    affine_of((-2, 0, 0), (0, -3, 0), (0, 0, 4), (-7, 8, 9)),
  ),
  'a quaternion over 1 by the last bit': (
    {**BY_QFORM, 'quaternion': (np.nextafter(np.float32(1), np.float32(2)), 0, 0)},
    affine_of((2, 0, 0), (0, -3, 0), (0, 0, -4), (-7, 8, 9)),
  ),
  'a left-handed quaternion over 1': (
    {**BY_QFORM, 'quaternion': (0, 1.0001, 0), 'pixdim': (-1, 2, 3, 4, 1, 1, 1, 1)},
    affine_of((-2, 0, 0), (0, 3, 0), (0, 0, 4), (-7, 8, 9)),
  ),
  'axes that lean by no more than rounding': (
    {'srow': (2, 0, 0, -7, 0, 3, 0.07, 8, 0, 0, 4, 9)},
    affine_of((2, 0, 0), (0, 3, 0), (0, 0.07, 4), (-7, 8, 9)),
  ),
  'a sform and a qform': ({'qform': 1}, AFFINE),
  'a sform and a qform of sagittal slices': (
    {'qform': 1, 'quaternion': (0.5, 0.5, 0.5), 'srow': (0, 0, 4, -7, 2, 0, 0, 8, 0, 3, 0, 9)},
    affine_of((0, 2, 0), (0, 0, 3), (4, 0, 0), (-7, 8, 9)),
  ),
  'a sform that a registration turned by 40 degrees': (
    {'qform': 1, 'quaternion': (np.sin(np.radians(20)), 0, 0)},
    AFFINE,
  ),
  'two forms apart, turned by 50 degrees': (
    {'qform': 1, 'quaternion': (np.sin(np.radians(25)), 0, 0)},
    AFFINE,
  ),
  'two forms apart, turned by half': ({'qform': 1, 'quaternion': (0, 1, 0)}, AFFINE),
  'two forms apart, mirrored': (
    {'qform': 1, 'quaternion': (0, 0, 0), 'pixdim': (-1, 2, 3, 4, 1, 1, 1, 1)},
    AFFINE,
  ),
  'a sform beside a quaternion that is none': ({'qform': 1, 'quaternion': (0, np.nan, 0)}, AFFINE),
  'a sform beside a quaternion beyond all': ({'qform': 1, 'quaternion': (3e38, 3e38, 0)}, AFFINE),
  'a first distance of 0 is right-handed': (
    {**BY_QFORM, 'pixdim': (0, 2, 3, 4, 1, 1, 1, 1)},
    AFFINE,
  ),
}  # fmt: skip

REFUSED = {
  'voxels in the header': ({'vox_offset': 100}, 'vox_offset 100; expected >= 352'),
  'voxels in the extension flag': ({'vox_offset': 348}, 'vox_offset 348; expected >= 352'),
  'voxels at half a byte': ({'vox_offset': 352.5}, 'vox_offset 352.5'),
  'voxels before the file': ({'vox_offset': -352}, 'vox_offset -352'),
  'voxels nowhere': ({'vox_offset': np.nan}, 'vox_offset nan'),
  'voxels too far': ({'vox_offset': 368}, 'are 224 bytes; expected 240, for 4 x 5 x 6 of int16'),
  'voxels behind what is not told': ({'between': bytes(16)}, 'are 256 bytes; expected 240'),
  'a place left open before an extension': ({'vox_offset': 0, 'between': bytes(16)}, '256 bytes'),
  'more volumes than it says': ({'dim': (3, 4, 5, 3, 1, 1, 1, 1)}, 'are 240 bytes; expected 120'),
  'fewer volumes than it says': ({'dim': (4, 4, 5, 6, 2, 1, 1, 1)}, '240 bytes; expected 480'),
  'no slice': ({'dim': (3, 4, 5, 0, 1, 1, 1, 1)}, 'dim 3 4 5 0'),
  'less than no slice': ({'dim': (3, 4, 5, -6, 1, 1, 1, 1)}, 'dim 3 4 5 -6'),
  'eight axes': ({'dim': (8, 4, 5, 6, 1, 1, 1, 1)}, 'dim 8'),
  'two axes': ({'dim': (2, 4, 30, 1, 1, 1, 1, 1)}, r'has 2 dimensions \(4 x 30\)'),
  'five axes': ({'dim': (5, 4, 5, 3, 1, 2, 1, 1)}, 'has 5 dimensions'),
  'wider numbers than it has': ({'datatype': 8}, 'are 240 bytes; expected 480'),
  'no such type': ({'datatype': 7}, r'the type 7 \(unknown\)'),
  'a slope without end': ({'slope': np.inf}, 'scl_slope inf'),
  'an intercept that is none': ({'slope': 1, 'inter': np.nan}, 'scl_inter nan'),
  'an intercept without end': ({'slope': 2, 'inter': -np.inf}, 'scl_inter -inf'),
  'no such sform': ({'sform': 100}, 'sform_code 100; expected 0 to 5'),
  'the sform behind the last': ({'sform': 6}, 'sform_code 6; expected 0 to 5'),
  'no such qform': ({'qform': -1}, 'qform_code -1'),
  'a matrix of nothing': ({'srow': [np.nan] * 12}, 'srow_x nan'),
  'no distance': ({**BY_QFORM, 'pixdim': (1, 2, 0, 4, 1, 1, 1, 1)}, 'pixdim 1 2 0 4'),
  'a distance backwards': ({**NO_FORM, 'pixdim': (1, -2, 3, 4, 1, 1, 1, 1)}, 'pixdim 1 -2'),
  'no distance without a form': ({**NO_FORM, 'pixdim': [0] * 8}, 'expected distances above 0'),
  'a distance that is none': ({**BY_QFORM, 'pixdim': (1, 2, 3, np.nan, 1, 1, 1, 1)}, 'pixdim'),
  'a hand that is none': ({**BY_QFORM, 'pixdim': (-5, 2, 3, 4, 1, 1, 1, 1)}, '1 or -1 first'),
  'a quaternion far over 1': ({**BY_QFORM, 'quaternion': (0.8, 0.7, 0)}, 'quatern_b 0.8'),
  'a quaternion of nothing': ({**BY_QFORM, 'quaternion': (0, np.nan, 0)}, 'quatern_b 0'),
  'an origin that is none': ({**BY_QFORM, 'qoffset': (0, np.inf, 0)}, 'qoffset_y inf'),
  'no such unit': ({'units': 5}, 'xyzt_units 5; expected 1 m, 2 mm or 3 micrometres'),
  'millimetres called metres': ({'units': 1}, 'voxels of 2000 x 3000 x 4000 mm'),
  'micrometres called nothing': (
    {'units': 0, 'srow': (2000, 0, 0, -7, 0, 3000, 0, 8, 0, 0, 4000, 9)}, 'voxels of 2000 x 3000'
  ),
  'voxels smaller than a wave of light': (
    {'srow': (2e-20, 0, 0, -7, 0, 3, 0, 8, 0, 0, 4, 9)}, 'voxels of 2e-20 x 3 x 4 mm; expected'
  ),
  'voxels without end': (
    {'srow': (3e38, 3e38, 0, 0, 0, 3, 0, 8, 0, 0, 4, 9)}, 'voxels of 3e.38 x|no valid spacing'
  ),
  'two axes that are nearly one': (
    {'srow': (2, 2, 0, -7, 0, 0.01, 0, 8, 0, 0, 4, 9)}, 'lean by 89.7 degrees; expected at most'
  ),
  'two axes that are one': ({'srow': (2, 3, 0, -7, 0, 0, 0, 8, 0, 0, 4, 9)}, 'lean by 90.0 deg'),
  'slices of a tilted gantry': (
    {'srow': (2, 0, 0, -7, 0, 3, 1, 8, 0, 0, 4, 9)}, 'not at right angles, but lean by 14.0 deg'
  ),
  'slices that lean a little': ({'srow': (2, 0, 0, 0, 0, 3, 0.1, 8, 0, 0, 4, 9)}, 'lean by 1.4'),
  'rows that lean': ({'srow': (2, 0.5, 0, -7, 0, 3, 0, 8, 0, 0, 4, 9)}, 'lean by 9.5 degrees'),
  'columns that lean': ({'srow': (2, 0, 0, -7, 0.4, 3, 0, 8, 0, 0, 4, 9)}, 'lean by 11.3 deg'),
}  # fmt: skip
