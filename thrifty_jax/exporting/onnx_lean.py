"""Builds lean networks as ONNX graphs, with batch norms folded into the convolutions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thrifty_jax.exporting.onnx_graph import (
  Graph,
  Tensor,
  concatenate,
  convolve,
  group_norm,
  interleave,
  relu,
  total,
)
from thrifty_jax.networks.lean_space import LeanShape, Level
from thrifty_jax.networks.norm import EPSILON

Parameters = Mapping[str, Any]  # numpy arrays in the structure of the Linen module


def add_network(graph: Graph, image: Tensor, params: Parameters, shape: LeanShape) -> Tensor:
  """Adds the network of `lean.LeanNetwork`; returns logits of the padded image."""
  x, skips = image, []
  for _ in range(shape.stem.bit_length() - 1):
    name = graph.add('SpaceToDepth', x.name, blocksize=2)
    x = Tensor(name, 4 * x.channels, x.level + 1)
  for number, level in enumerate(shape.levels):
    x = _max_pool(graph, x) if number else x
    x = _stage(graph, [x], level, level.encoder, params[f'encoder_{number}'])
    skips.append(x)
  for number, level in reversed([*enumerate(shape.levels[:-1])]):
    up = _up(graph, x, params[f'up_{number}'], shape.up)
    if shape.skip == 'add':
      parts = [up._replace(name=total(graph, [skips[number].name, up.name]))]
    else:
      parts = [concatenate(graph, [skips[number], up])]
    x = parts[0]
    if level.decoder:
      x = _stage(graph, parts, level, level.decoder, params[f'decoder_{number}'])
  head = params['classes']
  logits = convolve(graph, [x], head['kernel'], bias=head['bias'])
  for _ in range(shape.stem.bit_length() - 1):
    logits = interleave(graph, logits)
  return logits


def _max_pool(graph: Graph, x: Tensor) -> Tensor:
  pooled = graph.add('MaxPool', x.name, kernel_shape=(2, 2), strides=(2, 2))
  return Tensor(pooled, x.channels, x.level + 1)


def _stage(
  graph: Graph, parts: Sequence[Tensor], level: Level, count: int, params: Parameters
) -> Tensor:
  if level.block in ('bottleneck', 'axial'):
    add = _bottleneck if level.block == 'bottleneck' else _axial
    x = parts[0]
    for number in range(count):
      x = add(graph, x, params[f'block_{number}'])
    return x
  x, y = parts[0], parts[0]
  for number in range(count):
    y = _conv_norm(graph, y, params[f'conv_{number}'])
    if level.block == 'plain' or number < count - 1:
      y = relu(graph, y)
  if level.block == 'plain':
    return y
  if 'shortcut' in params:
    x = _conv_norm(graph, x, params['shortcut'])
  return relu(graph, y._replace(name=total(graph, [x.name, y.name])))


def _bottleneck(graph: Graph, x: Tensor, params: Parameters) -> Tensor:
  y = relu(graph, _conv_norm(graph, x, params['expand']))
  y = relu(graph, _normed(graph, y, params['depthwise'], params['norm'], groups=y.channels))
  y = _conv_norm(graph, y, params['project'])
  return y._replace(name=total(graph, [x.name, y.name])) if x.channels == y.channels else y


def _axial(graph: Graph, x: Tensor, params: Parameters) -> Tensor:
  filtered = [
    convolve(graph, [x], params[name], groups=x.channels).name for name in ('down', 'across')
  ]
  y = x._replace(name=total(graph, [x.name, *filtered]))
  return relu(graph, _conv_norm(graph, y, params['mix']))


def _conv_norm(graph: Graph, x: Tensor, params: Parameters) -> Tensor:
  if 'bias' in params:
    return convolve(graph, [x], params['kernel'], bias=params['bias'])
  return _normed(graph, x, params['kernel'], params['norm'])


def _normed(
  graph: Graph, x: Tensor, kernel: np.ndarray, norm: Parameters, *, groups: int = 1
) -> Tensor:
  """Adds a convolution and its norm; a batch norm is folded into kernel and bias."""
  if 'mean' in norm:
    factor = norm['scale'] / np.sqrt(norm['variance'] + EPSILON)
    bias = norm['bias'] - norm['mean'] * factor
    return convolve(graph, [x], kernel * factor, bias=bias, groups=groups)
  if 'scale' not in norm:
    return convolve(graph, [x], kernel, bias=norm['bias'], groups=groups)
  return group_norm(graph, convolve(graph, [x], kernel, groups=groups), norm)


def _up(graph: Graph, x: Tensor, params: Parameters, kind: str) -> Tensor:
  if kind == 'transposed':
    kernel, channels = params['kernel'], params['bias'].size
    if MODE == 'convtranspose':
      w = kernel[0, 0].reshape(x.channels, 2, 2, channels).transpose(0, 3, 1, 2)
      name = graph.add('ConvTranspose', x.name, graph.constant(w), graph.constant(params['bias']), kernel_shape=(2, 2), strides=(2, 2))
      return Tensor(name, channels, x.level - 1)
    y = convolve(graph, [x], kernel, bias=np.tile(params['bias'], 4))
    if MODE == 'd2s':
      return Tensor(graph.add('DepthToSpace', y.name, blocksize=2, mode='DCR'), channels, x.level - 1)
    return interleave(graph, y)
  y = convolve(graph, [x], params['filter']['kernel'], bias=params['filter']['bias'])
  mode = {'nearest': ('nearest', 'asymmetric'), 'bilinear': ('linear', 'half_pixel')}[kind]
  scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
  name = graph.add(
    'Resize', y.name, '', scales, mode=mode[0], coordinate_transformation_mode=mode[1],
    **({'nearest_mode': 'floor'} if kind == 'nearest' else {}),
  )
  return Tensor(name, y.channels, y.level - 1)


MODE = 'interleave'
