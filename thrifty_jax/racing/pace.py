"""How long a race takes, and how many rungs, of which length, fit into its minutes.

For the minutes, a training on each core, all at a time, tells what an epoch takes and what a
training takes besides. What they told is kept in the race's folder, so that a race that was stopped
goes on with as many epochs. Without minutes, the first training of a rung tells how long all takes.

Where full trainings are for a time, those of a race are too: a network that trains fast makes more
steps in it. Those of a rung take as long as its epochs take a network of middling size, which a
training on each core tells then as well.
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
from thrifty_jax.racing.short_trainings import Length

FILE = 'pace.json'
FOLDER = 'pace'  # of the trainings that tell
MOST_LONGER = 2.0  # factor of the minutes within which the shortest race goes on
_MOST = 100_000  # steps of the first rung, to end the search for them
EPOCHS = 2  # of these: the last one ends with a validation, the first one does not


@dataclasses.dataclass(frozen=True)
class Pace:
  """pace.json: what trainings of a race take.

  Attributes:
    epochs: Epochs of each rung, of which there are fewer than asked for where minutes are few.
    epoch_seconds: Seconds of an epoch of one training, beside others.
    other_seconds: Seconds that a training takes besides: to start, compile and validate.
    minutes: Minutes that were asked for; 0 for `steps`.
    trainings: Number of trainings in each rung that was asked for.
    networks: Names of the networks of the first rung; () in files of older versions.
    validation_seconds: Seconds of the validation among the others.
    steps: Steps of the first rung that were asked for; 0 for `minutes`.
    full: Minutes of a full training; 0 where epochs count.
  """

  epochs: tuple[int, ...]
  epoch_seconds: float
  other_seconds: float
  minutes: float
  trainings: tuple[int, ...]
  networks: tuple[str, ...] = ()
  validation_seconds: float = 0.0
  steps: int = 0
  full: float = 0.0

  def find_length(self, epochs: int) -> Length:
    """Returns the length of a training of a rung of so many epochs."""
    return Length(epochs, self._train_seconds(epochs) / 60 if self.full else 0.0)

  def count_minutes(self, epochs: Sequence[int], *, at_a_time: int) -> float:
    """Returns the minutes that rungs of so many epochs take."""
    besides = self.other_seconds - self.validation_seconds
    seconds = [self._train_seconds(one) + besides for one in epochs]
    return _add_up(zip(self.trainings, seconds, strict=False), at_a_time) / 60

  def _train_seconds(self, epochs: int) -> float:
    """Returns the seconds of so many epochs and their validation, at most of a full training."""
    seconds = epochs * self.epoch_seconds + self.validation_seconds
    return min(seconds, 60 * self.full) if self.full else seconds


def plan_epochs(first: float, *, rungs: int, most: float) -> tuple[int, ...]:
  """Returns the epochs of each rung, which trains twice as long as the one before.

  `first` are those of the first rung, fewer if the last one would have more than `most`. Of rungs
  that would train alike there is one.
  """
  first = min(first, most / 2 ** (rungs - 1))
  return tuple(dict.fromkeys(max(1, round(first * 2**rung)) for rung in range(rungs)))


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
  networks: Sequence[str],
  epoch_steps: int,
  began: float,
) -> Pace:
  """Returns the rungs and their epochs with which a race takes config.front.minutes.

  Each rung trains at least an epoch, and twice as long as the one before. As many rungs stay as fit
  so into the minutes, at least one; then longer trainings fill the minutes. Without minutes the
  first rung has config.front.steps.

  Args:
    config: Settings of the run.
    folder: Folder of the race.
    trial: Trainings of EPOCHS epochs, as many as run at a time, none of them done.
    trainings: Number of trainings in each rung.
    networks: Names of the networks of the first rung.
    epoch_steps: Steps of an epoch.
    began: When the race began, by time.monotonic().

  Raises:
    InputError: If one epoch in one rung takes MOST_LONGER times the minutes; the time that it
      needs is named. Up to there the race takes that epoch, and a line says how long it will be. Or
      if a race for other minutes, trainings or networks began in the folder.
  """
  path, limit, full = folder / FILE, config.front.minutes, config.retrain.minutes
  paced = Pace((), 0.0, 0.0, limit, tuple(trainings), tuple(networks))
  paced = dataclasses.replace(paced, steps=0 if limit else config.front.steps, full=full)
  if path.exists():
    return _read(path, paced)
  epoch, validation, other = measure(config, trial)
  paced = dataclasses.replace(
    paced, epoch_seconds=epoch, other_seconds=other, validation_seconds=validation
  )
  at_a_time = executors.count_slots(config)
  spent = (time.monotonic() - began) / 60
  most = 60 * full / epoch if full else config.retrain.epochs

  def minutes(epochs: Sequence[int]) -> float:
    """Returns what a race takes whose rungs have so many epochs."""
    return spent + paced.count_minutes(epochs, at_a_time=at_a_time)

  if not limit:
    epochs = plan_epochs(config.front.steps / epoch_steps, rungs=len(trainings), most=most)
    found = dataclasses.replace(paced, epochs=epochs)
    records.write(path, found)
    _tell(found, f'about {logbook.format_duration(60 * minutes(epochs))} for the race, ')
    return found
  least = math.ceil(minutes([1]))
  if minutes([1]) > MOST_LONGER * limit:
    raise InputError(
      f'config.front.minutes is {limit:g}, and {trainings[0]} trainings, of one epoch each, take '
      f'about {least} minutes here; allow as much, or lower front.entrants or front.folds, or name '
      'fewer front.genotypes'
    )
  shortest = (plan_epochs(1, rungs=rungs + 1, most=most) for rungs in range(len(trainings)))
  rungs = max(len(plan) for plan in shortest if len(plan) == 1 or minutes(plan) <= limit)
  epochs, steps = plan_epochs(1, rungs=rungs, most=most), epoch_steps
  while steps <= most * epoch_steps and steps < _MOST:
    steps += 1
    longer = plan_epochs(steps / epoch_steps, rungs=rungs, most=most)
    if minutes(longer) > limit:
      break
    epochs = longer
  found = dataclasses.replace(paced, epochs=epochs)
  records.write(path, found)
  _tell(found)
  if least > limit:
    logbook.say('pace', f'{limit:g} minutes are too few: it will take about {least}')
  return found


def longest(config: ConfigDict) -> float:
  """Returns the most epochs of a training in a race: those of a full one, if it counts them."""
  return math.inf if config.retrain.minutes else config.retrain.epochs


def _tell(found: Pace, whole: str = '') -> None:
  """Prints the rungs that were planned, and before them how long the `whole` takes."""
  count, asked = len(found.epochs), len(found.trainings)
  rungs = f'{count} rung{"s" * (count > 1)}' + f', not {asked}' * (count < asked)
  each = ' and '.join(logbook.format_length(*found.find_length(one)) for one in found.epochs)
  logbook.say(
    'pace',
    f'an epoch takes {found.epoch_seconds:.1f} s, and a training {found.other_seconds:.1f} s '
    f'besides: {whole}{rungs}, of {each}',
  )


def _read(path: Path, asked: Pace) -> Pace:
  """Reads the pace of a race that began, which must be the one that is asked for."""
  found = records.read(path, Pace)
  before, now = map(_describe_asked, (found, asked))
  if before != now:
    raise InputError(
      f'{path}: this race began for {before}, and now it would be for {now}; go back to those '
      'settings, or use another --workdir'
    )
  if others := {*found.networks} ^ {*asked.networks}:
    raise InputError(
      f'{path}: this race began with other networks than it would have now, which differ in '
      f'{", ".join(sorted(others))}; go back to its settings and version of the program, or use '
      'another --workdir'
    )
  return found


def require_none(folder: Path) -> None:
  """Refuses to go on by steps with a race that began for a time."""
  path = folder / FILE
  if path.exists():
    raise InputError(
      f'{path}: this race began for a time, and now it would be by front.steps; go back to its '
      'front.minutes, retrain.minutes and front.cluster, or use another --workdir'
    )


def _describe_asked(pace: Pace) -> str:
  """Describes what a race was asked for."""
  limit = f'{pace.minutes:g} minutes' if pace.minutes else f'{pace.steps} steps'
  full = f', before full ones of {pace.full:g} minutes' if pace.full else ''
  return f'{limit} and {" and ".join(map(str, pace.trainings))} trainings in its rungs{full}'


def _add_up(trainings: Iterable[tuple[int, float]], at_a_time: int) -> float:
  """Returns the seconds of trainings, given as (how many, seconds of each), some at a time.

  One lot waits for the other, so that a single training takes as long as one on every core.
  """
  return sum(math.ceil(count / at_a_time) * seconds for count, seconds in trainings)


def foretell(job: Job, took: float, left: Sequence[tuple[int, int]], *, at_a_time: int) -> None:
  """Prints how long the trainings that are left take, unless there are none.

  Args:
    job: A training of middling size that was done beside others.
    took: Its seconds.
    left: Trainings that are left, given as (how many, epochs of each).
    at_a_time: Number of trainings at a time.
  """
  epoch, count = _read_epoch(job), sum(trainings for trainings, _ in left)
  if epoch is None or not count:  # it diverged in its first epoch, or was the last
    return
  other = max(0.0, took - job.config['retrain']['epochs'] * epoch)
  rest = _add_up([(number, epochs * epoch + other) for number, epochs in left], at_a_time)
  logbook.say(
    'pace',
    f'about {logbook.format_duration(rest)} more for {count} trainings, {at_a_time} at a time: an '
    f'epoch takes {epoch:.1f} s, and a training {other:.1f} s besides',
  )


def _read_epoch(job: Job) -> float | None:
  """Reads the seconds of a training's first epoch, which has no validation; None without one."""
  lines = Logbook(Path(job.place) / 'retrain').entries()
  return lines[0]['seconds'] if lines else None


def measure(config: ConfigDict, trial: Sequence[Job]) -> tuple[float, float, float]:
  """Returns the seconds of an epoch, a validation, and all that a training takes besides epochs."""
  for job in trial:
    shutil.rmtree(job.place, ignore_errors=True)  # stopped before it told anything
  took = jobs.run_all(config, trial, 'pace')
  told = []
  for job in trial:
    seconds = [line['seconds'] for line in Logbook(Path(job.place) / 'retrain').entries()]
    if seconds:  # else it diverged in its first epoch
      told.append((took[job.place], seconds[0], seconds[-1] - seconds[0]))
  if not told:
    raise InputError(
      f'{trial[0].place}: the training that tells the pace diverged in its first epoch; lower '
      f'retrain.learning_rate, which is {config.retrain.learning_rate:g}'
    )
  whole, epoch, validation = map(float, np.mean(told, axis=0))
  other = max(0.0, whole - EPOCHS * epoch)
  return epoch, min(max(0.0, validation), other), other
