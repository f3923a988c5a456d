"""When the state of a training loop is saved, and how the loop ends when it is asked to stop."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from thrifty_jax.checkpoint import Checkpoints
from thrifty_jax.running import stopping

# Ends of epochs are saved too, but not every few seconds.
_EPOCH_SECONDS = 10.0

Keep = Callable[[], tuple[Any, dict[str, Any]]]


class Autosave:
  """Checkpoints of a loop, which offers its state after every step and says where epochs end.

    autosave = Autosave(folder, 'search', seconds=60)
    kept = autosave.restore(like)  # None at the first start
    with autosave:
      ...
      autosave.offer(keep)

  A signal to stop does not interrupt the body of `with`: the next offer saves and raises Stopped.
  """

  def __init__(self, folder: Path, stage: str, *, seconds: float):
    """Opens the checkpoints.

    Args:
      folder: For checkpoints only.
      stage: Name for what is said.
      seconds: Between two saves.
    """
    self._checkpoints = Checkpoints(folder)
    self._stage, self._seconds = stage, seconds
    self._number = self._checkpoints.latest() or 0
    self._saved = time.monotonic()
    self._running = contextlib.ExitStack()

  def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """The newest whole state and its notes, or None; see Checkpoints.restore."""
    if not self._number:
      return None
    found = self._checkpoints.restore(like)
    self._number = self._checkpoints.latest() or 0
    return found

  def __enter__(self) -> Self:
    self._saved = time.monotonic()
    with contextlib.ExitStack() as running:
      running.enter_context(stopping.deferred())
      running.callback(self._checkpoints.close)  # what is being saved is saved, whatever stops it
      self._running = running.pop_all()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self._running.close()

  def offer(self, keep: Keep, *, epoch_ended: bool = False, finished: bool = False) -> None:
    """Saves if it is time to, and always when the loop is finished or asked to stop.

    Args:
      keep: Gives the state and the notes of now; called only if they are saved.
      epoch_ended: Whether an epoch has ended, its line in the logbook included.
      finished: Whether the loop ends here.

    Raises:
      Stopped: If asked to stop; all is on disk when it leaves the `with` block.
    """
    number, since = stopping.requested(), time.monotonic() - self._saved
    due = since >= self._seconds or epoch_ended and since >= _EPOCH_SECONDS
    if due or finished or number:
      self._save(keep)
    if number:
      raise stopping.Stopped(number, self._farewell())

  @contextlib.contextmanager
  def interruptible(self, keep: Keep) -> Iterator[None]:
    """For long work within the loop that changes no state: a signal ends it, then saves."""
    try:
      with stopping.undeferred():
        yield
    except stopping.Stopped as stop:
      self._save(keep)
      raise stopping.Stopped(stop.signal, self._farewell()) from stop

  def _save(self, keep: Keep) -> None:
    self._number += 1
    self._checkpoints.save(self._number, *keep())
    self._saved = time.monotonic()

  def _farewell(self) -> str:
    return f'stopped: {self._stage} is saved; the same command goes on from here'
