"""The field of a race: networks are drawn and timed until the group of each budget is full."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import logbook
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.racing import entrants, timing
from thrifty_jax.racing.entrants import Entrant
from thrifty_jax.racing.timing import Stopwatch

ROUNDS = 3  # of draws and times until a band of each group is full
DRAWS = 24  # networks drawn for each budget in a round
TWICE = 2  # networks timed for each that is missing, as estimates are off
SPREAD = 1.25  # factor by which an estimate may be off the limits of a group
NEAR = 0.6  # share of a budget above which a network is near it
FASTER = 0.3  # share of a budget above which faster ones are looked for
ANCHORS = 6  # networks of each kind that estimates start from
POOL = 40  # drawn networks, and at most so many U-Nets, that another machine is to time


@dataclasses.dataclass
class Group:
  """Networks that race against each other.

  Attributes:
    budget: Most milliseconds of them.
    floor: Milliseconds above which they take: the next smaller budget, 0 for the smallest.
    family: lean, unet or genotype.
    size: Most of them in the first rung.
    names: Those still in the race.
  """

  budget: float
  floor: float
  family: str
  size: int
  names: list[str] = dataclasses.field(default_factory=list)

  @property
  def limits(self) -> tuple[float, float]:
    """Milliseconds above which and up to which they take."""
    return self.floor, self.budget


class _Band(NamedTuple):
  """Milliseconds of which networks join a group until it has so many members."""

  group: Group
  limits: tuple[float, float]
  members: int

  @property
  def missing(self) -> int:
    return self.members - len(self.group.names)


class Field:
  """The networks of a race, by their times.

  Attributes:
    folder: Folder of the race, in which their times and genotypes are.
    entrants: All networks that were timed, by name.
    watch: Their times.
    groups: Groups with those that are still in the race.
  """

  def __init__(self, config: ConfigDict, folder: Path):
    self._config, self.folder = config, folder
    self._generator = np.random.default_rng((config.seed, 1))
    self.entrants: dict[str, Entrant] = {}
    self.watch = Stopwatch(config, folder)
    self.groups: list[Group] = []

  def fill(
    self, budgets: Sequence[float], families: Sequence[str], *, spread: bool = False
  ) -> None:
    """Finds the networks of every group, timed and within its limits.

    Args:
      budgets: Milliseconds, rising.
      families: Kinds of networks, see Group.
      spread: Whether half of the networks of a budget are to be faster ones, unless a smaller
        budget is at least FASTER of it.

    Raises:
      InputError: If no network is within the budgets and limits; the nearest is named.
    """
    given = entrants.list_given(self._config)
    most = self._config.front.entrants
    sizes = {'lean': most, 'unet': math.ceil(most / 2), 'genotype': len(given)}
    self.groups = _list_groups(budgets, {family: sizes[family] for family in families})
    known, unets = (
      [*filter(self._fits, entrants.leave_out(listed, given))]
      for listed in (entrants.list_known(), entrants.list_unets())
    )
    pool = entrants.draw(self._generator, [one.genotype for one in [*known, *unets, *given]])
    drawn = filter(self._fits, pool)
    if self.watch.given:
      some = unets[:: math.ceil(len(unets) / POOL) or 1]  # of every kind
      self._add([*known, *some, *given, *itertools.islice(drawn, POOL)])
    else:
      self._add([*known[:ANCHORS], *unets[:ANCHORS], *given])
    for bands in _list_bands(self.groups, spread=spread):
      lean = _lots(itertools.chain(known, drawn), DRAWS * len(budgets))
      self._draw(bands, {'lean': lean, 'unet': itertools.repeat(unets)})
    self.groups = [group for group in self.groups if group.names]
    if not self.groups:
      raise InputError(self._say_nearest(budgets[-1]))
    self._tell(budgets, given)

  def mutate(self, leader: str, group: Group, rung: int) -> list[str]:
    """Returns a mutation of a network, timed and not much faster; [] if none is found."""
    known = [one.genotype for one in self.entrants.values()]
    generator = np.random.default_rng((self._config.seed, rung, *leader.encode()))
    pool = entrants.mutate(self.entrants[leader], f'{leader}_{rung}', generator, known)
    low, high = max(group.floor, NEAR * self.watch.best(leader).ms), group.budget
    for one in itertools.islice(filter(self._fits, pool), DRAWS):
      if not self.watch.allows(self.watch.count(one)):
        continue
      if low / SPREAD < self._estimate(one) <= high * SPREAD:
        self._add([one])
        cost = self.watch.best(one.name)
        if timing.within(cost, (low, high)) and self.watch.allows(cost):
          return [one.name]
    return []

  def can_mutate(self, group: Group) -> bool:
    """Returns whether mutations of a group's networks can be timed and join it."""
    return group.family == 'lean' and not self.watch.given

  def ms(self) -> dict[str, float]:
    """Returns the milliseconds of every network."""
    return {name: self.watch.best(name).ms for name in self.entrants}

  def path(self, name: str) -> Path:
    """Returns the genotype file of a network."""
    return self.folder / 'genotypes' / f'{name}.json'

  def _fits(self, entrant: Entrant) -> bool:
    """Returns whether a lean network can halve the slices as often as it does."""
    assert isinstance(entrant.genotype, LeanShape)
    return 2**entrant.genotype.halvings <= min(self.watch.size, self._config.data.image_size)

  def _draw(self, bands: Sequence[_Band], pools: Mapping[str, Iterator[Sequence[Entrant]]]) -> None:
    """Fills bands, from the next networks of the pool of a family at a time."""
    for _ in range(0 if self.watch.given else ROUNDS):
      for band in bands:
        self._take(band)
      for family, pool in pools.items():
        short = [one for one in bands if one.group.family == family and one.missing > 0]
        if short:
          self._add(self._promising(next(pool, ()), short))
    for band in bands:
      self._take(band)

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

  def _promising(self, drawn: Sequence[Entrant], bands: Sequence[_Band]) -> list[Entrant]:
    """Returns the drawn networks that may be missing in a band, by their estimates."""
    found = []
    missing = [TWICE * band.missing for band in bands]
    for one in drawn:
      if one.name in self.entrants or not self.watch.allows(self.watch.count(one)):
        continue
      estimate = self._estimate(one)
      for place, band in enumerate(bands):
        low, high = band.limits
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

  def _take(self, band: _Band) -> None:
    """Adds to a group its timed networks of a band, until it has the members it is to have."""
    group = band.group
    for name, one in self.entrants.items():
      if band.missing <= 0:
        return
      if name not in group.names and _family(one) == group.family:
        cost = self.watch.best(name)
        allowed = self.watch.allows(cost, given=one.source == 'genotype')
        if timing.within(cost, band.limits) and allowed:
          group.names.append(name)

  def _tell(self, budgets: Sequence[float], given: Iterable[Entrant]) -> None:
    """Prints budgets without a network, limits, the given networks left out, and each group."""
    ms = self.ms()
    least = min(ms.values())
    for budget in budgets:
      if budget < least:
        logbook.say(
          'budget', f'{budget:g} ms: no network is as fast; the fastest takes {least:.2f}'
        )
    for name, most in self._limits().items():
      logbook.say('limit', f'config.search.{name}: networks have at most {most:,}; 0 lifts it')
    racing = {name for group in self.groups for name in group.names}
    for name in [one.name for one in given if one.name in ms and one.name not in racing]:
      cost = self.watch.best(name)
      logbook.say(
        'left out',
        f'{name}, of {cost.ms:.2f} ms, {cost.parameters:,} parameters and {cost.macs:,} '
        'multiplications, is not within a budget and the limits',
      )
    for group in self.groups:
      count, times = len(group.names), [ms[name] for name in group.names]
      networks = f'{count} network{"s" * (count > 1)}'
      logbook.say(
        group.family,
        f'{networks} of {min(times):.2f} to {max(times):.2f} ms, for {group.budget:g} ms',
      )

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


