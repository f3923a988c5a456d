"""Judges by figures and warnings how decided the result of a search is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from thrifty_jax.networks import space
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.reporting.inputs import SearchLine

# Share of the largest entropy, 1 being undecided; at 0.99 the first of six choices has some 0.24.
UNDECIDED = 0.99
MOSTLY = 0.5  # share of the kept edges
LATE = 0.1  # share of the epochs


@dataclass(frozen=True)
class Health:
  """Figures by which the result of a search is judged.

  An entropy is that of the choices in the first and in the last epoch, in [0, 1]: the mean over the
  choices, divided by the largest possible one.
  """

  operations: tuple[float, float]  # entropy of the choices between operations
  edges: tuple[float, float]  # entropy of the choices between edges
  parameterless: float  # share of kept edges that are pools or identities, in [0, 1]
  last_change: int  # epoch after which the genotype no longer changed
  epochs: int

  def warnings(self) -> list[str]:
    """Warnings about the result, as sentences; none if all is well."""
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
  """Judges a search by its lines and the genotype found; None if either is missing."""
  if not lines or genotype is None:
    return None
  first, last = lines[0], lines[-1]
  operations = [name for cell in (genotype.down, genotype.up) for node in cell for _, name in node]
  free = sum(space.operation(name).parameterless for name in operations) / len(operations)
  return Health(
    operations=(
      _mean_entropy([*first.down_alphas, *first.up_alphas]),
      _mean_entropy([*last.down_alphas, *last.up_alphas]),
    ),
    edges=(_mean_entropy(_edges(first)), _mean_entropy(_edges(last))),
    parameterless=free,
    last_change=last.epoch - last.unchanged_epochs,
    epochs=last.epoch,
  )


def _edges(line: SearchLine) -> list[Sequence[float]]:
  """Weights of the edges into each node."""
  return [
    betas[space.edge_count(node) : space.edge_count(node + 1)]
    for betas in (line.down_betas, line.up_betas)
    for node in range(len(betas))
  ]


def _mean_entropy(choices: Sequence[Sequence[float]]) -> float:
  """Entropy of each choice relative to a uniform one, mean over the choices; 0 without any."""
  shares = [
    -sum(weight * math.log(weight) for weight in choice if weight > 0) / math.log(len(choice))
    for choice in choices
    if len(choice) > 1
  ]
  return sum(shares) / len(shares) if shares else 0.0
