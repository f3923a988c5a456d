"""The standings of a comparison: scores of each rival on the same patients, over all folds.

Only the files of the comparison are read, so the standings can be rewritten at any time.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from thrifty_jax import records
from thrifty_jax.errors import InputError
from thrifty_jax.run_files import Compared, Figures, Result, Rival
from thrifty_jax.scores import over_folds, statistics, summaries


def write(workdir: Path | str, folds: Sequence[Path]) -> Compared:
  """Writes <workdir>/compare/scores.csv and summary.json.

  Args:
    workdir: Folder of the whole comparison.
    folds: Folders of the runs with its results, one per fold; for a single fold the workdir.

  Raises:
    InputError: If a file is missing or damaged, or the folds compare different rivals.
  """
  folder = Path(workdir) / 'compare'
  results = {
    run: records.read(run / 'compare' / 'results.json', tuple[Result, ...]) for run in folds
  }
  names = _require_same_names(results)
  scored = [
    [
      over_folds.read_scored(run / of_run[place].folder / 'evaluate')
      for run, of_run in results.items()
    ]
    for place in range(len(names))
  ]
  rows = [
    {'rival': name, **row}
    for name, of_folds in zip(names, scored, strict=True)
    for one in of_folds
    for row in one.rows
  ]
  summaries.write_rows(folder / 'scores.csv', rows)
  first = scored[0][0].summary
  reference = _read_scores(scored[0])['dsc']
  summary = Compared(
    data=first.data,
    note=first.note,
    protocol=first.protocol,
    split=first.split,
    held_out=first.held_out,
    nsd_tolerance_mm=first.nsd_tolerance_mm,
    folds=tuple(one.fold for one in scored[0]),
    patients=len(reference),
    reference=names[0],
    rivals=tuple(
      _join([of_run[place] for of_run in results.values()], of_folds, reference if place else None)
      for place, of_folds in enumerate(scored)
    ),
  )
  records.write(folder / 'summary.json', summary)
  return summary


def _require_same_names(results: Mapping[Path, Sequence[Result]]) -> list[str]:
  """Names of the rivals; refuses folds with different ones."""
  of_fold = {run: [result.name for result in found] for run, found in results.items()}
  (first, names), *others = of_fold.items()
  for run, other in others:
    if other != names:
      raise InputError(
        f'{run}: compares {", ".join(other)}, but {first} {", ".join(names)}; run --stage=compare '
        'on both with the same settings'
      )
  return names


def _read_scores(scored: Sequence[over_folds.Scored]) -> dict[str, np.ndarray]:
  """Scores of a rival: metric -> [patients, K - 1], patients sorted by name."""
  return summaries.to_arrays([row for one in scored for row in one.rows])[1]


def _join(
  results: Sequence[Result], scored: Sequence[over_folds.Scored], reference: np.ndarray | None
) -> Rival:
  """Joins a rival over all folds; parameters differ if each fold has its own search.

  Args:
    results: Result of the rival in each fold.
    scored: Scores of the rival in each fold.
    reference: DSC of the reference on the same patients, [patients, K - 1]; None if the rival is
      the reference.
  """
  scores, found = _read_scores(scored), [one.summary for one in scored]
  mean, classes = summaries.summarise_scores(
    scores, over_folds.pool(found), [*found[0].classes], Figures
  )
  difference = p_value = None
  if reference is not None:
    own, other = scores['dsc'].mean(axis=1), reference.mean(axis=1)
    difference = float((own - other).mean())
    p_value = statistics.paired_wilcoxon(own, other)
  means = {
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
    mean=mean,
    classes=classes,
    difference=difference,
    p_value=p_value,
  )
