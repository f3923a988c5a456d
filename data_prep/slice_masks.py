"""Masks stored as one picture per slice beside a DICOM series, in the order of its file names."""

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
  """Returns the *.dcm of one folder and the *.png of another, both in the order of their names.

  Numbers in names of slices must lead those of their masks by one of `ahead`, the same for all.
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
  return tuple(sorted(folder.glob(f'[!.]*{ending}')))


def read_masks(files: Sequence[Path], size: tuple[int, ...]) -> np.ndarray:
  """Returns the grey values of pictures of (H, W) pixels, [D, H, W], uint8; a set bit is 255."""
  masks = []
  for path in files:
    try:
      with PIL.Image.open(path) as picture:
        masks.append(np.asarray(picture.convert('L')))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow: a broken PNG is a SyntaxError
      raise InputError(
        f'{path}: the mask cannot be read; expected an intact PNG. Unpack it again.'
      ) from error
    if masks[-1].shape != size:
      raise InputError(
        f'{path}: the mask has {masks[-1].shape} pixels (H, W), its slice {size}; expected one '
        'size. Replace it.'
      )
  return np.stack(masks)


def _number(path: Path) -> int:
  found = _NUMBER.search(path.stem)
  if not found:
    raise InputError(
      f'{path}: has no number in its name; expected the names of the archive, as i0007,0000b.dcm, '
      'IMG-0004-00007.dcm or liver_GT_007.png. Unpack it again.'
    )
  return int(found[1] or found[2])
