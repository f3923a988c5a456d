"""A data set in BIDS: images of subjects and sessions, with masks of one pipeline in derivatives.

    sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz          an image; in sub-01/anat without sessions
    derivatives/PIPELINE/sub-01/ses-1/anat/
      sub-01_ses-1_desc-X_dseg.nii.gz                  class numbers, which dseg.tsv names, or
      sub-01_ses-1_label-NAME_mask.nii.gz              a file of 0 and 1 for each class

A subject is a patient. Images of one session with several suffixes, as T1w and FLAIR, are channels.
Masks of one kind are used, whose names are alike but for what they have of their images, such as
run-1; where there are several kinds, data.derivative chooses.

Source: Brain Imaging Data Structure, https://bids-specification.readthedocs.io, "Imaging data
types" of the derivatives.
"""

import collections
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep import bids_files, bids_masks
from data_prep.bids_files import File
from data_prep.data_sets import Problem
from thrifty_jax import files
from thrifty_jax.errors import InputError
from thrifty_jax.scans import named_files, volumes
from thrifty_jax.scans.volumes import Case
from thrifty_jax.words import list_some

_NO_IMAGES = ('defacemask', 'dseg', 'mask', 'probseg')
_WAYS = ('acq', 'ce', 'rec')  # entities in which the channels of a scan may differ
_LONGEST = 100  # characters of a name
_Sessions = Mapping[tuple[str, str], Sequence[File]]  # images of each session of a subject


class Found(NamedTuple):
  """Scans and masks of a folder."""

  cases: list[Case]
  problems: list[Problem]
  classes: tuple[str, ...]  # background first; () if nothing names them
  channels: tuple[str, ...]  # suffixes of the images
  kind: str  # of the masks, such as PIPELINE/desc-X_dseg


def is_one(folder: Path) -> bool:
  """Returns whether a folder is in BIDS, and has no dataset.json as other layouts."""
  if (folder / 'dataset.json').exists():
    return False
  return (folder / 'dataset_description.json').is_file() or bids_files.has_subjects(folder)


def read_name(folder: Path) -> str:
  """Returns the name of a data set; '' if it has none."""
  path = folder / 'dataset_description.json'
  described = files.read_json(path) if path.is_file() else {}
  name = described.get('Name') if isinstance(described, dict) else ''
  return ''.join(c for c in ' '.join(str(name or '').split()) if c.isprintable())[:_LONGEST]


def find(
  folder: Path, *, classes: Sequence[str] = (), suffixes: Sequence[str] = (), derivative: str = ''
) -> Found:
  """Pairs the images and masks of a folder, of which none is read but headers of channels.

  Args:
    folder: Root of the data set.
    classes: Names of the classes, background first; () are those of dseg.tsv or of label-NAME.
    suffixes: Suffixes of the images that are channels; () are those that all sessions have.
    derivative: Kind of the masks, as PIPELINE/desc-X_dseg, or a pipeline with one kind; '' is the
      only kind.
  """
  images = [one for one in bids_files.list_files(folder) if one.suffix not in _NO_IMAGES]
  if not images:
    raise InputError(
      f'{folder}: is in BIDS, but has no image in sub-*/anat or sub-*/ses-*/anat '
      f'({", ".join(bids_files.ENDINGS)}); expected some. Copy them there or correct '
      '--config.data.raw_dir.'
    )
  kind, masks = _choose(folder, derivative, {image.suffix for image in images})
  meaning = bids_masks.find_meaning(folder / 'derivatives' / kind.split('/')[0], masks, classes)
  of_scan, sessions = collections.defaultdict(list), collections.defaultdict(list)
  for mask in masks:
    of_scan[mask.scan].append(mask)
  for one in images:
    sessions[one.session].append(one)
  channels = tuple(suffixes) or _find_channels([own[0] for own in of_scan.values()], sessions)
  cases: list[Case] = []
  problems: list[Problem] = []
  for scan, own in of_scan.items():
    try:
      image = _find_images(own[0], channels, sessions[own[0].session])
      label = bids_masks.order(own, meaning.labels)
      if text := named_files.describe_unfetched((*image, *label)):
        raise InputError(text)
      cases.append(Case(scan, own[0].entities['sub'], image, label, values=meaning.values))
    except InputError as error:
      problems.append(Problem(scan, str(error)))
  if not suffixes:
    _require_one_grid(cases)
  used, named = {path for case in cases for path in case.image}, {one.case for one in problems}
  for image in images:
    if image.suffix in channels and image.path not in used and image.scan not in named:
      named.add(image.scan)
      text = f'{image.path}: its mask is missing in {folder / "derivatives"} ({kind}); add it.'
      problems.append(Problem(image.scan, text))
  return Found(cases, problems, meaning.classes, channels, kind)


def find_unused(folder: Path, cases: Sequence[Case]) -> list[str]:
  """Returns the names of images and masks that belong to no case, and of a patients.csv."""
  used = {path for case in cases for path in (*case.image, *case.label)}
  roots = (folder, *bids_files.list_pipelines(folder))
  there = [path for root in roots for path in bids_files.list_paths(root)]
  there += folder.glob('patients.csv')  # a subject is a patient
  return [str(path.relative_to(folder)) for path in there if path not in used]


