"""Output on the console before, between and after the stages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import thrifty_jax
from thrifty_jax import device, files, logbook, stages
from thrifty_jax.data import splits
from thrifty_jax.logbook import say
from thrifty_jax.reporting import inputs
from thrifty_jax.running.command_line import Command
from thrifty_jax.stages import Stage

PROTOCOLS = {
  'volume': 'volume: split by patient, scored once per test patient on the native grid',
  'pooled_2d': "pooled_2d: the paper's, one Dice over all slices; not held out",
}


def start(command: Command) -> None:
  """Prints what is run, and on which devices."""
  say(f'thrifty_jax {thrifty_jax.__version__}  research use only, not a medical device')
  say('config', command.config_file)
  say('workdir', str(command.workdir))
  say('device', f'{device.describe()}, training in {device.precision(command.config.precision)}')
  say('model', _describe_model(command.config))
  say('protocol', PROTOCOLS[command.config.evaluate.protocol])
  for title, text in command.found:
    say(title, text)


def _describe_model(config: ConfigDict) -> str:
  """Describes the model in a line, without its parameters, which are counted when it is built."""
  model = config.model
  if model.name == 'lean':
    return f'lean, as in {config.genotype}'
  if model.name != 'thrifty':
    return f'{model.name}, a baseline, {model.width} channels at full size, norm {model.norm}'
  size = f'{model.channels} channels, depth {model.depth}, {model.nodes} nodes per cell'
  if config.genotype:
    return f'thrifty, {size}, as in {config.genotype}'
  return f'thrifty, {size}; searched with {config.search.channels} channels'


def record(command: Command, arguments: Sequence[str]) -> None:
  """Writes the config and the environment into the workdir."""
  config, workdir = command.config, command.workdir
  files.write_json(workdir / 'config.json', stages.as_json(config))
  environment = logbook.environment(arguments, seed=config.seed)
  environment['precision'] = device.precision(config.precision)
  earlier = _earlier(workdir / 'environment.json', environment)
  files.write_json(workdir / 'environment.json', {**environment, 'earlier': earlier})


def _earlier(path: Path, environment: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Earlier environments of the run that differ in more than the time."""
  before, _ = inputs.read_with_content(path, inputs.Environment)
  earlier = before.pop('earlier', [])
  same = all(before.get(name) == environment[name] for name in {*environment} - {'time', 'command'})
  return earlier if same or not before else [*earlier, before]


def fold(command: Command) -> None:
  """Prints which fold begins."""
  say(f'\nfold {command.config.data.fold} of {command.config.data.folds}, in {command.workdir}')


def begin(stage: Stage) -> None:
  """Prints the name and purpose of a stage."""
  say(f'\n{stage.name}: {stage.does}')


def skip(stage: Stage, reason: str) -> None:
  """Prints why a stage does not run."""
  say(f'\n{stage.name}: {reason}')


def data(command: Command) -> dict[str, tuple[str, ...]]:
  """Prints patients and slices of each split, and the note of the prepared data set.

  Returns:
    Names of the patients of each split.
  """
  from thrifty_jax.data.prepared import open_slices

  config, prepared = command.config, open_slices(command.workdir, command.config)
  counts, split = [], splits.of(config, prepared.patients)
  for name, patients in split.items():
    slices = sum(case.slices for case in prepared.cases if case.patient in patients)
    counts.append(f'{name} {len(patients)} patients, {slices} slices')
  size = config.data.image_size
  say('data', f'{config.data.name} at {size} x {size}: ' + '; '.join(counts))
  if prepared.note:
    say('note', prepared.note)
  return split


def end(command: Command, seconds: Mapping[str, float]) -> None:
  """Prints the duration of each stage and the place of the results."""
  if seconds:
    times = ', '.join(f'{name} {logbook.duration(time)}' for name, time in seconds.items())
    total = logbook.duration(sum(seconds.values()))
    say(f'\ndone in {total}' + (f': {times}' if len(seconds) > 1 else ''))
  for title, name in (
    ('scores', 'evaluate/scores.csv'),
    ('model', 'model'),
    ('report', 'report.html'),
  ):
    if (path := Path(command.workdir, name)).exists():
      say(title, str(path))
