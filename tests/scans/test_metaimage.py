"""A MetaImage is read only where its voxels are those that its header promises."""

import gzip
import os
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
  with pytest.raises(InputError, match='its voxels, some name.img, are not beside it as a file'):
    metaimage.require_whole(tmp_path / 'scan.mhd')


def test_a_header_that_must_not_be_read_is_bad_input(written, monkeypatch):
  def refuse(path, *arguments):
    raise PermissionError(13, 'Permission denied', str(path))

  monkeypatch.setattr(type(written[0]), 'open', refuse)
  with pytest.raises(InputError, match=r'scan\.mh[ad]: cannot be read \(.*Permission denied'):
    volumes.read_metaimage(written[0])


# Entries that move, scale or size voxels, and what of the header is left out or replaced.
HEADER = {
  'ObjectType': 'Image',
  'NDims': '3',
  'BinaryData': 'True',
  'BinaryDataByteOrderMSB': 'False',
  'CompressedData': 'False',
  'TransformMatrix': '0 1 0 -1 0 0 0 0 1',
  'Offset': '5 6 7',
  'ElementSpacing': '1.5 2 2.5',
  'DimSize': '7 6 5',
  'ElementType': 'MET_SHORT',
  'ElementDataFile': 'LOCAL',
}


def by_hand(folder, **changes):
  entries = {name: value for name, value in (HEADER | changes).items() if value is not None}
  place = entries.pop('ElementDataFile')
  lines = [f'{name} = {value}\n' for name, value in [*entries.items(), ('ElementDataFile', place)]]
  is_big = 'True' in (entries.get('ElementByteOrderMSB'), entries.get('BinaryDataByteOrderMSB'))
  voxels = VOXELS.astype('>i2' if is_big else '<i2')
  (folder / 'scan.mha').write_bytes(''.join(lines).encode() + voxels.tobytes())
  return folder / 'scan.mha'


READ = {
  'plain': {},
  'four axes, the last of one frame': {
    'NDims': '4',
    'DimSize': '7 6 5 1',
    'ElementSpacing': '1.5 2 2.5 1',
    'Offset': '5 6 7 0',
    'TransformMatrix': '0 1 0 0 -1 0 0 0 0 0 1 0 0 0 0 1',
  },
  'other names': {'Offset': None, 'Origin': '5 6 7', 'TransformMatrix': None,
                  'Rotation': '0 1 0 -1 0 0 0 0 1'},
  'size for distance': {'ElementSpacing': None, 'ElementSize': '1.5 2 2.5'},
  'a slope of 1': {'ElementToIntensityFunctionSlope': '1.000'},
  'an intercept of 0': {'ElementToIntensityFunctionOffset': '0'},
  'millimetres': {'DistanceUnits': 'mm'},
  'the other byte order': {'BinaryDataByteOrderMSB': 'True'},
  'the other byte order by its other name': {
    'BinaryDataByteOrderMSB': None, 'ElementByteOrderMSB': 'True',
  },
  'three digits': {'TransformMatrix': '0 1 0 -1 0 0.004 0.004 0 1'},
}  # fmt: skip


@pytest.mark.parametrize('name', READ)
def test_voxels_and_their_places_are_those_of_the_header(tmp_path, name):
  voxels, affine = volumes.read_metaimage(by_hand(tmp_path, **READ[name]))
  np.testing.assert_array_equal(voxels, VOXELS)
  # Columns of (d, h, w) in RAS: the first axis of the file points to +y of LPS, the second to -x.
  wanted = [[0, 2, 0, -5], [0, 0, -1.5, -6], [2.5, 0, 0, 7], [0, 0, 0, 1]]
  np.testing.assert_allclose(affine, wanted, atol=0.02)
  shape, same = volumes.read_header(tmp_path / 'scan.mha')
  assert shape == VOXELS.shape
  np.testing.assert_array_equal(same, affine)


