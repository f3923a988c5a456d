"""The mixed operation of the search: all candidates of an edge, on a sample of the channels.

MixedOperation is the definition, one candidate after the other. The supernet runs mix_edges, which
computes the same for all edges out of one state in a few wide operations.
"""

import functools
import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

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

  def setup(self):
    for kind in ops.OPERATIONS[self.resample]:
      setattr(self, kind, ops.operation(kind, channels=self.channels, mixed=True))

  def candidate(self, kind: str) -> nn.Module:
    """The module of one candidate."""
    return getattr(self, kind)

  def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
    """Mixes x [B, H, W, C / sample] with weights [N] that sum to 1; [B, H', W', C / sample]."""
    kinds = ops.OPERATIONS[self.resample]
    return sum(w * self.candidate(kind)(x) for kind, w in zip(kinds, weights, strict=True))


def mix_edges(
  edges: Sequence[MixedOperation],
  state: jax.Array,
  *,
  operation_weights: Sequence[jax.Array],
  edge_weights: Sequence[jax.Array],
) -> list[tuple[jax.Array, jax.Array]]:
  """Runs all edges that leave one state.

  The first channels are sampled, the rest bypass the candidates. Convolutions of the same input
  run as one with many outputs. A weight is positive, so it moves through the relu into the norm.

  Args:
    edges: E mixed operations with the same list of candidates.
    state: [B, H, W, C].
    operation_weights: Softmax of the alphas, E arrays [N].
    edge_weights: Softmax of the betas, E scalars.

  Returns:
    For every edge the mixed channels [B, H', W', C / sample], and the ones that were not sampled
    [B, H', W', C - C / sample], both times the edge's weight.
  """
  resample, channels = edges[0].resample, edges[0].channels
  sampled, rest = state[..., :channels], state[..., channels:]
  weights = [
    dict(zip(ops.OPERATIONS[resample], (edge_weight * weight).astype(state.dtype), strict=True))
    for edge_weight, weight in zip(edge_weights, operation_weights, strict=True)
  ]
  mixed = _mix_convolutions(edges, sampled, weights)
  for kind in ('identity', 'down_avg_pool', 'down_max_pool'):
    if kind in weights[0]:
      shared = edges[0].candidate(kind)(sampled)  # no parameters: the same for all edges
      mixed = [mix + shared * weight[kind] for mix, weight in zip(mixed, weights, strict=True)]
  if 'se' in weights[0]:
    positive = nn.relu(sampled)  # the gate is positive: relu(x * gate) = relu(x) * gate
    gates = [w['se'] * e.candidate('se').gate(sampled) for e, w in zip(edges, weights, strict=True)]
    mixed = [mix + positive * gate[:, None, None] for mix, gate in zip(mixed, gates, strict=True)]
  bypassed = bypass(rest, resample=resample)
  return [
    (mix, bypassed * weight.astype(state.dtype))
    for mix, weight in zip(mixed, edge_weights, strict=True)
  ]


def _mix_convolutions(
  edges: Sequence[MixedOperation], x: jax.Array, weights: Sequence[dict[str, jax.Array]]
) -> list[jax.Array]:
  """The weighted convolutions of every edge, [B, H', W', C / sample] each.

  All of one input and dilation run as one convolution, and all together through one norm with a
  group per candidate and edge, one relu and one sum.
  """
  resample, channels = edges[0].resample, edges[0].channels
  kinds = [k for k in ops.OPERATIONS[resample] if 'conv' in k]
  kinds.sort(key=lambda kind: (edges[0].candidate(kind).gated, edges[0].candidate(kind).dilation))
  outputs = []
  for (gated, dilation), group in itertools.groupby(
    kinds, key=lambda kind: (edges[0].candidate(kind).gated, edges[0].candidate(kind).dilation)
  ):
    candidates = [edge.candidate(kind) for kind in group for edge in edges]
    convolve = functools.partial(_convolve, resample=resample, dilation=dilation)
    if gated:  # an edge's gate makes the input its own
      outputs += [convolve(x * c.gate(x)[:, None, None], c.dense_kernel()) for c in candidates]
    else:
      outputs.append(convolve(x, jnp.concatenate([c.dense_kernel() for c in candidates], axis=-1)))

  y = ops.standardise(jnp.concatenate(outputs, axis=-1), len(kinds) * len(edges))
  factors = jnp.stack([weight[kind] for kind in kinds for weight in weights])
  y = nn.relu(y * jnp.repeat(factors, channels))
  y = sum(jnp.split(y, len(kinds), axis=-1))
  if resample == 'up':
    y = ops.interleave([[y[:, 2 * a + b] for b in (0, 1)] for a in (0, 1)])
  return jnp.split(y, len(edges), axis=-1)


def _convolve(
  x: jax.Array, kernel: jax.Array, *, resample: ops.Resample, dilation: int
) -> jax.Array:
  """[B, H', W', C'], or for up the four phases [B, 4, H, W, C'], not yet interleaved."""
  if resample != 'up':
    return ops.resampling_convolution(x, kernel, resample=resample, dilation=dilation)
  return jnp.stack(sum(ops.up_phases(x, kernel, dilation=dilation), []), axis=1)


def bypass(x: jax.Array, *, resample: ops.Resample) -> jax.Array:
  """What the channels that are not sampled go through: nothing, a max-pool, or nearest x2."""
  return {'normal': lambda x: x, 'down': ops.max_pool_2x2, 'up': ops.nearest_up}[resample](x)


def shuffle(x: jax.Array, *, groups: int) -> jax.Array:
  """Channel shuffle: channel g * (C / groups) + i moves to i * groups + g; [..., C]."""
  *leading, channels = x.shape
  x = x.reshape(*leading, groups, channels // groups)
  return jnp.swapaxes(x, -1, -2).reshape(*leading, channels)


def return_channels(
  mixed: jax.Array, bypassed: jax.Array, *, sample: int, order: jax.Array | None
) -> jax.Array:
  """Joins sampled and bypassed channels: shuffled, or each back in its place; [B, H, W, C].

  Source: PC-DARTS: its released code takes the first channels and shuffles, its paper draws a
  random subset, here the first of `order`, a permutation [C].
  """
  x = jnp.concatenate([mixed, bypassed], axis=-1)
  return shuffle(x, groups=sample) if order is None else x[..., jnp.argsort(order)]