def _choose(folder: Path, derivative: str, suffixes: Collection[str]) -> tuple[str, list[File]]:
  """Returns the one kind of masks that there is, or that `derivative` names, and its masks."""
  kinds: dict[str, list[File]] = collections.defaultdict(list)
  place, shares = folder / 'derivatives', list[Path]()
  for pipeline in bids_files.list_pipelines(folder):
    for mask in bids_files.list_files(pipeline):
      if mask.suffix in ('dseg', 'mask'):
        kinds[f'{pipeline.name}/{mask.kind}'].append(mask)
      elif mask.suffix == 'probseg':
        shares.append(mask.path)
  if not kinds:
    only = f'; {shares[0]} holds probabilities, not classes' if shares else ''
    raise InputError(
      f'{place}: has no mask; expected PIPELINE/sub-*/anat/sub-*_dseg.nii.gz, with class numbers, '
      f'or sub-*_label-NAME_mask.nii.gz, with 0 and 1{only}. Copy the masks there.'
    )
  # An image of sub-*/anat has no space but its own.
  spaces = {'orig', *suffixes}
  there = [name for name in kinds if kinds[name][0].entities.get('space', 'orig') in spaces]
  asked = [name for name in kinds if derivative in ('', name, name.split('/')[0])]
  chosen = [name for name in asked if name in there]
  if len(chosen) == 1:
    return chosen[0], kinds[chosen[0]]
  if chosen:
    raise InputError(
      f'{place}: has masks of several kinds, {", ".join(chosen):.400}; choose one by '
      f'--config.data.derivative="{chosen[0]}".'
    )
  if asked:
    mask = kinds[asked[0]][0]
    raise InputError(
      f'{mask.path}: is a mask in the space {mask.entities["space"]}, but images of sub-*/anat are '
      'in their own; expected a mask in that. Resample it and name it without space-, or with '
      'space-orig.'
    )
  raise InputError(
    f'{place}: has no masks {derivative:.200}, as data.derivative says; expected one of '
    f'{", ".join(there or kinds):.400}. Correct it.'
  )


def _find_channels(masks: Sequence[File], sessions: _Sessions) -> tuple[str, ...]:
  """Returns the suffixes of the images of scans with masks, which must be the same for all."""
  found: dict[str, tuple[str, ...]] = {}
  for mask in masks:
    images = sessions.get(mask.session, ())
    suffixes = sorted({image.suffix for image in images})
    if own := [suffix for suffix in suffixes if _list_fitting(mask, suffix, images)]:
      found[mask.scan] = tuple(own)
  if not found:
    raise InputError(
      f'{masks[0].path}: its image {masks[0].scan} is missing, and so are those of all masks of '
      'this kind; expected subjects with both. Add the images.'
    )
  first, *others = found
  if other := next((scan for scan in others if found[scan] != found[first]), ''):
    common = set(found[first]).intersection(*found.values())
    raise InputError(
      f'{masks[0].path.parents[1]}: {first} has the images {", ".join(found[first])}, but {other} '
      f'has {", ".join(found[other])}; expected the same channels in all. '
      f'{_ask_for_suffixes(sorted(common) or found[first])}.'
    )
  return found[first]


def _ask_for_suffixes(suffixes: Sequence[str]) -> str:
  listed = ','.join(f"'{suffix}'" for suffix in suffixes)
  return f'Name those to use, as by --config.data.suffixes="({listed},)"'


def _list_fitting(mask: File, suffix: str, images: Sequence[File]) -> list[File]:
  """Returns the images of a suffix, of its session, that a mask may be of.

  These are only those with its entities, if any. Where none fits, the image of another channel may
  differ in how it was acquired.
  """
  session = [image for image in images if image.suffix == suffix]
  for different in ((), _WAYS):
    found = [image for image in session if _fits(mask, image, different)]
    if found:
      return [image for image in found if image.entities == mask.source] or found
  return []


def _fits(mask: File, image: File, different: Collection[str] = ()) -> bool:
  """Returns whether no entity of an image contradicts its mask, but those of `different`."""
  own = mask.source
  return all(
    own.get(key, value) == value or key in different for key, value in image.entities.items()
  )


def _is_of(mask: File, image: File) -> bool:
  """Returns whether an image has every entity that a mask has of its image, such as the run."""
  return mask.source.items() <= image.entities.items()


def _find_images(mask: File, channels: Sequence[str], images: Sequence[File]) -> tuple[Path, ...]:
  """Returns the image of each channel of the scan that a mask is of."""
  fitting = {suffix: _list_fitting(mask, suffix, images) for suffix in channels}
  for suffix, found in fitting.items():
    if not found or not any(_is_of(mask, image) for own in fitting.values() for image in own):
      raise InputError(
        f'{mask.path}: its image {mask.scan}_{suffix} is missing; add it or move the mask away.'
      )
    if len(found) > 1:
      names = list_some([image.path.name for image in found])
      raise InputError(
        f'{mask.path}: may be the mask of {len(found)} images, {names}; expected one. Give it the '
        'entities of its image, or move images away.'
      )
  return tuple(found[0].path for found in fitting.values())


def _require_one_grid(cases: Sequence[Case]) -> None:
  """Refuses channels on several grids, by their headers; the check reports unreadable ones."""
  for case in cases:
    if len(case.image) == 1:
      return
    try:
      (shape, affine), *others = map(volumes.read_header, case.image)
    except InputError:
      continue
    for path, (other, own) in zip(case.image[1:], others, strict=True):
      try:
        volumes.on_grid(path, np.broadcast_to(0, other), own, case.image[0], shape, affine)
      except volumes.UnsureError:
        continue  # the check refuses the scan when it is read
      except InputError as error:
        suffix = bids_files.parse(case.image[0].name)[1]
        raise InputError(
          f'{path}: is on another grid than {case.image[0].name}; expected channels on one. '
          f'{_ask_for_suffixes([suffix])}, or resample the images.'
        ) from error
