"""Command lines: options are read as --help lists them; a mistake is reported in one line."""

import argparse
import ast
import dataclasses
import difflib
import io
import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from thrifty_jax import config as configs
from thrifty_jax import stopping
from thrifty_jax.allowed import Allowed
from thrifty_jax.errors import InputError
from thrifty_jax.networks import space
from thrifty_jax.settings import SETTINGS

_HELP_FLAGS = {'--help', '-help', '-h', '--helpshort', '--helpfull'}


@dataclasses.dataclass(frozen=True)
class Command:
  """The parsed command of the user."""

  config: ConfigDict
  config_file: str  # as typed, with its variants
  workdir: Path
  stage: str
  folds: tuple[int, ...] = ()  # empty: the fold in the config
  is_fold: bool = False  # whether it is one of several folds, which end in one result
  found: tuple[tuple[str, str], ...] = ()  # titles and texts of what the data filled in
  scans: Any = None  # data_sets.Scans if raw scans are needed; None if recorded slices suffice


class Number(NamedTuple):
  """An option whose value is a number."""

  kind: type  # int or float
  default: float | None  # without the option
  least: float
  most: float | None = None  # None is no limit


def parse(argv: Sequence[str], *, stages: Sequence[str] = ('all',)) -> Command:
  """Reads `--config=NAME[:VARIANTS] [--config.FIELD=VALUE ...] [--workdir=] [--stage=] [--folds=]`.

  The name is that of a file, or of one of configs.NAMES. The first of `stages` is the default. The
  config of the command is valid and locked, with fields left to the data not yet filled in. A wrong
  option is an InputError.
  """
  named, argv = _config_named(_in_home(argv))
  name, colon, variants = named.partition(':')
  config_file = _find_config(name)
  # absl's parser stops at the first error with its own message, so the fields are checked first.
  typed = [found[1] for text in argv if (found := re.match(r'--?(?:no)?config\.([^=]*)', text))]
  for field in typed:
    _check_field(field)
  values = flags.FlagValues()  # local, so that this can be called repeatedly
  config = _make_config(config_file, variants if colon else None)
  config_flags.DEFINE_config_dict('config', config, flag_values=values, sys_argv=['', *argv])
  for name, default in (('workdir', ''), ('folds', ''), ('stage', stages[0])):
    flags.DEFINE_string(name, default, name, flag_values=values)
  _parse(values, argv)
  _require_read(typed, values.config)
  if 'search.max_ms' in typed and values.config.search.max_ms == 0:
    raise InputError(
      '--config.search.max_ms=0: no network takes 0 ms; name more, or leave it out for no limit, '
      'with which networks race for each of front.budgets_ms'
    )
  workdir = Path(values.workdir or Path('runs', config_file.stem))
  return check(values.config, named, workdir, stage=values.stage, stages=stages, folds=values.folds)


def check(
  config: ConfigDict, named: str, workdir: Path, *, stage: str, stages: Sequence[str], folds: str
) -> Command:
  """Returns the command of a config, a stage that is one of `stages`, and folds as on the line.

  What is wrong with one of them is an InputError.
  """
  configs.validate(config)
  space.require_choice(config.search.operations)
  if stage not in stages:
    near = nearest(stage, stages)
    raise InputError(f'--stage={stage}: the stages are {", ".join(stages)}{near}')
  return Command(config, named, workdir, stage, _folds(folds, config))


def start(
  argv: Sequence[str] | None, usage: str, run: Callable[[Sequence[str]], int | None]
) -> int:
  """Runs a command, or prints its help, and returns the exit status (see `exit_status`).

  Arguments of None are those of the process.
  """
  arguments = sys.argv[1:] if argv is None else list(argv)
  if not _HELP_FLAGS.isdisjoint(arguments):
    print(usage, end='')
    return 0
  return exit_status(lambda: run(arguments))


