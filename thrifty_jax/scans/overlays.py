"""Slices of a case as small PNG pictures: the image, and transparent masks to overlay."""

import base64
import colorsys
import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from thrifty_jax import files
from thrifty_jax.errors import InputError

SLICES = 20  # at most, per case: the page stays small
CLASS_COLOURS = (
  *('#29c7ac', '#ff9f43', '#c48bfc', '#fcfc8b', '#d40000', '#2699bf', '#bf26bf', '#b0d474'),
  *('#6e6316', '#8bfcfc', '#fc32b1', '#488265', '#9e00fc', '#fcca32', '#96871e', '#d75de8'),
)
RIM_COLOUR = '#000000'  # of the dark line around the classes, see `outline`
_MOST_COLOURS = 127  # of classes: two numbers each, and one for the rim, are bytes
_LEAST_VALUE, _LEAST_SATURATION = 0.4, 0.3  # of a colour that is seen on grey: no black, no white
DIFFERENCES = {'missed': '#4cb4ff', 'invented': '#ff5a5f', 'wrong class': '#ffd23f'}
MOST_VOXELS = 1 << 29  # per case; twice those of a thousand slices of 512 x 512
_UNREADABLE = (  # by zipfile, zlib and numpy; RuntimeError for an encrypted file
  *(OSError, ValueError, KeyError, EOFError, RuntimeError, TypeError, OverflowError),
  *(zipfile.BadZipFile, zlib.error),
)
FILL, EDGE = 92, 235  # opacity, of 255
THUMBNAIL, GREYS = 160, 32  # pixels on the longer side, levels: 200 of them stay below 3 MB
_THUMBNAIL_COLOURS = 64  # of a picture in colours, chosen for it
_GOLDEN = 0.618034  # of a turn: hues so far apart never come close to each other soon


def frames(path: Path, colours: Sequence[str] = CLASS_COLOURS) -> dict[str, Any]:
  """Draws the pictures of a case, whose file `write` wrote; see `draw_frames`."""
  image, truth, prediction = _arrays(path)
  return draw_frames(image, truth, prediction, colours)


def draw_frames(
  image: np.ndarray,
  truth: np.ndarray,
  prediction: np.ndarray,
  colours: Sequence[str] = CLASS_COLOURS,
) -> dict[str, Any]:
  """Draws the pictures of a case.

  Args:
    image: Slices, [D, H, W] or in colours [D, H, W, 3], uint8.
    truth: Class of each pixel, [D, H, W], uint8.
    prediction: Predicted class of each pixel, likewise.
    colours: Colours of the classes, see `line_colours`.

  Returns:
    Dictionary with 'slices' (their numbers in the scan, from 1, of 'total'), 'start' (the one to
    show first), 'aspect' (width over height) and a PNG as data URI for each slice under 'image',
    'truth', 'prediction' and 'difference'.
  """
  chosen = choose_slices(truth, prediction)
  classes, drawn = _class_layers(colours, coloured=image.ndim == 4)
  differences = [(colour, 215) for colour in DIFFERENCES.values()]
  pairs = [(prediction[i], truth[i]) for i in chosen]
  return {
    'total': len(image),
    'slices': [int(i) + 1 for i in chosen],
    'start': int(np.argmax([(true > 0).sum() for _, true in pairs])),
    'aspect': round(truth.shape[2] / truth.shape[1], 4),
    'image': [_data_uri(Image.fromarray(image[i])) for i in chosen],
    'truth': [_overlay(outline(true, **drawn), classes) for _, true in pairs],
    'prediction': [_overlay(outline(predicted, **drawn), classes) for predicted, _ in pairs],
    'difference': [_overlay(draw_difference(*pair), differences) for pair in pairs],
  }


def draw_largest(path: Path, colours: Sequence[str] = CLASS_COLOURS) -> np.ndarray:
  """Draws the slice of a case with most of the truth: as it is, with the truth, the prediction.

  Returns the three side by side, [H, 3 W, 3], uint8; the arguments are those of `frames`.
  """
  image, truth, prediction = _arrays(path)
  chosen = int(np.argmax((truth > 0).sum((1, 2))))
  plain = Image.fromarray(image[chosen]).convert('RGBA')
  classes, drawn = _class_layers(colours, coloured=image.ndim == 4)
  layers = [_layer(outline(one[chosen], **drawn), classes) for one in (truth, prediction)]
  shown = [plain, *(Image.alpha_composite(plain, layer.convert('RGBA')) for layer in layers)]
  return np.concatenate([np.asarray(one.convert('RGB')) for one in shown], axis=1)


