"""U-Net and UNet++; the default width gives the paper's parameter counts."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from thrifty_jax.networks import ops, spatial
from thrifty_jax.networks.grid import require_sides
from thrifty_jax.networks.norm import Norm
from thrifty_jax.networks.spatial import at_least_float32

WIDTH, LEVELS = 32, 5  # channels at full size, levels: 7.76M and 9.04M parameters in the paper


def widths_of(width: int) -> tuple[int, ...]:
  """Returns the channels of every level, doubled at each halving of the size."""
  return tuple(width * 2**level for level in range(LEVELS))


class Block(nn.Module):
  """Two 3x3 convolutions with bias and relu, with a GroupNorm before each relu if asked."""

  channels: int
  norm: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for name in ('first', 'second'):
      x = nn.Conv(
        self.channels, (3, 3), padding=1, dtype=x.dtype, kernel_init=ops.kernel_init, name=name
      )(x)
      x = Norm(relu=True, name=f'{name}_norm')(x) if self.norm == 'group' else nn.relu(x)
    return x


class Up(nn.Module):
  """2x2 transposed convolution with stride 2 and bias: [B, H, W, C] to [B, 2H, 2W, C']."""

  channels: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    # Windows of a 2x2 kernel at stride 2 do not overlap: one matrix product and a reshape suffice.
    kernel = self.param('kernel', ops.kernel_init, (1, 1, channels, 4 * self.channels))
    bias = self.param('bias', nn.initializers.zeros, (self.channels,))
    x = (x @ kernel[0, 0].astype(x.dtype)).reshape(batch, height, width, 2, 2, self.channels)
    return x.swapaxes(2, 3).reshape(batch, 2 * height, 2 * width, self.channels) + bias.astype(
      x.dtype
    )


class UNetPlusPlus(nn.Module):
  """UNet++, or the U-Net, which is its outer rim.

  Attributes:
    classes: Number of classes, K, background included.
    nested: Whether the whole triangle (UNet++) or only two of its sides (U-Net) are built.
    deep_supervision: Whether the logits of all level-0 outputs are returned, stacked (UNet++ only).
    norm: Norm of the blocks, 'none' as in the paper, or 'group'.
    widths: Channels of every level.
    remat: Whether blocks keep only their inputs for the derivative, which recomputes the rest.

  Source: U-Net (Ronneberger et al., 2015); UNet++ (Zhou et al., 2018).
  """

  classes: int
  nested: bool
  deep_supervision: bool = False
  norm: str = 'none'
  widths: tuple[int, ...] = widths_of(WIDTH)
  remat: bool = False

  @property
  def depth(self) -> int:
    """Levels below the full size."""
    return len(self.widths) - 1

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    """Returns logits [B, H, W, K] (deep supervision: [L - 1, B, H, W, K]) of image [B, H, W, C]."""
    levels = len(self.widths)
    require_sides(image, depth=self.depth)
    block = nn.remat(Block) if self.remat else Block
    outputs, x = {}, image
    for level, channels in enumerate(self.widths):
      x = block(channels, self.norm, name=f'block_{level}_0')(
        x if level == 0 else spatial.max_pool_2x2(x)
      )
      outputs[level, 0] = x
    for column in range(1, levels):
      for level in range(levels - column):
        if not self.nested and level + column != levels - 1:
          outputs[level, column] = None
          continue
        channels, name = self.widths[level], f'{level}_{column}'
        up = Up(channels, name=f'up_{name}')(outputs[level + 1, column - 1])
        left = range(column) if self.nested else (0,)
        joined = jnp.concatenate([*(outputs[level, c] for c in left), up], axis=-1)
        outputs[level, column] = block(channels, self.norm, name=f'block_{name}')(joined)

    supervised = range(1, levels) if self.deep_supervision else (levels - 1,)
    logits = [
      at_least_float32(
        nn.Conv(self.classes, (1, 1), kernel_init=ops.kernel_init, name=f'classes_{column}')(
          outputs[0, column]
        )
      )
      for column in supervised
    ]
    return jnp.stack(logits) if self.deep_supervision else logits[0]
