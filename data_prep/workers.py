"""Processes cases in several processes, with the same results in the same order.

They are processes, not threads: small slices are mostly work of the interpreter, which threads do
one at a time, and readers that turn off ITK's messages do so for a whole process. Each starts
afresh: a fork of a process in which JAX runs may hang, and multiprocessing's spawn runs a caller's
script again if it has no `if __name__ == '__main__'`.
"""

import contextlib
import functools
import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from thrifty_jax.errors import InputError
from thrifty_jax.scans.volumes import Case

CasesMap = Callable[[Callable[[Case], Any], Sequence[Case]], Iterator[Any]]

# A process takes a second or two to start: shorter work does not need it.
_ALONE_SECONDS = 5.0
_MOST = 8  # processes, unless more are asked for: one process writes what all of them prepare
_AHEAD = 2  # cases in work or waiting for their turn, per process


@contextlib.contextmanager
def cases_map(count: int) -> Generator[CasesMap]:
  """Yields a `map` over cases in processes, which end with the `with` block in any case.

  The function, its argument and its result must be picklable. The number of cases in memory is
  limited, however many there are. An exception of the function is raised here, at the turn of its
  case.

  Args:
    count: Number of processes; 1 is this process alone. 0 is this process for some seconds, which
      suffice for few or small scans, then as many as there are cores, at most 8.

  Yields:
    A function of the work and the cases, whose iterator raises InputError if a process dies.
  """
  with contextlib.ExitStack() as running:
    yield functools.partial(_map, count, running)


def _map(
  count: int, running: contextlib.ExitStack, work: Callable[[Case], Any], cases: Sequence[Case]
) -> Iterator[Any]:
  if count == 0:
    began, done = time.monotonic(), 0
    while done < len(cases) and time.monotonic() - began < _ALONE_SECONDS:
      yield work(cases[done])
      done += 1
    count, cases = min(_cores(), _MOST), cases[done:]
  if count == 1 or len(cases) < 2:
    yield from map(work, cases)
  else:
    yield from _by_processes(min(count, len(cases)), running, work, cases)


def _by_processes(
  count: int, running: contextlib.ExitStack, work: Callable[[Case], Any], cases: Sequence[Case]
) -> Iterator[Any]:
  idle = [running.enter_context(_process(work)) for _ in range(count)]
  busy: dict[Connection, int] = {}
  results: dict[int, Any] = {}
  given = 0
  for turn in range(len(cases)):
    while turn not in results:
      while idle and given < min(turn + _AHEAD * count, len(cases)):
        busy[idle[-1]] = given
        with contextlib.suppress(ConnectionError):  # it is dead: reported where its answer is read
          idle.pop().send(cases[given])
        given += 1
      for connection in {*busy} & {*wait([*busy])}:
        index = busy.pop(connection)
        results[index] = _answer(connection, cases[index])
        idle.append(connection)  # a dead one is noticed at the turn of its case
    value, error = results.pop(turn)
    if error is not None:
      raise error
    yield value
    del value  # frees it before waiting for the next


@contextlib.contextmanager
def _process(work: Callable[[Case], Any]) -> Generator[Connection]:
  """Starts a process that answers each case it is sent, and yields the connection to it."""
  ours, theirs = multiprocessing.Pipe()
  serve = f'from data_prep.workers import serve; serve({theirs.fileno()})'
  environment = {
    'PYTHONPATH': os.pathsep.join(path or os.getcwd() for path in sys.path),
    'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS': '1',  # one process for each core
  }
  process = subprocess.Popen(
    [sys.executable, '-P', '-c', serve],
    env=os.environ | environment,
    stdin=subprocess.DEVNULL,
    pass_fds=[theirs.fileno()],
    start_new_session=True,  # a terminal's Ctrl-C does not reach it: we end it
  )
  try:
    theirs.close()  # so that the end of the process is noticed here
    with contextlib.suppress(ConnectionError):  # already dead: reported where its answer is read
      ours.send(work)
    yield ours
  finally:
    ours.close()
    process.kill()
    process.wait()


def serve(descriptor: int) -> None:
  """Runs a worker process until the other end of its connection is closed.

  Args:
    descriptor: File descriptor of its end of the connection, which receives first the work, then
      cases.
  """
  connection = Connection(descriptor)
  with contextlib.suppress(EOFError, ConnectionError):
    work = connection.recv()
    while True:
      connection.send(_outcome(work, connection.recv()))


def _outcome(work: Callable[[Case], Any], case: Case) -> tuple[Any, Exception | None]:
  """Returns the result of the work, or its exception with the traceback as text."""
  try:
    return work(case), None
  except InputError as error:
    return None, error
  except Exception as error:
    error.add_note(f'in a process of its own: {traceback.format_exc()}')
    return None, error


def _answer(connection: Connection, case: Case) -> tuple[Any, Exception | None]:
  try:
    return connection.recv()
  except (EOFError, ConnectionError):
    return None, InputError(
      f'{case.case}: the process that read it ended, most often for want of memory; set '
      '--config.data.workers to a smaller number, 1 needs least.'
    )


def _cores() -> int:
  from thrifty_jax import device  # imports JAX, which worker processes do not need

  return device.cores()
