"""Limit on the parameters: a penalty in the search, and the best network within the limit.

The score of a network is the sum of the scores of all that it keeps (see genotype.Scores). The
network with the highest score within the limit is found exactly. A choice for a part of a network
that is dominated, by another with no more parameters and a higher score, is in no best network, so
only the few choices that are not dominated (the front) are kept for each part.
"""

import bisect
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype, parameters
from thrifty_jax.networks.architecture import Architecture, ArchitectureWeights
from thrifty_jax.networks.genotype import CellScores, Genotype
from thrifty_jax.networks.parameters import operation_cost
from thrifty_jax.networks.space import CELL_KINDS, CellKind, GridCell, Space, sources_of, space_of

# Penalty of a network that is e times too large, in units of the loss. A hinge enforces its limit
# if its slope exceeds that of the loss: if a network e times larger gains less than 1 in Dice. With
# a tenth of this weight its gradient on phantoms was no stronger than the noise of the loss.
PENALTY_WEIGHT = 1.0


def penalty(architecture: Architecture, space: Space, *, limit: int) -> jax.Array:
  """Returns the penalty, []: 0 up to the limit of parameters, then the log of the excess."""
  return PENALTY_WEIGHT * jax.nn.relu(jnp.log(parameters.expected(architecture, space) / limit))


def penalty_of(config: ConfigDict) -> Callable[[Architecture], jax.Array] | None:
  """Returns the penalty function for the limit of a run, or None without a limit."""
  limit = config.search.max_parameters
  return functools.partial(penalty, space=space_of(config), limit=limit) if limit else None


def require_possible(config: ConfigDict) -> None:
  """Raises InputError unless some network of the space is within config.search.max_parameters."""
  space, limit = space_of(config), config.search.max_parameters
  if limit < least(space):
    raise InputError(
      f'config.search.max_parameters is {limit}; expected 0 for no limit, or {least(space)} or '
      f'more, which the smallest network has with model.channels {space.channels}, depth '
      f'{space.depth} and {space.nodes} nodes'
    )


def least(space: Space) -> int:
  """Returns the number of parameters of the smallest network."""

  def cheapest(kind: CellKind, node: int) -> int:
    costs = (
      min(operation_cost(name, space.channels) for name in space.derivable(kind, source))
      for source in sources_of(node)
    )
    return sum(sorted(costs)[: space.edges_per_node])

  down, up = (sum(cheapest(kind, node) for node in range(space.nodes)) for kind in CELL_KINDS)
  cells, pairs = parameters.built(space.depth, dict.fromkeys(space.skippable, 0))
  return parameters.formula(space).total(down=down, up=up, cells=cells, pairs=pairs)


def derive(weights: ArchitectureWeights, space: Space, *, limit: int) -> Genotype:
  """Returns the network with the highest score among those with at most `limit` parameters.

  It is the result of genotype.derive if that is within the limit. Of equal scores the choice listed
  first is kept: the states of a node, then their operations; a kept cell precedes a skipped one.
  Some network is within the limit, see require_possible.
  """
  found = genotype.derive(weights, space)
  if parameters.count(found, space) <= limit:
    return found
  scores, formula = genotype.compute_scores(weights, space), parameters.formula(space)
  downs, ups = (
    _join(_node_front(node, getattr(scores, kind), space) for node in range(space.nodes))
    for kind in CELL_KINDS
  )
  costs = [down.parameters for down in downs]
  whole = []
  for (cells, pairs), path in _paths(scores.gates, space.depth).items():
    for up in ups:
      room = limit - formula.total(down=0, up=up.parameters, cells=cells, pairs=pairs)
      place = bisect.bisect_right(costs, room // formula.down_cells)
      if place:  # the largest down cell that fits has the best score of those that fit
        whole.append(_sum(downs[place - 1], up, path))
  kept, nodes = min(whole, key=_rank).kept, space.nodes
  return Genotype(kept[:nodes], kept[nodes : 2 * nodes], tuple(sorted(kept[2 * nodes :])))


class Choice(NamedTuple):
  """Choice for a part of a network."""

  parameters: int = 0  # of its operations
  score: float = 0.0  # sum over all that it keeps
  order: tuple[int, ...] = ()  # index of the choice in the listing of each part
  kept: tuple[Any, ...] = ()  # edges of a node, nodes of a cell, or skipped cells


def _rank(choice: Choice) -> tuple[float, tuple[int, ...]]:
  """Returns the sorting key that puts the better choice first."""
  return -choice.score, choice.order


def _sum(*choices: Choice) -> Choice:
  """Merges choices of several parts into one."""
  parts, scores, orders, kept = zip(*choices, strict=True)
  return Choice(sum(parts), sum(scores), sum(orders, ()), sum(kept, ()))


def _front(choices: Iterable[Choice]) -> list[Choice]:
  """Returns the choices that are not dominated, by rising parameters, each better than the last."""
  front: list[Choice] = []
  for choice in sorted(choices, key=lambda choice: (choice.parameters, *_rank(choice))):
    if not front or _rank(choice) < _rank(front[-1]):
      front.append(choice)
  return front


def _join(fronts: Iterable[list[Choice]], *, order: tuple[int, ...] = ()) -> list[Choice]:
  """Returns the front of several parts together, whose order begins with the given one."""
  joined = [Choice(order=order)]
  for front in fronts:
    joined = _front(itertools.starmap(_sum, itertools.product(joined, front)))
  return joined


def _node_front(node: int, scores: CellScores, space: Space) -> list[Choice]:
  """Returns the front of a node over all sets of its edges and all operations on them."""

  edges = {
    source: _front(
      Choice(operation_cost(name, space.channels), score, (place,), ((source, name),))
      for place, (name, score) in enumerate(scores[node, source].items())
    )
    for source in sources_of(node)
  }
  choices = []
  sets = itertools.combinations(edges, min(space.edges_per_node, len(edges)))
  for place, sources in enumerate(sets):
    together = _join((edges[source] for source in sources), order=(place,))
    choices += [choice._replace(kept=(choice.kept,)) for choice in together]
  return _front(choices)


def _paths(gates: Mapping[GridCell, np.ndarray], depth: int) -> dict[tuple[int, int], Choice]:
  """Returns the best cells to skip for each number of up cells and of pairs, see Formula.total."""
  paths = {(1, 0): Choice()}
  for j in range(depth - 1):
    inside = [cell for cell in gates if cell[1] == j]
    columns: dict[int, Choice] = {}
    for skips in itertools.product((0, 1), repeat=len(inside)):
      score = sum(float(gates[cell][skip]) for cell, skip in zip(inside, skips, strict=True))
      skipped = tuple(itertools.compress(inside, skips))
      _keep_best(columns, depth - 1 - j - len(skipped), Choice(0, score, skips, skipped))
    grown: dict[tuple[int, int], Choice] = {}
    for ((cells, pairs), path), (more, column) in itertools.product(paths.items(), columns.items()):
      _keep_best(grown, (cells + more, pairs + more * (more - 1) // 2), _sum(path, column))
    paths = grown
  return paths


def _keep_best(best: dict[Any, Choice], key: Any, choice: Choice) -> None:
  if key not in best or _rank(choice) < _rank(best[key]):
    best[key] = choice
