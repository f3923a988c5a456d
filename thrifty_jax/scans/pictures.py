"""Pictures in two dimensions as scans of one slice, and as masks of such scans."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thrifty_jax.errors import InputError
from thrifty_jax.scans import picture_file
from thrifty_jax.scans.picture_file import Header, Picture

ENDINGS = ('.png', '.tif', '.tiff', '.jpg', '.jpeg', '.bmp', '.gif')
# Of (d, h, w, 1) to RAS: rows go to the back and columns to the left, as in an axial slice.
AFFINE = np.array(((0, 0, -1, 0), (0, -1, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1)), np.float64)
_COLOUR = re.compile('#[0-9a-f]{6}')
_SHOWN = 6  # colours or numbers that a message lists
_MOST_COLOURS = 64  # of a mask, with blurred borders among them; images have more


@dataclasses.dataclass(frozen=True)
class Legend:
  """Meaning of the pixels of masks that are pictures."""

  colours: tuple[str, ...] = ()  # '#rrggbb' of each class in order; () where masks hold numbers
  classes: int = 0  # number of classes, background among them; 0 if it is not known
  ignore: int = 0  # number of pixels without a class, above those of the classes; 0 is none

  def __post_init__(self):
    colours = [colour.lower() for colour in self.colours]
    wrong = [colour for colour in colours if not _COLOUR.fullmatch(colour)]
    if wrong or len(set(colours)) < len(colours):
      raise InputError(
        f'data.colours is {self.colours!r:.200}; expected colours as #rrggbb, each once. Correct '
        'the setting.'
      )
    count = self.classes + (self.ignore > 0)
    if self.classes and colours and len(colours) != count:
      raise InputError(
        f'data.colours has {len(colours)} colours; expected one for each of the {self.classes} '
        f'classes, the background first{", and of ignored pixels" * (count > self.classes)}. '
        'Correct the setting.'
      )


def is_picture(path: Path) -> bool:
  """Returns whether a file is a picture, by its name."""
  return path.name.lower().endswith(ENDINGS)


def read_size(path: Path) -> tuple[int, int, int]:
  """Reads height, width and number of channels, 1 or 3, from the header alone."""
  header = picture_file.read_header(path)
  return header.height, header.width, _channels(header)


def read(path: Path) -> np.ndarray:
  """Reads a picture as stored, [1, H, W] or [1, H, W, 3], uint8, uint16 or float32.

  A palette is replaced by its colours, or by its levels if all of them are grey.
  """
  pixels = _coloured(*picture_file.read(path))
  return pixels[None] if pixels.shape[-1] == 3 else pixels[None, ..., 0]


class Rows:
  """A picture in one file, or in one for each channel, of which rows are read when asked for.

  `rows[first:last]` are pixels as `read` has them, [N, W, M]; `shape` is (H, W, M).
  """

  def __init__(self, paths: Sequence[Path]):
    self._files = [picture_file.Rows(path) for path in paths]
    first, *others = [(one.header.height, one.header.width) for one in self._files]
    bands = [_channels(one.header) for one in self._files]
    for path, size, count in zip(paths[1:], others, bands[1:], strict=True):
      if size != first or count != bands[0] or count > 1:
        raise InputError(
          f'{path}: has {size[0]} x {size[1]} pixels in {count} channel(s), but {paths[0].name} '
          f'{first[0]} x {first[1]} in {bands[0]}; expected one size, and one channel in each '
          'file. Replace one of them.'
        )
    self.shape = (*first, sum(bands))

  def __getitem__(self, rows: slice) -> np.ndarray:
    first, last, _ = rows.indices(self.shape[0])
    found = [_coloured(one.header, one.read(first, last)) for one in self._files]
    return np.concatenate(found, axis=-1) if len(found) > 1 else found[0]


def read_mask(path: Path, legend: Legend) -> np.ndarray:
  """Reads the class of each pixel, [1, H, W], uint8.

  With colours each pixel has exactly one of them. Without, grey levels and indices of a palette
  are class numbers: levels where the whole palette is grey. Of exactly two classes, 0 and 255 are
  0 and 1, but as indices of colours.
  """
  picture = picture_file.read(path)
  if legend.colours:
    return _by_colour(path, picture, legend)[None]
  numbers = _numbers(path, picture)
  seen = [number for number in _seen(numbers) if not legend.ignore or number != legend.ignore]
  palette = picture.header.palette
  is_index = palette is not None and not _is_grey(palette)
  if legend.classes == 2 and not legend.ignore and not is_index and set(seen) <= {0, 255}:
    return (numbers == 255).astype(np.uint8)[None]
  blurred = picture.header.format == 'JPEG' and not set(seen) <= {0, 255}
  if blurred or max(seen, default=0) >= (legend.classes or 256):
    expected = f'0 to {legend.classes - 1}' if legend.classes else 'up to 255'
    expected += ', or 0 and 255' if legend.classes == 2 and not (legend.ignore or is_index) else ''
    expected += f', or {legend.ignore}' if legend.ignore else ''
    expected += ', or 255 with --config.data.ignore=255' if is_index and 255 in seen else ''
    listed = ', '.join(map(str, seen[:_SHOWN])) + (', ...' if len(seen) > _SHOWN else '')
    raise InputError(
      f'{path}: the mask holds {len(seen)} values ({listed}); expected class numbers, {expected}'
      f'{_blurs(picture)}. Replace the mask, or name the colour of each class in '
      '--config.data.colours.'
    )
  return numbers.astype(np.uint8)[None]


def _by_colour(path: Path, picture: Picture, legend: Legend) -> np.ndarray:
  """Returns the class of each pixel, [H, W], by its colour; refuses one that has no class."""
  pixels = _coloured(*picture)
  if pixels.dtype != np.uint8:
    raise InputError(
      f'{path}: has values of {picture.header.bits} bits; expected 8 for the colours in '
      '--config.data.colours. Convert the mask.'
    )
  classes = np.full(1 << 24, -1, np.int16)
  classes[[int(colour[1:], 16) for colour in legend.colours]] = range(len(legend.colours))
  found = np.stack([classes[_codes(row)] for row in pixels])  # by rows, as indices take 8 bytes
  strange = _codes(pixels[found < 0])
  if strange.size:
    raise InputError(
      f'{path}: {strange.size} pixels have colours without a class ({_listed(strange)}); expected '
      f'one of {", ".join(legend.colours)}{_blurs(picture)}. Correct the mask or '
      '--config.data.colours.'
    )
  return found.astype(np.uint8)


def _numbers(path: Path, picture: Picture) -> np.ndarray:
  """Returns the numbers that a mask without colours holds, [H, W], whole."""
  header, pixels = picture
  if header.palette is not None:
    return _indices_or_levels(path, pixels[..., 0], header.palette)
  number = pixels[..., 0]
  if any((number != pixels[..., band]).any() for band in range(1, pixels.shape[-1])):
    codes = _codes(pixels) if pixels.dtype == np.uint8 else None
    listed = '' if codes is None else f' ({_listed(codes)})'
    if codes is not None and len(np.unique(codes)) > _MOST_COLOURS:
      raise InputError(
        f'{path}: the mask has colours{listed}, as an image has; expected a few, or class numbers '
        'in grey or in a palette. Are the images and the masks swapped?'
      )
    raise InputError(
      f'{path}: the mask has colours{listed}; expected class numbers in grey or in a palette. Name '
      'the colour of each class, the background first: --config.data.colours='
      "\"('#000000','#ff0000')\"."
    )
  if header.bits < 8:
    return number // (255 // (2**header.bits - 1))
  if number.dtype == np.float32 and not (number == np.clip(np.rint(number), 0, 255)).all():
    raise InputError(
      f'{path}: the mask holds values that are not all whole numbers from 0 to 255; expected class '
      'numbers. Replace the mask.'
    )
  return number.astype(np.uint8) if number.dtype == np.float32 else number


def _indices_or_levels(path: Path, indices: np.ndarray, palette: np.ndarray) -> np.ndarray:
  """Returns the levels of a grey palette, the indices of a coloured one, [H, W].

  Greys that mean other classes as levels than as indices are refused: programs read them in two
  ways.
  """
  used = _seen(indices)
  levels = palette[used, 0].tolist()
  if _is_grey(palette):
    agree = levels == sorted(set(levels)) and (0 in used) == (0 in levels)
  else:
    black_and_white = _is_grey(palette[used]) and set(levels) <= {0, 255}
    agree = not black_and_white or used == [level // 255 for level in levels]
  if not agree:
    raise InputError(
      f'{path}: has a palette in which the indices {used} are the greys {levels}, so that class '
      'numbers may be misread; expected 0 as black and greys that rise. Save the mask as grey, or '
      "name its colours: --config.data.colours=\"('#000000','#ffffff')\"."
    )
  return palette[indices, 0] if _is_grey(palette) else indices


def _coloured(header: Header, pixels: np.ndarray) -> np.ndarray:
  """Returns pixels as they are seen, [H, W, 1 or 3]: a palette is replaced by its colours."""
  if header.palette is None:
    return pixels
  return header.palette[:, : _channels(header)][pixels[..., 0]]


def _channels(header: Header) -> int:
  """Returns the number of channels that a picture has as a scan."""
  if header.palette is not None:
    return 1 if _is_grey(header.palette) else 3
  return 1 if header.bands < 3 else 3


def _is_grey(colours: np.ndarray) -> bool:
  """Returns whether all colours, [N, 3], are grey."""
  return bool((colours == colours[:, :1]).all())


def _codes(pixels: np.ndarray) -> np.ndarray:
  """Returns colours of 8 bits, [..., 1 or 3], as numbers 0xrrggbb, [...]."""
  colours = np.broadcast_to(pixels, (*pixels.shape[:-1], 3)).astype(np.uint32)
  return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]


def _listed(codes: np.ndarray) -> str:
  """Returns the most frequent colours as text."""
  found, counts = np.unique(codes, return_counts=True)
  most = np.argsort(-counts, kind='stable')[:_SHOWN]
  text = ', '.join(f'#{found[index]:06x}: {counts[index]} pixels' for index in most)
  return text + (f', and {len(found) - _SHOWN} more' if len(found) > _SHOWN else '')


def _seen(numbers: np.ndarray) -> list[int]:
  """Returns the numbers of 8 or 16 bits that an array, [H, W], holds, sorted."""
  seen = np.zeros(1 << 16, bool)
  for row in numbers:
    seen[row] = True
  return np.flatnonzero(seen).tolist()


def _blurs(picture: Picture) -> str:
  return '; JPEG blurs the borders of classes' if picture.header.format == 'JPEG' else ''
