"""Runs each stage; imports a stage's modules only when it runs."""

from thrifty_jax.data import data_file
from thrifty_jax.running import run_data
from thrifty_jax.running.command_line import Command
from thrifty_jax.stages import Stage


def run(stage: Stage, command: Command) -> None:
  """Runs a stage.

  Args:
    stage: One of stages.STAGES or stages.NAMED.
    command: Command with the fields that the data determines filled in.

  Raises:
    InputError: If the stage cannot use the user's input.
  """
  from thrifty_jax.training import memory

  with memory.exhaustion_explained(command.config, stage.name):
    _run(stage.name, command)


def _run(name: str, command: Command) -> None:
  config, workdir = command.config, command.workdir
  match name:
    case 'check':
      from data_prep import checks

      checks.check(config, command.scans, run_data.split_of(config, command.scans), workdir)
    case 'prepare':
      from data_prep import prepare

      data_file.write(workdir, prepare.prepare(config, command.scans), config.data)
    case 'search':
      from thrifty_jax.searching import search

      search.search(config, workdir)
    case 'retrain':
      from thrifty_jax.training import retrain

      retrain.retrain(config, workdir)
    case 'evaluate':
      from thrifty_jax.scores import evaluate

      evaluate.evaluate(config, workdir)
    case 'report':
      from thrifty_jax.reporting import report

      report.report(workdir)
    case 'describe':
      from thrifty_jax.reporting import describe

      describe.describe(config, workdir)
    case 'compare':
      from thrifty_jax.training import compare

      compare.compare(config, workdir)