def read(
  argv: Sequence[str],
  usage: str,
  *,
  required: Mapping[str, str],
  choices: Mapping[str, Sequence[str]] | None = None,
  **numbers: Number,
) -> flags.FlagValues:
  """Reads the options that a help text lists at the start of lines indented by two spaces.

  `--name=VALUE` is a text, '' by default, or one of the choices, or a number; `--name` alone is a
  switch. A wrong or missing option is an InputError.

  Args:
    argv: Arguments without the program's name.
    usage: Text of --help.
    required: Options that must be given, each with an example.
    choices: Options with a fixed list of texts, of which the first is the default; '' is none.
    **numbers: Options with a number.
  """
  values = flags.FlagValues()
  for name, takes_value in re.findall(r'^  --(\w+)(=?)', usage, re.MULTILINE):
    if name in numbers:
      kind, default, least, most = numbers[name]
      define: Any = flags.DEFINE_integer if kind is int else flags.DEFINE_float
      define(name, default, name, lower_bound=least, upper_bound=most, flag_values=values)
    elif choices and name in choices:
      default, texts = choices[name][0] or None, [text for text in choices[name] if text]
      flags.DEFINE_enum(name, default, texts, name, flag_values=values)
    elif takes_value:
      flags.DEFINE_string(name, '', name, flag_values=values)
    else:
      flags.DEFINE_boolean(name, False, name, flag_values=values)
  _parse(values, _in_home(argv))
  for name, example in required.items():
    if not values[name].value:
      raise InputError(f'--{name} is missing, for example --{name}={example}; --help says more')
  return values


def parse_texts(name: str, text: str, allowed: Allowed) -> tuple[str, ...]:
  """Returns the texts of an option that is written as --classes="('a','b')"; () without it."""
  if not text:
    return ()
  try:
    found = ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    found = None
  if not isinstance(found, tuple) or not allowed.holds(found):
    raise InputError(f'--{name}={text:.200}: expected {allowed.expected}')
  return found


def split_paths(text: str) -> list[str]:
  """Returns the paths in a list with commas; a path that exists may have commas in its name."""
  if text and Path(text).exists():
    return [text]
  # Unlike that of Path, this expanduser does without a home.
  return [os.path.expanduser(part.strip()) for part in text.split(',') if part.strip()]


def _in_home(argv: Sequence[str]) -> list[str]:
  """Returns the arguments with the home folder for a ~ that begins a value: shells leave it."""

  def expanded(found: re.Match[str]) -> str:
    return (found[1] or '') + os.path.expanduser(found[2])

  return [re.sub(r'(?s)^(--?[^=~]*=)?(~.*)', expanded, argument) for argument in argv]


def exit_status(work: Callable[[], int | None]) -> int:
  """Runs work and returns the exit status of the process.

  The status is what work returns, or 0 if it returns None; 2 on bad input, which prints one line; 1
  on a fault, with a traceback; 128 plus the number of the signal on a request to stop.
  """
  for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no fault
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')
  try:
    with stopping.handle():
      return work() or 0
  except InputError as error:
    print(f'error: {_one_line(str(error))}', file=sys.stderr)
    return 2
  except KeyboardInterrupt as error:
    print(str(error) or stopping.GOES_ON, file=sys.stderr)
    return stopping.status(error)
  except Exception:
    traceback.print_exc()
    return 1


def _parse(values: flags.FlagValues, argv: Sequence[str]) -> None:
  """Parses argv into the flags; reports an error in one line."""
  try:
    rest = values(['', *argv])[1:]
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    raise InputError(_one_line(str(error))) from error
  if rest:
    raise InputError(f'unexpected argument {rest[0]!r}: every option is written --name=value')


def _folds(text: str, config: ConfigDict) -> tuple[int, ...]:
  """Folds of --folds=all or --folds=0,2."""
  everyone = {str(fold): fold for fold in range(config.data.folds)}
  names = [*everyone] if text == 'all' else [name.strip() for name in text.split(',') if text]
  if len({*names}) < len(names) or not {*names} <= {*everyone}:
    raise InputError(
      f'--folds={text}: expected all, or different ones from 0 to {config.data.folds - 1}, as in '
      '--folds=0,2'
    )
  return tuple(everyone[name] for name in names)


