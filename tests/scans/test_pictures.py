"""Pictures of every kind against their values and other readers; what is refused, and how."""

import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from picture_files import (
  COLOUR,
  COLOURS,
  DEEP,
  DEEP_COLOUR,
  GREY,
  INDICES,
  PNGS,
  REAL,
  REFUSED,
  TIFFS,
  UPRIGHT,
  few_greys,
  indexed,
  put,
  save,
  write_tiff,
)
from PIL import Image
from plain_png import png

from thrifty_jax.errors import InputError
from thrifty_jax.scans import picture_file, pictures, volumes


def check(path, expected):
  """Reads the picture, which is as expected in values and kind, as its header is."""
  found = pictures.read(path)
  assert found.dtype == expected.dtype
  np.testing.assert_array_equal(found, expected[None])
  size = pictures.read_size(path)
  assert size == (*expected.shape[:2], expected.shape[2] if expected.ndim == 3 else 1)


@pytest.mark.parametrize('name', PNGS)
def test_a_png_has_the_values_of_its_samples(tmp_path, name):
  content, expected = PNGS[name]
  check(put(tmp_path, content), expected)


@pytest.mark.parametrize('name', TIFFS)
def test_a_tiff_has_the_values_of_its_samples(tmp_path, name):
  pixels, options = TIFFS[name]
  kind = 'rgb' if pixels.ndim == 3 else 'minisblack'
  check(write_tiff(tmp_path, pixels, photometric=kind, **options), pixels)


@pytest.mark.parametrize('pixels', [COLOUR, DEEP_COLOUR], ids=['8 bits', '16 bits'])
def test_a_tiff_of_separate_planes_is_put_together(tmp_path, pixels):
  planes = np.moveaxis(pixels, -1, 0)
  check(write_tiff(tmp_path, planes, photometric='rgb', planarconfig='separate'), pixels)


@pytest.mark.parametrize('compression', ['tiff_lzw', 'packbits', 'tiff_deflate'])
@pytest.mark.parametrize('pixels', [GREY, COLOUR, DEEP, REAL, GREY > 99], ids=str)
def test_compressions_of_a_tiff_change_no_value(tmp_path, compression, pixels):
  path = save(tmp_path, pixels, 'a.tif', compression=compression)
  check(path, pixels * np.uint8(255) if pixels.dtype == bool else pixels)


def floats(pixels, *, order='<', predictor=3, compression=8):
  """A TIFF of float32 in one strip, as no library wrote it: Deflate, or PackBits (32773).

  Predictor 3 has the bytes of a row by their rank, the highest first, and of each its difference
  from the byte before it. Source: Adobe Photoshop TIFF technical note 3.
  """
  rows = pixels.astype(f'{order}f4').view(np.uint8)
  if predictor == 3:
    ranked = pixels.astype('>f4').view(np.uint8).reshape(*pixels.shape, 4).transpose(0, 2, 1)
    rows = np.diff(ranked.reshape(len(pixels), -1), axis=1, prepend=np.uint8(0))
  content = zlib.compress(rows.tobytes())
  if compression != 8:
    content = b''.join(bytes([len(one) - 1]) + one for one in map(np.ndarray.tobytes, rows))
  height, width = pixels.shape
  tags = {256: width, 257: height, 258: 32, 259: compression, 262: 1, 273: 8, 277: 1}
  tags |= {278: height, 279: len(content), 317: predictor, 339: 3}
  start = b'II*\0' if order == '<' else b'MM\0*'
  head = start + struct.pack(f'{order}I', 8 + len(content)) + content
  entries = [struct.pack(f'{order}HHII', tag, 4, 1, value) for tag, value in tags.items()]
  return head + struct.pack(f'{order}H', len(tags)) + b''.join(entries) + bytes(4)


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'predictor': 1},
    {'predictor': 1, 'order': '>'},
    {'predictor': 1, 'compression': 32773},
  ],
  ids=str,
)
def test_floating_point_numbers_are_read_whatever_goes_before_their_compression(tmp_path, options):
  check(put(tmp_path, floats(REAL, **options), 'a.tif'), REAL)


@pytest.mark.parametrize('options', [{}, {'predictor': 1, 'compression': 32773}], ids=str)
def test_floating_point_numbers_that_pillow_reads_in_another_order_are_refused(tmp_path, options):
  path = put(tmp_path, floats(REAL, order='>', **options), 'a.tif')
  with pytest.raises(InputError, match=r'a\.tif: has float32 in big-endian order'):
    pictures.read(path)


