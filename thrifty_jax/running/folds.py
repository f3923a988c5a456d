"""Several folds in one command: a run per fold in its own folder, then one result."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from thrifty_jax import logbook, stages, weights
from thrifty_jax.data import split_file
from thrifty_jax.errors import InputError
from thrifty_jax.running.command_line import Command

_RUN = ('search', 'retrain', 'model')  # results of a run of one fold in its workdir
_BESIDE = ('front', 'compare')  # results beside the folds, whose stages write a splits.json too


def make_commands(command: Command) -> list[Command]:
  """Returns the command of every requested fold, or the command itself without --folds.

  A workdir with a run of the other kind is refused, as the results would be mixed up.
  """
  workdir = command.workdir
  if not command.folds:
    found = sorted(path.name for path in workdir.glob('fold_*') if path.is_dir())
    if found and command.stage != 'report':
      raise InputError(
        f'{workdir}: holds {", ".join(found)}, runs of several folds; add --folds=..., or use '
        'another --workdir'
      )
    return [command]
  if found := [name for name in _RUN if (workdir / name).exists()]:
    raise InputError(
      f'{workdir}: holds {found[0]}/ of a run of one fold; use another --workdir for --folds'
    )
  path, is_by_run = workdir / split_file.FILE, any((workdir / name).exists() for name in _BESIDE)
  if path.exists() and not is_by_run and command.stage != stages.REPORT.name:
    raise InputError(f'{path}: makes one split; leave out --folds, or move the file away')
  data = command.config.data
  if data.validation_patients or data.test_patients:
    raise InputError(
      '--folds: the lists of patients in config.data make one split; leave out --folds or the lists'
    )
  runs = []
  for fold in command.folds:
    config = command.config.copy_and_resolve_references()
    config.data.fold = fold
    folder = workdir / f'fold_{fold}'
    runs.append(dataclasses.replace(command, config=config, workdir=folder, folds=(), is_fold=True))
  return runs


def sum_up(command: Command, runs: list[Command]) -> None:
  """Writes the existing scores of all folds as those of one set of patients.

  Scores of weights that a fold no longer has are left out, with a line, and a report leaves the
  summary of a comparison as it is where these are among them.
  Only --stage=compare and report sum up a comparison: until it has ended, some folds have fewer
  networks than others, which other stages must not refuse.
  """
  from thrifty_jax.scores import over_folds, standings

  found: dict[str, Callable[..., object]] = {'evaluate/summary.json': over_folds.write}
  if command.stage in (stages.COMPARE.name, stages.REPORT.name):
    found['compare/results.json'] = standings.write
  for name, write in found.items():
    there = [run.workdir for run in runs if (run.workdir / name).exists()]
    if name.startswith('evaluate'):
      there = [workdir for workdir in there if not _has_old_scores(workdir)]
    try:
      if there:
        write(command.workdir, there)
    except standings.TrainedAnew as error:
      if command.stage != stages.REPORT.name:
        raise
      logbook.say('comparison', f'not summed up anew: {error}')


def _has_old_scores(workdir: Path) -> bool:
  """Whether a fold was trained anew since it was scored; prints that."""
  if found := weights.has_old_scores(workdir):
    logbook.say('scores', f'{workdir}: left out, as trained anew since; run --stage=evaluate')
  return found
