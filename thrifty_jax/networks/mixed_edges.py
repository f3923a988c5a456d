"""Parameters of the supernet's edges, arranged for `mixed_op.mix_edges`."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from thrifty_jax.networks import mixed_op, space
from thrifty_jax.networks.mixed_op import CONVOLUTIONS, PARTS, SHARED, Gates, Mixer, part_of

# Taps of a 3x3 convolution on another grid along one axis: [offset, phase, index in the kernel].
_PLAIN = np.eye(3)[:, None]
# Stride 2: rows 2i - 1, 2i, 2i + 1 are phase 1 of block i - 1 and both phases of block i.
_DOWN = np.array([[[0, 0, 0], [1, 0, 0]], [[0, 1, 0], [0, 0, 1]]], float)
# Transposed: row 2i uses the kernel's middle at i, row 2i + 1 the others at i and i + 1 or, with
# dilation 3, at i - 1 and i + 2.
_UP = np.array([[[0, 1, 0], [1, 0, 0]], [[0, 0, 0], [0, 0, 1]]], float)
_UP_DILATED = np.zeros((4, 2, 3))
_UP_DILATED[[0, 1, 3], [1, 0, 1], [0, 1, 2]] = 1

_TAPS = {'normal': _PLAIN, 'down': _DOWN, 'up': _UP}


class MixedEdges(nn.Module):
  """Parameters of all edges that leave the same state, stacked over the cells of a kind.

  Stacked parameters are arranged for mix_edges once instead of cell by cell, and the optimiser has
  few arrays to update.
  """

  candidates: tuple[str, ...]  # names of the operations, all of one list
  channels: int  # sampled channels, c, which go through the candidates
  edges: int  # number of edges out of the state, E
  cells: int  # number of cells

  @nn.compact
  def __call__(self, weights: jax.Array, edge_weights: jax.Array) -> list[Mixer]:
    """Returns the input of mix_edges for each cell.

    Args:
      weights: Weights of the candidates, which sum to 1 over N, [E, N].
      edge_weights: Weights of the edges, [E].
    """
    made_of = self.candidates, self.channels, (self.cells, self.edges)
    parameters = {}  # stays empty if no candidate has any
    if jax.eval_shape(lambda: _stacked_init(jax.random.key(0), *made_of)):
      parameters = self.param('operations', _stacked_init, *made_of)
    weights = weights * edge_weights[:, None]
    parts = {part: [n for n in self.candidates if part_of(n) == part] for part in PARTS}
    mixing = {part: self._mixing(part, names, weights) for part, names in parts.items() if names}
    shared = {'mixing': mixing, 'weights': weights, 'edge_weights': tuple(edge_weights)}
    kernels = {
      part: self._kernel(part, [_dense_kernel(parameters[name]) for name in parts[part]])
      for part in CONVOLUTIONS
      if parts[part]
    }
    gated = parts['gated'] + parts['gate']
    gates = self._gates(parameters[gated[0]]['gate']) if gated else None
    plain = {name: own for name, own in parameters.items() if part_of(name) is None}
    leaves, tree = jax.tree.flatten({'kernels': kernels, 'gates': gates, 'plain': plain})
    split = [jnp.split(leaf, self.cells) for leaf in leaves]  # its derivative is a concatenation

    def mixer(cell: int) -> Mixer:
      own = jax.tree.unflatten(tree, [leaf[cell][0] for leaf in split])
      return Mixer(self.candidates, self.channels, **own, **shared)

    return [mixer(cell) for cell in range(self.cells)]

  def _mixing(self, part: str, names: list[str], weights: jax.Array) -> jax.Array:
    """Returns the sum over a part's candidates, weighted by [E, N], as a matrix [F, E * c].

    The F features are [name, edge, c], or [name, c] if edges share the part.
    """
    stacked = jnp.stack([weights[:, self.candidates.index(name)] for name in names])
    edges, channels = np.eye(self.edges), np.eye(self.channels)
    if part in SHARED:
      rows = jnp.einsum('ke,io->kieo', stacked, channels)
    else:
      rows = jnp.einsum('ke,ef,io->keifo', stacked, edges, channels)
    return rows.reshape(-1, self.edges * self.channels)

  def _kernel(self, part: str, kernels: list[jax.Array]) -> jax.Array:
    """Merges the kernels [cells, E, 3, 3, c, c] of a part's candidates, for every cell."""
    # Axes: n cells, r offsets, a phases, p taps, k kinds, e edges, i inputs, o outputs. Rows and
    # columns are one axis: XLA takes longer to compile the derivative with more (minutes in JAX
    # 0.11).
    resample = space.operation(self.candidates[0]).resample
    phases_last, own_input = resample == 'up', part == 'gated'
    taps = _TAPS[resample]
    if part == 'dilated':
      taps = _UP_DILATED if resample == 'up' else _PLAIN
    offsets, phases, _ = taps.shape
    inputs, outputs = ('ei', 'kfo') if own_input else ('i', 'keo')
    shape = f'nr{inputs}a{outputs}' if phases_last else f'nra{inputs}{outputs}'
    stacked = jnp.stack(kernels).reshape(len(kernels), self.cells, self.edges, 9, self.channels, -1)
    # Taps along rows and columns, merged into one axis: [offsets^2, phases^2, 9].
    both = np.einsum('rap,sbq->rsabpq', taps, taps).reshape(offsets**2, phases**2, 9)
    if own_input:
      kernel = jnp.einsum(f'rap,knepio,ef->{shape}', both, stacked, np.eye(self.edges))
    else:
      kernel = jnp.einsum(f'rap,knepio->{shape}', both, stacked)
    width = len(kernels) * self.edges * self.channels * (phases**2 if phases_last else 1)
    return kernel.reshape(self.cells, offsets, offsets, -1, width)

  def _gates(self, gate: dict[str, Any]) -> Gates:
    """Merges the gates of the edges, for every cell."""
    first, second, cells = gate['squeeze'], gate['excite'], self.cells
    squeeze = jnp.einsum('neih->nieh', first['kernel']).reshape(cells, self.channels, -1)
    squeeze_bias = first['bias'].reshape(cells, -1)
    excite = jnp.einsum('nehi,ef->nehfi', second['kernel'], np.eye(self.edges))
    excite = excite.reshape(cells, -1, self.edges * self.channels)
    return squeeze, squeeze_bias, excite, second['bias'].reshape(cells, -1)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))  # flax asks for the shapes at every trace
def _stacked_init(
  key: jax.Array, candidates: tuple[str, ...], channels: int, stack: tuple[int, ...]
) -> Any:
  """Returns initial parameters of many mixed operations, with the axes of the stack in front."""
  operation = mixed_op.MixedOperation(candidates, channels)
  x, weights = jnp.zeros((1, 2, 2, channels)), jnp.zeros(len(candidates))
  keys = jax.random.split(key, math.prod(stack))
  flat = jax.vmap(lambda key: operation.init(key, x, weights).get('params', {}))(keys)
  return jax.tree.map(lambda leaf: leaf.reshape(*stack, *leaf.shape[1:]), flat)


def _dense_kernel(parameters: dict[str, jax.Array]) -> jax.Array:
  """Returns the kernel of a 3x3 convolution, [..., 3, 3, c, c]; the product if it is separable."""
  if 'kernel' in parameters:
    return parameters['kernel']
  return parameters['depthwise'].swapaxes(-1, -2) * parameters['pointwise'][:, :, None, None]
