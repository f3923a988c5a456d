"""Requirements on scans that are trained on, and the stage that checks every scan."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from data_prep import check_page, data_sets, findings, survey, workers
from data_prep.check_page import Checked
from data_prep.data_sets import Scans
from data_prep.findings import Finding
from data_prep.survey import Scan
from thrifty_jax import logbook
from thrifty_jax.errors import InputError
from thrifty_jax.scans import volumes
from thrifty_jax.scans.volumes import Case, Volume


def check_volume(volume: Volume, *, classes: Sequence[str], modalities: int, source: Case) -> None:
  """Refuses a scan that cannot be trained on.

  Args:
    volume: The scan with its truth.
    classes: Names of the classes, background first.
    modalities: Number of image channels that are expected.
    source: Files of the scan, named in the error.

  Raises:
    InputError: If there is a problem; it quotes the first of `problems_of`.
  """
  if problems := problems_of(volume, classes=classes, modalities=modalities, source=source):
    raise InputError(problems[0])


def problems_of(
  volume: Volume, *, classes: Sequence[str], modalities: int, source: Case
) -> list[str]:
  """Returns the reasons why a scan cannot be trained on.

  Returns:
    A line for each reason, none for a good scan: it is empty, constant or non-finite, has another
    number of channels, or its truth is missing, has another shape or a class that has no name.
  """
  if not volume.image.size:
    return [
      f'{source.image[0]}: the scan is empty, {volume.image.shape}; replace the file or leave the '
      'case out.'
    ]
  return [
    *_problems_of_image(volume.image, modalities, source.image[0]),
    *_problems_of_truth(volume, classes, source),
  ]


def _problems_of_image(image: np.ndarray, modalities: int, path: Path) -> list[str]:
  found = []
  if image.shape[-1] != modalities:
    found.append(
      f'{path}: the scan has {image.shape[-1]} channels, but data.modalities is {modalities}; '
      'correct either.'
    )
  if bad := int(np.count_nonzero(~np.isfinite(image))):
    found.append(
      f'{path}: {bad} voxels of the scan are NaN or infinite; expected finite intensities. '
      'Export it again.'
    )
  elif (image.min(axis=(0, 1, 2)) == image.max(axis=(0, 1, 2))).any():
    found.append(
      f'{path}: every voxel of the scan is {image.flat[0]:g}; expected an image. Export it again.'
    )
  return found


def _problems_of_truth(volume: Volume, classes: Sequence[str], source: Case) -> list[str]:
  if volume.label is None:
    return [f'{source.image[0]}: the scan has no truth; add its mask or leave the case out.']
  if volume.label.shape != volume.image.shape[:3]:
    return [
      f'{source.label[0]}: the truth has {volume.label.shape} voxels, its scan '
      f'{volume.image.shape[:3]}; expected one grid.'
    ]
  if volume.label.max() >= len(classes):
    unknown = np.unique(volume.label[volume.label >= len(classes)])
    listed = ', '.join(map(str, unknown[:5])) + (', ...' if len(unknown) > 5 else '')
    return [
      f'{source.label[0]}: the truth holds class {listed}, but data.classes names {len(classes)} '
      f'classes ({", ".join(classes)}), 0 to {len(classes) - 1}; correct the mask '
      'or name the class.'
    ]
  return []


def check(
  config: ConfigDict, scans: Scans, split: Mapping[str, Sequence[str]], workdir: Path
) -> None:
  """Reads every scan once, in several processes, and shows their figures and what is wrong.

  One scan per process is in memory at a time.

  Args:
    config: Settings of a run.
    scans: Scans in the raw folder.
    split: Names of the patients under train, validation and test; {} where they cannot be split.
    workdir: Folder that receives check.html and nothing else.

  Raises:
    InputError: If a scan is unusable or a file lacks its counterpart; raised after everything is
      read and shown.
  """
  cases = scans.cases
  found = [Finding(text, is_error=True) for text in scans.unpaired]
  measured: list[Scan] = []
  with (
    logbook.progress(len(cases), f'check {config.data.name}') as bar,
    workers.cases_map(config.data.workers) as cases_map,
  ):
    looked = cases_map(functools.partial(_look_at, config), cases)
    for case, (scan, problems) in zip(cases, looked, strict=True):
      measured += [scan] if scan else []
      found += [Finding(text, case.case, is_error=True) for text in problems]
      bar.update(1)
  found += findings.find(measured, config.data.classes)
  if not any(finding.is_error for finding in found):
    found += _absent_classes(measured, config)
  checked = Checked(config, cases, split, measured, found)
  print(check_page.text(checked))
  print(f'pictures: {check_page.write(checked, workdir)}')
  if errors := checked.select(errors=True):
    raise InputError(_refusal(errors, len(cases) + len(scans.unpaired)))
  counts = ', '.join(f'{len(patients)} {name}' for name, patients in split.items())
  print(f'{config.data.name}: {len(cases)} cases are usable; patients: {counts}.')


def _look_at(config: ConfigDict, case: Case) -> tuple[Scan | None, list[str]]:
  """Returns the figures of a scan, or None and the problems; runs in a worker process."""
  try:
    read = data_sets.module(config).read_case(case)
    volume = volumes.along(read, config.data.slice_axis)
  except InputError as error:
    return None, [str(error)]
  data = config.data
  problems = problems_of(volume, classes=data.classes, modalities=data.modalities, source=case)
  return (None, problems) if problems else (survey.measure(volume, case, data), [])


def _absent_classes(scans: Sequence[Scan], config: ConfigDict) -> list[Finding]:
  """Returns a finding for each class that no scan has, as it could not be learned."""
  total_ml = np.sum([scan.volume_ml for scan in scans], axis=0)
  names = zip(config.data.classes[1:], total_ml, strict=True)
  absent = ', '.join(name for name, volume_ml in names if not volume_ml)
  text = (
    f'{data_sets.raw_dir(config)}: no scan has a voxel of {absent}; expected every class of '
    'data.classes somewhere. Correct the list or the masks.'
  )
  return [Finding(text, is_error=True)] if absent else []


def _refusal(errors: Sequence[Finding], scans: int) -> str:
  """Returns one line about all errors, which quotes the first."""
  if len(errors) == 1:
    return f'1 error in {scans} scans: {errors[0].text}'
  return (
    f'{len(errors)} errors in {scans} scans, all listed above; correct or remove what they '
    f'name. The first: {errors[0].text}'
  )
