"""Your own scans: a folder as of the Decathlon, nnU-Net or BIDS, two folders, or DICOM.

    dataset.json              names of classes and channels, see dataset_json.py
    imagesTr/CASE.nii.gz      Decathlon: one file a scan, channels on the fourth axis
    imagesTr/CASE_0000.nii.gz nnU-Net: one file a channel
    labelsTr/CASE.nii.gz      the masks
    patients.csv              optional: case,patient; keeps the scans of a patient together
    splits_final.*            nnU-Net's folds: refused, unless the config has patients of its own

Instead, data.images and data.masks may name two folders (two_folders.py). Either holds volumes, or
pictures (scans/pictures.py) where there is no volume. A folder without a dataset.json may be in
BIDS (bids.py), or hold DICOM studies with their truth (dicom_folder.py).

Without patients.csv each scan is a patient of its own. Where dataset.json lists cases with the
paths of their files (`training`, `dataset`), these are the scans. Scans of imagesTs with a mask in
labelsTs are the external test set, which the final model is scored on. Hidden files, and images of
imagesTs without a mask, are ignored; whatever else is not used is counted.

Values that the config leaves open are filled in here: classes and channels from dataset.json, slice
axis and image size from the headers of all scans (fingerprint.py); pictures have no neighbouring
slices and no millimetres. CT in every channel gets a
window, learned from the foreground of the training patients of the fold, so that two folds share
slices only if their windows are equal; set data.window to use one for all. Anything else gets the
percentiles of each scan, and nothing is learned.
"""

import contextlib
import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from data_prep import (
  bids,
  bids_masks,
  data_sets,
  dicom_folder,
  fingerprint,
  one_folder,
  reduction,
  two_folders,
)
from thrifty_jax import config as configs
from thrifty_jax import files, labels, logbook, records, words
from thrifty_jax.errors import InputError
from thrifty_jax.scans import (
  dataset_json,
  dicom,
  dicom_truth,
  named_files,
  nrrd,
  pictures,
  sources,
  unreadable,
  volumes,
)
from thrifty_jax.scans.volumes import Case, Volume

_OTHER_PLANES = (
  'axial, as voxels are nearly cubes; --stage=planes tells whether coronal or sagittal slices '
  'score higher'
)


@dataclasses.dataclass(frozen=True)
class _Window:
  """Contents of the file of a learned window."""

  window: tuple[float, float]
  training_patients: tuple[str, ...]
  sha256: str  # of both


ABOUT = data_sets.About('Slices of a folder of scans.')
_LAYOUT = ('imagesTr', 'labelsTr', 'imagesTs', 'labelsTs')


def find_cases(raw_dir: Path, data: ConfigDict) -> list[Case]:
  """Returns the scans that have a mask, with all their channels.

  They lie in the folder, or in the two folders that the section `data` of the config names, whose
  classes and colours say what the pixels of pictures mean.
  """
  if _is_bids(raw_dir, data):
    return _find_bids(raw_dir, data)
  if data.suffixes or data.derivative:
    raise InputError(
      f'{raw_dir}: is no folder in BIDS, but data.suffixes or data.derivative is set; expected '
      'images and masks of BIDS, among which they choose. Leave them out.'
    )
  if data.images:
    paired = two_folders.find(data)
    found, problems, classes = paired.files, paired.problems, data.classes
    regions, ignore = data.regions, data.ignore
  elif not (raw_dir / 'dataset.json').exists() and dicom_folder.holds_dicom(raw_dir):
    return _find_studies(raw_dir, data)
  else:
    described = dataset_json.read(raw_dir)
    found, problems = one_folder.find(raw_dir, described)
    classes, regions, ignore = _choose_labels(data, described)
  found, problems = _leave_unfetched(found, problems)
  if not found:
    raise InputError(f'{raw_dir}: no scan there is complete. The first problem: {problems[0].text}')
  if not classes:
    asked = two_folders.ask_classes(data, [label for _, label in found.values()])
    raise InputError(f'{data_sets.expand(data.masks)}: {asked}.')
  legend, regions = _read_legend(raw_dir, data, classes, regions, ignore)
  volume = next((label for _, label in found.values() if not pictures.is_picture(label)), None)
  if volume and legend.colours:
    raise InputError(
      f'{volume}: is a volume, which holds class numbers, but data.colours is set; expected masks '
      'that are pictures. Leave out --config.data.colours.'
    )
  cases = _make_cases(found, _patients_file(raw_dir, data), legend, regions)
  problems += _find_renamed(cases, () if regions else classes, data.exclude)
  if problems:
    raise data_sets.Unpaired(problems, cases)
  return cases


