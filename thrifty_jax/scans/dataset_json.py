"""The file that describes a folder of scans: dataset.json of the Decathlon and of nnU-Net.

The Medical Segmentation Decathlon writes `modality` {"0": "CT"}, `labels` {"1": "liver"} and, as
nnU-Net v1, `training` [{"image": "a.nii.gz", "label": "b.nii.gz"}]; nnU-Net v2 writes
`channel_names` {"0": "CT"}, `labels` {"liver": 1} and `file_ending`, and, where files lie
elsewhere, `dataset` {"CASE": {"images": ["a.nii.gz"], "label": "b.nii.gz"}}.

A region is "tumour": [1, 2] among the `labels`, and `regions_class_order` [1, 2] has the label by
which each region is written into a mask; "ignore" is the highest label, of voxels without a class.
"""

import dataclasses
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from thrifty_jax import files, records
from thrifty_jax import labels as meanings
from thrifty_jax.errors import InputError
from thrifty_jax.scans import named_files

_MOST_CLASSES = 255  # masks are uint8, and 255 is a voxel without a label
_LONGEST = 100  # characters of a name, which is printed


class Labels(NamedTuple):
  """Meaning of the numbers in masks, see labels.py."""

  classes: tuple[str, ...]  # names, background first; in the order of their numbers, or of regions
  regions: meanings.Regions = ()
  ignore: int = 0  # the label of voxels without a class; 0 is none


@dataclasses.dataclass(frozen=True)
class Description:
  """Contents of a dataset.json."""

  name: str  # '' if the file has none
  classes: tuple[str, ...]  # background first, in the order of their numbers or of the regions
  channels: tuple[str, ...]
  endings: tuple[str, ...]  # that the names of scans and masks may have
  scans: int | None  # number of scans with a mask, if the file states it
  # Images, one a channel, and mask of each case, in place of what lies in the folders; None if the
  # file lists none.
  listed: Mapping[str, tuple[tuple[Path, ...], Path]] | None = None
  regions: meanings.Regions = ()  # labels of each class, see labels.py
  ignore: int = 0  # label of voxels without a class; 0 is none


def read(folder: Path) -> Description:
  """Reads the dataset.json of a folder.

  It must not describe masks that cannot be learned: gaps in the numbers, regions that overlap.
  """
  path = folder / 'dataset.json'
  if not path.is_file():
    raise InputError(
      f'{folder}: no dataset.json there; expected the folder of a data set in the layout of the '
      'Medical Segmentation Decathlon or of nnU-Net v2, or DICOM. Name it by '
      '--config.data.raw_dir=FOLDER; '
      'where there is none, name folders of images and masks by --config.data.images=FOLDER and '
      '--config.data.masks=FOLDER.'
    )
  entries = files.read_json(path)
  if not isinstance(entries, dict):
    raise InputError(f'{path}: expected a JSON object with labels and channels. Correct the file.')
  ending, scans = entries.get('file_ending'), entries.get('numTraining')
  if ending not in (None, *named_files.ENDINGS):
    raise InputError(
      f'{path}: file_ending is {ending!r:.40}; expected one of {", ".join(named_files.ENDINGS)}. '
      'Convert the scans to one of these formats.'
    )
  if scans is not None and (type(scans) is not int or scans < 1):
    raise InputError(
      f'{path}: numTraining is {scans!r:.40}; expected a number of scans. Correct or remove it.'
    )
  name = str(entries.get('name') or entries.get('dataset_name') or '')
  return Description(
    name=''.join(c for c in ' '.join(name.split()) if c.isprintable())[:_LONGEST],
    **_labels(entries, 'labels', path)._asdict(),
    channels=_channels(entries, path),
    endings=(ending,) if ending else named_files.ENDINGS,
    scans=scans,
    listed=_listed(entries, path),
  )


def read_labels(path: Path) -> Labels:
  """Reads the meaning of the numbers in masks alone, as `read` does.

  The file is a dataset.json, or the classes.json that lies beside predicted masks and has `classes`
  {"1": "liver"} in place of `labels`, and `regions` [[1, 2], [2]] of these classes.
  """
  entries = files.read_json(path)
  entries = entries if isinstance(entries, dict) else {}
  if path.name == 'dataset.json':
    return _labels(entries, 'labels', path)
  found = _labels(entries, 'classes', path)
  if not entries.get('regions'):
    return found
  regions = records.parse(entries['regions'], meanings.Regions, f'{path}: regions')
  _require_regions(found.classes, regions, path)
  return found._replace(regions=regions)


