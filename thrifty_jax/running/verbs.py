"""Runs each stage; importing this module takes seconds, as the stages import JAX."""

from collections.abc import Mapping
from pathlib import Path

from data_prep import checks, data_sets, prepare
from thrifty_jax import config as configs
from thrifty_jax.cost import configured
from thrifty_jax.data import data_file
from thrifty_jax.racing import front, slicings
from thrifty_jax.reporting import describe, report
from thrifty_jax.running import external, run_data
from thrifty_jax.running.command_line import Command
from thrifty_jax.scores import evaluate
from thrifty_jax.searching import search
from thrifty_jax.stages import PLANES, Stage
from thrifty_jax.training import compare, memory, named_teacher, retrain


def score_external(command: Command, workdir: Path) -> None:
  """Scores the external test set, if there is one, by the models of all folds in a workdir.

  `command` is that of a fold.
  """
  with memory.explain_exhaustion(command.config, 'evaluate'):
    _show(external.score(command.config, workdir, command.workdir))


def compare_slicings(command: Command, each: Mapping[str, Command]) -> None:
  """Trains on the slices of each plane or size, whose commands are given by its name."""
  runs = {name: (one.config, one.workdir) for name, one in each.items()}
  data, folder = command.config.data, command.workdir
  with memory.explain_exhaustion(command.config, command.stage):
    if command.stage == PLANES.name:
      slicings.compare_planes(runs, data.slice_axis, folder)
    else:
      slicings.compare_sizes(runs, str(data.image_size), folder)


def _show(table: str) -> None:
  if table:
    print(f'\n{table}', flush=True)


def run(stage: Stage, command: Command) -> None:
  """Runs a stage of a command, in which the fields that the data determines are filled in."""
  config, workdir, scans = command.config, command.workdir, command.scans
  with memory.explain_exhaustion(config, stage.name):
    match stage.name:
      case 'check':
        split = run_data.split_of(config, scans)
        checks.check(config, scans, split, workdir, command.found)
      case 'prepare':
        folder, title = prepare.prepare(config, scans), data_sets.find_title(config)
        data_file.write(workdir, folder, config.data, title=title, external=len(scans.external))
      case 'search' if configs.searches_cells(config):
        search.search(config, workdir)
      case 'search':
        front.search(config, workdir)
      case 'retrain':
        named_teacher.train(config, workdir)
        retrain.retrain(config, workdir)
      case 'evaluate':
        # Before the others, with whose scores the stage is done.
        table = '' if command.is_fold else external.score(config, workdir, workdir)
        evaluate.evaluate(config, workdir)
        _show(table)
      case 'report':
        report.report(workdir)
      case 'describe':
        describe.describe(config, workdir, measure=configured.measure)
      case 'compare':
        compare.compare(config, workdir)
      case 'front':
        front.front(config, workdir)
