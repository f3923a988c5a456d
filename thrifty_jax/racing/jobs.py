"""Trainings of a race: each is a job for an executor, and all it leaves lies in its folder."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import device, lock, logbook, stages, stopping
from thrifty_jax.errors import InputError
from thrifty_jax.racing import executors
from thrifty_jax.training import trainings

LOG = 'log.txt'  # what a training prints
_TICK = 0.5  # seconds between two looks at whether to stop


@dataclasses.dataclass(frozen=True)
class Job:
  """One training.

  Attributes:
    config: Its settings, as JSON has them.
    workdir: Path of the run whose slices it trains on, absolute.
    place: Path of its own folder, absolute.
  """

  config: dict[str, Any]
  workdir: str
  place: str

  @classmethod
  def make(cls, config: ConfigDict, workdir: Path, place: Path) -> 'Job':
    """Makes the job of a training, which may run in another folder of another machine."""
    settings = config.copy_and_resolve_references()
    settings.genotype = str(Path(config.genotype).resolve())
    settings.trackers = ()  # of hundreds of short trainings
    return cls(stages.to_json(settings), str(workdir.resolve()), str(place.resolve()))


def run(job: Job) -> float:
  """Trains in the folder of the job, from where it was stopped; what it prints goes to a file.

  A worker of a cluster may still train there for a race that was stopped: it is waited for.

  Returns:
    The seconds that it took, without the start of the process.
  """
  config, place, began = configs.from_json(job.config), Path(job.place), time.monotonic()
  place.mkdir(parents=True, exist_ok=True)
  with (
    stopping.handle(),
    (place / LOG).open('a', encoding='utf-8') as log,
    contextlib.redirect_stdout(log),
    contextlib.redirect_stderr(log),
    lock.hold(place, wait=True),
  ):
    executors.refuse_to_begin()
    device.prepare(config)
    config.devices = min(config.devices, jax.device_count())  # a process of a race has one GPU
    trainings.train(config, Path(job.workdir), place)
  return time.monotonic() - began


def run_all(
  config: ConfigDict,
  jobs: Sequence[Job],
  title: str,
  *,
  first_done: Callable[[Job, float, int], None] = lambda job, seconds, left: None,
) -> dict[str, float]:
  """Runs the jobs that are not done yet, with a progress bar; returns their seconds, by place.

  Args:
    config: Settings of the run.
    jobs: Trainings, which begin in this order.
    title: Title of the bar.
    first_done: Function that is called after the first training, with it, its seconds, and how many
      of the others are left.

  Raises:
    InputError: If a process ended by itself, or a training met bad input.
    Stopped: If a signal asks to stop; the trainings under way have saved their states.
  """
  new = [job for job in jobs if not _is_done(job)]
  for job in jobs:
    if job not in new:
      trainings.drop_states(Path(job.place))
  took: dict[str, float] = {}
  if not new:
    return took
  count = min(executors.count_slots(config), len(new))

  def done(job: Job, seconds: float) -> None:
    took[job.place] = seconds
    bar.update(1)
    if len(took) == 1:
      first_done(job, seconds, len(new) - 1)

  with logbook.progress(len(new), title) as bar:
    bar.refresh()
    if count == 1 and not config.front.cluster:
      for job in new:
        done(job, run(job))
      return took
    with stopping.defer(), executors.start(config, count) as executor:
      _follow({executor.submit(run, job): job for job in new}, done)
  return took


def _follow(running: dict[Future, Job], report: Callable[[Job, float], None]) -> None:
  """Waits until all jobs are done, and reports each with its seconds."""
  left = {*running}
  while left:
    done, left = wait(left, timeout=_TICK, return_when=FIRST_COMPLETED)
    if asked := stopping.requested():
      raise stopping.Stopped(asked)
    for future in done:
      try:
        seconds = future.result()
      except Exception as error:
        if not executors.is_lost(error):
          raise
        raise InputError(
          f'{running[future].place}: the process that trains, or the scheduler of the cluster, was '
          'ended from outside, perhaps as memory ran out; the same command goes on, with fewer '
          'trainings at a time, as by --config.front.workers=1, it needs less'
        ) from error
      report(running[future], seconds)


def _is_done(job: Job) -> bool:
  return trainings.is_done(configs.from_json(job.config), Path(job.place))
