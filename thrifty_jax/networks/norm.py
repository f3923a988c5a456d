"""Group normalisation with an explicit derivative."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thrifty_jax.networks.spatial import at_least_float32, space_sums

EPSILON = 1e-5


class Affine(NamedTuple):
  """Affine map y * scale + bias after a norm; both are per channel, [C]."""

  scale: jax.Array
  bias: jax.Array


def find_group_size(channels: int) -> int:
  """Returns how many channels are normalised together: 16, or all if 16 does not divide them."""
  return 16 if channels % 16 == 0 else channels


@functools.partial(jax.jit, static_argnames=('group', 'relu'))  # one trace for a level's cells
def standardise(
  x: jax.Array, group: int, affine: Affine | None = None, *, relu: bool = False
) -> jax.Array:
  """Returns `standardise_parts` of one array; `group` channels are normalised together."""
  return standardise_parts((x,), affine, group, int(relu))[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def standardise_parts(
  parts: tuple[jax.Array, ...], affine: Affine | None, group: int, rectified: int
) -> tuple[jax.Array, ...]:
  """Normalises each group of channels of an example to mean 0 and standard deviation 1, then relu.

  Several arrays are normalised at once, so that the many small operations on the statistics, which
  are in float32 at least, are done once. The derivative is explicit: automatic differentiation
  through the moments gives three times as many operations, and scale, bias and statistics would
  each read the arrays again. A second reverse-mode derivative is traced through the explicit one.

  Args:
    parts: Arrays [B, ..., C], equal in all sizes but C; the axes between are space.
    affine: Scale and bias of the channels of all parts, concatenated; None for no affine map.
    group: Channels in a group; it divides every C.
    rectified: Number of leading parts that a relu follows.
  """
  return _standardise(parts, affine, group, rectified)[0]


def _standardise(parts, affine, group, rectified):
  squares = [jnp.square(at_least_float32(x)) for x in parts]
  mean, square = _group_means(_channel_sums(parts, squares), parts, group)
  scale = lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0) + EPSILON)
  residuals = parts, affine, scale, -mean * scale
  outputs = [nn.relu(y) if i < rectified else y for i, y in enumerate(_outputs(*residuals))]
  return tuple(y.astype(x.dtype) for x, y in zip(parts, outputs, strict=True)), residuals


def _standardise_backward(group, rectified, residuals, gradients):
  parts, affine, scale, shift = residuals
  gradients = [
    jnp.where(y > 0, gradient, 0) if i < rectified else gradient
    for i, (y, gradient) in enumerate(zip(_outputs(*residuals), gradients, strict=True))
  ]
  products = [at_least_float32(g) * x for g, x in zip(gradients, parts, strict=True)]
  sums = _channel_sums(gradients, products)
  of_affine, own = None, scale
  if affine is not None:
    of_affine = Affine((sums[0] * shift + sums[1] * scale).sum(0), sums[0].sum(0))
    sums, own = sums * affine.scale, scale * affine.scale
  # With y = x * scale + shift: (gradient - mean(gradient) - y * mean(gradient * y)) * scale.
  offset, product = _group_means(sums, parts, group)
  slope = (product * scale + offset * shift) * scale
  moved = _scale_and_shift(parts, -scale * slope, -offset * scale - shift * slope)
  of_parts = tuple(
    (gradient * a + y).astype(x.dtype)
    for gradient, a, y, x in zip(gradients, _split_like(own, parts), moved, parts, strict=True)
  )
  return of_parts, of_affine


standardise_parts.defvjp(_standardise, _standardise_backward)


def _outputs(parts, affine, scale, shift) -> list[jax.Array]:
  """Returns the normalised parts before any relu, given the scale and shift that normalise them."""
  if affine is not None:
    scale, shift = scale * affine.scale, shift * affine.scale + affine.bias
  return _scale_and_shift(parts, scale, shift)


def _scale_and_shift(parts, scale, shift) -> list[jax.Array]:
  """Returns x * scale + shift of every part; scale and shift are [B, sum of all C]."""
  coefficients = zip(_split_like(scale, parts), _split_like(shift, parts), strict=True)
  return [x * a + b for x, (a, b) in zip(parts, coefficients, strict=True)]


def _split_like(statistic: jax.Array, parts: Sequence[jax.Array]) -> list[jax.Array]:
  """Splits [B, sum of all C] into one array [B, 1.., C] for every part."""
  ends = np.cumsum([x.shape[-1] for x in parts])[:-1]
  between = range(1, parts[0].ndim - 1)
  return [jnp.expand_dims(piece, between) for piece in jnp.split(statistic, ends, axis=-1)]


def _channel_sums(first: Sequence[jax.Array], second: Sequence[jax.Array]) -> jax.Array:
  """Returns the sums of both over space, [2, B, sum of all C]."""
  sums = space_sums(*first, *second)
  both = sums[: len(first)], sums[len(first) :]
  # Not concatenated along the batch: devices that share it would have to exchange their rows.
  return jnp.stack([jnp.concatenate(one, axis=-1) for one in both])


def _group_means(sums: jax.Array, parts: Sequence[jax.Array], group: int) -> jax.Array:
  """Returns the means over space and each group, repeated for its channels, [2, B, sum of all C].

  One product with a block matrix takes half the time of sums over reshaped groups on a CPU. On a
  GPU such a product is a call of cuBLAS, which takes 15 us.
  """
  size = group * math.prod(parts[0].shape[1:-1])
  if jax.default_backend() == 'gpu':
    means = sums.reshape(*sums.shape[:-1], -1, group).sum(-1) / size
    return jnp.repeat(means, group, axis=-1)
  blocks = np.kron(np.eye(sums.shape[-1] // group), np.full((group, group), 1 / size))
  return jnp.matmul(sums, blocks.astype(sums.dtype), precision='highest')


class Norm(nn.Module):
  """GroupNorm over H, W and groups of `find_group_size` channels."""

  affine: bool = True  # whether a scale and a bias per channel follow
  relu: bool = False  # whether a relu comes last

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    affine = None
    if self.affine:
      scale = self.param('scale', nn.initializers.ones, (channels,))
      affine = Affine(scale, self.param('bias', nn.initializers.zeros, (channels,)))
    return standardise(x, find_group_size(channels), affine, relu=self.relu)
