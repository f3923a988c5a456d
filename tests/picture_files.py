"""Pictures of every kind as files: what is read of them, and what is refused."""

import struct

import numpy as np
import tifffile
from PIL import Image, TiffImagePlugin
from plain_png import chunk, palette, png

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)
COLOUR = RNG.integers(0, 256, (5, 7, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7), np.uint16)
DEEP_COLOUR = RNG.integers(0, 65536, (5, 7, 3), np.uint16)
REAL = RNG.normal(size=(5, 7)).astype(np.float32)


def put(folder, content, name='a.png'):
  path = folder / name
  path.write_bytes(content)
  return path


def save(folder, pixels, name, **options):
  path = folder / name
  image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
  image.save(path, **options)
  return path


def indexed(indices, colours):
  image = Image.fromarray(indices)
  image.putpalette(colours.tobytes())
  return image


def write_tiff(folder, pixels, **options):
  path = folder / 'a.tif'
  tifffile.imwrite(path, pixels, **options)
  return path


FEW = RNG.integers(0, 4, (5, 7), np.uint8)
INDICES = RNG.integers(0, 3, (5, 7), np.uint8)
COLOURS = np.array(((0, 0, 0), (255, 0, 0), (9, 8, 7)), np.uint8)
GREYS = np.array(((255, 255, 255), (0, 0, 0), (5, 5, 5)), np.uint8)
PNGS = {
  '1 bit': (png(FEW & 1, bits=1, kind=0), (FEW & 1) * np.uint8(255)),
  '2 bits': (png(FEW, bits=2, kind=0), FEW * np.uint8(85)),
  '4 bits': (png(FEW, bits=4, kind=0), FEW * np.uint8(17)),
  '8 bits': (png(GREY, bits=8, kind=0), GREY),
  '16 bits': (png(DEEP, bits=16, kind=0), DEEP),
  'colours': (png(COLOUR, bits=8, kind=2), COLOUR),
  'interlaced colours': (png(COLOUR, bits=8, kind=2, interlaced=True), COLOUR),
  'interlaced 2 bits': (png(FEW, bits=2, kind=0, interlaced=True), FEW * np.uint8(85)),
  'interlaced in one column': (png(DEEP[:, :1], bits=16, kind=0, interlaced=True), DEEP[:, :1]),
  'a coloured palette': (
    png(INDICES, bits=2, kind=3, before=palette(*COLOURS)),
    COLOURS[INDICES],
  ),
  'a grey palette is one channel': (
    png(INDICES, bits=8, kind=3, before=palette(*GREYS)),
    GREYS[INDICES][..., 0],
  ),
  'grey with an opaque alpha': (
    png(np.stack([GREY, np.full_like(GREY, 255)], axis=-1), bits=8, kind=4),
    GREY,
  ),
  'colours with an opaque alpha': (
    png(np.dstack([COLOUR, np.full_like(GREY, 255)]), bits=8, kind=6),
    COLOUR,
  ),
  'a transparent level that no pixel has': (
    png(FEW, bits=4, kind=0, before=chunk(b'tRNS', b'\0\x07')),
    FEW * np.uint8(17),
  ),
  'a transparent index that no pixel has': (
    png(
      INDICES,
      bits=8,
      kind=3,
      before=palette(*COLOURS, (1, 1, 1)) + chunk(b'tRNS', b'\xff\xff\xff\0'),
    ),
    COLOURS[INDICES],
  ),
}
TIFFS = {
  'grey': (GREY, {}),
  'big-endian 16 bits': (DEEP, {'byteorder': '>'}),
  '16 bits in Deflate with a predictor': (DEEP, {'compression': 'zlib', 'predictor': True}),
  'BigTIFF': (DEEP, {'bigtiff': True}),
  'float32': (REAL, {}),
  'big-endian float32 in Deflate': (REAL, {'byteorder': '>', 'compression': 'zlib'}),
  'colours': (COLOUR, {}),
  'colours of 16 bits': (DEEP_COLOUR, {}),
  'big-endian colours of 16 bits in Deflate': (
    DEEP_COLOUR,
    {'byteorder': '>', 'compression': 'zlib', 'predictor': True},
  ),
  'tiles of 16 bits': (DEEP_COLOUR, {'tile': (16, 16)}),
  'strips': (DEEP_COLOUR, {'rowsperstrip': 2, 'compression': 'zlib'}),
}
# How the pixels lie, by EXIF 2.32, table of tag 274: rows and columns as they are seen.
UPRIGHT = {
  1: lambda a: a,
  2: lambda a: a[:, ::-1],
  3: lambda a: a[::-1, ::-1],
  4: lambda a: a[::-1],
  5: lambda a: a.T,
  6: lambda a: a.T[:, ::-1],
  7: lambda a: a.T[::-1, ::-1],
  8: lambda a: a.T[::-1],
}


