"""Prints the output of benchmarks as tables in Markdown.

    python -m benchmarks.search_step --against=plain > search_step.txt
    python -m benchmarks.table search_step.txt

Reads the last line of every file; files of the same benchmark, device and versions share a table.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thrifty_jax import files
from thrifty_jax.errors import InputError
from thrifty_jax.running import command_line

_HIDDEN = ('device', 'repeats', 'before_mb', 'start_s', 'median_worked_s')
_WHERE = ('thrifty_jax', 'commit', 'python', 'jax', 'jaxlib', 'flax', 'device', 'cores')


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('files', nargs='+', type=Path, help='what benchmarks printed')
  asked = parser.parse_args(arguments)
  return command_line.exit_status(functools.partial(_run, asked.files))


def _run(paths: Sequence[Path]) -> None:
  tables: dict[tuple[str, str], list[dict[str, Any]]] = {}
  for result in map(read, paths):
    where = ', '.join(f'{name} {result[name]}' for name in _WHERE)
    load = result['load_before']
    where += '' if load is None else f'; load of the machine before: {load:.1f}'
    tables.setdefault((result['benchmark'], where), []).extend(result['measurements'])
  for (benchmark, where), measurements in tables.items():
    print(f'`{benchmark}`, {where}\n\n{markdown(measurements)}\n')


def read(path: Path) -> dict[str, Any]:
  """Reads the JSON object in the last line of a file.

  Raises:
    InputError: If it is not the output of a benchmark.
  """
  try:
    lines = path.read_text(encoding='utf-8').strip().splitlines()
    result = files.parse_json(lines[-1])
    if {'benchmark', 'measurements', 'load_before', *_WHERE} <= {*result}:
      return result
  except (OSError, ValueError, IndexError, TypeError) as error:
    raise InputError(f'{path}: cannot be read as what a benchmark printed: {error}') from error
  raise InputError(f'{path}: the last line is not the JSON object of a benchmark')


def markdown(measurements: Sequence[dict[str, Any]]) -> str:
  """Returns a table with a line for each measurement and all columns that one of them has."""
  names = dict.fromkeys(name for one in measurements for name in one if name not in _HIDDEN)
  columns = [name for name in names if any(one.get(name) is not None for one in measurements)]
  rows = [columns, ['---'] * len(columns)]
  rows += [[_text(one.get(name)) for name in columns] for one in measurements]
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def _text(value: Any) -> str:
  if value is None:
    return ''
  if isinstance(value, float):
    return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'
  return f'{value:,}' if isinstance(value, int) else str(value)


if __name__ == '__main__':
  sys.exit(main())