def _config_named(argv: Sequence[str]) -> tuple[str, list[str]]:
  """Value of --config, and the other arguments."""
  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  parser.add_argument('--config', '-config', nargs='?')
  found, others = parser.parse_known_args(argv)
  if not found.config:
    typed = [text.partition('=')[0] for text in others if text.startswith('-')]
    near = [name for name in typed if difflib.get_close_matches(name, ['--config'], cutoff=0.8)]
    instead = f'; {near[0]} is no option' if near else ''
    raise InputError(f'--config is missing, for example --config=brain{instead}; --help says more')
  return found.config, others


def _find_config(name: str) -> Path:
  """Returns the file of a config: one of configs.NAMES means that which comes with the program."""
  path = configs.FOLDER / f'{name}.py' if name in configs.NAMES else Path(name)
  if not path.is_file():
    raise InputError(
      f'--config: there is no file {path}; expected one, or a name: {", ".join(configs.NAMES)}'
      f'{nearest(path.stem, configs.NAMES)}'
    )
  return path


def _make_config(path: Path, variants: str | None) -> ConfigDict:
  """Returns what get_config of a config file makes of the variants, or without any if None.

  An InputError says why it is no such file, or in which of its lines get_config went wrong.
  """
  try:
    is_code = path.suffix == '.py'
    if is_code:
      ast.parse(path.read_bytes(), path)
  except (SyntaxError, ValueError) as error:  # ValueError: it holds a NUL
    line = f'line {error.lineno}: {error.msg}' if isinstance(error, SyntaxError) else error
    raise InputError(f'--config={path}: cannot be read as Python: {line}') from error
  get_config = runpy.run_path(str(path), run_name='config').get('get_config') if is_code else None
  if not callable(get_config):
    raise InputError(
      f'--config={path}: expected a file .py with a function get_config, as in configs/, or a '
      f'name: {", ".join(configs.NAMES)}'
    )
  try:
    config = get_config() if variants is None else get_config(variants)
  except (AttributeError, KeyError, TypeError, ValueError) as error:  # a misspelled setting is one
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f'line {frame.lineno}: ' for frame in frames if frame.filename == str(path)]
    raise InputError(
      f'--config={path}: {"".join(lines[-1:])}{type(error).__name__}: {_one_line(str(error))}'
    ) from error
  if not isinstance(config, ConfigDict) or {*configs.flatten(config)} != {*SETTINGS}:
    returned = ' '.join(repr(config).split())
    raise InputError(
      f'--config={path}: get_config returned {returned:.40}; expected the settings that '
      'thrifty_jax.config.default() returns, changed'
    )
  return config


def _check_field(field: str) -> None:
  """Refuses a field that no config has; the message names the nearest one."""
  if any(name.startswith(field + '.') for name in SETTINGS):
    raise InputError(f'--config.{field} is a group; set one of its fields, --config.{field}.NAME')
  if field not in SETTINGS:
    raise InputError(f'--config.{field}: there is no such field{nearest(field, [*SETTINGS])}')


def _require_read(typed: Sequence[str], config: ConfigDict) -> None:
  """Refuses a number of epochs or steps that minutes, which the config has, take the place of."""
  for field, timed in (('retrain.epochs', 'retrain.minutes'), ('front.steps', 'front.minutes')):
    group, _, name = timed.partition('.')
    if field in typed and (minutes := config[group][name]):
      raise InputError(
        f'--config.{field}: is not read, as config.{timed} is {minutes:g}; leave it out, or add '
        f'--config.{timed}=0'
      )


def nearest(name: str, names: Sequence[str]) -> str:
  """Returns `; did you mean X?`, or '' if no name is similar."""
  in_other_groups = [other for other in names if other.split('.')[-1] == name.split('.')[-1]]
  near = difflib.get_close_matches(name, names, n=1) or in_other_groups
  return f'; did you mean {near[0]}?' if near else ''


def _one_line(text: str) -> str:
  """Last line of a message, which is the cause if the message contains a traceback."""
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  return lines[-1] if lines else text
