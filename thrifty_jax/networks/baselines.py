"""U-Net and UNet++; the default width gives the paper's parameter counts."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from thrifty_jax.networks import ops, spatial
from thrifty_jax.networks.grid import require_sides
from thrifty_jax.networks.spatial import at_least_float32

WIDTH, LEVELS = 32, 5  # channels at full size, levels: 7.76M and 9.04M parameters in the paper


def widths_of(width: int) -> tuple[int, ...]:
  """Returns the channels of every level, doubled at each halving of the size."""
  return tuple(width * 2**level for level in range(LEVELS))


class Block(nn.Module):
  """Two 3x3 convolutions with bias and relu, with a norm before each relu if asked."""

  channels: int
  norm: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    settings: Any = {'padding': 1, 'dtype': x.dtype, 'kernel_init': ops.kernel_init}
    for name in ('first', 'second'):
      x = nn.Conv(self.channels, (3, 3), name=name, **settings)(x)
      norm = nn.relu
      if self.norm != 'none':
        norm = ops.make_norm(self.norm, relu=True, name=f'{name}_norm')
      x = norm(x)
    return x


class UNetPlusPlus(nn.Module):
  """UNet++ (Zhou et al., 2018), or the U-Net (Ronneberger et al., 2015), which is its outer rim."""

  classes: int  # K, background included
  nested: bool  # whether the whole triangle (UNet++) or only two of its sides (U-Net) are built
  deep_supervision: bool = False  # whether all level-0 outputs are returned, stacked (UNet++ only)
  norm: str = 'none'  # norm of the blocks, 'none' as in the papers, 'group' or 'batch'
  widths: tuple[int, ...] = widths_of(WIDTH)  # channels of every level
  remat: bool = False  # whether the derivative recomputes blocks from their inputs
  frozen: int = 0  # levels of the encoder, from the highest, that training leaves as they are

  @property
  def depth(self) -> int:
    """Levels below the full size."""
    return len(self.widths) - 1

  @property
  def encoder(self) -> tuple[str, ...]:
    """Names of the modules of the encoder's levels, from the highest."""
    return tuple(f'block_{level}_0' for level in range(len(self.widths)))

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    """Returns logits [B, H, W, K] (deep supervision: [L - 1, B, H, W, K]) of image [B, H, W, C]."""
    levels = len(self.widths)
    require_sides(image, depth=self.depth)
    block = nn.remat(Block) if self.remat else Block
    rows, x = [], image  # the outputs of every level, from left to right
    for level, channels in enumerate(self.widths):
      x = spatial.max_pool_2x2(x) if level else x
      norm = ops.freeze_norm(self.norm) if level < self.frozen else self.norm
      x = block(channels, norm, name=self.encoder[level])(x)
      rows.append([x])
    for column in range(1, levels):
      for level in range(levels - column) if self.nested else (levels - 1 - column,):
        channels, name = self.widths[level], f'{level}_{column}'
        up = ops.Transposed(channels, 2, name=f'up_{name}')(rows[level + 1][-1])
        joined = jnp.concatenate([*rows[level], up], axis=-1)
        rows[level].append(block(channels, self.norm, name=f'block_{name}')(joined))

    def classify(column: int, x: jax.Array) -> jax.Array:
      name = f'classes_{column}'
      layer = nn.Conv(self.classes, (1, 1), kernel_init=ops.kernel_init, name=name)
      return at_least_float32(layer(x))

    if self.deep_supervision:
      return jnp.stack([classify(column, rows[0][column]) for column in range(1, levels)])
    return classify(levels - 1, rows[0][-1])
