"""Pixels of PNG, TIFF, JPEG, BMP and GIF files as they are stored, and the header that says how.

A gamma and a profile of colours are passed over. A JPEG is turned as its EXIF says, as all programs
show it. What programs do not read alike is refused: transparency, several frames, white as the
lowest value, another format turned by a tag, colours other than grey and RGB.

Source: PNG, third edition (W3C, 2025); TIFF 6.0 (Adobe, 1992); Exif 2.32 (CIPA, 2019).
"""

import contextlib
import itertools
import math
import re
import struct
import threading
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile
from PIL import ExifTags, Image, ImageOps

from thrifty_jax.errors import InputError
from thrifty_jax.scans import unreadable
from thrifty_jax.scans.tiff_rows import TiffRows

_FORMATS = ('PNG', 'JPEG', 'BMP', 'GIF')  # of Pillow; TIFF goes its own way
_TIFF_STARTS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_MOST_PIXELS = 1 << 31
# Bytes of pixels for which any number of bytes in a file is enough, and as how many one in a file
# may be read: LZW, which packs closest, has 12 bits for up to 4096; Deflate, as in PNG, has 1032.
_SURELY, _MOST_PACKED, _MOST_DEFLATED = 1 << 27, 4096, 1032
_PIECE_BYTES = 1 << 20
_PNG_START = b'\x89PNG\r\n\x1a\n'
_HEAD = 30  # bytes of a file that hold what Pillow does not tell
_PNG_KIND = slice(24, 26)  # of these: bits of a sample and the kind of colour
_PNG_INTERLACED = 28  # 0 or 1
_BMP_BITS = slice(28, 30)  # bits of a pixel; of the header of OS/2, of 12 bytes, in 24 and 25
_PNG_BANDS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples of a pixel by kind of colour
# First row and column of each pass over a PNG, whole or interlaced, and the steps to the next ones.
_PNG_PASSES = (
  ((0, 0, 1, 1),),
  (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)),
    (1, 0, 2, 1),
  ),
)
_LYING = range(5, 9)  # EXIF's orientations in which rows are columns
_TURNED = range(2, 9)
_XMP_TURN = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_PLANAR = (1, 2)  # TIFF's PlanarConfiguration: by pixels, by channels
_WHITE_IS_ZERO, _PALETTE = 0, 3  # TIFF's PhotometricInterpretation, as what follows
_TIFF_COLOURS = {1: 'grey', 2: 'RGB', 3: 'palette'}
# TIFF's compressions: none and Deflate, which tifffile reads by itself; LZW and PackBits, of which
# Pillow notices where they break off.
_BY_TIFFFILE, _BY_PILLOW = (1, 8, 32946), (5, 32773)
_OF_FLOATS = 3  # TIFF's Predictor, as GDAL writes it, which Pillow alone undoes
_TIFF_KINDS = ((1, 1), (1, 2), (1, 4), (1, 8), (1, 16), (3, 32))  # SampleFormat and bits
_ERRORS = (  # of Pillow and tifffile at damaged files, beside those that all readers have
  *(SyntaxError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError),
  *(struct.error, tifffile.TiffFileError, Image.DecompressionBombError),
)
_READING = threading.Lock()


class Header(NamedTuple):
  """What the head of a file says of its picture."""

  format: str  # by its content: PNG, TIFF, JPEG, BMP or GIF
  height: int  # after turning, as the width
  width: int
  bands: int  # samples of a pixel, an alpha among them
  bits: int  # of a sample or an index
  palette: np.ndarray | None = None  # colour of each index, [N, 3], uint8


class Picture(NamedTuple):
  """Pixels of a picture."""

  header: Header
  # Without alpha, [H, W, 1 or 3], uint8, uint16 or float32: indices if there is a palette; grey of
  # fewer than 8 bits is spread over 0 to 255, as PNG has it.
  pixels: np.ndarray


def read_header(path: Path) -> Header:
  """Reads and checks the header alone."""
  with _opened(path) as (_, header):
    return header


