"""Scans of a folder with a dataset.json: those it lists, else those in imagesTr and labelsTr.

Those in imagesTs with masks in labelsTs are the external test set, of which nothing is learned.
"""

import re
from pathlib import Path

from data_prep.data_sets import Problem
from thrifty_jax.errors import InputError
from thrifty_jax.scans import named_files, pictures
from thrifty_jax.scans.dataset_json import Description

_CHANNEL = re.compile(r'(.+)_(\d{4})', re.DOTALL)

Files = dict[str, tuple[tuple[Path, ...], Path]]  # images, one a channel, and mask of each scan


def find(raw_dir: Path, described: Description) -> tuple[Files, list[Problem]]:
  """Returns images and mask of each scan, and the files that lack their counterpart."""
  if described.listed is None:
    return _find_laid_out(raw_dir, described)
  return _find_listed(raw_dir, described)


def _find_laid_out(raw_dir: Path, described: Description) -> tuple[Files, list[Problem]]:
  """Returns image and mask of each scan in imagesTr and labelsTr, and problems."""
  scans, labels, incomplete = _find_files(raw_dir, 'Tr', described)
  alone = dict(incomplete)
  for name in sorted((scans.keys() ^ labels.keys()) - incomplete.keys()):
    alone[name] = (
      f'{scans[name][0]}: its mask {name} is missing in {raw_dir / "labelsTr"}; add it or move the '
      'scan to imagesTs.'
      if name in scans
      else f'{labels[name]}: its scan {name} is missing in {raw_dir / "imagesTr"}; add it or move '
      'the mask away.'
    )
  if not alone and described.scans not in (None, len(scans)):
    raise InputError(
      f'{raw_dir / "dataset.json"}: numTraining is {described.scans}, but imagesTr has '
      f'{len(scans)} scans; add the missing ones or correct the number.'
    )
  paired = {name: (scans[name], labels[name]) for name in scans.keys() & labels.keys()}
  return paired, _list(alone)


def find_external(raw_dir: Path, described: Description) -> tuple[Files, list[Problem]]:
  """Returns image and mask of each scan in imagesTs and labelsTs, and the masks without an image.

  Images without a mask are only to be predicted; without any mask there is no such test set.
  """
  masks = (raw_dir / 'labelsTs').glob('[!.]*')
  if not any(named_files.name_of(path, described.endings) for path in masks):
    return {}, []
  scans, labels, incomplete = _find_files(raw_dir, 'Ts', described)
  alone = {
    name: f'{labels[name]}: its scan {name} is missing in {raw_dir / "imagesTs"}; add it or move '
    'the mask away.'
    for name in labels.keys() - scans.keys()
  }
  alone |= {name: text for name, text in incomplete.items() if name in labels}
  return {name: (scans[name], labels[name]) for name in scans.keys() & labels.keys()}, _list(alone)


def _find_files(
  raw_dir: Path, part: str, described: Description
) -> tuple[dict[str, tuple[Path, ...]], dict[str, Path], dict[str, str]]:
  """Returns the images of each scan, the masks, and problems by scan or file name, of Tr or Ts."""
  images, labels = (
    named_files.find(raw_dir / name, endings=described.endings, option='--config.data.raw_dir')
    for name in (f'images{part}', f'labels{part}')
  )
  # Scans of the Decathlon have the names of their masks; channels of nnU-Net never do.
  if images.keys() & labels.keys():
    return {name: (path,) for name, path in images.items()}, labels, {}
  scans, incomplete = _channels_of(images, described, f'labels{part}')
  return scans, labels, incomplete


def _find_listed(raw_dir: Path, described: Description) -> tuple[Files, list[Problem]]:
  """Returns image and mask of each scan that dataset.json lists, and problems."""
  listed, path = described.listed or {}, raw_dir / 'dataset.json'
  listed = {
    name: (_present(images, len(described.channels)), label)
    for name, (images, label) in listed.items()
  }
  alone: dict[str, str] = {}
  for name, (images, label) in listed.items():
    if len(images) not in (1, len(described.channels)):
      alone[name] = (
        f'{path}: lists {len(images)} images of {name}; expected {len(described.channels)} '
        f'({", ".join(described.channels)}), or one with all of them. Correct the file.'
      )
    elif absent := [file for file in (*images, label) if not named_files.is_there(file)]:
      alone[name] = f'{absent[0]}: is missing, but dataset.json lists it as of {name}; add it.'
    elif strange := [f for f in (*images, label) if named_files.name_of(f) is None]:
      alone[name] = (
        f'{strange[0]}: is no volume or picture ({", ".join(named_files.ENDINGS)}), but '
        f'dataset.json lists it as of {name}. Convert it, or correct the list.'
      )
  return {name: listed[name] for name in listed.keys() - alone.keys()}, _list(alone)


def _list(problems: dict[str, str]) -> list[Problem]:
  return [Problem(name, text) for name, text in problems.items()]


def _present(images: tuple[Path, ...], channels: int) -> tuple[Path, ...]:
  """Returns the images of a list, or the files CASE_0000, ... that nnU-Net v1 lists as CASE."""
  first = images[0]
  name = named_files.name_of(first)
  if len(images) > 1 or named_files.is_there(first) or not name:
    return images
  ending = first.name[len(name) :]
  numbered = [first.with_name(f'{name}_{number:04d}{ending}') for number in range(channels)]
  return tuple(numbered) if any(map(named_files.is_there, numbered)) else images


def _channels_of(
  images: dict[str, Path], described: Description, masks: str
) -> tuple[dict[str, tuple[Path, ...]], dict[str, str]]:
  """Returns the files CASE_0000, CASE_0001, ... by case, and problems by case or file name.

  `masks` is the name of the folder with the masks.
  """
  scans: dict[str, dict[str, Path]] = {}
  problems: dict[str, str] = {}
  for name, path in images.items():
    if parts := _CHANNEL.fullmatch(name):
      scans.setdefault(parts[1], {})[parts[2]] = path
    else:
      problems[name] = (
        f'{path}: no mask in {masks} has this name, nor does it end in the number of a channel; '
        'expected a mask of the same name (Decathlon) or CASE_0000 beside a mask CASE (nnU-Net). '
        'Rename it or move it away.'
      )
  expected = [f'{number:04d}' for number in range(len(described.channels))]
  whole: dict[str, tuple[Path, ...]] = {}
  for name, found in scans.items():
    # nnU-Net stores a picture in colours in one file, and names its three channels.
    is_one = [*found] == expected[:1] and pictures.is_picture(found['0000'])
    if sorted(found) == expected or (is_one and len(expected) == 3):
      whole[name] = tuple(found[number] for number in sorted(found))
    else:
      problems[name] = (
        f'{found[min(found)]}: {name} has the channels {", ".join(sorted(found))}; expected '
        f'{", ".join(expected)} ({", ".join(described.channels)}), as in dataset.json. Add or '
        'remove files.'
      )
  return whole, problems
