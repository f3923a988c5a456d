"""Builds lean networks as ONNX graphs, with batch norms folded into the convolutions."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from thrifty_jax.exporting.onnx_graph import (
  CONVOLUTION,
  Graph,
  Tensor,
  conv_norm,
  convolve,
  max_pool,
  relu,
  total,
)
from thrifty_jax.networks.lean_space import LeanShape, Level

Parameters = Mapping[str, Any]  # numpy arrays in the structure of the Linen module


def add_network(graph: Graph, image: Tensor, params: Parameters, shape: LeanShape) -> Tensor:
  """Adds the network of `lean.LeanNetwork`; returns logits of the padded image."""
  x, skips = image, []
  for number, level in enumerate(shape.levels):
    x = max_pool(graph, x, 2) if number else x
    stem = 1 if number else shape.stem
    x = _stage(graph, x, level, level.encoder, params[f'encoder_{number}'], stem=stem)
    skips.append(x)
  for number, level in reversed([*enumerate(shape.levels[:-1])]):
    up = _up(graph, x, params[f'up_{number}'], shape.up)
    if shape.skip == 'add':
      x = up._replace(name=total(graph, [skips[number].name, up.name]))
    else:
      joined = graph.add('Concat', skips[number].name, up.name, axis=1)
      x = up._replace(name=joined, channels=skips[number].channels + up.channels)
    if level.decoder:
      x = _stage(graph, x, level, level.decoder, params[f'decoder_{number}'])
  return _transposed(graph, x, params['classes'], shape.stem)


def _stage(
  graph: Graph, x: Tensor, level: Level, count: int, params: Parameters, *, stem: int = 1
) -> Tensor:
  """Adds `lean.Stage`, for the first level behind `spatial.to_channels`."""
  if level.block == 'plain':
    for number in range(count):
      x = relu(graph, _conv_norm(graph, x, params[f'conv_{number}'], stem=1 if number else stem))
    return x
  for _ in range(_halvings(stem)):
    name = graph.add('SpaceToDepth', x.name, blocksize=2)
    x = Tensor(name, 4 * x.channels, x.level + 1)
  if level.block != 'residual':
    add = _bottleneck if level.block == 'bottleneck' else _axial
    for number in range(count):
      x = add(graph, x, params[f'block_{number}'])
    return x
  y = x
  for number in range(count):
    y = _conv_norm(graph, y, params[f'conv_{number}'])
    y = relu(graph, y) if number < count - 1 else y
  if 'shortcut' in params:
    x = _conv_norm(graph, x, params['shortcut'])
  return relu(graph, y._replace(name=total(graph, [x.name, y.name])))


def _bottleneck(graph: Graph, x: Tensor, params: Parameters) -> Tensor:
  y = relu(graph, _conv_norm(graph, x, params['expand']))
  y = conv_norm(graph, [y], params['depthwise'], params['norm'], groups=y.channels)
  y = _conv_norm(graph, relu(graph, y), params['project'])
  return y._replace(name=total(graph, [x.name, y.name])) if x.channels == y.channels else y


def _axial(graph: Graph, x: Tensor, params: Parameters) -> Tensor:
  filtered = [
    convolve(graph, [x], params[name], groups=x.channels).name for name in ('down', 'across')
  ]
  y = x._replace(name=total(graph, [x.name, *filtered]))
  return relu(graph, _conv_norm(graph, y, params['mix']))


def _conv_norm(graph: Graph, x: Tensor, params: Parameters, *, stem: int = 1) -> Tensor:
  kernel = params['kernel']
  settings: dict[str, Any] = {}
  if stem > 1:
    kernel = kernel_of_pixels(kernel, stem)
    settings = {
      'stride': stem,
      'pads': [stem * (side // 2) for side in params['kernel'].shape[:2]] * 2,
    }
  return conv_norm(graph, [x], kernel, params['norm'], **settings)


def kernel_of_pixels(kernel: np.ndarray, stem: int) -> np.ndarray:
  """Turns a kernel behind `spatial.to_channels` into one of the pixels themselves, strided by stem.

  Args:
    kernel: Kernel [k, k, stem^2 * C, C'].
    stem: Side of the squares whose pixels are channels, a power of 2.

  Returns:
    Kernel [stem * k, stem * k, C, C'].
  """
  for _ in range(_halvings(stem)):
    rows, columns, channels, outputs = kernel.shape
    kernel = kernel.reshape(rows, columns, 2, 2, channels // 4, outputs)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(2 * rows, 2 * columns, channels // 4, outputs)
  return kernel


def _halvings(stem: int) -> int:
  return stem.bit_length() - 1


def _up(graph: Graph, x: Tensor, params: Parameters, kind: str) -> Tensor:
  """Adds `lean.Up`."""
  if kind == 'transposed':
    return _transposed(graph, x, params, 2)
  y = convolve(graph, [x], params['filter']['kernel'], bias=params['filter']['bias'])
  kinds = {
    'nearest': {
      # ONNX takes this mode by default, but OpenCV refuses a Resize that names none.
      'mode': 'nearest',
      'coordinate_transformation_mode': 'asymmetric',
      'nearest_mode': 'floor',
    },
    'bilinear': {'mode': 'linear', 'coordinate_transformation_mode': 'half_pixel'},
  }
  scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
  return y._replace(name=graph.add('Resize', y.name, '', scales, **kinds[kind]), level=y.level - 1)


def _transposed(graph: Graph, x: Tensor, params: Parameters, side: int) -> Tensor:
  """Adds a transposed convolution whose windows of side x side pixels do not overlap.

  The kernel [1, 1, C, side^2 * C'] has its pixels in the order of `spatial.to_pixels`.
  """
  # kernel_of_pixels is for pixels among the input channels; here they are among the outputs.
  kernel = kernel_of_pixels(params['kernel'].swapaxes(2, 3), side)  # [side, side, C', C]
  name = graph.add(
    'ConvTranspose',
    x.name,
    graph.constant(kernel.transpose(3, 2, 0, 1)),
    graph.constant(params['bias']),
    label=CONVOLUTION,
    kernel_shape=(side, side),
    strides=(side, side),
  )
  return Tensor(name, kernel.shape[2], x.level - _halvings(side))
