"""Processes cases in several processes, with the same results in the same order.

They are no threads, as small slices are mostly work of the interpreter, and readers turn off ITK's
messages for a whole process. Each starts afresh: a fork of a process in which JAX runs may hang,
multiprocessing's spawn runs a caller's script again if it has no `if __name__ == '__main__'`, and
concurrent.futures' processes outlive a killed caller and do not tell which case ended one.
"""

import collections
import contextlib
import itertools
import multiprocessing
import os
import queue
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from thrifty_jax import logbook
from thrifty_jax.errors import InputError
from thrifty_jax.scans.volumes import Case

_ALONE_SECONDS = 5.0  # a process takes a second or two to start: shorter work does not need it
_MOST = 8  # processes, unless more are asked for: one process writes what all of them prepare
_AHEAD = 2  # cases in work or waiting for their turn, per process


@contextlib.contextmanager
def map_cases(count: int, title: str) -> Generator[Callable[..., Iterator[Any]]]:
  """Yields a `map` over cases in processes, which end with the `with` block, as does its progress.

  The function and its results must be picklable; the number of cases in memory is limited. Its
  exception, or an InputError if its process dies, is raised here at the turn of its case.

  Args:
    count: Number of processes; 1 is this process alone. 0 is this process for some seconds, which
      suffice for few or small scans, then as many as there are cores, at most 8.
    title: Name of the work, shown with its progress; '' for work of which nothing is shown.
  """
  with contextlib.ExitStack() as running:

    def counted(work: Callable[[Case], Any], cases: Sequence[Case]) -> Iterator[Any]:
      bar = running.enter_context(logbook.progress(len(cases), title)) if title else None
      for result in _map(count, running, work, cases):
        if bar:
          bar.update()
        yield result
        del result  # frees it before waiting for the next

    yield counted


def _map(
  count: int, running: contextlib.ExitStack, work: Callable[[Case], Any], cases: Sequence[Case]
) -> Iterator[Any]:
  if count == 0:
    from thrifty_jax import device  # imports JAX, which worker processes do not need

    began, done = time.monotonic(), 0
    while done < len(cases) and time.monotonic() - began < _ALONE_SECONDS:
      yield work(cases[done])
      done += 1
    count, cases = min(device.cores(), _MOST), cases[done:]
  if count == 1 or len(cases) < 2:
    yield from map(work, cases)
    return
  count = min(count, len(cases))
  threads = ThreadPoolExecutor(count)  # one waits for each process
  running.callback(threads.shutdown, cancel_futures=True)  # after the processes have ended
  idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
  for _ in range(count):
    idle.put(running.enter_context(_process(work)))

  def result_of(case: Case) -> Any:
    connection = idle.get()
    try:
      connection.send(case)
      value, error = connection.recv()
    except (EOFError, ConnectionError):
      value, error = (
        None,
        InputError(
          f'{case.case}: the process that read it ended, most often for want of memory; set '
          '--config.data.workers to a smaller number, 1 needs least.'
        ),
      )
    idle.put(connection)
    if error is not None:
      raise error
    return value

  futures = (threads.submit(result_of, case) for case in cases)
  waiting = collections.deque(itertools.islice(futures, _AHEAD * count))
  while waiting:
    yield waiting.popleft().result()
    waiting.extend(itertools.islice(futures, 1))


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
    process.kill()  # a thread that waits for it then closes the connection
    process.wait()


def serve(descriptor: int) -> None:
  """Runs a worker process, which receives the work, then cases, until its connection is closed."""
  connection = Connection(descriptor)
  with contextlib.suppress(EOFError, ConnectionError):
    work = connection.recv()
    while True:
      case = connection.recv()
      try:
        answer = work(case), None
      except Exception as error:
        if not isinstance(error, InputError):
          error.add_note(f'in a process of its own: {traceback.format_exc()}')
        answer = None, error
      connection.send(answer)
