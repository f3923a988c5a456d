"""Saves the state of a training loop, and ends the loop when a signal asks it to stop."""

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ml_collections import ConfigDict

from thrifty_jax import files, logbook, stopping
from thrifty_jax.data import mesh
from thrifty_jax.errors import InputError, NotFinite
from thrifty_jax.tracking.trackers import Trackers
from thrifty_jax.training import hosts
from thrifty_jax.training.checkpoint import Checkpoints
from thrifty_jax.training.train_data import Figures

# Ends of epochs are saved too, but not more often than this.
_EPOCH_SECONDS = 10.0


@dataclasses.dataclass(kw_only=True)
class Progress:
  """Progress of a loop: all that another process needs to continue with identical results.

  The progress of a loop adds its arrays, and fields of type Figures for the present epoch.
  """

  NOTED: ClassVar[tuple[str, ...]] = ('epoch',)  # names of the numbers that a checkpoint notes

  state: Any  # after the last step
  epoch: int = 0  # number of completed epochs
  # Start of the present epoch by time.monotonic, earlier by its time before an interruption.
  began: float = dataclasses.field(default_factory=time.monotonic)
  planned: tuple[int, ...] = ()  # epochs, by each call; more of them stretch the schedules
  timed: bool = False  # whether time decides how many epochs are planned
  foretold: bool = False  # whether this process has printed when the loop will be done

  @property
  def epochs(self) -> int:
    """Number of epochs that are planned."""
    return self.planned[-1]

  @property
  def step(self) -> int:
    """Number of completed steps."""
    return int(self.state.step)

  @contextlib.contextmanager
  def leaving_out(self) -> Generator[None]:
    """Leaves the time of the body, which waits for a compiler, out of that of the epoch."""
    began = time.monotonic()
    try:
      yield
    finally:
      self.began += time.monotonic() - began

  def foretell(self, what: str, seconds: float, *, then: str) -> None:
    """Prints, once in a process, when `what` will be done, by an estimate of the seconds left."""
    if self.foretold:
      return
    self.foretold = True
    at = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
    day = '' if at.date() == datetime.date.today() else f' on {at:%d %B}'
    left = logbook.format_duration(seconds)
    logbook.say('estimate', f'{what} is done in about {left}, at {at:%H:%M}{day}; {then}')

  def arrays(self) -> Any:
    """Returns the arrays of the progress, a pytree."""
    raise NotImplementedError

  def set_arrays(self, arrays: Any) -> None:
    """Sets what `arrays` returns."""
    raise NotImplementedError

  def keep(self) -> tuple[Any, dict[str, Any]]:
    """Returns the arrays and notes of a checkpoint."""
    return self.arrays(), {
      **{name: getattr(self, name) for name in self.NOTED},
      **{name: figures.notes() for name, figures in self._figures().items()},
      'seconds': time.monotonic() - self.began,
      'planned': list(self.planned),
    }

  def take_up(self, arrays: Any, notes: Mapping[str, Any]) -> None:
    """Continues from a checkpoint; prints an extension of its plan."""
    self.set_arrays(arrays)
    for name in self.NOTED:
      setattr(self, name, notes.get(name, getattr(self, name)))  # an older version had fewer
    for name, figures in self._figures().items():
      setattr(self, name, Figures(figures.stage, self.epoch, notes[name]))
    self.began = time.monotonic() - notes['seconds']
    before = tuple(notes['planned'])
    now = before[-1] if self.timed else self.planned[-1]
    self.planned = (*before, now) if before[-1] != now else before
    if before[-1] != now:
      logbook.say('extended', f'from {before[-1]} to {now} epochs')

  def end_epoch(self) -> None:
    """Counts the epoch and resets the figures."""
    self.epoch += 1
    for name, figures in self._figures().items():
      setattr(self, name, Figures(figures.stage, self.epoch))
    self.began = time.monotonic()

  def _figures(self) -> dict[str, Figures]:
    return {name: value for name, value in vars(self).items() if isinstance(value, Figures)}


