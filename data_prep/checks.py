"""Requirements on scans that are trained on, and the stage that checks every scan."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data_prep import check_page, data_sets, findings, survey, workers
from data_prep.check_page import Checked
from data_prep.data_sets import Scans
from data_prep.findings import Finding
from data_prep.survey import Scan
from thrifty_jax import labels, presence, words
from thrifty_jax.errors import InputError
from thrifty_jax.scans import missing, pictures, volumes
from thrifty_jax.scans.volumes import Case, Volume


def read(
  read_case: Callable[[Case], Volume], settings: Mapping[str, Any], case: Case
) -> tuple[Volume, list[str]]:
  """Reads a scan, its slices along slice_axis of the settings, and finds its problems.

  The settings are section `data` of a config or those of slices; nan_is_lowest is among them.
  """
  volume = volumes.along(read_case(case), settings['slice_axis'])
  volume = missing.fill(volume) if settings.get('nan_is_lowest') else volume
  classes, modalities = settings['classes'], settings['modalities']
  return volume, find_problems(volume, classes=classes, modalities=modalities, source=case)


def find_problems(
  volume: Volume, *, classes: Sequence[str], modalities: int, source: Case
) -> list[str]:
  """Returns the reasons why a scan cannot be trained on, besides those of `volumes.make_volume`.

  It has another number of channels, is a constant volume or non-finite, or its truth has a label
  that has no name, or none at all. Each reason is a line that names a file of `source`.
  """
  image, truth, found = volume.image, volume.truth, []
  if image.shape[-1] != modalities:
    found.append(
      f'{source.image[0]}: the scan has {image.shape[-1]} channels, but data.modalities is '
      f'{modalities}; correct either.'
    )
  if bad := int(np.count_nonzero(~np.isfinite(image))):
    outside = bad == np.count_nonzero(np.isnan(image))
    remedy = 'Export it again, or take NaN as the lowest by --config.data.nan_is_lowest=True.'
    found.append(
      f'{source.image[0]}: {bad} voxels of the scan are NaN or infinite; expected finite '
      f'intensities. {remedy if outside else "Export it again."}'
    )
  elif not pictures.is_picture(source.image[0]):  # of which one may be empty: it is a warning
    for channel in np.flatnonzero(image.min(axis=(0, 1, 2)) == image.max(axis=(0, 1, 2)))[:1]:
      found.append(
        f'{source.image[0]}: every voxel of the scan is {image[0, 0, 0, channel]:g}'
        f'{f" in channel {channel + 1}" if modalities > 1 else ""}; expected an image. Export it '
        'again.'
      )
  known, regions = labels.count(len(classes), source.regions), source.regions
  strange = (truth >= known) & ((truth != labels.IGNORED) | (not source.ignore))
  if unknown := np.unique(truth[strange]).tolist():
    named = 'data.classes names' if not regions else 'data.regions have'
    found.append(
      f'{source.label[0]}: the truth holds class {words.list_some(unknown)}, but {named} '
      f'{known} {"labels" if regions else "classes"} ({labels.describe(classes, regions)}), 0 to '
      f'{known - 1}; correct the mask or name the class.'
    )
  elif (truth == labels.IGNORED).all():
    found.append(
      f'{source.label[0]}: every {"pixel" if len(truth) == 1 else "voxel"} of the truth has the '
      f'ignored label {source.ignore}; expected some with a class, or the background. Label some, '
      'or leave the scan out.'
    )
  return found


def check(
  config: ConfigDict,
  scans: Scans,
  split: Mapping[str, Sequence[str]],
  workdir: Path,
  told: Sequence[tuple[str, str]] = (),
) -> None:
  """Reads every scan once, in several processes, and shows their figures and what is wrong.

  The split has names of patients under train, validation and test, or is {} where they cannot be
  split; `told` is what `data_sets.resolve` returned. The workdir receives check.html and nothing
  else. An InputError about unusable scans and missing counterparts is raised once everything is
  read and shown.
  """
  cases, names = (*scans.cases, *scans.external), words.choose(config.data.unit)
  found = [Finding(one.text, one.case, is_error=True) for one in scans.unpaired]
  if scans.unused:
    some = words.list_some(scans.unused)
    found.append(
      Finding(f'{len(scans.unused)} files or folders there belong to no {names.scan}: {some}')
    )
  measured: list[Scan] = []
  with workers.map_cases(config.data.workers, f'check {config.data.name}') as cases_map:
    looked = cases_map(functools.partial(_look_at, config), cases)
    for case, (scan, problems) in zip(cases, looked, strict=True):
      measured += [scan] if scan else []
      found += [Finding(text, case.case, is_error=True) for text in problems]
  kind = {name: config.data[name] for name in ('slice_axis', 'unit', 'intensity')}
  found += findings.find(measured, config.data.classes, **kind)
  apart = {case.case for case in scans.external}  # nothing is learned of them
  total = np.sum([scan.class_size for scan in measured if scan.case not in apart], axis=0)
  if not any(finding.is_error for finding in found) and not np.all(total):
    absent = ', '.join(np.array(config.data.classes[1:])[total == 0])
    text = (
      f'{data_sets.raw_dir(config)}: no {names.scan} has a {names.element} of {absent}; expected '
      'every class of data.classes somewhere. Correct the list or the masks.'
    )
    found.append(Finding(text, is_error=True))
  classes_of = scans.classes_of_patients(config) if split else {}
  having = presence.count(split, classes_of, config.data.classes)
  if not any(finding.is_error for finding in found) and (
    absent := presence.describe_absent(having, split)
  ):
    found.append(Finding(absent))
  if split and apart:
    split = {**split, 'external': sorted({case.patient for case in scans.external})}
  checked = Checked(config, cases, split, measured, found, told, presence.describe(having, split))
  print(check_page.format_table(checked))
  print(f'pictures: {check_page.write(checked, workdir)}')
  if errors := checked.select(errors=True):
    count = len(cases) + len(scans.unpaired)
    wrong = {finding.case for finding in errors if finding.case}
    some = 0 < len(wrong) < count
    without = f' {data_sets.name_exclusion([*wrong])}' if some else ''
    if len(errors) == 1:
      raise InputError(f'1 error in {count} {names.scan}s: {errors[0].text}{without}')
    raise InputError(
      f'{len(errors)} errors in {count} {names.scan}s, all listed above; correct or remove what '
      f'they name. The first: {errors[0].text}{without}'
    )
  scans.contents.is_sound = True
  counts = ', '.join(f'{len(patients)} {name}' for name, patients in split.items())
  print(f'{config.data.name}: {len(cases)} cases are usable; patients: {counts}.')


def _look_at(config: ConfigDict, case: Case) -> tuple[Scan | None, list[str]]:
  """Returns the figures of a scan, or None and the problems; runs in a worker process."""
  data = config.data
  try:
    volume, problems = read(data_sets.find_module(config).read_case, data, case)
  except InputError as error:
    return None, [str(error)]
  return (None, problems) if problems else (survey.measure(volume, case, data), [])
