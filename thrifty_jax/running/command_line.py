"""The command lines: options read as --help lists them; every mistake becomes one clear line."""

import dataclasses
import difflib
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from thrifty_jax import config as configs
from thrifty_jax import stopping
from thrifty_jax.errors import InputError
from thrifty_jax.networks import space
from thrifty_jax.settings import SETTINGS

HELP_FLAGS = ('--help', '-help', '-h', '--helpshort', '--helpfull')


@dataclasses.dataclass(frozen=True)
class Command:
  """What the user asked for."""

  config: ConfigDict
  config_file: str  # as typed, with its variants
  workdir: Path
  stage: str
  folds: tuple[int, ...] = ()  # empty: the one that the config names
  found: tuple[tuple[str, str], ...] = ()  # what the data filled in: titles and texts


class Number(NamedTuple):
  """An option that takes a number.

  Attributes:
    kind: int or float.
    default: Value where it is not given.
    least: Smallest value.
    most: Largest value, None for any.
  """

  kind: type
  default: float | None
  least: float
  most: float | None = None


def parse(argv: Sequence[str], *, stages: Sequence[str] = ('all',)) -> Command:
  """Reads `--config=FILE[:VARIANTS] [--config.FIELD=VALUE ...] [--workdir=] [--stage=] [--folds=]`.

  Args:
    argv: Arguments without the program's name.
    stages: Values that --stage takes; the first is its default.

  Returns:
    The command, its config valid and locked; what it leaves to the data is not filled in yet.

  Raises:
    InputError: If anything in it is wrong.
  """
  named = _config_named(argv)
  config_file = Path(named.split(':', 1)[0])
  if not config_file.is_file():
    nearby = sorted(str(path) for path in Path('configs').glob('*.py'))
    there = f'; there are {", ".join(nearby)}' if nearby else '; run it from the project folder'
    raise InputError(f'--config: there is no file {config_file}{there}')
  # absl's parser stops at the first surprise with a message of its own; the fields come first.
  for field in _overridden(argv):
    _check_field(field)
  values = _parse_command(argv, stages)
  configs.validate(values.config)
  space.require_choice(values.config.search.operations)
  stage = values.stage
  if stage not in stages:
    near = _nearest(stage, stages)
    raise InputError(f'--stage={stage}: the stages are {", ".join(stages)}{near}')
  workdir = Path(values.workdir or Path('runs', config_file.stem))
  return Command(values.config, named, workdir, stage, _folds(values.folds, values.config))


def start(
  argv: Sequence[str] | None, usage: str, run: Callable[[Sequence[str]], int | None]
) -> int:
  """Runs a command, or prints its help.

  Args:
    argv: Arguments without the program's name; None takes those of the process.
    usage: Text of --help.
    run: Work on the arguments, see `exit_status`.

  Returns:
    The exit status, see `exit_status`.
  """
  arguments = sys.argv[1:] if argv is None else list(argv)
  if any(argument in HELP_FLAGS for argument in arguments):
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
  """Reads the options that a help text lists, each at the start of a line, two spaces in.

  `--name=VALUE` takes a text, '' where none is given, or one of the choices, or a number; `--name`
  alone is a switch.

  Args:
    argv: Arguments without the program's name.
    usage: Text of --help.
    required: Options that must be given, each with an example.
    choices: Options that take one of some texts, of which the first is the default; '' is none.
    **numbers: Options that take a number.

  Returns:
    The values, `values.name`.

  Raises:
    InputError: If anything in it is wrong or missing.
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
  _parse(values, argv)
  for name, example in required.items():
    if not values[name].value:
      raise InputError(f'--{name} is missing, for example --{name}={example}; --help says more')
  return values


def exit_status(work: Callable[[], int | None]) -> int:
  """Runs work; 0 when it is done, 2 and one line on bad input, 1 and a traceback on a fault.

  What work returns, if it returns a status; 128 and the number of the signal if asked to stop.
  """
  try:
    with stopping.handled():
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


def _parse_command(argv: Sequence[str], stages: Sequence[str]) -> flags.FlagValues:
  """Parses argv with flags of its own: nothing global, so it can be called again."""
  values = flags.FlagValues()
  # Config flags look for the overridden fields in sys_argv themselves.
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=['', *argv])
  flags.DEFINE_string('workdir', '', 'folder of the run', flag_values=values)
  flags.DEFINE_string('folds', '', 'all, or some of them', flag_values=values)
  flags.DEFINE_string('stage', stages[0], 'what to run', flag_values=values)
  _parse(values, argv)
  return values


def _parse(values: flags.FlagValues, argv: Sequence[str]) -> None:
  """Parses argv into the flags; what is wrong becomes one line."""
  try:
    rest = values(['', *argv])[1:]
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    raise InputError(_one_line(str(error))) from error
  if rest:
    raise InputError(f'unexpected argument {rest[0]!r}: every option is written --name=value')


def _folds(text: str, config: ConfigDict) -> tuple[int, ...]:
  """The folds of --folds=all or --folds=0,2."""
  everyone = tuple(range(config.data.folds))
  if text in ('', 'all'):
    return everyone if text else ()
  names = [name.strip() for name in text.split(',')]
  if len({*names}) < len(names) or not {*names} <= {str(fold) for fold in everyone}:
    raise InputError(
      f'--folds={text}: expected all, or different ones from 0 to {everyone[-1]}, as in --folds=0,2'
    )
  return tuple(map(int, names))


def fill_in(command: Command) -> Command:
  """The command with what its config leaves to the data filled in, in place.

  Raises:
    InputError: If the data cannot be read, or what it says does not fit the other settings.
  """
  if not configs.left_to_data(command.config):
    return command
  from data_prep import data_sets  # its readers take a second to import

  found = data_sets.resolve(command.config)
  configs.validate(command.config)  # fields that depend on those
  return dataclasses.replace(command, found=found)


def _config_named(argv: Sequence[str]) -> str:
  """The value of --config."""
  for index, argument in enumerate(argv):
    name, equals, value = argument.partition('=')
    if name in ('--config', '-config'):
      if not equals:
        value = argv[index + 1] if index + 1 < len(argv) else ''
      if value:
        return value
  raise InputError('--config is missing, for example --config=configs/brain.py; --help says more')


def _overridden(argv: Sequence[str]) -> list[str]:
  """The fields in `--config.FIELD=...`."""
  matches = (re.match(r'--?(?:no)?config\.([^=]*)', argument) for argument in argv)
  return [match.group(1) for match in matches if match]


def _check_field(field: str) -> None:
  """Refuses a field that no config has, naming the nearest that they have."""
  if field in SETTINGS:
    return
  if any(name.startswith(field + '.') for name in SETTINGS):
    raise InputError(f'--config.{field} is a group; set one of its fields, --config.{field}.NAME')
  raise InputError(f'--config.{field}: there is no such field{_nearest(field, [*SETTINGS])}')


def _nearest(name: str, names: Sequence[str]) -> str:
  """`; did you mean X?`, or nothing where no name is near."""
  near = difflib.get_close_matches(name, names, n=1)
  if not near:  # the right name in the wrong group
    near = [other for other in names if other.split('.')[-1] == name.split('.')[-1]][:1]
  return f'; did you mean {near[0]}?' if near else ''


def _one_line(text: str) -> str:
  """The last line of a message: where it holds a traceback, that is the cause."""
  lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
  return lines[-1] if lines else text
