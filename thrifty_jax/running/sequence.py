"""Runs the stages of a command that are not done yet, in their order."""

import dataclasses
import time
from pathlib import Path

from thrifty_jax import config as configs
from thrifty_jax import files, lock, stages
from thrifty_jax.data import data_file
from thrifty_jax.errors import InputError
from thrifty_jax.running import folds, readiness, run_data, slicing_commands
from thrifty_jax.running.command_line import Command
from thrifty_jax.settings import TEACHERS
from thrifty_jax.stages import Stage

# What --stage may be; the first is the default.
NAMES = ('all', *(stage.name for stage in (*stages.STAGES, *stages.NAMED)))


def run(command: Command, typed: str) -> int | None:
  """Runs the stages, alone or as one of several processes.

  Args:
    command: Config, folder and stage; what the data determines is not filled in yet.
    typed: The same as the user wrote it, for environment.json.

  Returns:
    The exit status of several processes, which print their errors; None of a single one.
  """
  if command.config.distributed:
    from thrifty_jax.running import followers

    return followers.run(command.config, lambda: _run(command, typed))
  return _run(command, typed)


def _run(command: Command, typed: str) -> None:
  """Runs the stages while no other process works in the folders."""
  if command.stage == stages.DESCRIBE.name:
    _describe(command)
    return
  _require_writable(command.workdir)
  slicing = next((one for one in stages.SLICINGS if one.name == command.stage), None)
  each_fold = [command] if slicing else folds.make_commands(command)
  workdirs = dict.fromkeys([command.workdir, *(each.workdir for each in each_fold)])
  if command.stage == stages.REPORT.name:  # also while the run is still going on
    workdirs = {}
  with (
    lock.hold(*workdirs, stage=command.stage),
    files.report_unwritable(command.workdir, '--workdir'),
  ):
    if slicing:
      _run_slicings(slicing, command, typed)
    else:
      _run_folds(command, each_fold, typed)


def _run_slicings(stage: Stage, command: Command, typed: str) -> None:
  """Checks the scans, prepares the slices of every plane or size, and trains on them."""
  usual, each = slicing_commands.make_commands(command)
  from thrifty_jax import device
  from thrifty_jax.running import console, verbs

  device.prepare(command.config)
  console.start(usual)
  began = time.monotonic()
  if unread := [one for one in each.values() if not run_data.is_checked(one)]:
    console.say(f'\n{stages.CHECK.name}: {stages.CHECK.does}')
    verbs.run(stages.CHECK, dataclasses.replace(usual, scans=unread[0].scans))
  for name, one in each.items():
    what = name if stage is stages.PLANES else f'{name} x {name}'
    console.say(f'\n{what} slices: {stages.PREPARE.does if one.scans else "prepared already"}')
    if one.scans:
      verbs.run(stages.PREPARE, one)
    console.show_data(one)
  whole = dataclasses.replace(usual, workdir=command.workdir / stage.name)
  console.record(whole, typed)
  console.say(f'\n{stage.name}: {stage.does}')
  verbs.compare_slicings(whole, each)
  console.end(whole, {stage.name: time.monotonic() - began})


def _run_folds(command: Command, each_fold: list[Command], typed: str) -> None:
  """Runs the stages of every fold, or of a single run."""
  _refuse_contradictions(command)
  runs = run_data.fill_in(each_fold)
  # JAX takes a second or two to import, so mistakes in the command are reported first.
  from thrifty_jax import device
  from thrifty_jax.data import mesh
  from thrifty_jax.running import console, verbs

  device.prepare(command.config)
  trained = dict.fromkeys((stages.RETRAIN, stages.COMPARE, stages.FRONT), 'retrain')
  trained[stages.SEARCH] = 'search' if configs.searches_cells(command.config) else 'retrain'
  for each in runs:
    for stage in _chosen(each):
      if stage in trained and not _why_not(stage, each):
        mesh.require_even(each.config, trained[stage])
  whole = dataclasses.replace(runs[0], workdir=command.workdir)
  console.start(whole)
  if command.stage == stages.CHECK.name:  # every fold has the same scans
    _run_stages(whole, typed)
    return
  for each in runs:
    if command.folds:
      fold, count = each.config.data.fold, each.config.data.folds
      console.say(f'\nfold {fold} of {count}, in {each.workdir}')
    _run_stages(each, typed)
  if command.folds:
    folds.sum_up(command, runs)
    if command.stage in ('all', stages.EVALUATE.name):
      verbs.score_external(runs[0], command.workdir)
    console.record(whole, typed)
    verbs.run(stages.REPORT, whole)
    console.end(whole, {})