def find_external(raw_dir: Path, data: ConfigDict) -> tuple[list[Case], list[data_sets.Problem]]:
  """Returns the scans of the external test set, [] if there is none, and problems of others."""
  if data.images or not (raw_dir / 'dataset.json').is_file():
    return [], []
  described = dataset_json.read(raw_dir)
  found, problems = _leave_unfetched(*one_folder.find_external(raw_dir, described))
  classes, text, ignore = _choose_labels(data, described)
  legend, regions = _read_legend(raw_dir, data, classes, text, ignore)
  cases = _make_cases(found, _patients_file(raw_dir, data), legend, regions)
  return cases, problems + _find_renamed(cases, () if regions else classes, data.exclude)


def _leave_unfetched(
  found: one_folder.Files, problems: Sequence[data_sets.Problem]
) -> tuple[one_folder.Files, list[data_sets.Problem]]:
  """Returns the scans whose files are there, and with the problems those that were not fetched."""
  words_of = {
    name: named_files.describe_unfetched((*image, label)) for name, (image, label) in found.items()
  }
  absent = [data_sets.Problem(name, text) for name, text in sorted(words_of.items()) if text]
  return {name: found[name] for name in found if not words_of[name]}, [*problems, *absent]


def _read_legend(
  raw_dir: Path, data: ConfigDict, classes: Sequence[str], regions: str, ignore: int
) -> tuple[pictures.Legend, labels.Regions]:
  """Returns the meaning of the pixels of pictures, and the regions, which must fit the classes."""
  parsed = labels.parse(regions.removeprefix('auto'))
  if parsed and (fault := labels.find_fault(classes, parsed)):
    raise InputError(
      f'{raw_dir}: the classes are {", ".join(classes)} and their labels {regions}: {fault}. Set '
      'data.classes and data.regions, or neither.'
    )
  count = labels.count(len(classes), parsed)
  return pictures.Legend(data.colours, count, max(ignore, 0)), parsed


def _make_cases(
  found: one_folder.Files, patients_file: Path, legend: pictures.Legend, regions: labels.Regions
) -> list[Case]:
  """Returns the scans of image and mask by name, sorted; those that are pictures have a legend."""
  patients = named_files.read_patients(patients_file, sorted(found))
  return [
    Case(
      name,
      patients[name],
      image,
      (label,),
      legend if pictures.is_picture(label) else None,
      ignore=legend.ignore,
      regions=regions,
    )
    for name, (image, label) in sorted(found.items())
  ]


def _find_renamed(
  cases: Sequence[Case], classes: Sequence[str], exclude: Sequence[str]
) -> list[data_sets.Problem]:
  """Returns the masks of 3D Slicer whose names of numbers contradict classes or earlier masks."""
  numbers = {dicom_truth.simplify(name): number for number, name in enumerate(classes)}
  first: dict[int, tuple[str, str]] = {}
  problems = []
  for case in cases:
    (path,) = case.label
    if path.suffix.lower() != '.nrrd' or case.case in exclude:
      continue
    with contextlib.suppress(InputError), unreadable.report_unreadable(path):  # the check's matter
      for number, name in nrrd.read_segments(path).items():
        other, place = first.setdefault(number, (name, path.name))
        known = numbers.get(dicom_truth.simplify(name), number)
        if dicom_truth.simplify(name) != dicom_truth.simplify(other):
          what = f'{place} {other!r:.60}; expected one meaning of a number in all masks'
        elif known != number:
          what = f'that is {known} of data.classes; expected their order'
        else:
          continue
        text = f'{path}: names {number} {name!r:.60}, but {what}. Renumber or rename its segments.'
        problems.append(data_sets.Problem(case.case, text))
  return problems


