"""The candidate operations of a cell, and the layers around them.

Every operation maps [B, H, W, C] to [B, H', W', C]; H' is H (normal), H/2 (down) or 2H (up).
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from thrifty_jax.networks import space, spatial
from thrifty_jax.networks.batch_norm import BatchNorm
from thrifty_jax.networks.norm import Norm

# Compiled, so that it is traced once for each shape: flax calls it at every trace of a network.
kernel_init = jax.jit(nn.initializers.he_normal(), static_argnums=(1, 2))


class ConvNorm(nn.Module):
  """Convolution without bias, then norm."""

  channels: int  # output channels
  kernel_size: int = 1  # odd side of the kernel, in pixels
  stride: int = 1  # step of the output grid, in pixels
  relu: bool = False  # whether a relu follows
  norm: str = 'group'  # see make_norm

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.channels)
    kernel = self.param('kernel', kernel_init, shape)
    if self.kernel_size == 1:  # a matrix product takes half the time of a 1x1 convolution on CPU
      x = x[:, :: self.stride, :: self.stride] @ kernel[0, 0].astype(x.dtype)
    else:
      x = spatial.convolve(x, kernel, stride=self.stride)
    return make_norm(self.norm, relu=self.relu, name='norm')(x)


def make_norm(norm: str, *, relu: bool, name: str) -> nn.Module:
  """Returns a norm with scale and bias: 'batch', 'group', or for 'none' the bias alone.

  'frozen' is a batch norm that training leaves as it is.
  """
  if norm in ('batch', 'frozen'):
    return BatchNorm(relu=relu, frozen=norm == 'frozen', name=name)
  return Norm(relu=relu, name=name) if norm == 'group' else Bias(relu=relu, name=name)


def freeze_norm(norm: str) -> str:
  """Returns the norm of `make_norm` that is like this one but that training leaves as it is."""
  return 'frozen' if norm == 'batch' else norm


class Bias(nn.Module):
  """Adds a bias to every channel, in place of a norm."""

  relu: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = x + self.param('bias', nn.initializers.zeros, (x.shape[-1],)).astype(x.dtype)
    return nn.relu(x) if self.relu else x


class Transposed(nn.Module):
  """Transposed convolution with side x side windows that do not overlap, and a bias.

  It maps [B, H, W, C] to [B, side * H, side * W, C']: one matrix product and a move of pixels.
  """

  channels: int
  side: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (1, 1, x.shape[-1], self.side**2 * self.channels)
    kernel = self.param('kernel', kernel_init, shape)
    bias = self.param('bias', nn.initializers.zeros, (self.channels,))
    return spatial.to_pixels(x @ kernel[0, 0].astype(x.dtype), self.side) + bias.astype(x.dtype)


class Gate(nn.Module):
  """Squeeze and excitation: gates in (0, 1), [B, C], computed from the means over space."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    squeezed = nn.relu(nn.Dense(max(1, channels // 16), name='squeeze')(spatial.global_average(x)))
    return nn.sigmoid(nn.Dense(channels, name='excite')(squeezed))


PARAMETERLESS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'zeros': jnp.zeros_like,
  'identity': lambda x: x,
  'avg_pool': spatial.avg_pool_2x2,
  'max_pool': spatial.max_pool_2x2,
}


class Parameterless(nn.Module):
  """One of PARAMETERLESS; as a candidate, identity and pools have a norm after them."""

  operation: space.Operation
  channels: int
  mixed: bool = False
  norm: str = 'group'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    form = self.operation.form
    y = PARAMETERLESS[form](x)
    return Norm(affine=False)(y) if self.mixed and form != 'zeros' else y


class Gated(nn.Module):
  """Product of x and its gate, then relu (`se`)."""

  operation: space.Operation
  channels: int
  mixed: bool = False
  norm: str = 'group'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return nn.relu(spatial.scale(x, Gate(name='gate')(x)))


class Convolution(nn.Module):
  """Gate if any, 3x3 convolution, norm, relu; a candidate's norm has no scale and bias."""

  operation: space.Operation
  channels: int
  mixed: bool = False
  norm: str = 'group'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    row, channels = self.operation, self.channels
    if row.gated:
      x = spatial.scale(x, Gate(name='gate')(x))
    if row.separable:  # one input channel per filter: the fan-in is 9
      depthwise = self.param('depthwise', kernel_init, (3, 3, 1, channels))
      pointwise = self.param('pointwise', kernel_init, (channels, channels))
      x = spatial.depthwise(x, depthwise[:, :, 0], resample=row.resample)
      x = x @ pointwise.astype(x.dtype)
    else:
      kernel = self.param('kernel', kernel_init, (3, 3, channels, channels))
      x = spatial.resampling_convolution(x, kernel, resample=row.resample, dilation=row.dilation)
    if self.mixed:
      return Norm(affine=False, relu=True, name='norm')(x)
    return make_norm(self.norm, relu=True, name='norm')(x)


# Module that computes an operation, by the form in its row.
FORMS: dict[str, Callable[..., nn.Module]] = {
  **dict.fromkeys(PARAMETERLESS, Parameterless),
  'gate': Gated,
  'convolution': Convolution,
}


def operation(
  kind: str,
  *,
  channels: int,
  mixed: bool = False,
  norm: str = 'group',
  name: str | None = None,
) -> nn.Module:
  """Returns the module of an operation of the table with C input and output channels.

  `mixed` is for one of several candidates: norms are then group norms without scale and bias, and
  one also follows pools (as in PC-DARTS) and identity, so that no candidate wins by its scale. Else
  `norm` is that of `make_norm`.

  Raises:
    ValueError: If the table has no such operation, or its form has no module.
  """
  row = space.operation(kind)
  if row.form not in FORMS:
    raise ValueError(
      f'operation {kind!r} has the form {row.form!r}, which no module computes; expected one of '
      f'{", ".join(FORMS)}, or write a module for it in {__name__} and name it in FORMS'
    )
  return FORMS[row.form](row, channels, mixed, norm, name=name)
