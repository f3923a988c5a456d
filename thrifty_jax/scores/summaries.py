"""Scores of patients and figures of a split from scores of cases, and rows of scores.csv."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from thrifty_jax import files, words
from thrifty_jax.errors import InputError
from thrifty_jax.run_files import Figures, Floor, Overlap, Spread
from thrifty_jax.scores import metrics, scoring, statistics

_AVERAGED = (*metrics.DISTANCES, 'nsd')  # metrics averaged over the scans of a patient
COUNTED = ('missed', 'invented', 'rightly_empty')
METRICS = ('dsc', *_AVERAGED, 'ravd_percent', *COUNTED)  # in scores.csv
_MOST_ROWS = 50_000  # of a table, patients times classes
F = TypeVar('F', Figures, Overlap)


def column_of(metric: str, unit: str) -> str:
  """Returns the column of a metric in scores.csv, such as hd95_mm or hd95_pixels."""
  metric = metric.replace('voxels', f'{words.choose(unit).element}s')
  return metric.replace('_mm', f'_{unit}')


def score_patients(cases: Sequence[scoring.CaseCounts]) -> dict[str, dict[str, np.ndarray]]:
  """Scores of each patient, sorted by name: metric -> score of each foreground class, [K - 1].

  DSC and RAVD of a patient with several scans come from their summed counts. Distances and NSD are
  the mean over the scans, which, unlike the worst scan, does not depend on their number on average.
  missed, invented and rightly_empty count scans; a scan of the last kind has no score, which is NaN
  where it holds for all scans. If a case has no distances, DSC is the only metric.
  """
  of_counts = {'dsc': metrics.dsc, 'ravd_percent': metrics.ravd_percent}
  names = METRICS if all(case.volumes for case in cases) else ('dsc',)
  found = {}
  for patient, counts in scoring.by_patient(cases).items():
    scans, scores = [case.volumes for case in cases if case.patient == patient], {}
    for name in names:
      if name in of_counts:
        scores[name] = of_counts[name](counts)
        continue
      values = np.asarray([[getattr(v, name) for v in volumes] for volumes in scans], np.float64)
      is_count = name in COUNTED
      scores[name] = values.sum(axis=0) if is_count else metrics.mean_of_scored(values, axis=0)
    found[patient] = scores
  return found


def summarise(
  cases: Sequence[scoring.CaseCounts], classes: Sequence[str], kind: type[F]
) -> tuple[F, dict[str, F]]:
  """Figures of one set of predictions: means over the classes, and those of each class.

  `classes` begin with the background; `kind` is Overlap for cases without distances.
  """
  patients = list(score_patients(cases).values())
  scores = {name: np.stack([patient[name] for patient in patients]) for name in patients[0]}
  pooled = metrics.dsc(np.sum([case.network for case in cases], axis=0))
  return summarise_scores(scores, pooled[None], classes[1:], kind)


def summarise_scores(
  scores: Mapping[str, np.ndarray], pooled: np.ndarray, classes: Sequence[str], kind: type[F]
) -> tuple[F, dict[str, F]]:
  """Figures as of `summarise`, from scores instead of cases.

  Args:
    scores: Metric -> score of every patient and foreground class, [patients, K - 1]; NaN is none.
    pooled: Pooled 2D DSC of every fold and foreground class, [folds, K - 1], likewise.
    classes: Names of the K - 1 foreground classes.
    kind: Figures, or Overlap if DSC is the only metric.
  """

  def figures(of_metric: Mapping[str, np.ndarray], pooled_2d_dsc: np.ndarray) -> F:
    found: dict[str, Any] = {  # sums of the counted metrics, spreads of the others
      metric: int(values.sum()) if metric in COUNTED else _spread(values[np.isfinite(values)])
      for metric, values in of_metric.items()
    }
    pooled_mean = float(metrics.mean_of_scored(pooled_2d_dsc))
    return kind(
      **found,
      pooled_2d_dsc=None if np.isnan(pooled_mean) else pooled_mean,
      scored=int(np.isfinite(of_metric['dsc']).sum()),
    )

  over_classes = {
    metric: values.sum(axis=1) if metric in COUNTED else metrics.mean_of_scored(values, axis=1)
    for metric, values in scores.items()
  }
  return figures(over_classes, metrics.mean_of_scored(pooled, axis=1)), {
    name: figures({metric: values[:, k] for metric, values in scores.items()}, pooled[:, k])
    for k, name in enumerate(classes)
  }


def best_dsc(floors: Iterable[Floor]) -> float | None:
  """Returns the highest mean DSC of the floors; None where no patient has a score."""
  return max((floor.mean.dsc.mean for floor in floors if floor.mean.dsc), default=None)


def _spread(finite: np.ndarray) -> Spread | None:
  """Spread over [patients]; None without any."""
  if not finite.size:
    return None
  return Spread(*statistics.mean_and_deviation(finite), statistics.bootstrap_interval(finite))


def make_rows(
  cases: Sequence[scoring.CaseCounts],
  classes: Sequence[str],
  floors: Mapping[str, Sequence[scoring.CaseCounts]],
  *,
  unit: str = 'mm',
) -> Iterator[dict[str, Any]]:
  """Yields a row of scores.csv per patient and class, with the floors' DSC of the same patient.

  `unit` is that of distances. An infinite RAVD is `inf`, which CSV readers parse as a number. Where
  there is no score the cell is empty, which they take as missing.
  """
  floor_scores = {name: score_patients(counts) for name, counts in floors.items()}
  counts = scoring.by_patient(cases)
  for patient, scores in score_patients(cases).items():
    of_patient = [case.case for case in cases if case.patient == patient]
    for index, name in enumerate(classes[1:]):
      both, predicted, true = (int(value) for value in counts[patient][index])
      row = {'patient': patient, 'cases': ' '.join(of_patient), 'class': name}
      for metric, values in scores.items():
        row[column_of(metric, unit)] = _cell(values[index], digits=0 if metric in COUNTED else 6)
      sizes = {'truth_voxels': true, 'predicted_voxels': predicted, 'common_voxels': both}
      row |= {column_of(name, unit): size for name, size in sizes.items()}
      for floor, found in floor_scores.items():
        row[f'{floor}_dsc'] = _cell(found[patient]['dsc'][index])
      yield row


def _cell(value: float, *, digits: int = 6) -> str:
  return '' if np.isnan(value) else f'{value:.{digits}f}'


def write_rows(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
  """Writes rows as CSV atomically, with the first row's keys as header."""
  files.write_text(path, format_rows(table))


