"""Saves the state of a training loop, and ends the loop when a signal asks it to stop."""

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from thrifty_jax import logbook, stopping
from thrifty_jax.data import mesh
from thrifty_jax.logbook import Logbook
from thrifty_jax.training import hosts
from thrifty_jax.training.checkpoint import Checkpoints

# Ends of epochs are saved too, but not more often than this.
_EPOCH_SECONDS = 10.0

Keep = Callable[[], tuple[Any, dict[str, Any]]]


class Progress(Protocol):
  """Progress of a loop: all that another process needs to continue with identical results.

  Attributes:
    state: State after the last step; it has the number of steps.
    epoch: Number of completed epochs.
  """

  state: Any
  epoch: int

  def arrays(self) -> Any:
    """Returns the arrays of the progress, a pytree."""
    ...

  def take_up(self, arrays: Any, notes: Mapping[str, Any]) -> None:
    """Continues from a checkpoint."""
    ...


def planned_epochs(before: Sequence[int], now: int) -> tuple[int, ...]:
  """Returns the epochs planned by each call; prints an extension of the last plan."""
  if before[-1] == now:
    return tuple(before)
  logbook.say('extended', f'from {before[-1]} to {now} epochs')
  return (*before, now)


class Autosave:
  """Checkpoints of a loop, which offers its state after every step and every epoch.

    autosave = Autosave(folder, 'search', seconds=60)
    autosave.resume(progress, log)
    with autosave:
      ...
      autosave.offer(progress.keep)

  A signal to stop does not interrupt the body of `with`: the next offer saves and raises Stopped.
  """

  def __init__(self, folder: Path, stage: str, *, seconds: float):
    """Opens the checkpoints.

    Args:
      folder: Folder for checkpoints only.
      stage: Name of the stage, for messages.
      seconds: Time between two saves.
    """
    # Only the first of several processes has the files; the others receive their contents.
    self._checkpoints = Checkpoints(folder) if hosts.is_first() else None
    self._vote = hosts.Vote() if hosts.several() else None
    self._stage, self._seconds = stage, seconds
    self._number = (self._checkpoints.latest() or 0) if self._checkpoints else 0
    self._saved = time.monotonic()
    self._running = contextlib.ExitStack()

  def resume(self, progress: Progress, *logs: Logbook) -> None:
    """Continues from the newest intact state, if any; drops log lines written after it."""
    if hosts.share_first(self._number):
      progress.take_up(*self._restored(progress.arrays()))
      step = int(progress.state.step)
      logbook.say('resumed', f'after step {step}, in epoch {progress.epoch + 1}')
    for log in logs:
      log.truncate(progress.epoch)

  def _restored(self, like: Any) -> tuple[Any, dict[str, Any]]:
    """Returns restored arrays, placed like the present ones, and notes."""
    arrays, notes = mesh.on_host(like), {}
    if self._checkpoints:
      arrays, notes = self._checkpoints.restore(arrays)
      self._number = self._checkpoints.latest() or 0
    # Notes come first, so that the others learn in time if nothing can be restored.
    notes = hosts.share_first(notes)
    return mesh.placed_like(hosts.share_first_arrays(arrays), like), notes

  def __enter__(self) -> Self:
    self._saved = time.monotonic()
    with contextlib.ExitStack() as running:
      running.enter_context(stopping.deferred())
      if self._checkpoints:
        running.callback(self._checkpoints.close)  # finishes a save in progress, whatever happens
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
    """Saves if a save is due, and always if the loop is finished or a signal asks to stop.

    Args:
      keep: Function that returns the present arrays and notes; called only to save them.
      epoch_ended: Whether an epoch has ended and its line is in the logbook.
      finished: Whether the loop ends here.

    Raises:
      Stopped: If a signal asks to stop; all is on disk when it leaves the `with` block.
    """
    number, since = stopping.requested(), time.monotonic() - self._saved
    due = since >= self._seconds or epoch_ended and since >= _EPOCH_SECONDS
    if self._vote:  # all act after the same step; the clock of the first counts
      number, due = self._vote.cast([number, due and hosts.is_first()], now=epoch_ended)
    if due or finished or number:
      self._save(keep)
    if number:
      raise stopping.Stopped(number, self._farewell())

  @contextlib.contextmanager
  def interruptible(self, keep: Keep) -> Generator[None]:
    """Lets a signal end long work in the loop that changes no state; the state is then saved.

    Several processes finish the work, as none may leave it alone.
    """
    if self._vote:
      yield
      return
    try:
      with stopping.deferred(wanted=False):
        yield
    except stopping.Stopped as stop:
      self._save(keep)
      raise stopping.Stopped(stop.signal, self._farewell()) from stop

  def _save(self, keep: Keep) -> None:
    arrays, notes = keep()
    self._number += 1
    if self._checkpoints:
      self._checkpoints.save(self._number, mesh.on_host(arrays), notes)
    self._saved = time.monotonic()

  def _farewell(self) -> str:
    return f'stopped: {self._stage} is saved; the same command goes on from here'