def _refuse_contradictions(command: Command) -> None:
  """Refuses settings with which the stage of a command does not go."""
  if command.stage == stages.COMPARE.name and command.config.model.name != 'thrifty':
    raise InputError(
      f'--stage=compare: config.model.name is {command.config.model.name!r}; expected thrifty, as '
      'the comparison trains baselines itself: leave the variant out, or with folder add thrifty'
    )
  if command.stage == stages.COMPARE.name and command.config.retrain.minutes:
    raise InputError(
      f'config.retrain.minutes is {command.config.retrain.minutes:g}; expected 0, as rivals are '
      'compared after the same epochs: add --config.retrain.minutes=0'
    )
  alone = (stages.SEARCH.name, stages.COMPARE.name, stages.FRONT.name)
  if command.stage in alone and command.config.retrain.start_from:
    raise InputError(
      f'--stage={command.stage}: does not start from a model, whose genotype is settled; leave out '
      '--config.retrain.start_from'
    )
  if command.stage == stages.FRONT.name and command.config.retrain.microbatches > 1:
    raise InputError(
      f'config.retrain.microbatches is {command.config.retrain.microbatches}; expected 1 with '
      '--stage=front, whose networks have batch norms, with statistics of a whole batch; lower '
      'retrain.batch_size'
    )
  if command.stage in alone[1:] and command.config.retrain.teacher in TEACHERS:
    raise InputError(
      f'--stage={command.stage}: all networks have one teacher; expected a model that is there '
      f'as --config.retrain.teacher, not {command.config.retrain.teacher!r}'
    )


def _run_stages(command: Command, typed: str) -> None:
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
      console.record(command, typed)  # after them: bad scans leave only check.html behind
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
  if not there.is_dir():
    raise InputError(f'--workdir={workdir}: {there} is no folder; name another')
  files.require_writable(f'--workdir={workdir}', workdir)


def _chosen(command: Command) -> list[Stage]:
  """Stages that --stage selects, in order."""
  if command.stage == stages.COMPARE.name:
    # A run that is trained may be a rival: it is scored as always, not as the short trainings are.
    is_trained = stages.RETRAIN.is_done(command.workdir, command.config)
    own = [stages.EVALUATE] if is_trained else []
    return [stages.CHECK, stages.PREPARE, stages.SEARCH, *own, stages.COMPARE, stages.REPORT]
  if command.stage == stages.FRONT.name:
    return [stages.CHECK, stages.PREPARE, stages.FRONT, stages.REPORT]
  if command.stage == stages.PREPARE.name:
    return [stages.CHECK, stages.PREPARE]
  return [stage for stage in stages.STAGES if command.stage in ('all', stage.name)]


def _why_not(stage: Stage, command: Command) -> str:
  """Reason why a stage need not run; '' if it must run."""
  from thrifty_jax.running import external

  config, workdir = command.config, command.workdir
  if stage is stages.SEARCH and not configs.has_genotype(config):
    return f'not needed: {config.model.name} is a baseline'
  if stage is stages.SEARCH and config.genotype:
    return f'not needed: the genotype is {config.genotype}'
  if stage is stages.EVALUATE and not stages.is_scored(workdir):
    return ''
  if stage.is_done(workdir, config):
    readiness.require(stage, config, workdir)
    done = f'done: {workdir / stage.leaves[0]}'
    if stage is not stages.EVALUATE or command.is_fold:  # the folds are scored together
      return done
    return done + external.tell_changes(config, workdir)
  if stage is stages.CHECK and command.stage != 'check' and run_data.is_checked(command):
    return 'done: these scans are prepared already'
  if stage is stages.PREPARE and command.scans is None:
    return f'done: {workdir / data_file.FILE}; scans that changed since: --stage=prepare'
  return ''
