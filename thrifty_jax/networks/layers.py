"""Table of the layers of a network: output sizes, parameters, multiplications and memory."""

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

from thrifty_jax.networks import baselines, build, cell, grid, norm, ops, space

ModulePath = tuple[str, ...]
# Modules whose submodules have lines of their own in the table.
_GROUPS = (cell.DerivedCell, grid.ResidualBlock, baselines.Block)


@dataclasses.dataclass(frozen=True)
class Layer:
  """A line of the table, whose numbers include those of submodules."""

  path: ModulePath  # ('up_1_0',) for a cell, ('up_1_0', 'node1_from_0') for a submodule
  kind: str  # name of the operation, such as 'up cell' or 'down_sep_conv_3x3'
  output: tuple[int, ...]  # shape of the output for one slice, [H, W, C]
  parameters: int
  macs: int  # multiplications when one slice is predicted


def layers(net: nn.Module, image_shape: Sequence[int]) -> list[Layer]:
  """Returns the modules of a network in the order in which they run.

  A cell, a residual block or a block of a baseline comes before its submodules, which are listed
  too. Layers that only deep supervision uses have 0 multiplications: prediction does not run them.
  The network is only traced for its shapes; nothing is computed.

  Args:
    net: A derived network or a baseline.
    image_shape: Shape of one slice, [H, W, C], any H and W.
  """
  trained = _trace(net, image_shape)
  predicting = trained
  if getattr(net, 'deep_supervision', False):
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
  """Returns the multiply-accumulate operations of the prediction of one slice [H, W, C].

  The count follows the literature: convolutions and dense layers count by their definition, even
  if a faster form computes them here; norms, pools, activations, biases, products with gates and
  sums of edges do not count. A transposed convolution multiplies every weight once for each pixel
  of its input. Sides are padded to those that the network takes.
  """
  return sum(layer.macs for layer in layers(net, image_shape) if len(layer.path) == 1)


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


@dataclasses.dataclass
class _Call:
  """Record of a module that ran; its counts do not include those of its submodules."""

  kind: str
  group: bool
  shapes: list[tuple[Any, Any]] = dataclasses.field(default_factory=list)  # (input, output) a call
  output: tuple[int, ...] = ()
  parameters: int = 0
  macs: int = 0


def _trace(net: nn.Module, image_shape: Sequence[int]) -> dict[ModulePath, _Call]:
  """Returns the record of every submodule by its path, in the order of their first calls."""
  calls: dict[ModulePath, _Call] = {}

  def record(method, args, kwargs, context):
    module = context.module
    if context.method_name != '__call__' or not module.path:
      return method(*args, **kwargs)
    call = calls.setdefault(module.path, _Call(_kind(module), isinstance(module, _GROUPS)))
    output = method(*args, **kwargs)
    call.output = output.shape[1:]
    call.shapes.append((args[0].shape, output.shape))
    return output

  image = jax.ShapeDtypeStruct((1, *build.padded_shape(net, image_shape)), jnp.float32)
  with nn.intercept_methods(record):
    params = jax.eval_shape(functools.partial(net.init, jax.random.key(0)), image)['params']
  weights: dict[ModulePath, Any] = traverse_util.flatten_dict(params)
  for path, weight in weights.items():
    call = calls[path[:-1]]
    call.parameters += weight.size
    call.macs += sum(_multiplications(path[-1], weight, *shapes) for shapes in call.shapes)
  return calls


def _multiplications(name: str, weight: Any, source: Sequence[int], result: Sequence[int]) -> int:
  """Returns the multiplications with one parameter in one call, given input and output shapes."""
  # Numbers of pixels; 1 for gates, which follow the global mean and have no spatial axes.
  before, after = math.prod(source[1:-1]), math.prod(result[1:-1])
  if name in ('kernel', 'depthwise'):  # strided: output pixels; transposed: input pixels
    return weight.size * min(before, after)
  if name == 'pointwise':  # follows the depthwise filter, on the output grid
    return weight.size * after
  if name in ('scale', 'bias'):
    return 0
  raise ValueError(
    f'{__name__} does not know how often a parameter {name!r} is multiplied; add it to _multiplications'
  )


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
    case baselines.Up():
      return 'up_conv_2x2'
    case ops.ConvNorm():
      size = f'{module.kernel_size}x{module.kernel_size}'
      return f'conv_{size}' + (f', stride {module.stride}' if module.stride > 1 else '')
    case nn.Conv():
      return f'conv_{"x".join(map(str, np.atleast_1d(module.kernel_size)))}'
    case norm.Norm():
      return 'group norm'
  return type(module).__name__