def _is_bids(raw_dir: Path, data: ConfigDict) -> bool:
  return not data.images and bids.is_one(raw_dir)


def _find_bids(raw_dir: Path, data: ConfigDict) -> list[Case]:
  """Returns the scans of a folder in BIDS; see `find_cases`."""
  _require_plain(raw_dir, data, 'in BIDS, whose masks have the classes that dseg.tsv names')
  found = _read_bids(raw_dir, data)
  if not found.cases:
    raise InputError(f'{raw_dir}: no scan is complete. The first problem: {found.problems[0].text}')
  if not found.classes:
    asked = two_folders.ask_classes(data, [case.label[0] for case in found.cases])
    raise InputError(f'{raw_dir / "derivatives"}: {asked}.')
  if found.problems:
    raise data_sets.Unpaired(found.problems, found.cases)
  return found.cases


def _read_bids(raw_dir: Path, data: ConfigDict) -> bids.Found:
  return bids.find(
    raw_dir, classes=data.classes, suffixes=data.suffixes, derivative=data.derivative
  )


def _require_plain(raw_dir: Path, data: ConfigDict, what: str) -> None:
  """Refuses regions and an ignored label of a folder whose masks have a meaning of their own."""
  if data.regions.removeprefix('auto') or data.ignore > 0:
    raise InputError(
      f'{raw_dir}: is a folder {what}, but data.regions or data.ignore is set; expected masks that '
      'hold numbers. Leave them out.'
    )


def _find_studies(raw_dir: Path, data: ConfigDict) -> list[Case]:
  """Returns the series of a folder of DICOM studies that have a truth."""
  if data.colours:
    raise InputError(
      f'{raw_dir}: is a folder of DICOM, but data.colours is set; expected masks that are '
      'pictures. Leave out --config.data.colours.'
    )
  _require_plain(
    raw_dir, data, 'of DICOM, whose segments and structures are classes by their names'
  )
  cases, problems = dicom_folder.find(raw_dir, data.classes)
  if not cases:
    raise InputError(
      f'{raw_dir}: no series there has a truth. The first problem: {problems[0].text}'
    )
  if problems:
    raise data_sets.Unpaired(problems, cases)
  return cases


def find_unused(raw_dir: Path, cases: Sequence[Case], data: ConfigDict) -> list[str]:
  """Returns the names of what lies with scans and masks, not hidden, but belongs to no case."""
  if _is_bids(raw_dir, data):
    return bids.find_unused(raw_dir, cases)
  if _are_studies(cases):
    return dicom_folder.find_unused(raw_dir, cases)
  used = {path.resolve() for case in cases for path in (*case.image, *case.label)}
  used.add(_patients_file(raw_dir, data).resolve())
  folders, unused = [raw_dir / name for name in _LAYOUT[:2]], list[str]()
  if data.images:
    folders = [data_sets.expand(folder) for folder in dict.fromkeys((data.images, data.masks))]
  else:
    unused += [path.name for path in sorted(raw_dir.glob('[!.]*')) if _is_astray(path, used)]
  for folder in folders:
    for path in sorted(folder.glob('[!.]*')):
      header = path.with_suffix('.mhd').resolve() if path.suffix in ('.raw', '.zraw') else None
      if path.resolve() not in used and header not in used:
        unused.append(f'{folder.name}/{path.name}')
  return unused


def _is_astray(path: Path, used: Collection[Path]) -> bool:
  """Returns whether something in the raw folder itself looks like scans, but has none of `used`."""
  there = path.resolve()
  if path.is_dir():
    return path.name not in _LAYOUT and not any(there in one.parents for one in used)
  return named_files.name_of(path) is not None and there not in used


def find_title(config: ConfigDict) -> str:
  """Returns the name in dataset.json, else that of the folder."""
  folder = data_sets.raw_dir(config)
  described = not config.data.images and (folder / 'dataset.json').is_file()
  return (dataset_json.read(folder).name if described else '') or words.name_folder(folder)


