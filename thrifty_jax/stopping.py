"""Requests to stop: Ctrl-C (SIGINT), or SIGTERM from a scheduler or a machine shutting down.

A loop with something to save ends by itself at its next step; anything else ends at once. A second
signal ends the process silently. So does C++ work that does not return in time: compiling may take
a minute.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Generator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 5.0  # for cleaning up, once nothing is left to save
COMPILER = 'compiler'  # name of the compiling threads, which cannot be ended
_TICK = 0.1  # seconds
GOES_ON = 'stopped; the same command goes on from the last checkpoint'


class Stopped(KeyboardInterrupt):
  """A person or the machine requested a stop by the signal of this number."""

  def __init__(self, number: int, text: str = GOES_ON):
    super().__init__(text)
    self.signal = number


def status(error: KeyboardInterrupt) -> int:
  """Exit status of a process that ends by this error, as shells define it."""
  return 128 + getattr(error, 'signal', signal.SIGINT)


_deferred = False  # whether a loop ends by itself
_asked = 0  # number of the first signal, 0 before


@contextlib.contextmanager
def handle() -> Generator[None]:
  """Handles the signals while the body runs; has no effect outside the main thread.

  The body raises Stopped at the first signal unless a loop has deferred it.
  """
  global _asked
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  _asked = 0
  ours, theirs = os.pipe()
  os.set_blocking(theirs, False)
  handlers = {number: signal.signal(number, _on_signal) for number in SIGNALS}
  # Python's handlers wait until C++ returns; the wakeup descriptor is written at once.
  descriptor = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
  watch = threading.Thread(target=_watch, args=(ours,), name='stopping', daemon=True)
  watch.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(descriptor)
    for number, handler in handlers.items():
      signal.signal(number, handler)
    os.close(theirs)  # ends the thread
    watch.join()
    os.close(ours)


@contextlib.contextmanager
def defer(*, wanted: bool = True) -> Generator[None]:
  """Keeps a first signal from interrupting the body, which calls `requested` itself.

  Within it, defer(wanted=False) lets a signal, also an earlier one, interrupt another body.
  """
  global _deferred
  before, _deferred = _deferred, wanted
  try:
    if _asked and not wanted:
      raise Stopped(_asked)
    yield
  finally:
    _deferred = before


def requested() -> int:
  """Number of the signal that requested a stop, 0 if there was none."""
  return _asked


def leave(status: int) -> NoReturn:
  """Ends the process, at once if a thread still compiles, as Python's normal exit would abort."""
  if any(thread.name == COMPILER for thread in threading.enumerate()):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)


def _on_signal(number: int, _: FrameType | None) -> None:
  global _asked
  _asked = _asked or number
  if not _deferred:
    raise Stopped(_asked)
  _say('\nstopping: the state is being saved; press Ctrl-C again to leave at once')


def _watch(descriptor: int) -> None:
  """Ends the process at a second signal, or if the first has no effect."""
  global _asked
  asked, left = 0, GRACE_SECONDS
  while left > 0:
    if select.select([descriptor], [], [], _TICK if asked else None)[0]:
      found = os.read(descriptor, 1)
      if not found:
        return
      if asked and found[0] in SIGNALS:
        os._exit(128 + found[0])
      asked = found[0] if found[0] in SIGNALS else asked
      _asked = _asked or asked  # Python's handler may still wait for C++
    else:
      left = GRACE_SECONDS if _deferred else left - _TICK
  _say(GOES_ON)
  os._exit(128 + asked)


def _say(line: str) -> None:
  """Prints a line without Python's buffers, which may be locked when a signal arrives."""
  os.write(2, f'{line}\n'.encode())
