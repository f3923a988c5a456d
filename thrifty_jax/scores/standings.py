"""The standings of a comparison: what each rival scored on the same patients, over all folds.

Made from the files of the comparison alone, so that it can be made again at any time.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax import files
from thrifty_jax.errors import InputError
from thrifty_jax.scores import statistics, summaries


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
  folder = Path(workdir) / 'compare'
  results = {fold: files.read_json(fold / 'compare' / 'results.json') for fold in folds}
  names = _names(results)
  evaluated = {
    name: [fold / of_fold[place]['folder'] / 'evaluate' for fold, of_fold in results.items()]
    for place, name in enumerate(names)
  }
  rows = [
    {'rival': name, 'fold': files.read_json(path / 'summary.json')['fold'], **row}
    for name, paths in evaluated.items()
    for path in paths
    for row in summaries.read_rows(path / 'scores.csv')
  ]
  files.write_text(folder / 'scores.csv', summaries.csv_text(rows))
  scores = {name: _scores(rows, name) for name in names}
  first = [files.read_json(path / 'summary.json') for path in evaluated[names[0]]]
  shared = ('data', 'note', 'protocol', 'split', 'held_out', 'nsd_tolerance_mm')
  summary = {
    **{field: first[0][field] for field in shared},
    'folds': [one['fold'] for one in first],
    'patients': len(scores[names[0]]['dsc']),
    'reference': names[0],
    'rivals': [
      {
        **_over_folds([of_fold[place] for of_fold in results.values()]),
        'pooled_2d_dsc': _pooled(evaluated[name]),
        **summaries.figures(scores[name], ('background', *first[0]['classes'])),
        **_against(scores[name]['dsc'], scores[names[0]]['dsc'] if place else None),
      }
      for place, name in enumerate(names)
    ],
  }
  files.write_json(folder / 'summary.json', summary)
  return summary


def _names(results: Mapping[Path, list[dict[str, Any]]]) -> list[str]:
  """The rivals, which must be the same in every fold."""
  of_fold = {fold: [result['name'] for result in found] for fold, found in results.items()}
  (first, names), *others = of_fold.items()
  for fold, other in others:
    if other != names:
      raise InputError(
        f'{fold}: compares {", ".join(other)}, but {first} {", ".join(names)}; run --stage=compare '
        'on both with the same settings'
      )
  return names


def _over_folds(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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


def _scores(rows: Sequence[Mapping[str, Any]], rival: str) -> dict[str, np.ndarray]:
  """A rival's scores, patients in the order of their names: metric -> [patients, K - 1]."""
  _, scores = summaries.scores_of([row for row in rows if row['rival'] == rival])
  return scores


def _pooled(folders: Sequence[Path]) -> float:
  """Pooled 2D DSC, mean over the folds."""
  return float(np.mean([files.read_json(f / 'summary.json')['pooled_2d_dsc'] for f in folders]))


def _against(dsc: np.ndarray, reference: np.ndarray | None) -> dict[str, float | None]:
  """Difference of the mean DSC to the reference's, and the paired test; None of the reference."""
  if reference is None:
    return {'difference': None, 'p_value': None}
  own, other = dsc.mean(axis=1), reference.mean(axis=1)
  difference = float((own - other).mean())
  return {'difference': difference, 'p_value': statistics.paired_wilcoxon(own, other)}
