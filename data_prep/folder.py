"""Any folder of scans in the layout of the Medical Segmentation Decathlon or of nnU-Net.

    dataset.json              names of classes and channels, see dataset_json.py
    imagesTr/CASE.nii.gz      Decathlon: one file a scan, channels on the fourth axis
    imagesTr/CASE_0000.nii.gz nnU-Net: one file a channel
    labelsTr/CASE.nii.gz      the masks
    patients.csv              optional: case,patient; keeps the scans of a patient together
    splits_final.json         nnU-Net's folds: refused, unless the config has patients of its own

Without patients.csv each scan is a patient of its own. Where dataset.json lists cases with the
paths of their files (`training`, `dataset`), these are the scans. Hidden files, and images of
imagesTs, which have no masks, are ignored; whatever else is not used is counted.

Values that the config leaves open are filled in here: classes and channels from dataset.json, slice
axis and image size from the headers of all scans (fingerprint.py). CT in every channel gets a
window, learned from the foreground of the training patients of the fold, so that two folds share
slices only if their windows are equal; set data.window to use one for all. Anything else gets the
percentiles of each scan, and nothing is learned.
"""

import csv
import dataclasses
import io
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from data_prep import data_sets, fingerprint
from thrifty_jax import config as configs
from thrifty_jax import files, records
from thrifty_jax.errors import InputError
from thrifty_jax.scans import dataset_json, sources, volumes
from thrifty_jax.scans.volumes import Case, Volume

_CHANNEL = re.compile(r'(.+)_(\d{4})')


@dataclasses.dataclass(frozen=True)
class _Window:
  """Contents of the file of a learned window."""

  window: tuple[float, float]
  training_patients: tuple[str, ...]


ABOUT = data_sets.About('Slices of a folder of scans.')


def find_cases(raw_dir: Path) -> list[Case]:
  """Returns the scans that have a mask, with all their channels."""
  described = dataset_json.read(raw_dir)
  if described.listed is not None:
    return _listed_cases(raw_dir, described)
  images, labels = (_files(raw_dir / name, described.endings) for name in ('imagesTr', 'labelsTr'))
  scans, incomplete = {name: (path,) for name, path in images.items()}, {}
  # Scans of the Decathlon have the names of their masks; channels of nnU-Net never do.
  if not images.keys() & labels.keys():
    scans, incomplete = _channels_of(images, described)
  alone = [
    f'{scans[name][0]}: its mask {name} is missing in {raw_dir / "labelsTr"}; add it or move the '
    'scan to imagesTs.'
    if name in scans
    else f'{labels[name]}: its scan {name} is missing in {raw_dir / "imagesTr"}; add it or move '
    'the mask away.'
    for name in sorted((scans.keys() ^ labels.keys()) - incomplete.keys())
  ]
  alone = [*incomplete.values(), *alone]
  if not alone and described.scans not in (None, len(scans)):
    raise InputError(
      f'{raw_dir / "dataset.json"}: numTraining is {described.scans}, but imagesTr has '
      f'{len(scans)} scans; add the missing ones or correct the number.'
    )
  pairs = sorted(scans.keys() & labels.keys())
  patients = _patients(raw_dir / 'patients.csv', pairs)
  cases = [Case(n, patients[n], image=scans[n], label=(labels[n],)) for n in pairs]
  if alone:
    raise data_sets.Unpaired(alone, cases)
  return cases


def find_unused(raw_dir: Path, cases: Sequence[Case]) -> list[str]:
  """Returns the names of what lies with scans and masks, not hidden, but belongs to no case."""
  used = {path.resolve() for case in cases for path in (*case.image, *case.label)}
  unused = []
  for folder in ('imagesTr', 'labelsTr'):
    for path in sorted((raw_dir / folder).glob('[!.]*')):
      header = path.with_suffix('.mhd').resolve() if path.suffix in ('.raw', '.zraw') else None
      if path.resolve() not in used and header not in used:
        unused.append(f'{folder}/{path.name}')
  return unused


def require_split(config: ConfigDict) -> None:
  """Refuses nnU-Net's splits beside the scans, unless the config names who validates and tests."""
  data, path = config.data, data_sets.raw_dir(config) / 'splits_final.json'
  lists = [data.validation_patients, *([data.test_patients] if data.hold_out_test else [])]
  if path.exists() and not all(lists):
    raise InputError(
      f'{path}: its folds have no test patients, so they are not used, and other patients would '
      'train here than there. Name who validates and tests by --config.data.validation_patients '
      'and --config.data.test_patients, or in splits.json in the workdir, or move the file away.'
    )


