"""A limit to the parameters: a penalty in the search, and the best network that keeps it.

The score of a network is the sum of the scores of all that it keeps (see genotype.Scores); the
one with the highest score below the limit is found exactly. A part of a network that another part
beats, with no more parameters and a higher score, is in no best network; so each part keeps only
those that nothing beats, and what is left is few.
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

# In units of the loss, for a network that is e times too large. A hinge holds its limit where its
# slope is above that of the loss: where a network e times larger does not gain a whole Dice. On
# phantoms the gradient of a tenth of it was no stronger than the noise of the loss's own.
PENALTY_WEIGHT = 1.0


def penalty(architecture: Architecture, space: Space, *, limit: int) -> jax.Array:
  """What the architecture's loss has added, []: 0 up to the limit, then the log of the excess.

  Args:
    architecture: Variables before the softmax.
    space: Space of what may be derived.
    limit: Parameters, above 0.
  """
  return PENALTY_WEIGHT * jax.nn.relu(jnp.log(parameters.expected(architecture, space) / limit))


def penalty_of(config: ConfigDict) -> Callable[[Architecture], jax.Array] | None:
  """What the limit of a run adds to the architecture's loss; None without a limit."""
  limit = config.search.max_parameters
  if not limit:
    return None
  return functools.partial(penalty, space=space_of(config), limit=limit)


def require_possible(config: ConfigDict) -> None:
  """Refuses a limit, config.search.max_parameters, that no network of the space keeps.

  Raises:
    InputError: With the least number of parameters that there is.
  """
  space, limit = space_of(config), config.search.max_parameters
  if limit < least(space):
    raise InputError(
      f'config.search.max_parameters is {limit}; expected 0 for no limit, or {least(space)} or '
      f'more, which the smallest network has with model.channels {space.channels}, depth '
      f'{space.depth} and {space.nodes} nodes'
    )


def least(space: Space) -> int:
  """Parameters of the smallest network."""

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
  """The network with the highest score among those that keep the limit.

  Args:
    weights: Weights of all choices.
    space: Space of what may be derived.
    limit: Parameters.

  Returns:
    What genotype.derive returns, if that keeps the limit. Of equal scores wins what is listed
    first: the states of a node, then their operations; a cell that is kept before one skipped.

  Raises:
    InputError: If no network keeps the limit.
  """
  found = genotype.derive(weights, space)
  if parameters.count(found, space) <= limit:
    return found
  scores, formula = genotype.compute_scores(weights, space), parameters.formula(space)
  downs, ups = (_cell_front(getattr(scores, kind), space) for kind in CELL_KINDS)
  costs = [down.parameters for down in downs]
  whole = []
  for (cells, pairs), path in _paths(scores.gates, space.depth).items():
    for up in ups:
      room = limit - formula.total(down=0, up=up.parameters, cells=cells, pairs=pairs)
      place = bisect.bisect_right(costs, room // formula.down_cells)
      if place:  # the dearest down cell that still fits is the best of those that do
        whole.append(_sum(downs[place - 1], up, path))
  if not whole:
    raise InputError(f'no network has {limit} parameters or fewer; the smallest {least(space)}')
  kept = min(whole, key=_rank).kept
  nodes = space.nodes
  return Genotype(kept[:nodes], kept[nodes : 2 * nodes], tuple(sorted(kept[2 * nodes :])))


class Choice(NamedTuple):
  """A choice for a part of a network.

  Attributes:
    parameters: Parameters of its operations.
    score: Sum over what it keeps.
    order: Place among the choices as they are listed, part by part.
    kept: Parts that it keeps: edges of a node, nodes of a cell, or cells that are skipped.
  """

  parameters: int = 0
  score: float = 0.0
  order: tuple[int, ...] = ()
  kept: tuple[Any, ...] = ()


def _rank(choice: Choice) -> tuple[float, tuple[int, ...]]:
  """Sorts the better choice first."""
  return -choice.score, choice.order


def _sum(*choices: Choice) -> Choice:
  """Several parts as one."""
  return Choice(
    sum(choice.parameters for choice in choices),
    sum(choice.score for choice in choices),
    sum((choice.order for choice in choices), ()),
    sum((choice.kept for choice in choices), ()),
  )


def _front(choices: Iterable[Choice]) -> list[Choice]:
  """The choices that no other beats: by rising parameters, each better than the one before."""
  front: list[Choice] = []
  for choice in sorted(choices, key=lambda choice: (choice.parameters, *_rank(choice))):
    if not front or _rank(choice) < _rank(front[-1]):
      front.append(choice)
  return front


def _join(first: list[Choice], second: list[Choice]) -> list[Choice]:
  """The front of two parts together."""
  return _front(itertools.starmap(_sum, itertools.product(first, second)))


def _cell_front(scores: CellScores, space: Space) -> list[Choice]:
  """The front of a kind of cell; each choice keeps one entry per node."""
  nodes = (_node_front(node, scores, space) for node in range(space.nodes))
  return functools.reduce(_join, nodes, [Choice()])


def _node_front(node: int, scores: CellScores, space: Space) -> list[Choice]:
  """The front of a node: every set of its edges, every operation on each."""

  def edge_front(source: int) -> list[Choice]:
    return _front(
      Choice(operation_cost(name, space.channels), score, (place,), ((source, name),))
      for place, (name, score) in enumerate(scores[node, source].items())
    )

  edges = {source: edge_front(source) for source in sources_of(node)}
  choices = []
  sets = itertools.combinations(edges, min(space.edges_per_node, len(edges)))
  for place, sources in enumerate(sets):
    start = [Choice(order=(place,))]
    together = functools.reduce(_join, (edges[source] for source in sources), start)
    choices += [choice._replace(kept=(choice.kept,)) for choice in together]
  return _front(choices)


def _paths(gates: Mapping[GridCell, np.ndarray], depth: int) -> dict[tuple[int, int], Choice]:
  """For each number of up cells and of pairs of them (see Formula.total) the best cells to skip."""
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
