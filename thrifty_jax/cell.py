"""One cell: two inputs, nodes that sum their incoming edges, and a 1x1 filter at the end.

The skeleton is written once; the search puts mixed operations on every edge, a derived cell one
operation on the edges that its genotype kept.
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from thrifty_jax import ops
from thrifty_jax.mixed_op import MixedOperation, mix_edges, return_channels

CellKind = Literal['down', 'up']
T = TypeVar('T')


def sources_of(node: int) -> range:
  """The states that node 0, 1, ... may read: in0, in1 and all nodes before it."""
  return range(2 + node)


def edge_count(nodes: int) -> int:
  """Edges of a cell in the search: 2 + 3 + ..."""
  return sum(len(sources_of(node)) for node in range(nodes))


def edge_name(node: int, source: int) -> str:
  """Name of an edge's parameters, for instance node1_from_0."""
  return f'node{node + 1}_from_{source}'


def resample_of(kind: CellKind, source: int) -> ops.Resample:
  """Which operations may stand on an edge out of a state.

  A down cell halves both inputs; an up cell's in0 has the output's size already and in1 half of it.
  """
  if source >= 2 or (kind == 'up' and source == 0):
    return 'normal'
  return kind


def _cell(
  in0: jax.Array,
  in1: jax.Array,
  *,
  kind: CellKind,
  nodes: int,
  leave: Callable[[int, jax.Array], dict[int, T]],
  join: Callable[[list[T]], jax.Array],
) -> jax.Array:
  """The skeleton, called inside a compact method.

  leave(source, state) runs all edges out of a state and returns what each reached node gets from
  it; join(terms) makes a node of what it got.
  """
  stride = 2 if kind == 'down' else 1
  states = [ops.ConvNorm(in1.shape[-1], stride=stride, name='in0')(in0), in1]
  incoming = [[] for _ in range(nodes)]
  for source in range(nodes + 1):
    for node, term in leave(source, states[source]).items():
      incoming[node].append(term)
    if source > 0:  # its last edge has arrived
      states.append(join(incoming[source - 1]))
  return ops.ConvNorm(in1.shape[-1], name='out')(jnp.concatenate(states[2:], axis=-1))


class MixedCell(nn.Module):
  """A cell of the supernet.

  Attributes:
    kind: down or up.
    nodes: Intermediate nodes.
    sample: One in so many channels goes through the candidates.
  """

  kind: CellKind
  nodes: int
  sample: int

  @nn.compact
  def __call__(
    self,
    in0: jax.Array,
    in1: jax.Array,
    operation_weights: Sequence[jax.Array],
    edge_weights: jax.Array,
    order: jax.Array | None = None,
  ) -> jax.Array:
    """Runs the cell.

    Args:
      in0: down: [B, 4H, 4W, C]; up: [B, H, W, C'], any C'.
      in1: down: [B, 2H, 2W, C]; up: [B, H / 2, W / 2, C].
      operation_weights: Of every edge's candidates, E arrays [N], edges ordered by node, then source.
      edge_weights: Of the edges, summing to 1 at each node, [E].
      order: Permutation of the channels for random sampling, [C], or None.

    Returns:
      [B, H, W, C].
    """
    sampled = in1.shape[-1] // self.sample

    def leave(source: int, state: jax.Array) -> dict[int, tuple[jax.Array, jax.Array]]:
      resample = resample_of(self.kind, source)
      targets = [node for node in range(self.nodes) if source in sources_of(node)]
      edges = [MixedOperation(resample, sampled, name=edge_name(node, source)) for node in targets]
      indices = [edge_count(node) + source for node in targets]
      return dict(
        zip(
          targets,
          mix_edges(
            edges,
            state if order is None else state[..., order],
            operation_weights=[operation_weights[i] for i in indices],
            edge_weights=[edge_weights[i] for i in indices],
          ),
          strict=True,
        )
      )

    def join(terms: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
      mixed, bypassed = (sum(part) for part in zip(*terms, strict=True))
      return return_channels(mixed, bypassed, sample=self.sample, order=order)

    return _cell(in0, in1, kind=self.kind, nodes=self.nodes, leave=leave, join=join)


class DerivedCell(nn.Module):
  """A cell of a derived network: the kept edges, one operation each, on all channels.

  Attributes:
    kind: down or up.
    nodes: For every node its kept edges as (source, operation) pairs.
  """

  kind: CellKind
  nodes: tuple[tuple[tuple[int, str], ...], ...]

  @nn.compact
  def __call__(self, in0: jax.Array, in1: jax.Array) -> jax.Array:
    """As MixedCell, without the weights."""

    def leave(source: int, state: jax.Array) -> dict[int, jax.Array]:
      channels = state.shape[-1]
      return {
        node: ops.operation(kept[source], channels=channels, name=edge_name(node, source))(state)
        for node, kept in enumerate(map(dict, self.nodes))
        if source in kept
      }

    return _cell(in0, in1, kind=self.kind, nodes=len(self.nodes), leave=leave, join=sum)