def write(path: Path, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
  """Writes the .npz that `frames` reads: slices as of `pick_channels` and classes, [D, H, W].

  The slices, [D, H, W] or [D, H, W, 3], are in [0, 1].
  """
  image = np.round(255 * np.clip(image.astype(np.float32), 0, 1)).astype(np.uint8)
  masks = {'truth': truth.astype(np.uint8), 'prediction': prediction.astype(np.uint8)}
  content = io.BytesIO()
  np.savez_compressed(content, image=image, **masks)
  files.write_bytes(path, content.getvalue())


def _arrays(path: Path) -> list[np.ndarray]:
  """Reads image, [D, H, W] or [D, H, W, 3], truth and prediction, [D, H, W], uint8."""
  files.require_file(path)
  try:
    with zipfile.ZipFile(path) as archive:
      found = [_array(archive, f'{name}.npy') for name in ('image', 'truth', 'prediction')]
    image, truth, prediction = found
    if image.shape[3:] not in ((), (3,)) or not image.shape[:3] == truth.shape == prediction.shape:
      raise ValueError('image, truth and prediction have different shapes')
  except _UNREADABLE as error:
    reason = ' '.join(str(error).split())
    raise InputError(
      f'{path}: cannot be read ({reason:.100}); remove evaluate/ and run --stage=evaluate'
    ) from error
  return found


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
  """Reads an array; np.load would allocate whatever size the file claims."""
  with archive.open(name) as file:
    if np.lib.format.read_magic(file) != (1, 0):
      raise ValueError(f'{name} has another version')
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    count = math.prod(shape)
    if dtype != np.uint8 or len(shape) not in (3, 4) or min(shape) < 1 or count > MOST_VOXELS:
      raise ValueError(f'{name} is {shape} of {dtype}, expected slices of bytes')
    data = np.frombuffer(file.read(count), np.uint8)
  return data.reshape(shape, order='F' if by_columns else 'C')  # an error if it ends early


def choose_slices(truth: np.ndarray, prediction: np.ndarray, most: int = SLICES) -> np.ndarray:
  """Chooses at most so many slices, evenly over those with foreground and one on each side."""
  shown = np.flatnonzero(((truth > 0) | (prediction > 0)).any(axis=(1, 2)))
  first, last = (shown[0] - 1, shown[-1] + 1) if shown.size else (0, len(truth) - 1)
  first, last = max(first, 0), min(last, len(truth) - 1)
  count = min(most, last - first + 1)
  return np.round(np.linspace(first, last, count)).astype(int)


def class_colour(number: int) -> str:
  """Returns the colour of a class, from 1; where CLASS_COLOURS end, there are hues without end."""
  if number <= len(CLASS_COLOURS):
    return CLASS_COLOURS[number - 1]
  parts = colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.7, 0.95)
  return '#' + ''.join(f'{round(255 * part):02x}' for part in parts)


def line_colours(legend: Sequence[str]) -> tuple[str, ...]:
  """Returns the colours in which classes are drawn over scans, from class 1 on; they repeat.

  They are those of the legend, '#rrggbb' of every class, background first, where these can be seen
  on any grey, and else the usual ones.
  """
  if not 1 < len(legend) <= _MOST_COLOURS:
    return CLASS_COLOURS
  found = []
  for number, colour in enumerate(legend[1:], start=1):
    red, green, blue = ImageColor.getrgb(colour)[:3]
    _, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    seen = saturation >= _LEAST_SATURATION and value >= _LEAST_VALUE
    found.append(colour if seen else class_colour(number))
  return tuple(found)


def pick_channels(image: np.ndarray, *, unit: str) -> np.ndarray:
  """Returns what is shown of the channels of a scan, [..., M]; `unit` is that of its lengths.

  They are the colours, [..., 3], of a picture that has them, else the first channel, [...]. The
  three channels of a volume are no colours.
  """
  return image if unit == 'pixels' and image.shape[-1] == 3 else image[..., 0]


def colour_limits(image: np.ndarray) -> tuple[float, float]:
  """Returns which values of a picture in colours, [..., 3], are shown as black and as white.

  They are the same for all colours, so that hues stay. White is the largest value that the pixels
  may have, up to 255; beyond, where it cannot be told, it is their 99.5th percentile.
  """
  most = float(image.max())
  white = next((white for white in (1.0, 255.0) if most <= white), 0.0)
  return 0.0, white or float(np.percentile(image, 99.5)) or most


