"""Times the network of a config, for the stage that describes it."""

import math
from typing import Any

from ml_collections import ConfigDict

from thrifty_jax import records
from thrifty_jax.cost import candidates, costs, runtimes
from thrifty_jax.cost.costs import Cost
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.lean_space import LeanShape

REPEATS = 10  # so that a description takes seconds


def measure(
  config: ConfigDict, genotype: Genotype | LeanShape | None
) -> tuple[list[dict[str, Any]], list[str]]:
  """Measures the configured network, with random weights, as config.cost says.

  Ways to run it whose packages are not installed are left out, and a line says so. The spread has
  no limit, but is printed.

  Args:
    config: Settings of the run.
    genotype: Genotype of the network, None for a baseline.

  Returns:
    The costs as JSON has them, the fastest first; and a line for each and for what is not timed.
  """
  asked = config.cost
  ways = runtimes.choose(asked.runtime, asked.precision)
  there = [way for way in ways if not way.missing]
  absent = dict.fromkeys(
    f'not measured in {way.runtime}: not installed: {", ".join(name for name, _ in way.missing)}'
    for way in ways
    if way.missing
  )
  found: list[Cost] = []
  if there:
    # XLA's plan of the memory is part of the description already.
    found = costs.measure(
      [candidates.of_config(config, genotype)],
      there,
      threads=asked.threads,
      repeats=REPEATS,
      most_spread=math.inf,
      activations=False,
    )
  return [records.to_json(cost) for cost in found], [*map(_line, found), *absent]


def _line(cost: Cost) -> str:
  """Describes a cost: `12.30 ms in onnxruntime float32, 256 x 256 pixels, 1 thread, ...`."""
  threads = f'{cost.threads} thread{"s" * (cost.threads > 1)}'
  return (
    f'{cost.ms:.2f} ms in {cost.runtime} {cost.precision}, a slice of {cost.size} x {cost.size} '
    f'pixels, {threads}, spread {100 * cost.ms_spread:.0f} %, {cost.machine.partition(",")[0]}'
  )
