"""Draws a segmentation: slices side by side, or a picture in its own size, the classes outlined."""

import io
import itertools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw
from scipy import ndimage

from thrifty_jax import RESEARCH_USE
from thrifty_jax.scans import bands, overlays
from thrifty_jax.scans.bands import Picture

_COLUMNS = 5
_TILE = 224  # pixels of the longer side of a slice
_GAP, _FOOT = 4, 36
_LINE = 800  # pixels of the longer side of a picture from which on its lines are twice as thick
MOST_PIXELS = 1 << 24  # of a picture that is drawn in its size
_MARGIN = 3  # pixels between a letter and the border of its slice
_BORDERS = ((0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5))  # of upper, right, lower and left, (x, y)
_GROUND, _TEXT = '#101418', '#e8ecf0'


def draw_sheet(
  image: np.ndarray,
  mask: np.ndarray,
  *,
  spacing_mm: Sequence[float],
  classes: Sequence[str],
  sides: Sequence[str],
  most: int = overlays.SLICES,
) -> bytes:
  """Draws slices, evenly spaced over those with any class, as the content of a PNG file.

  Each has its number, from 1 along D, and the sides of the patient at its borders; the colours of
  the classes are below.

  Args:
    image: Intensities of a channel, [D, H, W].
    mask: Class of each voxel, [D, H, W], uint8.
    spacing_mm: Distances between voxels along D, H and W; pixels are shown in true proportion.
    classes: Names of the classes, background first.
    sides: Letters at the upper, right, lower and left border, see `volumes.find_sides`.
    most: Slices at most.
  """
  chosen = overlays.choose_slices(mask, mask, most)
  low, high = _limits(image)
  lengths = np.multiply(mask.shape[1:], spacing_mm[1:])
  height, width = np.maximum(np.round(_TILE * lengths / lengths.max()).astype(int), 1)
  columns = min(_COLUMNS, len(chosen))
  rows = -(-len(chosen) // columns)
  size = columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP + _FOOT
  sheet = Image.new('RGB', size, _GROUND)
  draw = ImageDraw.Draw(sheet)
  for place, d in enumerate(chosen):
    row, column = divmod(place, columns)
    corner = (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP))
    sheet.paste(_tile(_to_bytes(image[d], low, high), mask[d], (int(width), int(height))), corner)
    draw.text((corner[0] + 3, corner[1] + 1), str(d + 1), fill=_TEXT)
    for side, place in zip(sides, _BORDERS, strict=True):
      box = np.array(draw.textbbox((0, 0), side))
      free = np.array([width, height]) - (box[2:] - box[:2]) - 2 * _MARGIN
      at = np.array(corner) + _MARGIN + free * place - box[:2]
      draw.text((*(at + 1),), side, fill=_GROUND)  # a shadow, as a slice may be bright there
      draw.text((*at,), side, fill=_TEXT)
  left, top = float(_GAP), sheet.height - _FOOT + 2
  for name, colour in zip(classes[1:], itertools.cycle(overlays.CLASS_COLOURS), strict=False):
    draw.text((left, top), name, fill=colour)
    left += draw.textlength(name) + 12
  draw.text((_GAP, top + 16), RESEARCH_USE, fill=_TEXT)
  content = io.BytesIO()
  sheet.save(content, format='PNG', optimize=True)
  return content.getvalue()


def draw_picture(
  picture: Picture,
  mask: np.ndarray,
  *,
  colours: Sequence[str] = overlays.CLASS_COLOURS,
  most_pixels: int = MOST_PIXELS,
) -> bytes:
  """Draws a picture in its own size as the content of a PNG file.

  Every class is outlined by a line with a dark rim, which is visible on any colour. Of a picture
  beyond `most_pixels` only every second row and column is drawn, or every third, and so on.

  Args:
    picture: Pixels, [H, W, M]; three channels are colours, else the first is drawn.
    mask: Class of each pixel, [H, W], uint8.
    colours: Colours of the classes, see `overlays.line_colours`.
  """
  step = math.ceil(math.sqrt(mask.size / most_pixels))
  mask = mask[::step, ::step]
  image = overlays.pick_channels(bands.thin(picture, step), unit='pixels')
  low, high = _limits(image) if image.ndim == 2 else overlays.colour_limits(image)
  shades = np.concatenate([_to_bytes(image[rows], low, high) for rows in bands.split(*mask.shape)])
  pixels = np.array(Image.fromarray(shades).convert('RGB'))
  border = overlays.outline(mask, colours=len(colours)).astype(np.int16) - np.int16(len(colours))
  thick = 1 + max(mask.shape) // _LINE
  lines = ndimage.maximum_filter(np.maximum(border, 0), thick)
  rim = ndimage.maximum_filter(lines, 1 + 2 * thick)
  pixels[rim > 0] = ImageColor.getrgb(overlays.RIM_COLOUR)
  for number, colour in enumerate(colours, start=1):
    pixels[lines == number] = ImageColor.getrgb(colour)
  content = io.BytesIO()
  Image.fromarray(pixels).save(content, format='PNG')
  return content.getvalue()


def _limits(image: np.ndarray) -> tuple[float, float]:
  """Returns the intensities of a channel that are drawn black and white."""
  low, high = np.percentile(image, (0.5, 99.5))
  return (low, high) if low < high else (image.min(), image.max())  # where nearly all are equal


def _to_bytes(image: np.ndarray, low: float, high: float) -> np.ndarray:
  """Returns intensities from low to high as 0 to 255, uint8."""
  return (np.clip((image - low) / ((high - low) or 1), 0, 1) * 255).astype(np.uint8)


def _tile(grey: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> Image.Image:
  """Draws a slice with its classes outlined, in (width, height) pixels."""
  tile = Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert('RGB')
  enlarged = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
  border = overlays.outline(enlarged).astype(int) - len(overlays.CLASS_COLOURS)
  pixels = np.array(tile)
  for number, colour in enumerate(overlays.CLASS_COLOURS, start=1):
    pixels[border == number] = ImageColor.getrgb(colour)
  return Image.fromarray(pixels)