class Rows:
  """Pixels of a file, of which a band of rows is read at a time.

  Only those rows are in memory if the file is a TIFF that tifffile decodes; Pillow decodes others
  whole, and their pixels stay as it holds them.
  """

  def __init__(self, path: Path):
    with _opened(path) as (source, header), _report_damage(path):
      if header.format == 'PNG':
        _require_all_rows(path, header)
      self._source = _open_rows(path, source)
    self.path, self.header = path, header
    is_tiff = header.format == 'TIFF'
    self._key = None if is_tiff else source.info.get('transparency')
    if header.format == 'PNG':  # only here, as EXIF may stand behind the pixels
      with _report_damage(path):
        orientation = source.getexif().get(ExifTags.Base.Orientation)
      _require_upright(path, orientation)

  def read(self, first: int, last: int) -> np.ndarray:
    """Reads the rows from `first` until before `last`, as `Picture` has them, [N, W, 1 or 3].

    They are refused if transparency hides something in them.
    """
    path, header = self.path, self.header
    with _report_damage(path):
      pixels = self._source.read(first, last)
      pixels = pixels[..., None] if pixels.ndim == 2 else pixels
      if pixels.shape != (last - first, header.width, header.bands):
        raise ValueError(f'its pixels are {pixels.shape}, but its header says otherwise')
    if header.palette is not None and pixels.max() >= len(header.palette):
      raise InputError(
        f'{path}: has the index {pixels.max()} in a palette of {len(header.palette)} colours; '
        'expected a colour for each. Export it again.'
      )
    if header.bands in (2, 4):
      alpha, pixels = pixels[..., -1], pixels[..., :-1]
      hidden = bool((alpha != np.iinfo(alpha.dtype).max).any())
    else:
      hidden = _has_key(pixels, self._key, header)
    if hidden:
      raise InputError(
        f'{path}: has transparent pixels, whose colours are not seen; expected a picture that is '
        'opaque. Export it without transparency.'
      )
    return pixels


def read(path: Path) -> Picture:
  """Reads a picture; refuses one of which transparency hides something."""
  rows = Rows(path)
  return Picture(rows.header, rows.read(0, rows.header.height))


def _has_key(pixels: np.ndarray, key: Any, header: Header) -> bool:
  """Returns whether a pixel has the colour or index that stands for transparency."""
  if key is None:
    return False
  if isinstance(key, bytes):  # the alpha of each index
    alphas = np.full(256, 255, np.uint8)
    alphas[: len(key)] = bytearray(key[:256])
    return bool((alphas[pixels] < 255).any())
  if header.palette is None and header.bits in (2, 4):  # Pillow spreads the pixels, not the key
    key *= 255 // (2**header.bits - 1)
  return bool((pixels == np.array(key)).all(axis=-1).any())


def _open_rows(path: Path, source: Any) -> 'TiffRows | _PillowRows':
  """Returns the rows of a picture that `_opened` yields, which Pillow decodes at once."""
  if not isinstance(source, tifffile.TiffPage):
    return _PillowRows(source)
  if _is_for_tifffile(source):
    return TiffRows(path, source)
  with Image.open(path, formats=('TIFF',)) as picture:
    return _PillowRows(picture)


class _PillowRows:
  """Rows of a picture that Pillow holds, without an array of the whole."""

  def __init__(self, picture: Image.Image):
    picture.load()
    if picture.format in ('JPEG', 'MPO'):  # photographs
      ImageOps.exif_transpose(picture, in_place=True)
    self._picture = picture

  def read(self, first: int, last: int) -> np.ndarray:
    """Returns the rows from `first` until before `last`, [N, W, ...]."""
    pixels = np.asarray(self._picture.crop((0, first, self._picture.width, last)))
    if pixels.dtype == bool:
      return pixels * np.uint8(255)
    # 16 bits are in the order of the file, and before Pillow 11 they are 32 bits.
    return pixels.astype(np.uint16) if pixels.dtype.kind in 'iu' and pixels.itemsize > 1 else pixels


