"""The race: networks are timed, trained in rungs, and the better half of each group goes on.

Nothing of a race is kept but its files: times, genotypes and trainings. A race that was stopped is
run again from the start with the same random numbers, and finds everything done up to where it was.
"""

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import logbook
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.racing import choice, entrants, executors, jobs, pace, short_trainings, timing
from thrifty_jax.racing.choice import Scores
from thrifty_jax.racing.entrants import Entrant
from thrifty_jax.racing.jobs import Job
from thrifty_jax.racing.timing import Stopwatch
from thrifty_jax.run_files import GroupOfRung, Ranked, RungOfRace

ROUNDS = 3  # of draws and times until each group is full, near its budget and then below
DRAWS = 24  # networks drawn for each group in a round
TWICE = 2  # networks timed for each that is missing, as estimates are off
SPREAD = 1.25  # factor by which an estimate may be off the limits of a group
LOWEST = 0.6  # share of a budget that its networks take at least, if there are enough
ANCHORS = 6  # networks of each kind that estimates start from
_FOLD = 'fold_{}'  # folder of a training in that of its rung
POOL = 40  # drawn networks, and U-Nets, that another machine is to time, besides the known ones


@dataclasses.dataclass
class Group:
  """Networks that race against each other.

  Attributes:
    budget: Most milliseconds of them.
    floor: Milliseconds of the next smaller budget, 0 for the smallest.
    limits: Milliseconds above which and up to which they take: near the budget, or from the floor
      on if too few are near.
    family: lean, unet or genotype.
    size: Most of them in the first rung.
    names: Those still in the race.
  """

  budget: float
  floor: float
  limits: tuple[float, float]
  family: str
  size: int
  names: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Standing:
  """How far a network came.

  Attributes:
    rung: Number of its last rung, from 1.
    epochs: Epochs of its trainings in that rung.
    scores: DSC of the validation patients of all folds; None if a training diverged.
    folder: Folder of these trainings.
  """

  rung: int
  epochs: int
  scores: Scores
  folder: Path


