"""How long a race takes, and how many rungs, of how many steps, fit into its minutes.

For the minutes, a training on each core, all at a time, tells what an epoch takes and what a
training takes besides. What they told is kept in the race's folder, so that a race that was stopped
goes on with as many steps. Without minutes, the first training of a rung tells how long all takes.
"""

import dataclasses
import math
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import logbook, records
from thrifty_jax.errors import InputError
from thrifty_jax.logbook import Logbook
from thrifty_jax.racing import executors, jobs
from thrifty_jax.racing.jobs import Job

FILE = 'pace.json'
FOLDER = 'pace'  # of the trainings that tell
MOST_LONGER = 2.0  # factor of the minutes within which the shortest race goes on
_MOST = 100_000  # steps of the first rung, to end the search for them
EPOCHS = 2  # of these: the last one ends with a validation, the first one does not


@dataclasses.dataclass(frozen=True)
class Pace:
  """pace.json: what trainings of a race take.

  Attributes:
    steps: Steps of the first rung.
    epoch_seconds: Seconds of an epoch of one training, beside others.
    other_seconds: Seconds that a training takes besides: to start, compile and validate.
    trainings: Number of trainings in each rung, of which there are fewer where minutes are few.
  """

  steps: int
  epoch_seconds: float
  other_seconds: float
  trainings: tuple[int, ...]


def count_trainings(groups: Iterable[tuple[int, bool]], *, rungs: int, folds: int) -> list[int]:
  """Returns how many trainings each rung has, of groups given as (networks, has mutations)."""
  counts = [0] * rungs
  for size, has_mutations in groups:
    for rung in range(rungs):
      counts[rung] += size * folds
      kept = math.ceil(size / 2)
      size = kept + kept // 2 if has_mutations else kept
  return counts


def find(
  config: ConfigDict,
  folder: Path,
  trial: Sequence[Job],
  *,
  trainings: Sequence[int],
  epoch_steps: int,
  began: float,
) -> Pace:
  """Returns the steps and the rungs with which a race takes config.front.minutes.

  Each rung trains at least an epoch, and twice as long as the one before. As many rungs stay as fit
  so into the minutes, at least one; then steps fill the minutes.

  Args:
    config: Settings of the run.
    folder: Folder of the race.
    trial: Trainings of EPOCHS epochs, as many as run at a time, none of them done.
    trainings: Number of trainings in each rung.
    epoch_steps: Steps of an epoch.
    began: When the race began, by time.monotonic().

  Raises:
    InputError: If one epoch in one rung takes MOST_LONGER times the minutes; the time that it
      needs is named. Up to there the race takes that epoch, and a line says how long it will be.
  """
  path = folder / FILE
  if path.exists():
    return records.read(path, Pace)
  epoch, other = measure(config, trial)
  at_a_time = executors.count_slots(config)
  spent = time.monotonic() - began

  def minutes(rungs: int, steps: float = epoch_steps) -> float:
    """Returns what a race of so many rungs takes with so many steps in its first one."""
    plan = [
      (count, round_epochs(steps * 2**rung / epoch_steps))
      for rung, count in enumerate(trainings[:rungs])
    ]
    return (spent + _add_up(plan, epoch, other) / at_a_time) / 60

  limit, least = config.front.minutes, math.ceil(minutes(1))
  if minutes(1) > MOST_LONGER * limit:
    raise InputError(
      f'config.front.minutes is {limit:g}, and {trainings[0]} trainings, of one epoch each, take '
      f'about {least} minutes here; allow as much, or lower front.entrants or front.folds'
    )
  rungs = max([1, *(rungs for rungs in range(1, len(trainings) + 1) if minutes(rungs) <= limit)])
  steps = epoch_steps
  while steps < _MOST and minutes(rungs, steps + 1) <= limit:
    steps += 1
  found = Pace(steps, epoch, other, tuple(trainings[:rungs]))
  records.write(path, found)
  fewer = f' of {rungs}, not {len(trainings)}' if rungs < len(trainings) else ''
  logbook.say(
    'pace',
    f'an epoch takes {epoch:.1f} s, and a training {other:.1f} s besides: {steps} steps, about, in '
    f'the first rung{fewer}',
  )
  if least > limit:
    logbook.say('pace', f'{limit:g} minutes are too few: it will take about {least}')
  return found


def _add_up(plan: Iterable[tuple[int, int]], epoch: float, other: float) -> float:
  """Returns the seconds of trainings one after the other, given as (how many, epochs of each)."""
  return sum(count * (epochs * epoch + other) for count, epochs in plan)


def foretell(job: Job, took: float, left: Sequence[tuple[int, int]], *, at_a_time: int) -> None:
  """Prints how long the trainings that are left take, unless there are none.

  Args:
    job: A training of middling size that was done beside others.
    took: Its seconds.
    left: Trainings that are left, given as (how many, epochs of each).
    at_a_time: Number of trainings at a time.
  """
  seconds, count = _read_epochs([job]), sum(trainings for trainings, _ in left)
  if not seconds or not count:  # it diverged in its first epoch, or was the last
    return
  epoch = float(np.mean(seconds))
  other = max(0.0, took - job.config['retrain']['epochs'] * epoch)
  rest = _add_up(left, epoch, other) / at_a_time
  logbook.say(
    'pace',
    f'about {logbook.format_duration(rest)} more for {count} trainings, {at_a_time} at a time: an '
    f'epoch takes {epoch:.1f} s, and a training {other:.1f} s besides',
  )


def _read_epochs(jobs: Iterable[Job]) -> list[float]:
  """Reads the seconds of the first epoch of each training, which has no validation."""
  firsts = [Logbook(Path(job.place) / 'retrain').entries()[:1] for job in jobs]
  return [line['seconds'] for lines in firsts for line in lines]


def round_epochs(epochs: float) -> int:
  """Returns the nearest whole number of epochs, at least one."""
  return max(1, round(epochs))


def measure(config: ConfigDict, trial: Sequence[Job]) -> tuple[float, float]:
  """Returns the seconds of an epoch, and those that a training takes besides, of trainings."""
  for job in trial:
    shutil.rmtree(job.place, ignore_errors=True)  # stopped before it told anything
  began = time.monotonic()
  jobs.run_all(config, trial, 'pace')
  took = time.monotonic() - began
  if not (seconds := _read_epochs(trial)):
    raise InputError(
      f'{trial[0].place}: the training that tells the pace diverged in its first epoch; lower '
      f'retrain.learning_rate, which is {config.retrain.learning_rate:g}'
    )
  epoch = float(np.mean(seconds))
  return epoch, max(0.0, took - EPOCHS * epoch)
