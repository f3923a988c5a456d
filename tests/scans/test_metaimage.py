"""A MetaImage is read only where its voxels are those that its header promises."""

import gzip
import re
import zlib

import numpy as np
import pytest
import SimpleITK

from thrifty_jax.errors import InputError
from thrifty_jax.scans import metaimage, volumes

VOXELS = np.random.default_rng(0).integers(0, 3000, (5, 6, 7)).astype(np.int16)
# One file or two, compressed or not: the file with the header, that with the voxels.
WAYS = {
  'mhd, raw': ('scan.mhd', 'scan.raw', False),
  'mhd, zraw': ('scan.mhd', 'scan.zraw', True),
  'mha': ('scan.mha', 'scan.mha', False),
  'mha, compressed': ('scan.mha', 'scan.mha', True),
}


@pytest.fixture(params=WAYS)
def written(request, tmp_path):
  """The file with the header and that with the voxels."""
  header, voxels, compressed = WAYS[request.param]
  image = SimpleITK.GetImageFromArray(VOXELS)
  SimpleITK.WriteImage(image, str(tmp_path / header), useCompression=compressed)
  return tmp_path / header, tmp_path / voxels


def with_header(path, **entries):
  content = path.read_bytes()
  for name, value in entries.items():
    content, count = re.subn(
      rb'(?m)^%s = .*$' % name.encode(), f'{name} = {value}'.encode(), content
    )
    assert count == 1
  path.write_bytes(content)


def test_a_whole_file_is_read(written):
  header, _ = written
  np.testing.assert_array_equal(volumes.read_metaimage(header)[0], VOXELS)


@pytest.mark.parametrize('depth', [4, 6, 600])
def test_another_number_of_slices_is_refused(written, depth):
  header, voxels = written
  with_header(header, DimSize=f'7 6 {depth}')
  message = rf'voxels, {voxels.name}, are 420 bytes; expected {84 * depth}, for 7 x 6 x {depth} of'
  with pytest.raises(InputError, match=message):
    volumes.read_metaimage(header)


@pytest.mark.parametrize('cut', [1, 5, 300])
def test_voxels_that_are_cut_off_are_refused(written, cut):
  header, voxels = written
  voxels.write_bytes(voxels.read_bytes()[:-cut])
  with pytest.raises(
    InputError, match=rf'its voxels, {voxels.name}, are (damaged \(cut off|{420 - cut} bytes)'
  ):
    volumes.read_metaimage(header)


@pytest.mark.parametrize('at', [0.5, 0.99])
@pytest.mark.parametrize('way', ['mhd, zraw', 'mha, compressed'])
def test_a_wrong_byte_of_compressed_voxels_is_refused(tmp_path, way, at):
  header, voxels, _ = WAYS[way]
  SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS), str(tmp_path / header), True)
  content = bytearray((tmp_path / voxels).read_bytes())
  content[int(at * len(content))] ^= 0x40
  (tmp_path / voxels).write_bytes(content)
  with pytest.raises(InputError, match=f'{header}: its voxels, {voxels}, are damaged'):
    volumes.read_metaimage(tmp_path / header)


def test_other_names_bytes_before_the_voxels_and_gzip_are_understood(tmp_path):
  SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS), str(tmp_path / 'scan.mhd'))
  (tmp_path / 'some name.img').write_bytes(b'0123456789' + VOXELS.tobytes())
  lines = (tmp_path / 'scan.mhd').read_text().splitlines()
  text = '\r\n'.join(['HeaderSize = 10', *lines[:-1], 'ElementDataFile=some name.img'])
  (tmp_path / 'scan.mhd').write_text(text)
  metaimage.require_whole(tmp_path / 'scan.mhd')
  for compress in (zlib.compress, gzip.compress):
    (tmp_path / 'some name.img').write_bytes(b'0123456789' + compress(VOXELS.tobytes()))
    (tmp_path / 'scan.mhd').write_text(
      text.replace('CompressedData = False', 'CompressedData=True')
    )
    metaimage.require_whole(tmp_path / 'scan.mhd')
  (tmp_path / 'some name.img').unlink()
  with pytest.raises(InputError, match='its voxels, some name.img, are not beside it'):
    metaimage.require_whole(tmp_path / 'scan.mhd')


@pytest.mark.parametrize(
  'header',
  [
    '',
    'ObjectType = Tube\n',
    'DimSize = 2 2 2\nElementType = MET_SHORT\nElementDataFile = LIST\na.raw\n',
    'DimSize = 2 2 2\nElementType = MET_SHORT\nElementDataFile = a%02d.raw 1 2 1\n',
    'BinaryData = False\nDimSize = 2 2 2\nElementType = MET_SHORT\nElementDataFile = LOCAL\n1 2',
    'DimSize = 2 2 2\nElementType = MET_SHORT\nHeaderSize = -1\nElementDataFile = LOCAL\n',
    'DimSize = 2 2 2\nElementType = MET_STRING\nElementDataFile = LOCAL\n',
    'DimSize = two\nElementType = MET_SHORT\nElementDataFile = LOCAL\n',
    'ElementType = MET_SHORT\nElementDataFile = LOCAL\n',
  ],
)
def test_what_cannot_be_told_is_left_to_the_reader(tmp_path, header):
  (tmp_path / 'scan.mhd').write_text(header)
  metaimage.require_whole(tmp_path / 'scan.mhd')


def test_a_header_that_must_not_be_read_is_bad_input(written, monkeypatch):
  def refuse(path, *arguments):
    raise PermissionError(13, 'Permission denied', str(path))

  monkeypatch.setattr(type(written[0]), 'open', refuse)
  with pytest.raises(InputError, match=r'scan\.mh[ad]: cannot be read \(.*Permission denied'):
    volumes.read_metaimage(written[0])
