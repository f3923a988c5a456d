"""data.json: the prepared slices of a run, and where they lie.

Prepare writes it into the folder of the run. Later stages open the slices through it and read no
raw scan, so a run can be copied with its slices to a machine without scans.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import files, records, words
from thrifty_jax.allowed import FROM_0
from thrifty_jax.data import splits
from thrifty_jax.errors import InputError
from thrifty_jax.scans.preprocessing import UNRECORDED, slice_settings

FILE = 'data.json'
_LONGEST = 300  # characters of a path in a message
_METADATA = 'metadata.json'  # written by TFDS beside the slices


@dataclasses.dataclass(frozen=True)
class Record:
  """Contents of a data.json."""

  folder: str  # absolute path of the folder of the slices
  from_run: str  # path of the same folder relative to that of the run
  name: str  # path of the same folder relative to that of TFDS
  raw_dir: str  # raw folder, as the config named it
  settings: dict  # all that the slices depend on, with a digest of the raw scans' contents
  choices: dict  # fields that, with the scans, decide what a config leaves open
  images: str = ''  # folders of images and masks in place of a raw folder, and the pattern of names
  masks: str = ''
  pattern: str = ''
  derivative: str = ''  # which masks and images of a folder in BIDS are used
  suffixes: tuple[str, ...] = ()
  external: Annotated[int, FROM_0] = 0  # scans of the external test set, which has no slices
  title: str = ''  # what people call the data set
  context: Annotated[int, FROM_0] = 1  # on which no slice depends, but what is trained on them


@dataclasses.dataclass(frozen=True)
class _Case:
  """What is read here of a case in the metadata of slices."""

  patient: str
  classes: tuple[int, ...] = ()  # foreground classes in its mask


def write(
  workdir: Path, folder: Path, data: ConfigDict, *, title: str = '', external: int = 0
) -> None:
  """Writes the data.json of a run whose slices, prepared by the section `data`, are in `folder`.

  `title` is what people call the data set, `external` the number of scans in the external test set
  beside the raw scans.
  """
  folder = folder.resolve()
  record = Record(
    folder=str(folder),
    from_run=os.path.relpath(folder, workdir.resolve()),
    name='/'.join(folder.parts[-3:]),  # data set, settings, version
    raw_dir=data.raw_dir,
    settings=read_metadata(folder)['settings'],
    choices=_choices(data),
    images=data.images,
    masks=data.masks,
    pattern=data.pattern,
    derivative=data.derivative,
    suffixes=tuple(data.suffixes),
    external=external,
    context=data.context,
    title=title,
  )
  records.write(workdir / FILE, record)


def pass_on(workdir: Path, place: Path, config: ConfigDict) -> None:
  """Writes the data.json of a run's training that has a folder of its own, `place`."""
  record = require(workdir)
  folder, _ = find(workdir, record, config)
  write(place, folder, config.data, title=record.title)


def read(workdir: Path) -> Record | None:
  """Reads the data.json of a run, of which there is none if nothing was prepared for it."""
  path = workdir / FILE
  remedy = 'restore it, or if nothing is trained yet remove it and run --stage=prepare again'
  if not path.exists():
    return None
  return records.parse(files.read_json(path), Record, path, remedy=remedy)


def read_title(workdir: Path, name: str) -> str:
  """Returns what people call the data set of a run, whose `data.name` is given.

  A data.json of an older version has no title; the name of the raw folder then does.
  """
  record = read(workdir)
  if record is None:
    return name
  raw = words.name_folder(Path(record.images or record.raw_dir)) if name == 'folder' else ''
  return record.title or raw or name


def require(workdir: Path) -> Record:
  """Reads the data.json of a run that must have one."""
  if (record := read(workdir)) is None:
    raise InputError(
      f'{workdir / FILE}: there is no such file, so no slices are known for this run; run '
      '--stage=prepare first'
    )
  return record


def find(workdir: Path, record: Record, config: ConfigDict) -> tuple[Path, dict[str, set[int]]]:
  """Finds the folder of a run's slices, and the foreground classes that each patient has.

  The slices are searched at their path relative to the run, at their absolute path, and by their
  name in TFDS's folder; only slices of the same scans and settings are accepted.
  """
  for place in _places(workdir, record, config):
    if _has_metadata(place):
      metadata = read_metadata(place)
      if metadata['settings'] == record.settings:
        patients: dict[str, set[int]] = {}
        cases = records.parse(metadata['cases'], tuple[_Case, ...], place / _METADATA)
        for case in cases:
          patients.setdefault(case.patient, set()).update(case.classes)
        return place.resolve(), patients
  folder, name = _shown(record.folder), _shown(record.name)
  raise InputError(
    f"{workdir / FILE}: its slices are no longer in {folder}, nor in TFDS's folder; put the folder "
    f'{name} into that of --config.data.data_dir or $TFDS_DATA_DIR, or prepare the scans again by '
    '--stage=prepare'
  )


