"""Times networks drawn from the lean space, in every runtime and precision, against their MACs.

    taskset -c 1 python -m benchmarks.lean_space --networks=60 --output=drawn.json

Each drawn network has random weights and is timed on one thread, all its runtimes in turns. The
last lines have how well multiplications rank the times, what 8 bits gain by kind of block, and how
many networks are faster than a limit. Networks with more than --most_macs are drawn again, as they
are of no use here.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import measure
from thrifty_jax import config as configs
from thrifty_jax import records
from thrifty_jax.cost import costs, runtimes
from thrifty_jax.networks import layers, lean_space
from thrifty_jax.networks.lean_space import BLOCKS, LeanShape
from thrifty_jax.networks.model_spec import ModelSpec, make_untrained_spec
from thrifty_jax.running import command_line


@dataclasses.dataclass(frozen=True)
class Drawn:
  """A drawn network and its costs by 'runtime precision'."""

  shape: LeanShape
  costs: dict[str, costs.Cost]

  @property
  def block(self) -> str:
    """Kind of the blocks of the highest level, which take most of the time."""
    return self.shape.levels[0].block

  @property
  def macs(self) -> int:
    """Multiplications to predict a slice."""
    return next(iter(self.costs.values())).macs


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = measure.parser(__doc__)
  parser.add_argument('--networks', type=int, default=60)
  parser.add_argument('--size', type=int, default=256, help='of the square slices')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--most_macs', type=float, default=4e9)
  parser.add_argument('--spread', type=float, default=1.0, help='largest of a network')
  parser.add_argument('--fast_ms', type=float, default=5.0, help='limit that is counted')
  parser.add_argument('--output', type=Path, help='JSON file of all costs')
  asked = parser.parse_args(arguments)
  return command_line.exit_status(functools.partial(_run, asked))


def _run(asked: argparse.Namespace) -> int:
  generator, spec = np.random.default_rng(asked.seed), describe_slices(asked.size)
  drawn: list[Drawn] = []
  while len(drawn) < asked.networks:
    shape = lean_space.draw(generator)
    candidate = costs.Candidate(str(len(drawn)), costs.make_random(spec, shape))
    image = (asked.size, asked.size, spec.image_channels)
    if layers.macs(candidate.member.module, image) > asked.most_macs:
      continue
    ways = runtimes.choose(runtimes.ALL, runtimes.ALL)
    found = costs.measure(
      [candidate], ways, repeats=asked.repeats, most_spread=asked.spread, activations=False
    )
    drawn.append(Drawn(shape, {f'{cost.runtime} {cost.precision}': cost for cost in found}))
    print(format_drawn(drawn[-1]), flush=True)
    if asked.output:
      records.write(asked.output, drawn)
  print('\n'.join(summarise(drawn, fast_ms=asked.fast_ms)))
  return 0


def describe_slices(size: int) -> ModelSpec:
  """Returns the description of a network for slices of this side, one channel and two classes."""
  config = configs.default()
  config.data.update({'classes': ('background', 'organ'), 'image_size': size})
  config.model.name = 'lean'
  return make_untrained_spec(config)


def format_drawn(drawn: Drawn) -> str:
  """Formats a network and its times in a line."""
  times = ', '.join(f'{way} {cost.ms:.2f}' for way, cost in sorted(drawn.costs.items()))
  shape = drawn.shape
  return f'{shape.title}, {shape.up}, {drawn.block}: {drawn.macs / 1e6:,.0f} M, ms: {times}'


def summarise(drawn: Sequence[Drawn], *, fast_ms: float) -> list[str]:
  """Formats what the times of all networks have in common."""
  lines = []
  macs = [one.macs for one in drawn]
  for way in sorted(drawn[0].costs):
    ms = [one.costs[way].ms for one in drawn]
    rank = stats.spearmanr(macs, ms).statistic
    fast = sum(one < fast_ms for one in ms)
    lines.append(f'{way}: rank correlation with MACs {rank:.2f}; {fast} below {fast_ms:g} ms')
  for block in BLOCKS:
    gains = [_gains(one) for one in drawn if one.block == block]
    if gains:
      texts = (f'{name} {np.median([gain[name] for gain in gains]):.2f}' for name in gains[0])
      lines.append(f'{block}, {len(gains)} networks: int8 is faster by {", ".join(texts)}')
  return lines


def _gains(drawn: Drawn) -> dict[str, Any]:
  return {
    runtime: drawn.costs[f'{runtime} float32'].ms / drawn.costs[f'{runtime} int8'].ms
    for runtime in ('onnxruntime', 'openvino')
  }


if __name__ == '__main__':
  sys.exit(main())
