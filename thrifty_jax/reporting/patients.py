"""The patients on a page: dots for all scores, pictures of the best, median and worst."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from thrifty_jax.errors import InputError
from thrifty_jax.reporting import plots
from thrifty_jax.run_files import Evaluated
from thrifty_jax.scans import overlays
from thrifty_jax.scores import summaries

FLOORS = {'mean_mask': 'mean training mask', 'intensity_thresholds': 'intensity thresholds'}
Rows = Sequence[Mapping[str, str]]


def gather(run: Path, evaluated: Evaluated | None, colours: Sequence[str]) -> dict[str, Any]:
  """Gathers what the page shows of individual patients, classes in `overlays.line_colours`."""
  rows = read_scores(run) if evaluated else []
  return {
    'rows': rows,
    'dots': _plot(rows) if rows else '',
    'viewers': draw_patients(run, evaluated, rows, colours) if evaluated else [],
    'floors': FLOORS,
    'differences': overlays.DIFFERENCES,
    'class_colours': colours,
  }


def read_scores(run: Path) -> list[dict[str, str]]:
  """Reads the lines of evaluate/scores.csv; none if it is missing."""
  path, scores = run / 'evaluate' / 'scores.csv', ('dsc', *(f'{floor}_dsc' for floor in FLOORS))
  columns = ('patient', 'class', 'dsc')
  return summaries.read_rows(path, columns, scores=scores) if path.exists() else []


def _plot(rows: Rows) -> Markup:
  """Plots the score of every patient, class by class, the floors below the model."""
  columns = {'dsc': 'this network'} | {f'{floor}_dsc': name for floor, name in FLOORS.items()}
  shown = [name for name in columns if name in rows[0]]
  scores = [(row['class'], columns[name], row[name]) for row in rows for name in shown]
  return plots.draw_dots(_grouped(scores), name='patients')


def plot_rivals(rows: Rows, labels: Mapping[str, str]) -> Markup:
  """Plots the score of every patient, class by class, of each rival by its label.

  Of several seeds it is their mean.
  """
  found: dict[tuple[str, str, str], list[float]] = {}
  for row in rows:
    of_patient = found.setdefault((row['class'], row['rival'], row['patient']), [])
    of_patient += [float(row['dsc'])] if row['dsc'] else []
  scores = [
    (name, labels[rival], str(sum(values) / len(values)) if values else '')
    for (name, rival, _), values in found.items()
  ]
  return plots.draw_dots(_grouped(scores), name='rivals')


def _grouped(scores: Sequence[tuple[str, str, str]]) -> dict[str, dict[str, list[float]]]:
  """Percentages by class and network, empty where no patient has a score."""
  groups: dict[str, dict[str, list[float]]] = {}
  for of_class, network, score in scores:
    of_network = groups.setdefault(of_class, {}).setdefault(network, [])
    of_network += [100 * float(score)] if score else []
  return groups


def choose(rows: Rows) -> list[tuple[str, str, float]]:
  """Chooses the best, the median and the worst patient: which, name, and mean DSC.

  Patients without a score are left out.
  """
  of_patient: dict[str, list[float]] = {}
  for row in rows:
    if row['dsc']:
      of_patient.setdefault(row['patient'], []).append(float(row['dsc']))
  means = {patient: sum(scores) / len(scores) for patient, scores in of_patient.items()}
  ranked = sorted(means, key=lambda patient: -means[patient])
  places = {'best': 0, 'median': len(ranked) // 2, 'worst': len(ranked) - 1}
  if len(ranked) < 3:
    places = [{}, {'only': 0}, {'best': 0, 'worst': 1}][len(ranked)]
  return [(which, ranked[place], means[ranked[place]]) for which, place in places.items()]


def draw_patients(
  run: Path, evaluated: Evaluated, rows: Rows, colours: Sequence[str] = overlays.CLASS_COLOURS
) -> list[dict[str, Any]]:
  """Pictures the best, the median and the worst patient with a score whose slices exist."""
  return [
    title | {'frames': overlays.frames(path, colours)}
    for title, path in _find(run, evaluated, rows)
  ]


def draw_middles(
  run: Path, evaluated: Evaluated, colours: Sequence[str] = overlays.CLASS_COLOURS
) -> dict[str, np.ndarray]:
  """Returns a picture of the same patients by their titles, see `overlays.draw_largest`."""
  return {
    f'{title["which"]}/{title["patient"]}, DSC {100 * title["dsc"]:.1f}': overlays.draw_largest(
      path, colours
    )
    for title, path in _find(run, evaluated, read_scores(run))
  }


def _find(run: Path, evaluated: Evaluated, rows: Rows) -> Iterator[tuple[dict[str, Any], Path]]:
  """Yields what is said of a chosen patient, and the file of the slices."""
  for which, patient, dsc in choose(rows):
    case = next((case for case in evaluated.cases if case.patient == patient), None)
    if case is None:
      raise InputError(
        f'{run / "evaluate"}: scores.csv has the patient {patient!r:.60}, but summary.json does '
        'not; remove the folder and run --stage=evaluate'
      )
    path = run / case.run / 'evaluate' / 'predictions' / f'{case.case}.npz'
    if path.exists():
      yield {'which': which, 'patient': patient, 'case': case.case, 'dsc': dsc}, path
