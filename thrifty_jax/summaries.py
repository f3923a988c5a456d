"""From scores of cases to those of patients, to the figures of a split: files carry these."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from thrifty_jax import metrics, scoring, statistics

_AVERAGED = (*metrics.DISTANCES, 'nsd')  # over the scans of a patient
_COUNTED = ('missed', 'invented')


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
  pooled = metrics.dsc(np.sum([case.network for case in cases], axis=0))
  scores = {name: np.stack([patient[name] for patient in patients]) for name in patients[0]}
  named = {}
  for index, name in enumerate(classes[1:]):
    of_class = {metric: values[:, index] for metric, values in scores.items()}
    named[name] = {**_figures(of_class), 'pooled_2d_dsc': float(pooled[index])}
  over_classes = {
    metric: values.sum(axis=1) if metric in _COUNTED else values.mean(axis=1)
    for metric, values in scores.items()
  }
  return {**_figures(over_classes), 'pooled_2d_dsc': float(pooled.mean()), 'classes': named}


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


def csv_text(table: Sequence[Mapping[str, Any]]) -> str:
  """The rows as CSV, the first row's keys as header."""
  text = io.StringIO()
  writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(table)
  return text.getvalue()
