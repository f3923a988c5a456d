"""What the numbers in masks of BIDS mean, and how these are read.

A dseg has the numbers that dseg.tsv names, in its columns index and name; the file lies beside it
or above, up to the folder of the pipeline. A mask is 1 inside and 0 outside; several of them, each
with label-NAME, are the classes of a scan.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep import bids_files
from data_prep.bids_files import File
from thrifty_jax.errors import InputError
from thrifty_jax.scans import sources, volumes
from thrifty_jax.scans.volumes import Case
from thrifty_jax.words import list_some

_MOST_CLASSES = 255  # masks are uint8, and 255 is a voxel without a label
_LONGEST, _DIGITS = 100, 5  # characters of a name and of a number
_ROUNDING = 1e-3  # of a class number, as scaling leaves it


class Meaning(NamedTuple):
  """Meaning of the numbers in masks of one kind."""

  classes: tuple[str, ...]  # background first; () if nothing names them
  values: tuple[int, ...]  # number of each class in a file; () if nothing names them
  labels: tuple[str, ...] = ()  # of the files of a scan, one a class; () where one file has all


def find_meaning(pipeline: Path, masks: Sequence[File], classes: Sequence[str]) -> Meaning:
  """Returns the meaning of masks of one kind; `classes` are data.classes, () if they are not set.

  An InputError says that there are no such classes, or that files contradict one another.
  """
  labels = sorted({mask.entities['label'] for mask in masks if 'label' in mask.entities})
  if labels:
    named = tuple(classes) or ('background', *labels)
    _require_known(named, labels, f'{pipeline}: masks are label-')
    return Meaning(named, (0, 1), named[1:])
  if masks[0].suffix == 'dseg':
    return _find_numbers(pipeline, masks, classes)
  named = tuple(classes) or ('background', masks[0].entities.get('desc', 'foreground'))
  if len(named) != 2:
    raise InputError(
      f'{masks[0].path}: is a mask of one class, but data.classes has {len(named)}, '
      f'{", ".join(named):.200}; expected the background and a class. Correct it.'
    )
  return Meaning(named, (0, 1))


def order(masks: Sequence[File], labels: Sequence[str]) -> tuple[Path, ...]:
  """Returns the masks of a scan: one, or one for each label."""
  found: dict[str, Path] = {}
  for mask in masks:
    first = found.setdefault(mask.entities.get('label', ''), mask.path)
    if first != mask.path:
      raise InputError(
        f'{mask.path}: {first.name} is a mask of {mask.scan} too; expected one. Move one away.'
      )
  if missing := [label for label in labels if label not in found]:
    raise InputError(
      f'{masks[0].path}: the mask label-{missing[0]} of {masks[0].scan} is missing, which others '
      'have; add it, all 0 where there is nothing of it.'
    )
  return tuple(found[label] for label in labels or found)


def read(case: Case) -> tuple[np.ndarray, np.ndarray]:
  """Reads the mask of a scan that has `values`, or its masks of one class each.

  Returns:
    Class of each voxel, [D, H, W], uint8, and the affine of (d, h, w) to RAS millimetres, [4, 4].
  """
  first = case.label[0]
  voxels, affine = sources.read_voxels(first)
  label = _find_classes(voxels, first, case.values)
  for number, path in enumerate(case.label[1:], start=2):
    voxels, own = sources.read_voxels(path)
    voxels = volumes.on_grid(path, voxels, own, first, label.shape, affine)
    inside = _find_classes(voxels, path, case.values) > 0
    if both := int(np.count_nonzero(label[inside])):
      raise InputError(
        f'{path}: {both} of its voxels are in another mask of the scan too; expected one class a '
        'voxel. Name classes that do not overlap by --config.data.classes.'
      )
    label[inside] = number
  return label, affine


def _find_classes(voxels: np.ndarray, path: Path, values: Sequence[int]) -> np.ndarray:
  """Returns the place of each voxel's number among `values`, which must have it, uint8."""
  numbers = np.rint(voxels)
  is_whole = np.allclose(numbers, voxels, rtol=0, atol=_ROUNDING)  # not with NaN
  if is_whole and numbers.min() >= 0 and numbers.max() <= max(values):
    places = np.full(max(values) + 1, -1, np.int16)
    places[[*values]] = range(len(values))
    found = places[numbers.astype(np.int32)]
    if found.min() >= 0:
      return found.astype(np.uint8)
  others = [f'{value:g}' for value in np.unique(voxels).tolist() if value not in values]
  raise InputError(
    f'{path}: holds {list_some(others)}; expected {list_some(values)}, the numbers of the classes '
    'by dseg.tsv or data.classes, or 0 and 1 in a mask of one class. Correct one of both.'
  )


