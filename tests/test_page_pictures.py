"""The page reads pictures and refuses them as the program does, and writes its masks, in Node."""

import base64

import numpy as np
import page_modules
import picture_files
import pytest
from picture_files import COLOUR, DEEP, GREY, PNGS, REFUSED, TIFFS, UPRIGHT, indexed, save
from PIL import Image
from plain_png import chunk, png

from thrifty_jax.errors import InputError
from thrifty_jax.scans import masks, pictures, sources

READ = """functions.readPicture(Uint8Array.from(atob(input), (one) => one.charCodeAt(0)))
  .then(({ channels, ...rest }) => ({ ...rest, channels: channels.map((one) => [...one]) }))"""
NOISE = np.random.default_rng(1).integers(0, 256, (40, 333, 3), np.uint8)
SLOPE = (np.add.outer(np.arange(90), np.arange(70)) // 2).astype(np.uint8)
# What the program does not read, but the page could not misread.
ONLY_HERE = {
  'colours of 16 bits in LZW, of which Pillow reads 8': 'its pixels are damaged or cut off',
  'planes in LZW': 'its pixels are damaged or cut off',
}


def pictures_of_pillow(folder):
  """Files that Pillow writes, with filters, tables that fill up and rows in several passes."""
  palette = np.random.default_rng(2).integers(0, 256, (200, 3), np.uint8)
  made = {'noise': NOISE, 'slope': SLOPE, 'deep': DEEP, 'bits': SLOPE > 60}
  for name, pixels in made.items():
    for compression in ('tiff_lzw', 'packbits', 'tiff_deflate', None):
      yield save(folder, pixels, f'{name}_{compression}.tif', compression=compression)
    yield save(folder, pixels, f'{name}.png')
  for name in ('noise', 'slope'):
    yield save(folder, made[name], f'{name}_d.tif', compression='tiff_lzw', tiffinfo={317: 2})
    yield save(folder, made[name], f'{name}.bmp')
  yield save(folder, made['bits'], 'bits.bmp')
  for ending in ('gif', 'png', 'bmp', 'tif'):
    yield save(folder, indexed(SLOPE, palette), f'indexed.{ending}')
  yield save(folder, Image.fromarray(NOISE[..., 0]), 'noise.gif')  # interlaced, as the others
  yield save(folder, Image.fromarray(NOISE[..., 0]), 'rows.gif', interlace=False)
  yield save(folder, Image.fromarray(NOISE).convert('RGBA'), 'opaque.png')


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """Files by name: of all kinds, and those that the program refuses."""
  folder = tmp_path_factory.mktemp('pictures')
  found = {path.name: path for path in pictures_of_pillow(folder)}
  for name, (content, _) in PNGS.items():
    found[name] = folder / f'{len(found)}.png'
    found[name].write_bytes(content)
  for name, (pixels, options) in TIFFS.items():
    (folder / name).mkdir()
    kind = 'rgb' if pixels.ndim == 3 else 'minisblack'
    found[name] = picture_files.write_tiff(folder / name, pixels, photometric=kind, **options)
  for name, (write, _) in REFUSED.items():
    (folder / name).mkdir()
    found[name] = write(folder / name)
  return found


def read_by_page(contents):
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  return page_modules.call('picture.js', READ, [base64.b64encode(one).decode() for one in contents])


@pytest.fixture(scope='module')
def by_page(files):
  found = read_by_page(path.read_bytes() for path in files.values())
  return dict(zip(files, found, strict=True))


def require_equal(found, path):
  """What the page found has the stored values that the program reads."""
  assert 'error' not in found, (path, found)
  wanted = pictures.read(path)
  wanted = wanted if wanted.ndim == 4 else wanted[..., None]
  channels = np.stack([np.reshape(one, found['shape']) for one in found['channels']], axis=-1)
  np.testing.assert_array_equal(channels, wanted, str(path))
  assert channels.shape == wanted.shape and found['spacing'] == [1, 1, 1]


def test_every_value_is_the_one_that_the_program_reads(files, by_page):
  read = [name for name in files if name not in REFUSED]
  assert len(read) > 50
  for name in read:
    require_equal(by_page[name], files[name])


@pytest.mark.parametrize('name', REFUSED)
def test_what_the_program_refuses_is_one_line(files, by_page, name):
  with pytest.raises(InputError):
    pictures.read(files[name])
  line = by_page[name]['error']
  assert len(line) > 20 and '\n' not in line
  assert ONLY_HERE.get(name, line) in line


def test_a_bmp_whose_pixels_pillow_takes_for_bits_is_read(tmp_path):
  (found,) = read_by_page([picture_files.few_greys(tmp_path).read_bytes()])
  expected = (GREY & 1) * np.uint8(255)
  np.testing.assert_array_equal(np.reshape(found['channels'], GREY.shape), expected)


PIECES = {
  'PNG': (GREY, 'a.png', {}),
  'GIF': (GREY, 'a.gif', {}),
  'BMP': (GREY, 'a.bmp', {}),
  'LZW': (GREY, 'a.tif', {'compression': 'tiff_lzw'}),
  'PackBits': (GREY, 'a.tif', {'compression': 'packbits'}),
}


def test_a_file_that_breaks_off_is_refused_or_whole_never_another_picture(tmp_path):
  wholes = [save(tmp_path, *picture[:2], **picture[2]).read_bytes() for picture in PIECES.values()]
  pieces = [(whole, end) for whole in wholes for end in range(0, len(whole), 1 + len(whole) // 20)]
  found = read_by_page(whole[:end] for whole, end in pieces)
  refused = 0
  for one in found:
    if 'error' in one:
      refused += 1
    else:
      np.testing.assert_array_equal(np.reshape(one['channels'], GREY.shape), GREY)
  assert refused > 0.8 * len(pieces)


def test_a_png_with_another_checksum_is_refused():
  whole = png(COLOUR, bits=8, kind=2)
  at = whole.index(b'IDAT') + 9
  flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
  (one,) = read_by_page([flipped])
  assert one['error'] == 'its part "IDAT" is damaged; copy it again'


def test_a_png_to_be_turned_by_a_profile_of_imagemagick_is_refused(tmp_path):
  exif = Image.Exif()
  exif[274] = 6
  words = f'\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n'.encode()
  text = chunk(b'tEXt', b'Raw profile type exif\0' + words)
  content = png(GREY, bits=8, kind=0, before=text)
  path = picture_files.put(tmp_path, content)
  with pytest.raises(InputError, match='Orientation 6'):
    pictures.read(path)
  (one,) = read_by_page([content])
  assert 'Orientation 6' in one['error']


# --- JPEG, but for its pixels, which the browser decodes

HEAD = """(({ bare, ...rest }) => bare.arrayBuffer().then((file) => ({ ...rest,
  bare: btoa(String.fromCharCode(...new Uint8Array(file))) })))(
  functions.readParts(Uint8Array.from(atob(input), (one) => one.charCodeAt(0))))"""


def test_what_a_browser_decodes_has_the_pixels_and_nothing_that_turns_or_colours_them(tmp_path):
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  exif = Image.Exif()
  exif[274] = 6
  options = ({'exif': exif}, {'progressive': True, 'icc_profile': b'x' * 200}, {'comment': b'a'})
  paths = [save(tmp_path, NOISE[:20, :30], f'{i}.jpg', **one) for i, one in enumerate(options)]
  by_xmp = b'\xff\xe1' + (2 + 67).to_bytes(2, 'big')
  by_xmp += (b'http://ns.adobe.com/xap/1.0/\0' + b'<a tiff:Orientation="3"/>').ljust(67)
  content = paths[2].read_bytes()
  paths.append(picture_files.put(tmp_path, content[:2] + by_xmp + content[2:], 'xmp.jpg'))
  inputs = [base64.b64encode(path.read_bytes()).decode() for path in paths]
  found = page_modules.call('jpeg.js', HEAD, inputs)
  assert [one['orientation'] for one in found] == [6, 1, 1, 3]
  for one, path in zip(found, paths, strict=True):
    assert (one['size'], one['bands']) == ([20, 30], 3)
    bare = picture_files.put(tmp_path, base64.b64decode(one['bare']), 'bare.jpg')
    with Image.open(bare) as picture, Image.open(path) as whole:
      assert not {'exif', 'icc_profile', 'xmp'} & set(picture.info)
      np.testing.assert_array_equal(np.asarray(picture), np.asarray(whole))


def test_a_browser_that_gives_pages_other_pixels_reads_no_jpeg(tmp_path):
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  call = """(globalThis.createImageBitmap = async () => null,
    globalThis.OffscreenCanvas = class {
      getContext = () => ({ drawImage: () => null, getImageData: (left, top, w, h) =>
        ({ data: new Uint8ClampedArray(4 * w * h).fill(255) }) });
    },
    functions.readJpeg(Uint8Array.from(atob(input), (one) => one.charCodeAt(0))))"""
  content = save(tmp_path, NOISE[:20, :30], 'a.jpg').read_bytes()
  (found,) = page_modules.call('jpeg.js', call, [base64.b64encode(content).decode()])
  assert 'this browser gives JPEG other values than those of the training' in found['error']


def test_a_jpeg_without_its_end_is_refused(tmp_path):
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  whole = save(tmp_path, NOISE[:20, :30], 'a.jpg').read_bytes()
  inputs = [base64.b64encode(whole[:end]).decode() for end in (9, 200, len(whole) - 2)]
  assert all('error' in one for one in page_modules.call('jpeg.js', HEAD, inputs))


def test_pixels_are_turned_as_exif_says():
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  call = 'functions.upright(Uint8Array.from(input[0]), [5, 7], 3, input[1])'
  inputs = [[COLOUR.ravel().tolist(), orientation] for orientation in UPRIGHT]
  for turn, one in zip(UPRIGHT.values(), page_modules.call('jpeg.js', call, inputs), strict=True):
    wanted = np.stack([turn(COLOUR[..., band]) for band in range(3)], axis=-1)
    assert tuple(one['size']) == wanted.shape[:2]
    np.testing.assert_array_equal([*one['samples'].values()], wanted.ravel())


# --- masks


def test_the_saved_mask_is_the_one_that_predict_writes(tmp_path):
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  mask = picture_files.INDICES
  colours, note = ['#000000', '#ff0000', '#0908fe'], 'research use only'
  call = """functions.writeMask(Uint8Array.from(input.mask), input.size, input.colours, input.note)
    .then((file) => file.arrayBuffer())
    .then((content) => btoa(String.fromCharCode(...new Uint8Array(content))))"""
  asked = {'mask': mask.ravel().tolist(), 'size': mask.shape, 'colours': colours, 'note': note}
  (found,) = page_modules.call('mask_png.js', call, [asked])
  path = picture_files.put(tmp_path, base64.b64decode(found), 'mask.png')
  legend = pictures.Legend(classes=3)
  np.testing.assert_array_equal(pictures.read_mask(path, legend), mask[None])
  grid = sources.Grid(pictures.AFFINE)
  theirs = tmp_path / 'theirs.png'
  theirs.write_bytes(masks.to_bytes(mask[None], grid, ending='.png', colours=colours))
  with Image.open(path) as mine, Image.open(theirs) as other:
    np.testing.assert_array_equal(mine.convert('RGB'), other.convert('RGB'))
    assert mine.mode == other.mode == 'P' and mine.info == {'Description': note}