REFUSED = {
  'no distance': ({'ElementSpacing': None}, "ElementSpacing ''; expected the distance"),
  'commas for points': ({'ElementSpacing': '1,5 2,0 2,5'}, 'ElementSpacing .1,5 2,0 2,5'),
  'two of three distances': ({'ElementSpacing': '1.5 2'}, 'expected 3 numbers'),
  'a distance of 0': ({'ElementSpacing': '1.5 0 2'}, 'expected distances above 0'),
  'a distance backwards': ({'ElementSpacing': '1.5 -2 2'}, 'expected distances above 0'),
  'a distance that is none': ({'ElementSpacing': 'unknown'}, "ElementSpacing 'unknown'"),
  'an empty origin': ({'Offset': ''}, "Offset ''; expected 3 numbers"),
  'an origin without end': ({'Offset': '0 inf 0'}, "Offset '0 inf 0'"),
  'half a matrix': ({'TransformMatrix': '1 0 0 0 1 0'}, 'expected 9 numbers'),
  'a matrix of zeros': ({'TransformMatrix': '0 0 0 0 0 0 0 0 0'}, 'axes of length 1 at right'),
  'a matrix too large to multiply': (
    {'TransformMatrix': '1e308 -1e308 0 1e308 1e308 0 0 0 1'}, 'axes of length 1 at right'
  ),
  'a matrix that scales': ({'TransformMatrix': '2 0 0 0 2 0 0 0 2'}, 'axes of length 1 at right'),
  'a matrix that leans': ({'TransformMatrix': '1 0 0 0.3 1 0 0 0 1'}, 'axes of length 1 at right'),
  'a slope': ({'ElementToIntensityFunctionSlope': '2'}, "FunctionSlope '2'; expected 1"),
  'an intercept': ({'ElementToIntensityFunctionOffset': '-1024'}, "FunctionOffset '-1024'"),
  'micrometres': ({'DistanceUnits': 'um'}, "DistanceUnits 'um'; expected mm"),
  'two distances': ({'Origin': '5 6 8'}, 'Offset and Origin .different.; expected one of them'),
  'two matrices': ({'Rotation': '1 0 0 0 1 0 0 0 1'}, 'TransformMatrix and Rotation'),
  'a slope that is none': ({'ElementToIntensityFunctionSlope': 'x'}, "FunctionSlope 'x'"),
  'no number of axes': ({'NDims': None}, "NDims ''; expected the number"),
  'no byte order': ({'BinaryDataByteOrderMSB': 'big'}, "MSB 'big'; expected true or t"),
  'axes that are not quite at right angles': (
    {'TransformMatrix': '0 1 0 -1 0 0 0.05 0 1'}, 'axes of length 1 at right angles',
  ),
  'axes that no number multiplies': (
    {'TransformMatrix': '1e200 1e200 0 1e200 -1e200 0 0 0 1'}, 'axes of length 1 at right angles',
  ),
  'digits that ITK takes for 0': ({'Offset': '٣ 6 7'}, "Offset '٣ 6 7'; expected 3 numbers"),
  'an underscore': ({'ElementSpacing': '1_0 2 2.5'}, "ElementSpacing '1_0 2 2.5'"),
  'sizes with another blank': ({'DimSize': '7 6\u00a05'}, 'DimSize .*; expected 3 numbers above 0'),
  'two byte orders': ({'ElementByteOrderMSB': 'True'}, 'ElementByteOrderMSB .different.'),
  'axes without a number': ({'NDims': 'three'}, "NDims 'three'"),
  'two frames': (
    {'NDims': '4', 'DimSize': '7 6 5 2', 'ElementSpacing': '1 1 1 1', 'Offset': '0 0 0 0',
     'TransformMatrix': '1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1'},
    'are 420 bytes; expected 840',
  ),
}  # fmt: skip