def _listed(entries: dict[str, Any], path: Path) -> dict[str, tuple[tuple[Path, ...], Path]] | None:
  """Returns the files of the cases in `dataset`, else in `training`; None if there is neither.

  Their paths may be relative to the folder and name variables of the environment. Cases in
  `training` have the names of their masks.
  """
  if 'dataset' in entries:
    title, kind, image = 'dataset', dict, 'images'
    example = '{"CASE": {"images": ["imagesTr/a.nii.gz"], "label": "labelsTr/a.nii.gz"}}'
  elif 'training' in entries:
    title, kind, image = 'training', list, 'image'
    example = '[{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]'
  else:
    return None
  cases = entries[title]
  if not isinstance(cases, kind) or not cases:
    raise InputError(
      f'{path}: {title} is {cases!r:.80}; expected cases, as in {example}. Correct or remove it.'
    )
  found = {}
  for name, entry in cases.items() if isinstance(cases, dict) else [('', one) for one in cases]:
    images, label = map(entry.get, (image, 'label')) if isinstance(entry, dict) else (None, None)
    if title == 'training':
      images, name = [images] if isinstance(images, str) else images, _name_case(label)
    are_paths = isinstance(images, list) and all(isinstance(one, str) and one for one in images)
    if not (are_paths and images and isinstance(label, str) and label and _is_name(name)):
      named = f'{name!r:.60}: {entry!r:.80}' if title == 'dataset' else f'{entry!r:.80}'
      raise InputError(f'{path}: {title} has {named}; expected a case as in {example}.')
    name = unicodedata.normalize('NFC', name)
    if name in found:
      raise InputError(f'{path}: {title} has {name!r:.60} twice; expected each case once.')
    *images, label = (path.parent / os.path.expandvars(one) for one in (*images, label))
    found[name] = (tuple(images), label)
  return found


def _name_case(label: Any) -> str:
  """Returns the name of a mask's file without its ending; '' if it is no text."""
  path = Path(label if isinstance(label, str) else '')
  return named_files.name_of(path) or path.name


def _is_name(name: str) -> bool:
  return (
    name.isprintable() and not {'/', '\\'} & {*name} and not name.startswith('.') and name != ''
  )


def _labels(entries: dict[str, Any], title: str, path: Path) -> Labels:
  """Returns the meaning of the numbers in masks by `labels`, or `classes`, of a file."""
  labels = entries.get(title)
  if not isinstance(labels, dict) or not labels:
    raise InputError(
      f'{path}: {title} is {labels!r:.80}; expected the classes, as in {{"background": 0, '
      '"liver": 1}. Add them.'
    )
  if len(labels) > _MOST_CLASSES:
    raise InputError(
      f'{path}: {title} has {len(labels)} classes; expected at most {_MOST_CLASSES}. Correct it.'
    )
  pairs = [_name_and_numbers(key, value, path, title) for key, value in labels.items()]
  names = [name for name, _ in pairs]
  if not all(names) or len(set(names)) < len(names):
    raise InputError(
      f'{path}: {title} has the names {names!r:.200}; expected different ones. Correct the file.'
    )
  ignored = [numbers for name, numbers in pairs if _is_ignored(name, path, title)]
  kept = [pair for pair in pairs if pair[0] != 'ignore']
  if any(len(numbers) > 1 for _, numbers in kept):
    classes, regions = _regions(kept, entries.get('regions_class_order'), path, title)
  else:
    given = [(str(number), name) for name, numbers in kept for number in numbers]
    classes, regions = _in_order(given, title, path), ()
  ignore, highest = 0, meanings.count(len(classes), regions)
  for numbers in ignored:
    if numbers != [highest] or isinstance(labels.get('ignore'), list) or highest > _MOST_CLASSES:
      raise InputError(
        f'{path}: {title} has "ignore": {", ".join(map(str, numbers))}; expected one label above '
        f'the others, {highest}. Renumber it, in the masks too.'
      )
    ignore = highest
  return Labels(classes, regions, ignore)