def _is_for_tifffile(page: tifffile.TiffPage) -> bool:
  whole = page.bitspersample >= 8 and page.photometric != _PALETTE
  return page.compression in _BY_TIFFFILE and whole and page.predictor != _OF_FLOATS


@contextlib.contextmanager
def _opened(path: Path) -> Generator[tuple[Any, Header]]:
  """Opens a picture and checks its header: yields Pillow's image or tifffile's page, and it."""
  with contextlib.ExitStack() as stack:
    with _report_damage(path):
      with path.open('rb') as file:
        head = file.read(_HEAD)
      if head[:4] in _TIFF_STARTS:
        tiff = stack.enter_context(tifffile.TiffFile(path))
        _require_one(path, _count_tiff(tiff))
        source: Any = tiff.pages.first
        header = _tiff_header(path, source)
      else:
        source = stack.enter_context(Image.open(path, formats=_FORMATS))
        header = _header(path, source, head)
      _require_possible(path, header)
    yield source, header


@contextlib.contextmanager
def _lift_bound() -> Generator[None]:
  """Lifts Pillow's own bound of size, which is below that of this module, for one reader alone."""
  with _READING:
    kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
      yield
    finally:
      Image.MAX_IMAGE_PIXELS = kept


@contextlib.contextmanager
def _report_damage(path: Path) -> Generator[None]:
  """Refuses a file that the body cannot read, without messages of libraries."""
  with (
    unreadable.report_unreadable(path),
    _lift_bound(),
    unreadable.quiet(),
    unreadable.silence_libraries(),
  ):
    try:
      yield
    except Image.UnidentifiedImageError as error:
      raise ValueError('it is no PNG, TIFF, JPEG, BMP or GIF') from error
    except _ERRORS as error:
      raise ValueError(f'{type(error).__name__}: {error}') from error


def _header(path: Path, picture: Any, head: bytes) -> Header:
  """Returns the checked header of a picture that Pillow has opened."""
  name = 'JPEG' if picture.format == 'MPO' else str(picture.format)  # a photograph and a preview
  width, height = picture.size
  if name == 'JPEG':
    lies = picture.getexif().get(ExifTags.Base.Orientation) in _LYING
    height, width = (width, height) if lies else (height, width)
  else:
    _require_one(path, getattr(picture, 'n_frames', 1))
    if tuple(picture.tile[0][1]) != (0, 0, width, height):
      raise InputError(
        f'{path}: its frame covers only a part of the picture; expected all. Export it again.'
      )
  if picture.mode not in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I', 'I;16', 'I;16B'):
    raise _wrong_colours(path, picture.mode)
  bits = {'1': 1}.get(picture.mode, 8)
  bands = len(picture.getbands())
  if name == 'PNG':
    _require_one_head(path)
    bits, kind = head[_PNG_KIND]
    bands = _PNG_BANDS[kind]
    if bits == 16 and bands > 1:  # Pillow leaves out the lower 8
      raise InputError(
        f'{path}: is a PNG of {bands} channels with 16 bits; expected 8 bits, or one channel. Save '
        'it as TIFF.'
      )
  if name == 'BMP':
    _require_own_bits(path, picture.mode, head)
  return Header(name, height, width, bands, bits, _palette(picture))


def _require_own_bits(path: Path, mode: str, head: bytes) -> None:
  """Refuses a BMP whose palette is grey and short, as Pillow reads its pixels as fewer bits."""
  stored = int.from_bytes(head[_PNG_KIND if head[14] == 12 else _BMP_BITS], 'little')
  if mode in ('1', 'L') and stored != {'1': 1, 'L': 8}[mode]:
    raise InputError(
      f'{path}: is a BMP of {stored} bits with a palette of few greys; expected 8 bits with 256, '
      'or 1 bit. Save it as PNG.'
    )


def _require_one_head(path: Path) -> None:
  """Refuses a PNG whose first chunk alone is no head: Pillow takes the last one (ValueError)."""
  with path.open('rb') as file:
    names = (name for name, _ in _png_chunks(file))
    before = [*itertools.takewhile(lambda name: name != b'IDAT', names)]
  if before[:1] != [b'IHDR'] or before.count(b'IHDR') > 1:
    raise ValueError('its head is not the first of its chunks alone')


