"""The file that describes a folder of scans: dataset.json of the Decathlon and of nnU-Net.

The Medical Segmentation Decathlon writes `modality` {"0": "CT"} and `labels` {"1": "liver"};
nnU-Net v2 writes `channel_names` {"0": "CT"}, `labels` {"liver": 1} and `file_ending`.
"""

import dataclasses
from pathlib import Path
from typing import Any

from thrifty_jax import files
from thrifty_jax.errors import InputError

_MOST_CLASSES = 256  # masks are uint8
_LONGEST = 100  # characters of a name, which is printed
ENDINGS = ('.nii.gz', '.nii', '.nrrd', '.mha', '.mhd')


@dataclasses.dataclass(frozen=True)
class Description:
  """Contents of a dataset.json.

  Attributes:
    name: Name of the data set; '' if the file has none.
    classes: Names in the order of their numbers in the masks, background first.
    channels: Names of the image channels, in order.
    endings: Endings of the names of scans and masks.
    scans: Number of scans with a mask, or None if the file does not state it.
  """

  name: str
  classes: tuple[str, ...]
  channels: tuple[str, ...]
  endings: tuple[str, ...]
  scans: int | None


def read(folder: Path) -> Description:
  """Reads the dataset.json of a folder.

  Raises:
    InputError: If it is missing, is not JSON, lacks an entry, or describes masks that a network
      with one class a pixel cannot learn: regions, an ignored class, gaps in the numbers.
  """
  path = folder / 'dataset.json'
  if not path.is_file():
    raise InputError(
      f'{folder}: no dataset.json there; expected the folder of a data set in the layout of the '
      'Medical Segmentation Decathlon or of nnU-Net v2. Name it by --config.data.raw_dir=FOLDER.'
    )
  entries = files.read_json(path)
  if not isinstance(entries, dict):
    raise InputError(f'{path}: expected a JSON object with labels and channels. Correct the file.')
  name = entries.get('name') or entries.get('dataset_name') or ''
  return Description(
    name=''.join(c for c in ' '.join(str(name).split()) if c.isprintable())[:_LONGEST],
    classes=_classes(entries.get('labels'), path),
    channels=_channels(entries, path),
    endings=_endings(entries.get('file_ending'), path),
    scans=_scans(entries.get('numTraining'), path),
  )


def _classes(labels: Any, path: Path) -> tuple[str, ...]:
  """Returns the names of the classes, background first."""
  if not isinstance(labels, dict) or not labels:
    raise InputError(
      f'{path}: labels is {labels!r:.80}; expected the classes, as in {{"background": 0, '
      '"liver": 1}. Add them.'
    )
  if 'ignore' in labels:
    raise InputError(
      f'{path}: labels has a class "ignore", which is not built: every voxel counts. Give those '
      'voxels a class in the masks and remove the entry.'
    )
  if len(labels) > _MOST_CLASSES:
    raise InputError(
      f'{path}: labels has {len(labels)} classes; expected at most {_MOST_CLASSES}. Correct it.'
    )
  pairs = [_number_and_name(key, value, path) for key, value in labels.items()]
  numbers = sorted(number for number, _ in pairs)
  if numbers != list(range(len(pairs))):
    raise InputError(
      f'{path}: labels has the numbers {str(numbers)[1:-1]:.80}; expected 0 (the background) '
      f'to {len(pairs) - 1}, each once. Renumber the masks and the file.'
    )
  return _names([name for _, name in sorted(pairs)], 'labels', path)


def _number_and_name(key: str, value: Any, path: Path) -> tuple[int, str]:
  """Parses an entry of labels, "1": "liver" (Decathlon) or "liver": 1 (nnU-Net v2)."""
  if isinstance(value, list):
    raise InputError(
      f'{path}: labels has the region {key!r:.60} of several classes, {value!r:.60}; regions may '
      'overlap and are not built. Write masks with one class a voxel and name each.'
    )
  if isinstance(value, int) and not isinstance(value, bool):
    return value, key
  if isinstance(value, str) and key.isdecimal() and len(key) <= len(str(_MOST_CLASSES)):
    return int(key), value
  raise InputError(
    f'{path}: labels has {key!r:.60}: {value!r:.60}; expected "NAME": NUMBER or "NUMBER": "NAME". '
    'Correct the file.'
  )


def _channels(entries: dict[str, Any], path: Path) -> tuple[str, ...]:
  """Returns the names of the channels, in order."""
  title = 'channel_names' if 'channel_names' in entries else 'modality'
  found = entries.get(title)
  if not isinstance(found, dict) or not found:
    raise InputError(
      f'{path}: channel_names (or modality) is {found!r:.80}; expected the image channels, as in '
      '{"0": "T2"}. Add them.'
    )
  if sorted(found) != sorted(str(number) for number in range(len(found))):
    numbers = str(sorted(found))[1:-1]
    raise InputError(
      f'{path}: {title} has the numbers {numbers:.80}; expected 0 to {len(found) - 1}. Correct the '
      'file.'
    )
  # Two channels may both be named MRI.
  return _printable([str(found[str(number)]) for number in range(len(found))], title, path)


def _endings(ending: Any, path: Path) -> tuple[str, ...]:
  if ending is None:
    return ENDINGS
  if ending not in ENDINGS:
    raise InputError(
      f'{path}: file_ending is {ending!r:.40}; expected one of {", ".join(ENDINGS)}. Convert the '
      'scans to volumes in one of these formats.'
    )
  return (ending,)


def _scans(count: Any, path: Path) -> int | None:
  if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
    raise InputError(
      f'{path}: numTraining is {count!r:.40}; expected a number of scans. Correct or remove it.'
    )
  return count


def _names(names: list[str], title: str, path: Path) -> tuple[str, ...]:
  if not all(names) or len(set(names)) < len(names):
    raise InputError(
      f'{path}: {title} has the names {names!r:.200}; expected different ones. Correct the file.'
    )
  return _printable(names, title, path)


def _printable(names: list[str], title: str, path: Path) -> tuple[str, ...]:
  """Returns the names; refuses long ones and ones with control characters for a terminal."""
  for name in names:
    if len(name) > _LONGEST or not name.isprintable():
      raise InputError(
        f'{path}: {title} has the name {name!r:.60}; expected at most {_LONGEST} letters, no line '
        'breaks and the like. Correct the file.'
      )
  return tuple(names)
