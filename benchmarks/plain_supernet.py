"""A straightforward supernet: a module of flax for every candidate of every edge.

It has the mathematics and parameters of network.Supernet with shuffled sampling, made of flax's own
layers, as the reference for the time of a search step. Of thrifty_jax it takes the table of the
candidates alone.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from thrifty_jax.networks.space import CellKind, Resample, candidates


def group_norm(channels: int, *, affine: bool, dtype: Any, name: str | None = None) -> nn.Module:
  """Returns a norm over groups of 16 channels, or one group if 16 does not divide them."""
  groups = channels // 16 if channels % 16 == 0 else 1
  return nn.GroupNorm(
    groups, epsilon=1e-5, use_bias=affine, use_scale=affine, dtype=dtype, name=name
  )


class ConvNorm(nn.Module):
  """A convolution without bias, then a norm."""

  channels: int
  kernel_size: int = 1
  stride: int = 1
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    size, reach = self.kernel_size, self.kernel_size // 2
    x = nn.Conv(
      self.channels,
      (size, size),
      self.stride,
      padding=reach,
      use_bias=False,
      dtype=self.dtype,
      name='conv',
    )(x)
    return group_norm(self.channels, affine=True, dtype=self.dtype, name='norm')(x)


class ResidualBlock(nn.Module):
  """Two 3x3 convolutions in parallel with a 1x1 convolution."""

  channels: int
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = nn.relu(ConvNorm(self.channels, 3, dtype=self.dtype, name='first')(x))
    y = ConvNorm(self.channels, 3, dtype=self.dtype, name='second')(y)
    return nn.relu(y + ConvNorm(self.channels, dtype=self.dtype, name='skip')(x))


class Gate(nn.Module):
  """Squeeze and excitation: x times a gate for every channel."""

  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    hidden = nn.Dense(max(1, channels // 16), dtype=self.dtype, name='squeeze')(x.mean((1, 2)))
    gate = nn.Dense(channels, dtype=self.dtype, name='excite')(nn.relu(hidden))
    return x * nn.sigmoid(gate)[:, None, None]


class Candidate(nn.Module):
  """One operation of the table; norms have no scale and bias."""

  kind: str
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kind, channels, dtype = self.kind, x.shape[-1], self.dtype
    norm = group_norm(channels, affine=False, dtype=dtype)
    if kind == 'none':
      return jnp.zeros_like(x)
    if kind == 'identity':
      return norm(x)
    if kind == 'down_avg_pool':
      return norm(nn.avg_pool(x, (2, 2), (2, 2)))
    if kind == 'down_max_pool':
      return norm(nn.max_pool(x, (2, 2), (2, 2)))
    if kind == 'se':
      return nn.relu(Gate(dtype, name='gate')(x))
    if 'se_conv' in kind:
      x = Gate(dtype, name='gate')(x)
    if 'sep_conv' in kind:
      x = self._convolution(x, depthwise=True)
      x = nn.Conv(channels, (1, 1), use_bias=False, dtype=dtype, name='pointwise')(x)
    else:
      x = self._convolution(x, depthwise=False)
    return nn.relu(norm(x))

  def _convolution(self, x: jax.Array, *, depthwise: bool) -> jax.Array:
    kind, channels = self.kind, x.shape[-1]
    layer: dict[str, Any] = {'use_bias': False, 'dtype': self.dtype}
    layer['name'] = 'depthwise' if depthwise else 'conv'
    if kind.startswith('up_'):
      dilation = 3 if 'dil_conv' in kind else 1
      layer['padding'] = ((dilation, dilation + 1),) * 2
      if depthwise:  # nn.ConvTranspose does not support groups
        return nn.Conv(channels, (3, 3), input_dilation=2, feature_group_count=channels, **layer)(x)
      return nn.ConvTranspose(channels, (3, 3), (2, 2), kernel_dilation=(dilation,) * 2, **layer)(x)
    dilation = 2 if 'dil_conv' in kind else 1
    return nn.Conv(
      channels,
      (3, 3),
      2 if kind.startswith('down_') else 1,
      padding=dilation,
      kernel_dilation=dilation,
      feature_group_count=channels if depthwise else 1,
      **layer,
    )(x)


class MixedEdge(nn.Module):
  """One in `sample` channels passes all candidates, the others bypass them, then a shuffle."""

  resample: Resample
  sample: int
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
    count = x.shape[-1] // self.sample
    sampled, rest = x[..., :count], x[..., count:]
    mixed = sum(
      weight.astype(x.dtype) * Candidate(kind, self.dtype, name=kind)(sampled)
      for kind, weight in zip(candidates(self.resample), weights, strict=True)
    )
    if self.resample == 'down':
      rest = nn.max_pool(rest, (2, 2), (2, 2))
    elif self.resample == 'up':
      rest = rest.repeat(2, axis=1).repeat(2, axis=2)
    joined = jnp.concatenate([mixed, rest], axis=-1)
    groups = joined.reshape(*joined.shape[:3], self.sample, count)
    return groups.swapaxes(-1, -2).reshape(joined.shape)


class Cell(nn.Module):
  """Nodes that sum an edge from every earlier state, and a filter over them."""

  kind: CellKind
  nodes: int
  channels: int
  sample: int
  dtype: Any = None

  @nn.compact
  def __call__(self, in0: jax.Array, in1: jax.Array, alphas: Any, betas: jax.Array) -> jax.Array:
    stride = 2 if self.kind == 'down' else 1
    first = ConvNorm(self.channels, stride=stride, dtype=self.dtype, name='in0')(in0)
    states, edge = [first, in1], 0
    for node in range(self.nodes):
      total: Any = 0
      for source, state in enumerate(states):
        inside = source >= 2 or (self.kind == 'up' and source == 0)
        mixed = MixedEdge(
          'normal' if inside else self.kind,
          self.sample,
          self.dtype,
          name=f'node{node + 1}_from_{source}',
        )
        total = total + betas[edge].astype(state.dtype) * mixed(state, alphas[edge])
        edge += 1
      states.append(total)
    joined = jnp.concatenate(states[2:], axis=-1)
    return ConvNorm(self.channels, dtype=self.dtype, name='out')(joined)


class PlainSupernet(nn.Module):
  """The grid of cells.

  Attributes:
    classes: Number K of classes, background included.
    channels: Number of channels of every cell, a multiple of `sample`.
    depth: Number of levels below the full size.
    nodes: Number of nodes of a cell.
    sample: Divisor of the channels: one in `sample` passes the candidates.
    dtype: Type of the computation; None is that of image and parameters.
  """

  classes: int
  channels: int = 32
  depth: int = 5
  nodes: int = 2
  sample: int = 4
  dtype: Any = None
  gated = operations = ()  # no cell has a gate, and all operations are candidates

  @nn.compact
  def __call__(self, image: jax.Array, architecture: Any, key: None = None) -> jax.Array:
    """Returns logits [B, H, W, K] of image [B, H, W, C], H and W multiples of 2^depth."""
    channels, depth, dtype = self.channels, self.depth, self.dtype
    weights = {kind: self._weights(getattr(architecture, kind)) for kind in ('down', 'up')}

    def cell(kind: CellKind, name: str, in0: jax.Array, in1: jax.Array) -> jax.Array:
      module = Cell(kind, self.nodes, channels, self.sample, dtype, name=name)
      return module(in0, in1, *weights[kind])

    stem = nn.relu(ConvNorm(channels, 7, dtype=dtype, name='stem')(image))
    pooled = nn.max_pool(stem, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    grid = {(0, -1): stem, (0, 0): ResidualBlock(channels, dtype, name='encode')(pooled)}
    for j in range(1, depth):
      grid[0, j] = cell('down', f'down_0_{j}', grid[0, j - 2], grid[0, j - 1])
    for k in range(1, depth):
      for j in range(depth - k):
        left = jnp.concatenate([grid[m, j] for m in range(k)], axis=-1)
        grid[k, j] = cell('up', f'up_{k}_{j}', left, grid[k - 1, j + 1])
    x = cell('up', 'head', stem, grid[depth - 1, 0])
    logits = nn.Conv(self.classes, (3, 3), padding=1, use_bias=False, dtype=dtype, name='classes')(
      x
    )
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

  def _weights(self, part: Any) -> tuple[list[jax.Array], jax.Array]:
    """Returns the softmax over candidates of every edge, and over edges into every node."""
    betas, start = [], 0
    for node in range(self.nodes):
      betas.append(jax.nn.softmax(part.betas[start : start + node + 2]))
      start += node + 2
    return [jax.nn.softmax(alpha) for alpha in part.alphas], jnp.concatenate(betas)
