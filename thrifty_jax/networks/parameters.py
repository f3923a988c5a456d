"""Parameter counts of derived networks: a closed form, and its expectation in the search."""

import functools
import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from thrifty_jax.networks import grid, ops
from thrifty_jax.networks.architecture import Architecture
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.space import CellKind, GridCell, Space, cell_count, edges_of, sources_of


class Formula(NamedTuple):
  """Formula of a network's parameter count, given the costs of its operations and its cells."""

  fixed: int  # parameters that every network has, down cells without their operations included
  down_cells: int  # number of down cells
  up_cell: int  # parameters of an up cell with one tensor as in0, without its operations
  widening: int  # further parameters of in0's filter for each further tensor

  def total(self, *, down: Any, up: Any, cells: Any, pairs: Any) -> Any:
    """Returns the count; it is multilinear, so it also maps independent expectations to one.

    Args:
      down: Parameters of the operations of a down cell.
      up: Parameters of the operations of an up cell.
      cells: Number of up cells that are built, the head included.
      pairs: Number of pairs of them in the same column: the right one reads the left one.
    """
    return self.fixed + self.down_cells * down + cells * (self.up_cell + up) + pairs * self.widening


@functools.cache
def formula(space: Space) -> Formula:
  """Returns the formula of a space, with numbers counted on the layers themselves."""
  channels = space.channels
  layer = ops.ConvNorm(channels)
  in0, out = _size(layer, channels), _size(layer, space.nodes * channels)
  around = _size(ops.ConvNorm(channels, kernel_size=7), space.image_channels)
  around += _size(grid.ResidualBlock(), channels)
  around += _size(grid.ClassFilter(space.classes), channels)
  down_cells = cell_count('down', depth=space.depth)
  return Formula(
    fixed=around + down_cells * (in0 + out),
    down_cells=down_cells,
    up_cell=in0 + out,
    widening=_size(layer, 2 * channels) - in0,
  )


@functools.cache
def operation_cost(name: str, channels: int) -> int:
  """Returns the number of parameters of a candidate operation in a derived network."""
  return _size(ops.operation(name, channels=channels), channels)


def _size(module: nn.Module, channels: int) -> int:
  x = jax.ShapeDtypeStruct((1, 4, 4, channels), jnp.float32)
  # A key made outside would initialise the device before config.device has chosen it.
  variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), x)
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))


def built(depth: int, kept: Mapping[GridCell, Any]) -> tuple[Any, Any]:
  """Returns the number of up cells that are built, and of pairs of them in a column.

  `kept` has the probability that a cell is kept, or 1 or 0; cells that are not listed are kept.
  """
  columns = [[kept.get((k, j), 1) for k in range(1, depth - j)] for j in range(depth - 1)]
  cells = 1 + sum(map(sum, columns))  # the head
  pairs = sum(a * b for column in columns for a, b in itertools.combinations(column, 2))
  return cells, pairs


def count(genotype: Genotype, space: Space) -> int:
  """Returns the number of parameters of a genotype's network; the space has the other sizes."""

  def cost(cell: Collection[Collection[tuple[int, str]]]) -> int:
    return sum(operation_cost(name, space.channels) for node in cell for _, name in node)

  cells, pairs = built(space.depth, dict.fromkeys(genotype.skipped, 0))
  nodes = len(genotype.down)
  return formula(space._replace(nodes=nodes)).total(
    down=cost(genotype.down), up=cost(genotype.up), cells=cells, pairs=pairs
  )


@functools.partial(jax.jit, static_argnames='space')
def expected(architecture: Architecture, space: Space) -> jax.Array:
  """Returns the expected parameters of a network drawn by the architecture variables, float32 [].

  Each edge draws its operation from softmax(alpha) without `none`. A node draws edges_per_node
  times among its edges by softmax(beta), or keeps all if it has no more. Gates are independent.
  The result is differentiable and exact for such draws; a cell widens in0 of a cell to its right
  if both are kept.
  """
  weights = grid.architecture_weights(architecture, nodes=space.nodes)

  def edge(kind: CellKind, index: int, node: int, source: int) -> Any:
    names = space.candidates(kind, source)
    some = np.isin(names, space.derivable(kind, source))
    share = jax.nn.softmax(jnp.asarray(getattr(architecture, kind).alphas[index])[some])
    costs = np.asarray([operation_cost(name, space.channels) for name in names], np.float32)[some]
    kept: Any = 1.0
    if len(sources_of(node)) > space.edges_per_node:
      kept = space.edges_per_node * getattr(weights, kind).betas[index]
    return kept * jnp.sum(share * costs)

  def cell(kind: CellKind) -> Any:
    return sum(edge(kind, index, *ends) for index, ends in enumerate(edges_of(space.nodes)))

  gates = jnp.asarray(weights.gates)[:, 0] if space.cell_path else ()
  cells, pairs = built(space.depth, dict(zip(space.skippable, gates, strict=True)))
  return formula(space).total(down=cell('down'), up=cell('up'), cells=cells, pairs=pairs)
