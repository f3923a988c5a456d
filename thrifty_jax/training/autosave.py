"""When the state of a training loop is saved, and how the loop ends when it is asked to stop."""

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

# Ends of epochs are saved too, but not every few seconds.
_EPOCH_SECONDS = 10.0

Keep = Callable[[], tuple[Any, dict[str, Any]]]


class Progress(Protocol):
  """Where a loop stands: all that another process needs to go on with the same bits.

  Attributes:
    state: After the last step, which it counts.
    epoch: Epochs that are done.
  """

  state: Any
  epoch: int

  def arrays(self) -> Any:
    """The part that is arrays, a pytree."""
    ...

  def take_up(self, arrays: Any, notes: Mapping[str, Any]) -> None:
    """Goes on from a checkpoint."""
    ...


def planned_epochs(before: Sequence[int], now: int) -> tuple[int, ...]:
  """Epochs that a loop was to take from call to call; said if they have become more."""
  if before[-1] == now:
    return tuple(before)
  logbook.say('extended', f'from {before[-1]} to {now} epochs')
  return (*before, now)


class Autosave:
  """Checkpoints of a loop, which offers its state after every step and says where epochs end.

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
      folder: For checkpoints only.
      stage: Name for what is said.
      seconds: Between two saves.
    """
    # Of several processes the first has the files, the others what it tells them.
    self._checkpoints = Checkpoints(folder) if hosts.is_first() else None
    self._vote = hosts.Vote() if hosts.several() else None
    self._stage, self._seconds = stage, seconds
    self._number = (self._checkpoints.latest() or 0) if self._checkpoints else 0
    self._saved = time.monotonic()
    self._running = contextlib.ExitStack()

  def resume(self, progress: Progress, *logs: Logbook) -> None:
    """Goes on from the newest whole state, if there is one; lines written after it are dropped."""
    if hosts.share_first(self._number):
      progress.take_up(*self._restored(progress.arrays()))
      step = int(progress.state.step)
      logbook.say('resumed', f'after step {step}, in epoch {progress.epoch + 1}')
    for log in logs:
      log.truncate(progress.epoch)

  def _restored(self, like: Any) -> tuple[Any, dict[str, Any]]:
    """Arrays, placed like those of now, and notes."""
    arrays, notes = mesh.on_host(like), {}
    if self._checkpoints:
      arrays, notes = self._checkpoints.restore(arrays)
      self._number = self._checkpoints.latest() or 0
    # The notes first: they tell the others in time if nothing can be restored.
    notes = hosts.share_first(notes)
    return mesh.placed_like(hosts.share_first_arrays(arrays), like), notes

  def __enter__(self) -> Self:
    self._saved = time.monotonic()
    with contextlib.ExitStack() as running:
      running.enter_context(stopping.deferred())
      if self._checkpoints:
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
    if self._vote:  # all do the same after the same step; the first has the clock
      number, due = self._vote.cast([number, due and hosts.is_first()], now=epoch_ended)
    if due or finished or number:
      self._save(keep)
    if number:
      raise stopping.Stopped(number, self._farewell())

  @contextlib.contextmanager
  def interruptible(self, keep: Keep) -> Generator[None]:
    """For long work within the loop that changes no state: a signal ends it, then saves.

    Several processes do the work to its end: one of them alone must not leave it.
    """
    if self._vote:
      yield
      return
    try:
      with stopping.undeferred():
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
