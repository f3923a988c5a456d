"""Parameters of the supernet's edges, arranged for `mixed_op.mix_edges`."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from thrifty_jax.networks import space
from thrifty_jax.networks.mixed_op import (
  CONVOLUTIONS,
  PARTS,
  SHARED,
  Gates,
  MixedOperation,
  Mixer,
  part_of,
)


class MixedEdges(nn.Module):
  """Parameters of all edges that leave the same state, stacked over the cells of a kind.

  Stacked parameters are arranged for mix_edges once instead of cell by cell, and the optimiser has
  few arrays to update.

  Attributes:
    candidates: Names of the operations, all of one list.
    channels: Sampled channels, which go through the candidates.
    edges: Number of edges out of the state, E.
    cells: Number of cells.
  """

  candidates: tuple[str, ...]
  channels: int
  edges: int
  cells: int

  @nn.compact
  def __call__(self, weights: jax.Array, edge_weights: jax.Array) -> list[Mixer]:
    """Returns the input of mix_edges for each cell.

    Args:
      weights: Weights of the candidates, which sum to 1 over N, [E, N].
      edge_weights: Weights of the edges, [E].
    """
    stack = self.cells, self.edges
    made_of = self.candidates, self.channels, stack
    parameters = {}  # stays empty if no candidate has any
    if jax.eval_shape(lambda: _stacked_init(jax.random.key(0), *made_of)):
      parameters = self.param('operations', _stacked_init, *made_of)
    weights = weights * edge_weights[:, None]
    found = {part: [n for n in self.candidates if part_of(n) == part] for part in PARTS}
    parts = {part: names for part, names in found.items() if names}
    shared = {
      'mixing': _mixing_matrices(weights, self.candidates, parts, self.channels),
      'weights': weights,
      'edge_weights': tuple(edge_weights),
    }
    arranged = _arrange(parameters, self.candidates, parts, self.channels, stack)
    leaves, tree = jax.tree.flatten(arranged)
    split = [jnp.split(leaf, self.cells) for leaf in leaves]  # its derivative is a concatenation

    def mixer(cell: int) -> Mixer:
      own = jax.tree.unflatten(tree, [leaf[cell][0] for leaf in split])
      return Mixer(self.candidates, self.channels, **own, **shared)

    return [mixer(cell) for cell in range(self.cells)]


@functools.partial(jax.jit, static_argnums=(1, 2, 3))  # flax asks for the shapes at every trace
def _stacked_init(
  key: jax.Array, candidates: tuple[str, ...], channels: int, stack: tuple[int, ...]
) -> Any:
  """Returns initial parameters of many mixed operations, with the axes of the stack in front."""
  operation = MixedOperation(candidates, channels)
  x, weights = jnp.zeros((1, 2, 2, channels)), jnp.zeros(len(candidates))
  keys = jax.random.split(key, math.prod(stack))
  flat = jax.vmap(lambda key: operation.init(key, x, weights).get('params', {}))(keys)
  return jax.tree.map(lambda leaf: leaf.reshape(*stack, *leaf.shape[1:]), flat)


def _mixing_matrices(
  weights: jax.Array, candidates: tuple[str, ...], parts: dict[str, list[str]], channels: int
) -> dict[str, jax.Array]:
  """Returns the weighted sum over the candidates as one matrix [F, E * c] for each part.

  The F features of a part are [name, edge, c], or [name, c] if edges share it; weights are [E, N].
  """
  edges = weights.shape[0]
  eye = np.eye(edges), np.eye(channels)

  def matrix(part: str) -> jax.Array:
    stacked = jnp.stack([weights[:, candidates.index(name)] for name in parts[part]])
    if part in SHARED:
      rows = jnp.einsum('ke,io->kieo', stacked, eye[1])
    else:
      rows = jnp.einsum('ke,ef,io->keifo', stacked, *eye)
    return rows.reshape(-1, edges * channels)

  return {part: matrix(part) for part in parts}


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


def _in_both_axes(taps: np.ndarray) -> np.ndarray:
  """Returns the taps along rows and columns, merged into one axis: [offsets^2, phases^2, 9]."""
  offsets, phases, _ = taps.shape
  return np.einsum('rap,sbq->rsabpq', taps, taps).reshape(offsets**2, phases**2, 9)


def _arrange(
  parameters: dict[str, Any],
  candidates: tuple[str, ...],
  parts: dict[str, list[str]],
  channels: int,
  stack: tuple[int, int],
) -> dict[str, Any]:
  """Returns kernels, gates and plain parameters of a Mixer, stacked over cells, [cells, ...] each.

  Args:
    parameters: Parameters of the candidates that have some, [cells, E, ...] each, by their names.
    candidates: Names of the operations.
    parts: Names of the operations of each part.
    channels: Sampled channels, c.
    stack: Number of cells, and E.
  """
  (cells, edges), resample = stack, space.operation(candidates[0]).resample
  identity = np.eye(edges)
  # Axes: n cells, r offsets, a phases, p taps, k kinds, e edges, i inputs, o outputs. Rows and
  # columns are one axis: with more axes XLA takes longer to compile the derivative (JAX 0.11 takes
  # minutes).
  phases_last = resample == 'up'

  def assemble(part: str) -> jax.Array:
    taps, own_input = _TAPS[resample], part == 'gated'
    if part == 'dilated':
      taps = _UP_DILATED if resample == 'up' else _PLAIN
    inputs, outputs = ('ei', 'kfo') if own_input else ('i', 'keo')
    shape = f'nr{inputs}a{outputs}' if phases_last else f'nra{inputs}{outputs}'
    offsets, phases, _ = taps.shape
    kernels = [_dense_kernel(parameters[name]) for name in parts[part]]
    stacked = jnp.stack(kernels).reshape(len(kernels), cells, edges, 9, channels, -1)
    terms = [_in_both_axes(taps), stacked] + ([identity] if own_input else [])
    formula = 'rap,knepio' + (',ef' if own_input else '')
    kernel = jnp.einsum(f'{formula}->{shape}', *terms)
    width = len(kernels) * edges * channels * (phases**2 if phases_last else 1)
    return kernel.reshape(cells, offsets, offsets, -1, width)

  def gates(gate: dict[str, Any]) -> Gates:
    first, second = gate['squeeze'], gate['excite']
    return Gates(
      squeeze=jnp.einsum('neih->nieh', first['kernel']).reshape(cells, channels, -1),
      squeeze_bias=first['bias'].reshape(cells, -1),
      excite=jnp.einsum('nehi,ef->nehfi', second['kernel'], identity).reshape(
        cells, first['bias'].shape[-1] * edges, -1
      ),
      excite_bias=second['bias'].reshape(cells, -1),
    )

  gated = parts.get('gated', []) + parts.get('gate', [])
  return {
    'kernels': {part: assemble(part) for part in CONVOLUTIONS if part in parts},
    'gates': gates(parameters[gated[0]]['gate']) if gated else None,
    'plain': {name: own for name, own in parameters.items() if part_of(name) is None},
  }


def _dense_kernel(parameters: dict[str, jax.Array]) -> jax.Array:
  """Returns the kernel of a 3x3 convolution, [..., 3, 3, c, c]; the product if it is separable."""
  if 'kernel' in parameters:
    return parameters['kernel']
  return parameters['depthwise'].swapaxes(-1, -2) * parameters['pointwise'][:, :, None, None]
