"""The mixed operation of the search: all candidates of an edge, on a sample of the channels.

MixedOperation is the definition; it runs one candidate after the other. The supernet runs
mix_edges, which computes the same for all edges out of one state: a few wide operations compute the
candidates that belong to a part, and MixedOperation the others.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from thrifty_jax.networks import norm, ops, space, spatial


class MixedOperation(nn.Module):
  """Weighted sum of an edge's candidate operations (PC-DARTS, Xu et al., 2020, section 3.1)."""

  candidates: tuple[str, ...]  # names of the operations, all of one list
  channels: int  # sampled channels, which go through the candidates

  @nn.compact
  def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
    """Mixes x [B, H, W, C / sample] with weights [N] that sum to 1; [B, H', W', C / sample]."""
    outputs = [
      ops.operation(name, channels=self.channels, mixed=True, name=name)(x)
      for name in self.candidates
    ]
    return spatial.total([w * y for w, y in zip(weights, outputs, strict=True)])


# Parts of the fast form in the order of their addition. Each edge has its own convolutions; pools
# and identity have no parameters, so the edges out of a state share them.
CONVOLUTIONS = ('dense', 'dilated', 'gated')
SHARED = ('identity', 'avg_pool', 'max_pool')
PARTS = (*CONVOLUTIONS, *SHARED, 'gate')
_STATIC = {'static': True}  # marks a field that JAX compiles anew for


def part_of(name: str) -> str | None:
  """Returns the part of mix_edges that computes an operation, or None if only its module does."""
  row = space.operation(name)
  if row.form != 'convolution':  # zeros are a part that is never computed
    return row.form if row.form in (*PARTS, 'zeros') else None
  if row.gated:
    fits = row.resample != 'normal' and row.dilation == 1 and not row.separable
    return 'gated' if fits else None
  if row.dilation == 1:
    return 'dense'
  return 'dilated' if row.dilation == (3 if row.resample == 'up' else 2) else None


class Sampling(NamedTuple):
  """Permutations that select the sampled channels and restore the order."""

  order: jax.Array | None  # puts the sampled channels first, [C, C]; None if they are the first
  back: jax.Array  # from the output, sampled channels first, to its final order, [C, C]


