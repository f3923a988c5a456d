"""The times of networks in a race: an estimate chooses whom to time, the stopwatch decides.

Every time is kept in costs.json of the race's folder and is never taken again, so that a race that
was stopped goes on with the same networks.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import logbook, records
from thrifty_jax.cost import costs, machine, runtimes
from thrifty_jax.cost.candidates import of_config
from thrifty_jax.cost.costs import Cost
from thrifty_jax.errors import InputError
from thrifty_jax.networks import build, layers
from thrifty_jax.networks.model_spec import make_untrained_spec
from thrifty_jax.racing import entrants
from thrifty_jax.racing.entrants import Entrant
from thrifty_jax.run_files import COSTS

REPEATS = 15  # timed runs of each network
AT_ONCE = 12  # networks that take turns
LARGEST = 8_000_000  # parameters unless limited, about U-Net's; far larger ones take days to train


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
    self._path = Path(self.config.front.costs) if self.given else self.folder / COSTS
    self._costs: dict[str, list[Cost]] = {}
    self._counts: dict[str, layers.Counts] = {}
    if self._path.exists():
      self._read()
    in_8_bits = any(way.precision == 'int8' for way in self.ways)
    # What was timed elsewhere is scored here in 8 bits, once it is trained.
    scored = (runtimes.IN_8_BITS,) if in_8_bits else ()
    runtimes.require_installed(scored if self.given else self.ways)

  def best(self, name: str) -> Cost:
    """Returns the cost of a network that was timed, in the way that serves it best."""
    return min(self._costs[name], key=lambda cost: cost.ms)

  def has(self, name: str) -> bool:
    """Returns whether the network of this name was timed."""
    return name in self._costs

  def time(self, found: Iterable[Entrant]) -> None:
    """Times the networks that were not timed yet, some in turns, and keeps their costs.

    Raises:
      InputError: If the machine is too busy, or another one than before; those timed before are
        kept.
    """
    new = [one for one in found if not self.has(one.name)]
    timed_on = {cost.machine for of_one in self._costs.values() for cost in of_one}
    if new and timed_on - {machine.describe()}:
      raise InputError(
        f'{self._path}: has times of {timed_on.pop()}, and this machine is {machine.describe()}; '
        f'go on there, or remove {self.folder} to time all networks here'
      )
    for first in range(0, len(new), AT_ONCE):
      some = new[first : first + AT_ONCE]
      candidates = [of_config(one.name, self._configure(one), one.genotype) for one in some]
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
      records.write(self._path, everything)

  def accept_given(self, pool: Sequence[Entrant]) -> list[Entrant]:
    """Returns the networks that the file of another machine has times of.

    Raises:
      InputError: If the file is not there yet or has none of them, with the command that times
        them; or if it has the time of another network under the same name.
    """
    asked, found = self.config.cost, [one for one in pool if self.has(one.name)]
    command = (
      f'python -m thrifty_jax.cost --genotypes=genotypes --size={self.size} '
      f'--runtime={asked.runtime} --precision={asked.precision} --threads={asked.threads} '
      f'--output={self._path.name}'
    )
    if not found:
      what = 'has no time of them' if self._path.exists() else 'is not there yet'
      raise InputError(
        f'{self.folder / "genotypes"} has {len(pool)} networks, and {self._path} {what}: copy the '
        f'folder to the other machine, time them there by {command}; copy the file here, and start '
        'again with the same command'
      )
    for one in found:
      if (macs := self.best(one.name).macs) != self.count(one).macs:
        raise InputError(
          f'{self._path}: {one.name} was timed with {macs:,} multiplications, and has '
          f'{self.count(one).macs:,} here; time the files of this race by {command}'
        )
    logbook.say('times', f'of {self.best(found[0].name).machine}, in {self._path}')
    if len(found) < len(pool):
      logbook.say('not timed', f'{len(pool) - len(found)} of {len(pool)}, which take no part')
    return found

  def allows(self, found: Cost | layers.Counts, *, given: bool = False) -> bool:
    """Returns whether a network, perhaps given, is within the limits of parameters and MACs."""
    search = self.config.search
    largest = search.max_parameters or (0 if given else LARGEST)
    limits = (found.macs, search.max_macs), (found.parameters, largest)
    return all(value <= most for value, most in limits if most)

  def count(self, entrant: Entrant) -> layers.Counts:
    """Counts parameters, and multiplications for a slice of the timed size."""
    if entrant.name not in self._counts:
      spec = make_untrained_spec(self._configure(entrant))
      network = build.build(spec, entrant.genotype)
      image = (self.size, self.size, spec.image_channels)
      self._counts[entrant.name] = layers.count(network, image)
    return self._counts[entrant.name]

  def estimate(self, entrant: Entrant, timed: Iterable[str]) -> float:
    """Estimates milliseconds from multiplications, by a line through the logarithms of those timed.

    On drawn networks multiplications rank the times with a correlation of 0.7 to 0.95.
    """
    found = [self.best(name) for name in timed]
    macs, ms = (np.log([getattr(cost, field) for cost in found]) for field in ('macs', 'ms'))
    slope, start = np.polyfit(macs, ms, 1)
    return math.exp(start + slope * math.log(self.count(entrant).macs))

  def _configure(self, entrant: Entrant) -> ConfigDict:
    return entrants.configure(self.config, entrant, Path())

  def _read(self) -> None:
    """Reads times, which must be of one machine, and of the size, threads and ways asked for."""
    path, threads = self._path, self.config.cost.threads
    kept = records.read(path, tuple[Cost, ...])
    if self.config.cost.runtime == runtimes.INSTALLED:
      # What was installed counts, when the race began or on the other machine.
      timed = {(cost.runtime, cost.precision) for cost in kept}
      both = [
        way
        for runtime in ('onnxruntime', 'openvino')
        for way in runtimes.choose(runtime, self.config.cost.precision)
      ]
      found = tuple(way for way in both if (way.runtime, way.precision) in timed)
      self.ways = found or self.ways
    ways = sorted((way.runtime, way.precision) for way in self.ways)
    for cost in kept:
      if (cost.size, cost.threads) != (self.size, threads):
        raise InputError(
          f'{path}: {cost.name} was timed on slices of {cost.size} x {cost.size} pixels and '
          f'{cost.threads} threads, and --config.cost asks for {self.size} x {self.size} and '
          f'{threads}; set cost.size and cost.threads to these, or name another file'
        )
      if cost.ms <= 0 or cost.macs <= 0:
        raise InputError(
          f'{path}: {cost.name} has {cost.ms:g} ms and {cost.macs} multiplications; expected more '
          'than 0: time it again'
        )
      # The other machine may have written a path of Windows, whose class reads both kinds.
      name = PureWindowsPath(cost.name).name.removesuffix('.json')
      if (cost.runtime, cost.precision) in ways:
        self._costs.setdefault(name, []).append(cost)
      else:
        self._costs.setdefault(name, [])
    for name, of_one in self._costs.items():
      if sorted((cost.runtime, cost.precision) for cost in of_one) != ways:
        asked = ' and '.join(' '.join(way) for way in ways)
        raise InputError(
          f'{path}: expected {asked} of {name}, each once; set cost.runtime and cost.precision to '
          'what was timed, or time all networks in both'
        )
    machines = sorted({cost.machine for of_one in self._costs.values() for cost in of_one})
    if len(machines) > 1:
      raise InputError(
        f'{path}: has times of several machines: {"; ".join(machines)}; expected those of one: '
        'time all networks on it'
      )


def within(cost: Cost, limits: Sequence[float]) -> bool:
  """Returns whether a time is above the first and not above the second of two, in ms."""
  low, high = limits
  return low < cost.ms <= high
