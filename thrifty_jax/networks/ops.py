"""The candidate operations of a cell, and the layers around them.

Every operation maps [B, H, W, C] to [B, H', W', C] where H' is H (normal), H/2 (down) or 2H (up).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from thrifty_jax.networks import spatial
from thrifty_jax.networks.norm import Norm
from thrifty_jax.networks.spatial import Resample

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

# Compiled, so that it is traced once for a shape: flax asks for that at every trace of a network.
kernel_init = jax.jit(nn.initializers.he_normal(), static_argnums=(1, 2))


class ConvNorm(nn.Module):
  """Convolution without bias, then norm.

  Attributes:
    channels: Output channels.
    kernel_size: Odd side of the kernel, pixels.
    stride: Step of the output grid, pixels.
    relu: Whether a relu follows.
  """

  channels: int
  kernel_size: int = 1
  stride: int = 1
  relu: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.channels)
    kernel = self.param('kernel', kernel_init, shape)
    if self.kernel_size == 1:  # as a matrix product: half the time of a 1x1 convolution on CPU
      x = x[:, :: self.stride, :: self.stride] @ kernel[0, 0].astype(x.dtype)
    else:
      x = spatial.convolve(x, kernel, stride=self.stride)
    return Norm(relu=self.relu, name='norm')(x)


class Gate(nn.Module):
  """Squeeze and excitation: a gate in (0, 1) per example and channel, [B, C], from x's means."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    squeezed = nn.relu(nn.Dense(max(1, channels // 16), name='squeeze')(spatial.global_average(x)))
    return nn.sigmoid(nn.Dense(channels, name='excite')(squeezed))


class Parameterless(nn.Module):
  """identity, none or a pool; as a candidate, with a norm behind identity and pools."""

  kind: str
  mixed: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.kind == 'none':
      return jnp.zeros_like(x)
    x = {'down_avg_pool': spatial.avg_pool_2x2, 'down_max_pool': spatial.max_pool_2x2}.get(
      self.kind, _same
    )(x)
    return Norm(affine=False)(x) if self.mixed else x


def _same(x: jax.Array) -> jax.Array:
  return x


class Gated(nn.Module):
  """se: x times its gate, then relu."""

  def setup(self):
    self.gate = Gate()

  def __call__(self, x: jax.Array) -> jax.Array:
    return nn.relu(spatial.scaled(x, self.gate(x)))


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
    self.norm = Norm(self.affine, relu=True)

  def __call__(self, x: jax.Array) -> jax.Array:
    if self.gated:
      x = spatial.scaled(x, self.gate(x))
    if self.separable:
      x = spatial.depthwise(x, self.depthwise[:, :, 0], resample=self.resample)
      x = x @ self.pointwise.astype(x.dtype)
    else:
      x = spatial.resampling_convolution(
        x, self.kernel, resample=self.resample, dilation=self.dilation
      )
    return self.norm(x)


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