# What ITK would take memory, open files or format names by: it would crash, hang or read elsewhere.
HOSTILE = {
  'voxels as text': ({'BinaryData': 'False'}, "BinaryData 'False'; expected true"),
  'more axes than have a place': (
    {'NDims': '20000', 'ElementSpacing': '1 ' * 20000, 'Offset': None, 'TransformMatrix': None},
    "NDims '20000'; expected the number of axes, 1 to 7",
  ),
  'no axes': ({'NDims': '0'}, 'expected the number of axes'),
  'a number of axes in other digits': ({'NDims': '³'}, 'expected the number of axes'),
  'two of three sizes': ({'DimSize': '7 6'}, "DimSize '7 6'; expected 3 numbers above 0"),
  'no sizes': ({'DimSize': None}, 'expected 3 numbers above 0'),
  'a size in words': ({'DimSize': 'seven 6 5'}, 'expected 3 numbers above 0'),
  'a size below 0': ({'DimSize': '-7 6 5'}, 'expected 3 numbers above 0'),
  'an unknown type': ({'ElementType': 'MET_STRING'}, 'expected one of MET_CHAR'),
  'voxels right behind the header and elsewhere': ({'HeaderSize': '10'}, 'HeaderSize .10.'),
  'channels below 0': ({'ElementNumberOfChannels': '-1'}, 'ElementType'),
  'a format of text': ({'ElementDataFile': '%s%n.raw 1 5 1'}, 'expected one file, or 5'),
  'two numbers in a name': ({'ElementDataFile': '%d%d.raw 1 5 1'}, 'expected one file, or 5'),
  'a number of a million digits': ({'ElementDataFile': '%999999d.raw 1 5 1'}, 'one file, or 5'),
  'a pattern without numbers': ({'ElementDataFile': '%d.raw'}, 'expected one file, or 5'),
  'a step of 0': ({'ElementDataFile': '%d.raw 1 4 0'}, 'expected one file, or 5'),
  'more files than slices': ({'ElementDataFile': '%d.raw 1 9 1'}, 'expected one file, or 5'),
  'too few of a list': ({'ElementDataFile': 'LIST'}, 'expected one file, or 5'),
  'a list of parts': ({'ElementDataFile': 'LIST 2D'}, 'expected one file, or 5'),
  'a file elsewhere': ({'ElementDataFile': '../other.raw'}, 'expected a file beside the header'),
  'a device': ({'ElementDataFile': '/dev/zero'}, 'expected a file beside the header'),
  'a line without a value': ({'Comment\nNDims': '3'}, "a line 'Comment'; expected NAME = VALUE"),
  'an end of a line within it': ({'Comment': 'a\rDimSize = 1 1 1'}, 'the character'),
}  # fmt: skip


@pytest.mark.parametrize('name', HOSTILE)
def test_an_entry_that_means_harm_does_not_reach_the_reader(tmp_path, name, monkeypatch):
  changes, text = HOSTILE[name]
  monkeypatch.setattr(SimpleITK, 'ReadImage', None)
  monkeypatch.setattr(SimpleITK, 'ImageFileReader', None)
  path = by_hand(tmp_path, **changes)
  with pytest.raises(InputError, match=rf'scan\.mha: .*{text}') as caught:
    volumes.read_metaimage(path)
  assert '\n' not in str(caught.value)


SEVERAL = {'LIST': 'LIST\na0.raw\na1.raw\na2.raw\na3.raw\na4.raw', 'pattern': 'a%d.raw 0 4 1'}


@pytest.mark.parametrize('way', SEVERAL)
def test_voxels_in_several_files_are_read_if_each_is_a_whole_file(tmp_path, way):
  path = by_hand(tmp_path, ElementDataFile=SEVERAL[way])
  header = path.read_bytes()[: -VOXELS.nbytes]
  path.write_bytes(header)
  for k in range(5):
    (tmp_path / f'a{k}.raw').write_bytes(VOXELS[k].tobytes())
  np.testing.assert_array_equal(volumes.read_metaimage(path)[0], VOXELS)
  path.write_bytes(header.replace(b'CompressedData = False', b'CompressedData = True'))
  with pytest.raises(InputError, match='CompressedData .True.; expected False'):
    volumes.read_metaimage(path)
  path.write_bytes(header)
  (tmp_path / 'a3.raw').write_bytes(b'short')
  with pytest.raises(InputError, match=r'a3\.raw, are 5 bytes; expected 84.* in 5 files'):
    volumes.read_metaimage(path)
  (tmp_path / 'a3.raw').unlink()
  os.mkfifo(tmp_path / 'a3.raw')
  with pytest.raises(InputError, match=r'a3\.raw, are not beside it as a file'):
    volumes.read_metaimage(path)


def test_voxels_at_the_end_of_their_file_are_read(tmp_path):
  path = by_hand(tmp_path, HeaderSize='-1', ElementDataFile='a.raw')
  path.write_bytes(path.read_bytes()[: -VOXELS.nbytes])
  (tmp_path / 'a.raw').write_bytes(b'012' + VOXELS.tobytes())
  np.testing.assert_array_equal(volumes.read_metaimage(path)[0], VOXELS)


