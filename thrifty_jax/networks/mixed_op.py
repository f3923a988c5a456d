"""The mixed operation of the search: all candidates of an edge, on a sample of the channels.

MixedOperation is the definition, one candidate after the other. The supernet runs mix_edges, which
computes the same for all edges out of one state in a few wide operations.
"""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from thrifty_jax.networks import norm, ops, spatial


class MixedOperation(nn.Module):
  """Weighted sum of the candidate operations of one edge.

  Attributes:
    resample: Which list of ops.OPERATIONS: normal, down or up.
    channels: Of the sample that goes through the candidates.

  Source: PC-DARTS (Xu et al., 2020), section 3.1.
  """

  resample: spatial.Resample
  channels: int

  @nn.compact
  def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
    """Mixes x [B, H, W, C / sample] with weights [N] that sum to 1; [B, H', W', C / sample]."""
    kinds = ops.OPERATIONS[self.resample]
    candidates = [ops.operation(k, channels=self.channels, mixed=True, name=k)(x) for k in kinds]
    return spatial.total([w * y for w, y in zip(weights, candidates, strict=True)])


# The fast form: candidates that are computed together. Each edge has its own convolutions; pools
# and identity have no parameters, so the edges out of a state share them.
_PARTS = {
  'normal': (('conv_3x3', 'sep_conv_3x3'), ('dil_conv_3x3',), ('identity',), ('se',)),
  'down': (
    ('down_conv_3x3', 'down_sep_conv_3x3'),
    ('down_dil_conv_3x3',),
    ('down_se_conv_3x3',),
    ('down_avg_pool',),
    ('down_max_pool',),
  ),
  'up': (('up_conv_3x3', 'up_sep_conv_3x3'), ('up_dil_conv_3x3',), ('up_se_conv_3x3',)),
}
_SHARED = ('identity', 'down_avg_pool', 'down_max_pool')
_GATED = {'normal': 'se', 'down': 'down_se_conv_3x3', 'up': 'up_se_conv_3x3'}


class Sampling(NamedTuple):
  """Which channels are sampled, and where all go.

  Attributes:
    order: Permutation that puts the sampled channels first, [C, C]; None: they are the first.
    back: Permutation of the output, sampled channels first, to its final order, [C, C].
  """

  order: jax.Array | None
  back: jax.Array


