"""What each stage runs, imported when it does: nothing loads what only another stage needs."""

from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax.stages import Stage


def run(stage: Stage, config: ConfigDict, workdir: Path) -> None:
  """Runs a stage.

  Args:
    stage: One of stages.STAGES or stages.NAMED.
    config: Of the run.
    workdir: Its folder.

  Raises:
    InputError: Whatever the user gave that the stage cannot use.
  """
  from thrifty_jax.training import memory

  with memory.exhaustion_explained(config, stage.name):
    _RUN[stage.name](config, workdir)


def _check(config: ConfigDict, workdir: Path) -> None:
  from data_prep import checks

  checks.check(config, workdir)


def _prepare(config: ConfigDict, workdir: Path) -> None:
  from data_prep import prepare

  prepare.prepare(config)


def _search(config: ConfigDict, workdir: Path) -> None:
  from thrifty_jax.searching import search

  search.search(config, workdir)


def _retrain(config: ConfigDict, workdir: Path) -> None:
  from thrifty_jax.training import retrain

  retrain.retrain(config, workdir)


def _evaluate(config: ConfigDict, workdir: Path) -> None:
  from thrifty_jax.scores import evaluate

  evaluate.evaluate(config, workdir)


def _report(config: ConfigDict, workdir: Path) -> None:
  from thrifty_jax.reporting import report

  report.report(workdir)


def _describe(config: ConfigDict, workdir: Path) -> None:
  from thrifty_jax.reporting import describe

  describe.describe(config, workdir)


def _compare(config: ConfigDict, workdir: Path) -> None:
  from thrifty_jax.training import compare

  compare.compare(config, workdir)


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
