"""The standings of a comparison: what each rival scored on the same patients, over all folds.

Made from the files of the comparison alone, so that it can be made again at any time.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax import files, scoring, statistics
from thrifty_jax.errors import InputError

Results = list[dict[str, Any]]  # of one fold, as compare.compare leaves them
Scores = dict[str, dict[str, float]]  # rival -> patient -> DSC, mean over classes


def write(workdir: Path | str, folds: Sequence[Path]) -> dict[str, Any]:
  """Writes <workdir>/compare/scores.csv and summary.json.

  Args:
    workdir: Of the whole comparison.
    folds: The runs with its results, one for each fold; of a single fold the workdir itself.

  Returns:
    The summary: how it was compared, and under 'rivals' a row for each, the reference first.

  Raises:
    InputError: If a file is missing or damaged, or the folds compare different rivals.
  """
  workdir = Path(workdir)
  results = [files.read_json(fold / 'compare' / 'results.json') for fold in folds]
  rivals = [[result['name'] for result in of_fold] for of_fold in results]
  for fold, names in zip(folds, rivals, strict=True):
    if names != rivals[0]:
      raise InputError(
        f'{fold}: compares {", ".join(names)}, but {folds[0]} {", ".join(rivals[0])}; '
        'run --stage=compare on both with the same settings'
      )
  rows, evaluated = [], []
  for fold, of_fold in zip(folds, results, strict=True):
    for result in of_fold:
      folder = fold / result['folder'] / 'evaluate'
      evaluated.append(files.read_json(folder / 'summary.json'))
      rows += _rows(folder / 'scores.csv', evaluated[-1]['fold'], result['name'])
  files.write_text(workdir / 'compare' / 'scores.csv', scoring.csv_text(rows))
  scores = _scores(rows)
  count = len(rivals[0])
  summary = {
    **{name: evaluated[0][name] for name in ('data', 'note', 'protocol', 'split', 'held_out')},
    'folds': [one['fold'] for one in evaluated[::count]],
    'patients': len(scores[rivals[0][0]]),
    'reference': rivals[0][0],
    'rivals': [
      {
        **_over_folds([of_fold[place] for of_fold in results]),
        'pooled_2d_dsc': float(np.mean([one['pooled_2d_dsc'] for one in evaluated[place::count]])),
        **_statistics(scores[name], scores[rivals[0][0]], is_reference=place == 0),
      }
      for place, name in enumerate(rivals[0])
    ],
  }
  files.write_json(workdir / 'compare' / 'summary.json', summary)
  return summary


def text(summary: Mapping[str, Any]) -> str:
  """The table for the console, DSC in percent."""
  header = ('', 'parameters', 'MACs', 'volume DSC', 'difference', 'p', 'pooled 2D', 'rate', 'time')
  lines = [header]
  for rival in summary['rivals']:
    deviation, difference, p = rival['dsc_std'], rival['difference'], rival['p_value']
    lines.append(
      (
        rival['label'],
        f'{rival["parameters"]:,.0f}',
        f'{rival["macs"] / 1e9:.2f} G',
        f'{100 * rival["dsc_mean"]:.2f}'
        + ('' if deviation is None else f' ± {100 * deviation:.2f}'),
        '' if difference is None else f'{100 * difference:+.2f}',
        '' if p is None else f'{p:.3f}',
        f'{100 * rival["pooled_2d_dsc"]:.2f}',
        ' '.join(f'{rate:g}' for rate in dict.fromkeys(rival['learning_rates'])),
        f'{rival["seconds"] / 60:.0f} min',
      )
    )
  widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
  body = [
    '  ' + '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
    for line in lines
  ]
  folds = summary['folds']
  title = (
    f'DSC in %, {summary["patients"]} {summary["split"]} patients of fold'
    f'{"s" * (len(folds) > 1)} {", ".join(map(str, folds))}, native grid, mean ± deviation'
  )
  if not summary['held_out']:
    title += '; not held out'
  note = f'  (difference to {summary["rivals"][0]["label"].lower()}, p of the paired Wilcoxon test)'
  return '\n'.join([title, *body, note])


def _over_folds(results: Results) -> dict[str, Any]:
  """One rival's results of all folds as one; parameters differ where each fold has its search."""
  mean = {
    name: float(np.mean([result[name] for result in results]))
    for name in ('parameters', 'macs', 'validation_dsc', 'epochs', 'steps', 'seconds')
  }
  return {
    **{name: results[0][name] for name in ('name', 'label', 'kind', 'image')},
    **mean,
    'learning_rates': [result['learning_rate'] for result in results],
  }


def _rows(path: Path, fold: int, rival: str) -> list[dict[str, Any]]:
  """The scores of a rival's patients in one fold."""
  with path.open(newline='', encoding='utf-8') as file:
    return [{'rival': rival, 'fold': fold, **row} for row in csv.DictReader(file)]


def _scores(rows: Sequence[Mapping[str, Any]]) -> Scores:
  """The DSC of every patient, mean over classes."""
  found: dict[str, dict[str, list[float]]] = {}
  for row in rows:
    of_patient = found.setdefault(row['rival'], {}).setdefault(row['patient'], [])
    of_patient.append(float(row['dsc']))
  return {
    rival: {patient: float(np.mean(values)) for patient, values in sorted(patients.items())}
    for rival, patients in found.items()
  }


def _statistics(
  scores: Mapping[str, float], reference: Mapping[str, float], *, is_reference: bool
) -> dict[str, Any]:
  """Mean, deviation and interval over patients, and the paired test against the reference."""
  own, other = np.array(list(scores.values())), np.array(list(reference.values()))
  mean, deviation = statistics.mean_and_deviation(own)
  interval = statistics.bootstrap_interval(own)
  return {
    'dsc_mean': mean,
    'dsc_std': deviation,
    'dsc_ci95': None if interval is None else list(interval),
    'difference': None if is_reference else float((own - other).mean()),
    'p_value': None if is_reference else statistics.paired_wilcoxon(own, other),
  }
