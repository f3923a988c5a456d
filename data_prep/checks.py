"""A look at every scan before anything is computed from it."""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from data_prep import data_sets, splits, volumes
from data_prep.volumes import Case, Volume
from thrifty_jax import logbook
from thrifty_jax.config import searches
from thrifty_jax.errors import InputError


def check_volume(volume: Volume, *, classes: Sequence[str], modalities: int, source: Case) -> None:
  """Refuses a scan that cannot be trained on.

  Args:
    volume: The scan with its truth.
    classes: Names of the classes, background first.
    modalities: How many image channels are expected.
    source: Where the scan came from, for the error.

  Raises:
    InputError: If the scan is empty, constant, not finite, has another number of channels, or its
      truth is missing, has another shape or a class that has no name.
  """
  image_file = source.image[0]
  if not volume.image.size:
    raise InputError(
      f'{image_file}: the scan is empty, {volume.image.shape}; replace the file or leave the case '
      'out.'
    )
  if volume.image.shape[-1] != modalities:
    raise InputError(
      f'{image_file}: the scan has {volume.image.shape[-1]} channels, but data.modalities is '
      f'{modalities}; correct either.'
    )
  bad = int(np.count_nonzero(~np.isfinite(volume.image)))
  if bad:
    raise InputError(
      f'{image_file}: {bad} voxels of the scan are NaN or infinite; expected finite intensities. '
      'Export it again.'
    )
  if (volume.image.min(axis=(0, 1, 2)) == volume.image.max(axis=(0, 1, 2))).any():
    raise InputError(
      f'{image_file}: every voxel of the scan is {volume.image.flat[0]:g}; expected an image. '
      'Export it again.'
    )
  if volume.label is None:
    raise InputError(f'{image_file}: the scan has no truth; add its mask or leave the case out.')
  label_file = source.label[0]
  if volume.label.shape != volume.image.shape[:3]:
    raise InputError(
      f'{label_file}: the truth has {volume.label.shape} voxels, its scan '
      f'{volume.image.shape[:3]}; expected one grid.'
    )
  if volume.label.max() >= len(classes):
    unknown = np.unique(volume.label[volume.label >= len(classes)])
    listed = ', '.join(map(str, unknown[:5])) + (', ...' if len(unknown) > 5 else '')
    raise InputError(
      f'{label_file}: the truth holds class {listed}, but data.classes names {len(classes)} '
      f'classes ({", ".join(classes)}), 0 to {len(classes) - 1}; correct the mask '
      'or name the class.'
    )


def check_patients(cases: Sequence[Case], config: ConfigDict) -> dict[str, tuple[str, ...]]:
  """Refuses a data set that cannot be split as the config says.

  Returns:
    Names of the patients under 'train', 'validation' and 'test'.

  Raises:
    InputError: If names repeat, patients are too few, or the lists of patients do not fit.
  """
  names = [case.case for case in cases]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise InputError(
      f'{data_sets.raw_dir(config)}: more than one scan is called {", ".join(twice)}; rename or '
      'remove one.'
    )
  split = splits.split_patients(
    [case.patient for case in cases],
    folds=config.data.folds,
    fold=config.data.fold,
    validation=config.data.validation_patients,
    test=config.data.test_patients,
    hold_out_test=config.data.hold_out_test,
  )
  if searches(config):
    splits.search_halves(split['train'], seed=config.seed)  # refuses too few, before any work
  return split


def check(config: ConfigDict) -> None:
  """Reads every scan once, prints a line for each and stops at the first that is unusable.

  Raises:
    InputError: What `check_volume` and `check_patients` raise.
  """
  cases = data_sets.find_cases(config)
  split = check_patients(cases, config)
  read_case = data_sets.module(config).read_case
  rows, lacking = [], []
  total = np.zeros(len(config.data.classes), np.int64)
  with logbook.progress(len(cases), f'check {config.data.name}') as bar:
    for case in cases:
      volume = volumes.along(read_case(case), config.data.slice_axis)
      check_volume(
        volume, classes=config.data.classes, modalities=config.data.modalities, source=case
      )
      part = next(name for name, patients in split.items() if case.patient in patients)
      voxels = np.bincount(volume.truth.reshape(-1), minlength=len(config.data.classes))
      total += voxels
      rows.append(_row(volume, part, voxels / volume.truth.size))
      lacking += [case.case] if not voxels[1:].all() else []
      bar.update(1)
  header = ['case', 'patient', 'split', 'D x H x W', 'spacing mm', 'intensity']
  print(table([*header, *config.data.classes[1:]], rows))
  if absent := [
    name for name, voxels in zip(config.data.classes, total, strict=True) if not voxels
  ]:
    raise InputError(
      f'{data_sets.raw_dir(config)}: no scan has a voxel of {", ".join(absent)}; expected every '
      'class of data.classes somewhere. Correct the list or the masks.'
    )
  if lacking:
    print(f'A class has no voxel in: {", ".join(lacking)}. That is allowed; see that it is meant.')
  counts = ', '.join(f'{len(patients)} {name}' for name, patients in split.items())
  print(f'{config.data.name}: {len(cases)} cases are usable; patients: {counts}.')


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Text in columns, a line per row."""
  lines = [header, *rows]
  widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
  return '\n'.join(
    '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
    for line in lines
  )


def _row(volume: Volume, part: str, shares: np.ndarray) -> list[str]:
  return [
    volume.case,
    volume.patient,
    part,
    'x'.join(map(str, volume.truth.shape)),
    ' '.join(f'{step:.2f}' for step in volume.spacing_mm),
    f'{volume.image.min():g}..{volume.image.max():g}',
    *(f'{share:.2%}' for share in shares[1:]),
  ]
