"""Whether a search has come to a decision, and to which sort: figures, and warnings in words."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from thrifty_jax.networks import space
from thrifty_jax.networks.genotype import Genotype

# Of what could be: 1 is undecided. A choice between six at 0.99 gives the first some 0.24.
UNDECIDED = 0.99
MOSTLY = 0.5  # of the kept edges
LATE = 0.1  # of the epochs


def health(lines: Sequence[Mapping[str, Any]], found: Genotype) -> dict[str, Any]:
  """What a search's figures say about its result.

  Args:
    lines: Of its metrics.jsonl, at least one, the last with the weights of all choices.
    found: The genotype.

  Returns:
    entropy: Of the choices between operations, and between edges, at the start and the end: mean
      over the choices, divided by the largest there could be, so in [0, 1].
    parameterless: Share of kept edges that are pools or identities, in [0, 1].
    last_change: The epoch after which the genotype stayed as it is.
    epochs: How many there were.
    warnings: Sentences, none where all is well.
  """
  first, last = lines[0], lines[-1]
  operations = [name for cell in (found.down, found.up) for node in cell for _, name in node]
  free = sum(space.operation(name).parameterless for name in operations) / len(operations)
  figures = {
    'entropy': {
      'operations': [_mean_entropy(_of_operations(line)) for line in (first, last)],
      'edges': [_mean_entropy(_of_edges(line)) for line in (first, last)],
    },
    'parameterless': free,
    'last_change': last['epoch'] - last['unchanged_epochs'],
    'epochs': last['epoch'],
  }
  return {**figures, 'warnings': list(_warnings(figures))}


def _warnings(figures: Mapping[str, Any]) -> Iterator[str]:
  """What to know before one trusts the result."""
  undecided = figures['entropy']['operations'][1]
  if undecided > UNDECIDED:
    yield (
      'The weights of the operations have hardly left even shares: the structure rests on small '
      'differences. Search longer, or raise search.architecture_learning_rate.'
    )
  if figures['parameterless'] > MOSTLY:
    yield (
      f'{figures["parameterless"]:.0%} of the kept edges are pools or identities: searches of this '
      'kind are known to collapse so. Warm up longer (search.warmup_epochs), or stop earlier.'
    )
  if figures['epochs'] - figures['last_change'] < max(1, LATE * figures['epochs']):
    yield (
      f'The genotype last changed in epoch {figures["last_change"]} of {figures["epochs"]}: it had '
      'not settled. Search longer.'
    )


def _of_operations(line: Mapping[str, Any]) -> list[Sequence[float]]:
  return [*line['down_alphas'], *line['up_alphas']]


def _of_edges(line: Mapping[str, Any]) -> list[Sequence[float]]:
  """The weights of the edges into each node."""
  groups: list[Sequence[float]] = []
  for kind in space.CELL_KINDS:
    betas, node = list(line[f'{kind}_betas']), 0
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
