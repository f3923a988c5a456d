"""Pictures in two dimensions: read as scans of one slice, and as masks.

Values are as stored, without regard to a gamma or a profile of colours. What a picture does not say
clearly is refused: transparency, several frames, colours other than grey and RGB.

Source: PNG, third edition (W3C, 2025); TIFF 6.0 (Adobe, 1992).
"""

import contextlib
import dataclasses
from collections.abc import Generator
from pathlib import Path

import numpy as np
from PIL import Image

from thrifty_jax.errors import InputError

ENDINGS = ('.png', '.tif', '.tiff', '.jpg', '.jpeg', '.bmp', '.gif')
# Of (d, h, w, 1) to RAS: rows go to the back and columns to the left, as in an axial slice.
AFFINE = np.array(((0, 0, -1, 0), (0, -1, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1)), np.float64)
_FORMATS = ('PNG', 'TIFF', 'JPEG', 'BMP', 'GIF')


@dataclasses.dataclass(frozen=True)
class Legend:
  """Meaning of the pixels of masks that are pictures."""

  colours: tuple[str, ...] = ()  # '#rrggbb' of each class in order; () where masks hold numbers
  classes: int = 0  # number of classes, background among them; 0 if it is not known


def is_picture(path: Path) -> bool:
  """Returns whether a file is a picture, by its name."""
  return path.name.lower().endswith(ENDINGS)


def read(path: Path) -> np.ndarray:
  """Reads a picture as stored, [1, H, W] or [1, H, W, 3], uint8, uint16 or float32."""
  with _open(path) as picture:
    if picture.mode == 'P':
      picture = picture.convert('RGB')
    return np.asarray(picture.convert('L') if picture.mode == '1' else picture)[None]


def read_size(path: Path) -> tuple[int, int, int]:
  """Reads height, width and number of channels from the header alone."""
  with _open(path) as picture:
    return picture.height, picture.width, 1 if picture.mode in ('1', 'L', 'I;16', 'F') else 3


def read_mask(path: Path, legend: Legend) -> np.ndarray:
  """Reads the class of each pixel, [1, H, W], uint8."""
  stored = read(path)
  if stored.ndim == 4:
    stored = stored[..., 0]
  if legend.classes == 2 and set(np.unique(stored)) <= {0, 255}:
    stored = stored // 255
  return stored.astype(np.uint8)


@contextlib.contextmanager
def _open(path: Path) -> Generator[Image.Image]:
  try:
    with Image.open(path, formats=_FORMATS) as picture:
      yield picture
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error}).') from error
