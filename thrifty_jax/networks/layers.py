"""Table of the layers of a network: output sizes, parameters, multiplications and memory."""

import collections
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from thrifty_jax.networks import baselines, batch_norm, build, cell, grid, lean, norm, ops, space

ModulePath = tuple[str, ...]  # ('up_1_0', 'node1_from_0')
_SUPERVISED = (grid.DerivedNetwork, baselines.UNetPlusPlus)
# Modules whose submodules have lines of their own in the table.
_GROUPS = (cell.DerivedCell, grid.ResidualBlock, baselines.Block, lean.Stage)


@dataclasses.dataclass(frozen=True)
class Layer:
  """A line of the table.

  Attributes:
    path: Path of the module, ('up_1_0',) for a cell, ('up_1_0', 'node1_from_0') for a submodule.
    kind: Name of the operation, such as 'up cell' or 'down_sep_conv_3x3'.
    output: Shape of its output for one slice, [H, W, C].
    parameters: Number of parameters, submodules included.
    macs: Multiplications when one slice is predicted, submodules included.
  """

  path: ModulePath
  kind: str
  output: tuple[int, ...]
  parameters: int
  macs: int


def layers(net: nn.Module, image_shape: Sequence[int]) -> list[Layer]:
  """Returns the layers in the order in which they run, a cell or block before its own layers.

  The network is only traced for its shapes; nothing is computed.

  Args:
    net: A derived network or a baseline.
    image_shape: Shape of one slice, [H, W, C], any H and W.

  Returns:
    One entry for every module of the network (a path of one name) and for every submodule of a
    cell, a residual block or a block of a baseline. Layers that only deep supervision uses are
    listed with their parameters and 0 multiplications: prediction does not run them.
  """
  trained = _trace(net, image_shape)
  predicting = trained
  if isinstance(net, _SUPERVISED) and net.deep_supervision:
    predicting = _trace(net.copy(deep_supervision=False), image_shape)
  shown = [path for path in trained if len(path) == 1 or len(path) == 2 and trained[path[:1]].group]
  return [
    Layer(
      path,
      trained[path].kind,
      trained[path].output,
      sum(call.parameters for part, call in trained.items() if part[: len(path)] == path),
      sum(call.macs for part, call in predicting.items() if part[: len(path)] == path),
    )
    for path in shown
  ]


def macs(net: nn.Module, image_shape: Sequence[int]) -> int:
  """Returns the number of multiply-accumulate operations for the prediction of one slice.

  The count follows the literature: convolutions and dense layers count by their definition, even
  if a faster form computes them here; norms, pools, activations, biases, products with gates and
  sums of edges do not count. A transposed convolution multiplies every weight once for each pixel
  of its input.

  Args:
    net: A derived network or a baseline.
    image_shape: Shape of one slice, [H, W, C]; its sides are padded to those the network takes.
  """
  return sum(layer.macs for layer in layers(net, image_shape) if len(layer.path) == 1)


def activation_bytes(net: nn.Module, image_shape: Sequence[int]) -> int | None:
  """Returns the peak temporary memory of the compiled forward pass of one slice on this device.

  Weights, input and logits are not counted. XLA plans this memory when it compiles; it does not
  know the allocations of the libraries that it calls.

  Returns:
    Number of bytes, or None if XLA does not report it.
  """
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  background = jax.ShapeDtypeStruct(image_shape[-1:], jnp.float32)
  shapes = build.trace_shapes(net, image)
  params = traverse_util.unflatten_dict(
    {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}, sep='/'
  )
  planned = build.predict_logits(net).lower(params, image, background).compile().memory_analysis()
  return None if planned is None else int(planned.temp_size_in_bytes)


@dataclasses.dataclass
class _Call:
  """Record of a module that ran; its counts do not include those of its submodules."""

  kind: str
  group: bool
  output: tuple[int, ...] = ()
  parameters: int = 0
  macs: int = 0


def _trace(net: nn.Module, image_shape: Sequence[int]) -> dict[ModulePath, _Call]:
  """Returns the record of every submodule by its path, in the order of their first calls."""
  calls: dict[ModulePath, _Call] = {}
  shapes: dict[ModulePath, list[tuple[Any, Any]]] = collections.defaultdict(list)

  def record(method, args, kwargs, context):
    module = context.module
    if context.method_name != '__call__' or not module.path:
      return method(*args, **kwargs)
    call = calls.setdefault(module.path, _Call(_kind(module), isinstance(module, _GROUPS)))
    output = method(*args, **kwargs)
    call.output = output.shape[1:]
    shapes[module.path].append((args[0].shape, output.shape))
    return output

  image = jax.ShapeDtypeStruct((1, *build.padded_shape(net, image_shape)), jnp.float32)
  with nn.intercept_methods(record):
    params = jax.eval_shape(functools.partial(net.init, jax.random.key(0)), image)['params']
  weights: dict[ModulePath, Any] = traverse_util.flatten_dict(params)
  for path, weight in weights.items():
    if path[-1] in batch_norm.LEAVES:
      continue  # running statistics, which nothing trains
    call = calls[path[:-1]]
    call.parameters += weight.size
    call.macs += sum(_multiplications(path[-1], weight, *shape) for shape in shapes[path[:-1]])
  return calls


def _multiplications(name: str, weight: Any, source: Sequence[int], result: Sequence[int]) -> int:
  """Returns the multiplications with one parameter in one call, given input and output shapes."""
  # Numbers of pixels; 1 for gates, which follow the global mean and have no spatial axes.
  before, after = math.prod(source[1:-1]), math.prod(result[1:-1])
  if name in (
    'kernel',
    'depthwise',
    'down',
    'across',
  ):  # strided: output pixels; transposed: input pixels
    return weight.size * min(before, after)
  if name == 'pointwise':  # follows the depthwise filter, on the output grid
    return weight.size * after
  if name in ('scale', 'bias'):
    return 0
  raise ValueError(f'how often is a parameter {name!r} multiplied? Add it to {__name__}')


def _kind(module: nn.Module) -> str:
  """Returns the name of a module in the table; an operation has its name in genotypes."""
  row = getattr(module, 'operation', None)
  if isinstance(row, space.Operation):
    return row.name
  match module:
    case cell.DerivedCell():
      return f'{module.kind} cell'
    case grid.ResidualBlock():
      return 'residual block'
    case baselines.Block():
      return 'block'
    case baselines.Up():
      return 'up_conv_2x2'
    case ops.ConvNorm():
      size = f'{module.kernel_size}x{module.kernel_size}'
      return f'conv_{size}' + (f', stride {module.stride}' if module.stride > 1 else '')
    case nn.Conv():
      return f'conv_{"x".join(map(str, np.atleast_1d(module.kernel_size)))}'
    case norm.Norm():
      return 'group norm'
    case batch_norm.BatchNorm():
      return 'batch norm'
    case lean.Stage():
      return f'{module.count} {module.level.block}'
    case lean.Transposed():
      return f'transposed conv_{module.side}x{module.side}'
    case lean.Up():
      return f'up, {module.kind}'
    case lean.ConvNorm():
      return f'conv_{module.side}x{module.side}'
    case lean.Pointwise():
      return 'conv_1x1'
    case lean.Bottleneck() | lean.Axial():
      return type(module).__name__.lower()
  return type(module).__name__
