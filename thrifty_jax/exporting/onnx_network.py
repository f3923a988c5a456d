"""Builds our networks as ONNX models, from slices with intensities in [0, 1] to logits.

Each network is written a second time, in forms that are fast there; every export checks that both
compute the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from thrifty_jax.exporting import onnx_graph, onnx_lean
from thrifty_jax.exporting.onnx_graph import Graph, Tensor, conv_norm, convolve, max_pool, relu
from thrifty_jax.model_folder import LoadedModel
from thrifty_jax.networks import baselines, space
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.networks.model_spec import ModelSpec
from thrifty_jax.networks.space import GridCell, Operation

IMAGE, LOGITS = 'image', 'logits'  # names of input and output
FLOAT = 'float'  # prefix of the names of convolutions that are never quantised
Parameters = Mapping[str, Any]  # numpy arrays in the structure of the Linen module
Cell = Sequence[Sequence[tuple[int, str]]]  # of each node the edges: source and operation


def to_onnx(member: LoadedModel, *, dynamic_sides: bool = False) -> Any:
  """Converts the network of a model to an onnx.ModelProto.

  The input `image` is [N, C, S, S], float32 in [0, 1], with the channels of `batching.normalise`
  but not normalised: the graph does that. The output `logits` is [N, K, S, S]. N may be any number,
  and with `dynamic_sides`, which are slower, height and width too.
  """
  spec, size = member.spec, member.spec.image.image_size
  depth = member.module.depth  # pyrefly: ignore[missing-attribute]
  graph = Graph(side=0 if dynamic_sides else -(-size // 2**depth) * 2**depth, depth=depth)
  params = jax.tree.map(np.asarray, member.params)
  image = _prepared(graph, spec)
  match member.genotype:
    case LeanShape():
      logits = onnx_lean.add_network(graph, image, params, member.genotype)
    case Genotype():
      logits = _thrifty(graph, image, params, member.genotype)
    case None:
      logits = _unet(graph, image, params, nested=spec.network.name == 'unet_plus_plus')
  _cropped(graph, logits, size)
  sides = ('height', 'width') if dynamic_sides else (size, size)
  inputs, classes = {IMAGE: ('slices', image.channels, *sides)}, len(spec.classes)
  return graph.model(inputs, {LOGITS: ('slices', classes, *sides)})


def folds(member: LoadedModel) -> bool:
  """Whether no norm is left in the graph, as its batch norms are folded into convolutions."""
  if isinstance(member.genotype, LeanShape):
    return member.genotype.norm != 'group'
  return member.spec.network.norm == 'batch'


def _prepared(graph: Graph, spec: ModelSpec) -> Tensor:
  """Normalises the image and pads it with background at the right and bottom, see build.pad."""
  mean, std = (
    graph.constant(np.tile(values, 2 * spec.context + 1).reshape(1, -1, 1, 1))
    for values in spec.statistics.values()
  )
  image = Tensor(graph.add('Div', graph.add('Sub', IMAGE, mean), std), spec.image_channels, 0)
  if graph.side:
    missing = graph.side - spec.image.image_size
    if not missing:
      return image
    pads = graph.integers(0, 0, 0, 0, 0, 0, missing, missing)
  else:
    missing = graph.add('Mod', graph.add('Neg', _sides(graph)), graph.integers(2**graph.depth))
    pads = graph.add('Concat', graph.integers(*[0] * 6), missing, axis=0)
  shade = graph.constant(np.asarray(spec.background, np.float32).reshape(1, -1, 1, 1))
  name = graph.add('Pad', graph.add('Sub', image.name, shade), pads)
  return image._replace(name=graph.add('Add', name, shade))


def _cropped(graph: Graph, logits: Tensor, size: int) -> None:
  """Adds the output: logits without those of padding."""
  if graph.side == size:
    graph.add('Identity', logits.name, output=LOGITS)
    return
  ends = graph.integers(size, size) if graph.side else _sides(graph)
  cut = logits.name, graph.integers(0, 0), ends, graph.integers(2, 3)
  graph.add('Slice', *cut, output=LOGITS)


def _sides(graph: Graph) -> str:
  """Height and width of the image, computed when the graph runs."""
  return graph.add('Slice', graph.add('Shape', IMAGE), graph.integers(2), graph.integers(4))


def _thrifty(graph: Graph, image: Tensor, params: Parameters, genotype: Genotype) -> Tensor:
  """Adds the grid of cells of `grid.run_grid`; returns logits of the padded image."""
  stem = relu(graph, _conv_norm(graph, [image], params['stem'], label=FLOAT))
  encoded = _residual(graph, max_pool(graph, stem, 3), params['encode'])

  def cell(place: GridCell, left: Sequence[Tensor], in1: Tensor) -> Tensor:
    stride, nodes = (1, genotype.up) if place[0] else (2, genotype.down)
    return _cell(graph, nodes, left, in1, params[space.cell_name(place)], stride)

  outputs = space.connect(
    cell, stem=stem, encoded=encoded, depth=graph.depth, skipped=genotype.skipped
  )
  head = _cell(graph, genotype.up, [stem], outputs[graph.depth - 1, 0], params['head'])
  return convolve(graph, [head], params['classes']['kernel'], label=FLOAT)


def _residual(graph: Graph, x: Tensor, params: Parameters) -> Tensor:
  y = relu(graph, _conv_norm(graph, [x], params['first'], label=FLOAT))
  y = _conv_norm(graph, [y], params['second'])
  skip = _conv_norm(graph, [x], params['skip'])
  return relu(graph, y._replace(name=onnx_graph.total(graph, [y.name, skip.name])))


def _cell(
  graph: Graph, nodes: Cell, in0: Sequence[Tensor], in1: Tensor, params: Parameters, stride: int = 1
) -> Tensor:
  """Adds the cell of `cell.DerivedCell`; in0 consists of parts that are not concatenated."""
  states = [_conv_norm(graph, in0, params['in0'], stride=stride), in1]
  for node, kept in enumerate(nodes):
    terms = [
      _operation(graph, name, states[source], params.get(space.edge_name(node, source), {}))
      for source, name in kept
    ]
    states.append(terms[0]._replace(name=onnx_graph.total(graph, [term.name for term in terms])))
  return _conv_norm(graph, states[2:], params['out'])


def _operation(graph: Graph, name: str, x: Tensor, params: Parameters) -> Tensor:
  """Adds an operation of the table by its form; ValueError if the form is not supported."""
  row = space.operation(name)
  match row.form:
    case 'identity':
      return x
    case 'max_pool':
      return max_pool(graph, x, 2)
    case 'avg_pool':
      pooled = graph.add('AveragePool', x.name, kernel_shape=(2, 2), strides=(2, 2))
      return Tensor(pooled, x.channels, x.level + 1)
    case 'gate':
      return relu(graph, _gated(graph, x, params['gate']))
    case 'convolution':
      return _convolution(graph, row, x, params)
  raise ValueError(
    f'operation {name!r} has the form {row.form!r}, which has none in ONNX; write it in {__name__}'
  )


def _convolution(graph: Graph, row: Operation, x: Tensor, params: Parameters) -> Tensor:
  """Adds the 3x3 convolution of `ops.Convolution`; upsampling is computed in four phases."""
  if row.gated:
    x = _gated(graph, x, params['gate'])
  if row.resample == 'up':
    if row.separable:  # computed as phases of the product of both kernels
      kernel = params['depthwise'].swapaxes(2, 3) * params['pointwise']
    else:
      kernel = params['kernel']
    if 'mean' in params['norm']:
      kernel, bias = onnx_graph.fold(kernel, params['norm'])
      y = onnx_graph.up_phases(graph, x, kernel, dilation=row.dilation, bias=bias)
      return onnx_graph.interleave(graph, relu(graph, y))
    y = onnx_graph.up_phases(graph, x, kernel, dilation=row.dilation)
    interleaved = onnx_graph.interleave(graph, y)
    return relu(graph, onnx_graph.group_norm(graph, interleaved, params['norm'], source=y))
  stride = 2 if row.resample == 'down' else 1
  if row.separable:
    x = convolve(graph, [x], params['depthwise'], stride=stride, groups=x.channels)
    y = conv_norm(graph, [x], params['pointwise'][None, None], params['norm'])
  else:
    settings = {'stride': stride, 'dilation': row.dilation}
    y = conv_norm(graph, [x], params['kernel'], params['norm'], **settings)
  return relu(graph, y)


def _gated(graph: Graph, x: Tensor, params: Parameters) -> Tensor:
  """Multiplies the channels by a gate in (0, 1), see `ops.Gate`."""
  squeezed = relu(graph, _dense(graph, onnx_graph.global_mean(graph, x), params['squeeze']))
  gate = graph.add('Sigmoid', _dense(graph, squeezed, params['excite']).name)
  return x._replace(name=graph.add('Mul', x.name, gate))


def _dense(graph: Graph, x: Tensor, params: Parameters) -> Tensor:
  return convolve(graph, [x], params['kernel'][None, None], bias=params['bias'], label='dense')


def _conv_norm(
  graph: Graph, parts: Sequence[Tensor], params: Parameters, *, stride: int = 1, label: str = ''
) -> Tensor:
  kernel = params['kernel']
  # Converting to 8 bits and back around a 1x1 convolution costs more time than it saves.
  label = label or (FLOAT if kernel.shape[0] == 1 else onnx_graph.CONVOLUTION)
  return conv_norm(graph, parts, kernel, params['norm'], stride=stride, label=label)


def _unet(graph: Graph, image: Tensor, params: Parameters, *, nested: bool) -> Tensor:
  """Adds U-Net or UNet++ of `baselines.UNetPlusPlus`; returns logits of the padded image."""
  levels = baselines.LEVELS
  outputs: dict[tuple[int, int], Tensor] = {}
  for level in range(levels):
    x = max_pool(graph, outputs[level - 1, 0], 2) if level else image
    outputs[level, 0] = _block(graph, [x], params[f'block_{level}_0'])
  for column in range(1, levels):
    for level in range(levels - column):
      if not nested and level + column != levels - 1:
        continue
      up = _up(graph, outputs[level + 1, column - 1], params[f'up_{level}_{column}'])
      left = [outputs[level, c] for c in (range(column) if nested else (0,))]
      outputs[level, column] = _block(graph, [*left, up], params[f'block_{level}_{column}'])
  head = params[f'classes_{levels - 1}']
  return convolve(graph, [outputs[0, levels - 1]], head['kernel'], bias=head['bias'], label=FLOAT)


def _block(graph: Graph, parts: Sequence[Tensor], params: Parameters) -> Tensor:
  for name in ('first', 'second'):
    kernel, bias = params[name]['kernel'], params[name]['bias']
    x = conv_norm(graph, parts, kernel, params.get(f'{name}_norm', {}), bias=bias)
    parts = [relu(graph, x)]
  return parts[0]


def _up(graph: Graph, x: Tensor, params: Parameters) -> Tensor:
  """Adds a 2x2 transposed convolution at stride 2, whose matrix product gives the phases."""
  bias = np.tile(params['bias'], 4)
  return onnx_graph.interleave(graph, convolve(graph, [x], params['kernel'], bias=bias))
