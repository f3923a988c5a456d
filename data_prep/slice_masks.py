"""Masks stored as one picture per slice beside a DICOM series, as in CHAOS.

Masks follow the order of the slices' file names, not that of their positions.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from thrifty_jax.errors import InputError

_NUMBER = re.compile(r'^i(\d+)\D|(\d+)$')  # i0007,0000b; IMG-0004-00007; liver_GT_007


def find_pairs(
  slices: Path, masks: Path, *, ahead: Sequence[int]
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
  """Returns the slices of a folder and their masks, both in the order of their names.

  Args:
    slices: Folder of *.dcm; hidden files are left out.
    masks: Folder of *.png; hidden files are left out.
    ahead: Allowed differences of the number in a slice's name to that of its mask; one of them
      must hold for all slices.

  Raises:
    InputError: If there are none, their counts differ, or the numbers in their names do not match.
  """
  images, labels = find_files(slices, '.dcm'), find_files(masks, '.png')
  if len(images) != len(labels) or not images:
    raise InputError(
      f'{slices.parent}: {len(images)} slices in {slices.relative_to(slices.parent)} and '
      f'{len(labels)} masks in {masks.name}; expected as many of each. Unpack CHAOS_Train_Sets.zip '
      'again.'
    )
  shifts = [_number(image) - _number(label) for image, label in zip(images, labels, strict=True)]
  for image, label, shift in zip(images, labels, shifts, strict=True):
    if shift != shifts[0] or shift not in ahead:
      raise InputError(
        f'{image}: the mask in its place is {label.name}; expected numbers that run alike, so a '
        'slice and the mask of another one are missing. Unpack CHAOS_Train_Sets.zip again.'
      )
  return images, labels


def find_files(folder: Path, ending: str) -> tuple[Path, ...]:
  """Returns a folder's files sorted by name, without hidden ones, such as macOS leaves."""
  return tuple(sorted(p for p in folder.glob(f'*{ending}') if not p.name.startswith('.')))


def read_masks(files: Sequence[Path], size: tuple[int, ...]) -> np.ndarray:
  """Returns grey values, [D, H, W], uint8, in the order of the files; a set bit becomes 255.

  Args:
    files: Pictures, one a slice.
    size: Rows and columns (H, W) of the slices.

  Raises:
    InputError: If a picture cannot be read or has another size.
  """
  return np.stack([_read_mask(path, tuple(size)) for path in files])


def _read_mask(path: Path, size: tuple[int, ...]) -> np.ndarray:
  try:
    with PIL.Image.open(path) as picture:
      mask = np.asarray(picture.convert('L'))
  except (OSError, SyntaxError, ValueError) as error:  # Pillow: a broken PNG is a SyntaxError
    raise InputError(
      f'{path}: the mask cannot be read; expected an intact PNG. Unpack it again.'
    ) from error
  if mask.shape != size:
    raise InputError(
      f'{path}: the mask has {mask.shape} pixels (H, W), its slice {size}; expected one size. '
      'Replace it.'
    )
  return mask


def _number(path: Path) -> int:
  found = _NUMBER.search(path.stem)
  if not found:
    raise InputError(
      f'{path}: has no number in its name; expected the names of the archive, as i0007,0000b.dcm, '
      'IMG-0004-00007.dcm or liver_GT_007.png. Unpack it again.'
    )
  return int(found[1] or found[2])