@pytest.mark.parametrize('unit', [257, 1], ids=['16 bits', '8 bits, against the standard'])
def test_a_palette_of_a_tiff_is_read(tmp_path, unit):
  table = np.zeros((3, 256), np.uint16)
  table[:, :3] = COLOURS.T.astype(np.uint16) * unit
  path = write_tiff(tmp_path, INDICES, photometric='palette', colormap=table)
  check(path, COLOURS[INDICES])


def test_an_opaque_alpha_of_a_tiff_is_left_out(tmp_path):
  alpha = np.full((5, 7, 1), 65535, np.uint16)
  path = write_tiff(tmp_path, np.concatenate([DEEP_COLOUR, alpha], axis=-1), photometric='rgb')
  check(path, DEEP_COLOUR)


@pytest.mark.parametrize('ending', ['bmp', 'gif'])
def test_bmp_and_gif_have_the_values_of_their_pixels(tmp_path, ending):
  check(save(tmp_path, GREY, f'grey.{ending}'), GREY)
  check(save(tmp_path, indexed(INDICES, COLOURS), f'indexed.{ending}'), COLOURS[INDICES])


def test_a_bmp_has_colours_and_its_two_levels(tmp_path):
  check(save(tmp_path, COLOUR, 'a.bmp'), COLOUR)
  check(save(tmp_path, GREY > 99, 'b.bmp'), (GREY > 99) * np.uint8(255))


def test_a_bmp_whose_pixels_pillow_takes_for_bits_is_refused(tmp_path):
  with pytest.raises(InputError, match='a BMP of 8 bits with a palette of few greys'):
    pictures.read(few_greys(tmp_path))


@pytest.mark.parametrize('pixels', [GREY, COLOUR])
def test_a_jpeg_is_read_as_pillow_does_whatever_its_ending(tmp_path, pixels):
  path = save(tmp_path, pixels, 'a.jpg', quality=95)
  expected = np.asarray(Image.open(path))
  check(path, expected)
  check(put(tmp_path, path.read_bytes(), 'b.PNG'), expected)


@pytest.mark.parametrize('orientation', UPRIGHT)
def test_a_jpeg_is_turned_as_its_exif_says(tmp_path, orientation):
  blocks = np.kron(np.array([[0, 60, 120], [180, 240, 30]], np.uint8), np.ones((8, 8), np.uint8))
  exif = Image.Exif()
  exif[274] = orientation
  check(save(tmp_path, blocks, 'a.jpg', quality=100, exif=exif), UPRIGHT[orientation](blocks))


def test_of_a_photograph_with_a_preview_the_photograph_is_read(tmp_path):
  exif = Image.Exif()
  exif[274] = 6
  preview = Image.fromarray(np.zeros((3, 2), np.uint8))
  path = save(
    tmp_path,
    np.full((8, 16), 99, np.uint8),
    'a.mpo',
    save_all=True,
    append_images=[preview],
    exif=exif,
  )
  check(put(tmp_path, path.read_bytes(), 'a.jpg'), np.full((16, 8), 99, np.uint8))


def test_more_pixels_than_the_bound_are_refused_however_large_the_file_is(tmp_path, monkeypatch):
  for name in ('_MOST_PACKED', '_MOST_DEFLATED'):
    monkeypatch.setattr(picture_file, name, 1 << 60)
  path = put(tmp_path, png(GREY, bits=8, kind=0, size=(1 << 16, (1 << 15) + 1)))
  with pytest.raises(InputError, match='32769 x 65536 pixels; expected some, at most 2147483648'):
    pictures.read_size(path)
  path = put(tmp_path, png(GREY, bits=8, kind=0, size=(1 << 16, 1 << 15)))
  assert pictures.read_size(path) == (1 << 15, 1 << 16, 1)


def test_a_mask_that_fits_a_photograph_only_before_turning_is_refused(tmp_path):
  exif = Image.Exif()
  exif[274] = 6
  image = pictures.read(save(tmp_path, GREY, 'a.jpg', exif=exif))
  case = volumes.Case('a', 'a', (tmp_path / 'a.jpg',), (tmp_path / 'mask.png',))
  place = {'image': image, 'affine': pictures.AFFINE, 'label_affine': pictures.AFFINE}
  turned = np.zeros((1, 7, 5), np.uint8)
  assert volumes.make_volume(case, label=turned, **place).truth.shape == (1, 7, 5)
  with pytest.raises(InputError, match=r'mask.png: has \(1, 5, 7\) voxels'):
    volumes.make_volume(case, label=turned.transpose(0, 2, 1), **place)