def test_a_few_bytes_that_unpack_to_many_are_refused_after_a_piece(tmp_path, monkeypatch):
  monkeypatch.setattr(metaimage, '_CHUNK_BYTES', 1000)
  packed = zlib.compress(bytes(1 << 20))
  path = by_hand(tmp_path, CompressedData='True', CompressedDataSize=str(len(packed)))
  path.write_bytes(path.read_bytes()[: -VOXELS.nbytes] + packed)
  with pytest.raises(InputError, match='are 2000 bytes; expected 420'):
    volumes.read_metaimage(path)


@pytest.mark.parametrize('name', REFUSED)
def test_entries_that_would_be_guessed_are_refused_by_name(tmp_path, name):
  changes, text = REFUSED[name]
  with pytest.raises(InputError, match=rf'scan\.mha: .*{text}') as caught:
    volumes.read_metaimage(by_hand(tmp_path, **changes))
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('value', ['100', '0', '10', '-5', 'abc', '415', '417', ''])
@pytest.mark.parametrize('way', ['mhd, zraw', 'mha, compressed'])
def test_a_wrong_number_of_compressed_bytes_is_refused(tmp_path, way, value):
  """ITK takes what it says for the end, and what is missing for whatever is in memory."""
  header = tmp_path / WAYS[way][0]
  SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS), str(header), True)
  with_header(header, CompressedDataSize=value)
  with pytest.raises(InputError, match=rf"CompressedDataSize '{value}'; expected 416"):
    volumes.read_metaimage(header)


def test_an_entry_with_two_values_is_refused(tmp_path):
  path = by_hand(tmp_path)
  path.write_bytes(b'ElementSpacing = 1 1 1\n' + path.read_bytes())
  with pytest.raises(InputError, match=r"ElementSpacing '1 1 1, then 1\.5 2 2\.5'; expected one"):
    volumes.read_metaimage(path)


@pytest.mark.parametrize(
  ('old', 'new'), [(b' = ', b' : '), (b' = ', b'='), (b'\n', b'\r\n'), (b'DimSize', b'\n  DimSize')]
)
def test_entries_are_seen_however_they_are_written(tmp_path, old, new):
  """ITK takes a colon too."""
  path = by_hand(tmp_path)
  header, voxels = path.read_bytes().split(b'LOCAL\n')
  path.write_bytes(header.replace(old, new) + b'LOCAL\n' + voxels)
  np.testing.assert_array_equal(volumes.read_metaimage(path)[0], VOXELS)
  path.write_bytes(header.replace(b'7 6 5', b'7 6 4').replace(old, new) + b'LOCAL\n' + voxels)
  with pytest.raises(InputError, match='are 420 bytes; expected 336'):
    volumes.read_metaimage(path)


@pytest.mark.parametrize('ending', ['mha', 'nrrd'])
@pytest.mark.parametrize('content', [b'', b'notes', b'NDims = 3\nDimSize = 1 1 1\n', b'NRRD0004\n'])
def test_a_file_without_a_header_is_refused(tmp_path, ending, content):
  path = tmp_path / f'a.{ending}'
  path.write_bytes(content)
  with pytest.raises(InputError, match=r'cannot be read \(it has no header of'):
    volumes.read_metaimage(path)


@pytest.mark.parametrize('ending', ['mha', 'nrrd'])
@pytest.mark.parametrize('kind', ['complex', 'two values', 'colours', 'two frames', 'real of two'])
def test_what_has_more_than_one_number_a_voxel_is_refused(tmp_path, ending, kind):
  plain = SimpleITK.GetImageFromArray(VOXELS)
  image = {
    'complex': SimpleITK.GetImageFromArray(VOXELS.astype(np.complex64)),
    'two values': SimpleITK.Compose([plain] * 2),
    'colours': SimpleITK.Compose([SimpleITK.Cast(plain, SimpleITK.sitkUInt8)] * 3),
    'two frames': SimpleITK.JoinSeries([plain] * 2),
    'real of two': SimpleITK.Compose([SimpleITK.Cast(plain, SimpleITK.sitkFloat64)] * 2),
  }[kind]
  SimpleITK.WriteImage(image, str(tmp_path / f'a.{ending}'))
  with pytest.raises(InputError, match=rf'a\.{ending}: has .*Convert the file'):
    volumes.read_metaimage(tmp_path / f'a.{ending}')
