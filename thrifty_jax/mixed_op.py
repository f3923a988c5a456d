"""The mixed operation of the search: all candidates of an edge, on a sample of the channels.

MixedOperation is the definition, one candidate after the other. The supernet runs mix_edges, which
computes the same for all edges out of one state in a few wide operations.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from thrifty_jax import ops


class MixedOperation(nn.Module):
  """Weighted sum of the candidate operations of one edge.

  Attributes:
    resample: Which list of ops.OPERATIONS: normal, down or up.
    channels: Of the sample that goes through the candidates.

  Source: PC-DARTS (Xu et al., 2020), section 3.1.
  """

  resample: ops.Resample
  channels: int

  @nn.compact
  def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
    """Mixes x [B, H, W, C / sample] with weights [N] that sum to 1; [B, H', W', C / sample]."""
    return sum(
      weight * ops.operation(kind, channels=self.channels, mixed=True, name=kind)(x)
      for kind, weight in zip(ops.OPERATIONS[self.resample], weights, strict=True)
    )


# The fast form: candidates in the order of its features. Each edge has its own convolutions; pools
# and identity have no parameters, so the edges out of a state share them.
_CONVOLUTIONS = {
  'normal': ('conv_3x3', 'sep_conv_3x3', 'dil_conv_3x3'),
  'down': ('down_conv_3x3', 'down_sep_conv_3x3', 'down_se_conv_3x3', 'down_dil_conv_3x3'),
  'up': ('up_conv_3x3', 'up_sep_conv_3x3', 'up_se_conv_3x3', 'up_dil_conv_3x3'),
}
_SHARED = {'normal': ('identity',), 'down': ('down_avg_pool', 'down_max_pool'), 'up': ()}
_GATED = {'normal': 'se', 'down': 'down_se_conv_3x3', 'up': 'up_se_conv_3x3'}


class Sampling(NamedTuple):
  """Which channels are sampled, and where they go.

  Attributes:
    pick: The sampled channels, [C, C / sample], zeros and ones; None: the first.
    mixed_to: Place of every mixed channel in the output, [C / sample, C].
    bypass_to: Place of every other channel, [C, C]; rows of sampled ones are zero.
  """

  pick: jax.Array | None
  mixed_to: jax.Array
  bypass_to: jax.Array

  def sampled(self, state: jax.Array) -> jax.Array:
    """The sampled channels of state [..., C]."""
    if self.pick is None:
      return state[..., : self.mixed_to.shape[0]]
    return state @ self.pick.astype(state.dtype)


def shuffled_sampling(channels: int, sample: int) -> Sampling:
  """The first channels, then a shuffle: channel g * (C / k) + i moves to i * k + g.

  Source: PC-DARTS' released code.
  """
  sampled = channels // sample
  place = jnp.eye(channels).reshape(sampled, sample, channels).swapaxes(0, 1)
  place = place.reshape(channels, channels)
  return Sampling(None, place[:sampled], place.at[:sampled].set(0))


def random_sampling(order: jax.Array, sample: int) -> Sampling:
  """The first channels of a permutation [C]; all return to their places.

  Source: PC-DARTS (Xu et al., 2020), section 3.1.
  """
  identity = jnp.eye(order.size)
  mixed_to = identity[order[: order.size // sample]]
  return Sampling(mixed_to.T, mixed_to, identity * (1 - mixed_to.sum(0)))


class Mixer(NamedTuple):
  """What mix_edges needs for the E edges out of one state of one cell, c = C / sample.

  Attributes:
    dense: Convolutions of the sample as it is, one kernel of many outputs.
    gated: Convolutions behind the gates; None for normal, whose `se` has no convolution.
    dilated: Dilated convolutions.
    squeeze, squeeze_bias: First layer of all gates, [c, E * h] and [E * h].
    excite, excite_bias: Second layer, [E * h, E * c] and [E * c].
    mixing: From every feature to every edge's output, [F, E * C].
  """

  dense: jax.Array
  gated: jax.Array | None
  dilated: jax.Array
  squeeze: jax.Array
  squeeze_bias: jax.Array
  excite: jax.Array
  excite_bias: jax.Array
  mixing: jax.Array


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

  resample: ops.Resample
  channels: int
  edges: int
  cells: int

  @nn.compact
  def __call__(
    self, weights: jax.Array, edge_weights: jax.Array, sampling: Sampling
  ) -> list[Mixer]:
    """What mix_edges needs, cell by cell.

    Args:
      weights: Of the candidates, summing to 1, [E, N].
      edge_weights: Of the edges, [E].
      sampling: Of the channels.
    """
    operation = MixedOperation(self.resample, self.channels)

    def init(key: jax.Array) -> dict:
      x, weight = jnp.zeros((1, 2, 2, self.channels)), jnp.zeros(weights.shape[1])
      keys = jax.random.split(key, (self.cells, self.edges))
      return jax.vmap(jax.vmap(lambda key: operation.init(key, x, weight)['params']))(keys)

    parameters = {}
    for kind in ops.OPERATIONS[self.resample]:
      if kind in _CONVOLUTIONS[self.resample] + (_GATED[self.resample],):
        parameters[kind] = self.param(kind, lambda key, kind=kind: init(key)[kind])
    mixing = mixing_matrix(weights, edge_weights, sampling, resample=self.resample)
    return prepare(parameters, mixing, resample=self.resample)


def mixing_matrix(
  weights: jax.Array, edge_weights: jax.Array, sampling: Sampling, *, resample: ops.Resample
) -> jax.Array:
  """The weighted sums of all edges out of a state as one matrix, [F, E * C].

  Its rows are the features of mix_edges: convolutions [kind, edge, c], shared candidates [kind, c],
  `se` [edge, c] and the whole state [C].
  """
  edges = weights.shape[0]
  weights = dict(zip(ops.OPERATIONS[resample], (weights * edge_weights[:, None]).T, strict=True))

  def own(kinds: tuple[str, ...]) -> jax.Array:
    parts = (jnp.stack([weights[kind] for kind in kinds]), jnp.eye(edges), sampling.mixed_to)
    return jnp.einsum('ke,ef,io->keifo', *parts)

  rows = [own(_CONVOLUTIONS[resample])]
  if _SHARED[resample]:
    shared = jnp.stack([weights[kind] for kind in _SHARED[resample]])
    rows.append(jnp.einsum('ke,io->kieo', shared, sampling.mixed_to))
  if resample == 'normal':
    rows.append(own(('se',)))
  rows.append(jnp.einsum('e,io->ieo', edge_weights, sampling.bypass_to))
  return jnp.concatenate([row.reshape(-1, edges * sampling.bypass_to.shape[1]) for row in rows])


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
_PADDING = {'normal': (1, 1), 'down': (1, 0), 'up': (0, 1)}


def prepare(parameters: dict, mixing: jax.Array, *, resample: ops.Resample) -> list[Mixer]:
  """Kernels for mix_edges out of the parameters of MixedOperation, [cells, E, ...] each."""
  conv, sep, *_, dil = (parameters[kind] for kind in _CONVOLUTIONS[resample])
  separable = sep['depthwise'].swapaxes(-1, -2) * sep['pointwise'][:, :, None, None]
  gate = parameters[_GATED[resample]]['gate']
  cells, edges = gate['squeeze']['bias'].shape[:2]
  identity = np.eye(edges)
  # Axes: n cells, r s offsets, a b phases, p q taps, k kinds, e edges, i inputs, o outputs.
  phases_last = resample == 'up'

  def assemble(kernels: list[jax.Array], taps: np.ndarray, own_input: bool = False) -> jax.Array:
    inputs, outputs = ('ei', 'kfo') if own_input else ('i', 'keo')
    shape = f'nrs{inputs}ab{outputs}' if phases_last else f'nrsab{inputs}{outputs}'
    terms = [taps, taps, jnp.stack(kernels)] + ([identity] if own_input else [])
    formula = 'rap,sbq,knepqio' + (',ef' if own_input else '')
    kernel = jnp.einsum(f'{formula}->{shape}', *terms)
    channels = kernels[0].shape[-2] * (edges if own_input else 1)
    channels *= 1 if phases_last else taps.shape[1] ** 2
    return kernel.reshape(cells, taps.shape[0], taps.shape[0], channels, -1)

  gated = parameters[_GATED[resample]].get('kernel')
  stacked = Mixer(
    dense=assemble([conv['kernel'], separable], _TAPS[resample]),
    gated=None if gated is None else assemble([gated], _TAPS[resample], own_input=True),
    dilated=assemble([dil['kernel']], _UP_DILATED if resample == 'up' else _PLAIN),
    squeeze=jnp.einsum('neih->nieh', gate['squeeze']['kernel']).reshape(
      cells, gate['squeeze']['kernel'].shape[2], -1
    ),
    squeeze_bias=gate['squeeze']['bias'].reshape(cells, -1),
    excite=jnp.einsum('nehi,ef->nehfi', gate['excite']['kernel'], identity).reshape(
      cells, gate['squeeze']['bias'].shape[-1] * edges, -1
    ),
    excite_bias=gate['excite']['bias'].reshape(cells, -1),
    mixing=mixing,
  )
  leaves, tree = jax.tree.flatten(stacked._replace(mixing=None))
  # jnp.split, because its derivative is one concatenation.
  parts = zip(*(jnp.split(leaf, cells) for leaf in leaves), strict=True)
  return [
    jax.tree.unflatten(tree, [leaf[0] for leaf in part])._replace(mixing=mixing) for part in parts
  ]


def mix_edges(
  state: jax.Array, mixer: Mixer, sampling: Sampling, *, resample: ops.Resample
) -> list[jax.Array]:
  """Runs all edges that leave one state.

  Args:
    state: [B, H, W, C].
    mixer: Kernels and weights of the E edges.
    sampling: Of the channels.
    resample: Which list of ops.OPERATIONS: normal, down or up.

  Returns:
    E arrays [B, H', W', C]: what every edge adds to its node, sampled and other channels in place.
  """
  x = sampling.sampled(state)
  channels = x.shape[-1]
  edges = mixer.excite_bias.size // channels
  padding = _PADDING[resample]

  def convolve(x: jax.Array, kernel: jax.Array, padding: tuple[int, int], dilation: int = 1):
    return ops.convolution(x, kernel, padding=(padding, padding), dilation=dilation)

  squeezed = nn.relu(x.mean((1, 2)) @ mixer.squeeze + mixer.squeeze_bias)
  gate = nn.sigmoid(squeezed @ mixer.excite + mixer.excite_bias).astype(x.dtype)
  gate = gate.reshape(-1, 1, 1, edges, channels)

  def per_edge(x: jax.Array) -> jax.Array:  # [B, H, W, P * c] -> [B, H, W, P * E * c]
    batch, height, width, _ = x.shape
    blocks = x.reshape(batch, height, width, -1, 1, channels)
    return (blocks * gate[:, :, :, None]).reshape(batch, height, width, -1)

  shared, unnormed, bypassed = [], [], state
  if resample == 'normal':
    convolved = [convolve(x, mixer.dense, padding), convolve(x, mixer.dilated, (2, 2), 2)]
    shared = [x]
    unnormed = [per_edge(nn.relu(x))]  # the gate is positive: relu(x * gate) = relu(x) * gate
  elif resample == 'down':
    blocks = ops.space_to_depth(x)
    convolved = [
      convolve(blocks, mixer.dense, padding),
      convolve(per_edge(blocks), mixer.gated, padding),
      convolve(x[:, ::2, ::2], mixer.dilated, (1, 1)),
    ]
    bypassed = ops.max_pool_2x2(state)
    shared = [ops.avg_pool_2x2(x), sampling.sampled(bypassed)]
  else:
    convolved = [
      convolve(x, mixer.dense, padding),
      convolve(per_edge(x), mixer.gated, padding),
      convolve(x, mixer.dilated, (1, 2)),
    ]
    convolved = [part.reshape(*part.shape[:3], 4, -1) for part in convolved]

  features = jnp.concatenate(convolved + shared, axis=-1)
  group = 16 if channels % 16 == 0 else channels
  features = ops.standardise(features, features.shape[-1] // group)
  floor = np.full(features.shape[-1], -np.inf, np.float32)
  floor[: sum(part.shape[-1] for part in convolved)] = 0
  features = jnp.where(features > floor.astype(x.dtype), features, 0)  # relu of the convolutions
  mixing = mixer.mixing.astype(x.dtype)
  if resample == 'up':  # the state is the same in all four phases
    through = state @ mixing[-state.shape[-1] :]
    mixed = features @ mixing[: -state.shape[-1]] + through[:, :, :, None]
    mixed = ops.depth_to_space(mixed)
  else:
    mixed = jnp.concatenate([features, *unnormed, bypassed], axis=-1) @ mixing
  return jnp.split(mixed, edges, axis=-1)
