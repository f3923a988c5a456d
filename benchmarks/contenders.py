"""Runs contenders in turns, each in a process of its own.

Peak memory is measured per process, so each contender needs its own. Turns alternate, so that other
load on the machine affects all of them; while one works the others wait.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import measure
from thrifty_jax.training import resources

# One turn: works until all is done; returns the seconds of its parts by name, if it has any.
Turn = Callable[[], Mapping[str, float] | None]
# Starts a contender in its process; returns figures of the start and the function of a turn.
Start = Callable[..., tuple[dict[str, Any], Turn]]


def race(
  contenders: Mapping[Any, tuple[Any, ...]], *, repeats: int, turn: str = 'step'
) -> dict[Any, dict[str, Any]]:
  """Starts all contenders one after the other, lets them take turns and returns their figures.

  Args:
    contenders: Name -> (start, *arguments), a `Start` of a module and its arguments.
    repeats: Number of measured turns of each, after a first one that is not among them.
    turn: Name of a turn in the figures.

  Returns:
    Figures of each: those of its start; `first_<turn>_s`, from the start of its work to the end of
    its first turn; `median_<turn>_s`, `median_worked_s` (of the processor, all cores) and the
    median of every part; `relative_<turn>`, the median over the turns of its time divided by that
    of the first contender; `before_mb`, what the process held before it began, Python and imports,
    `peak_rss_mb` and `peak_device_mb`. One whose process ended has an `error`.
  """
  running = {name: _Contender(turn, *made) for name, made in contenders.items()}
  try:
    for one in running.values():
      one.start()
    for _ in range(repeats):
      for one in running.values():
        one.take_turn()
    for one in running.values():
      one.finish()
    first = next(iter(running.values()))
    return {name: one.figures(first, repeats) for name, one in running.items()}
  finally:
    for one in running.values():
      one.kill()


class _Contender:
  """The command's side of a contender: sends requests and keeps the answers."""

  def __init__(self, turn: str, start: Start, *arguments: Any):
    self._turn, self._work = turn, (turn, start, arguments)
    self._process: Any = None
    self._pipe: Any = None
    self._figures: dict[str, Any] = {}
    self.turns: list[dict[str, float]] = []

  def start(self) -> None:
    context = multiprocessing.get_context('spawn')  # a fork of a process with JAX may hang
    self._pipe, theirs = context.Pipe()
    self._process = context.Process(target=_serve, args=(theirs, *self._work), daemon=True)
    self._process.start()
    theirs.close()  # so that the end of the process is noticed here
    self._figures |= self._answer()

  def take_turn(self) -> None:
    found = self._answer(True)
    self.turns += [found] if found else []

  def finish(self) -> None:
    self._figures |= self._answer(False)

  def kill(self) -> None:
    if self._process is not None:
      self._process.kill()
      self._process.join()

  def figures(self, first: '_Contender', repeats: int) -> dict[str, Any]:
    """Returns the figures of the contender."""
    if 'error' in self._figures or not self.turns:
      return self._figures
    name = f'{self._turn}_s'
    pairs = zip(self.turns, first.turns, strict=False)  # the first may have ended early
    ratios = [own[name] / other[name] for own, other in pairs]
    relative = {f'relative_{self._turn}': statistics.median(ratios)} if ratios else {}
    return {**measure.medians(self.turns), **relative, **self._figures, 'repeats': repeats}

  def _answer(self, *message: bool) -> dict[str, Any]:
    """Sends a message, if any, and returns the answer; {} if the process has ended."""
    if 'error' in self._figures:
      return {}
    try:
      for one in message:
        self._pipe.send(one)
      return self._pipe.recv()
    except (EOFError, ConnectionError):
      self._process.join()
      status = self._process.exitcode
      why = 'killed, as where memory runs out' if status == -9 else 'its error stands above'
      self._figures['error'] = f'the process ended with status {status}: {why}'
      return {}


def _serve(pipe: Connection, name: str, start: Start, arguments: tuple[Any, ...]) -> None:
  """Runs the contender's side: starts, then takes a turn at each request."""
  # Several processes share the accelerator; JAX would reserve three quarters of it for the first.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  resources.forget_peak()
  before = resources.peak_process_bytes()
  began = time.perf_counter()
  figures, turn = start(*arguments)
  turn()
  first = {f'first_{name}_s': time.perf_counter() - began}
  pipe.send({**figures, **first, 'before_mb': before / measure.MIB})
  while pipe.recv():
    began, worked = time.perf_counter(), time.process_time()
    parts = turn() or {}
    passed, worked = time.perf_counter() - began, time.process_time() - worked
    pipe.send({f'{name}_s': passed, 'worked_s': worked, **parts})
  on_device = resources.peak_device_bytes()
  pipe.send(
    {
      'peak_rss_mb': resources.peak_process_bytes() / measure.MIB,
      'peak_device_mb': None if on_device is None else on_device / measure.MIB,
    }
  )
