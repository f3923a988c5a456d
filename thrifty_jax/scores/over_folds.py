"""The scores of several folds as those of one set of patients."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax import files
from thrifty_jax.scores import summaries

# What all folds have in common, and what each has of its own.
_SHARED = (
  'protocol',
  'split',
  'nsd_tolerance_mm',
  'held_out',
  'data',
  'note',
  'folds',
  'model',
  'flips',
)
_OF_FOLD = ('fold', 'parameters', 'dsc_mean', 'pooled_2d_dsc', 'largest_component')


def write(workdir: Path | str, folds: Sequence[Path]) -> dict[str, Any]:
  """Writes <workdir>/evaluate/scores.csv and, last, summary.json.

  Args:
    workdir: Of all folds.
    folds: The runs of the folds, all evaluated.

  Returns:
    The summary, with the fields of a single run's. `fold` lists the folds, `of_folds` has what
    differs between them; `parameters` and `pooled_2d_dsc` are means over the folds. A case is in
    `run`, the folder of its fold.

  Raises:
    InputError: If a summary is missing or damaged.
  """
  folder = Path(workdir) / 'evaluate'
  found = {fold: files.read_json(fold / 'evaluate' / 'summary.json') for fold in folds}
  rows = [
    {'fold': summary['fold'], **row}
    for fold, summary in found.items()
    for row in summaries.read_rows(fold / 'evaluate' / 'scores.csv')
  ]
  of_folds = list(found.values())
  first, classes = of_folds[0], ('background', *of_folds[0]['classes'])
  patients, scores = summaries.scores_of(rows)
  split = first['split']
  summary: dict[str, Any] = {
    **{field: first[field] for field in _SHARED},
    'fold': [one['fold'] for one in of_folds],
    'of_folds': [{field: one[field] for field in _OF_FOLD} for one in of_folds],
    'patients': len(patients),
    'patient_names': {split: patients},
    'slices': {split: sum(one['slices'][split] for one in of_folds)},
    'cases': [{**case, 'run': fold.name} for fold, one in found.items() for case in one['cases']],
    'parameters': round(_mean(of_folds, 'parameters')),
    'largest_component': sorted({name for one in of_folds for name in one['largest_component']}),
    **summaries.figures(scores, classes),
    'pooled_2d_dsc': _mean(of_folds, 'pooled_2d_dsc'),
    'floors': {name: _floor(name, rows, of_folds, classes) for name in first['floors']},
  }
  for name, figures in summary['classes'].items():
    figures['pooled_2d_dsc'] = _mean([one['classes'][name] for one in of_folds], 'pooled_2d_dsc')
  summary['floor_dsc'] = max(floor['dsc_mean'] for floor in summary['floors'].values())
  files.write_text(folder / 'scores.csv', summaries.csv_text(rows))
  files.write_json(folder / 'summary.json', summary)
  return summary


def _floor(
  name: str,
  rows: Sequence[Mapping[str, Any]],
  folds: Sequence[Mapping[str, Any]],
  classes: Sequence[str],
) -> dict[str, Any]:
  """The figures of a floor, fitted anew in each fold."""
  _, scores = summaries.scores_of(rows, (f'{name}_dsc',))
  figures = summaries.figures({'dsc': scores[f'{name}_dsc']}, classes)
  floors = [one['floors'][name] for one in folds]
  for of_class, result in figures['classes'].items():
    result['pooled_2d_dsc'] = _mean([one['classes'][of_class] for one in floors], 'pooled_2d_dsc')
  return {
    **figures,
    'pooled_2d_dsc': _mean(floors, 'pooled_2d_dsc'),
    'fitted_on': 'training slices',
    'training_dsc': _mean(floors, 'training_dsc'),
  }


def _mean(of_folds: Sequence[Mapping[str, Any]], field: str) -> float:
  return float(np.mean([one[field] for one in of_folds]))
