"""The external test set: scans in imagesTs with masks in labelsTs, scored by the final model.

No stage learns of it or chooses by it. The masks are those that predict writes, and their scores
those of thrifty_jax.evaluate.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import labels, logbook, records, weights
from thrifty_jax.data import data_file
from thrifty_jax.errors import InputError
from thrifty_jax.predicting import segment
from thrifty_jax.predicting.file_mask import FileMask
from thrifty_jax.predicting.segment import Segmenter
from thrifty_jax.run_files import EXTERNAL
from thrifty_jax.scans import masks
from thrifty_jax.scans.sources import Source
from thrifty_jax.scans.volumes import Case
from thrifty_jax.scores import mask_pairs, mask_scores, summaries, tables
from thrifty_jax.scores.mask_pairs import Found, Pair

_LABELS = 'labelsTs'


def score(config: ConfigDict, workdir: Path, place: Path) -> str:
  """Predicts and scores the external test set; returns the table, '' where there is nothing to do.

  Writes masks/CASE.nii.gz, scores.csv and at last summary.json to <workdir>/evaluate/external.
  Nothing is done twice for one model.

  Args:
    config: Settings of the run.
    workdir: Folder of the run, or of the runs of several folds, whose models are averaged.
    place: Folder of a run whose data.json says where the scans lie.
  """
  folder = workdir / EXTERNAL
  cases = _find(config, workdir, place)
  if not cases or _is_done(workdir, [path for one in cases for path in (*one.image, *one.label)]):
    return ''
  _require_other_patients(cases, config, place)
  segmenter = segment.load_model(
    workdir, flips=config.evaluate.flips, batch_size=config.evaluate.batch_size
  )
  ending = masks.FORMATS['png' if segmenter.of_pictures else 'nifti']
  pairs = [
    Pair(case.case, case.patient, folder / 'masks' / f'{case.case}{ending}', case.label[0])
    for case in cases
  ]
  with logbook.progress(len(cases), 'evaluate external') as bar:
    for case, pair in zip(cases, pairs, strict=True):
      _predict(segmenter, case, nan_is_lowest=config.data.nan_is_lowest).save(pair.mask)
      bar.update(1)
  found = Found(tuple(pairs), 'by equal names', (), ())
  meaning = mask_pairs.find_meaning(
    [found],
    classes=config.data.classes,
    colours=config.data.colours,
    regions=labels.parse(config.data.regions),
    ignore=config.data.ignore,
  )
  tolerance = config.evaluate.nsd_tolerance_mm
  counts, problems = mask_scores.score(found, meaning, nsd_tolerance=tolerance)
  if problems:
    raise InputError(problems[0])
  summary = mask_scores.summarise([found], meaning, [counts], nsd_tolerance=tolerance)
  of_members = tuple(member.sha256 for member in segmenter.members)
  summary = dataclasses.replace(summary, weights_sha256=of_members)
  summaries.write_rows(folder / 'scores.csv', mask_scores.make_rows(found, meaning, counts))
  records.write(folder / 'summary.json', summary)
  count = len(segmenter.members)
  averaged = f' by {count} models, averaged' if count > 1 else ''
  return f'external test set{averaged}: {tables.format_masks(summary)}'


def tell_changes(config: ConfigDict, workdir: Path) -> str:
  """Returns what to do if files of the set came or changed since the run was scored, else ''."""
  from data_prep import data_sets

  config = config.copy_and_resolve_references()
  config.data.raw_dir = config.data.raw_dir or data_file.require(workdir).raw_dir
  images, truths = (data_sets.raw_dir(config) / name for name in ('imagesTs', _LABELS))
  remedy = f'remove {workdir / "evaluate"} and run --stage=evaluate'
  if not (workdir / EXTERNAL / 'summary.json').exists():
    # False also where it may not look.
    has_come = os.path.isdir(truths) and _can_be_scored(config, workdir)
    return f'; {truths} is not scored yet: to score it {remedy}' if has_come else ''
  if _is_done(workdir, [*images.glob('*'), *truths.glob('*')]):
    return ''
  return f'; files of the external test set have changed since: to score them anew {remedy}'


def _can_be_scored(config: ConfigDict, workdir: Path) -> bool:
  """Returns whether there is a set that `score` would not refuse."""
  try:
    cases = _find(config, workdir, workdir)
    _require_other_patients(cases, config, workdir)
  except InputError:  # that of a run that is done needs no raw scans
    return False
  return bool(cases)


def _is_done(workdir: Path, files: Sequence[Path]) -> bool:
  """Returns whether the set is scored for the models that are there now, and for these files."""
  path = workdir / EXTERNAL / 'summary.json'
  if scored := weights.read_scored(path):
    if scored != weights.read(workdir):
      return False
  else:  # as in files of older versions
    files = [*files, *(one / 'weights.safetensors' for one in segment.find_models(workdir))]
  return path.exists() and all(
    path.stat().st_mtime_ns >= one.stat().st_mtime_ns for one in files if one.exists()
  )


def _find(config: ConfigDict, workdir: Path, place: Path) -> Sequence[Case]:
  """Returns the scans of the set, [] if the run has none; prints where they are gone."""
  from data_prep import data_sets

  record, config = data_file.require(place), config.copy_and_resolve_references()
  config.data.raw_dir = config.data.raw_dir or record.raw_dir
  truths = data_sets.raw_dir(config) / _LABELS
  if not truths.is_dir():
    if record.external and not _is_done(workdir, ()):
      remedy = f'to score it put it back, remove {place / "evaluate"} and run --stage=evaluate'
      logbook.say('external', f'not scored: {truths} is not there; {remedy}')
    return []
  cases, problems = data_sets.find_external(config)
  if problems:
    raise InputError(problems[0].text)
  return cases


def _require_other_patients(cases: Sequence[Case], config: ConfigDict, place: Path) -> None:
  """Refuses scans of patients whose slices the run has, wherever their scans lie by now."""
  _, known = data_file.find(place, data_file.require(place), config)
  if case := next((one for one in cases if one.patient in known), None):
    raise InputError(
      f'{case.image[0]}: is a scan of the patient {case.patient}, who takes part in the run of '
      f'{place}; expected other patients in an external test set. Move its mask in {_LABELS} away.'
    )


def _predict(segmenter: Segmenter, case: Case, *, nan_is_lowest: bool) -> FileMask:
  """Segments a scan, on the grid of its first file."""
  source = Source(case.case, case.image)
  _, grid, found = segmenter.find_source(source, nan_is_lowest=nan_is_lowest)
  mask = found.turned(found.mask, grid.affine)
  mask = mask[0] if segmenter.of_pictures else mask
  return FileMask(mask, segmenter.classes, found.unlike, source, grid, segmenter.colours)
