"""Times networks: `python -m thrifty_jax.cost --models=FOLDER --genotypes=FILE`."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import thrifty_jax
from thrifty_jax.errors import InputError
from thrifty_jax.logbook import say
from thrifty_jax.running import command_line
from thrifty_jax.settings import COST_PRECISIONS, COST_RUNTIMES

LARGEST = 4096  # side of a slice in pixels
USAGE = f"""\
usage: thrifty-jax cost --models=FOLDER[,...] | --genotypes=FILE[,...] [options]
   or: python -m thrifty_jax.cost, the same

Measures the milliseconds that networks take for a slice on this machine's processor. All networks
and runtimes take turns, A B C A B C, so that other programs slow them alike; the time of each is
the median, its spread the interquartile range over the median. Images are made up.

  --models=FOLDER,...  model folders, or runs (their model/)
  --genotypes=FILE,... genotypes, whose networks get random weights: as fast as trained ones;
                       of a folder all *.json in it
  --cells=32:group,... channels and norm, group or batch, of networks of cells from genotypes, each
                       of which is timed (default: as the file says, else 32:group)
  --size=256           side of a slice in pixels, at most {LARGEST} (default: 256)
  --runtime=RUNTIME    {', '.join(COST_RUNTIMES)} (default: installed, that
                       is onnxruntime, and openvino if it is installed)
  --precision=PRECISION
                       {', '.join(COST_PRECISIONS)} (default: all); JAX has float32 only
  --threads=1          threads of a network (default: 1)
  --repeats=30         timed runs of each network in each runtime (default: 30)
  --spread=0.25        largest spread; a larger one is an error: the machine is too busy
  --output=costs.json  file that gets the figures as a list; one that is there is replaced

ONNX Runtime needs the packages of thrifty_jax[export], OpenVINO those of thrifty_jax[openvino].

Exit status: 0 done, 2 bad input or usage, or a machine too busy to time, 1 a fault.
{thrifty_jax.RESEARCH_USE}
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status; None uses the arguments of the process."""
  return command_line.start(argv, USAGE, run)


def run(arguments: Sequence[str]) -> None:
  """Parses the command, prints the table and writes the figures."""
  values = read(arguments)
  # JAX takes a second to import, so mistakes in the command are reported first.
  from thrifty_jax import config as configs
  from thrifty_jax import device, files, records
  from thrifty_jax.cost import candidates, costs, machine, runtimes

  ways = runtimes.choose(values.runtime, values.precision)
  runtimes.require_installed(ways)
  config = configs.default()
  config.device = 'cpu'
  device.prepare(config)
  cells = [(int(size), norm) for size, norm in (one.split(':') for one in split(values, 'cells'))]
  models, genotypes = split(values, 'models'), find_genotypes(values)
  found = candidates.load(models, genotypes, size=values.size, cells=cells)
  say(f'thrifty_jax {thrifty_jax.__version__}  research use only, not a medical device')
  say('machine', machine.describe())
  say('slice', f'{values.size} x {values.size} pixels, {values.threads} thread(s)')
  measured = costs.measure(
    found, ways, threads=values.threads, repeats=values.repeats, most_spread=values.spread
  )
  print('\n'.join(['', *costs.format_table(measured), '']), flush=True)
  if values.output:
    output = Path(values.output)
    with files.report_unwritable(output.absolute().parent, '--output'):
      records.write(output, measured)
    say('written', str(output))


def read(arguments: Sequence[str]) -> Any:
  """Reads and checks the options."""
  number = command_line.Number
  values = command_line.read(
    arguments,
    USAGE,
    required={},
    choices={'runtime': COST_RUNTIMES, 'precision': ('all', *COST_PRECISIONS[:-1])},
    size=number(int, 256, least=1, most=LARGEST),
    threads=number(int, 1, least=1, most=1024),
    repeats=number(int, 30, least=2, most=100_000),
    spread=number(float, 0.25, least=0),
  )
  named = [*split(values, 'models'), *find_genotypes(values)]
  if not named:
    raise InputError('--models or --genotypes is missing, for example --models=runs/brain')
  cells = split(values, 'cells')
  for name in cells:
    if not re.fullmatch(r'[1-9]\d{0,2}:(group|batch)', name):
      raise InputError(f'--cells={name}: expected channels and norm, as in 32:group or 16:batch')
  for name in (*named, *cells):
    if (*named, *cells).count(name) > 1:
      raise InputError(f'{name} is named twice; expected each network once')
  output = Path(values.output)
  if values.output and (output.is_dir() or not output.absolute().parent.is_dir()):
    raise InputError(
      f'--output={output}: expected a file in a folder that exists; create it or name another'
    )
  return values


def split(values: Any, name: str) -> list[str]:
  """Returns the paths, or other names, in an option's list."""
  return command_line.split_paths(values[name].value)


def find_genotypes(values: Any) -> list[str]:
  """Returns the genotype files that are named, and those of the folders that are named."""
  found = []
  for name in split(values, 'genotypes'):
    inside = sorted(map(str, Path(name).glob('*.json')))
    if Path(name).is_dir() and not inside:
      raise InputError(f'--genotypes={name}: the folder has no file *.json; name another')
    found += inside or [name]
  return found


if __name__ == '__main__':
  sys.exit(main())
