"""The times of networks in a race: an estimate chooses whom to time, the stopwatch decides.

Every time is kept in costs.json of the race's folder and is never taken again, so that a race that
was stopped goes on with the same networks.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import records
from thrifty_jax.cost import costs, runtimes
from thrifty_jax.cost.candidates import of_config
from thrifty_jax.cost.costs import Cost
from thrifty_jax.errors import InputError
from thrifty_jax.networks import build, layers
from thrifty_jax.networks.model_spec import make_spec
from thrifty_jax.racing import entrants
from thrifty_jax.racing.entrants import Entrant

FILE = 'costs.json'
REPEATS = 15  # timed runs of each network
AT_ONCE = 12  # networks that take turns


@dataclasses.dataclass
class Stopwatch:
  """Times networks as section cost says, each once.

  Attributes:
    config: Settings of the run.
    folder: Folder of the race.
  """

  config: ConfigDict
  folder: Path

  def __post_init__(self) -> None:
    asked = self.config.cost
    self.size = asked.size or self.config.data.image_size
    self.ways = runtimes.choose(asked.runtime, asked.precision)
    self.given = bool(self.config.front.costs)
    self._costs: dict[str, list[Cost]] = {}
    self._macs: dict[str, int] = {}
    path = Path(self.config.front.costs) if self.given else self.folder / FILE
    if path.exists():
      self._read(path)
    if not self.given:
      runtimes.require_installed(self.ways)

  def best(self, name: str) -> Cost:
    """Returns the cost of a network that was timed, in the way that serves it best."""
    return min(self._costs[name], key=lambda cost: cost.ms)

  def has(self, name: str) -> bool:
    """Returns whether the network of this name was timed."""
    return name in self._costs

  def time(self, found: Iterable[Entrant]) -> None:
    """Times the networks that were not timed yet, some in turns, and keeps their costs.

    Raises:
      InputError: If the machine is too busy; those timed before are kept.
    """
    new = [one for one in found if not self.has(one.name)]
    if new and self.given:
      raise InputError(
        f'{self.config.front.costs}: has no time of {new[0].name}; time all of '
        f'{self.folder / "genotypes"} by python -m thrifty_jax.cost'
      )
    for first in range(0, len(new), AT_ONCE):
      some = new[first : first + AT_ONCE]
      candidates = [
        dataclasses.replace(of_config(self._configure(one), one.genotype), name=one.name)
        for one in some
      ]
      asked = self.config.cost
      measured = costs.measure(
        candidates,
        self.ways,
        threads=asked.threads,
        repeats=REPEATS,
        most_spread=asked.spread,
        activations=False,
      )
      for cost in measured:
        self._costs.setdefault(cost.name, []).append(cost)
      everything = [cost for of_one in self._costs.values() for cost in of_one]
      records.write(self.folder / FILE, everything)

  def allows(self, cost: Cost) -> bool:
    """Returns whether a cost is within the limits of parameters and multiplications."""
    search = self.config.search
    limits = (cost.macs, search.max_macs), (cost.parameters, search.max_parameters)
    return all(value <= most for value, most in limits if most)

  def macs(self, entrant: Entrant) -> int:
    """Returns the multiplications for a slice of the timed size."""
    if entrant.name not in self._macs:
      config = self._configure(entrant)
      statistics = {
        'mean': np.zeros(config.data.modalities),
        'std': np.ones(config.data.modalities),
      }
      spec = make_spec(config, statistics)
      network = build.build(spec, entrant.genotype)
      image = (self.size, self.size, spec.image_channels)
      self._macs[entrant.name] = layers.macs(network, image)
    return self._macs[entrant.name]

  def estimate(self, entrant: Entrant, timed: Iterable[str]) -> float:
    """Estimates milliseconds from multiplications, by a line through the logarithms of those timed.

    On drawn networks multiplications rank the times with a correlation of 0.7 to 0.95.
    """
    found = [self.best(name) for name in timed]
    macs, ms = (np.log([getattr(cost, field) for cost in found]) for field in ('macs', 'ms'))
    slope, start = np.polyfit(macs, ms, 1)
    return math.exp(start + slope * math.log(self.macs(entrant)))

  def _configure(self, entrant: Entrant) -> ConfigDict:
    return entrants.configure(self.config, entrant, Path())

  def _read(self, path: Path) -> None:
    """Reads times, which must be of the size, threads and a runtime that are asked for."""
    threads = self.config.cost.threads
    for cost in records.read(path, tuple[Cost, ...]):
      if (cost.size, cost.threads) != (self.size, threads):
        raise InputError(
          f'{path}: {cost.name} was timed on slices of {cost.size} x {cost.size} pixels and '
          f'{cost.threads} threads, and --config.cost asks for {self.size} x {self.size} and '
          f'{threads}; set cost.size and cost.threads to these, or name another file'
        )
      if (cost.runtime, cost.precision) in [(way.runtime, way.precision) for way in self.ways]:
        self._costs.setdefault(Path(cost.name).stem, []).append(cost)
    machines = sorted({cost.machine for of_one in self._costs.values() for cost in of_one})
    if not self._costs or len(machines) > 1:
      what = f'times of several machines: {"; ".join(machines)}' if machines else 'no time'
      raise InputError(
        f'{path}: has {what}; expected times of one machine in '
        f'{" or ".join(f"{way.runtime} {way.precision}" for way in self.ways)}; time the networks '
        'anew by python -m thrifty_jax.cost, or set cost.runtime and cost.precision'
      )


def within(cost: Cost, limits: Sequence[float]) -> bool:
  """Returns whether a time is above the first and not above the second of two, in ms."""
  low, high = limits
  return low < cost.ms <= high
