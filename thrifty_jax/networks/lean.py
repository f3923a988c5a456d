"""Lean networks: one encoder and one decoder of any shape of the space `lean`."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from thrifty_jax.networks import ops, spatial
from thrifty_jax.networks.lean_space import LeanShape, Level

EXPANSION = 4  # channels inside an inverted bottleneck over those outside
AXIAL = 7  # length of the filters of an axial block, in pixels


class LeanNetwork(nn.Module):
  """The network of a shape.

  The pixels of every stem x stem square are channels of the highest level, and the last layer turns
  its channels back into the logits of such squares.

  Attributes:
    shape: Shape of the network.
    classes: Number of classes, K, background included.
    remat: Whether levels keep only their inputs for the derivative, which recomputes the rest.
    frozen: Levels of the encoder, from the highest, that training leaves as they are.
  """

  shape: LeanShape
  classes: int
  remat: bool = False
  frozen: int = 0

  @property
  def depth(self) -> int:
    """Number of times that the image's sides must be divisible by 2."""
    return self.shape.halvings

  @property
  def encoder(self) -> tuple[str, ...]:
    """Names of the modules of the encoder's levels, from the highest."""
    return tuple(f'encoder_{number}' for number in range(len(self.shape.levels)))

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    """Returns logits [B, H, W, K] of an image [B, H, W, C]."""
    shape, stage = self.shape, nn.remat(Stage) if self.remat else Stage
    x, skips = spatial.to_channels(image, shape.stem), []
    for number, level in enumerate(shape.levels):
      x = spatial.max_pool_2x2(x) if number else x
      norm = ops.freeze_norm(shape.norm) if number < self.frozen else shape.norm
      x = stage(level, level.encoder, norm, name=self.encoder[number])(x)
      skips.append(x)
    for number, level in reversed([*enumerate(shape.levels[:-1])]):
      x = upsampling(level.width, shape.up, f'up_{number}')(x)
      join = jnp.add if shape.skip == 'add' else _concatenate
      x = join(skips[number], x)
      if level.decoder:
        x = stage(level, level.decoder, shape.norm, name=f'decoder_{number}')(x)
    return ops.Transposed(self.classes, shape.stem, name='classes')(spatial.at_least_float32(x))


def _concatenate(*parts: jax.Array) -> jax.Array:
  return jnp.concatenate(parts, axis=-1)


class Stage(nn.Module):
  """The convolutions or blocks of a level, on its way down or up.

  Attributes:
    level: Level of the shape.
    count: Number of them.
    norm: Norm after every convolution.
  """

  level: Level
  count: int
  norm: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width, norm = self.level.width, self.norm
    if self.level.block in ('plain', 'residual'):
      y = x
      for number in range(self.count):
        relu = self.level.block == 'plain' or number < self.count - 1
        y = ops.ConvNorm(width, 3, relu=relu, norm=norm, name=f'conv_{number}')(y)
      if self.level.block == 'plain':
        return y
      if x.shape[-1] != width:
        x = ops.ConvNorm(width, norm=norm, name='shortcut')(x)
      return nn.relu(x + y)
    for number in range(self.count):
      block = Bottleneck if self.level.block == 'bottleneck' else Axial
      x = block(width, norm, name=f'block_{number}')(x)
    return x


class Bottleneck(nn.Module):
  """Inverted bottleneck; its input is added where it has as many channels."""

  width: int
  norm: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    inner = EXPANSION * self.width
    y = ops.ConvNorm(inner, relu=True, norm=self.norm, name='expand')(x)
    kernel = self.param('depthwise', ops.kernel_init, (3, 3, 1, inner))
    y = spatial.depthwise(y, kernel[:, :, 0], resample='normal')
    y = ops.make_norm(self.norm, relu=True, name='norm')(y)
    y = ops.ConvNorm(self.width, norm=self.norm, name='project')(y)
    return x + y if x.shape[-1] == self.width else y


class Axial(nn.Module):
  """Depthwise filters along columns and rows added to the input, then a 1x1 convolution."""

  width: int
  norm: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    down = self.param('down', ops.kernel_init, (AXIAL, 1, 1, channels))
    across = self.param('across', ops.kernel_init, (1, AXIAL, 1, channels))
    filtered = [spatial.depthwise(x, one[:, :, 0], resample='normal') for one in (down, across)]
    y = spatial.total([x, *filtered])
    return ops.ConvNorm(self.width, relu=True, norm=self.norm, name='mix')(y)


class Pointwise(nn.Module):
  """1x1 convolution with a bias."""

  channels: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param('kernel', ops.kernel_init, (1, 1, x.shape[-1], self.channels))
    bias = self.param('bias', nn.initializers.zeros, (self.channels,))
    return x @ kernel[0, 0].astype(x.dtype) + bias.astype(x.dtype)


class Up(nn.Module):
  """1x1 convolution, then pixels repeated or bilinearly interpolated: [B, 2H, 2W, C'].

  The convolution comes first, where there are a quarter of the pixels.
  """

  channels: int
  kind: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = Pointwise(self.channels, name='filter')(x)
    return spatial.nearest_up(x) if self.kind == 'nearest' else bilinear_up(x)


def upsampling(channels: int, kind: str, name: str) -> nn.Module:
  """Returns the module that doubles the sides, of one of lean_space.UPSAMPLINGS."""
  if kind == 'transposed':
    return ops.Transposed(channels, 2, name=name)
  return Up(channels, kind, name=name)


def bilinear_up(x: jax.Array) -> jax.Array:
  """Doubles the sides of x [B, H, W, C] by linear interpolation between pixel centres."""

  def along(x: jax.Array, axis: int) -> jax.Array:
    # An output pixel is 3/4 of its own input pixel and 1/4 of the neighbour on its side. These are
    # not made by jnp.pad, whose derivative has devices exchange the batch.
    size, part = x.shape[axis], functools.partial(jax.lax.slice_in_dim, x, axis=axis)
    before = jnp.concatenate([part(0, 1), part(0, size - 1)], axis)
    after = jnp.concatenate([part(1, size), part(size - 1, size)], axis)
    both = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=axis + 1)
    return both.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])

  return along(along(x, 1), 2)