def with_alpha(value):
  alpha = np.full_like(GREY, 255)
  alpha[3, 4] = value
  return np.dstack([COLOUR, alpha])


def tiff(pixels, **options):
  return lambda place: write_tiff(place, pixels, **options)


def oriented(name):
  def write(place):
    exif = Image.Exif()
    exif[274] = 6
    return save(place, GREY, name, exif=exif)

  return write


def animated(name):
  return lambda place: save(
    place, GREY, name, save_all=True, append_images=[Image.fromarray(GREY.T.reshape(5, 7))]
  )


def part_of_frame(place):
  """A GIF whose only frame is smaller than its screen."""
  content = bytearray(save(place, GREY, 'a.gif').read_bytes())
  content[6:10] = struct.pack('<HH', 9, 9)
  return put(place, content, 'b.gif')


def turned_exif():
  exif = Image.Exif()
  exif[274] = 6
  return exif.tobytes().removeprefix(b'Exif\0\0')


def tiff_larger(place):
  """A TIFF whose header alone is of a large picture."""
  path = write_tiff(place, GREY, compression='zlib')
  with tifffile.TiffFile(path, mode='r+') as file:
    for name in ('ImageWidth', 'ImageLength', 'RowsPerStrip'):
      file.pages.first.tags[name].overwrite(20000)
  return path


def strips_and_tiles(place):
  """A TIFF whose RowsPerStrip, tag 278, has become TileOffsets, 324."""
  content = write_tiff(place, GREY, photometric='minisblack').read_bytes()
  tag = struct.pack('<HHI', 278, 4, 1)
  assert content.count(tag) == 1
  return put(place, content.replace(tag, struct.pack('<HHI', 324, 4, 1)), 'b.tif')


def turned_by_xmp(place):
  """A TIFF in LZW, which Pillow would turn: 5 x 7 numbers in another order."""
  tags = TiffImagePlugin.ImageFileDirectory_v2()
  tags[700] = b'<rdf:Description tiff:Orientation="6"/>'
  tags.tagtype[700] = 1
  return save(place, GREY, 'a.tif', compression='tiff_lzw', tiffinfo=tags)


def changed(pixels, name, value, **options):
  """Writes a TIFF of which one number of the header is another afterwards."""

  def write(place):
    path = write_tiff(place, pixels, **options)
    with tifffile.TiffFile(path, mode='r+') as file:
      file.pages.first.tags[name].overwrite(value)
    return path

  return write


def few_greys(place):
  """A BMP of 8 bits whose palette is black and white, of which Pillow makes pixels of 1 bit."""
  rows = np.pad(GREY & 1, ((0, 0), (0, 1)))[::-1]
  colours = b'\0\0\0\0\xff\xff\xff\0'
  size = struct.pack('<IiiHHIIiiII', 40, 7, 5, 1, 8, 0, rows.size, 0, 0, 2, 2)
  head = struct.pack('<2sIII', b'BM', 14 + 40 + len(colours) + rows.size, 0, 62)
  return put(place, head + size + colours + rows.tobytes(), 'a.bmp')


