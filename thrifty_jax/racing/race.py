"""The race: networks train in rungs, and the better half of each group goes on.

Nothing of a race is kept but its files: times, genotypes and trainings. A race that was stopped is
run again from the start with the same random numbers, and finds everything done up to where it was.
"""

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import logbook
from thrifty_jax.errors import InputError
from thrifty_jax.racing import choice, entrants, executors, jobs, pace, short_trainings
from thrifty_jax.racing.choice import Scores
from thrifty_jax.racing.field import Field, Group
from thrifty_jax.racing.jobs import Job
from thrifty_jax.racing.short_trainings import Length
from thrifty_jax.run_files import GroupOfRung, Ranked, RungOfRace

_FOLD = 'fold_{}'  # folder of a training in that of its rung


@dataclasses.dataclass(frozen=True)
class Standing:
  """How far a network came.

  Attributes:
    rung: Number of its last rung, from 1.
    length: Length of its trainings in that rung.
    scores: DSC of the validation patients of all folds; None if a training diverged.
    folder: Folder of these trainings.
  """

  rung: int
  length: Length
  scores: Scores
  folder: Path


class Race:
  """A race in a folder.

  Attributes:
    folder: The folder.
    field: Its networks, by their times, and the groups with those that reached the last rung.
    standings: Standing of each network that was trained, by name.
    folds: Patients of each fold, by the names of their settings.
    rungs: What happened in each rung.
  """

  def __init__(self, config: ConfigDict, workdir: Path, folder: Path):
    self._config, self._workdir, self.folder = config, workdir, folder
    self.field = Field(config, folder)
    self.standings: dict[str, Standing] = {}
    self.folds: list[dict[str, tuple[str, ...]]] = []
    self.rungs: list[RungOfRace] = []
    # Those of a rung are for a time as the full ones are; but workers may differ in their pace.
    self._timed = config.retrain.minutes > 0 and not config.front.cluster
    # The time is known already where minutes are set, and a cluster's pace never is.
    self._foretells = not (config.front.minutes or self._timed or config.front.cluster)

  def run(self, budgets: Sequence[float], families: Sequence[str], *, full: int = 0) -> None:
    """Fills a group for each budget and family, and races them.

    Args:
      budgets: Milliseconds, rising.
      families: Kinds of networks, see Group.
      full: Full trainings of the best of each group that follow, to foretell how long all takes.

    Raises:
      InputError: If there are too few patients for the folds, or no network is within the budgets
        and limits; the nearest is named.
    """
    began = time.monotonic()
    # Refused before any time is taken.
    self.folds = short_trainings.list_folds(self._config, self._workdir)
    self.field.fill(budgets, families, spread=self._timed)
    lengths = self._plan_lengths(began)
    if self._foretells:
      counts = self._count_trainings(len(lengths))
      logbook.say('race', f'{sum(counts)} trainings; the first one tells how long they take')
    for rung, length in enumerate(lengths, start=1):
      racing = [name for group in self.field.groups for name in group.names]
      counts = self._count_trainings(len(lengths) - rung + 1)
      later = [(count, one.epochs) for count, one in zip(counts[1:], lengths[rung:], strict=True)]
      later.append((full * len(self.field.groups), self._config.retrain.epochs))
      self._train(racing, rung, length, later)
      self._require_scores(racing)
      self._tell(rung, racing, length)
      self._end_rung(rung, length, is_last=rung == len(lengths))

  def finalists(self) -> dict[str, Scores]:
    """Returns the scores of those that reached the last rung, whose trainings are alike."""
    last = max(standing.rung for standing in self.standings.values())
    return {name: one.scores for name, one in self.standings.items() if one.rung == last}

  def places(self, name: str) -> list[Path]:
    """Returns the folders of a network's trainings in its last rung, one a fold."""
    return [self.standings[name].folder / _FOLD.format(fold) for fold in range(len(self.folds))]

  def _require_scores(self, racing: Sequence[str]) -> None:
    """Raises InputError if no network of a rung has a score."""
    scores = [self.standings[name].scores for name in racing]
    if {} in scores:
      raise InputError(
        f'{self.folder}: no mask of a validation patient shows a class, so that nothing can be '
        'judged; name others in data.validation_patients, or raise front.folds, and remove the '
        'folder'
      )
    if not any(scores):
      raise InputError(
        f'{self.folder}: the training of every network diverged; lower retrain.learning_rate, '
        f'which is {self._config.retrain.learning_rate:g}, and remove the folder'
      )

  def _end_rung(self, rung: int, length: Length, *, is_last: bool) -> None:
    """Ranks every group, lets some go on unless this was the last rung, and records both."""
    started = [(group, self._rank(group)) for group in self.field.groups]
    if not is_last:
      self._go_on(rung + 1, started)
    groups = [
      GroupOfRung(
        budget_ms=group.budget,
        family=group.family,
        limits_ms=group.limits,
        started=tuple(ranked),
        kept=tuple(one.name for one in ranked if one.name in group.names and not is_last),
        mutants={
          name: self.field.entrants[name].parent
          for name in group.names
          if name not in [one.name for one in ranked]
        },
      )
      for group, ranked in started
    ]
    self.rungs.append(RungOfRace(length.epochs, tuple(groups), length.minutes))

  def _rank(self, group: Group) -> list[Ranked]:
    """Returns the networks of a group with their scores in the rung, the best first."""
    scores = {name: self.standings[name].scores for name in group.names}
    return [
      Ranked(name, choice.mean(scores[name]) if scores[name] else None)
      for name in choice.rank(scores, self.field.ms())
    ]

  def _go_on(self, rung: int, started: Sequence[tuple[Group, list[Ranked]]]) -> None:
    """Keeps the better half of every group, and adds half as many mutations of its leaders."""
    for group, ranked in started:
      group.names = [one.name for one in choice.keep_half(ranked) if one.dsc is not None]
      if self.field.can_mutate(group):
        for leader in group.names[: len(group.names) // 2]:
          group.names += self.field.mutate(leader, group, rung)
    self.field.groups = [group for group in self.field.groups if group.names]

  def _plan_lengths(self, began: float) -> list[Length]:
    """Returns the length of a training in each rung, for the minutes if they are set.

    How much fits into minutes, of the race or of a training, networks of middling size tell.
    """
    front = self._config.front
    epoch_steps = short_trainings.count_epoch_steps(self._config, self._workdir)
    if not front.minutes and not self._timed:
      pace.require_none(self.folder)
      most = pace.longest(self._config)
      planned = pace.plan_epochs(front.steps / epoch_steps, rungs=front.rungs, most=most)
      return [*map(Length, planned)]
    names = [name for group in self.field.groups for name in group.names]
    trial = [
      self._job(name, self.folder / pace.FOLDER / name, Length(pace.EPOCHS), self.folds[0])
      for name in self._find_middling(names)
    ]
    found = pace.find(
      self._config,
      self.folder,
      trial,
      trainings=self._count_trainings(front.rungs),
      networks=names,
      epoch_steps=epoch_steps,
      began=began,
    )
    return [*map(found.find_length, found.epochs)]

  def _find_middling(self, names: Iterable[str]) -> list[str]:
    """Returns the networks whose trainings tell the pace, as many as train at a time.

    The seconds of a training grow faster than the milliseconds of its network, with their power of
    1.5 to 1.8 in two fronts, so they have about the root mean square of all milliseconds.
    """
    ms = {name: self.field.watch.best(name).ms for name in names}
    middle = float(np.sqrt(np.mean(np.square([*ms.values()]))))
    ranked = sorted(ms, key=lambda name: abs(ms[name] - middle))
    return ranked[: executors.count_slots(self._config)]

  def _count_trainings(self, rungs: int) -> list[int]:
    """Returns how many trainings each of so many rungs has, from the groups as they are on."""
    field = self.field
    sizes = [(len(group.names), field.can_mutate(group)) for group in field.groups]
    return pace.count_trainings(sizes, rungs=rungs, folds=len(self.folds))

  def _job(self, name: str, place: Path, length: Length, fold: Mapping[str, Any]) -> Job:
    """Returns the training of a network on a fold, in a folder."""
    settings = entrants.configure(self._config, self.field.entrants[name], self.field.path(name))
    settings.data.update(fold)
    short_trainings.set_length(settings, length)
    return Job.make(settings, self._workdir, place)

  def _train(
    self,
    racing: Sequence[str],
    rung: int,
    length: Length,
    later: Sequence[tuple[int, int]],
  ) -> None:
    """Trains every network of a rung on every fold, and reads their scores.

    `later` are the trainings after the rung, given as (how many, epochs of each).
    """
    places: dict[str, list[Path]] = {name: [] for name in racing}
    found = []
    # Fold by fold, as the program of a network serves all of its folds once it is compiled.
    for number, fold in enumerate(self.folds):
      for name in dict.fromkeys([*self._find_middling(racing), *racing]):
        place = self.folder / name / f'rung_{rung}' / _FOLD.format(number)
        found.append(self._job(name, place, length, fold))
        places[name].append(place)

    def foretell(job: Job, seconds: float, left: int) -> None:
      if self._foretells:
        at_a_time = executors.count_slots(self._config)
        pace.foretell(job, seconds, [(left, length.epochs), *later], at_a_time=at_a_time)

    jobs.run_all(self._config, found, f'rung {rung}', first_done=foretell)
    for name, of_folds in places.items():
      scores = short_trainings.read_scores(of_folds)
      self.standings[name] = Standing(rung, length, scores, of_folds[0].parent)

  def _tell(self, rung: int, racing: Sequence[str], length: Length) -> None:
    """Prints a line for a rung."""
    scores = {name: self.standings[name].scores for name in racing}
    best, *_ = choice.rank(scores, self.field.ms())
    folds = len(self.folds)
    logbook.say(
      f'rung {rung}',
      f'{len(racing)} networks, {logbook.format_length(*length)} on {folds} '
      f'fold{"s" * (folds > 1)}; best {best}, '
      f'{self.field.entrants[best].title}: {100 * choice.mean(scores[best]):.2f} % in '
      f'{self.field.watch.best(best).ms:.2f} ms',
    )
