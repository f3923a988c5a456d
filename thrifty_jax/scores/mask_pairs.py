"""Masks of any program and their truths: which belong together, and what their numbers mean.

Names pair the files by the rules of scans/pairs.py, as images and masks for training; a case has
the name of its truth. Beside a mask X, X_overlay, X_preview and X_probability_1, which predict
writes too, are no masks.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from thrifty_jax import labels, logbook, words
from thrifty_jax.errors import InputError
from thrifty_jax.scans import dataset_json, named_files, pairs, pictures, sources, volumes
from thrifty_jax.scans.volumes import Volume

_MOST_VALUES = 20  # of masks whose classes have no names: more are no classes
# What predict writes beside a mask.
_ADDED = re.compile(r'(.+)_(overlay|preview|probability_\d+)', re.DOTALL)


class Pair(NamedTuple):
  """A mask and its truth."""

  case: str
  patient: str
  mask: Path
  truth: Path


@dataclasses.dataclass(frozen=True)
class Found:
  """What belongs together in two folders, of which nothing is read yet."""

  pairs: tuple[Pair, ...]  # sorted by case
  rule: str  # by which they were paired
  missing: tuple[Path, ...]  # truths without a mask
  unused: tuple[Path, ...]  # masks without a truth

  @property
  def of_pictures(self) -> bool:
    """Whether the masks are pictures, not volumes."""
    return pictures.is_picture(self.pairs[0].mask)


@dataclasses.dataclass(frozen=True)
class Meaning:
  """Meaning of the numbers and colours in masks and truths."""

  classes: tuple[str, ...]  # names, background first
  masks: pictures.Legend  # of those that are pictures
  truths: pictures.Legend
  regions: labels.Regions = ()  # that the classes are
  ignore: int = 0  # label in truths of voxels that do not count; 0 is none


def find(
  masks: Path, truths: Path, *, patients: Path | None = None, option: str = '--masks'
) -> Found:
  """Pairs the masks and truths of two folders; `patients` is a CSV file with case,patient.

  `option` named the masks. An InputError says that nothing pairs, that something does in two ways,
  or that a file of a pair was not fetched.
  """
  if masks.resolve() == truths.resolve():
    raise InputError(
      f'{option}={masks}: is the folder of the truths too; expected another. Name it.'
    )
  for name, folder in ((option, masks), ('--truths', truths)):
    if not folder.is_dir():
      raise InputError(f'{name}={folder}: there is no such folder')
  if patients and not patients.is_file():
    raise InputError(f'--patients={patients}: there is no such file')
  found = named_files.find(masks, endings=named_files.ENDINGS, option=option)
  found = {name: path for name, path in found.items() if not _is_added(name, found)}
  true = named_files.find(truths, endings=named_files.ENDINGS, option='--truths')
  _require_one_kind(found, true)
  try:
    pairing = pairs.pair([*true], [*found])
  except pairs.AmbiguousError as error:
    raise InputError(
      f'{masks}: masks pair with truths in more than one way: {error}; expected equal names, or '
      'the same text added to all. Rename or move files.'
    ) from error
  if not pairing.masks:
    first, other = next(iter(found.values())), next(iter(true.values()))
    raise InputError(
      f'{masks}: no mask pairs with a truth in {truths}: {first.name} and {other.name}; expected '
      'equal names, or the same text added to all. Rename files or correct the folders.'
    )
  paired = [path for name, mask in pairing.masks.items() for path in (found[mask], true[name])]
  if text := named_files.describe_unfetched(paired):
    raise InputError(text)
  of_case = {name: name for name in pairing.masks}
  if patients:
    of_case = named_files.read_patients(patients, [*pairing.masks])
  taken = {*pairing.masks.values()}
  return Found(
    tuple(
      Pair(name, of_case[name], found[mask], true[name]) for name, mask in pairing.masks.items()
    ),
    pairing.rule,
    tuple(path for name, path in true.items() if name not in pairing.masks),
    tuple(path for name, path in found.items() if name not in taken),
  )


def require_complete(found: Found, masks: Path) -> None:
  """Refuses truths without a mask, as the scores of the others say nothing of them."""
  if found.missing:
    raise InputError(
      f'{masks}: {len(found.missing)} of {len(found.pairs) + len(found.missing)} truths have no '
      f'mask there ({words.list_some([path.name for path in found.missing])}); files are paired '
      f'{found.rule}. Add the masks, or score the others alone by --allow_missing.'
    )


def require_same(sets: Sequence[Found]) -> None:
  """Refuses sets of masks that are not for the same truths."""
  first, cases = sets[0].pairs[0].mask.parent, {pair.case for pair in sets[0].pairs}
  for other in sets[1:]:
    folder, others = other.pairs[0].mask.parent, {pair.case for pair in other.pairs}
    for case in sorted(cases ^ others):
      here, there = (first, folder) if case in cases else (folder, first)
      raise InputError(
        f'{there}: has no mask for {case}, but {here} has; expected masks for the same truths. Add '
        'it, or move the other away.'
      )


def find_meaning(
  sets: Sequence[Found],
  *,
  classes: Sequence[str] = (),
  colours: Sequence[str] = (),
  masks_hold_numbers: bool = False,
  regions: labels.Regions = (),
  ignore: int = 0,
) -> Meaning:
  """Returns what masks and truths mean: their classes as given, or as a file beside them says.

  Such files are the classes.json of predict and the dataset.json of the Decathlon and of nnU-Net;
  without one the classes are class_1, class_2, ... as the files have them, all of which are read.

  Args:
    sets: Masks and truths, of one kind; several sets of masks for the same truths.
    classes: Names of the classes, background first; () where they are to be found.
    colours: Colour of each class in pictures; () where these hold numbers.
    masks_hold_numbers: Whether only the truths have these colours.
    regions: Regions that the named classes are.
    ignore: Label of voxels of truths that do not count; 0 where it is to be found.
  """
  if colours and not sets[0].of_pictures:
    raise InputError(
      f'--colours is given, but {sets[0].pairs[0].truth} is a volume, which holds class numbers; '
      'leave out --colours'
    )
  if classes:
    names, ignore = tuple(classes), ignore or _find_ignored(sets, regions)
  else:
    names, regions, found = _read_labels(sets)
    ignore = ignore or found
  if not names:
    count = len(colours) - (ignore > 0) if colours else _count_classes(sets, ignore)
    names = ('background', *(f'class_{number}' for number in range(1, count)))
  count = labels.count(len(names), regions)
  if 0 < ignore < count:
    raise InputError(
      f'--ignore={ignore}: is the label of a class ({labels.describe(names, regions)}); expected '
      f'{count} or more'
    )
  try:
    truths = pictures.Legend(tuple(colours), count, ignore)
  except InputError as error:
    raise _in_words_of_options(error) from error
  masks = pictures.Legend((), count, ignore) if masks_hold_numbers else truths
  return Meaning(names, masks, truths, regions, ignore)


def read(pair: Pair, meaning: Meaning) -> Volume:
  """Reads a truth, as the label of a volume, and its mask, as the image, [D, H, W, 1], float32.

  Both lie on the grid of the truth and have no numbers but those of classes; else InputError. Where
  the truth is ignored it is labels.IGNORED, and the mask 0.
  """
  if pictures.is_picture(pair.truth):
    _require_size(pair)
    truth = _read_picture(pair.truth, meaning.truths)
    mask, affine = _read_picture(pair.mask, meaning.masks), pictures.AFFINE
  else:
    truth, affine = sources.read_voxels(pair.truth)
    volumes.require_grid(pair.truth, truth.shape, affine, pair.truth, truth.shape[:3], affine)
    mask, own = sources.read_voxels(pair.mask)
    mask = volumes.on_grid(pair.mask, mask, own, pair.truth, truth.shape, affine)
    truth = volumes.whole_numbers(truth, pair.truth)
    mask = volumes.whole_numbers(mask, pair.mask)
  ignored = (truth == meaning.ignore) & (meaning.ignore > 0)
  truth, mask = np.where(ignored, 0, truth), np.where(ignored, 0, mask)
  count = labels.count(len(meaning.classes), meaning.regions)
  for path, voxels in ((pair.truth, truth), (pair.mask, mask)):
    if voxels.max() >= count:
      raise InputError(
        f'{path}: holds class {voxels.max()}; expected 0 to {count - 1}: '
        f'{labels.describe(meaning.classes, meaning.regions)}. Name all classes by --classes, or '
        'replace the file.'
      )
  if ignored.all():
    raise InputError(
      f'{pair.truth}: every voxel has the ignored label {meaning.ignore}; expected some that '
      'count. Replace the file, or move it away.'
    )
  truth[ignored] = labels.IGNORED
  volume = Volume(mask[..., None], truth, affine, pair.case, pair.patient)
  return volumes.along(volume, 'axial')


def _is_added(name: str, found: dict[str, Path]) -> bool:
  parts = _ADDED.fullmatch(name)
  return parts is not None and parts[1] in found


def _require_one_kind(masks: dict[str, Path], truths: dict[str, Path]) -> None:
  """Refuses pictures as masks of volumes, and the other way round."""
  mask, truth = next(iter(masks.values())), next(iter(truths.values()))
  if pictures.is_picture(mask) != pictures.is_picture(truth):
    kinds = ('a picture', 'a volume') if pictures.is_picture(mask) else ('a volume', 'a picture')
    raise InputError(
      f'{mask}: is {kinds[0]}, but the truth {truth.name} is {kinds[1]}; expected files of one '
      'kind. Convert one of both.'
    )


def _read_labels(sets: Sequence[Found]) -> dataset_json.Labels:
  """Returns the labels by the files beside masks and truths, which must agree on their classes.

  Without any file there are no classes.
  """
  truths = sets[0].pairs[0].truth.parent
  folders = [*(found.pairs[0].mask.parent for found in sets), truths]
  places = [folder / name for folder in folders for name in ('classes.json', 'dataset.json')]
  places.append(truths.resolve().parent / 'dataset.json')  # as the truths lie in labelsTr
  there = [path for path in places if path.is_file()]
  try:
    read = [dataset_json.read_labels(path) for path in there]
  except InputError as error:
    raise InputError(f'{error} Or name the classes by --classes.') from error
  for path, found in zip(there, read, strict=True):
    if found[:2] != read[0][:2]:
      own, other = (labels.describe(*one[:2]) for one in (found, read[0]))
      raise InputError(
        f'{path}: the classes are {own}, but in {there[0]} {other}; expected one meaning of the '
        'numbers. Name the classes by --classes.'
      )
    if len(found.classes) < 2:
      raise InputError(
        f'{path}: names one class, {found.classes[0]}; expected the background and a class more. '
        'Name the classes by --classes.'
      )
  if not read:
    return dataset_json.Labels(())
  return read[0]._replace(ignore=max(one.ignore for one in read))  # that of masks names none


def _find_ignored(sets: Sequence[Found], regions: labels.Regions) -> int:
  """Returns the ignored label by the files beside masks and truths, whose classes are named anew.

  Raises:
    InputError: If these files have regions and none are given: other voxels would be scored.
  """
  try:
    found = _read_labels(sets)
  except InputError:  # to name the classes is the way out
    return 0
  if found.regions and not regions:
    text = labels.describe(found.classes, found.regions)
    raise InputError(
      f'--classes: the file beside masks or truths has regions, {text}; give --regions as well, or '
      'leave out --classes'
    )
  return found.ignore


def _count_classes(sets: Sequence[Found], ignore: int) -> int:
  """Returns the number of classes that all files hold, background included."""
  held: dict[Path, set[int]] = {}  # numbers in each file
  problems: list[str] = []
  paths = dict.fromkeys(path for found in sets for one in found.pairs for path in one[2:])
  with logbook.progress(len(paths), 'find classes') as bar:
    for path in paths:
      try:
        held[path] = _find_numbers(path)
      except InputError as error:
        problems.append(str(error).rstrip('.'))
      bar.update(1)
  if problems:
    raise InputError('. '.join(problems))
  if ignore:
    held = {path: numbers - {ignore} for path, numbers in held.items()}
  values = set().union(*held.values())
  if sets[0].of_pictures and values <= {0, 1, 255}:  # black and white
    return 2
  if not 1 < len(values) <= _MOST_VALUES:
    found = f'{len(values)} different values' if len(values) > 1 else f'nothing but {min(values)}'
    raise InputError(
      f'{sets[0].pairs[0].truth.parent}: masks and truths hold {found}, and no classes are named; '
      'expected few class numbers, 0 for the background. Name the classes by '
      "--classes=\"('background','liver')\"."
    )
  _require_no_gap(held, values)
  return len(values)


def _find_numbers(path: Path) -> set[int]:
  """Returns the numbers that a mask or a truth holds."""
  if pictures.is_picture(path):
    voxels = _read_picture(path, pictures.Legend())
  else:
    voxels = volumes.whole_numbers(sources.read_voxels(path)[0], path)
  seen = np.zeros(256, bool)
  for plane in voxels:
    seen[plane] = True
  return {*np.flatnonzero(seen).tolist()}


def _require_no_gap(held: Mapping[Path, set[int]], values: set[int]) -> None:
  """Refuses unnamed classes of which a number is nowhere: masks may count otherwise than truths."""
  gap = min({*range(257)} - values)
  if not (beyond := [path for path in held if max(held[path]) > gap]):
    return
  places, remedies = [], []
  for folder in dict.fromkeys(path.parent for path in held):
    numbers = set().union(*(held[path] for path in held if path.parent == folder))
    if names := [path.name for path in beyond if path.parent == folder]:
      places.append(f'{", ".join(names)} in {folder}')
    if numbers <= {0, 255}:  # the white of a mask of one class
      remedies.append(f'In {folder} 255 must be 1. ')
  raise InputError(
    f'masks and truths hold {", ".join(map(str, sorted(values)))}, but no {gap}, and no classes '
    f'are named; expected 0, 1, 2, ... with one meaning in both. {"".join(remedies)}Renumber the '
    f'files, or name every class by --classes: numbers above {gap} are in {"; ".join(places)}'
  )


def _require_size(pair: Pair) -> None:
  """Refuses pictures of two sizes."""
  (height, width, _), found = pictures.read_size(pair.truth), pictures.read_size(pair.mask)
  if found[:2] != (height, width):
    raise InputError(
      f'{pair.mask}: has {found[0]} x {found[1]} pixels (height x width), but its truth '
      f'{pair.truth.name} has {height} x {width}; expected one size. Resize one or replace the '
      'file.'
    )


def _read_picture(path: Path, legend: pictures.Legend) -> np.ndarray:
  """Reads the class of each pixel, [1, H, W]."""
  try:
    return pictures.read_mask(path, legend)
  except InputError as error:
    raise _in_words_of_options(error) from error


def _in_words_of_options(error: InputError) -> InputError:
  """Returns an error about a legend that names the option in place of the setting."""
  text = (
    str(error).replace('--config.data.colours', '--colours').replace('data.colours', '--colours')
  )
  return InputError(text.replace('the setting', 'the option'))