def _name_and_numbers(key: str, value: Any, path: Path, title: str) -> tuple[str, list[int]]:
  """Parses "1": "liver" (Decathlon), "liver": 1 (nnU-Net v2) or a region, "tumour": [1, 2]."""
  if type(value) is int:
    return key, [value]
  if isinstance(value, list) and value and all(type(number) is int for number in value):
    return key, value
  if isinstance(value, str) and key.isdecimal() and len(key) <= len(str(_MOST_CLASSES)):
    return value, [int(key)]
  raise InputError(
    f'{path}: {title} has {key!r:.60}: {value!r:.60}; expected "NAME": NUMBER, "NUMBER": "NAME" or '
    '"NAME": [NUMBER, NUMBER]. Correct the file.'
  )


def _is_ignored(name: str, path: Path, title: str) -> bool:
  """Returns whether a name is that of the ignored label, which nnU-Net knows in small letters."""
  if name.strip().casefold() == 'ignore' and name != 'ignore':
    raise InputError(
      f'{path}: {title} has the name {name!r}, which nnU-Net takes for a class; expected "ignore" '
      'for the label of voxels that do not count, or the name of a class. Rename it.'
    )
  return name == 'ignore'


def _regions(
  pairs: list[tuple[str, list[int]]], order: Any, path: Path, title: str
) -> tuple[tuple[str, ...], meanings.Regions]:
  """Returns the names of the background and the regions, and their labels, the written first."""
  (background, *more), kept = (
    [name for name, numbers in pairs if numbers == [0]] or [''],
    [pair for pair in pairs if pair[1] != [0]],
  )
  if not background or more:
    raise InputError(f'{path}: {title} has regions, but no "background": 0. Add it.')
  names = (background, *(name for name, _ in kept))
  for name in names:
    _require_printable(name, title, path)
  are_numbers = isinstance(order, list) and all(type(number) is int for number in order)
  if not are_numbers or len(order) != len(kept):
    raise InputError(
      f'{path}: regions_class_order is {order!r:.80}; expected a label for each of the {len(kept)} '
      f'regions ({", ".join(names[1:])}), by which it is written into a mask. Correct the file.'
    )
  for (name, numbers), written in zip(kept, order, strict=True):
    if written not in numbers:
      raise InputError(
        f'{path}: regions_class_order has {written} for {name}, whose labels are '
        f'{", ".join(map(str, numbers))}; expected one of these. Correct the file.'
      )
    numbers.insert(0, numbers.pop(numbers.index(written)))
  regions = tuple(tuple(numbers) for _, numbers in kept)
  _require_regions(names, regions, path)
  return names, regions


def _require_regions(names: tuple[str, ...], regions: meanings.Regions, path: Path) -> None:
  if fault := meanings.find_fault(names, regions):
    raise InputError(
      f'{path}: {fault}. Expected regions that are nested or apart, the outer ones first. Correct '
      'the file.'
    )


def _channels(entries: dict[str, Any], path: Path) -> tuple[str, ...]:
  """Returns the names of the channels, in order; two channels may both be named MRI."""
  title = 'channel_names' if 'channel_names' in entries else 'modality'
  found = entries.get(title)
  if not isinstance(found, dict) or not found:
    raise InputError(
      f'{path}: channel_names (or modality) is {found!r:.80}; expected the image channels, as in '
      '{"0": "T2"}. Add them.'
    )
  return _in_order([(key, str(name)) for key, name in found.items()], title, path)


def _in_order(pairs: list[tuple[str, str]], title: str, path: Path) -> tuple[str, ...]:
  """Returns the names of numbered pairs; refuses gaps, and names that a terminal cannot show."""
  numbers = sorted(number for number, _ in pairs)
  if title in ('labels', 'classes') and numbers == sorted(
    str(place + 1) for place in range(len(pairs))
  ):
    raise InputError(
      f'{path}: {title} has the numbers {", ".join(numbers):.80}, without the background; expected '
      '0 too. Add "background": 0; the masks may stay as they are.'
    )
  if numbers != sorted(map(str, range(len(pairs)))):
    raise InputError(
      f'{path}: {title} has the numbers {", ".join(numbers):.80}; expected 0 to {len(pairs) - 1}, '
      'each once. Renumber the entries, and with classes the masks, in which 0 is the background.'
    )
  names = [name for _, name in sorted(pairs, key=lambda pair: int(pair[0]))]
  for name in names:
    _require_printable(name, title, path)
  return tuple(names)


def _require_printable(name: str, title: str, path: Path) -> None:
  """Refuses a name that a terminal cannot show."""
  if len(name) > _LONGEST or not name.isprintable():
    raise InputError(
      f'{path}: {title} has the name {name!r:.60}; expected at most {_LONGEST} letters without '
      'line breaks and the like. Correct the file.'
    )
