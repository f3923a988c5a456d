"""Builds an ONNX graph, with our layers in the forms that run fast in onnxruntime on the CPU.

They were chosen by measurement and differ from those of `spatial`, which are fast with XLA. Only
operations of opset 17 without control flow are used, which onnxruntime supports in a browser too.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from thrifty_jax import RESEARCH_USE, extras
from thrifty_jax.errors import InputError
from thrifty_jax.networks import norm

OPSET = 17
IR_VERSION = 8  # of files with that opset; older programs refuse newer ones
CONVOLUTION = 'convolution'  # prefix of the names of convolutions that can be quantised
_PRECISE = 8  # side of the blocks that a mean over very many pixels averages first


class Tensor(NamedTuple):
  """A value in the graph, [N, C, H, W]."""

  name: str
  channels: int
  level: int  # H and W are those of the padded image divided by 2^level


@dataclasses.dataclass
class Graph:
  """Nodes and constants in the order in which they were added."""

  side: int  # H and W of the padded image in pixels; 0 if known only when the graph runs
  depth: int  # number of times that the padded image can be halved
  nodes: list[Any] = dataclasses.field(default_factory=list)
  constants: dict[tuple[Any, ...], Any] = dataclasses.field(default_factory=dict)

  def add(
    self, kind: str, *inputs: str, label: str = '', output: str = '', **attributes: Any
  ) -> str:
    """Adds a node with one output and returns its name, which begins with the label."""
    name = output or f'{label or kind.lower()}_{len(self.nodes)}'
    self.nodes.append(tool('onnx').helper.make_node(kind, inputs, [name], name=name, **attributes))
    return name

  def constant(self, values: Any) -> str:
    """Adds a constant, stored once if equal ones exist, and returns its name."""
    array = np.ascontiguousarray(values)
    key = (array.dtype.str, array.shape, array.tobytes())
    if key not in self.constants:
      name = f'constant_{len(self.constants)}'
      self.constants[key] = tool('onnx').numpy_helper.from_array(array, name)
    return self.constants[key].name

  def integers(self, *values: int) -> str:
    """Adds a constant of whole numbers, such as a shape, and returns its name."""
    return self.constant(np.array(values, np.int64))

  def model(self, inputs: Mapping[str, Sequence[Any]], outputs: Mapping[str, Sequence[Any]]) -> Any:
    """Returns the finished and checked ONNX model.

    `inputs` and `outputs` are the shapes of float32 values by name; a string is a variable size.
    """
    onnx = tool('onnx')
    ends = [
      [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in shapes.items()]
      for shapes in (inputs, outputs)
    ]
    made = onnx.helper.make_model(
      onnx.helper.make_graph(self.nodes, 'network', *ends, [*self.constants.values()]),
      opset_imports=[onnx.helper.make_opsetid('', OPSET)],
      ir_version=IR_VERSION,
      producer_name='thrifty_jax',
      doc_string=RESEARCH_USE,
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def tool(name: str) -> Any:
  """Imports a module of the optional packages for exporting; InputError if it is not installed."""
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    raise InputError(
      f'{error.name} is not installed, and the export needs it; {extras.how_to_install("export")}'
    ) from error


def convolve(
  graph: Graph,
  parts: Sequence[Tensor],
  kernel: np.ndarray,
  *,
  stride: int = 1,
  dilation: int = 1,
  groups: int = 1,
  bias: np.ndarray | None = None,
  pads: Sequence[int] | None = None,
  label: str = CONVOLUTION,
) -> Tensor:
  """Adds a convolution of parts that follow one another along the channels.

  They are convolved separately and added, which saves the copy of a concatenation.

  Args:
    graph: Graph that gets the nodes.
    parts: One or more tensors with equal numbers of channels.
    kernel: [k, l, C / groups, C'].
    stride: Step of the output grid, 1 or 2.
    dilation: Distance of the kernel's taps, in pixels.
    groups: Number of groups of channels that do not mix.
    bias: [C'].
    pads: Padding at top, left, bottom and right in pixels; None is dilation * (k - 1) / 2 each.
    label: Prefix of the names of the nodes.
  """
  pads = [dilation * (size - 1) // 2 for size in kernel.shape[:2]] * 2 if pads is None else pads
  attributes: dict[str, Any] = {'kernel_shape': kernel.shape[:2], 'group': groups, 'pads': pads}
  attributes |= {'strides': (stride, stride), 'dilations': (dilation, dilation)}
  outputs = []
  for part, weights in zip(parts, np.split(kernel, len(parts), axis=2), strict=True):
    inputs = [part.name, graph.constant(weights.transpose(3, 2, 0, 1))]
    if bias is not None and part is parts[0]:
      inputs.append(graph.constant(bias))
    outputs.append(graph.add('Conv', *inputs, label=label, **attributes))
  return Tensor(total(graph, outputs), kernel.shape[3], parts[0].level + stride // 2)


def conv_norm(
  graph: Graph,
  parts: Sequence[Tensor],
  kernel: np.ndarray,
  parameters: Mapping[str, np.ndarray],
  *,
  bias: np.ndarray | None = None,
  **settings: Any,
) -> Tensor:
  """Adds a convolution and what follows it: a norm, of which a batch norm is folded, or a bias.

  Args:
    graph: Graph that gets the nodes.
    parts: Tensors of `convolve`.
    kernel: [k, l, C / groups, C'].
    parameters: Parameters of a module of `ops.make_norm`; empty for none.
    bias: Bias of the convolution before the norm, [C'].
    **settings: Further arguments of `convolve`.
  """
  if 'mean' in parameters:
    kernel, bias = fold(kernel, parameters, bias=bias)
    return convolve(graph, parts, kernel, bias=bias, **settings)
  if 'scale' not in parameters:
    return convolve(graph, parts, kernel, bias=parameters.get('bias', bias), **settings)
  return group_norm(graph, convolve(graph, parts, kernel, bias=bias, **settings), parameters)


def fold(
  kernel: np.ndarray, parameters: Mapping[str, np.ndarray], *, bias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the kernel and bias of a convolution that computes its batch norm too."""
  factor = parameters['scale'] / np.sqrt(parameters['variance'] + norm.EPSILON)
  mean = parameters['mean'] if bias is None else parameters['mean'] - bias
  return kernel * factor, parameters['bias'] - mean * factor


def total(graph: Graph, names: Sequence[str]) -> str:
  """Adds the sum of one or more values."""
  found = names[0]
  for name in names[1:]:
    found = graph.add('Add', found, name)
  return found


def relu(graph: Graph, x: Tensor) -> Tensor:
  return x._replace(name=graph.add('Relu', x.name))


def max_pool(graph: Graph, x: Tensor, size: int) -> Tensor:
  """Adds max pooling over windows of 2 or 3 pixels at stride 2."""
  sides = {'kernel_shape': (size, size), 'strides': (2, 2), 'pads': [size // 3] * 4}
  return Tensor(graph.add('MaxPool', x.name, **sides), x.channels, x.level + 1)


def up_phases(
  graph: Graph,
  x: Tensor,
  kernel: np.ndarray,
  *,
  dilation: int = 1,
  bias: np.ndarray | None = None,
) -> Tensor:
  """Transposed 3x3 convolution with stride 2, as `spatial.up_phases`: [N, 4 * C', H, W].

  It is four small ones, one for each (row, column) phase of the output, which the channels hold in
  this order: even-even, even-odd, odd-even and odd-odd.
  """
  middle, outer = slice(1, 2), slice(0, 3, 2)
  before, after = (dilation - 1) // 2, (dilation + 1) // 2
  phases = []
  for rows in (middle, outer):
    for columns in (middle, outer):
      reach = [(before, after) if taps is outer else (0, 0) for taps in (rows, columns)]
      pads = [side[end] for end in (0, 1) for side in reach]
      taps = kernel[rows, columns]
      phases.append(convolve(graph, [x], taps, dilation=dilation, pads=pads, bias=bias))
  name = graph.add('Concat', *(phase.name for phase in phases), axis=1)
  return Tensor(name, 4 * phases[0].channels, x.level)


def interleave(graph: Graph, phases: Tensor) -> Tensor:
  """Interleaves the four phases of an image, [N, 4 * C, H, W], to [N, C, 2H, 2W]."""
  channels, level = phases.channels // 4, phases.level - 1
  if not graph.side:
    name = graph.add('DepthToSpace', phases.name, blocksize=2, mode='DCR')
    return Tensor(name, channels, level)
  # Two transpositions that move one axis each take a fifth of the time of DepthToSpace.
  side = graph.side >> level
  name = graph.add('Reshape', phases.name, graph.integers(0, 2, 2, -1))
  name = graph.add('Transpose', name, perm=(0, 1, 3, 2))  # interleaves the columns of both phases
  name = graph.add('Reshape', name, graph.integers(0, 2, -1, side))
  name = graph.add('Transpose', name, perm=(0, 2, 1, 3))  # interleaves the rows
  name = graph.add('Reshape', name, graph.integers(0, channels, side, side))
  return Tensor(name, channels, level)


def global_mean(graph: Graph, x: Tensor) -> Tensor:
  """Mean of every channel, [N, C, 1, 1]; many pixels are averaged by blocks to round less."""
  block = min(_PRECISE, 2 ** (graph.depth - x.level))
  if x.level < 2 and block > 1:
    sides = {'kernel_shape': (block, block), 'strides': (block, block)}
    x = x._replace(name=graph.add('AveragePool', x.name, **sides))
  return x._replace(name=graph.add('GlobalAveragePool', x.name))


def group_norm(
  graph: Graph, x: Tensor, parameters: Mapping[str, np.ndarray], *, source: Tensor | None = None
) -> Tensor:
  """Adds `norm.Norm`: mean 0 and deviation 1 for every group of channels, then scale and bias.

  `source` are the pixels of x in another order, [N, p * C, ..], which are cheaper to average.
  """
  source = source or x
  channels = x.channels
  group = norm.find_group_size(channels)
  of_group = np.arange(source.channels) % channels // group
  blocks = (of_group[:, None] == np.arange(channels) // group) / np.bincount(of_group)[0]
  blocks = blocks.astype(np.float32)[None, None]

  def mean(name: str) -> str:
    means = global_mean(graph, source._replace(name=name))
    return convolve(graph, [means], blocks, label='group_mean').name

  mean_, square = mean(source.name), mean(graph.add('Mul', source.name, source.name))
  variance = graph.add('Sub', square, graph.add('Mul', mean_, mean_))
  variance = graph.add('Relu', variance)  # rounding must not make it negative
  # One batch normalisation over the channels of all examples takes one pass, with any statistics.
  shape, flat = graph.add('Shape', mean_), graph.integers(-1)
  # Sides are named where they are known, as of two Reshapes in a row OpenCV 5.0 takes the zeros of
  # the second from the input of the first.
  sides = [graph.side >> x.level] * 2
  spread = [
    graph.add('Expand', graph.constant(parameters[name].reshape(1, channels, 1, 1)), shape)
    for name in ('scale', 'bias')
  ]
  name = graph.add('Reshape', x.name, graph.integers(1, -1, *sides))
  arguments = [graph.add('Reshape', one, flat) for one in (*spread, mean_, variance)]
  name = graph.add('BatchNormalization', name, *arguments, epsilon=norm.EPSILON)
  return x._replace(name=graph.add('Reshape', name, graph.integers(-1, channels, *sides)))