def _lots(found: Iterable[Entrant], size: int) -> Iterator[list[Entrant]]:
  """Yields networks, so many at a time."""
  rest = iter(found)
  while lot := [*itertools.islice(rest, size)]:
    yield lot


def _list_groups(budgets: Sequence[float], sizes: Mapping[str, int]) -> list[Group]:
  """Returns a group, still empty, for each budget and family, of at most so many networks."""
  floors = [0.0, *budgets[:-1]]
  return [
    Group(budget=budget, floor=floor, family=family, size=size)
    for floor, budget in zip(floors, budgets, strict=True)
    for family, size in sizes.items()
  ]


def _list_bands(groups: Sequence[Group], *, spread: bool) -> list[list[_Band]]:
  """Returns what fills the groups, one after the other: near the budget, faster ones, then any.

  With `spread` half of the members may be faster ones, unless a smaller budget is at least FASTER
  of theirs.
  """
  near, faster = [], []
  for group in groups:
    split, lowest = max(group.floor, NEAR * group.budget), FASTER * group.budget
    has_faster = spread and group.floor < lowest
    members = math.ceil(group.size / 2) if has_faster else group.size
    near.append(_Band(group, (split, group.budget), members))
    if has_faster:
      faster.append(_Band(group, (lowest, split), group.size))
  return [near, faster, [_Band(group, group.limits, group.size) for group in groups]]


def _family(entrant: Entrant) -> str:
  """Returns the kind of group that a network races in."""
  return entrant.source if entrant.source in ('unet', 'genotype') else 'lean'
