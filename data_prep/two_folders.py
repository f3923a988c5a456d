"""A folder of images and a folder of masks, without a dataset.json; they may be one folder.

    --config.data.images=IMAGES/21_training.tif   --config.data.masks=MASKS/21_manual1.gif

Names pair the files by the rules of scans/pairs.py, and a scan has the name of its image. With
data.pattern, as '{case}_{channel}', an image has one channel, and a scan those of one case in the
order of their names. Only data.classes names the classes.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from data_prep import data_sets
from data_prep.data_sets import Problem
from thrifty_jax import words
from thrifty_jax.errors import InputError
from thrifty_jax.scans import named_files, pairs, pictures, sources

_LOOKED_AT = 5  # masks, for the values that an error lists
_MOST_VALUES = 20  # of masks: more are no classes
_HELP = (
  'expected equal names, or masks with a text more, as a.png and a_mask.png; where each channel '
  "has a file, set --config.data.pattern='{case}_{channel}'"
)


class Paired(NamedTuple):
  """Images and masks of two folders."""

  files: dict[str, tuple[tuple[Path, ...], Path]]  # images, one a channel, and mask of each scan
  channels: tuple[str, ...]  # their names; () if each image has all
  problems: list[Problem]  # files without a partner
  rule: str  # by which they were paired


def find(data: ConfigDict) -> Paired:
  """Pairs the images and masks of the section `data` of the config, of which none is read."""
  there, masks_there = data_sets.expand(data.images), data_sets.expand(data.masks)
  endings = named_files.ENDINGS
  images = named_files.find(there, endings=endings, option='--config.data.images')
  masks = named_files.find(masks_there, endings=endings, option='--config.data.masks')
  is_one = there.resolve() == masks_there.resolve()
  if is_one and data.pattern:
    raise InputError(
      f'{there}: is named for images and masks, but by data.pattern each channel has a file; '
      'expected the masks in a folder of their own. Move them.'
    )
  scans, channels, problems = _group(images, data.pattern, there)
  try:
    pairing = pairs.pair_within([*scans]) if is_one else pairs.pair([*scans], [*masks])
  except pairs.AmbiguousError as error:
    raise InputError(f'{masks_there}: {error}; {_HELP}. Rename or move files.') from error
  if not pairing.masks:
    names = [path.name for found in (masks, images) for path in list(found.values())[-1:]]
    raise InputError(f'{masks_there}: no mask pairs with an image: {" and ".join(names)}; {_HELP}.')
  for name in sorted(scans.keys() - pairing.masks.keys() - problems.keys()):
    if not (is_one and name in pairing.masks.values()):
      problems[name] = _lonely(scans[name][0], 'mask', masks_there, pairing.rule)
  alone = [Problem(name, text) for name, text in problems.items()]
  for name in sorted(masks.keys() - {*pairing.masks.values()}):
    if not is_one:
      alone.append(Problem(name, _lonely(masks[name], 'image', there, pairing.rule)))
  files = {
    name: (scans[name], masks[mask]) for name, mask in pairing.masks.items() if name not in problems
  }
  return Paired(files, channels, alone, pairing.rule)


def ask_classes(data: ConfigDict, masks: Sequence[Path]) -> str:
  """Returns the words by which an error asks for data.classes: what the first masks hold."""
  values, held, option = [*range(len(data.colours))], 'data.colours is set', ''
  if not data.colours:
    values = sorted(
      {n for path in masks[:_LOOKED_AT] for n in np.unique(_read_mask(path)).tolist()}
    )
    held = f'the first masks hold {words.list_some([f"{n:g}" for n in values])}'
    if len(values) > _MOST_VALUES or max(values) > 255:
      return (
        f'data.classes is not set, and {held}, {len(values)} values; expected few class numbers, '
        'from 0 to 255'
      )
    if not pictures.is_picture(masks[0]):
      values = [*range(int(max(values)) + 1)]  # a number that is absent has a name too
    elif values == [0, 255]:
      option = (
        """ (black is the background, unless --config.data.colours="('#ffffff','#000000')")"""
      )
    elif values != [*range(len(values))]:
      colours = ','.join(f"'#{n:02x}{n:02x}{n:02x}'" for n in values)
      option = f' --config.data.colours="({colours})"'
  names = ','.join(["'background'", *(f"'class {n}'" for n in range(1, max(len(values), 2)))])
  return (
    f'data.classes is not set, and {held}; name the class of each, the background first, as in '
    f'--config.data.classes="({names})"{option}'
  )


def _read_mask(path: Path) -> np.ndarray:
  if pictures.is_picture(path):
    return pictures.read_mask(path, pictures.Legend())
  return np.nan_to_num(sources.read_voxels(path)[0])


def _lonely(path: Path, partner: str, folder: Path, rule: str) -> str:
  return (
    f'{path}: its {partner} is missing in {folder}; files are paired {rule}. Add it or move the '
    'file away.'
  )


def _group(
  images: Mapping[str, Path], pattern: str, folder: Path
) -> tuple[dict[str, tuple[Path, ...]], tuple[str, ...], dict[str, str]]:
  """Returns the images of each scan, names of the channels, and problems by scan or file name."""
  if not pattern:
    return {name: (path,) for name, path in images.items()}, (), {}
  # The longest name of a case that leaves one of a channel.
  expression = re.escape(pattern).replace(r'\{case\}', '(?P<case>.+)')
  expression = expression.replace(r'\{channel\}', '(?P<channel>.+?)')
  scans: dict[str, dict[str, Path]] = {}
  problems: dict[str, str] = {}
  for name, path in images.items():
    if parts := re.fullmatch(expression, name):
      scans.setdefault(parts['case'], {})[parts['channel']] = path
    else:
      problems[name] = (
        f'{path}: has no name as data.pattern, {pattern}, with its ending; rename it or move it '
        'away.'
      )
  if not scans:
    raise InputError(f'{folder}: {next(iter(problems.values()))}')
  channels = _in_order({channel for found in scans.values() for channel in found})
  for name, found in scans.items():
    if missing := [channel for channel in channels if channel not in found]:
      problems[name] = (
        f'{next(iter(found.values()))}: the channel {", ".join(missing)} of {name} is missing, '
        'which others have by data.pattern; add or remove files.'
      )
  files = {
    name: tuple(found[one] for one in channels if one in found) for name, found in scans.items()
  }
  return files, channels, problems


def _in_order(names: Collection[str]) -> tuple[str, ...]:
  """Returns names sorted, numbers first and by their value."""
  words = sorted(name for name in names if not name.isdecimal())
  return (*sorted({*names} - {*words}, key=int), *words)
