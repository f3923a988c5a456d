"""Slices of a case as small PNG pictures: the image, and transparent masks to overlay."""

import base64
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
CLASS_COLOURS = ('#29c7ac', '#ff9f43', '#b07cff', '#5aa9ff', '#f368a6', '#c7d36f')
DIFFERENCES = {'missed': '#4cb4ff', 'invented': '#ff5a5f', 'wrong class': '#ffd23f'}
MOST_VOXELS = 1 << 29  # per case; twice those of a thousand slices of 512 x 512
_UNREADABLE = (  # by zipfile, zlib and numpy; RuntimeError for an encrypted file
  *(OSError, ValueError, KeyError, EOFError, RuntimeError, TypeError, OverflowError),
  *(zipfile.BadZipFile, zlib.error),
)
FILL, EDGE = 92, 235  # opacity, of 255
THUMBNAIL, GREYS = 160, 32  # pixels on the longer side, levels: 200 of them stay below 3 MB


def frames(path: Path) -> dict[str, Any]:
  """Draws the pictures of a case, whose file `write` wrote.

  Returns:
    Dictionary with 'slices' (their numbers in the scan, from 1, of 'total'), 'start' (the one to
    show first) and a PNG as data URI for each slice under 'image', 'truth', 'prediction' and
    'difference'.
  """
  image, truth, prediction = _arrays(path)
  chosen = choose_slices(truth, prediction)
  classes = [(colour, alpha) for alpha in (FILL, EDGE) for colour in CLASS_COLOURS]
  differences = [(colour, 215) for colour in DIFFERENCES.values()]
  pairs = [(prediction[i], truth[i]) for i in chosen]
  return {
    'total': len(image),
    'slices': [int(i) + 1 for i in chosen],
    'start': int(np.argmax([(true > 0).sum() for _, true in pairs])),
    'image': [_data_uri(Image.fromarray(image[i])) for i in chosen],
    'truth': [_overlay(outline(true), classes) for _, true in pairs],
    'prediction': [_overlay(outline(predicted), classes) for predicted, _ in pairs],
    'difference': [_overlay(draw_difference(*pair), differences) for pair in pairs],
  }


def write(path: Path, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
  """Writes the .npz that `frames` reads: slices of a channel in [0, 1] and classes, [D, S, S]."""
  image = np.round(255 * np.clip(image.astype(np.float32), 0, 1)).astype(np.uint8)
  masks = {'truth': truth.astype(np.uint8), 'prediction': prediction.astype(np.uint8)}
  content = io.BytesIO()
  np.savez_compressed(content, image=image, **masks)
  files.write_bytes(path, content.getvalue())


def _arrays(path: Path) -> list[np.ndarray]:
  """Reads image, truth and prediction, all of one shape [D, S, S], uint8."""
  files.require_file(path)
  try:
    with zipfile.ZipFile(path) as archive:
      found = [_array(archive, f'{name}.npy') for name in ('image', 'truth', 'prediction')]
    if len({array.shape for array in found}) > 1:
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
    if dtype != np.uint8 or len(shape) != 3 or min(shape) < 1 or count > MOST_VOXELS:
      raise ValueError(f'{name} is {shape} of {dtype}, expected slices of bytes')
    data = np.frombuffer(file.read(count), np.uint8)
  return data.reshape(shape, order='F' if by_columns else 'C')  # an error if it ends early


def choose_slices(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
  """Chooses at most SLICES slices, evenly over those with foreground and one more on each side."""
  shown = np.flatnonzero(((truth > 0) | (prediction > 0)).any(axis=(1, 2)))
  first, last = (shown[0] - 1, shown[-1] + 1) if shown.size else (0, len(truth) - 1)
  first, last = max(first, 0), min(last, len(truth) - 1)
  count = min(SLICES, last - first + 1)
  return np.round(np.linspace(first, last, count)).astype(int)


def outline_slice(
  image: np.ndarray,
  label: np.ndarray,
  *,
  limits: Sequence[float],
  spacing_mm: Sequence[float],
) -> str:
  """Draws a thumbnail of a slice, [H, W], with the borders of its mask, a PNG as data URI.

  The limits become black and white. Pixels of `spacing_mm` (height, width) become square.
  """
  height, width = np.multiply(image.shape, spacing_mm)
  scale = THUMBNAIL / max(height, width)
  size = max(1, round(width * scale)), max(1, round(height * scale))
  low, high = limits
  bright = np.clip((image - low) / ((high - low) or 1), 0, 1) * (GREYS - 1)
  resized = Image.fromarray(bright.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
  grey = np.round(np.asarray(resized)).astype(np.uint8)
  mask = outline(np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST)))
  border = mask.astype(int) - len(CLASS_COLOURS)  # number of its colour where above 0
  indices = np.where(border > 0, GREYS + border - 1, grey).astype(np.uint8)
  greys = [3 * (255 * level // (GREYS - 1),) for level in range(GREYS)]
  return _data_uri(_palette_image(indices, [*greys, *map(ImageColor.getrgb, CLASS_COLOURS)]))


def draw_difference(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """Returns the differences, [S, S], uint8: 1 missed, 2 invented, 3 wrong class, else 0."""
  found = np.zeros(truth.shape, np.uint8)
  found[(truth > 0) & (prediction == 0)] = 1
  found[(truth == 0) & (prediction > 0)] = 2
  found[(truth > 0) & (prediction > 0) & (truth != prediction)] = 3
  return found


def outline(label: np.ndarray) -> np.ndarray:
  """Returns the label with separate colours for pixels at a border of their class, [S, S], uint8.

  Class k is k inside and k + len(CLASS_COLOURS) at the border; colours repeat for further classes.
  """
  colours = len(CLASS_COLOURS)
  padded = np.pad(label, 1, mode='edge')
  neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
  border = np.any([other != label for other in neighbours], axis=0)
  colour = (label.astype(int) - 1) % colours + 1
  return np.where(label == 0, 0, colour + colours * border).astype(np.uint8)


def _overlay(indices: np.ndarray, colours: list[tuple[str, int]]) -> str:
  """Draws colour i - 1, with its opacity, where the index is i; 0 is transparent."""
  picture = _palette_image(indices, [(0, 0, 0), *(ImageColor.getrgb(c) for c, _ in colours)])
  picture.info['transparency'] = bytes([0, *(alpha for _, alpha in colours)])
  return _data_uri(picture)


def _palette_image(indices: np.ndarray, colours: Sequence[tuple[int, ...]]) -> Image.Image:
  picture = Image.fromarray(indices).convert('P')
  picture.putpalette([part for colour in colours for part in colour])
  return picture


def _data_uri(picture: Image.Image) -> str:
  file = io.BytesIO()
  picture.save(file, format='PNG', optimize=True)  # its info holds the transparency of the palette
  return 'data:image/png;base64,' + base64.b64encode(file.getvalue()).decode()
