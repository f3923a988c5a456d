"""The variables that a search learns, and the weights that follow from them, as types.

Both are pytrees of arrays of JAX or of numpy; nothing here needs JAX.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

Array = Any  # of JAX or of numpy


class CellVariables(NamedTuple):
  """Variables that all cells of a kind share, before the softmax.

  Attributes:
    alphas: Variables of the candidates of each edge, E arrays [N], in the order of space.edges_of.
    betas: Variables of the edges, [E].
  """

  alphas: Sequence[Array]
  betas: Array


class Architecture(NamedTuple):
  """All architecture variables.

  Attributes:
    down: Variables of the down cells.
    up: Variables of the up cells.
    gammas: Variables of keeping and of skipping each of space.skippable_cells, [G, 2]; None where
      cells have no gates.
  """

  down: CellVariables
  up: CellVariables
  gammas: Array | None = None


class CellWeights(NamedTuple):
  """What the cells of a kind are mixed by.

  Attributes:
    alphas: Weights of the candidates of each edge, which sum to 1, E arrays [N].
    betas: Weights of the edges, which sum to 1 over those into a node, [E].
  """

  alphas: Sequence[Array]
  betas: Array


class ArchitectureWeights(NamedTuple):
  """What follows from the architecture variables by the softmax, see grid.architecture_weights.

  Attributes:
    down: Weights of the down cells.
    up: Weights of the up cells.
    gates: Weights of keeping and of skipping a cell, which sum to 1, [G, 2]; None without gates.
  """

  down: CellWeights
  up: CellWeights
  gates: Array | None = None
