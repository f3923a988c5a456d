"""The file that describes a folder of scans: dataset.json of the Decathlon and of nnU-Net.

The Medical Segmentation Decathlon writes `modality` {"0": "CT"}, `labels` {"1": "liver"} and, as
nnU-Net v1, `training` [{"image": "a.nii.gz", "label": "b.nii.gz"}]; nnU-Net v2 writes
`channel_names` {"0": "CT"}, `labels` {"liver": 1} and `file_ending`, and, where files lie
elsewhere, `dataset` {"CASE": {"images": ["a.nii.gz"], "label": "b.nii.gz"}}.
"""

import dataclasses
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thrifty_jax import files
from thrifty_jax.errors import InputError
from thrifty_jax.scans import pictures

_MOST_CLASSES = 256  # masks are uint8
_LONGEST = 100  # characters of a name, which is printed
ENDINGS = ('.nii.gz', '.nii', '.nrrd', '.mha', '.mhd')  # of volumes
_ALL_ENDINGS = (*ENDINGS, *pictures.ENDINGS)


@dataclasses.dataclass(frozen=True)
class Description:
  """Contents of a dataset.json."""

  name: str  # '' if the file has none
  classes: tuple[str, ...]  # in the order of their numbers in the masks, background first
  channels: tuple[str, ...]
  endings: tuple[str, ...]  # that the names of scans and masks may have
  scans: int | None  # number of scans with a mask, if the file states it
  # Images, one a channel, and mask of each case, in place of what lies in the folders; None if the
  # file lists none.
  listed: Mapping[str, tuple[tuple[Path, ...], Path]] | None = None


def read(folder: Path) -> Description:
  """Reads the dataset.json of a folder.

  It must not describe masks that a network with one class a pixel cannot learn: regions, an ignored
  class, gaps in the numbers.
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
  if ending not in (None, *_ALL_ENDINGS):
    raise InputError(
      f'{path}: file_ending is {ending!r:.40}; expected one of {", ".join(_ALL_ENDINGS)}. Convert '
      'the scans to one of these formats.'
    )
  if scans is not None and (type(scans) is not int or scans < 1):
    raise InputError(
      f'{path}: numTraining is {scans!r:.40}; expected a number of scans. Correct or remove it.'
    )
  name = str(entries.get('name') or entries.get('dataset_name') or '')
  return Description(
    name=''.join(c for c in ' '.join(name.split()) if c.isprintable())[:_LONGEST],
    classes=_classes(entries.get('labels'), path),
    channels=_channels(entries, path),
    endings=(ending,) if ending else _ALL_ENDINGS,
    scans=scans,
    listed=_listed(entries, path),
  )


def read_classes(path: Path) -> tuple[str, ...]:
  """Reads the names of the classes alone, background first, as `read` does.

  The file is a dataset.json, or the classes.json that lies beside predicted masks and has `classes`
  {"1": "liver"} in place of `labels`.
  """
  entries = files.read_json(path)
  title = 'labels' if path.name == 'dataset.json' else 'classes'
  return _classes(entries.get(title) if isinstance(entries, dict) else None, path, title)


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
      images, name = [images] if isinstance(images, str) else images, _stem(label)
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


def _stem(label: Any) -> str:
  """Returns the name of a file without its ending; '' if it is no text."""
  name = Path(label).name if isinstance(label, str) else ''
  ending = next((one for one in _ALL_ENDINGS if name.lower().endswith(one)), '')
  return name.removesuffix(name[len(name) - len(ending) :])


def _is_name(name: str) -> bool:
  return (
    name.isprintable() and not {'/', '\\'} & {*name} and not name.startswith('.') and name != ''
  )


def _classes(labels: Any, path: Path, title: str = 'labels') -> tuple[str, ...]:
  """Returns the names of the classes, background first."""
  if not isinstance(labels, dict) or not labels:
    raise InputError(
      f'{path}: {title} is {labels!r:.80}; expected the classes, as in {{"background": 0, '
      '"liver": 1}. Add them.'
    )
  if 'ignore' in labels:
    raise InputError(
      f'{path}: {title} has a class "ignore", which is not built: every voxel counts. Give those '
      'voxels a class in the masks and remove the entry.'
    )
  if len(labels) > _MOST_CLASSES:
    raise InputError(
      f'{path}: {title} has {len(labels)} classes; expected at most {_MOST_CLASSES}. Correct it.'
    )
  pairs = [_number_and_name(key, value, path, title) for key, value in labels.items()]
  names = _in_order([(str(number), name) for number, name in pairs], title, path)
  if not all(names) or len(set(names)) < len(names):
    raise InputError(
      f'{path}: {title} has the names {[*names]!r:.200}; expected different ones. Correct the file.'
    )
  return names


def _number_and_name(key: str, value: Any, path: Path, title: str) -> tuple[int, str]:
  """Parses an entry of labels, "1": "liver" (Decathlon) or "liver": 1 (nnU-Net v2)."""
  if isinstance(value, list):
    raise InputError(
      f'{path}: {title} has the region {key!r:.60} of several classes, {value!r:.60}; regions may '
      'overlap and are not built. Write masks with one class a voxel and name each.'
    )
  if type(value) is int:
    return value, key
  if isinstance(value, str) and key.isdecimal() and len(key) <= len(str(_MOST_CLASSES)):
    return int(key), value
  raise InputError(
    f'{path}: {title} has {key!r:.60}: {value!r:.60}; expected "NAME": NUMBER or "NUMBER": "NAME". '
    'Correct the file.'
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
    if len(name) > _LONGEST or not name.isprintable():
      raise InputError(
        f'{path}: {title} has the name {name!r:.60}; expected at most {_LONGEST} letters without '
        'line breaks and the like. Correct the file.'
      )
  return tuple(names)
