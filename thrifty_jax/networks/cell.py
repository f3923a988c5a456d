"""Cells: two inputs, nodes that sum their incoming edges, and a 1x1 filter at the end.

The skeleton is shared: a cell of the search has mixed operations on every edge, a derived cell has
one operation on each edge that its genotype keeps.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from thrifty_jax.networks import ops, spatial
from thrifty_jax.networks.genotype import Node
from thrifty_jax.networks.mixed_op import Mixer, Sampling, mix_edges
from thrifty_jax.networks.space import CellKind, edge_name, targets_of

T = TypeVar('T')


def _cell(
  in0: jax.Array,
  in1: jax.Array,
  *,
  kind: CellKind,
  nodes: int,
  norm: str = 'group',
  leave: Callable[[int, jax.Array], dict[int, T]],
  join: Callable[[list[T]], jax.Array],
) -> jax.Array:
  """Runs a cell inside a compact method.

  leave(source, state) returns the term of each node that an edge out of the state reaches, and
  join(terms) the state of a node.
  """
  stride = 2 if kind == 'down' else 1
  states = [ops.ConvNorm(in1.shape[-1], stride=stride, norm=norm, name='in0')(in0), in1]
  incoming = [[] for _ in range(nodes)]
  for source in range(nodes + 1):
    for node, term in leave(source, states[source]).items():
      incoming[node].append(term)
    if source > 0:  # its last edge has arrived
      states.append(join(incoming[source - 1]))
  return ops.ConvNorm(in1.shape[-1], norm=norm, name='out')(jnp.concatenate(states[2:], axis=-1))


class MixedCell(nn.Module):
  """Cell of the supernet; the parameters of its edges are in MixedEdges."""

  kind: CellKind
  nodes: int  # number of intermediate nodes

  @nn.compact
  def __call__(
    self, in0: jax.Array, in1: jax.Array, mixers: Sequence[Mixer], sampling: Sampling
  ) -> jax.Array:
    """Returns the output of the cell, [B, H, W, C].

    Args:
      in0: First input; down: [B, 4H, 4W, C]; up: [B, H, W, C'], any C'.
      in1: Second input; down: [B, 2H, 2W, C]; up: [B, H / 2, W / 2, C].
      mixers: Mixers of the edges out of every state.
      sampling: Order of the channels.
    """

    def leave(source: int, state: jax.Array) -> dict[int, tuple[jax.Array, jax.Array]]:
      terms = mix_edges(state, mixers[source], sampling.order)
      return dict(zip(targets_of(source, nodes=self.nodes), terms, strict=True))

    def join(terms: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
      node = jnp.concatenate([spatial.total(part) for part in zip(*terms, strict=True)], axis=-1)
      return node @ sampling.back.astype(node.dtype)

    return _cell(in0, in1, kind=self.kind, nodes=self.nodes, leave=leave, join=join)


class DerivedCell(nn.Module):
  """Cell of a derived network: the kept edges, each with one operation on all channels."""

  kind: CellKind
  nodes: tuple[Node, ...]
  norm: str = 'group'  # see ops.make_norm

  @nn.compact
  def __call__(self, in0: jax.Array, in1: jax.Array) -> jax.Array:
    """Runs the cell on inputs with the shapes of MixedCell."""

    def leave(source: int, state: jax.Array) -> dict[int, jax.Array]:
      settings = {'channels': state.shape[-1], 'norm': self.norm}
      return {
        node: ops.operation(kept[source], **settings, name=edge_name(node, source))(state)
        for node, kept in enumerate(map(dict, self.nodes))
        if source in kept
      }

    settings = {'kind': self.kind, 'nodes': len(self.nodes), 'norm': self.norm}
    return _cell(in0, in1, **settings, leave=leave, join=spatial.total)