def _has_metadata(place: Path) -> bool:
  """Returns whether slices may lie in a folder, which a damaged file may have named."""
  try:
    return (place / _METADATA).is_file()
  except (OSError, ValueError):  # of a name that is too long, or has a NUL
    return False


def _shown(path: str) -> str:
  """Returns a path of a file that may be damaged, as a part of a line."""
  return path if path.isprintable() and len(path) < _LONGEST else f'{path!r:.{_LONGEST}}'


def _places(workdir: Path, record: Record, config: ConfigDict) -> Iterator[Path]:
  """Yields the folders that may hold the slices of a run, the home folder's last."""
  yield from (workdir / record.from_run, Path(record.folder))
  for root in (config.data.data_dir, os.environ.get('TFDS_DATA_DIR')):
    if root:
      yield Path(os.path.expanduser(root)) / record.name
  yield files.in_home('tensorflow_datasets') / record.name


def fill_in(config: ConfigDict, record: Record, workdir: Path) -> None:
  """Fills in, in place, what the config leaves open with the values of the preparation."""
  if not (left := configs.left_to_data(config)):
    return
  window = configs.default().data.window
  found: dict[str, Any] = {
    **UNRECORDED,
    'window': window,
    'context': record.context,
    **record.settings,
  }
  for name in left:
    field = name.removeprefix('data.')
    try:
      config.data[field] = tuple(found[field]) if isinstance(found[field], list) else found[field]
    except (KeyError, TypeError) as error:
      raise InputError(
        f'{workdir / FILE}: has no valid {field}; restore the file, or set --config.{name}'
      ) from error
  configs.validate(config)


def find_differences(config: ConfigDict, record: Record, workdir: Path) -> list[str]:
  """Returns how the slices differ from the config, such as `image_size 32 -> 16`; [] if not.

  A value that the config leaves open is no difference as long as the same choices decide it.
  Another raw folder is one only if the config names it, as its scans may be others.
  """
  data, asked = config.data, config.copy_and_resolve_references()
  fill_in(asked, record, workdir)
  settings = UNRECORDED | record.settings
  pairs = {
    name: (settings.get(name), now)
    for name, now in (UNRECORDED | slice_settings(asked.data)).items()
  }
  if configs.left_to_data(config):
    pairs |= {name: (record.choices.get(name), now) for name, now in _choices(data).items()}
  pairs['exclude'] = record.choices.get('exclude', []), list(data.exclude)
  for name in ('raw_dir', 'images', 'masks', 'pattern', 'derivative', 'suffixes'):
    if data[name]:
      pairs[name] = getattr(record, name), data[name]
  return [f'{name} {old!r:.80} -> {new!r:.80}' for name, (old, new) in pairs.items() if old != new]


def read_metadata(folder: Path) -> dict[str, Any]:
  """Reads the metadata that prepare wrote beside the slices, which must be as it wrote them."""
  path = folder / _METADATA
  metadata = read_json(path)
  if not isinstance(metadata, dict) or not {'settings', 'cases'} <= metadata.keys():
    raise InputError(f'{path}: lacks settings or cases; {remedy(folder)}')
  expected = metadata.pop('sha256', None)  # older ones have none
  if expected not in (None, files.digest_json(metadata)):
    raise InputError(f'{path}: its checksum is another, so it was changed; {remedy(folder)}')
  return metadata


def read_json(path: Path) -> Any:
  """Reads a JSON file beside the slices."""
  try:
    return files.read_json(path)
  except InputError as error:
    raise InputError(f'{error}; {remedy(path.parent)}') from error


def remedy(folder: Path) -> str:
  """Returns what to do about slices that are damaged."""
  return f'copy the folder again, or remove {folder} and prepare again'


def _choices(data: ConfigDict) -> dict[str, Any]:
  """Returns what decides open values besides the scans: a window depends on who trains."""
  found = {'max_image_size': data.max_image_size, **splits.list_fields(data)}
  return found | ({'exclude': list(data.exclude)} if data.exclude else {})