def shuffled_sampling(channels: int, sample: int) -> Sampling:
  """The first channels, then a shuffle: channel g * (C / k) + i moves to i * k + g.

  Source: PC-DARTS' released code.
  """
  back = jnp.eye(channels).reshape(channels // sample, sample, channels).swapaxes(0, 1)
  return Sampling(None, back.reshape(channels, channels))


def random_sampling(order: jax.Array) -> Sampling:
  """The first channels of a permutation [C]; all return to their places.

  Source: PC-DARTS (Xu et al., 2020), section 3.1.
  """
  back = jnp.eye(order.size)[order]
  return Sampling(back.T, back)


class Mixer(NamedTuple):
  """What mix_edges needs for the E edges out of one state of one cell, c = C / sample.

  Attributes:
    kernels: One with many outputs for each kind of convolution: of the sample as it is, dilated,
      and (not for normal, whose `se` has no convolution) behind the gates.
    squeeze, squeeze_bias: First layer of all gates, [c, E * h] and [E * h].
    excite, excite_bias: Second layer, [E * h, E * c] and [E * c].
    mixing: Weighted sums of the candidates, from the features of each part to all edges' sampled
      channels, [F, E * c] each.
    edge_weights: Of the bypassed channels, E scalars.
  """

  kernels: tuple[jax.Array, ...]
  squeeze: jax.Array
  squeeze_bias: jax.Array
  excite: jax.Array
  excite_bias: jax.Array
  mixing: tuple[jax.Array, ...] = ()
  edge_weights: tuple[jax.Array, ...] = ()


class MixedEdges(nn.Module):
  """The parameters of all edges that leave the same state, stacked over the cells of a kind.

  Stacked, they are put in the form for mix_edges once instead of cell by cell, and the optimiser
  has few arrays to update.

  Attributes:
    resample: Which list of ops.OPERATIONS: normal, down or up.
    channels: Of the sample that goes through the candidates.
    edges: E, edges out of the state.
    cells: Number of cells.
  """

  resample: spatial.Resample
  channels: int
  edges: int
  cells: int

  @nn.compact
  def __call__(self, weights: jax.Array, edge_weights: jax.Array) -> list[Mixer]:
    """What mix_edges needs, cell by cell.

    Args:
      weights: Of the candidates, summing to 1, [E, N].
      edge_weights: Of the edges, [E].
    """
    stack = self.cells, self.edges
    parameters = self.param('operations', _stacked_init, self.resample, self.channels, stack)
    mixing = mixing_matrices(weights * edge_weights[:, None], self.channels, resample=self.resample)
    shared = {'mixing': mixing, 'edge_weights': tuple(edge_weights)}
    return [mixer._replace(**shared) for mixer in prepare(parameters, resample=self.resample)]


@functools.partial(jax.jit, static_argnums=(1, 2, 3))  # flax asks for the shapes at every trace
def _stacked_init(
  key: jax.Array, resample: spatial.Resample, channels: int, stack: tuple[int, ...]
) -> Any:
  """Fresh parameters of many mixed operations, with the axes of the stack in front."""
  operation = MixedOperation(resample, channels)
  x, weights = jnp.zeros((1, 2, 2, channels)), jnp.zeros(len(ops.OPERATIONS[resample]))
  keys = jax.random.split(key, math.prod(stack))
  flat = jax.vmap(lambda key: operation.init(key, x, weights)['params'])(keys)
  return jax.tree.map(lambda leaf: leaf.reshape(*stack, *leaf.shape[1:]), flat)


def mixing_matrices(
  weights: jax.Array, channels: int, *, resample: spatial.Resample
) -> tuple[jax.Array, ...]:
  """The weighted sums over the candidates as one matrix for each part of mix_edges.

  Args:
    weights: Of the candidates of every edge, times the edge's weight, [E, N].
    channels: c.
    resample: Which list of ops.OPERATIONS.

  Returns:
    [F, E * c] each; a part's features are [kind, edge, c], or [kind, c] where edges share it.
  """
  edges = weights.shape[0]
  of_kind = dict(zip(ops.OPERATIONS[resample], weights.T, strict=True))
  eye = np.eye(edges), np.eye(channels)

  def matrix(kinds: tuple[str, ...]) -> jax.Array:
    stacked = jnp.stack([of_kind[kind] for kind in kinds])
    if kinds[0] in _SHARED:
      rows = jnp.einsum('ke,io->kieo', stacked, eye[1])
    else:
      rows = jnp.einsum('ke,ef,io->keifo', stacked, *eye)
    return rows.reshape(-1, edges * channels)

  return tuple(matrix(kinds) for kinds in _PARTS[resample])


# A 3x3 convolution on another grid, as taps[offset, phase, index in the kernel] along one axis.
_PLAIN = np.eye(3)[:, None]
# Stride 2: rows 2i - 1, 2i, 2i + 1 are phase 1 of block i - 1 and both phases of block i.
_DOWN = np.array([[[0, 0, 0], [1, 0, 0]], [[0, 1, 0], [0, 0, 1]]], float)
# Transposed: row 2i sees the kernel's middle at i, row 2i + 1 the others at i and i + 1 or, with
# dilation 3, at i - 1 and i + 2.
_UP = np.array([[[0, 1, 0], [1, 0, 0]], [[0, 0, 0], [0, 0, 1]]], float)
_UP_DILATED = np.zeros((4, 2, 3))
_UP_DILATED[[0, 1, 3], [1, 0, 1], [0, 1, 2]] = 1

_TAPS = {'normal': _PLAIN, 'down': _DOWN, 'up': _UP}


def _in_both_axes(taps: np.ndarray) -> np.ndarray:
  """The same along rows and columns: [offsets^2, phases^2, 9], each of both axes as one."""
  offsets, phases, _ = taps.shape
  return np.einsum('rap,sbq->rsabpq', taps, taps).reshape(offsets**2, phases**2, 9)


def prepare(parameters: dict, *, resample: spatial.Resample) -> list[Mixer]:
  """Kernels for mix_edges out of the parameters of MixedOperation, [cells, E, ...] each."""
  conv, sep, dil = (parameters[kind] for kind in sum(_PARTS[resample][:2], ()))
  separable = sep['depthwise'].swapaxes(-1, -2) * sep['pointwise'][:, :, None, None]
  gate = parameters[_GATED[resample]]['gate']
  cells, edges = gate['squeeze']['bias'].shape[:2]
  identity = np.eye(edges)
  # Axes: n cells, r offsets, a phases, p taps, k kinds, e edges, i inputs, o outputs. Rows and
  # columns are one axis: with more axes XLA compiles the derivative for longer (0.11 for minutes).
  phases_last = resample == 'up'

  def assemble(kernels: list[jax.Array], taps: np.ndarray, own_input: bool = False) -> jax.Array:
    inputs, outputs = ('ei', 'kfo') if own_input else ('i', 'keo')
    shape = f'nr{inputs}a{outputs}' if phases_last else f'nra{inputs}{outputs}'
    offsets, phases, _ = taps.shape
    channels = kernels[0].shape[-1]
    stacked = jnp.stack(kernels).reshape(len(kernels), cells, edges, 9, channels, -1)
    terms = [_in_both_axes(taps), stacked] + ([identity] if own_input else [])
    formula = 'rap,knepio' + (',ef' if own_input else '')
    kernel = jnp.einsum(f'{formula}->{shape}', *terms)
    width = len(kernels) * edges * channels * (phases**2 if phases_last else 1)
    return kernel.reshape(cells, offsets, offsets, -1, width)

  kernels = [
    assemble([conv['kernel'], separable], _TAPS[resample]),
    assemble([dil['kernel']], _UP_DILATED if resample == 'up' else _PLAIN),
  ]
  if resample != 'normal':
    gated = parameters[_GATED[resample]]['kernel']
    kernels.append(assemble([gated], _TAPS[resample], own_input=True))
  stacked = Mixer(
    kernels=tuple(kernels),
    squeeze=jnp.einsum('neih->nieh', gate['squeeze']['kernel']).reshape(
      cells, gate['squeeze']['kernel'].shape[2], -1
    ),
    squeeze_bias=gate['squeeze']['bias'].reshape(cells, -1),
    excite=jnp.einsum('nehi,ef->nehfi', gate['excite']['kernel'], identity).reshape(
      cells, gate['squeeze']['bias'].shape[-1] * edges, -1
    ),
    excite_bias=gate['excite']['bias'].reshape(cells, -1),
  )
  leaves, tree = jax.tree.flatten(stacked)
  # jnp.split, because its derivative is one concatenation.
  parts = zip(*(jnp.split(leaf, cells) for leaf in leaves), strict=True)
  return [jax.tree.unflatten(tree, [leaf[0] for leaf in part]) for part in parts]


@functools.partial(jax.jit, static_argnames='resample')  # traced once for all cells of a level
def mix_edges(
  state: jax.Array, mixer: Mixer, order: jax.Array | None, *, resample: spatial.Resample
) -> list[tuple[jax.Array, jax.Array]]:
  """Runs all edges that leave one state.

  Args:
    state: [B, H, W, C].
    mixer: Kernels and weights of the E edges.
    order: Puts the sampled channels first, [C, C]; None: they are the first.
    resample: Which list of ops.OPERATIONS: normal, down or up.

  Returns:
    For every edge the mixed channels [B, H', W', C / sample], and the ones that were not sampled
    [B, H', W', C - C / sample], both times the edge's weight.
  """
  edges = len(mixer.edge_weights)
  channels = mixer.excite_bias.size // edges
  if order is not None:
    state = state @ order.astype(state.dtype)
  x, rest = state[..., :channels], state[..., channels:]
  squeezed = nn.relu(spatial.global_average(x) @ mixer.squeeze + mixer.squeeze_bias)
  gate = nn.sigmoid(squeezed @ mixer.excite + mixer.excite_bias)

  def per_edge(x: jax.Array) -> jax.Array:
    # Repeated by concatenation: the derivative of a broadcast over so few is a slow reduction.
    return spatial.scaled(jnp.concatenate([x] * edges, axis=-1), gate)

  def convolve(
    x: jax.Array, kernel: jax.Array, before: int, after: int, dilation: int = 1
  ) -> jax.Array:
    padding = ((before, after),) * 2
    return spatial.convolution(x, kernel, padding=padding, dilation=dilation)

  dense, dilated, *gated = mixer.kernels

  if resample == 'normal':
    normed = (convolve(x, dense, 1, 1), convolve(x, dilated, 2, 2, dilation=2), x)
    convolutions = 2
  elif resample == 'down':
    normed = (
      convolve(spatial.space_to_depth(x), dense, 1, 0),
      convolve(x[:, ::2, ::2], dilated, 1, 1),
      convolve(spatial.space_to_depth(per_edge(x)), gated[0], 1, 0),
      spatial.avg_pool_2x2(x),
      spatial.max_pool_2x2(x),
    )
    convolutions = 3
    rest = spatial.max_pool_2x2(rest)
  else:
    normed = (
      convolve(x, dense, 0, 1),
      convolve(x, dilated, 1, 2),
      convolve(per_edge(x), gated[0], 0, 1),
    )
    normed = tuple(part.reshape(*part.shape[:3], 4, -1) for part in normed)
    convolutions = 3
    rest = spatial.nearest_up(rest)

  parts = norm.standardise_parts(normed, None, 16 if channels % 16 == 0 else channels, convolutions)
  if resample == 'normal':  # the gate is positive: relu(x * gate) = relu(x) * gate
    parts += (per_edge(nn.relu(x)),)
  mixed = spatial.total([f @ m.astype(x.dtype) for f, m in zip(parts, mixer.mixing, strict=True)])
  if resample == 'up':
    mixed = spatial.depth_to_space(mixed.reshape(*mixed.shape[:3], -1))
  pieces = zip(jnp.split(mixed, edges, axis=-1), mixer.edge_weights, strict=True)
  return [(piece, (rest * weight).astype(x.dtype)) for piece, weight in pieces]
