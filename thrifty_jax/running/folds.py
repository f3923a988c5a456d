"""Several folds by one command: a run for each in a folder of its own, then one result."""

import dataclasses
from collections.abc import Callable

from thrifty_jax import stages
from thrifty_jax.errors import InputError
from thrifty_jax.running.command_line import Command

_RUN = ('search', 'retrain', 'model')  # what a run of one fold leaves in its workdir


def commands(command: Command) -> list[Command]:
  """The command of every fold that is asked for; the command itself where --folds is not given.

  Raises:
    InputError: If the workdir holds a run of the other sort: its results would be mixed up.
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
  data = command.config.data
  if data.validation_patients or data.test_patients:
    raise InputError(
      '--folds: data.validation_patients and data.test_patients make one split; leave out either'
    )
  return [_of_fold(command, fold) for fold in command.folds]


def sum_up(command: Command, runs: list[Command]) -> None:
  """Writes the scores of all folds as those of one set of patients, as far as they are there.

  A comparison is summed up by --stage=compare and report alone: until it has ended, some folds have
  fewer networks than others, which is nothing to any other stage.

  Args:
    command: Command for all folds; its workdir gets evaluate/ and compare/.
    runs: The commands of the folds.
  """
  from thrifty_jax.scores import over_folds, standings

  folders = [run.workdir for run in runs]
  found: dict[str, Callable[..., object]] = {'evaluate/summary.json': over_folds.write}
  if command.stage in (stages.COMPARE.name, stages.REPORT.name):
    found['compare/results.json'] = standings.write
  for name, write in found.items():
    if there := [folder for folder in folders if (folder / name).exists()]:
      write(command.workdir, there)


def _of_fold(command: Command, fold: int) -> Command:
  config = command.config.copy_and_resolve_references()
  config.data.fold = fold
  workdir = command.workdir / f'fold_{fold}'
  return dataclasses.replace(command, config=config, workdir=workdir, folds=())
