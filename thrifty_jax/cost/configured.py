"""Times the networks of configs, with random weights, as their section cost says.

Ways to run them whose packages are not installed are left out, and a line says so. The spread of
the times has no limit, but is kept.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from thrifty_jax import logbook, records
from thrifty_jax.cost import candidates, costs, runtimes
from thrifty_jax.cost.costs import Candidate, Cost
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.run_files import Timed

REPEATS = 10  # so that a description takes seconds


def measure(
  config: ConfigDict, genotype: Genotype | LeanShape | None
) -> tuple[list[dict[str, Any]], list[str]]:
  """Measures the configured network, for the stage that describes it.

  Args:
    config: Settings of the run.
    genotype: Genotype of the network, None for a baseline.

  Returns:
    The costs as JSON has them, the fastest first; and a line for each and for what is not timed.
  """
  found, absent = _measure([candidates.of_config(config.model.name, config, genotype)], config.cost)
  return [records.to_json(cost) for cost in found], [*map(_line, found), *absent]


def time_in_turns(
  networks: Mapping[str, tuple[ConfigDict, Genotype | LeanShape | None]],
) -> dict[str, Timed]:
  """Times networks, in turns, and returns the time of each in its fastest way, by name.

  Args:
    networks: Settings and genotype of each, see `measure`; they have the same section cost.

  Returns:
    The times; {} if no runtime is installed.
  """
  found, absent = _measure(
    [candidates.of_config(name, config, genotype) for name, (config, genotype) in networks.items()],
    next(iter(networks.values()))[0].cost,
  )
  for line in absent:
    logbook.say('cost', line)
  fields = [field.name for field in dataclasses.fields(Timed)]
  return {  # the fastest of each is the last that is set
    cost.name: Timed(**{field: getattr(cost, field) for field in fields})
    for cost in reversed(found)
  }


def is_asked(timed: Timed, config: ConfigDict) -> bool:
  """Returns whether a time was taken as the section cost of a config says."""
  asked = config.cost
  ways = runtimes.choose(asked.runtime, asked.precision)
  return (timed.size, timed.threads) == (asked.size or config.data.image_size, asked.threads) and (
    runtimes.Way(timed.runtime, timed.precision) in ways
  )


def _measure(found: Sequence[Candidate], asked: ConfigDict) -> tuple[list[Cost], list[str]]:
  """Measures networks in the ways that are installed; and lines about those that are not."""
  ways = runtimes.choose(asked.runtime, asked.precision)
  there = [way for way in ways if not way.missing]
  absent = dict.fromkeys(
    f'not measured in {way.runtime}: not installed: {", ".join(name for name, _ in way.missing)}'
    for way in ways
    if way.missing
  )
  if not there:
    return [], [*absent]
  # XLA's plan of the memory is part of a description already.
  measured = costs.measure(
    found,
    there,
    threads=asked.threads,
    repeats=REPEATS,
    most_spread=math.inf,
    activations=False,
  )
  return measured, [*absent]


def _line(cost: Cost) -> str:
  """Describes a cost: `12.30 ms in onnxruntime float32, 256 x 256 pixels, 1 thread, ...`."""
  threads = f'{cost.threads} thread{"s" * (cost.threads > 1)}'
  return (
    f'{cost.ms:.2f} ms in {cost.runtime} {cost.precision}, a slice of {cost.size} x {cost.size} '
    f'pixels, {threads}, spread {100 * cost.ms_spread:.0f} %, {cost.machine.partition(",")[0]}'
  )
