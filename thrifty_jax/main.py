"""From raw scans to a report: `python -m thrifty_jax.main --config=configs/brain.py`."""

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path

from thrifty_jax import config as configs
from thrifty_jax import files, lock, stages, stopping
from thrifty_jax.data import data_file
from thrifty_jax.errors import InputError
from thrifty_jax.running import command_line, folds, readiness, run_data
from thrifty_jax.running.command_line import Command
from thrifty_jax.stages import Stage


def _list(listed: Sequence[Stage]) -> str:
  """Lists the stages for the help, one per line."""
  return '\n'.join(f'      {stage.name:<8}  {stage.does}' for stage in listed)


USAGE = f"""\
usage: python -m thrifty_jax.main --config=FILE[:VARIANT,...] [options]

Searches a small segmentation network for your scans, trains it from scratch, scores it on patients
it never saw, and writes a report. The same command goes on where it stopped.

  --config=FILE[:VARIANT,...]  a file in configs/ and, after a colon, its variants
                               for example configs/brain.py  configs/promise12.py:small,unet
      small                    sizes for a laptop's CPU
      paper                    the authors' settings (chaos and promise12)
      lean                     race lean networks for a budget of milliseconds instead
      unet, unet_plus_plus     train a baseline instead; nothing is searched
  --config.FIELD=VALUE         sets one field: --config.search.epochs=30, --config.device=cpu
                               all fields: docs/settings.md, or python -m thrifty_jax.settings
  --workdir=FOLDER             where the run is kept (default: runs/<name of the config file>)
  --folds=all | 0,2,...        these folds one after another, each in WORKDIR/fold_<n>; WORKDIR has
                               their scores as one set of patients
  --stage=STAGE                all (default: what is not done yet, in this order), or one of
{_list(stages.STAGES)}
                               or, only when named,
{_list(stages.NAMED)}

In the workdir: check.html, config.json, environment.json, data.json (where the prepared slices lie:
in $TFDS_DATA_DIR or ~/tensorflow_datasets), splits.json (who trains, validates and tests; one of
yours counts), search/, retrain/, model/ (the network, ready to use), evaluate/ (scores.csv,
summary.json) and report.html.

Exit status: 0 done, 2 bad input or usage, 1 a fault. Research use only, not a medical device.
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status; None uses the arguments of the process."""
  return command_line.start(argv, USAGE, run)


def run(arguments: Sequence[str]) -> int | None:
  """Parses the command and runs its stages, alone or as one of several processes."""
  names = ['all', *(stage.name for stage in (*stages.STAGES, *stages.NAMED))]
  command = command_line.parse(arguments, stages=names)
  if command.config.distributed:
    from thrifty_jax.running import followers

    return followers.run(command.config, lambda: _run(command, arguments))
  return _run(command, arguments)


def _run(command: Command, arguments: Sequence[str]) -> None:
  """Runs the stages while no other process works in the folders."""
  if command.stage == stages.DESCRIBE.name:
    _describe(command)
    return
  _require_writable(command.workdir)
  each_fold = folds.make_commands(command)
  workdirs = dict.fromkeys([command.workdir, *(each.workdir for each in each_fold)])
  if command.stage == stages.REPORT.name:  # also while the run is still going on
    workdirs = {}
  with (
    lock.hold(*workdirs, stage=command.stage),
    files.report_unwritable(command.workdir, '--workdir'),
  ):
    _run_folds(command, each_fold, arguments)