def format_rows(table: Sequence[Mapping[str, Any]]) -> str:
  """Returns the text that `write_rows` writes."""
  text = io.StringIO()
  writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(table)
  return text.getvalue()


def read_rows(
  path: Path, columns: Sequence[str], *, scores: Sequence[str] = ('dsc',)
) -> list[dict[str, str]]:
  """Reads the rows of a CSV file with scores, at least one, as texts by column.

  Args:
    path: The file.
    columns: Required columns; there may be others.
    scores: Columns with numbers from 0 to 1, if present, or nothing where there is no score.

  Raises:
    InputError: If the file cannot be read or is not such a table.
  """
  files.require_file(path, most_bytes=files.MOST_JSON_BYTES)
  try:
    with path.open(newline='', encoding='utf-8') as file:
      reader = csv.DictReader(file)
      names = reader.fieldnames or ()
      rows = [row for row, _ in zip(reader, range(_MOST_ROWS + 1), strict=False)]
  except (OSError, ValueError, csv.Error) as error:
    raise InputError(
      f'{path}: cannot be read as CSV ({error}); put it back or make it again'
    ) from error
  if not {*columns} <= {*names} or len({*names}) < len(names):
    raise InputError(
      f'{path}: has the columns {names!r:.200}; expected {", ".join(columns)}, and each only once'
    )
  if not 0 < len(rows) <= _MOST_ROWS:
    count = 'more' if rows else 'none'
    raise InputError(f'{path}: expected 1 to {_MOST_ROWS} rows of scores; there are {count}')
  for number, row in enumerate(rows, start=2):
    for name, text in row.items():
      try:
        fits = name is not None and text is not None
        fits = fits and (name not in scores or not text or 0 <= float(text) <= 1)  # false for NaN
      except ValueError:
        fits = False
      if not fits:
        raise InputError(
          f'{path}: line {number} has {text!r:.60} under {name!r:.60}; expected a value for each '
          'column, and scores from 0 to 1'
        )
  return rows


def to_arrays(
  rows: Sequence[Mapping[str, str]], names: Sequence[str] = METRICS, *, unit: str = 'mm'
) -> tuple[list[str], dict[str, np.ndarray]]:
  """Converts rows of scores.csv of one network back to arrays.

  Returns:
    Sorted names of the patients; metric -> score of every patient and class, [patients, K - 1], NaN
    where there is none; the classes are in the order of the file, the same for all patients.
  """
  of_patient: dict[str, list[Mapping[str, str]]] = {}
  for row in rows:
    of_patient.setdefault(row['patient'], []).append(row)
  patients = sorted(of_patient)
  columns = {name: column_of(name, unit) for name in names}
  return patients, {
    name: np.array(
      [[float(row[column] or 'nan') for row in of_patient[patient]] for patient in patients]
    )
    for name, column in columns.items()
  }
