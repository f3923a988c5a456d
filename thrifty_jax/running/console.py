"""Output on the console before, between and after the stages."""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

import thrifty_jax
from thrifty_jax import device, files, logbook, presence, stages
from thrifty_jax.data import data_file, splits
from thrifty_jax.data.prepared import open_slices
from thrifty_jax.logbook import say
from thrifty_jax.reporting import inputs
from thrifty_jax.running import environment
from thrifty_jax.running.command_line import Command

PROTOCOLS = {
  'volume': 'volume: split by patient, scored once per test patient on the native grid',
  'pooled_2d': "pooled_2d: the paper's, one Dice over all slices; not held out",
}
RESULTS = {
  'scores': 'evaluate/scores.csv',
  'model': 'model',
  'planes': 'planes.json',
  'sizes': 'sizes.json',
  'report': 'report.html',
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
    limit = f'within {config.search.max_ms:g} ms' if config.search.max_ms else 'of a front'
    return f'lean, {f"as in {config.genotype}" if config.genotype else f"raced, {limit}"}'
  if model.name != 'thrifty':
    return f'{model.name}, a baseline, {model.width} channels at full size, norm {model.norm}'
  size = f'{model.channels} channels, depth {model.depth}, {model.nodes} nodes per cell'
  size += ', batch norm' if model.norm == 'batch' else ''
  if config.genotype:
    return f'thrifty, {size}, as in {config.genotype}'
  return f'thrifty, {size}; searched with {config.search.channels} channels'


def record(command: Command, typed: str) -> None:
  """Writes the config into the workdir, and the environment with earlier ones that differ."""
  config, path = command.config, command.workdir / 'environment.json'
  files.write_json(command.workdir / 'config.json', stages.to_json(config))
  now = environment.describe(typed, seed=config.seed)
  now['precision'] = device.precision(config.precision)
  before, _ = inputs.read_with_content(path, inputs.Environment)
  earlier = before.pop('earlier', [])
  compared = {*now} - {'time', 'command'}
  if before and any(before.get(name) != now[name] for name in compared):
    earlier = [*earlier, before]
  files.write_json(path, {**now, 'earlier': earlier})


def show_data(
  command: Command,
) -> tuple[dict[str, tuple[str, ...]], dict[str, set[int]]]:
  """Prints patients and slices of each split, and the data's note.

  Returns:
    The split, and the foreground classes of each patient.
  """
  config, prepared = command.config, open_slices(command.workdir, command.config)
  counts, having = [], prepared.classes_of_patients
  split = splits.assign(config, having)
  for name, patients in split.items():
    slices = sum(case.slices for case in prepared.cases if case.patient in patients)
    counts.append(f'{name} {len(patients)} patients, {slices} slices')
  size = config.data.image_size
  title = data_file.read_title(command.workdir, config.data.name)
  say('data', f'{title} at {size} x {size}: ' + '; '.join(counts))
  if line := presence.describe_absent(presence.count(split, having, config.data.classes), split):
    say('classes', line)
  if prepared.note:
    say('note', prepared.note)
  return split, having


def end(command: Command, seconds: Mapping[str, float]) -> None:
  """Prints the duration of each stage, the verdict and the place of the results."""
  if seconds:
    times = ', '.join(f'{name} {logbook.format_duration(time)}' for name, time in seconds.items())
    total = logbook.format_duration(sum(seconds.values()))
    say(f'\ndone in {total}' + (f': {times}' if len(seconds) > 1 else ''))
  if not seconds or {'evaluate', 'compare', 'front', 'report'} & seconds.keys():
    _show_verdict(command.workdir)
  for title, name in RESULTS.items():
    if (path := command.workdir / name).exists():
      say(title, str(path))


def _show_verdict(workdir: Path) -> None:
  """Prints the sentences at the top of the report."""
  from thrifty_jax.reporting import report  # its plots take a second to import

  for number, sentence in enumerate(report.judge(workdir)):
    say('' if number else 'verdict', f'{sentence.mark}: {sentence.text}')
