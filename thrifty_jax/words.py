"""What scans, their parts and their sizes are called: those of volumes, or those of pictures."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Folders that say nothing of a data set.
_PARTS = (
  'data',
  'image',
  'images',
  'imagestr',
  'img',
  'pictures',
  'raw',
  'scans',
  'train',
  'training',
)


@dataclasses.dataclass(frozen=True)
class Words:
  """Names of what a data set consists of, in the singular."""

  scan: str = 'scan'
  part: str = 'slice'  # what a network sees at once
  element: str = 'voxel'
  size: str = 'volume'  # of a class
  dsc: str = 'volume DSC'  # of a patient


def choose(unit: str, reduction: float = 0.0) -> Words:
  """Returns the names for scans whose lengths are in `unit`, pixels of pictures."""
  cut = {'part': 'window'} if reduction else {}
  if unit != 'pixels':
    return Words(**cut)
  pictured = {'scan': 'picture', 'part': 'picture', 'element': 'pixel', 'size': 'area'}
  return Words(**{**pictured, 'dsc': 'DSC', **cut})


def list_some(values: Sequence[object], most: int = 5) -> str:
  """Returns the first values in a line, with dots where there are more."""
  return ', '.join(map(str, values[:most])) + ', ...' * (len(values) > most)


def name_folder(path: Path) -> str:
  """Returns the name of the folder that a data set is called by, as X of X/training/images."""
  named = [part for part in path.parts[1:] if part.lower() not in _PARTS]
  return named[-1] if named else path.name


def describe_drawing(data: Any) -> str:
  """Describes what a network sees of scans, by the section `data` of a config."""
  of_pictures = data.unit == 'pixels'
  whole = 'pictures' if of_pictures else f'{data.slice_axis} slices'
  size = f'{data.image_size} x {data.image_size} pixels'
  if not data.reduction:
    return f'{whole} {"drawn whole to" if of_pictures else "of"} {size}'
  reduced = f', reduced by {data.reduction:g},' if data.reduction > 1 else ''
  return f'{whole}{reduced} in windows of {size}, which overlap by half'
