"""What a run tells: metrics per epoch in a file, lines and progress on the console."""

import contextlib
import dataclasses
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from thrifty_jax import files, records

FILE = 'metrics.jsonl'  # in the folder of a stage
_STILL_SECONDS = 30  # between lines of what goes on, where there is no terminal
_NUMBERS = re.compile(r'-?\d+(?:\.\d+)?')
_FEW_ALIKE = 3  # lines that differ in numbers alone are printed


@dataclasses.dataclass(frozen=True)
class _Line:
  """What every line has."""

  epoch: int
  step: int


class Logbook:
  """Lines of `metrics.jsonl` in a stage's folder, a dictionary each.

  The folder is created if it is missing.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    self.path = Path(folder) / FILE
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self._followers: list[Callable[[Mapping[str, Any]], None]] = []

  def append(self, entry: Mapping[str, Any]) -> None:
    """Adds a line and returns once it is on disk; refuses NaN and infinity (ValueError).

    The values may be those of JSON, numpy or JAX; `epoch` and `step` are among them.
    """
    line = json.dumps(dict(entry), allow_nan=False, default=lambda value: value.tolist())
    with self.path.open('a', encoding='utf-8') as file:
      file.write(line + '\n')
    for follower in self._followers:
      follower(json.loads(line))

  def follow(self, follower: Callable[[Mapping[str, Any]], None]) -> None:
    """Calls a function with every line that there is, and with every one that will be added."""
    for entry in self.entries():
      follower(entry)
    self._followers.append(follower)

  def entries(self) -> list[dict[str, Any]]:
    """Reads all lines but a last one that a crash cut off; InputError if one is damaged."""
    if not self.path.exists():
      return []
    remedy = f'put it back, or remove {self.path.parent} and run the stage again'
    found = files.read_json_lines(self.path, remedy=remedy)
    for place, entry in found.items():
      records.parse(entry, _Line, place, remedy=remedy)
    return [*found.values()]

  def truncate(self, epochs: int) -> None:
    """Removes the lines of later epochs than the restored checkpoint's, which will be repeated."""
    kept = [entry for entry in self.entries() if entry['epoch'] <= epochs]
    files.write_text(self.path, ''.join(json.dumps(entry) + '\n' for entry in kept))


class _Lines(tqdm):
  """Progress as one line per tenth, for a stderr that is a file, which a bar would fill."""

  _next = 0.1  # share of the steps at which the next line is printed

  def display(self, msg: str | None = None, pos: int | None = None) -> None:
    """Prints the line once the next tenth is reached."""
    if self.total and self.n / self.total >= self._next:
      self._next = (int(10 * self.n / self.total) + 1) / 10
      print(msg or str(self), file=self.fp, flush=True)

  def clear(self, nolock: bool = False) -> None:
    """Does nothing: a line in a file stays."""

  def close(self) -> None:
    """Closes the bar without tqdm's empty line."""
    self.disable = True


def progress(total: int, description: str, *, unit: str = '') -> tqdm:
  """Progress bar on stderr with the remaining time; one line per tenth if it is not a terminal.

  It is a context manager with `update(n)` and `set_postfix(loss=...)`. `unit` is the unit of many
  steps, such as 'B' for bytes, which are then shown as 12.5M.
  """
  tqdm.monitor_interval = 0  # its thread would outlive the bar
  # Each update reads the clock, as the pace changes when a run resumes and at validations.
  options: dict[str, Any] = {'total': total, 'desc': description, 'file': sys.stderr, 'miniters': 1}
  if unit:
    options |= {'unit': unit, 'unit_scale': True}
  if sys.stderr.isatty():
    return tqdm(dynamic_ncols=True, **options)
  shape = '{desc}: {n_fmt} of {total_fmt}{postfix} [{elapsed}, {remaining} left]'
  return _Lines(bar_format=shape, mininterval=0, **options)  # display() chooses among all updates


def say(title: str, text: str = '') -> None:
  """Prints a title in a column of fixed width, then the text; above a bar, if there is one."""
  with tqdm.external_write_mode(file=sys.stdout):
    print(f'  {title:<9} {text}' if text else title, flush=True)


@contextlib.contextmanager
def waiting(title: str, text: str, *, done: str) -> Generator[None]:
  """Prints what the body waits for, that it still does, and with `done` how long that took.

  On a terminal the seconds run; elsewhere there is a line every 30 s.
  """
  say(title, text)
  began, over = time.monotonic(), threading.Event()
  ticking = threading.Thread(target=_tick, args=(title, began, over), daemon=True)
  ticking.start()
  try:
    yield
  finally:
    over.set()
    ticking.join()
  say(done, f'in {format_duration(time.monotonic() - began)}')


def _tick(title: str, began: float, over: threading.Event) -> None:
  """Shows the seconds since `began` until it is over."""
  on_terminal = sys.stderr.isatty()
  while not over.wait(1 if on_terminal else _STILL_SECONDS):
    passed = format_duration(time.monotonic() - began)
    if on_terminal:
      print(f'\r  {title:<9} {passed}\x1b[K', end='', file=sys.stderr, flush=True)
    else:
      say(title, f'still, for {passed}')
  if on_terminal:
    print('\r\x1b[K', end='', file=sys.stderr, flush=True)


def fold(found: Sequence[tuple[str, str]], *, unit: str, where: str = '') -> list[str]:
  """Returns a line for each (name, text); for many that differ in numbers alone, one for all.

  `unit` is what the names are of, in the singular, and `where` says where all texts are listed; if
  nowhere, the line has all names.
  """
  kinds: dict[str, list[tuple[str, str]]] = {}
  for name, text in found:
    kinds.setdefault(_NUMBERS.sub('#', text.replace(name, '')), []).append((name, text))
  lines = []
  for alike in kinds.values():
    if len(alike) <= _FEW_ALIKE:
      lines += [f'{name}: {text}' for name, text in alike]
    else:
      name, text = alike[0]
      listed = f'all in {where}' if where else ', '.join(name for name, _ in alike)
      lines.append(f'{len(alike)} {unit}s, {listed}; the first, {name}: {text}')
  return lines


def format_length(epochs: int, minutes: float) -> str:
  """Formats the length of a training, minutes where they count, else epochs: `2 epochs`."""
  return format_duration(60 * minutes) if minutes else f'{epochs} epoch{"s" * (epochs > 1)}'


def format_duration(seconds: float) -> str:
  """Formats a time: `8 s`, `3 min 20 s`, `1 h 05 min`."""
  minutes, rest = divmod(round(seconds), 60)
  if not minutes:
    return f'{rest} s'
  hours, minutes = divmod(minutes, 60)
  return f'{hours} h {minutes:02d} min' if hours else f'{minutes} min {rest:02d} s'
