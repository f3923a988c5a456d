"""Joins the scores of several folds as those of one set of patients."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from thrifty_jax import records
from thrifty_jax.errors import InputError
from thrifty_jax.run_files import Evaluated, Figures, Floor, OfFold, Overlap
from thrifty_jax.scores import agreement, metrics, summaries

_REMEDY = 'Put the file back, or remove its folder and run --stage=evaluate.'


class Scored(NamedTuple):
  """Evaluation of one fold: its number, its summary.json, and its scores.csv with the fold."""

  fold: int
  summary: Evaluated
  rows: list[dict[str, str]]


class Joined(NamedTuple):
  """Scores of one network over all folds, and their figures."""

  patients: list[str]
  dsc: np.ndarray  # with each seed, [S, patients, K - 1]; NaN is none
  mean: Figures
  classes: dict[str, Figures]


def read_scored(folder: Path) -> Scored:
  """Reads evaluate/ of a run of one fold; raises InputError if a file is missing or damaged."""
  summary = records.read(folder / 'summary.json', Evaluated)
  if isinstance(summary.fold, tuple):
    raise InputError(
      f'{folder / "summary.json"}: has the scores of several folds; expected those of one'
    )
  path, floors = folder / 'scores.csv', [f'{name}_dsc' for name in summary.floors]
  columns = {summaries.column_of(metric, summary.unit): metric for metric in summaries.METRICS}
  required = [column for column in columns if column != 'rightly_empty']  # older files lack it
  rows = summaries.read_rows(
    path, ('patient', 'class', *required, *floors), scores=('dsc', *floors)
  )
  for row in rows:
    row.setdefault('rightly_empty', '0')
  _require_numbers(path, rows, columns)
  _require_classes(path, rows, summary)
  return Scored(summary.fold, summary, [{'fold': str(summary.fold), **row} for row in rows])


def _require_numbers(
  path: Path, rows: Sequence[Mapping[str, str]], columns: Mapping[str, str]
) -> None:
  """Refuses scores that are neither numbers nor empty, and counts that are no numbers.

  `columns` maps columns to their metrics.
  """
  for number, row in enumerate(rows, start=2):
    for column, metric in columns.items():
      text, counted = row[column], metric in summaries.COUNTED
      if not (text.isdecimal() if counted else _is_score(text)):
        expected = 'a number of scans' if counted else 'a number, or nothing where there is none'
        raise InputError(
          f'{path}: line {number} has {text!r:.60} under {column}; expected {expected}. {_REMEDY}'
        )


def _is_score(text: str) -> bool:
  """Returns whether a cell is a number, which may be infinite, or empty."""
  try:
    return not text or not np.isnan(float(text))
  except ValueError:
    return False


def _require_classes(path: Path, rows: Sequence[Mapping[str, str]], summary: Evaluated) -> None:
  """Refuses rows that are not those of all patients, each with all classes in their order."""
  found: dict[str, list[str]] = {}
  for row in rows:
    found.setdefault(row['patient'], []).append(row['class'])
  for patient, classes in found.items():
    if classes != [*summary.classes]:
      raise InputError(
        f'{path}: has the classes {", ".join(classes)} of patient {patient}; expected '
        f'{", ".join(summary.classes)}, in this order. {_REMEDY}'
      )
  if len(found) != summary.patients:
    raise InputError(
      f'{path}: has {len(found)} patients; expected {summary.patients}, as summary.json beside it '
      f'has. {_REMEDY}'
    )


def join(scored: Sequence[Scored]) -> Joined:
  """Joins the folds of one network; the patients are sorted by name."""
  return join_seeds([scored])


def join_seeds(of_seeds: Sequence[Sequence[Scored]]) -> Joined:
  """Joins the folds of one network that was trained with several seeds, [seeds][folds].

  A patient's score is the mean over the seeds that have one; counts of scans are sums.
  """
  summed = [one.summary for scored in of_seeds for one in scored]
  found = [
    summaries.to_arrays([row for one in scored for row in one.rows], unit=summed[0].unit)
    for scored in of_seeds
  ]
  scores = {}
  for metric in found[0][1]:
    values = np.stack([of_seed[metric] for _, of_seed in found])
    is_count = metric in summaries.COUNTED
    scores[metric] = values.sum(axis=0) if is_count else metrics.mean_of_scored(values, axis=0)
  figures = summaries.summarise_scores(scores, _pool(summed), [*summed[0].classes], Figures)
  return Joined(found[0][0], np.stack([of_seed['dsc'] for _, of_seed in found]), *figures)


def write(workdir: Path | str, folds: Sequence[Path]) -> Evaluated:
  """Writes <workdir>/evaluate/scores.csv and then summary.json.

  Args:
    workdir: Folder of all folds.
    folds: Folders of the folds' runs, all evaluated.

  Returns:
    The summary. `fold` lists the folds and `of_folds` their differences; `parameters` and
    `pooled_2d_dsc` are means over the folds. `run` is the folder of the fold of a case. Floors are
    those that all folds have.

  Raises:
    InputError: If a file is missing or damaged.
  """
  folder = Path(workdir) / 'evaluate'
  scored = [read_scored(run / 'evaluate') for run in folds]
  found = [one.summary for one in scored]
  first, joined = found[0], join(scored)
  shared = [name for name in first.floors if all(name in one.floors for one in found)]
  left_out = {f'{name}_dsc' for one in found for name in one.floors if name not in shared}
  rows = [
    {column: text for column, text in row.items() if column not in left_out}
    for one in scored
    for row in one.rows
  ]
  floors = {name: _join_floors(name, rows, [one.floors[name] for one in found]) for name in shared}
  summary = dataclasses.replace(
    first,
    fold=tuple(one.fold for one in scored),
    of_folds=tuple(
      OfFold(fold, one.parameters, one.mean.dsc_mean, one.mean.pooled_2d_dsc, one.largest_component)
      for fold, one, _ in scored
    ),
    patients=len(joined.patients),
    patient_names={first.split: tuple(joined.patients)},
    slices={first.split: sum(one.slices[first.split] for one in found)},
    cases=tuple(
      dataclasses.replace(case, run=run.name)
      for run, one in zip(folds, found, strict=True)
      for case in one.cases
    ),
    having=_join_having([one.having.get(first.split, {}) for one in found], first),
    agreements=tuple(case for one in found for case in one.agreements),
    suspects=agreement.find_suspects([case for one in found for case in one.agreements]),
    parameters=round(np.mean([one.parameters for one in found])),
    largest_component=tuple(sorted({name for one in found for name in one.largest_component})),
    weights_sha256=tuple(weights for one in found for weights in one.weights_sha256),
    mean=joined.mean,
    classes=joined.classes,
    floors=floors,
    floor_dsc=summaries.best_dsc(floors.values()),
  )
  summaries.write_rows(folder / 'scores.csv', rows)
  records.write(folder / 'summary.json', summary)
  return summary


def _join_having(
  having: Sequence[Mapping[str, int]], first: Evaluated
) -> dict[str, dict[str, int]]:
  """Sums how many of the scored patients have each class; {} if a fold does not know."""
  if not all(having):
    return {}
  return {first.split: {name: sum(of[name] for of in having) for name in first.classes}}


def _pool(folds: Sequence[Evaluated | Floor]) -> np.ndarray:
  """Pooled 2D DSC of every fold and foreground class, [folds, K - 1], NaN where there is none."""
  pooled = [[one.pooled_2d_dsc for one in fold.classes.values()] for fold in folds]
  return np.array(pooled, np.float64)  # which makes NaN of None


def _join_floors(name: str, rows: Sequence[dict[str, str]], floors: Sequence[Floor]) -> Floor:
  """Figures of a floor that was fitted in each fold separately."""
  _, scores = summaries.to_arrays(rows, (f'{name}_dsc',))
  scores = {'dsc': scores[f'{name}_dsc']}
  figures = summaries.summarise_scores(scores, _pool(floors), [*floors[0].classes], Overlap)
  training_dsc = float(np.mean([floor.training_dsc for floor in floors]))
  return Floor(*figures, floors[0].fitted_on, training_dsc)