class Race:
  """A race in a folder.

  Attributes:
    folder: The folder.
    entrants: All networks that were timed, by name.
    watch: Their times.
    standings: Standing of each network that was trained, by name.
    groups: The groups with those that reached the last rung.
    folds: Patients of each fold, by the names of their settings.
    rungs: What happened in each rung.
  """

  def __init__(self, config: ConfigDict, workdir: Path, folder: Path):
    self._config, self._workdir, self.folder = config, workdir, folder
    self._generator = np.random.default_rng((config.seed, 1))
    self.entrants: dict[str, Entrant] = {}
    self.watch = Stopwatch(config, folder)
    self.standings: dict[str, Standing] = {}
    self.groups: list[Group] = []
    self.folds: list[dict[str, tuple[str, ...]]] = []
    self.rungs: list[RungOfRace] = []
    # The minutes are known already where they are set, and a cluster's pace never is.
    self._foretells = not config.front.minutes and not config.front.cluster

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
    self.folds = folds = short_trainings.list_folds(self._config, self._workdir)
    self._fill(budgets, families)
    epochs = self._plan_epochs(folds, began)
    if self._foretells:
      counts = self._count_trainings(len(epochs), len(folds))
      logbook.say('race', f'{sum(counts)} trainings; the first one tells how long they take')
    for rung in range(1, len(epochs) + 1):
      racing = [name for group in self.groups for name in group.names]
      counts = self._count_trainings(len(epochs) - rung + 1, len(folds))
      later = [*zip(counts[1:], epochs[rung:], strict=True)]
      later.append((full * len(self.groups), self._config.retrain.epochs))
      self._train(racing, rung, epochs[rung - 1], folds, later)
      if not any(self.standings[name].scores for name in racing):
        raise InputError(
          f'{self.folder}: the training of every network diverged; lower retrain.learning_rate, '
          f'which is {self._config.retrain.learning_rate:g}, and remove the folder'
        )
      self._tell(rung, racing, epochs[rung - 1], len(folds))
      self._end_rung(rung, epochs)

  def ms(self) -> dict[str, float]:
    """Returns the milliseconds of every network."""
    return {name: self.watch.best(name).ms for name in self.entrants}

  def finalists(self) -> dict[str, Scores]:
    """Returns the scores of those that reached the last rung, whose trainings are alike."""
    last = max(standing.rung for standing in self.standings.values())
    return {name: one.scores for name, one in self.standings.items() if one.rung == last}

  def path(self, name: str) -> Path:
    """Returns the genotype file of a network."""
    return self.folder / 'genotypes' / f'{name}.json'

  def places(self, name: str) -> list[Path]:
    """Returns the folders of a network's trainings in its last rung, one a fold."""
    return [self.standings[name].folder / _FOLD.format(fold) for fold in range(len(self.folds))]

  def _fill(self, budgets: Sequence[float], families: Sequence[str]) -> None:
    """Finds the networks of every group, timed and within its limits."""
    floors = [0.0, *budgets[:-1]]
    most = self._config.front.entrants
    self.groups = [
      Group(
        budget=budget,
        floor=floor,
        limits=(max(floor, LOWEST * budget), budget),
        family=family,
        size=most if family == 'lean' else (most + 1) // 2,
      )
      for floor, budget in zip(floors, budgets, strict=True)
      for family in families
    ]
    given = entrants.list_given(self._config)
    known, unets = (
      [*filter(self._fits, entrants.leave_out(listed, given))]
      for listed in (entrants.list_known(), entrants.list_unets())
    )
    pool = entrants.draw(self._generator, [one.genotype for one in [*known, *unets, *given]])
    drawn = filter(self._fits, pool)
    if self.watch.given:
      self._add([*known, *unets[:POOL], *given, *itertools.islice(drawn, POOL)])
    else:
      self._add([*known[:ANCHORS], *unets[:ANCHORS], *given])
    for near in (True, False):
      for group in self.groups:
        if not near and len(group.names) < group.size:
          group.limits = group.floor, group.budget
      pools = (
        {} if self.watch.given else {'lean': itertools.chain(known, drawn), 'unet': iter(unets)}
      )
      self._draw(pools, DRAWS * len(budgets))
    self.groups = [group for group in self.groups if group.names]
    if not self.groups:
      raise InputError(self._say_nearest(budgets[-1]))
    least = min(self.ms().values())
    for budget in budgets:
      if budget < least:
        logbook.say(
          'budget', f'{budget:g} ms: no network is as fast; the fastest takes {least:.2f}'
        )
    for name, most in self._limits().items():
      logbook.say('limit', f'config.search.{name}: networks have at most {most:,}; 0 lifts it')
    for group in self.groups:
      (low, high), count = group.limits, len(group.names)
      networks = f'{count} network{"s" * (count > 1)}'
      logbook.say(group.family, f'{networks} of {low:g} to {high:g} ms')

  def _fits(self, entrant: Entrant) -> bool:
    """Returns whether a lean network can halve the slices as often as it does."""
    assert isinstance(entrant.genotype, LeanShape)
    return 2**entrant.genotype.halvings <= min(self.watch.size, self._config.data.image_size)

  def _draw(self, pools: Mapping[str, Iterator[Entrant]], count: int) -> None:
    """Fills the groups, from so many networks of the pool of a family at a time."""
    for _ in range(ROUNDS):
      for group in self.groups:
        self._take(group)
      short = [group for group in self.groups if len(group.names) < group.size]
      for family in {group.family: None for group in short if group.family in pools}:
        drawn = [*itertools.islice(pools[family], count)]
        self._add(self._promising(drawn, [one for one in short if one.family == family]))
    for group in self.groups:
      self._take(group)

  def _add(self, found: Iterable[Entrant]) -> None:
    """Adds networks, writes their genotypes and times them."""
    new = [one for one in found if one.name not in self.entrants]
    for one in new:
      path = self.path(one.name)
      if not path.exists():
        entrants.save(path, one, self._config)
      elif genotypes.load_any(path) != one.genotype:
        raise InputError(
          f'{path}: is another network than {one.title}, which this race draws; it began by '
          f'another version of the program: remove {self.folder}'
        )
    if self.watch.given:
      new = self.watch.accept_given(new)
    self.watch.time(new)
    self.entrants |= {one.name: one for one in new}

  def _promising(self, drawn: Sequence[Entrant], groups: Sequence[Group]) -> list[Entrant]:
    """Returns the drawn networks that may be missing in a group, by their estimates."""
    found = []
    missing = [TWICE * (group.size - len(group.names)) for group in groups]
    for one in drawn:
      if one.name in self.entrants or not self.watch.allows(self.watch.count(one)):
        continue
      estimate = self._estimate(one)
      for place, group in enumerate(groups):
        low, high = group.limits
        if missing[place] > 0 and low / SPREAD < estimate <= high * SPREAD:
          missing[place] -= 1
          found.append(one)
          break
    return found

  def _estimate(self, entrant: Entrant) -> float:
    """Estimates the milliseconds of a network from those of its family, or of all if few."""
    family = _family(entrant)
    alike = [name for name, one in self.entrants.items() if _family(one) == family]
    return self.watch.estimate(entrant, alike if len(alike) >= ANCHORS else self.entrants)

  def _take(self, group: Group) -> None:
    """Adds to a group the timed networks that belong to it, until it is full."""
    for name, one in self.entrants.items():
      if len(group.names) == group.size:
        return
      if name not in group.names and _family(one) == group.family:
        cost = self.watch.best(name)
        allowed = self.watch.allows(cost, given=one.source == 'genotype')
        if timing.within(cost, group.limits) and allowed:
          group.names.append(name)

  def _limits(self) -> dict[str, int]:
    """Returns the limits besides the milliseconds that are set, by the names of their settings."""
    search = self._config.search
    return {name: search[name] for name in ('max_parameters', 'max_macs') if search[name]}

  def _say_nearest(self, budget: float) -> str:
    """Says which limit nothing meets and what the nearest network needs."""
    found = [self.watch.best(name) for name in self.entrants]
    limits = self._limits()
    asked = [f'{budget:g} ms', *(f'{name} {most:,}' for name, most in limits.items())]

    def excess(cost: timing.Cost) -> float:
      over = [cost.ms / budget]
      over += [getattr(cost, name.removeprefix('max_')) / most for name, most in limits.items()]
      return max(over)

    nearest = min(found, key=excess)
    return (
      f'no network is within {" and ".join(asked)} for a slice of {nearest.size} x {nearest.size} '
      f'pixels in {nearest.runtime} {nearest.precision}; the nearest, {nearest.title}, takes '
      f'{nearest.ms:.2f} ms, {nearest.parameters:,} parameters and {nearest.macs:,} '
      'multiplications; allow as much, or lower config.cost.size'
    )

  def _end_rung(self, rung: int, epochs: Sequence[int]) -> None:
    """Ranks every group, lets some go on unless this was the last rung, and records both."""
    started = [(group, self._rank(group)) for group in self.groups]
    is_last = rung == len(epochs)
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
          name: self.entrants[name].parent
          for name in group.names
          if name not in [one.name for one in ranked]
        },
      )
      for group, ranked in started
    ]
    self.rungs.append(RungOfRace(epochs[rung - 1], tuple(groups)))

  def _rank(self, group: Group) -> list[Ranked]:
    """Returns the networks of a group with their scores in the rung, the best first."""
    scores = {name: self.standings[name].scores for name in group.names}
    return [
      Ranked(name, choice.mean(scores[name]) if scores[name] else None)
      for name in choice.rank(scores, self.ms())
    ]

  def _go_on(self, rung: int, started: Sequence[tuple[Group, list[Ranked]]]) -> None:
    """Keeps the better half of every group, and adds half as many mutations of its leaders."""
    for group, ranked in started:
      group.names = [one.name for one in choice.keep_half(ranked) if one.dsc is not None]
      if group.family == 'lean' and not self.watch.given:
        for leader in group.names[: len(group.names) // 2]:
          group.names += self._mutate(leader, group, rung)
    self.groups = [group for group in self.groups if group.names]

  def _mutate(self, leader: str, group: Group, rung: int) -> list[str]:
    """Returns a mutation of a network that belongs to its group, [] if none is found."""
    known = [one.genotype for one in self.entrants.values()]
    generator = np.random.default_rng((self._config.seed, rung, *leader.encode()))
    pool = entrants.mutate(self.entrants[leader], f'{leader}_{rung}', generator, known)
    low, high = group.limits
    for one in itertools.islice(filter(self._fits, pool), DRAWS):
      if not self.watch.allows(self.watch.count(one)):
        continue
      if low / SPREAD < self._estimate(one) <= high * SPREAD:
        self._add([one])
        cost = self.watch.best(one.name)
        if timing.within(cost, group.limits) and self.watch.allows(cost):
          return [one.name]
    return []

  def _plan_epochs(self, folds: Sequence[dict], began: float) -> tuple[int, ...]:
    """Returns the epochs of each rung: for the steps, or for the minutes if they are set.

    How much fits into the minutes is told by trainings of networks of middling size.
    """
    front = self._config.front
    epoch_steps = short_trainings.count_epoch_steps(self._config, self._workdir)
    if not front.minutes:
      most = pace.longest(self._config)
      return pace.plan_epochs(front.steps / epoch_steps, rungs=front.rungs, most=most)
    names = [name for group in self.groups for name in group.names]
    trial = [
      self._job(name, self.folder / pace.FOLDER / name, pace.EPOCHS, folds[0])
      for name in self._find_middling(names)
    ]
    found = pace.find(
      self._config,
      self.folder,
      trial,
      trainings=self._count_trainings(front.rungs, len(folds)),
      epoch_steps=epoch_steps,
      began=began,
    )
    return found.epochs

  def _find_middling(self, names: Iterable[str]) -> list[str]:
    """Returns the networks whose trainings tell the pace, as many as train at a time.

    The seconds of a training grow faster than the milliseconds of its network, with their power of
    1.5 to 1.8 in two fronts, so they have about the root mean square of all milliseconds.
    """
    ms = {name: self.watch.best(name).ms for name in names}
    middle = float(np.sqrt(np.mean(np.square([*ms.values()]))))
    ranked = sorted(ms, key=lambda name: abs(ms[name] - middle))
    return ranked[: executors.count_slots(self._config)]

  def _count_trainings(self, rungs: int, folds: int) -> list[int]:
    """Returns how many trainings each of so many rungs has, from the groups as they are on."""
    sizes = [
      (len(group.names), group.family == 'lean' and not self.watch.given) for group in self.groups
    ]
    return pace.count_trainings(sizes, rungs=rungs, folds=folds)

  def _job(self, name: str, place: Path, epochs: int, fold: Mapping[str, Any]) -> Job:
    """Returns the training of a network on a fold, in a folder."""
    settings = entrants.configure(self._config, self.entrants[name], self.path(name))
    settings.data.update(fold)
    short_trainings.set_epochs(settings, epochs)
    return Job.make(settings, self._workdir, place)

  def _train(
    self,
    racing: Sequence[str],
    rung: int,
    epochs: int,
    folds: Sequence[dict],
    later: Sequence[tuple[int, int]],
  ) -> None:
    """Trains every network of a rung on every fold, and reads their scores.

    `later` are the trainings after the rung, given as (how many, epochs of each).
    """
    places: dict[str, list[Path]] = {name: [] for name in racing}
    found = []
    # Fold by fold, as the program of a network serves all of its folds once it is compiled.
    for number, fold in enumerate(folds):
      for name in dict.fromkeys([*self._find_middling(racing), *racing]):
        place = self.folder / name / f'rung_{rung}' / _FOLD.format(number)
        found.append(self._job(name, place, epochs, fold))
        places[name].append(place)

    def foretell(job: Job, seconds: float, left: int) -> None:
      if self._foretells:
        at_a_time = executors.count_slots(self._config)
        pace.foretell(job, seconds, [(left, epochs), *later], at_a_time=at_a_time)

    jobs.run_all(self._config, found, f'rung {rung}', first_done=foretell)
    for name, of_folds in places.items():
      scores = short_trainings.read_scores(of_folds)
      self.standings[name] = Standing(rung, epochs, scores, of_folds[0].parent)

  def _tell(self, rung: int, racing: Sequence[str], epochs: int, folds: int) -> None:
    """Prints a line for a rung."""
    scores = {name: self.standings[name].scores for name in racing}
    best, *_ = choice.rank(scores, self.ms())
    logbook.say(
      f'rung {rung}',
      f'{len(racing)} networks, {epochs} epoch{"s" * (epochs > 1)} on {folds} '
      f'fold{"s" * (folds > 1)}; best {best}, '
      f'{self.entrants[best].title}: {100 * choice.mean(scores[best]):.2f} % in '
      f'{self.watch.best(best).ms:.2f} ms',
    )


def _family(entrant: Entrant) -> str:
  """Returns the kind of group that a network races in."""
  return entrant.source if entrant.source in ('unet', 'genotype') else 'lean'
