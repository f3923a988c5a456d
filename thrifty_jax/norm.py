"""Group normalisation, with its derivative written out."""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

EPSILON = 1e-5


@functools.partial(jax.jit, static_argnames='groups')  # cells of a level share the trace
def standardise(x: jax.Array, groups: int) -> jax.Array:
  """Gives every group of channels mean 0 and deviation 1, example by example.

  Args:
    x: [B, ..., C]; statistics are taken over all axes between and over C / groups channels.
    groups: Consecutive groups of channels; it divides C.

  Returns:
    The same shape and type as x; statistics are in float32 at least.
  """
  return standardise_parts((x,), x.shape[-1] // groups, 0)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def standardise_parts(
  parts: tuple[jax.Array, ...], group: int, rectified: int
) -> tuple[jax.Array, ...]:
  """Standardises several arrays; the first ones go through a relu as well.

  Together, because the many small operations on the statistics are then done once. The derivative
  is written out: traced through the moments it is three times as many operations. A second
  derivative in reverse mode traces through what is written here.

  Args:
    parts: Arrays [B, ..., C], alike in all but C.
    group: Channels of a group; it divides every C.
    rectified: Number of leading parts with a relu.
  """
  return _standardise(parts, group, rectified)[0]


def _standardise(parts, group, rectified):
  mean, square = _group_means(parts, [jnp.square(at_least_float32(x)) for x in parts], group)
  scale = lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0) + EPSILON)
  moved = _affine(parts, scale, -mean * scale)
  outputs = [nn.relu(y) if i < rectified else y for i, y in enumerate(moved)]
  return tuple(y.astype(x.dtype) for x, y in zip(parts, outputs, strict=True)), (
    parts,
    scale,
    -mean * scale,
  )


def _standardise_backward(group, rectified, residuals, gradients):
  # With y = x * scale + shift: (gradient - mean(gradient) - y * mean(gradient * y)) * scale.
  parts, scale, shift = residuals
  gradients = [
    jnp.where(y > 0, gradient, 0) if i < rectified else gradient
    for i, (y, gradient) in enumerate(zip(_affine(parts, scale, shift), gradients, strict=True))
  ]
  products = [gradient * x for gradient, x in zip(gradients, parts, strict=True)]
  offset, product = _group_means(gradients, products, group)
  slope = (product * scale + offset * shift) * scale
  moved = _affine(parts, -scale * slope, -offset * scale - shift * slope)
  scales = _split_like(scale, parts)
  return (
    tuple(
      (gradient * a + y).astype(x.dtype)
      for gradient, a, y, x in zip(gradients, scales, moved, parts, strict=True)
    ),
  )


standardise_parts.defvjp(_standardise, _standardise_backward)


def _affine(parts, scale, shift) -> list[jax.Array]:
  """x * scale + shift of every part; scale and shift are [B, sum of all C]."""
  coefficients = zip(_split_like(scale, parts), _split_like(shift, parts), strict=True)
  return [x * a + b for x, (a, b) in zip(parts, coefficients, strict=True)]


def _split_like(statistic: jax.Array, parts: Sequence[jax.Array]) -> list[jax.Array]:
  """Cuts [B, sum of all C] into one [B, 1.., C] for every part."""
  ends = np.cumsum([x.shape[-1] for x in parts])[:-1]
  between = range(1, parts[0].ndim - 1)
  return [jnp.expand_dims(piece, between) for piece in jnp.split(statistic, ends, axis=-1)]


def _group_means(
  first: Sequence[jax.Array], second: Sequence[jax.Array], group: int
) -> tuple[jax.Array, jax.Array]:
  """Means of both over space and each group of channels, [B, sum of all C] each."""
  # Channel sums first, in one pass: half the time of a reduction over reshaped groups. Then one
  # product with a matrix of blocks averages all groups.
  space = tuple(range(1, first[0].ndim - 1))
  sums = [
    jnp.concatenate([at_least_float32(x).sum(space) for x in arrays], axis=-1)
    for arrays in (first, second)
  ]
  # Not one below the other: devices that share the batch would have to send their rows around.
  sums = jnp.stack(sums)
  pixels = math.prod(first[0].shape[1:-1])
  blocks = np.kron(np.eye(sums.shape[-1] // group), np.full((group, group), 1 / (group * pixels)))
  means = jnp.matmul(sums, blocks.astype(sums.dtype), precision='highest')
  return means[0], means[1]


def at_least_float32(x: jax.Array) -> jax.Array:
  """As it is where that is wider, else in float32."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Norm(nn.Module):
  """GroupNorm over H, W and groups of 16 channels (one group where 16 does not divide C).

  Attributes:
    affine: Whether a scale and a bias per channel follow.
  """

  affine: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    x = standardise(x, channels // 16 if channels % 16 == 0 else 1)
    if not self.affine:
      return x
    scale = self.param('scale', nn.initializers.ones, (channels,))
    bias = self.param('bias', nn.initializers.zeros, (channels,))
    return x * scale.astype(x.dtype) + bias.astype(x.dtype)