def outline_slice(
  image: np.ndarray,
  label: np.ndarray,
  *,
  limits: Sequence[float],
  spacing_mm: Sequence[float],
  colours: Sequence[str] = CLASS_COLOURS,
) -> str:
  """Draws a thumbnail of a slice with the borders of its mask, a PNG as data URI.

  The slice is [H, W], or [H, W, 3] in colours. The limits become black and white. Pixels of
  `spacing_mm` (height, width) become square. `colours` are those of `line_colours`.
  """
  height, width = np.multiply(label.shape, spacing_mm)
  scale = THUMBNAIL / max(height, width)
  size = max(1, round(width * scale)), max(1, round(height * scale))
  low, high = limits
  bright = np.clip((image - low) / ((high - low) or 1), 0, 1)
  draw, coloured = (_draw_colours, True) if image.ndim == 3 else (_draw_greys, False)
  shades, palette = draw(bright, size)
  enlarged = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
  mask = outline(enlarged, colours=len(colours), rim=coloured)
  border = mask.astype(int) - len(colours)  # number of its colour where above 0
  indices = np.where(border > 0, len(palette) + border - 1, shades).astype(np.uint8)
  lines = map(ImageColor.getrgb, (*colours, RIM_COLOUR) if coloured else colours)
  return _data_uri(_palette_image(indices, [*palette, *lines]))


def _draw_greys(
  bright: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, list[tuple[int, ...]]]:
  """Returns a slice in [0, 1], [H, W], resized to (width, height), as indices, and a palette."""
  scaled = Image.fromarray((bright * (GREYS - 1)).astype(np.float32))
  grey = np.round(np.asarray(scaled.resize(size, Image.Resampling.BILINEAR))).astype(np.uint8)
  return grey, [3 * (255 * level // (GREYS - 1),) for level in range(GREYS)]


def _draw_colours(
  bright: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, list[tuple[int, ...]]]:
  """Returns what `_draw_greys` does of a slice in colours, [H, W, 3]."""
  scaled = Image.fromarray(np.round(255 * bright).astype(np.uint8))
  few = scaled.resize(size, Image.Resampling.BILINEAR).quantize(
    _THUMBNAIL_COLOURS, dither=Image.Dither.NONE
  )
  flat = few.getpalette() or []
  return np.asarray(few), [*zip(flat[::3], flat[1::3], flat[2::3], strict=True)]


def draw_difference(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """Returns the differences, [S, S], uint8: 1 missed, 2 invented, 3 wrong class, else 0."""
  found = np.zeros(truth.shape, np.uint8)
  found[(truth > 0) & (prediction == 0)] = 1
  found[(truth == 0) & (prediction > 0)] = 2
  found[(truth > 0) & (prediction > 0) & (truth != prediction)] = 3
  return found


def outline(
  label: np.ndarray, *, colours: int = len(CLASS_COLOURS), rim: bool = False
) -> np.ndarray:
  """Returns the label with separate colours for pixels at a border of their class, [S, S], uint8.

  Class k is k inside and k + colours at the border; colours repeat for further classes. With a rim
  the background is 2 colours + 1 beside a class, which keeps borders visible on any colour.
  """
  padded = np.pad(label, 1, mode='edge')
  neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
  border = np.any([other != label for other in neighbours], axis=0)
  # In 16 bits, as pictures are large; a class is at most 255.
  colour = (label.astype(np.int16) - 1) % colours + 1
  beside = np.int16(2 * colours + 1) * border if rim else np.int16(0)
  return np.where(label == 0, beside, colour + np.int16(colours) * border).astype(np.uint8)


def _class_layers(
  colours: Sequence[str], *, coloured: bool
) -> tuple[list[tuple[str, int]], dict[str, Any]]:
  """Returns the colours and opacities of masks over a slice, and the options of `outline`."""
  classes = [(colour, alpha) for alpha in (FILL, EDGE) for colour in colours]
  return [*classes, (RIM_COLOUR, FILL)], {'colours': len(colours), 'rim': coloured}


def _overlay(indices: np.ndarray, colours: list[tuple[str, int]]) -> str:
  """Returns the picture of `_layer` as data URI."""
  return _data_uri(_layer(indices, colours))


def _layer(indices: np.ndarray, colours: list[tuple[str, int]]) -> Image.Image:
  """Draws colour i - 1, with its opacity, where the index is i; 0 is transparent."""
  picture = _palette_image(indices, [(0, 0, 0), *(ImageColor.getrgb(c) for c, _ in colours)])
  picture.info['transparency'] = bytes([0, *(alpha for _, alpha in colours)])
  return picture


def _palette_image(indices: np.ndarray, colours: Sequence[tuple[int, ...]]) -> Image.Image:
  picture = Image.fromarray(indices).convert('P')
  picture.putpalette([part for colour in colours for part in colour])
  return picture


def _data_uri(picture: Image.Image) -> str:
  file = io.BytesIO()
  picture.save(file, format='PNG', optimize=True)  # its info holds the transparency of the palette
  return 'data:image/png;base64,' + base64.b64encode(file.getvalue()).decode()