def _require_all_rows(path: Path, header: Header) -> None:
  """Refuses a PNG with fewer rows than its head says, which Pillow makes black (ValueError)."""
  found, expected, stream = 0, 0, zlib.decompressobj()
  with path.open('rb') as file:
    for y, x, down, right in _PNG_PASSES[file.read(_HEAD)[_PNG_INTERLACED]]:
      rows, columns = len(range(y, header.height, down)), len(range(x, header.width, right))
      row_bytes = 1 + math.ceil(columns * header.bands * header.bits / 8)  # the first is its filter
      expected += rows * row_bytes if columns else 0
    for name, length in _png_chunks(file):
      for start in range(0, length if name == b'IDAT' else 0, _PIECE_BYTES):
        packed = file.read(min(_PIECE_BYTES, length - start))
        while packed and found < expected:
          found += len(stream.decompress(packed, _PIECE_BYTES))
          packed = stream.unconsumed_tail
  if found < expected:
    raise ValueError(f'its rows are {found} bytes; expected {expected}')


def _png_chunks(file: BinaryIO) -> Generator[tuple[bytes, int]]:
  """Yields name and length of each chunk of a PNG, whose content is what the file reads next."""
  place = file.seek(len(_PNG_START))
  while len(head := file.read(8)) == 8:
    length, name = struct.unpack('>I4s', head)
    yield name, length
    place = file.seek(place + 8 + length + 4)


