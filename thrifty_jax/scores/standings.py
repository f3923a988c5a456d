"""The standings of a comparison: scores of each rival on the same patients, over all folds.

Only the files of the comparison are read, so the standings can be rewritten at any time.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thrifty_jax import records
from thrifty_jax.errors import InputError
from thrifty_jax.run_files import Compared, Result, Rival
from thrifty_jax.scores import metrics, over_folds, statistics, summaries


def write(workdir: Path | str, folds: Sequence[Path]) -> Compared:
  """Writes <workdir>/compare/scores.csv and summary.json.

  Args:
    workdir: Folder of the whole comparison.
    folds: Folders of the runs with its results, one per fold; for a single fold the workdir.

  Raises:
    InputError: If a file is missing or damaged, or the folds compare different rivals.
  """
  folder = Path(workdir) / 'compare'
  files = [run / 'compare' / 'results.json' for run in folds]
  results = [records.read(path, tuple[Result, ...]) for path in files]
  names = [result.name for result in results[0]]
  for run, found in zip(folds, results, strict=True):
    others = [result.name for result in found]
    if others != names:
      raise InputError(
        f'{run}: compares {", ".join(others)}, but {folds[0]} {", ".join(names)}; run '
        '--stage=compare on both with the same settings'
      )
  scored = [
    [
      over_folds.read_scored(run / result.folder / 'evaluate')
      for run, result in zip(folds, of_folds, strict=True)
    ]
    for of_folds in zip(*results, strict=True)
  ]
  rows = [
    {'rival': name, **row}
    for name, of_folds in zip(names, scored, strict=True)
    for one in of_folds
    for row in one.rows
  ]
  summaries.write_rows(folder / 'scores.csv', rows)
  first, joined = scored[0][0].summary, [over_folds.join(of_folds) for of_folds in scored]
  summary = Compared(
    data=first.data,
    note=first.note,
    protocol=first.protocol,
    split=first.split,
    held_out=first.held_out,
    nsd_tolerance_mm=first.nsd_tolerance_mm,
    unit=first.unit,
    folds=tuple(one.fold for one in scored[0]),
    patients=len(joined[0].patients),
    reference=names[0],
    rivals=tuple(
      _rival([found[place] for found in results], own, joined[0] if place else None)
      for place, own in enumerate(joined)
    ),
  )
  records.write(folder / 'summary.json', summary)
  return summary


def _rival(
  results: Sequence[Result], joined: over_folds.Joined, reference: over_folds.Joined | None
) -> Rival:
  """A rival over all folds, beside the reference; None if it is the reference itself."""
  difference = p_value = None
  if reference is not None:
    difference, p_value = statistics.compare_paired(
      *(metrics.mean_of_scored(one.scores['dsc'], axis=1) for one in (joined, reference))
    )
  means = {  # parameters differ if each fold has its own search
    name: float(np.mean([getattr(result, name) for result in results]))
    for name in ('parameters', 'macs', 'validation_dsc', 'epochs', 'steps', 'seconds')
  }
  return Rival(
    name=results[0].name,
    label=results[0].label,
    kind=results[0].kind,
    image=results[0].image,
    **means,
    learning_rates=tuple(result.learning_rate for result in results),
    mean=joined.mean,
    classes=joined.classes,
    difference=difference,
    p_value=p_value,
  )
