"""Runs each stage; importing this module takes seconds, as the stages import JAX."""

from data_prep import checks, prepare
from thrifty_jax import config as configs
from thrifty_jax.cost import configured
from thrifty_jax.data import data_file
from thrifty_jax.racing import front
from thrifty_jax.reporting import describe, report
from thrifty_jax.running import run_data
from thrifty_jax.running.command_line import Command
from thrifty_jax.scores import evaluate
from thrifty_jax.searching import search
from thrifty_jax.stages import Stage
from thrifty_jax.training import compare, memory, retrain


def run(stage: Stage, command: Command) -> None:
  """Runs a stage of a command, in which the fields that the data determines are filled in."""
  config, workdir, scans = command.config, command.workdir, command.scans
  with memory.explain_exhaustion(config, stage.name):
    match stage.name:
      case 'check':
        split = run_data.split_of(config, scans)
        checks.check(config, scans, split, workdir, command.found)
      case 'prepare':
        data_file.write(workdir, prepare.prepare(config, scans), config.data)
      case 'search' if configs.searches_cells(config):
        search.search(config, workdir)
      case 'search':
        front.search(config, workdir)
      case 'retrain':
        retrain.retrain(config, workdir)
      case 'evaluate':
        evaluate.evaluate(config, workdir)
      case 'report':
        report.report(workdir)
      case 'describe':
        describe.describe(config, workdir, measure=configured.measure)
      case 'compare':
        compare.compare(config, workdir)
      case 'front':
        front.front(config, workdir)