def test_a_picture_is_an_axial_slice_that_no_turn_changes(tmp_path):
  path = put(tmp_path, png(COLOUR, bits=8, kind=2))
  case = volumes.Case('a', 'a', (path,))
  volume = volumes.make_volume(case, image=pictures.read(path), affine=pictures.AFFINE)
  np.testing.assert_array_equal(volume.image, COLOUR[None].astype(np.float32))
  np.testing.assert_array_equal(volume.affine, pictures.AFFINE)
  assert volume.spacing_mm == (1, 1, 1)
  assert volumes.read_header(path)[0] == (1, 5, 7)


@pytest.mark.parametrize('name', REFUSED)
def test_what_has_no_one_meaning_is_refused_in_one_line(tmp_path, name, capfd):
  write, message = REFUSED[name]
  path = write(tmp_path)
  with pytest.raises(InputError, match=message) as caught:
    pictures.read(path)
  text = str(caught.value)
  assert text.startswith(f'{path}: ') and '\n' not in text
  assert capfd.readouterr() == ('', '')


PIECES = {
  'PNG': (GREY, 'a.png', {}),
  'GIF': (GREY, 'a.gif', {}),
  'BMP': (GREY, 'a.bmp', {}),
  'JPEG': (np.zeros((64, 64, 3), np.uint8) + 99, 'a.jpg', {}),
  'TIFF': (GREY, 'a.tif', {}),
  'LZW': (GREY, 'a.tif', {'compression': 'tiff_lzw'}),
}


@pytest.mark.parametrize('name', PIECES)
def test_a_file_that_breaks_off_or_is_damaged_is_refused_or_whole_never_another_picture(
  tmp_path, name, capfd
):
  pixels, file, options = PIECES[name]
  whole = save(tmp_path, pixels, file, **options).read_bytes()
  expected = pictures.read(tmp_path / file)
  refused = 0
  for end in range(0, len(whole), 1 + len(whole) // 40):
    path = put(tmp_path, whole[:end], f'cut_{file}')
    try:
      np.testing.assert_array_equal(pictures.read(path), expected)
    except InputError as error:
      assert str(error).startswith(f'{path}: ') and '\n' not in str(error)
      refused += 1
  assert refused > 25  # a PNG is whole without its last bytes
  assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('compression', [None, 'tiff_lzw'])
def test_a_tiff_that_lacks_a_strip_is_refused(tmp_path, compression):
  path = save(tmp_path, GREY, 'a.tif', compression=compression)
  with tifffile.TiffFile(path, mode='r+') as file:
    file.pages.first.tags['StripByteCounts'].overwrite(0)
  with pytest.raises(InputError, match='lacks a part of its pixels'):
    pictures.read(path)


def test_a_tiff_with_fewer_strips_than_its_height_takes_is_refused(tmp_path, capfd):
  path = write_tiff(tmp_path, DEEP[:4], photometric='minisblack', rowsperstrip=2)
  with tifffile.TiffFile(path, mode='r+') as file:
    file.pages.first.tags['ImageLength'].overwrite(8)
  with pytest.raises(InputError, match='lacks a part of its pixels'):
    pictures.read(path)
  assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('read', [pictures.read, pictures.read_size])
def test_what_is_no_regular_file_is_refused(tmp_path, read):
  os.mkfifo(tmp_path / 'pipe.png')
  (tmp_path / 'folder.png').mkdir()
  for name, message in (('pipe', 'no regular'), ('folder', 'no regular'), ('none', 'no such')):
    with pytest.raises(InputError, match=message):
      read(tmp_path / f'{name}.png')


def test_a_picture_beyond_pillows_own_bound_is_read_and_the_bound_is_kept(tmp_path, monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
  check(put(tmp_path, png(GREY, bits=8, kind=0)), GREY)
  check(save(tmp_path, GREY, 'a.gif'), GREY)
  check(save(tmp_path, GREY, 'a.tif', compression='tiff_lzw'), GREY)
  assert Image.MAX_IMAGE_PIXELS == 10


def test_a_size_is_read_without_the_pixels(tmp_path):
  whole = png(COLOUR, bits=8, kind=2)
  path = put(tmp_path, whole[: whole.index(b'IDAT') + 4])
  assert pictures.read_size(path) == (5, 7, 3)
  with pytest.raises(InputError, match='cannot be read'):
    pictures.read(path)


def test_the_ending_says_whether_a_file_is_a_picture(tmp_path):
  assert all(pictures.is_picture(tmp_path / f'a{end.upper()}') for end in pictures.ENDINGS)
  assert not pictures.is_picture(tmp_path / 'a.png.gz')
