"""NIfTI files written by hand: what their headers say is checked before it is used."""

import gzip
import os
import struct
import tracemalloc
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from thrifty_jax.errors import InputError
from thrifty_jax.scans import masks, nifti, sources, volumes

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


def load(path) -> Any:
  return nibabel.load(path)


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


def written(folder, data, name='a.nii'):
  (folder / name).write_bytes(data)
  return folder / name


def read(path):
  """Voxels and affine by [x, y, z], as predict reads them."""
  volume, _ = sources.read(sources.find(path, channels=1)[0])
  return volume.image[..., 0].transpose(), volume.affine[:, [2, 1, 0, 3]]


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


@pytest.mark.parametrize('name', READ)
def test_voxels_are_those_that_were_stored(tmp_path, name):
  fields, wanted = READ[name]
  voxels, affine = read(written(tmp_path, content(**fields)))
  np.testing.assert_array_equal(voxels, wanted)
  np.testing.assert_array_equal(affine, AFFINE)


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
  'a first distance of 0 is right-handed': (
    {**BY_QFORM, 'pixdim': (0, 2, 3, 4, 1, 1, 1, 1)},
    AFFINE,
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', GEOMETRY)
def test_voxels_lie_where_the_header_says_in_millimetres(tmp_path, name):
  fields, wanted = GEOMETRY[name]
  path = written(tmp_path, content(**fields))
  voxels, affine = read(path)
  np.testing.assert_array_equal(voxels, STORED)
  np.testing.assert_allclose(affine, wanted, atol=5e-3)
  np.testing.assert_allclose(volumes.read_header(path)[1][:, [2, 1, 0, 3]], affine)
  is_like_itk = fields.get('quaternion') is None and fields.get('units', 2) in (0, 2)
  if is_like_itk and 'lean' not in name:  # of which ITK takes none
    image = SimpleITK.ReadImage(str(path))
    for index in ((0, 0, 0), (3, 4, 5), (3, 0, 5)):
      x, y, z = image.TransformIndexToPhysicalPoint(index)
      np.testing.assert_allclose((affine @ [*index, 1])[:3], (-x, -y, z), atol=1e-4)


@pytest.mark.parametrize('units', [1, 3])
def test_a_mask_has_the_unit_and_the_place_of_its_scan(tmp_path, units):
  fields, _ = GEOMETRY['metres' if units == 1 else 'micrometres']
  path = written(tmp_path, content(**fields))
  _, grid = sources.read(sources.find(path, channels=1)[0])
  mask = written(
    tmp_path,
    masks.to_bytes((STORED.transpose() > 0).astype(np.uint8), grid, ending='.nii'),
    'm.nii',
  )
  np.testing.assert_array_equal(load(mask).affine, load(path).affine)
  np.testing.assert_allclose(read(mask)[1], AFFINE, atol=1e-4)


@pytest.mark.parametrize(
  ('sides', 'wanted'),
  [
    ((0, 0, 0), (2, 3, 4)),
    ((2, 0, 4), (2, 3, 4)),
    ((-2, 3, 4), (2, 3, 4)),
    ((np.nan, 3, 4), (2, 3, 4)),
    ((2, 3, np.inf), (2, 3, 4)),
    ((2.5, 3, 4), (2.5, 3, 4)),  # they may be those of the other form
  ],
)
def test_distances_that_a_matrix_replaces_are_no_matter_and_no_log_line(
  tmp_path, caplog, sides, wanted
):
  caplog.set_level(0, 'nibabel.global')
  path = written(tmp_path, content(pixdim=(1, *sides, 0, 0, 0, 0)))
  volume, grid = sources.read(sources.find(path, channels=1)[0])
  data = masks.to_bytes((STORED.transpose() > 0).astype(np.uint8), grid, ending='.nii')
  mask = written(tmp_path, data, 'm.nii')
  assert caplog.messages == []
  np.testing.assert_array_equal(volume.affine[:, [2, 1, 0, 3]], AFFINE)
  np.testing.assert_array_equal(load(mask).affine, AFFINE)
  np.testing.assert_array_equal(load(mask).header['pixdim'][1:4], wanted)


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


@pytest.mark.parametrize('name', REFUSED)
def test_what_a_header_cannot_mean_is_refused_by_name(tmp_path, name):
  fields, text = REFUSED[name]
  path = written(tmp_path, content(**fields))
  with pytest.raises(InputError, match=rf'a\.nii: .*{text}') as caught:
    read(path)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('magic', [b'ni1', b'n+2', b'', b'\x00\x00\x00', b'N+1'])
def test_a_header_of_another_kind_is_refused(tmp_path, magic):
  data = bytearray(content())
  data[344:348] = magic.ljust(4, b'\0')
  with pytest.raises(InputError, match='has no header of a NIfTI file'):
    volumes.read_nifti(written(tmp_path, bytes(data)))


@pytest.mark.parametrize('name', ['a.nii', 'a.nii.gz', 'A.NII.GZ'])
@pytest.mark.parametrize('level', [None, 0, 9])
def test_whether_a_file_is_compressed_its_content_says(tmp_path, name, level):
  data = content() if level is None else gzip.compress(content(), level)
  np.testing.assert_array_equal(read(written(tmp_path, data, name))[0], STORED)


@pytest.mark.parametrize('reader', [volumes.read_nifti, volumes.read_header])
@pytest.mark.parametrize('name', ['a.nii', 'a.nii.gz'])
def test_a_header_of_more_voxels_than_a_file_can_hold_is_refused(tmp_path, name, reader):
  data = bytearray(content())
  data[40:56] = struct.pack('<8h', 3, 32767, 32767, 32767, 1, 1, 1, 1)
  path = written(tmp_path, gzip.compress(data) if name.endswith('gz') else bytes(data), name)
  with pytest.raises(
    InputError, match=r'bytes; expected 70362301923326, for 32767 x 32767 x 32767'
  ):
    reader(path)


@pytest.mark.parametrize('reader', [volumes.read_nifti, volumes.read_header])
def test_what_packed_bytes_can_become_is_the_bound_of_voxels(tmp_path, reader):
  path = tmp_path / 'a.nii.gz'
  for sides, message in (
    (64, 'are 240 bytes'),
    (80, 'are at most '),
  ):  # of 2 x 64^3, 2 x 80^3 bytes
    data = bytearray(content())
    data[40:56] = struct.pack('<8h', 3, sides, sides, sides, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(data, 0))
    if reader is volumes.read_header and sides == 64:
      assert reader(path)[0] == (64, 64, 64)
    else:
      with pytest.raises(InputError, match=message):
        reader(path)


def test_damage_behind_a_piece_that_ends_with_the_voxels_is_noticed(tmp_path, monkeypatch):
  monkeypatch.setattr(nifti, '_PIECE_BYTES', 52)  # 540, then one piece to byte 592
  data = bytearray(gzip.compress(content()))
  data[-5] ^= 1  # of the checksum
  with pytest.raises(InputError, match='CRC check failed'):
    read(written(tmp_path, bytes(data), 'a.nii.gz'))


def test_a_few_bytes_that_unpack_to_many_are_read_a_piece_further(tmp_path, monkeypatch):
  monkeypatch.setattr(nifti, '_PIECE_BYTES', 1000)
  path = written(tmp_path, gzip.compress(content() + bytes(1 << 26)), 'a.nii.gz')
  tracemalloc.start()
  try:
    with pytest.raises(InputError, match='are at least 1188 bytes; expected 240'):
      read(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
  finally:
    tracemalloc.stop()


def test_what_memory_does_not_hold_is_one_line(tmp_path, monkeypatch):
  def fail(path):
    raise MemoryError

  monkeypatch.setattr(nifti, 'read', fail)
  with pytest.raises(InputError, match=r'a\.nii: takes more memory than there is'):
    read(written(tmp_path, content()))


def test_a_pipe_is_no_file(tmp_path):
  os.mkfifo(tmp_path / 'a.nii')
  for reader in (volumes.read_nifti, volumes.read_header):
    with pytest.raises(InputError, match=r'a\.nii: is no regular file; expected a scan'):
      reader(tmp_path / 'a.nii')


def test_members_of_gzip_and_padding_behind_them_are_understood(tmp_path):
  data = content()
  packed = gzip.compress(data[:400]) + gzip.compress(data[400:]) + bytes(512)
  np.testing.assert_array_equal(read(written(tmp_path, packed, 'a.nii.gz'))[0], STORED)


KINDS = {
  'complex64': np.complex64,
  'complex128': np.complex128,
  'RGB': [('R', 'u1'), ('G', 'u1'), ('B', 'u1')],
  'RGBA': [('R', 'u1'), ('G', 'u1'), ('B', 'u1'), ('A', 'u1')],
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('version', [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_voxels_that_are_no_numbers_are_refused(tmp_path, kind, version):
  image = version(np.zeros((2, 3, 4), KINDS[kind]), np.eye(4))
  nibabel.save(image, tmp_path / 'a.nii.gz')
  for reader in (volumes.read_nifti, volumes.read_header):
    with pytest.raises(InputError, match=rf'a\.nii\.gz: has voxels of .*{kind}.*one number'):
      reader(tmp_path / 'a.nii.gz')


@pytest.mark.parametrize('kind', ['u1', 'i1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f4', 'f8'])
@pytest.mark.parametrize('version', [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_it_reads_what_nibabel_writes_and_reads(tmp_path, kind, version):
  numbers = np.random.default_rng(1).uniform(0, 100, (3, 4, 5, 2)).astype(kind)
  image = version(numbers, AFFINE, dtype=numbers.dtype)
  image.header.extensions.append(nibabel.nifti1.Nifti1Extension('comment', b'x' * 50))
  nibabel.save(image, tmp_path / 'a.nii.gz')
  found = nifti.read(tmp_path / 'a.nii.gz')
  np.testing.assert_array_equal(found.voxels, numbers)
  np.testing.assert_array_equal(found.affine, AFFINE)


def test_the_offset_of_the_second_version_is_checked_too(tmp_path):
  nibabel.save(nibabel.Nifti2Image(STORED, AFFINE), tmp_path / 'a.nii')
  data = bytearray((tmp_path / 'a.nii').read_bytes())
  for offset, refused in ((0, False), (352, True), (544, False)):
    struct.pack_into('<q', data, 168, offset)
    path = written(tmp_path, bytes(data))
    if refused:
      with pytest.raises(InputError, match='vox_offset 352; expected >= 544'):
        read(path)
    else:
      np.testing.assert_array_equal(read(path)[0], STORED)