class Autosave:
  """Logbook and checkpoints of a loop, which offers its progress after every step and every epoch.

  A signal to stop does not interrupt the loop: the next offer saves and raises Stopped.
  """

  def __init__(self, config: ConfigDict, folder: Path, stage: str, progress: Progress):
    """Continues from the newest intact state, if any; drops log lines written after it.

    An InputError is raised if lines before it are missing, or fewer epochs are planned than it has.
    """
    self.log = logbook.Logbook(folder)
    self._folder, self._stage, self._progress = folder, stage, progress
    self._seconds, self._saved = config.save_seconds, time.monotonic()
    self._farewell = f'stopped: {stage} is saved; the same command goes on from here'
    # Only the first of several processes has the files; the others receive their contents.
    self._checkpoints = Checkpoints(folder / 'checkpoints') if hosts.is_first() else None
    self._vote = hosts.Vote() if hosts.several() else None
    self._number = (self._checkpoints.latest() or 0) if self._checkpoints else 0
    if hosts.share_first(self._number):
      like = progress.arrays()
      arrays, notes = mesh.fetch(like), {}
      if self._checkpoints:
        arrays, notes = self._checkpoints.restore(arrays)
        self._number = self._checkpoints.latest() or 0
      # Notes come first, so that the others learn in time if nothing can be restored.
      notes = hosts.share_first(notes)
      self._require_plan(notes['planned'][-1])
      progress.take_up(mesh.place_like(hosts.share_first_arrays(arrays), like), notes)
      logbook.say('resumed', f'after step {progress.step}, in epoch {progress.epoch + 1}')
    # A training that was killed before its first state has the file that is written here.
    begins = not progress.step and not self.log.path.exists()
    self.log.truncate(progress.epoch)
    self._require_lines()
    is_tracked = config.trackers and hosts.is_first()
    self._trackers = self._track(config, begins=begins) if is_tracked else None

  def _require_plan(self, before: int) -> None:
    """Refuses fewer epochs than those of a training that goes on."""
    now = self._progress.epochs
    if now < before and not self._progress.timed:
      raise InputError(
        f'{self._folder}: is half done with {before} epochs; expected as many or more as '
        f'--config.{self._stage}.epochs, not {now}'
      )

  def _require_lines(self) -> None:
    """Refuses a logbook that lacks epochs of the state, of which the results are made too."""
    found, done = hosts.share_first(len(self.log.entries())), self._progress.epoch
    if found < done:
      raise InputError(
        f'{self.log.path}: has {found} of the {done} epochs that are done; put it back, or remove '
        f'{self._folder} and run the stage again'
      )

  def _track(self, config: ConfigDict, *, begins: bool) -> Trackers:
    """Returns the trackers of the run, which follow the logbook from its first line on."""
    places = [self._folder, *self._folder.parents]
    workdir = next(place for place in places if place.name == self._stage).parent
    name = self._folder.relative_to(workdir).as_posix()
    trackers = Trackers(config, workdir, name, begins=begins)
    self.log.follow(trackers.add)
    return trackers

  @contextlib.contextmanager
  def looping(self, *, steps: int, slices_of: Callable[[int], Any]) -> Generator[Any]:
    """Yields the progress bar of a loop, and closes what the loop has opened.

    If the body raises NotFinite, not_finite.json in the folder names the step and its slices, which
    `slices_of` returns for a step, counted from 1.
    """
    self._saved, fault = time.monotonic(), self._folder / 'not_finite.json'
    with contextlib.ExitStack() as running:
      running.enter_context(stopping.defer())
      if self._trackers:
        running.callback(self._trackers.close)
      if self._checkpoints:
        running.callback(self._checkpoints.close)  # finishes a save in progress, whatever happens
      bar = running.enter_context(logbook.progress(steps, self._stage))
      bar.update(self._progress.step)
      fault.unlink(missing_ok=True)
      try:
        yield bar
      except NotFinite as error:
        found = {'error': str(error), 'step': error.step, 'slices': slices_of(error.step)}
        files.write_json(fault, found)
        raise

  def offer(self, *, epoch_ended: bool = False, finished: bool = False) -> None:
    """Saves if a save is due, and always if the loop is finished or a signal asks to stop.

    An epoch has ended once its line is in the logbook. At a signal it raises Stopped, and all is on
    disk when that leaves `looping`.
    """
    number, since = stopping.requested(), time.monotonic() - self._saved
    due = since >= self._seconds or epoch_ended and since >= _EPOCH_SECONDS
    if self._vote:  # all act after the same step; the clock of the first counts
      number, due = self._vote.cast([number, due and hosts.is_first()], now=epoch_ended)
    if due or finished or number:
      self._save()
    if number:
      raise stopping.Stopped(number, self._farewell)

  @contextlib.contextmanager
  def interruptible(self) -> Generator[None]:
    """Lets a signal end long work in the loop that changes no state; the state is then saved."""
    if self._vote:  # several processes finish the work, as none may leave it alone
      yield
      return
    try:
      with stopping.defer(wanted=False):
        yield
    except stopping.Stopped as stop:
      self._save()
      raise stopping.Stopped(stop.signal, self._farewell) from stop

  def _save(self) -> None:
    arrays, notes = self._progress.keep()
    self._number += 1
    if self._checkpoints:
      self._checkpoints.save(self._number, mesh.fetch(arrays), notes)
    self._saved = time.monotonic()
