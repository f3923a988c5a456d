"""What each stage runs, imported when it does: nothing loads what only another stage needs."""

from thrifty_jax.data import data_file
from thrifty_jax.running import run_data
from thrifty_jax.running.command_line import Command
from thrifty_jax.stages import Stage


def run(stage: Stage, command: Command) -> None:
  """Runs a stage.

  Args:
    stage: One of stages.STAGES or stages.NAMED.
    command: The command, with what its data says filled in.

  Raises:
    InputError: Whatever the user gave that the stage cannot use.
  """
  from thrifty_jax.training import memory

  with memory.exhaustion_explained(command.config, stage.name):
    _RUN[stage.name](command)


def _check(command: Command) -> None:
  from data_prep import checks

  split = run_data.split_of(command.config, command.scans)
  checks.check(command.config, command.scans, split, command.workdir)


def _prepare(command: Command) -> None:
  from data_prep import prepare

  folder = prepare.prepare(command.config, command.scans)
  data_file.write(command.workdir, folder, command.config.data)


def _search(command: Command) -> None:
  from thrifty_jax.searching import search

  search.search(command.config, command.workdir)


def _retrain(command: Command) -> None:
  from thrifty_jax.training import retrain

  retrain.retrain(command.config, command.workdir)


def _evaluate(command: Command) -> None:
  from thrifty_jax.scores import evaluate

  evaluate.evaluate(command.config, command.workdir)


def _report(command: Command) -> None:
  from thrifty_jax.reporting import report

  report.report(command.workdir)


def _describe(command: Command) -> None:
  from thrifty_jax.reporting import describe

  describe.describe(command.config, command.workdir)


def _compare(command: Command) -> None:
  from thrifty_jax.training import compare

  compare.compare(command.config, command.workdir)


_RUN = {
  'check': _check,
  'prepare': _prepare,
  'search': _search,
  'retrain': _retrain,
  'evaluate': _evaluate,
  'report': _report,
  'describe': _describe,
  'compare': _compare,
}
