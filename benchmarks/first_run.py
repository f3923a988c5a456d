"""Measures the waiting time of a first run: the README's demo, from nothing.

    python -m benchmarks.first_run
    python -m benchmarks.first_run --until=end

The demo runs as in a terminal, in a process of its own, first with an empty compilation cache
(cold), then with the filled one (warm), each with a workdir and prepared slices of its own, in a
temporary folder. The first search step has ended on a CPU when the search's progress bar counts it,
and elsewhere when it counts the second one, as the loop there continues while a step runs. With
--until=first_step the run is then stopped by SIGTERM. Further arguments are passed to the demo:
--config.search.epochs=3. Not for Windows.
"""

import functools
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from thrifty_jax.errors import InputError
from thrifty_jax.running import command_line

PROJECT = Path(__file__).resolve().parents[1]
_BAR = re.compile(r'search:[^\r\n]*?\b(\d+)/\d+ \[')
_ON_A_CPU = re.compile(r'\bdevice +CPU\b')
_BEGAN = re.compile(r'[\r\n]search: ')


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = measure.parser(__doc__)
  parser.set_defaults(repeats=1)
  parser.add_argument('--config', default='configs/brain.py', help='of the demo')
  parser.add_argument('--until', choices=['first_step', 'end'], default='first_step')
  measure.several(parser, 'cache', 'cold', 'warm', type=str, choices=['cold', 'warm'])
  asked, rest = parser.parse_known_args(arguments)
  for one in rest:
    if not one.startswith('--config.'):
      parser.error(f'{one}: not known; arguments for the demo begin with --config.')
  if 'cold' not in asked.cache:
    parser.error('--cache warm needs what a cold run left: --cache cold warm')
  return command_line.exit_status(functools.partial(_run, asked, rest))


def _run(asked: Any, rest: Sequence[str]) -> int:
  report = measure.Report('first_run')
  found: dict[str, list[dict[str, float]]] = {name: [] for name in ('cold', 'warm')}
  with tempfile.TemporaryDirectory(prefix='first_run_') as folder:
    for turn in range(asked.repeats):
      cache = Path(folder, f'cache_{turn}')
      for name in found:
        if name in asked.cache:
          place = Path(folder, f'{name}_{turn}')
          seconds = watch([*command(asked.config, place, cache), *rest], until=asked.until)
          found[name].append(seconds)
          shutil.rmtree(place, ignore_errors=True)
  for name, turns in found.items():
    if turns:
      report.add(
        {'config': asked.config, 'cache': name},
        {**measure.medians(turns), 'repeats': len(turns)},
        _line(measure.medians(turns)),
      )
  return report.end()


def command(config: str, place: Path, cache: Path) -> list[str]:
  """Returns the command of the demo, with all its output in the two folders."""
  return [
    *(sys.executable, '-m', 'thrifty_jax.main', f'--config={config}'),
    f'--workdir={place}/run',
    f'--config.data.data_dir={place}/tfds',
    f'--config.compilation_cache={cache}',
  ]


def watch(demo: Sequence[str], *, until: str) -> dict[str, float]:
  """Runs a command in a terminal of its own and takes times from its output.

  Args:
    demo: Command of the demo.
    until: Event at which the run is stopped, first_step or end.

  Returns:
    Seconds since its start: `search_began_s`, `first_step_s`, and `end_s` unless it was stopped at
    the first step; and `peak_rss_mb` of its process, not of those that it starts.

  Raises:
    InputError: If it failed, or ended without a search step.
  """
  began, said, seconds = time.monotonic(), '', {}
  process, terminal = _start(demo)
  try:
    for text in _read(terminal):
      said += text
      if 'search_began_s' not in seconds and _BEGAN.search(said):
        seconds['search_began_s'] = time.monotonic() - began
      counted = 1 if _ON_A_CPU.search(said) else 2
      if 'first_step_s' not in seconds and any(int(n) >= counted for n in _BAR.findall(said)):
        seconds['first_step_s'] = time.monotonic() - began
        if until == 'first_step':
          process.send_signal(signal.SIGTERM)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
  finally:
    os.close(terminal)
    if process.returncode is None:
      process.kill()
      process.wait()
  stopped = until == 'first_step' and 'first_step_s' in seconds
  if process.returncode and not (stopped and process.returncode == 128 + signal.SIGTERM):
    raise InputError(f'the demo ended with status {process.returncode}: {_last_line(said)}')
  if 'first_step_s' not in seconds:
    raise InputError(f'the demo ended without a bar of two search steps: {_last_line(said)}')
  if not stopped:
    seconds['end_s'] = time.monotonic() - began
  unit = 1 if sys.platform == 'darwin' else 1024
  return {**seconds, 'peak_rss_mb': usage.ru_maxrss * unit / measure.MIB}


def _start(demo: Sequence[str]) -> tuple[subprocess.Popen, int]:
  """Starts the process; returns it and the end of its terminal to read from."""
  ours, theirs = pty.openpty()
  termios.tcsetwinsize(theirs, (24, 100))
  process = subprocess.Popen(
    demo, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
  )
  os.close(theirs)
  return process, ours


def _read(terminal: int) -> Iterator[str]:
  """Yields the output until the terminal is closed."""
  while True:
    try:
      found = os.read(terminal, 1 << 16)
    except OSError:  # on Linux: the other end is closed
      return
    if not found:
      return
    yield found.decode('utf-8', errors='replace')


def _last_line(said: str) -> str:
  lines = [line.strip() for line in re.split(r'[\r\n]+', said) if line.strip()]
  return lines[-1] if lines else 'it printed nothing'


def _line(figures: dict[str, float]) -> str:
  parts = [
    f'search begins after {figures["median_search_began_s"]:.1f} s',
    f'its first step ends after {figures["median_first_step_s"]:.1f} s',
  ]
  if 'median_end_s' in figures:
    parts.append(f'the run after {figures["median_end_s"]:.0f} s')
  return ', '.join([*parts, f'peak {figures["median_peak_rss_mb"]:.0f} MiB'])


if __name__ == '__main__':
  sys.exit(main())