def _listed_cases(raw_dir: Path, described: dataset_json.Description) -> list[Case]:
  """Returns the cases that dataset.json lists with their files."""
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
    elif absent := [file for file in (*images, label) if not file.is_file()]:
      alone[name] = f'{absent[0]}: is missing, but dataset.json lists it as of {name}; add it.'
    elif strange := [f for f in (*images, label) if not _ending(f, dataset_json.ENDINGS)]:
      alone[name] = (
        f'{strange[0]}: is no volume ({", ".join(dataset_json.ENDINGS)}), but dataset.json lists '
        f'it as of {name}. Convert it, or correct the list.'
      )
  whole = sorted(listed.keys() - alone.keys())
  patients = _patients(raw_dir / 'patients.csv', whole)
  cases = [Case(n, patients[n], image=listed[n][0], label=(listed[n][1],)) for n in whole]
  if alone:
    raise data_sets.Unpaired([*alone.values()], cases)
  return cases


def _present(images: tuple[Path, ...], channels: int) -> tuple[Path, ...]:
  """Returns the images of a list, or the files CASE_0000, ... that nnU-Net v1 lists as CASE."""
  first = images[0]
  ending = _ending(first, dataset_json.ENDINGS)
  if len(images) > 1 or first.is_file() or not ending:
    return images
  stem = first.name[: -len(ending)]
  numbered = [
    first.with_name(f'{stem}_{number:04d}{first.name[len(stem) :]}') for number in range(channels)
  ]
  return tuple(numbered) if any(path.is_file() for path in numbered) else images


def read_case(case: Case) -> Volume:
  """Reads the channels of a scan and its mask, which must lie on one grid."""
  image, affine = sources.read_channels(case.image)
  label, label_affine = sources.read_voxels(case.label[0])
  return volumes.make_volume(
    case, image=image, affine=affine, label=label, label_affine=label_affine
  )


def read_classes(case: Case) -> list[int]:
  """Reads which foreground classes the mask of a scan has, without the scan."""
  label, _ = sources.read_voxels(case.label[0])
  return [int(value) for value in np.unique(np.rint(label)) if value > 0]


def resolve(
  config: ConfigDict, scans: data_sets.Scans, training: Sequence[str]
) -> tuple[tuple[str, str], ...]:
  """Fills in what the config leaves open; see the module and `data_sets.resolve`."""
  data = config.data
  left = [name.removeprefix('data.') for name in configs.left_to_data(config)]
  described = dataset_json.read(data_sets.raw_dir(config))
  # The check reports unusable files, all of them; here they are only left out.
  grids = fingerprint.read_grids(scans.cases)
  data.classes = data.classes or described.classes
  data.modalities = data.modalities or len(described.channels)
  if data.slice_axis == 'auto':
    data.slice_axis = fingerprint.slice_axis(grids)
  data.image_size = data.image_size or fingerprint.image_size(
    grids, axis=data.slice_axis, largest=data.max_image_size
  )
  if data.intensity == 'auto':
    tomography = all(name.strip().upper() == 'CT' for name in described.channels)
    data.intensity = 'window' if data.window or tomography else 'percentiles'
  if not data.window:
    # Where files lack their counterpart there may be no scan to learn from; training stops anyway.
    learned = data.intensity == 'window' and (training or not scans.unpaired)
    data.window = _learned(config, scans, training) if learned else configs.default().data.window
  return _found(config, described, scans.cases, grids, left)