def require_split(config: ConfigDict) -> None:
  """Refuses nnU-Net's splits beside the scans, unless the config names who validates and tests."""
  data, folder = config.data, data_sets.raw_dir(config)
  path = next(folder.glob('splits_final.*'), None)  # .json, of nnU-Net v1 .pkl
  lists = [data.validation_patients, *([data.test_patients] if data.hold_out_test else [])]
  if path and not all(lists):
    raise InputError(
      f'{path}: its folds have no test patients, so they are not used, and other patients would '
      'train here than there. Name who validates and tests by --config.data.validation_patients '
      'and --config.data.test_patients, or in splits.json in the workdir, or move the file away.'
    )


def read_case(case: Case) -> Volume:
  """Reads the channels of a scan and its mask, which must lie on one grid."""
  _require_alike(case)
  if case.segments:
    series = dicom.read_series(case.image)
    image, affine = series.voxels, series.affine
  else:
    image, affine = sources.read_channels(case.image)
  label, label_affine = _read_mask(case)
  return volumes.make_volume(
    case, image=image, affine=affine, label=label, label_affine=label_affine
  )


def read_classes(case: Case) -> list[int]:
  """Reads which foreground classes the mask of a scan has, without the scan."""
  label, _ = _read_mask(case)
  return [int(value) for value in np.unique(np.rint(label)) if labels.foreground(value)]


def resolve(
  config: ConfigDict, scans: data_sets.Scans, training: Sequence[str]
) -> tuple[tuple[str, str], ...]:
  """Fills in what the config leaves open; see the module and `data_sets.resolve`."""
  data = config.data
  left = [name.removeprefix('data.') for name in configs.left_to_data(config)]
  if not scans.cases:  # data.exclude left out those that are complete
    raise InputError(scans.unpaired[0].text)
  # The check reports unusable files, all of them; here they are only left out.
  grids = fingerprint.read_grids(scans.cases)
  described = _describe(config, scans.cases)
  data.classes, data.regions, data.ignore = _choose_labels(data, described)
  data.modalities = data.modalities or len(described.channels)
  flat = _are_pictures(scans.cases)
  if data.slice_axis == 'auto':
    data.slice_axis = fingerprint.slice_axis(grids)
  if data.context < 0:
    data.context = 0 if flat else 1
  if flat and (data.slice_axis != 'axial' or data.context):
    raise InputError(
      f'config.data.slice_axis is {data.slice_axis!r} and data.context {data.context}; expected '
      "'axial' and 0, as pictures have no other planes and no neighbouring slices"
    )
  unit = 'pixels' if flat else 'mm'
  if data.unit not in ('auto', unit):
    raise InputError(
      f'config.data.unit is {data.unit!r}; expected {unit!r}, as distances in '
      f'{"pictures" if flat else "volumes"} are in that unit. Leave it out.'
    )
  data.unit = unit
  data.image_size = data.image_size or fingerprint.image_size(
    grids, axis=data.slice_axis, largest=data.max_image_size
  )
  if data.reduction < 0:
    used = [case for case in scans.cases if case.patient in training] or scans.cases
    data.reduction = (
      reduction.choose_reduction(
        used, lambda case: _read_mask(case)[0][0], image_size=data.image_size
      )
      if flat
      else 0.0
    )
  if data.intensity == 'auto':
    tomography = all(name.strip().upper() == 'CT' for name in described.channels)
    data.intensity = 'window' if data.window or tomography else 'percentiles'
  if not data.window:
    # Where files lack their counterpart there may be no scan to learn from; training stops anyway.
    learned = data.intensity == 'window' and (training or not scans.unpaired)
    data.window = _learned(config, scans, training) if learned else configs.default().data.window
  return _found(config, described, scans.cases, grids, left)


