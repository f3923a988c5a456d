"""Sends a run's progress to its trackers, each in a thread that no training waits for."""

import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import logbook
from thrifty_jax.tracking.journal import Head, Journal, Line
from thrifty_jax.tracking.stores import STORES

PATIENCE = 20.0  # seconds that the end of a stage waits for trackers
_LATER = 'the run goes on without it; the next stage that trains or scores sends what is missing'


class Trackers:
  """The trackers of one stage of a run; whatever goes wrong with one of them is a line."""

  def __init__(self, config: ConfigDict, workdir: Path, stage: str, *, begins: bool = False):
    """Opens them, and sends again what they have missed of earlier stages.

    Args:
      config: Settings of the run, whose `trackers` are to be opened.
      workdir: Folder of the run.
      stage: Name of the stage in the figures' names.
      begins: Whether a training has nothing in its folder yet. What trackers have of an earlier one
        of the stage, which was removed, stays theirs, and they get a new run.
    """
    self.stage = stage
    self._journal = Journal(config, workdir, begins=stage if begins else '')
    self._followers = [
      _Follower(name, self._journal.head, self._journal.folder) for name in config.trackers
    ]
    for follower in self._followers:
      for line in self._journal.lines:
        follower.queue.put(line)
      follower.start()

  def add(self, entry: Mapping[str, Any]) -> None:
    """Sends the numbers of a line of metrics.jsonl; the same step is sent once."""
    figures = {
      name: value
      for name, value in entry.items()
      if isinstance(value, int | float) and name != 'step'
    }
    self._send(entry['step'], figures)

  def add_scores(self, figures: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
    """Sends scores that differ from the last ones of the stage; pictures only where they stay.

    Args:
      figures: Scores by name.
      pictures: Patients, [H, W, 3], uint8, by name.
    """
    before = [line for line in self._journal.lines if line.stage == self.stage]
    if not before or before[-1].figures != figures:
      self._send(len(before), figures)
    for follower in self._followers:
      for picture in pictures.items():
        follower.queue.put(picture)

  def close(self) -> None:
    """Waits until all is sent, but no longer than `PATIENCE` seconds."""
    until = time.monotonic() + PATIENCE
    for follower in self._followers:
      follower.queue.put(None)
    for follower in self._followers:
      follower.join(max(0.0, until - time.monotonic()))
      if follower.is_alive():
        logbook.say('tracker', f'{follower.kind} has not taken all in {PATIENCE:g} s; {_LATER}')

  def _send(self, step: int, figures: Mapping[str, float]) -> None:
    if line := self._journal.add(self.stage, step, figures):
      for follower in self._followers:
        follower.queue.put(line)


class _Follower(threading.Thread):
  """Opens a tracker and sends it what stands in the queue, up to None or an error."""

  def __init__(self, kind: str, head: Head, folder: Path):
    super().__init__(name=f'tracker {kind}', daemon=True)
    self.kind = kind
    self.queue: queue.SimpleQueue[Line | tuple[str, np.ndarray] | None] = queue.SimpleQueue()
    self._head, self._folder = head, folder

  def run(self) -> None:
    try:
      store = STORES[self.kind](self._head, self._folder)
      while (item := self.queue.get()) is not None:
        if isinstance(item, Line):
          store.send(item)
        else:
          store.show(*item)
      store.close()
    except Exception as error:
      reason = ' '.join(str(error).split()) or type(error).__name__
      logbook.say('tracker', f'{self.kind} has failed: {reason:.200}; {_LATER}')