def _run_folds(command: Command, each_fold: list[Command], arguments: Sequence[str]) -> None:
  """Runs the stages of every fold, or of a single run."""
  if command.stage == stages.COMPARE.name and command.config.model.name != 'thrifty':
    raise InputError(
      f'--stage=compare: config.model.name is {command.config.model.name!r}; the comparison trains '
      'the baselines itself, leave the variant out'
    )
  runs = run_data.fill_in(each_fold)
  # JAX takes a second or two to import, so mistakes in the command are reported first.
  from thrifty_jax import device
  from thrifty_jax.data import mesh
  from thrifty_jax.running import console, verbs

  device.prepare(command.config)
  trained = {stages.SEARCH: 'search', stages.RETRAIN: 'retrain', stages.COMPARE: 'retrain'}
  trained[stages.FRONT] = 'retrain'
  for each in runs:
    for stage in _chosen(each):
      if stage in trained and not _why_not(stage, each):
        mesh.require_even(each.config, trained[stage])
  whole = dataclasses.replace(runs[0], workdir=command.workdir)
  console.start(whole)
  if command.stage == stages.CHECK.name:  # every fold has the same scans
    _run_stages(whole, arguments)
    return
  for each in runs:
    if command.folds:
      fold, count = each.config.data.fold, each.config.data.folds
      console.say(f'\nfold {fold} of {count}, in {each.workdir}')
    _run_stages(each, arguments)
  if command.folds:
    folds.sum_up(command, runs)
    console.record(whole, arguments)
    verbs.run(stages.REPORT, whole)
    console.end(whole, {})


def _run_stages(command: Command, arguments: Sequence[str]) -> None:
  """Runs the stages that are not done yet."""
  from thrifty_jax.data import split_file
  from thrifty_jax.running import console, verbs

  seconds: dict[str, float] = {}
  recorded = False
  trains = (stages.SEARCH, stages.RETRAIN, stages.EVALUATE, stages.COMPARE, stages.FRONT)
  for stage in _chosen(command):
    reason = _why_not(stage, command)
    console.say(f'\n{stage.name}: {reason or stage.does}')
    if reason:
      continue
    readiness.require(stage, command.config, command.workdir)
    if not recorded and stage in trains:
      split = console.show_data(command)  # needs the prepared slices
      console.record(command, arguments)  # after them: bad scans leave only check.html behind
      split_file.write(command.config, command.workdir, *split)
      recorded = True
    began = time.monotonic()
    verbs.run(stage, command)
    seconds[stage.name] = time.monotonic() - began
  console.end(command, seconds)


def _describe(command: Command) -> None:
  """Describes the network without starting or changing a run; the last line is JSON."""
  run_data.fill_in_network(command)
  readiness.require(stages.DESCRIBE, command.config, command.workdir)
  from thrifty_jax import device
  from thrifty_jax.running import console, verbs

  device.prepare(command.config)
  console.start(command)
  console.say(f'\ndescribe: {stages.DESCRIBE.does}')
  verbs.run(stages.DESCRIBE, command)


def _require_writable(workdir: Path) -> None:
  """Refuses a workdir that cannot be created or written, before anything is read."""
  there = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
  if not there.is_dir() or not os.access(there, os.W_OK):
    raise InputError(
      f'--workdir={workdir}: {there} is not a folder that can be written; use another'
    )


def _chosen(command: Command) -> list[Stage]:
  """Stages that --stage selects, in order."""
  if command.stage == stages.COMPARE.name:
    return [stages.CHECK, stages.PREPARE, stages.SEARCH, stages.COMPARE, stages.REPORT]
  if command.stage == stages.FRONT.name:
    return [stages.CHECK, stages.PREPARE, stages.FRONT, stages.REPORT]
  return [stage for stage in stages.STAGES if command.stage in ('all', stage.name)]


def _why_not(stage: Stage, command: Command) -> str:
  """Reason why a stage need not run; '' if it must run."""
  config, workdir = command.config, command.workdir
  if stage is stages.SEARCH and not configs.has_genotype(config):
    return f'not needed: {config.model.name} is a baseline'
  if stage is stages.SEARCH and config.genotype:
    return f'not needed: the genotype is {config.genotype}'
  if stage is stages.EVALUATE and not stages.is_scored(workdir):
    return ''
  if stage.is_done(workdir, config):
    readiness.require(stage, config, workdir)
    return f'done: {workdir / stage.leaves[0]}'
  if stage is stages.CHECK and command.stage != 'check' and run_data.is_prepared(command):
    return 'done: these scans are prepared already'
  if stage is stages.PREPARE and command.scans is None:
    return f'done: {workdir / data_file.FILE}; scans that changed since: --stage=prepare'
  return ''


if __name__ == '__main__':
  stopping.leave(main())
