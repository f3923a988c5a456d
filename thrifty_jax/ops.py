"""The candidate operations of a cell, and the layers around them.

Every operation maps [B, H, W, C] to [B, H', W', C] where H' is H (normal), H/2 (down) or 2H (up).
The forms below were chosen by measurement on the CPU and are exact: a depthwise convolution as
shifted multiply-adds, a transposed one as the four phases of its output, pools as strided slices.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Resample = Literal['normal', 'down', 'up']

# Names and order as they stand in genotypes; the order breaks ties.
OPERATIONS: dict[str, tuple[str, ...]] = {
  'down': (
    'down_avg_pool',
    'down_max_pool',
    'down_conv_3x3',
    'down_dil_conv_3x3',
    'down_sep_conv_3x3',
    'down_se_conv_3x3',
  ),
  'up': ('up_conv_3x3', 'up_dil_conv_3x3', 'up_sep_conv_3x3', 'up_se_conv_3x3'),
  'normal': ('identity', 'none', 'se', 'conv_3x3', 'dil_conv_3x3', 'sep_conv_3x3'),
}

NORM_EPSILON = 1e-5
kernel_init = nn.initializers.he_normal()


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1) -> jax.Array:
  """Convolution padded by dilation * (k - 1) / 2 on every side, [B, H / stride, W / stride, C'].

  Args:
    x: [B, H, W, C].
    kernel: [k, k, C, C'] with odd k.
    stride: Step of the output grid, in pixels.
    dilation: Distance of the kernel's taps, in pixels.
  """
  padding = [(dilation * (size - 1) // 2,) * 2 for size in kernel.shape[:2]]
  return convolution(x, kernel, padding=padding, stride=stride, dilation=dilation)


def up_phases(x: jax.Array, kernel: jax.Array, *, dilation: int = 1) -> list[list[jax.Array]]:
  """Transposed 3x3 convolution with stride 2, as the four phases of its output.

  Equals a convolution with lhs_dilation 2, rhs_dilation d and padding (d, d + 1) for odd d. An even
  output row sees only the kernel's middle row, an odd one only its outer two, so the output is four
  small convolutions; a zero-stuffed input would quadruple the work.

  Args:
    x: [B, H, W, C].
    kernel: [3, 3, C, C'].
    dilation: Distance of the taps on the output grid, odd: with stride 2 an even one leaves holes.

  Returns:
    phases[a][b], each [B, H, W, C']: the output's rows a::2 and columns b::2.
  """
  middle, outer = slice(1, 2), slice(0, 3, 2)
  reach = ((dilation - 1) // 2, (dilation + 1) // 2)

  def phase(rows: slice, columns: slice) -> jax.Array:
    padding = [reach if taps is outer else (0, 0) for taps in (rows, columns)]
    return convolution(x, kernel[rows, columns], padding=padding, dilation=dilation)

  return [[phase(rows, columns) for columns in (middle, outer)] for rows in (middle, outer)]


def depthwise(x: jax.Array, kernel: jax.Array, *, resample: Resample) -> jax.Array:
  """Depthwise 3x3 convolution, kernel [3, 3, C], with the padding and strides of the dense ones."""
  height, width = x.shape[1:3]

  def shifted(row: int, column: int, step: int) -> jax.Array:
    return padded[:, row : row + height : step, column : column + width : step]

  if resample != 'up':
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    step = 2 if resample == 'down' else 1
    return total([shifted(i, j, step) * kernel[i, j] for i in range(3) for j in range(3)])

  padded = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
  taps = {0: [(1, 0)], 1: [(0, 0), (2, 1)]}  # output parity -> (kernel index, input shift)
  return interleave(
    [
      [
        total([shifted(r, c, 1) * kernel[i, j] for i, r in taps[a] for j, c in taps[b]])
        for b in (0, 1)
      ]
      for a in (0, 1)
    ]
  )


def convolution(
  x: jax.Array,
  kernel: jax.Array,
  *,
  padding: Sequence[tuple[int, int]],
  stride: int = 1,
  dilation: int = 1,
) -> jax.Array:
  """Convolution of x [B, H, W, C] with a kernel [k, l, C, C'] and any padding."""
  return lax.conv_general_dilated(
    x,
    kernel.astype(x.dtype),
    (stride, stride),
    padding,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def interleave(phases: list[list[jax.Array]]) -> jax.Array:
  """phases[a][b], each [B, H, W, C], become output[:, a::2, b::2] of [B, 2H, 2W, C]."""
  batch, height, width, channels = phases[0][0].shape
  rows = [jnp.stack(row, axis=3) for row in phases]
  return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, channels)


def space_to_depth(x: jax.Array) -> jax.Array:
  """The pixels of every 2x2 block side by side: [B, H, W, C] becomes [B, H/2, W/2, 4 * C]."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
  return x.reshape(batch, height // 2, width // 2, 4 * channels)


def depth_to_space(x: jax.Array) -> jax.Array:
  """The inverse of space_to_depth: [B, H, W, 4 * C] becomes [B, 2H, 2W, C]."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height, width, 2, 2, channels // 4).swapaxes(2, 3)
  return x.reshape(batch, 2 * height, 2 * width, channels // 4)


def total(terms: Sequence[jax.Array]) -> jax.Array:
  """Sum of at least one array; `sum` would start at the number 0."""
  return functools.reduce(jnp.add, terms)


def _quarters(x: jax.Array) -> tuple[jax.Array, ...]:
  """The four pixels of every 2x2 block, each [B, H/2, W/2, C]."""
  return x[:, ::2, ::2], x[:, ::2, 1::2], x[:, 1::2, ::2], x[:, 1::2, 1::2]


def max_pool_2x2(x: jax.Array) -> jax.Array:
  """Largest value of every 2x2 block, [B, H/2, W/2, C]."""
  a, b, c, d = _quarters(x)
  return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def avg_pool_2x2(x: jax.Array) -> jax.Array:
  """Mean of every 2x2 block, [B, H/2, W/2, C]."""
  return total(_quarters(x)) / 4


def max_pool_3x3(x: jax.Array) -> jax.Array:
  """Largest value of 3x3 windows at stride 2, padded by 1: [B, H/2, W/2, C] for even H and W."""
  height, width = x.shape[1:3]
  low = jnp.finfo(x.dtype).min
  x = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=low)
  x = jnp.maximum(jnp.maximum(x[:, :height:2], x[:, 1::2][:, : height // 2]), x[:, 2::2])
  x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)), constant_values=low)
  return jnp.maximum(
    jnp.maximum(x[:, :, :width:2], x[:, :, 1::2][:, :, : width // 2]), x[:, :, 2::2]
  )


def nearest_up(x: jax.Array) -> jax.Array:
  """Every pixel twice in each direction, [B, 2H, 2W, C]."""
  return depth_to_space(jnp.concatenate([x] * 4, axis=-1))


def standardise(x: jax.Array, groups: int) -> jax.Array:
  """Gives every group of channels mean 0 and deviation 1, example by example.

  Args:
    x: [B, ..., C]; statistics are taken over all axes between and over C / groups channels.
    groups: Consecutive groups of channels; it divides C.

  Returns:
    The same shape and type as x; statistics are in float32.
  """
  return standardise_parts((x,), x.shape[-1] // groups, 0)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def standardise_parts(
  parts: tuple[jax.Array, ...], group: int, rectified: int
) -> tuple[jax.Array, ...]:
  """Standardises several arrays; the first ones go through a relu as well.

  Together, because the many small operations on the statistics are then done once. The derivative
  is written out: traced through the moments it is three times as many operations.

  Args:
    parts: Arrays [B, ..., C], alike in all but C.
    group: Channels of a group; it divides every C.
    rectified: Number of leading parts with a relu.
  """
  return _standardise(parts, group, rectified)[0]


def _standardise(parts, group, rectified):
  mean, square = _group_means(parts, [jnp.square(x.astype(jnp.float32)) for x in parts], group)
  scale = lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0) + NORM_EPSILON)
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
  """Means of both over space and each group of channels, [B, sum of all C] each, float32."""
  # Channel sums first, in one pass: half the time of a reduction over reshaped groups. Then one
  # product with a matrix of blocks averages all groups.
  space = tuple(range(1, first[0].ndim - 1))
  sums = [
    jnp.concatenate([x.astype(jnp.float32).sum(space) for x in arrays], axis=-1)
    for arrays in (first, second)
  ]
  sums = jnp.concatenate(sums)
  pixels = math.prod(first[0].shape[1:-1])
  blocks = np.kron(np.eye(sums.shape[-1] // group), np.full((group, group), 1 / (group * pixels)))
  means = jnp.matmul(sums, blocks.astype(np.float32), precision='highest')
  first_mean, second_mean = jnp.split(means, 2)
  return first_mean, second_mean


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


class ConvNorm(nn.Module):
  """Convolution without bias, then norm, no activation.

  Attributes:
    channels: Output channels.
    kernel_size: Odd side of the kernel, pixels.
    stride: Step of the output grid, pixels.
  """

  channels: int
  kernel_size: int = 1
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.channels)
    kernel = self.param('kernel', kernel_init, shape)
    if self.kernel_size == 1:  # as a matrix product: half the time of a 1x1 convolution on CPU
      x = x[:, :: self.stride, :: self.stride] @ kernel[0, 0].astype(x.dtype)
    else:
      x = convolve(x, kernel, stride=self.stride)
    return Norm(name='norm')(x)


class Gate(nn.Module):
  """Squeeze and excitation: a gate in (0, 1) per example and channel, [B, C], from x's means."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    squeezed = nn.relu(nn.Dense(max(1, channels // 16), name='squeeze')(x.mean((1, 2))))
    return nn.sigmoid(nn.Dense(channels, name='excite')(squeezed)).astype(x.dtype)


class Parameterless(nn.Module):
  """identity, none or a pool; as a candidate, with a norm behind identity and pools."""

  kind: str
  mixed: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.kind == 'none':
      return jnp.zeros_like(x)
    x = {'down_avg_pool': avg_pool_2x2, 'down_max_pool': max_pool_2x2}.get(self.kind, _same)(x)
    return Norm(affine=False)(x) if self.mixed else x


def _same(x: jax.Array) -> jax.Array:
  return x


class Gated(nn.Module):
  """se: x times its gate, then relu."""

  def setup(self):
    self.gate = Gate()

  def __call__(self, x: jax.Array) -> jax.Array:
    return nn.relu(x * self.gate(x)[:, None, None])


class Convolution(nn.Module):
  """(Gate ->) 3x3 convolution -> norm -> relu.

  Attributes:
    channels: C, in and out.
    resample: normal, down (stride 2) or up (transposed, stride 2).
    dilation: Distance of the kernel's taps.
    separable: Depthwise 3x3, then 1x1, with no norm between.
    gated: Squeeze and excitation first.
    affine: Whether the norm has scale and bias.
  """

  channels: int
  resample: Resample
  dilation: int = 1
  separable: bool = False
  gated: bool = False
  affine: bool = True

  def setup(self):
    if self.gated:
      self.gate = Gate()
    if self.separable:  # one input channel per filter: the fan-in is 9
      self.depthwise = self.param('depthwise', kernel_init, (3, 3, 1, self.channels))
      self.pointwise = self.param('pointwise', kernel_init, (self.channels, self.channels))
    else:
      self.kernel = self.param('kernel', kernel_init, (3, 3, self.channels, self.channels))
    self.norm = Norm(self.affine)

  def __call__(self, x: jax.Array) -> jax.Array:
    if self.gated:
      x = x * self.gate(x)[:, None, None]
    if self.separable:
      x = depthwise(x, self.depthwise[:, :, 0].astype(x.dtype), resample=self.resample)
      x = x @ self.pointwise.astype(x.dtype)
    else:
      x = resampling_convolution(x, self.kernel, resample=self.resample, dilation=self.dilation)
    return nn.relu(self.norm(x))


def resampling_convolution(
  x: jax.Array, kernel: jax.Array, *, resample: Resample, dilation: int
) -> jax.Array:
  """3x3 convolution that keeps, halves or doubles the sides."""
  if resample == 'up':
    return interleave(up_phases(x, kernel, dilation=dilation))
  return convolve(x, kernel, stride=2 if resample == 'down' else 1, dilation=dilation)


def operation(
  kind: str, *, channels: int, mixed: bool = False, name: str | None = None
) -> nn.Module:
  """The module of a candidate operation.

  Args:
    kind: A name in OPERATIONS.
    channels: C, in and out.
    mixed: As one candidate among others: norms without scale and bias, and such a norm behind
      pools and identity, as PC-DARTS has it for pools, so that none wins by its scale.
    name: Of the module in its parent.
  """
  if kind in ('identity', 'none', 'down_avg_pool', 'down_max_pool'):
    return Parameterless(kind, mixed, name=name)
  if kind == 'se':
    return Gated(name=name)
  resample: Resample = 'normal'
  if kind.startswith(('down_', 'up_')):
    resample = 'down' if kind.startswith('down_') else 'up'
  return Convolution(
    channels,
    resample,
    dilation={'normal': 2, 'down': 2, 'up': 3}[resample] if 'dil_conv' in kind else 1,
    separable='sep_conv' in kind,
    gated='se_conv' in kind,
    affine=not mixed,
    name=name,
  )