def _describe(config: ConfigDict, cases: Sequence[Case]) -> dataset_json.Description:
  """Returns the dataset.json of the raw folder, or what two folders have in its place."""
  data, folder = config.data, data_sets.raw_dir(config)
  if _is_bids(folder, data):
    found = _read_bids(folder, data)
    return dataset_json.Description(bids.read_name(folder), found.classes, found.channels, (), None)
  if not data.images and not _are_studies(cases):
    return dataset_json.read(folder)
  classes, name = data.classes, f'{folder.parent.name}/{folder.name}'
  if _are_studies(cases):
    channels: tuple[str, ...] = (dicom_folder.name_modality(cases),)
    classes, name = ('background', *cases[0].segments), folder.name
  else:
    channels = two_folders.find(data).channels
  if not channels:
    count = fingerprint.count_channels(cases)
    names = {1: ('grey',), 3: ('red', 'green', 'blue')} if _are_pictures(cases) else {}
    channels = names.get(count) or tuple(f'channel {number + 1}' for number in range(count))
  return dataset_json.Description(
    name=name,
    classes=classes,
    regions=labels.parse(data.regions.removeprefix('auto')),
    ignore=max(data.ignore, 0),
    channels=channels,
    endings=(),
    scans=None,
  )


def _are_pictures(cases: Sequence[Case]) -> bool:
  """Returns whether the scans are pictures, not volumes; a mixture is refused."""
  first: dict[bool, Path] = {}
  for case in cases:
    first.setdefault(pictures.is_picture(case.image[0]), case.image[0])
  if len(first) > 1:
    raise InputError(
      f'{first[True]}: is a picture, but {first[False].name} is a volume; expected scans of one '
      'kind. Move those of the other away.'
    )
  return True in first


def _are_studies(cases: Sequence[Case]) -> bool:
  """Returns whether the scans are DICOM studies, with their truth."""
  return bool(cases and cases[0].segments)


def _read_mask(case: Case) -> tuple[np.ndarray, np.ndarray]:
  """Reads the mask of a scan, its classes by what says their meaning, and its affine."""
  path = case.label[0]
  if case.values:
    return bids_masks.read(case)
  if case.segments:
    shape, affine = dicom.read_grid(case.image)
    return dicom_truth.read_mask(path, case.segments, shape, affine), affine
  if case.legend:
    label, affine = pictures.read_mask(path, case.legend), pictures.AFFINE
  else:
    label, affine = sources.read_voxels(path)
  if case.ignore:
    try:
      label = labels.mark_ignored(volumes.whole_numbers(label, path), case.ignore)
    except ValueError as error:
      raise InputError(f'{path}: the mask {error}. Renumber it.') from error
  return label, affine


def _choose_labels(
  data: ConfigDict, described: dataset_json.Description
) -> tuple[tuple[str, ...], str, int]:
  """Returns classes, regions and the ignored label: each as the config says, else as described."""
  regions, ignore = labels.format_text(described.regions), described.ignore
  if data.classes != described.classes and {*data.classes} == {*described.classes}:
    raise InputError(
      f'config.data.classes is {data.classes}, but dataset.json has the same names in the order '
      f'{described.classes}; expected that, as masks have their numbers. Leave the option out.'
    )
  return (
    data.classes or described.classes,
    regions if data.regions == 'auto' else data.regions,
    ignore if data.ignore < 0 else data.ignore,
  )


def _require_alike(case: Case) -> None:
  """Refuses pictures of one scan that differ in size, and volumes with masks that are pictures."""
  (first, *_), label = case.image, case.label[0]
  kinds = {pictures.is_picture(path) for path in (*case.image, label)}
  if len(kinds) > 1:
    raise InputError(
      f'{label}: is no {"picture" if pictures.is_picture(first) else "volume"} as {first.name} is; '
      'expected a scan and its mask in files of one kind. Convert one of both.'
    )
  if kinds == {False}:
    return
  height, width, _ = pictures.read_size(first)
  for path in (*case.image[1:], label):
    found = pictures.read_size(path)
    if found[:2] != (height, width):
      raise InputError(
        f'{path}: has {found[0]} x {found[1]} pixels (height x width), but {first.name} has '
        f'{height} x {width}; expected one size. Resize one or replace the file.'
      )
  for path in case.image if len(case.image) > 1 else ():
    if pictures.read_size(path)[2] > 1:
      raise InputError(
        f'{path}: is a picture in colours, but its scan has a file for each channel; expected '
        'grey. Convert it.'
      )


