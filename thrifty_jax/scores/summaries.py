"""From scores of cases to those of patients, to the figures of a split: files carry these."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax.scores import metrics, scoring, statistics

_AVERAGED = (*metrics.DISTANCES, 'nsd')  # over the scans of a patient
_COUNTED = ('missed', 'invented')
_METRICS = ('dsc', *_AVERAGED, 'ravd_percent', *_COUNTED)  # as in scores.csv


def patient_scores(cases: Sequence[scoring.CaseCounts]) -> dict[str, dict[str, np.ndarray]]:
  """The scores of each patient, by name, sorted: metric -> that of each foreground class, [K - 1].

  A patient with several scans has the DSC and RAVD of their summed counts. His distances and NSD
  are the mean over his scans, so that they come out neither better nor worse for his having been
  scanned twice, as the worst one would. missed and invented count scans.

  Args:
    cases: All cases; where one has no distances, DSC is the only metric.
  """
  measured = all(case.volumes for case in cases)
  found = {}
  for patient, counts in scoring.by_patient(cases).items():
    found[patient] = {'dsc': metrics.dsc(counts)}
    if measured:
      scans = [case.volumes for case in cases if case.patient == patient]
      found[patient] |= {name: _of_scans(scans, name).mean(axis=0) for name in _AVERAGED}
      found[patient] |= {'ravd_percent': metrics.ravd_percent(counts)}
      found[patient] |= {name: _of_scans(scans, name).sum(axis=0) for name in _COUNTED}
  return found


def _of_scans(scans: Sequence[Sequence[Mapping[str, Any]]], name: str) -> np.ndarray:
  """One score of each scan and class, [scans, K - 1]."""
  return np.asarray([[volume[name] for volume in scan] for scan in scans], np.float64)


def summarise(cases: Sequence[scoring.CaseCounts], classes: Sequence[str]) -> dict[str, Any]:
  """The figures of one set of predictions.

  Args:
    cases: All cases of the split.
    classes: Names of the K classes, background first.

  Returns:
    Of DSC, and with distances of every metric of metrics.score_volume: `<metric>_mean` and
    `<metric>_std` over patients, of their means over classes, and `<metric>_ci95`, the bootstrap
    interval [low, high] of that mean. The last two are None for a single patient. Patients whose
    RAVD is infinite are left out of its figures, which are None without any other patient.
    `missed` and `invented`: in how many scans, summed over classes.
    `pooled_2d_dsc`: mean over classes.
    `classes`: name -> the same figures of that class.
  """
  patients = list(patient_scores(cases).values())
  scores = {name: np.stack([patient[name] for patient in patients]) for name in patients[0]}
  pooled = metrics.dsc(np.sum([case.network for case in cases], axis=0))
  summary: dict[str, Any] = {**figures(scores, classes), 'pooled_2d_dsc': float(pooled.mean())}
  for name, value in zip(classes[1:], pooled, strict=True):
    summary['classes'][name]['pooled_2d_dsc'] = float(value)
  return summary


def figures(scores: Mapping[str, np.ndarray], classes: Sequence[str]) -> dict[str, Any]:
  """What `summarise` returns, but what is pooled.

  Args:
    scores: Metric -> that of every patient and foreground class, [patients, K - 1].
    classes: Names of the K classes, background first.
  """
  over_classes = {
    metric: values.sum(axis=1) if metric in _COUNTED else values.mean(axis=1)
    for metric, values in scores.items()
  }
  named = {
    name: _figures({metric: values[:, index] for metric, values in scores.items()})
    for index, name in enumerate(classes[1:])
  }
  return {**_figures(over_classes), 'classes': named}


def _figures(scores: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Mean, deviation and interval of metric -> [patients]; sums of what is counted."""
  figures: dict[str, Any] = {}
  for metric, values in scores.items():
    if metric in _COUNTED:
      figures[metric] = int(values.sum())
      continue
    finite = values[np.isfinite(values)]
    mean, deviation = statistics.mean_and_deviation(finite) if finite.size else (None, None)
    interval = statistics.bootstrap_interval(finite) if finite.size else None
    figures |= {
      f'{metric}_mean': mean,
      f'{metric}_std': deviation,
      f'{metric}_ci95': list(interval) if interval else None,
    }
  return figures


def rows(
  cases: Sequence[scoring.CaseCounts],
  classes: Sequence[str],
  floors: Mapping[str, Sequence[scoring.CaseCounts]],
) -> Iterator[dict[str, Any]]:
  """A row per patient and class, with the floors' DSC of the same patient beside.

  An infinite RAVD is `inf`, which readers of CSV take for the number; missed and invented count
  scans of the patient.
  """
  floor_scores = {name: patient_scores(counts) for name, counts in floors.items()}
  counts = scoring.by_patient(cases)
  for patient, scores in patient_scores(cases).items():
    of_patient = [case.case for case in cases if case.patient == patient]
    for index, name in enumerate(classes[1:]):
      both, predicted, true = (int(value) for value in counts[patient][index])
      row = {'patient': patient, 'cases': ' '.join(of_patient), 'class': name}
      for metric, values in scores.items():
        row[metric] = f'{values[index]:.{0 if metric in _COUNTED else 6}f}'
      row |= {'truth_voxels': true, 'predicted_voxels': predicted, 'common_voxels': both}
      for floor, found in floor_scores.items():
        row[f'{floor}_dsc'] = f'{found[patient]["dsc"][index]:.6f}'
      yield row


def read_rows(path: Path) -> list[dict[str, str]]:
  """The rows of a CSV file that evaluation wrote."""
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def scores_of(
  rows: Sequence[Mapping[str, str]], columns: Sequence[str] = _METRICS
) -> tuple[list[str], dict[str, np.ndarray]]:
  """Scores back from rows of scores.csv.

  Args:
    rows: Of one network, each patient with the same classes in the same order.
    columns: The scores that are wanted.

  Returns:
    The sorted names of the patients; column -> that of every patient and class, [patients, K - 1].
  """
  of_patient: dict[str, list[Mapping[str, str]]] = {}
  for row in rows:
    of_patient.setdefault(row['patient'], []).append(row)
  patients = sorted(of_patient)
  return patients, {
    column: np.array([[float(row[column]) for row in of_patient[name]] for name in patients])
    for column in columns
  }


def csv_text(table: Sequence[Mapping[str, Any]]) -> str:
  """The rows as CSV, the first row's keys as header."""
  text = io.StringIO()
  writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(table)
  return text.getvalue()
