"""Types of the architecture variables that a search learns and of their softmax weights.

Both are pytrees of JAX or numpy arrays; this module does not import JAX.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

Array = Any  # a JAX or numpy array


class CellVariables(NamedTuple):
  """Architecture variables that all cells of a kind share, before the softmax."""

  alphas: Sequence[Array]  # variables of each edge's candidates, E arrays [N], see space.edges_of
  betas: Array  # variables of the edges, [E]


class Architecture(NamedTuple):
  """All architecture variables."""

  down: CellVariables
  up: CellVariables
  gammas: Array | None = None  # of keeping and skipping space.skippable_cells, [G, 2], if gated


class CellWeights(NamedTuple):
  """Softmax weights that all cells of a kind share."""

  alphas: Sequence[Array]  # weights of the candidates, which sum to 1 over each edge, E arrays [N]
  betas: Array  # weights of the edges, which sum to 1 over the edges into a node, [E]


class ArchitectureWeights(NamedTuple):
  """Softmax of the architecture variables, see grid.architecture_weights."""

  down: CellWeights
  up: CellWeights
  gates: Array | None = None  # weights of keeping and skipping a cell, which sum to 1, [G, 2]