REFUSED = {
  'floating-point grey with transparency': (
    tiff(np.dstack([REAL, REAL]), photometric='minisblack', extrasamples=['unassalpha']),
    'float32 with transparency',
  ),
  'indices without a palette': (
    changed(GREY, 'PhotometricInterpretation', 3, photometric='minisblack'),
    'no palette for its indices',
  ),
  'colours of 16 bits in LZW, of which Pillow reads 8': (
    changed(DEEP_COLOUR, 'Compression', 5, photometric='rgb'),
    '3 samples of 16 bits in the compression LZW',
  ),
  'planes in LZW': (
    changed(
      np.moveaxis(COLOUR, -1, 0), 'Compression', 5, photometric='rgb', planarconfig='separate'
    ),
    '3 samples of 8 bits in the compression LZW',
  ),
  'bits in the other order': (
    lambda p: save(p, GREY, 'a.tif', tiffinfo={266: 2}),
    'samples of 8 bits, SampleFormat 1',
  ),
  'a volume in a page': (
    tiff(np.stack([GREY, GREY]), photometric='minisblack', volumetric=True, tile=(2, 16, 16)),
    'the colours MINISBLACK',
  ),
  'an index of a BMP without a colour': (
    lambda p: save(p, indexed(FEW, COLOURS), 'a.bmp'),
    'the index 3 in a palette of 3',
  ),
  'an alpha that varies': (lambda p: put(p, png(with_alpha(254), bits=8, kind=6)), 'transparent'),
  'a constant alpha that is not opaque': (
    lambda p: put(p, png(np.dstack([GREY, np.zeros_like(GREY)]), bits=8, kind=4)),
    'transparent',
  ),
  'a transparent level': (
    lambda p: put(p, png(FEW, bits=2, kind=0, before=chunk(b'tRNS', b'\0\x03'))),
    'transparent',
  ),
  'a transparent level of 16 bits': (
    lambda p: put(
      p, png(DEEP, bits=16, kind=0, before=chunk(b'tRNS', DEEP[:1, :1].astype('>u2').tobytes()))
    ),
    'transparent',
  ),
  'a transparent colour': (
    lambda p: put(
      p,
      png(COLOUR, bits=8, kind=2, before=chunk(b'tRNS', COLOUR[2, 3].astype('>u2').tobytes())),
    ),
    'transparent',
  ),
  'a transparent index': (
    lambda p: put(
      p, png(INDICES, bits=8, kind=3, before=palette(*COLOURS) + chunk(b'tRNS', b'\xff\x80'))
    ),
    'transparent',
  ),
  'a transparent index of a GIF': (
    lambda p: save(p, Image.fromarray(FEW), 'a.gif', transparency=3),
    'transparent',
  ),
  'a transparent TIFF': (tiff(with_alpha(0), photometric='rgb'), 'transparent'),
  'an index without a colour': (
    lambda p: put(p, png(FEW, bits=8, kind=3, before=palette(*COLOURS))),
    'the index 3 in a palette of 3',
  ),
  'colours of 16 bits in PNG': (
    lambda p: put(p, png(DEEP_COLOUR, bits=16, kind=2)),
    'PNG of 3 channels with 16 bits',
  ),
  'grey and alpha of 16 bits in PNG': (
    lambda p: put(p, png(DEEP_COLOUR[..., :2], bits=16, kind=4)),
    'PNG of 2 channels with 16 bits',
  ),
  'CMYK in JPEG': (
    lambda p: save(p, Image.fromarray(COLOUR).convert('CMYK'), 'a.jpg'),
    'colours CMYK; expected grey or RGB',
  ),
  'CMYK in TIFF': (
    lambda p: save(p, Image.fromarray(COLOUR).convert('CMYK'), 'a.tif'),
    'expected grey or RGB',
  ),
  'LAB': (tiff(COLOUR, photometric='cielab'), 'expected grey or RGB'),
  'YCbCr': (
    lambda p: save(p, Image.fromarray(COLOUR).convert('YCbCr'), 'a.tif'),
    'expected grey or RGB',
  ),
  'an animated GIF': (animated('a.gif'), 'has 2 frames or pages'),
  'an animated PNG': (animated('a.png'), 'has 2 frames or pages'),
  'pages of a TIFF': (
    tiff(np.stack([GREY, GREY, GREY]), photometric='minisblack'),
    'has 3 frames or pages',
  ),
  'pages that only ImageJ describes': (
    tiff(
      GREY,
      photometric='minisblack',
      description='ImageJ=1.54f\nimages=4\nslices=4\n',
      metadata=None,
    ),
    'has 4 frames or pages',
  ),
  'a frame of a part': (part_of_frame, 'covers only a part'),
  'white as 0': (tiff(GREY, photometric='miniswhite'), '0 is white'),
  'numbers with a sign': (tiff(DEEP.astype(np.int16)), 'samples of 16 bits, SampleFormat 2'),
  'numbers of 32 bits': (tiff(DEEP.astype(np.uint32)), 'samples of 32 bits'),
  'float64': (tiff(REAL.astype(np.float64)), 'samples of 64 bits'),
  'five channels': (
    tiff(np.zeros((5, 7, 5), np.uint8), photometric='rgb', planarconfig='contig'),
    'the colours 5 samples',
  ),
  'a fourth channel that is no alpha': (
    tiff(with_alpha(255), photometric='rgb', extrasamples=(0,)),
    'the colours 4 samples',
  ),
  'JPEG in TIFF': (lambda p: save(p, GREY, 'a.tif', compression='jpeg'), 'compression JPEG'),
  'fax in TIFF': (
    lambda p: save(p, GREY > 99, 'a.tif', compression='group4'),
    'compression CCITT',
  ),
  'a TIFF to be turned': (
    tiff(GREY, extratags=[(274, 'H', 1, 6, True)]),
    'Orientation 6',
  ),
  'a TIFF to be turned by its XMP': (turned_by_xmp, 'Orientation 6'),
  'a PNG to be turned': (oriented('a.png'), 'Orientation 6'),
  'a PNG to be turned by what is behind its pixels': (
    lambda p: put(p, png(GREY, bits=8, kind=0, after=chunk(b'eXIf', turned_exif()))),
    'Orientation 6',
  ),
  'a PNG with two heads': (
    lambda p: put(
      p,
      png(
        GREY, bits=8, kind=0, before=chunk(b'IHDR', struct.pack('>IIBBBBB', 7, 5, 4, 0, 0, 0, 0))
      ),
    ),
    'cannot be read .its head is not the first of its chunks alone',
  ),
  'a PNG of fewer rows than its head says': (
    lambda p: put(p, png(GREY, bits=8, kind=0, size=(7, 6))),
    r'cannot be read .its rows are 40 bytes; expected 48\)',
  ),
  'an interlaced PNG of fewer rows than its head says': (
    lambda p: put(p, png(FEW, bits=2, kind=0, size=(7, 6), interlaced=True)),
    r'cannot be read .its rows are 24 bytes; expected 27\)',
  ),
  'a PNG with EXIF that is none': (
    lambda p: put(p, png(GREY, bits=8, kind=0, after=chunk(b'eXIf', b'garbage!'))),
    'cannot be read',
  ),
  'a TIFF of channels that lie in no known order': (
    changed(COLOUR, 'PlanarConfiguration', 7, photometric='rgb', tile=(16, 16)),
    'PlanarConfiguration of 7; expected 1 or 2',
  ),
  'a tile that is too short': (
    changed(COLOUR, 'TileByteCounts', 700, photometric='rgb', tile=(16, 16)),
    'lacks a part of its pixels',
  ),
  'differences of neighbours without compression': (
    changed(DEEP, 'Compression', 1, photometric='minisblack', compression='zlib', predictor=True),
    'a Predictor of 2 without compression',
  ),
  'strips that are tiles too': (strips_and_tiles, 'or has them twice'),
  'another format': (lambda p: save(p, GREY, 'a.png', format='PPM'), 'is no PNG, TIFF'),
  'nothing': (lambda p: put(p, b''), 'is no PNG, TIFF'),
  'no pixels': (
    lambda p: put(p, png(GREY, bits=8, kind=0, size=(0, 5))),
    'cannot be read|5 x 0 pixels',
  ),
  'more pixels than are read': (
    lambda p: put(p, png(GREY, bits=8, kind=0, size=(65536, 65536))),
    '65536 x 65536 pixels; expected some, at most 2147483648',
  ),
  'more pixels than a small PNG can hold': (
    lambda p: put(p, png(GREY, bits=8, kind=0, size=(7, 1 << 24))),
    'no more than a file of its size can hold',
  ),
  'more pixels than the file can hold': (
    lambda p: put(p, png(GREY, bits=8, kind=0, size=(20000, 20000))),
    'no more than a file of its size can hold',
  ),
  'a TIFF of more pixels than the file can hold': (
    tiff_larger,
    '20000 x 20000 pixels; expected some.* no more than a file of its size can hold',
  ),
}
