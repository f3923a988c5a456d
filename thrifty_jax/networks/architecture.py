"""Types of the architecture variables that a search learns and of their softmax weights.

Both are pytrees of JAX or numpy arrays; this module does not import JAX.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

Array = Any  # a JAX or numpy array


class CellVariables(NamedTuple):
  """Architecture variables that all cells of a kind share, before the softmax.

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
    gammas: Variables of keeping and of skipping each cell of space.skippable_cells, [G, 2]; None
      if cells have no gates.
  """

  down: CellVariables
  up: CellVariables
  gammas: Array | None = None


class CellWeights(NamedTuple):
  """Softmax weights that all cells of a kind share.

  Attributes:
    alphas: Weights of the candidates, which sum to 1 over each edge, E arrays [N].
    betas: Weights of the edges, which sum to 1 over the edges into a node, [E].
  """

  alphas: Sequence[Array]
  betas: Array


class ArchitectureWeights(NamedTuple):
  """Softmax of the architecture variables, see grid.architecture_weights.

  Attributes:
    down: Weights of the down cells.
    up: Weights of the up cells.
    gates: Weights of keeping and of skipping a cell, which sum to 1, [G, 2]; None without gates.
  """

  down: CellWeights
  up: CellWeights
  gates: Array | None = None