def _palette(picture: Image.Image) -> np.ndarray | None:
  """Returns the colour of each index, [N, 3], uint8; None without a palette."""
  if picture.mode != 'P' or picture.palette is None:
    return None
  probe = Image.frombytes('P', (256, 1), bytes(range(256)))
  probe.palette = picture.palette.copy()
  entry = 4 if 'X' in (picture.palette.rawmode or '') else 3
  return np.asarray(probe.convert('RGB'))[0, : len(picture.palette.palette) // entry]


def _count_tiff(tiff: tifffile.TiffFile) -> int:
  """Returns the number of pages; ImageJ may describe many and list one."""
  described = (tiff.imagej_metadata or {}).get('images', 1)
  return max(len(tiff.pages), described if isinstance(described, int) else 1)


def _tiff_header(path: Path, page: tifffile.TiffPage) -> Header:
  """Returns the checked header of a TIFF."""
  _require_upright(path, page.tags.valueof('Orientation'))
  # Pillow turns by this too.
  if in_words := _XMP_TURN.search(bytes(page.tags.valueof('XMP') or b'')):
    _require_upright(path, int(in_words[1]))
  if page.photometric == _WHITE_IS_ZERO:
    raise InputError(
      f'{path}: 0 is white in it (PhotometricInterpretation), which programs read in two ways; '
      'expected 0 as black. Invert its values and save it as BlackIsZero.'
    )
  bands, alphas = page.samplesperpixel, tuple(page.extrasamples)
  colours = 3 if page.photometric == 2 else 1
  if page.photometric not in _TIFF_COLOURS or page.imagedepth != 1:
    raise _wrong_colours(path, str(getattr(page.photometric, 'name', page.photometric)))
  if bands - len(alphas) != colours or alphas not in ((), (1,), (2,)):
    raise _wrong_colours(path, f'{bands} samples')
  if page.planarconfig not in _PLANAR:
    raise InputError(
      f'{path}: has a PlanarConfiguration of {page.planarconfig}; expected 1 or 2. Export it again.'
    )
  bits = page.bitspersample
  if (page.sampleformat, bits) not in _TIFF_KINDS or page.fillorder != 1:
    raise InputError(
      f'{path}: has samples of {bits} bits, SampleFormat {page.sampleformat}; expected whole '
      'numbers of 1 to 16 bits without sign, or float32. Convert it.'
    )
  if alphas and page.sampleformat == 3:
    raise _wrong_colours(path, 'grey as float32 with transparency')
  _require_readable(path, page)
  palette = _tiff_palette(path, page) if page.photometric == _PALETTE else None
  return Header('TIFF', page.imagelength, page.imagewidth, bands, bits, palette)


def _tiff_palette(path: Path, page: tifffile.TiffPage) -> np.ndarray:
  """Returns the colour of each index, [N, 3], uint8."""
  colours = page.colormap
  if colours is None or colours.shape != (3, 1 << page.bitspersample) or page.bitspersample > 8:
    raise InputError(f'{path}: has no palette for its indices; expected one. Export it again.')
  # 16 bits by the standard, but some programs write 8, as libtiff also finds.
  return (colours.T >> (8 if colours.max() > 255 else 0)).astype(np.uint8)


def _require_readable(path: Path, page: tifffile.TiffPage) -> None:
  """Refuses a TIFF that neither reader decodes with all bits and with a notice of damage."""
  # Pillow reads only 8 bits of several samples.
  by_pillow = page.bitspersample == 8 or page.samplesperpixel == 1
  if not _is_for_tifffile(page) and not (
    page.compression in (*_BY_TIFFFILE, *_BY_PILLOW) and by_pillow and page.planarconfig == 1
  ):
    name = getattr(page.compression, 'name', page.compression)
    raise InputError(
      f'{path}: has {page.samplesperpixel} samples of {page.bitspersample} bits in the compression '
      f'{name}; expected none, Deflate, LZW (8 bits, or grey) or PackBits. Save it without '
      'compression.'
    )
  # Of these libtiff returns the order of the machine, which Pillow takes for that of the file.
  if not _is_for_tifffile(page) and page.sampleformat == 3 and page.parent.byteorder == '>':
    raise InputError(
      f'{path}: has float32 in big-endian order, in LZW, in PackBits or with a Predictor of '
      f'{_OF_FLOATS}, which is read in two ways; expected none of these. Save it without '
      'compression.'
    )
  if page.compression == 1 and page.predictor != 1:
    raise InputError(
      f'{path}: has a Predictor of {page.predictor} without compression, which is read in two '
      'ways; expected none. Export it again.'
    )
  parts = math.prod(page.chunked)
  found = page.databytecounts, page.dataoffsets
  lacking = any(len(numbers) != parts or not all(numbers) for numbers in found)
  if page.compression == 1:  # strips end with the picture, tiles go beyond it
    whole = parts * math.prod(page.chunks) if page.is_tiled else page.size
    lacking |= sum(page.databytecounts) * 8 < whole * page.bitspersample
  if lacking or all(tag in page.tags for tag in ('StripOffsets', 'TileOffsets')):
    raise InputError(
      f'{path}: lacks a part of its pixels, or has them twice; expected all, once. Copy it again.'
    )


def _require_one(path: Path, frames: int) -> None:
  if frames != 1:
    raise InputError(
      f'{path}: has {frames} frames or pages; expected one picture. Save each as a file of its own.'
    )


def _require_upright(path: Path, orientation: Any) -> None:
  if orientation in _TURNED:
    raise InputError(
      f'{path}: a tag says that it is to be turned (Orientation {orientation}), which few programs '
      'do; expected pixels as they are seen. Turn it and save it again.'
    )


def _wrong_colours(path: Path, found: str) -> InputError:
  return InputError(
    f'{path}: has the colours {found}; expected grey or RGB. Convert it to one of these.'
  )


def _require_possible(path: Path, header: Header) -> None:
  """Refuses a size that is none, or larger than the file can hold, before memory is taken."""
  pixels = header.height * header.width
  size = pixels * header.bands * max(header.bits, 8) // 8
  most = max(_SURELY, path.stat().st_size * _MOST_PACKED)
  if header.format == 'PNG':
    size, most = pixels * header.bands * header.bits // 8, path.stat().st_size * _MOST_DEFLATED
  if not 0 < pixels <= _MOST_PIXELS or size > most:
    raise InputError(
      f'{path}: its header says {header.height} x {header.width} pixels; expected some, at most '
      f'{_MOST_PIXELS}, and no more than a file of its size can hold. Copy it again.'
    )
