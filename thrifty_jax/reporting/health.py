"""Whether a search has come to a decision, and to which sort: figures, and warnings in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from thrifty_jax.networks import space
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.reporting.inputs import SearchLine

# Of the largest entropy: 1 is undecided. A choice between six at 0.99 gives the first some 0.24.
UNDECIDED = 0.99
MOSTLY = 0.5  # of the kept edges
LATE = 0.1  # of the epochs


@dataclass(frozen=True)
class Health:
  """What a search's figures say about its result.

  Attributes:
    operations: Entropy of the choices between operations at the start and the end, in [0, 1]: mean
      over the choices, divided by the largest there could be.
    edges: Entropy of the choices between edges, likewise.
    parameterless: Share of kept edges that are pools or identities, in [0, 1].
    last_change: Epoch after which the genotype stayed as it is.
    epochs: Number of epochs.
  """

  operations: tuple[float, float]
  edges: tuple[float, float]
  parameterless: float
  last_change: int
  epochs: int

  def warnings(self) -> list[str]:
    """What to know before one trusts the result, in sentences; none where all is well."""
    found = []
    if self.operations[1] > UNDECIDED:
      found.append(
        'The weights of the operations have hardly left even shares: the structure rests on small '
        'differences. Search longer, or raise search.architecture_learning_rate.'
      )
    if self.parameterless > MOSTLY:
      found.append(
        f'{self.parameterless:.0%} of the kept edges are pools or identities: searches of this '
        'kind are known to collapse so. Warm up longer (search.warmup_epochs), or stop earlier.'
      )
    if self.epochs - self.last_change < max(1, LATE * self.epochs):
      found.append(
        f'The genotype last changed in epoch {self.last_change} of {self.epochs}: it had '
        'not settled. Search longer.'
      )
    return found


def judge(lines: Sequence[SearchLine], genotype: Genotype | None) -> Health | None:
  """Judges a search by its lines and by the genotype that it found; None without either."""
  if not lines or genotype is None:
    return None
  first, last = lines[0], lines[-1]
  operations = [name for cell in (genotype.down, genotype.up) for node in cell for _, name in node]
  free = sum(space.operation(name).parameterless for name in operations) / len(operations)
  return Health(
    operations=(_mean_entropy(_operations(first)), _mean_entropy(_operations(last))),
    edges=(_mean_entropy(_edges(first)), _mean_entropy(_edges(last))),
    parameterless=free,
    last_change=last.epoch - last.unchanged_epochs,
    epochs=last.epoch,
  )


def _operations(line: SearchLine) -> list[Sequence[float]]:
  """The weights of the operations of each edge."""
  return [*line.down_alphas, *line.up_alphas]


def _edges(line: SearchLine) -> list[Sequence[float]]:
  """The weights of the edges into each node."""
  groups: list[Sequence[float]] = []
  for betas in (line.down_betas, line.up_betas):
    node = 0
    while betas:
      count = len(space.sources_of(node))
      groups.append(betas[:count])
      betas, node = betas[count:], node + 1
  return groups


def _mean_entropy(choices: Sequence[Sequence[float]]) -> float:
  """Entropy of each choice over that of an even one, mean over the choices; 0 without any."""
  shares = [
    -sum(weight * math.log(weight) for weight in choice if weight > 0) / math.log(len(choice))
    for choice in choices
    if len(choice) > 1
  ]
  return sum(shares) / len(shares) if shares else 0.0
