"""Table of the layers of a network: output sizes, parameters, multiplications and memory."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from thrifty_jax.networks import baselines, batch_norm, build, cell, grid, lean, norm, ops, space

ModulePath = tuple[str, ...]
# Kinds of modules whose submodules have lines of their own in the table.
_GROUPS = ('down cell', 'up cell', 'residual block', 'block', 'stage')


@dataclasses.dataclass
class Layer:
  """A line of the table, whose numbers include those of submodules."""

  path: ModulePath  # ('up_1_0',) for a cell, ('up_1_0', 'node1_from_0') for a submodule
  kind: str  # name of the operation, such as 'up cell' or 'down_sep_conv_3x3'
  output: tuple[int, ...] = ()  # shape of the output for one slice, [H, W, C]
  parameters: int = 0
  macs: int = 0  # multiplications when one slice is predicted


class Counts(NamedTuple):
  """Size of a network: its parameters, and the multiplications when one slice is predicted."""

  parameters: int
  macs: int


def layers(net: nn.Module, image_shape: Sequence[int]) -> list[Layer]:
  """Returns the modules of a network in the order in which they run.

  A cell, a residual block or a block of a baseline comes before its submodules, which are listed
  too. Layers that only deep supervision uses have 0 multiplications: prediction does not run them.
  The network is only traced for its shapes; nothing is computed.

  Args:
    net: A derived network or a baseline.
    image_shape: Shape of one slice, [H, W, C], any H and W.
  """
  trained = predicting = _trace(net, image_shape)
  if getattr(net, 'deep_supervision', False):
    predicting = _trace(net.copy(deep_supervision=False), image_shape)

  def with_submodules(path: ModulePath) -> Layer:
    inside, run = (
      [row for row in table.values() if row.path[: len(path)] == path]
      for table in (trained, predicting)
    )
    return dataclasses.replace(
      trained[path],
      parameters=sum(row.parameters for row in inside),
      macs=sum(row.macs for row in run),
    )

  return [
    with_submodules(path)
    for path in trained
    if len(path) == 1 or len(path) == 2 and trained[path[:1]].kind in _GROUPS
  ]


def macs(net: nn.Module, image_shape: Sequence[int]) -> int:
  """Returns the multiply-accumulate operations of the prediction of one slice [H, W, C].

  The count follows the literature: convolutions and dense layers count by their definition, even
  if a faster form computes them here; norms, pools, activations, biases, products with gates and
  sums of edges do not count. A transposed convolution multiplies every weight once for each pixel
  of its input. Sides are padded to those that the network takes.
  """
  return count(net, image_shape).macs


def count(net: nn.Module, image_shape: Sequence[int]) -> Counts:
  """Returns parameters and multiplications, see `macs`, of a network for a slice [H, W, C]."""
  whole = [layer for layer in layers(net, image_shape) if len(layer.path) == 1]
  return Counts(sum(layer.parameters for layer in whole), sum(layer.macs for layer in whole))


def activation_bytes(net: nn.Module, image_shape: Sequence[int]) -> int | None:
  """Returns the peak temporary memory of the compiled forward pass of one slice on this device.

  Weights, input and logits are not counted. XLA plans this memory when it compiles; it does not
  know the allocations of the libraries that it calls. The result is None if XLA does not report it.
  """
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  background = jax.ShapeDtypeStruct(image_shape[-1:], jnp.float32)
  shapes = build.trace_shapes(net, image)
  params = traverse_util.unflatten_dict(
    {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}, sep='/'
  )
  planned = build.predict_logits(net).lower(params, image, background).compile().memory_analysis()
  return None if planned is None else int(planned.temp_size_in_bytes)


def _trace(net: nn.Module, image_shape: Sequence[int]) -> dict[ModulePath, Layer]:
  """Returns every submodule by itself, in the order of their first calls."""
  table: dict[ModulePath, Layer] = {}

  def record(method, args, kwargs, context):
    module = context.module
    if context.method_name != '__call__' or not module.path:
      return method(*args, **kwargs)
    row = table.setdefault(module.path, Layer(module.path, _kind(module)))
    output = method(*args, **kwargs)
    own = module.variables.get('params', {}).items()
    weights = {
      name: weight
      for name, weight in own
      if isinstance(weight, jax.Array) and name not in batch_norm.LEAVES
    }
    shapes = args[0].shape, output.shape
    row.output = output.shape[1:]
    row.parameters = sum(weight.size for weight in weights.values())
    row.macs += sum(_multiplications(name, weight, *shapes) for name, weight in weights.items())
    return output

  image = jax.ShapeDtypeStruct((1, *build.padded_shape(net, image_shape)), jnp.float32)
  with nn.intercept_methods(record):
    jax.eval_shape(functools.partial(net.init, jax.random.key(0)), image)
  return table


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
  match module:
    case nn.Module(operation=space.Operation(name=name)):
      return name
    case cell.DerivedCell():
      return f'{module.kind} cell'
    case grid.ResidualBlock():
      return 'residual block'
    case baselines.Block():
      return 'block'
    case ops.Transposed():
      return f'up_conv_{module.side}x{module.side}'
    case ops.ConvNorm():
      size = f'{module.kernel_size}x{module.kernel_size}'
      return f'conv_{size}' + (f', stride {module.stride}' if module.stride > 1 else '')
    case nn.Conv():
      return f'conv_{"x".join(map(str, np.atleast_1d(module.kernel_size)))}'
    case norm.Norm():
      return 'group norm'
    case batch_norm.BatchNorm():
      return 'batch norm'
    case lean.Pointwise():
      return 'conv_1x1'
    case lean.Stage() | lean.Bottleneck() | lean.Axial():
      return type(module).__name__.lower()
    case lean.Up():
      return f'up, {module.kind}'
  return type(module).__name__
