"""Convolutions, pools and changes of size, as functions of arrays.

The forms, such as pools as strided slices, are exact and were chosen by measurements, on a CPU
unless stated otherwise.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from thrifty_jax.networks.space import Resample


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1) -> jax.Array:
  """Returns the convolution of x [B, H, W, C] with a kernel [k, k, C, C'] of odd side k.

  The padding is dilation * (k - 1) / 2 pixels, as stride and dilation are in pixels; the result is
  [B, H / stride, W / stride, C'].
  """
  if stride == dilation > 1:  # all taps lie on pixels of the output grid
    x, stride, dilation = x[:, ::stride, ::stride], 1, 1
  padding = [(dilation * (size - 1) // 2,) * 2 for size in kernel.shape[:2]]
  return convolution(x, kernel, padding=padding, stride=stride, dilation=dilation)


def convolve_to_few(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Returns `convolve` for a kernel with few output channels, such as classes.

  On a GPU it is one product with all taps and a sum of its shifted parts: cuDNN has no fast kernels
  for two outputs in float32. Forward and backward pass take 0.34 ms instead of 1.40 ms (12 x 256 x
  256 x 32 to 2 channels on an H200, two of the products with XLA's own kernels). On a CPU this form
  would take twice the time.
  """
  if jax.default_backend() != 'gpu':
    return convolve(x, kernel)
  size, _, channels, few = kernel.shape
  height, width = x.shape[1:3]
  taps = x @ jnp.moveaxis(kernel, 2, 0).reshape(channels, -1)
  taps = jnp.pad(taps, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
  taps = taps.reshape(*taps.shape[:3], size, size, few)
  places = itertools.product(range(size), repeat=2)
  return total([taps[:, i : i + height, j : j + width, i, j] for i, j in places])


def up_phases(x: jax.Array, kernel: jax.Array, *, dilation: int = 1) -> list[list[jax.Array]]:
  """Returns a transposed 3x3 convolution with stride 2 as the four phases of its output.

  It equals a convolution with lhs_dilation 2, rhs_dilation d and padding (d, d + 1) for odd d. An
  even output row uses only the kernel's middle row and an odd one only its outer two, so the output
  is four small convolutions; an input padded with zeros between pixels would quadruple the work.

  Args:
    x: Array [B, H, W, C].
    kernel: Kernel [3, 3, C, C'].
    dilation: Distance of the taps on the output grid, odd: with stride 2 an even one leaves holes.

  Returns:
    Nested lists phases[a][b] of arrays [B, H, W, C'], the output's rows a::2 and columns b::2.
  """
  middle, outer = slice(1, 2), slice(0, 3, 2)
  reach = ((dilation - 1) // 2, (dilation + 1) // 2)

  def phase(rows: slice, columns: slice) -> jax.Array:
    padding = [reach if taps is outer else (0, 0) for taps in (rows, columns)]
    return convolution(x, kernel[rows, columns], padding=padding, dilation=dilation)

  return [[phase(rows, columns) for columns in (middle, outer)] for rows in (middle, outer)]


def depthwise(x: jax.Array, kernel: jax.Array, *, resample: Resample) -> jax.Array:
  """Returns the depthwise convolution with a kernel [k, l, C], padded and strided like dense ones.

  Its sides are odd, and 3 where it doubles those of the image.

  It consists of shifted multiply-adds. The gradient of a float32 kernel is summed in float32,
  whatever the type of x.
  """
  height, width = x.shape[1:3]
  step = 2 if resample == 'down' else 1
  pads = [(0, 1) if resample == 'up' else (size // 2,) * 2 for size in kernel.shape[:2]]
  padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))

  def taps(rows: Sequence[tuple[int, int]], columns: Sequence[tuple[int, int]]) -> jax.Array:
    """Sums over taps along each axis, (index in the kernel, shift of the input)."""
    terms = [
      padded[:, r : r + height : step, c : c + width : step] * kernel[i, j]
      for (i, r), (j, c) in itertools.product(rows, columns)
    ]
    return total(terms).astype(x.dtype)

  if resample != 'up':
    rows, columns = ([(index, index) for index in range(size)] for size in kernel.shape[:2])
    return taps(rows, columns)
  even, odd = [(1, 0)], [(0, 0), (2, 1)]  # taps of the output's even and odd pixels
  return interleave([[taps(rows, columns) for columns in (even, odd)] for rows in (even, odd)])


def convolution(
  x: jax.Array,
  kernel: jax.Array,
  *,
  padding: Sequence[tuple[int, int]],
  stride: int = 1,
  dilation: int = 1,
) -> jax.Array:
  """Returns the convolution of x [B, H, W, C] with a kernel [k, l, C, C'] and any padding."""
  kernel = kernel.astype(x.dtype)
  if dilation > 1 and stride == 1 and jax.default_backend() == 'gpu':
    return convolve_dilated(x, kernel, tuple(padding), dilation)
  return _convolution(x, kernel, padding, stride, dilation)


def _convolution(x, kernel, padding, stride, dilation):
  axes, steps, distances = ('NHWC', 'HWIO', 'NHWC'), (stride, stride), (dilation, dilation)
  return lax.conv_general_dilated(
    x, kernel, steps, padding, rhs_dilation=distances, dimension_numbers=axes
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_dilated(
  x: jax.Array, kernel: jax.Array, padding: tuple[tuple[int, int], ...], dilation: int
) -> jax.Array:
  """Returns the dilated convolution, with a gradient of the kernel that is fast on GPUs.

  XLA recognises the gradient of a kernel by its stride of 1. That of a dilated one has the dilation
  as stride, so that cuDNN gets it as a convolution with a kernel as large as the image, which a
  single block of threads computes. Here it is computed for the kernel with zeros between its taps.
  """
  return _convolution(x, kernel, padding, 1, dilation)


def _dilated_forward(x, kernel, padding, dilation):
  return convolve_dilated(x, kernel, padding, dilation), (x, kernel)


def _dilated_backward(padding, dilation, residuals, cotangent):
  x, kernel = residuals
  turned = kernel[::-1, ::-1].swapaxes(2, 3)
  reaches = [dilation * (size - 1) for size in kernel.shape[:2]]
  sides = zip(reaches, padding, strict=True)
  rest = tuple((reach - low, reach - high) for reach, (low, high) in sides)
  of_x = convolve_dilated(cotangent, turned, rest, dilation)
  shape = (*(reach + 1 for reach in reaches), *kernel.shape[2:])
  dense = jax.ShapeDtypeStruct(shape, kernel.dtype)
  transpose = jax.linear_transpose(lambda dense: convolution(x, dense, padding=padding), dense)
  return of_x, transpose(cotangent)[0][::dilation, ::dilation]


convolve_dilated.defvjp(_dilated_forward, _dilated_backward)


def interleave(phases: list[list[jax.Array]]) -> jax.Array:
  """Merges phases[a][b], each [B, H, W, C], as output[:, a::2, b::2] of [B, 2H, 2W, C]."""
  batch, height, width, channels = phases[0][0].shape
  rows = [jnp.stack(row, axis=3) for row in phases]
  return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, channels)


def space_to_depth(x: jax.Array) -> jax.Array:
  """Moves the pixels of each 2x2 block to channels: [B, H, W, C] to [B, H/2, W/2, 4 * C]."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
  return x.reshape(batch, height // 2, width // 2, 4 * channels)


def depth_to_space(x: jax.Array) -> jax.Array:
  """Inverts space_to_depth: [B, H, W, 4 * C] to [B, 2H, 2W, C]."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height, width, 2, 2, channels // 4).swapaxes(2, 3)
  return x.reshape(batch, 2 * height, 2 * width, channels // 4)


def to_channels(x: jax.Array, side: int) -> jax.Array:
  """Moves the pixels of each side x side square to channels, [B, H/side, W/side, side^2 * C]."""
  for _ in range(side.bit_length() - 1):
    x = space_to_depth(x)
  return x


def to_pixels(x: jax.Array, side: int) -> jax.Array:
  """Inverts `to_channels`."""
  for _ in range(side.bit_length() - 1):
    x = depth_to_space(x)
  return x


def at_least_float32(x: jax.Array) -> jax.Array:
  """Casts narrower types to float32."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def space_sums(*arrays: jax.Array) -> list[jax.Array]:
  """Returns sums over space of arrays [B, ..., C], each [B, C], in float32 at least.

  On a GPU the sum has two stages, first along each row: XLA sums up to 4,096 pixels in one stage
  with B blocks of threads, which takes 13.8 us for 12 x 64 x 64 x 32; both stages take 4.8 us
  (H200). Barriers keep XLA from merging the stages, and from merging a sum of these sums, such as
  the gradient of a bias, into another pass over the pixels.
  """
  sums = [at_least_float32(x) for x in arrays]
  on_gpu = jax.default_backend() == 'gpu'
  if on_gpu and math.prod(sums[0].shape[1:-1]) > 1024:
    sums = lax.optimization_barrier([x.sum(2) for x in sums])
  sums = [x.sum(range(1, x.ndim - 1)) for x in sums]
  return lax.optimization_barrier(sums) if on_gpu else sums


@jax.custom_vjp
def scale(x: jax.Array, factor: jax.Array) -> jax.Array:
  """Returns x [B, H, W, C] times a factor for each example and channel, [B, C].

  The gradient of a float32 factor is summed in float32, whatever the type of x.
  """
  return (x * factor[:, None, None]).astype(x.dtype)


def _scaled_forward(x, factor):
  return scale(x, factor), (x, factor)


def _scaled_backward(residuals, cotangent):
  x, factor = residuals
  (of_factor,) = space_sums(at_least_float32(cotangent) * x)
  return scale(cotangent, factor), of_factor.astype(factor.dtype)


scale.defvjp(_scaled_forward, _scaled_backward)


def global_average(x: jax.Array) -> jax.Array:
  """Returns the means of x [B, ..., C] over space, [B, C], in float32 at least."""
  return space_sums(x)[0] / math.prod(x.shape[1:-1])


def total(terms: Sequence[jax.Array]) -> jax.Array:
  """Returns the sum of at least one array; `sum` would start at the number 0."""
  return functools.reduce(jnp.add, terms)


def _quarters(x: jax.Array) -> tuple[jax.Array, ...]:
  """Returns the four pixels of every 2x2 block, each [B, H/2, W/2, C]."""
  return x[:, ::2, ::2], x[:, ::2, 1::2], x[:, 1::2, ::2], x[:, 1::2, 1::2]


def max_pool_2x2(x: jax.Array) -> jax.Array:
  """Returns the largest value of every 2x2 block, [B, H/2, W/2, C]."""
  a, b, c, d = _quarters(x)
  return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def avg_pool_2x2(x: jax.Array) -> jax.Array:
  """Returns the mean of every 2x2 block, [B, H/2, W/2, C]."""
  return total(_quarters(x)) / 4


def max_pool_3x3(x: jax.Array) -> jax.Array:
  """Returns the maxima of 3x3 windows at stride 2, padded by 1; [B, H/2, W/2, C] for even sides."""
  height, width = x.shape[1:3]
  low = jnp.finfo(x.dtype).min
  x = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=low)
  x = jnp.maximum(jnp.maximum(x[:, :height:2], x[:, 1::2][:, : height // 2]), x[:, 2::2])
  x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)), constant_values=low)
  pairs = jnp.maximum(x[:, :, :width:2], x[:, :, 1::2][:, :, : width // 2])
  return jnp.maximum(pairs, x[:, :, 2::2])


def nearest_up(x: jax.Array) -> jax.Array:
  """Repeats every pixel twice in each direction, [B, 2H, 2W, C]."""
  return depth_to_space(jnp.concatenate([x] * 4, axis=-1))


def resampling_convolution(
  x: jax.Array, kernel: jax.Array, *, resample: Resample, dilation: int
) -> jax.Array:
  """Returns a 3x3 convolution that keeps, halves or doubles the sides."""
  if resample == 'up':
    return interleave(up_phases(x, kernel, dilation=dilation))
  return convolve(x, kernel, stride=2 if resample == 'down' else 1, dilation=dilation)