def _find_numbers(pipeline: Path, masks: Sequence[File], classes: Sequence[str]) -> Meaning:
  """Returns the classes of a dseg, of which dseg.tsv has the numbers, else 0, 1, 2, ..."""
  names: dict[int, str] = {}
  tables = {mask.path: _find_table(pipeline, mask) for mask in masks}
  for path in dict.fromkeys(filter(None, tables.values())):
    for index, name in _read_table(path).items():
      if names.setdefault(index, name) != name:
        raise InputError(
          f'{path}: names {index} {name!r:.60}, but another dseg.tsv {names[index]!r:.60}; '
          'expected one meaning. Correct it.'
        )
  if not names:
    return Meaning(tuple(classes), tuple(range(len(classes))))
  if bare := [path for path, table in tables.items() if not table]:
    raise InputError(
      f'{bare[0]}: no dseg.tsv names its numbers, as one does for other masks; add one, or '
      f'{pipeline / "dseg.tsv"} for all.'
    )
  background = names.pop(0, 'background')
  numbers = {name: index for index, name in sorted(names.items())}
  if len(numbers) < len(names) or background in numbers:
    raise InputError(
      f'{pipeline}: dseg.tsv has a name twice, {", ".join([background, *names.values()]):.200}; '
      'expected different ones. Correct it.'
    )
  named = tuple(classes) or (background, *numbers)
  _require_known(named, [*numbers], f'{pipeline}: dseg.tsv names ')
  return Meaning(named, (0, *(numbers[name] for name in named[1:])))


def _require_known(classes: Sequence[str], known: Sequence[str], where: str) -> None:
  """Refuses classes of which nothing is known, and more than masks can hold."""
  if unknown := [name for name in classes[1:] if name not in known]:
    raise InputError(
      f'{where}{", ".join(known):.200}, but data.classes has {unknown[0]!r:.60}; expected names '
      'among these behind the background. Correct either.'
    )
  if classes[0] in known and classes[0] != 'background':
    raise InputError(
      f'{where}{", ".join(known):.200}, but data.classes begins with {classes[0]!r:.60}, where the '
      "background stands; expected a name that no mask has. Put 'background' before it."
    )
  if not 1 < len(classes) <= _MOST_CLASSES:
    raise InputError(
      f'{where}{len(classes) - 1} classes; expected 1 to {_MOST_CLASSES - 1}. Name those that the '
      'masks hold by --config.data.classes.'
    )


def _find_table(pipeline: Path, mask: File) -> Path | None:
  """Returns the dseg.tsv of a mask: the nearest one whose entities it has, up to the pipeline."""
  for folder in mask.path.parents:
    found: dict[Path, Mapping[str, str]] = {}
    for path in sorted(folder.glob('*dseg.tsv')):
      entities, suffix = bids_files.parse(path.name)
      if suffix == 'dseg' and entities.items() <= mask.entities.items():
        found[path] = entities
    most = max(map(len, found.values()), default=0)
    nearest = [path for path, entities in found.items() if len(entities) == most]
    if len(nearest) > 1:
      raise InputError(
        f'{nearest[0]}: {nearest[1].name} is for {mask.path.name} too; expected one. Remove one.'
      )
    if nearest or folder == pipeline:
      return nearest[0] if nearest else None
  return None


def _read_table(path: Path) -> dict[int, str]:
  """Reads the names of a dseg.tsv by their numbers."""
  try:
    text = path.read_text('utf-8-sig')
    rows = [*csv.DictReader(io.StringIO(text), delimiter='\t')]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(f'{path}: cannot be read ({error}); expected text with tabs.') from error
  names: dict[int, str] = {}
  for row in rows:
    index, name = (str(row.get(title) or '').strip() for title in ('index', 'name'))
    is_number = index.isdecimal() and len(index) <= _DIGITS
    if not (is_number and name.isprintable() and 0 < len(name) <= _LONGEST):
      raise InputError(
        f'{path}: has a row with the index {index!r:.40} and the name {name!r:.60}; expected '
        'columns index, a whole number, and name, a text, with tabs between them. Correct it.'
      )
    if names.setdefault(int(index), name) != name:
      raise InputError(f'{path}: names {index} twice; expected each number once. Correct it.')
  if not names:
    raise InputError(f'{path}: has no row; expected columns index and name. Correct or remove it.')
  return names
