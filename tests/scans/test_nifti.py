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
from handmade_nifti import AFFINE, GEOMETRY, READ, REFUSED, STORED, content

from thrifty_jax.errors import InputError
from thrifty_jax.scans import masks, nifti, sources, volumes


def load(path) -> Any:
  return nibabel.load(path)


def written(folder, data, name='a.nii'):
  (folder / name).write_bytes(data)
  return folder / name


def read(path):
  """Voxels and affine by [x, y, z], as predict reads them."""
  volume, _ = sources.read(sources.find(path, channels=1)[0])
  return volume.image[..., 0].transpose(), volume.affine[:, [2, 1, 0, 3]]


@pytest.mark.parametrize('name', READ)
def test_voxels_are_those_that_were_stored(tmp_path, name):
  fields, wanted = READ[name]
  voxels, affine = read(written(tmp_path, content(**fields)))
  np.testing.assert_array_equal(voxels, wanted)
  np.testing.assert_array_equal(affine, AFFINE)


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


@pytest.mark.parametrize('name', [name for name in GEOMETRY if 'form' in name])
def test_two_forms_that_contradict_each_other_are_told(tmp_path, name):
  path = written(tmp_path, content(**GEOMETRY[name][0]))
  found = volumes.find_unsure(path)
  assert ('two things of where its axes point' in found) == ('two forms apart' in name)
  assert ('does not say where its axes point' in found) == ('without a form' in name)


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


def test_a_mask_has_nothing_of_the_axes_that_only_its_scan_has():
  header = nibabel.Nifti1Header()
  header.set_data_shape((2, 3, 4, 5))
  header['pixdim'][1:] = (1, 2, 3, 2.5, 7, 8, 9)  # 2.5 s between times
  found = nifti.image_like(np.zeros((2, 3, 4), np.uint8), header).header
  np.testing.assert_array_equal(found['pixdim'][1:], (1, 2, 3, 1, 1, 1, 1))


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
