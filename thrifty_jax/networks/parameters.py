"""The parameters of derived networks: counted in closed form, and as the search expects them."""

import functools
import itertools
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from thrifty_jax.networks import build, grid, ops
from thrifty_jax.networks.cell import CellKind, edge_count, sources_of
from thrifty_jax.networks.genotype import Genotype, GridCell, operations_of, skippable_cells
from thrifty_jax.networks.grid import Architecture


class Space(NamedTuple):
  """The networks that a search may derive.

  Attributes:
    image_channels: Modalities times slices that the network sees.
    classes: K, background included.
    channels: Of every cell of the derived network.
    depth: L, levels below the full size.
    nodes: Of a cell.
    edges_per_node: Edges that a node keeps, if it has as many.
    cell_path: Whether cells may be skipped.
  """

  image_channels: int
  classes: int
  channels: int
  depth: int
  nodes: int
  edges_per_node: int
  cell_path: bool = False


def space_of(config: ConfigDict) -> Space:
  """The space of a run; its channels are those of the network that is retrained."""
  data, model_ = config.data, config.model
  return Space(
    image_channels=data.modalities * (2 * data.context + 1),
    classes=len(data.classes),
    channels=model_.channels,
    depth=model_.depth,
    nodes=model_.nodes,
    edges_per_node=model_.edges_per_node,
    cell_path=config.search.cell_path,
  )


class Formula(NamedTuple):
  """The count of a network from the costs of its operations and the cells that are built.

  Attributes:
    fixed: All that every network has, the down cells without their operations included.
    down_cells: How many.
    up_cell: An up cell whose in0 is one tensor, without its operations.
    widening: What in0's filter grows by with each further tensor.
  """

  fixed: int
  down_cells: int
  up_cell: int
  widening: int

  def total(self, *, down: Any, up: Any, cells: Any, pairs: Any) -> Any:
    """The count; multilinear, so that expectations of independent parts may stand for them.

    Args:
      down: Cost of the operations of a down cell.
      up: Cost of the operations of an up cell.
      cells: Up cells that are built, the head among them.
      pairs: Pairs of them in the same column: the right one reads the left one.
    """
    return self.fixed + self.down_cells * down + cells * (self.up_cell + up) + pairs * self.widening


@functools.cache
def formula(space: Space) -> Formula:
  """The formula of a space, its numbers taken from the layers themselves."""
  channels = space.channels
  layer = ops.ConvNorm(channels)
  in0, out = _size(layer, channels), _size(layer, space.nodes * channels)
  around = _size(ops.ConvNorm(channels, kernel_size=7), space.image_channels)
  around += _size(grid.ResidualBlock(), channels)
  around += _size(grid.ClassFilter(space.classes), channels)
  down_cells = grid.cell_count('down', depth=space.depth)
  return Formula(
    fixed=around + down_cells * (in0 + out),
    down_cells=down_cells,
    up_cell=in0 + out,
    widening=_size(layer, 2 * channels) - in0,
  )


@functools.cache
def operation_cost(name: str, channels: int) -> int:
  """Parameters of a candidate operation in a derived network."""
  return _size(ops.operation(name, channels=channels), channels)


def _size(module: nn.Module, channels: int) -> int:
  """Parameters of a module that is applied to so many channels."""
  x = jax.ShapeDtypeStruct((1, 4, 4, channels), jnp.float32)
  # The key is made inside: outside it would start the device, which config.device may still choose.
  variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), x)
  return build.count(variables.get('params', {}))


def built(depth: int, kept: Mapping[GridCell, Any]) -> tuple[Any, Any]:
  """Up cells that are built, and pairs of them in a column, as Formula.total takes them.

  Args:
    depth: L of the grid.
    kept: 1 or 0 for a cell, or the probability that it is kept; cells that are not named are.
  """
  columns = [[kept.get((k, j), 1) for k in range(1, depth - j)] for j in range(depth - 1)]
  cells = 1 + sum(map(sum, columns))  # the head
  pairs = sum(a * b for column in columns for a, b in itertools.combinations(column, 2))
  return cells, pairs


def count(genotype: Genotype, space: Space) -> int:
  """Parameters of the network of a genotype; the space gives all else."""

  def cost(cell: Collection[Collection[tuple[int, str]]]) -> int:
    return sum(operation_cost(name, space.channels) for node in cell for _, name in node)

  cells, pairs = built(space.depth, dict.fromkeys(genotype.skipped, 0))
  nodes = len(genotype.down)
  return formula(space._replace(nodes=nodes)).total(
    down=cost(genotype.down), up=cost(genotype.up), cells=cells, pairs=pairs
  )


@functools.partial(jax.jit, static_argnames='space')
def expected(architecture: Architecture, space: Space) -> jax.Array:
  """Parameters of the network that the architecture variables would give on average, float32 [].

  An edge has the operation that softmax(alpha) without `none` draws. A node draws edges_per_node
  times among its edges by softmax(beta), or keeps all where it has no more. Gates are independent.
  Differentiable, and exact for such draws: a cell widens in0 of those to its right if both stay.

  Args:
    architecture: The variables before the softmax.
    space: What may be derived.
  """
  weights = grid.architecture_weights(architecture, nodes=space.nodes)

  def edge(kind: CellKind, node: int, source: int) -> Any:
    names, index = operations_of(kind, source), edge_count(node) + source
    some = np.asarray([name != 'none' for name in names])
    share = jax.nn.softmax(jnp.asarray(architecture[kind]['alphas'][index])[some])
    costs = np.asarray([operation_cost(name, space.channels) for name in names], np.float32)[some]
    kept: Any = 1.0
    if len(sources_of(node)) > space.edges_per_node:
      kept = space.edges_per_node * weights[kind]['betas'][index]
    return kept * jnp.sum(share * costs)

  def cell(kind: CellKind) -> Any:
    return sum(edge(kind, node, s) for node in range(space.nodes) for s in sources_of(node))

  kept = {}
  if space.cell_path:
    gates = jnp.asarray(weights['path']['gates'])
    kept = dict(zip(skippable_cells(space.depth), gates[:, 0], strict=True))
  cells, pairs = built(space.depth, kept)
  return formula(space).total(down=cell('down'), up=cell('up'), cells=cells, pairs=pairs)
