"""The standings of a comparison: scores of each rival on the same patients, over folds and seeds.

Only the files of the comparison are read, so the standings can be rewritten at any time.
"""

import collections
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thrifty_jax import records
from thrifty_jax.errors import InputError
from thrifty_jax.run_files import Compared, Result, Rival
from thrifty_jax.scores import over_folds, statistics, summaries


class TrainedAnew(InputError):
  """A network has other scores than those that were compared."""


def write(workdir: Path | str, folds: Sequence[Path]) -> Compared:
  """Writes <workdir>/compare/scores.csv and summary.json.

  Args:
    workdir: Folder of the whole comparison.
    folds: Folders of the runs with its results, one per fold; for a single fold the workdir.

  Raises:
    TrainedAnew: If a network was trained anew since.
    InputError: If a file is missing or damaged, or the folds compare different rivals.
  """
  folder = Path(workdir) / 'compare'
  results = [records.read(run / 'compare' / 'results.json', tuple[Result, ...]) for run in folds]
  for run, found in zip(folds, results, strict=True):
    if [one.name for one in found] != [one.name for one in results[0]]:
      raise InputError(
        f'{run}: compares {_list_trained(found)}, but {folds[0]} {_list_trained(results[0])}; run '
        '--stage=compare on both with the same settings'
      )
  rivals: dict[str, list[tuple[Result, ...]]] = {}  # by name: of each seed those of the folds
  for of_folds in zip(*results, strict=True):
    rivals.setdefault(of_folds[0].name, []).append(of_folds)
  scored = {
    name: [
      [_read_scored(run, result) for run, result in zip(folds, of_folds, strict=True)]
      for of_folds in of_seeds
    ]
    for name, of_seeds in rivals.items()
  }
  rows = [
    {'rival': name, 'seed': result.seed, **row}
    for name, of_seeds in rivals.items()
    for of_folds, found in zip(of_seeds, scored[name], strict=True)
    for result, one in zip(of_folds, found, strict=True)
    for row in one.rows
  ]
  summaries.write_rows(folder / 'scores.csv', rows)
  joined = {name: over_folds.join_seeds(of_seeds) for name, of_seeds in scored.items()}
  reference, *_ = rivals
  of_reference = scored[reference][0]
  first = of_reference[0].summary
  summary = Compared(
    data=first.data,
    note=first.note,
    protocol=first.protocol,
    split=first.split,
    held_out=first.held_out,
    nsd_tolerance_mm=first.nsd_tolerance_mm,
    unit=first.unit,
    folds=tuple(one.fold for one in of_reference),
    patients=len(joined[reference].patients),
    reference=reference,
    rivals=tuple(
      _rival(of_seeds, scored[name], joined[name], joined[reference] if number else None)
      for number, (name, of_seeds) in enumerate(rivals.items())
    ),
  )
  records.write(folder / 'summary.json', summary)
  return summary


def _read_scored(run: Path, result: Result) -> over_folds.Scored:
  """Reads the scores of a training, which must be those of the weights that were compared."""
  scored = over_folds.read_scored(run / result.folder / 'evaluate')
  if result.weights_sha256 and result.weights_sha256 != scored.summary.weights_sha256:
    raise TrainedAnew(
      f'{run / result.folder}: {result.label} was trained anew since it was compared, perhaps for '
      f'more epochs; remove {run / "compare"} and run --stage=compare'
    )
  return scored


def _list_trained(results: Sequence[Result]) -> str:
  """Lists the networks of a fold, and how many seeds each has if there are several."""
  seeds = collections.Counter(result.name for result in results)
  return ', '.join(name + f' ({count} seeds)' * (count > 1) for name, count in seeds.items())


def _rival(
  of_seeds: Sequence[Sequence[Result]],
  scored: Sequence[Sequence[over_folds.Scored]],
  joined: over_folds.Joined,
  reference: over_folds.Joined | None,
) -> Rival:
  """A rival, its trainings [seeds][folds], beside the reference; None if it is that itself."""
  difference = p_value = None
  if reference is not None:
    difference, p_value = statistics.compare_paired(joined.dsc, reference.dsc)
  first, every = of_seeds[0], [result for of_folds in of_seeds for result in of_folds]
  means = {  # parameters differ if each fold has its own search
    name: float(np.mean([getattr(result, name) for result in every]))
    for name in ('parameters', 'macs', 'validation_dsc', 'epochs', 'steps', 'seconds')
  }
  timed = tuple(result.timed for result in first if result.timed)
  return Rival(
    name=first[0].name,
    label=first[0].label,
    kind=first[0].kind,
    image=first[0].image,
    **means,
    learning_rates=tuple(result.learning_rate for result in first),
    mean=joined.mean,
    classes=joined.classes,
    difference=difference,
    p_value=p_value,
    seeds_dsc=tuple(over_folds.join(one).mean.dsc_mean for one in scored if len(scored) > 1),
    timed=timed if len(timed) == len(first) else (),
  )