def shuffled_sampling(channels: int, sample: int) -> Sampling:
  """Samples the first channels; then, as PC-DARTS's code, moves g * (C / k) + i to i * k + g."""
  back = jnp.eye(channels).reshape(channels // sample, sample, channels).swapaxes(0, 1)
  return Sampling(None, back.reshape(channels, channels))


def random_sampling(order: jax.Array) -> Sampling:
  """Samples the first channels of a permutation [C]; all return to their places, as in PC-DARTS."""
  back = jnp.eye(order.size)[order]
  return Sampling(back.T, back)


# Kernel and bias of both layers of E gates, [c, E * h], [E * h], [E * h, E * c], [E * c].
Gates = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixer:
  """Parameters and weights of the E edges out of one state of one cell, for mix_edges."""

  candidates: tuple[str, ...] = dataclasses.field(metadata=_STATIC)  # names of the operations
  channels: int = dataclasses.field(metadata=_STATIC)  # sampled channels, c
  kernels: dict[str, jax.Array]  # of each convolutional part, with the outputs of all candidates
  gates: Gates | None  # gates of the gated candidate, if any
  plain: dict[str, Any]  # parameters of the candidates without a part, by name, [E, ...] each
  mixing: dict[str, jax.Array]  # weighted sums over the features of each part, [F, E * c]
  weights: jax.Array  # weights of the candidates times the weight of the edge, [E, N]
  edge_weights: tuple[jax.Array, ...]  # weights of the bypassed channels, E scalars

  @property
  def resample(self) -> space.Resample:
    """List of the operations."""
    return space.operation(self.candidates[0]).resample


@jax.jit  # traced once for all cells of a level
def mix_edges(
  state: jax.Array, mixer: Mixer, order: jax.Array | None
) -> list[tuple[jax.Array, jax.Array]]:
  """Runs all edges that leave one state [B, H, W, C], given the sampling's order.

  Returns:
    The mixed channels of every edge, [B, H', W', C / sample], and the ones that were not sampled,
    [B, H', W', C - C / sample], both times the weight of the edge.
  """
  if order is not None:
    state = state @ order.astype(state.dtype)
  x, rest = state[..., : mixer.channels], state[..., mixer.channels :]
  mixed = spatial.total(_mix_parts(x, mixer) + _mix_one_by_one(x, mixer))
  if mixer.resample == 'down':
    rest = spatial.max_pool_2x2(rest)
  elif mixer.resample == 'up':
    rest = spatial.nearest_up(rest)
  pieces = jnp.split(mixed, len(mixer.edge_weights), axis=-1)
  return [
    (piece, (rest * weight).astype(x.dtype))
    for piece, weight in zip(pieces, mixer.edge_weights, strict=True)
  ]


def _mix_parts(x: jax.Array, mixer: Mixer) -> list[jax.Array]:
  """Mixes the candidates that have a part; returns one array [B, H', W', E * c] or none."""
  edges, channels, resample = len(mixer.edge_weights), mixer.channels, mixer.resample
  if mixer.gates is not None:
    squeeze, squeeze_bias, excite, excite_bias = mixer.gates
    squeezed = nn.relu(spatial.global_average(x) @ squeeze + squeeze_bias)
    gate = nn.sigmoid(squeezed @ excite + excite_bias)

  def per_edge(x: jax.Array) -> jax.Array:
    # Repeated by concatenation: the derivative of a broadcast over few edges is a slow reduction.
    return spatial.scale(jnp.concatenate([x] * edges, axis=-1), gate)

  def convolve(x: jax.Array, part: str, before: int, after: int, dilation: int = 1) -> jax.Array:
    padding = ((before, after),) * 2
    return spatial.convolution(x, mixer.kernels[part], padding=padding, dilation=dilation)

  def features(part: str) -> jax.Array:
    """Returns the output of a part before its norm."""
    if part in SHARED:
      return ops.PARAMETERLESS[part](x)
    source = per_edge(x) if part == 'gated' else x
    if resample == 'normal':
      reach = 2 if part == 'dilated' else 1
      return convolve(source, part, reach, reach, dilation=reach)
    if resample == 'down':
      if part == 'dilated':
        return convolve(source[:, ::2, ::2], part, 1, 1)
      return convolve(spatial.space_to_depth(source), part, 1, 0)
    phases = convolve(source, part, *((1, 2) if part == 'dilated' else (0, 1)))
    return phases.reshape(*phases.shape[:3], 4, -1)

  found = {part: features(part) for part in PARTS if part in mixer.mixing and part != 'gate'}
  if found:
    group, convolutions = norm.find_group_size(channels), len(mixer.kernels)
    normed = norm.standardise_parts(tuple(found.values()), None, group, convolutions)
    found = dict(zip(found, normed, strict=True))
  if 'gate' in mixer.mixing:  # the gate is positive: relu(x * gate) = relu(x) * gate
    found['gate'] = per_edge(nn.relu(x))
  if not found:
    return []
  mixed = spatial.total([f @ mixer.mixing[part].astype(x.dtype) for part, f in found.items()])
  if resample == 'up':
    mixed = spatial.depth_to_space(mixed.reshape(*mixed.shape[:3], -1))
  return [mixed]


def _mix_one_by_one(x: jax.Array, mixer: Mixer) -> list[jax.Array]:
  """Mixes the candidates without a part; returns one array [B, H', W', E * c] or none."""
  chosen = [i for i, name in enumerate(mixer.candidates) if part_of(name) is None]
  if not chosen:
    return []
  names = tuple(mixer.candidates[i] for i in chosen)
  operation = MixedOperation(names, mixer.channels, parent=None)

  def mix(edge: int) -> jax.Array:
    own = jax.tree.map(lambda leaf: leaf[edge], mixer.plain)
    weights = mixer.weights[edge, np.asarray(chosen)].astype(x.dtype)
    mixed: Any = operation.apply({'params': own}, x, weights)
    return mixed

  return [jnp.concatenate([mix(edge) for edge in range(len(mixer.weights))], axis=-1)]