def _patients_file(raw_dir: Path, data: ConfigDict) -> Path:
  """Returns the path of patients.csv: in the raw folder, or with the images or beside them."""
  within = raw_dir / 'patients.csv'
  if not data.images:
    return within
  beside = raw_dir.parent / 'patients.csv'
  if within.exists() and beside.exists():
    raise InputError(f'{within}: {beside} is there too; expected one of both. Move one away.')
  return within if within.exists() else beside


def _learned(
  config: ConfigDict, scans: data_sets.Scans, training: Sequence[str]
) -> tuple[float, float]:
  """Returns the window of the training foreground, kept in a file so that scans are read once."""
  cases = [case for case in scans.cases if case.patient in training]
  legend = ''.join(config.data.colours).replace('#', '_')  # on which the foreground depends
  legend += f'_{config.data.ignore}_ignored' * (config.data.ignore > 0)
  name = f'window_{fingerprint.RULE}_{scans.contents.digest(cases)}{legend}.json'
  path = data_sets.data_dir(config) / config.data.name / name
  if path.exists():
    try:
      return _read_window(path)
    except InputError as error:  # it only saves time
      logbook.say('window', f'{error}; it is learned anew')
  window = fingerprint.foreground_window(cases, read_case, processes=config.data.workers)
  patients = tuple(sorted(training))
  with files.report_unwritable(path.parent, '--config.data.data_dir'):
    records.write(path, _Window(window, patients, files.digest_json([window, patients])))
  return window


def _read_window(path: Path) -> tuple[float, float]:
  """Reads a learned window, which must be as it was written."""
  kept = records.read(path, _Window)
  if kept.sha256 != files.digest_json([kept.window, kept.training_patients]):
    raise InputError(f'{path}: its checksum is another, so it was changed')
  return kept.window


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
  scan = words.choose(data.unit).scan
  grouped = _patients_file(raw_dir, data).exists()
  whose = 'as in patients.csv' if grouped else f'each {scan} its own: there is no patients.csv'
  paired = (('masks', two_folders.find(data).rule),) if data.images else ()
  if _is_bids(raw_dir, data):
    whose, paired = 'each subject one', (('masks', _read_bids(raw_dir, data).kind),)
  if _are_studies(cases):
    whose, paired = 'numbered by PatientID', dicom_folder.describe(cases)
  median = np.median(grids.shape, axis=0)
  size = ' x '.join(f'{side:g}' for side in median)
  spacing = ' x '.join(f'{step:.2f}' for step in np.median(grids.spacing_mm, axis=0))
  shape = f'{size} voxels of {spacing} mm (head-feet x back-front x left-right, medians)'
  if _are_pictures(cases):
    shape = f'{median[1]:g} x {median[2]:g} pixels (height x width, medians)'
  intensity = f'percentiles {data.percentiles[0]:g} to {data.percentiles[1]:g} of each {scan}'
  if data.intensity == 'window':
    intensity = f'window {data.window[0]:g} to {data.window[1]:g}'
    intensity += ', from the foreground of the training patients' * ('window' in left)
  name = described.name or raw_dir.name
  cubes = not _are_pictures(cases) and fingerprint.are_cubes(grids)
  if described.listed is not None:
    whose += '; those that dataset.json lists'
  return (
    ('folder', f'{name}: {len(cases)} {scan}s of {patients} patients, {whose}'),
    *paired,
    (f'{scan}s', shape),
    ('channels', ', '.join(described.channels)),
    ('classes', labels.describe(data.classes, labels.parse(data.regions))),
    *([('ignored', f'label {data.ignore} of the masks')] if data.ignore else []),
    ('drawing', words.describe_drawing(data)),
    *([('plane', _OTHER_PLANES)] if 'slice_axis' in left and cubes else []),
    ('intensity', intensity),
    ('from data', f'{", ".join(left)}; what is set in config.data wins'),
  )