def _files(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
  """Returns the volumes of a folder by name without ending, without hidden or other files."""
  found: dict[str, Path] = {}
  for path in sorted(folder.glob('[!.]*')):
    ending = _ending(path, endings)
    if ending is None or not path.is_file():
      continue
    # A composed and a decomposed spelling, as of macOS, are one name.
    first = found.setdefault(unicodedata.normalize('NFC', path.name[: -len(ending)]), path)
    if first != path:
      raise InputError(
        f'{path}: {first.name} has the same name but for its ending; expected each scan once. Move '
        'one away.'
      )
  if not found:
    raise InputError(
      f'{folder}: no volume there ({", ".join(endings)}); expected one or more for each scan. '
      'Copy them there or correct --config.data.raw_dir.'
    )
  return found


def _ending(path: Path, endings: Sequence[str]) -> str | None:
  """Returns which of the endings a file has, in lower or upper case; None if none."""
  return next((ending for ending in endings if path.name.lower().endswith(ending)), None)


def _channels_of(
  images: dict[str, Path], described: dataset_json.Description
) -> tuple[dict[str, tuple[Path, ...]], dict[str, str]]:
  """Returns the files CASE_0000, CASE_0001, ... by case, and problems by case or file name."""
  scans: dict[str, dict[str, Path]] = {}
  problems: dict[str, str] = {}
  for name, path in images.items():
    if parts := _CHANNEL.fullmatch(name):
      scans.setdefault(parts[1], {})[parts[2]] = path
    else:
      problems[name] = (
        f'{path}: no mask in labelsTr has this name, nor does it end in the number of a channel; '
        'expected a mask of the same name (Decathlon) or CASE_0000 beside a mask CASE (nnU-Net). '
        'Rename it or move it away.'
      )
  expected = [f'{number:04d}' for number in range(len(described.channels))]
  whole: dict[str, tuple[Path, ...]] = {}
  for name, found in scans.items():
    if sorted(found) == expected:
      whole[name] = tuple(found[number] for number in expected)
    else:
      problems[name] = (
        f'{found[min(found)]}: {name} has the channels {", ".join(sorted(found))}; expected '
        f'{", ".join(expected)} ({", ".join(described.channels)}), as in dataset.json. Add or '
        'remove files.'
      )
  return whole, problems


def _patients(path: Path, names: Sequence[str]) -> dict[str, str]:
  """Returns the patient of each case, from patients.csv; without it each case is a patient."""
  if not path.exists():
    return {name: name for name in names}
  patients: dict[str, str] = {}
  try:
    with path.open(newline='', encoding='utf-8-sig') as file:
      text = unicodedata.normalize('NFC', file.read())
      rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if any(row)]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(f'{path}: cannot be read ({error}); expected text, case,patient.') from error
  if not rows or rows[0] != ['case', 'patient']:
    raise InputError(f'{path}: expected a first line "case,patient", then one for each scan.')
  for row in rows[1:]:
    if len(row) != 2 or not all(row):
      raise InputError(
        f'{path}: has the line {",".join(row)!r:.80}; expected a case and a patient.'
      )
    if patients.setdefault(row[0], row[1]) != row[1]:
      raise InputError(f'{path}: gives {row[0]} to two patients; expected one. Correct the file.')
  if unknown := [name for name in names if name not in patients]:
    raise InputError(f'{path}: does not say whose scan {unknown[0]} is. Add a line for it.')
  return patients


def _learned(
  config: ConfigDict, scans: data_sets.Scans, training: Sequence[str]
) -> tuple[float, float]:
  """Returns the window of the training foreground, kept in a file so that scans are read once."""
  cases = [case for case in scans.cases if case.patient in training]
  name = f'window_{fingerprint.RULE}_{scans.contents.digest(cases)}.json'
  path = data_sets.data_dir(config) / config.data.name / name
  if not path.exists():
    window = fingerprint.foreground_window(cases, read_case, processes=config.data.workers)
    with files.report_unwritable(path.parent, '--config.data.data_dir'):
      records.write(path, _Window(window, tuple(sorted(training))))
  return records.read(path, _Window).window


def _found(
  config: ConfigDict,
  described: dataset_json.Description,
  cases: Sequence[Case],
  grids: fingerprint.Grids,
  left: Sequence[str],
) -> tuple[tuple[str, str], ...]:
  """Returns titles and texts for the console."""
  data = config.data
  patients = len({case.patient for case in cases})
  raw_dir = data_sets.raw_dir(config)
  grouped = (raw_dir / 'patients.csv').exists()
  whose = 'as in patients.csv' if grouped else 'each scan its own: there is no patients.csv'
  size = ' x '.join(f'{side:g}' for side in np.median(grids.shape, axis=0))
  spacing = ' x '.join(f'{step:.2f}' for step in np.median(grids.spacing_mm, axis=0))
  intensity = f'percentiles {data.percentiles[0]:g} to {data.percentiles[1]:g} of each scan'
  if data.intensity == 'window':
    intensity = f'window {data.window[0]:g} to {data.window[1]:g}'
    intensity += ', from the foreground of the training patients' * ('window' in left)
  name = described.name or raw_dir.name
  if described.listed is not None:
    whose += '; those that dataset.json lists'
  return (
    ('folder', f'{name}: {len(cases)} scans of {patients} patients, {whose}'),
    ('scans', f'{size} voxels of {spacing} mm (head-feet x back-front x left-right, medians)'),
    ('channels', ', '.join(described.channels)),
    ('classes', ', '.join(data.classes)),
    ('slices', f'{data.slice_axis}, {data.image_size} x {data.image_size} pixels'),
    ('intensity', intensity),
    ('from data', f'{", ".join(left)}; what is set in config.data wins'),
  )
