"""The layers of a network: their sizes, parameters, multiplications and memory."""

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

from thrifty_jax.networks import baselines, build, cell, grid, norm, ops, space

ModulePath = tuple[str, ...]  # ('up_1_0', 'node1_from_0')
_SUPERVISED = (grid.DerivedNetwork, baselines.UNetPlusPlus)
# Modules whose parts have lines of their own in the table.
_GROUPS = (cell.DerivedCell, grid.ResidualBlock, baselines.Block)


@dataclasses.dataclass(frozen=True)
class Layer:
  """A line of the table.

  Attributes:
    path: Path of the module, ('up_1_0',) for a cell, ('up_1_0', 'node1_from_0') for a part of it.
    kind: Name of what it does: 'up cell', 'down_sep_conv_3x3'.
    output: Shape of what it gives for one slice, [H, W, C].
    parameters: Parameters of its own and of its parts.
    macs: Multiplications when one slice is predicted, those of its parts included.
  """

  path: ModulePath
  kind: str
  output: tuple[int, ...]
  parameters: int
  macs: int


def layers(net: nn.Module, image_shape: Sequence[int]) -> list[Layer]:
  """The layers in the order in which they run, those of a cell or block right after it.

  The network is traced for its shapes, nothing is computed.

  Args:
    net: A derived network or a baseline.
    image_shape: Shape of one slice, [H, W, C], any H and W.

  Returns:
    One entry for every module in the network (path of one name) and for every part of a cell, a
    residual block or a block of a baseline. Layers that only deep supervision needs are there, with
    their parameters, but count no multiplications: predicting does not run them.
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
  """Multiplications, each with its addition, that predicting one slice takes.

  Counted as papers do: convolutions and dense layers by their definition, whatever faster form
  computes them here; no norms, pools, activations, biases, gates' products or sums of edges. A
  transposed convolution multiplies every weight once for each pixel of its input.

  Args:
    net: A derived network or a baseline.
    image_shape: Shape of one slice, [H, W, C]; sides are filled up to those it takes.
  """
  return sum(layer.macs for layer in layers(net, image_shape) if len(layer.path) == 1)


def activation_bytes(net: nn.Module, image_shape: Sequence[int]) -> int | None:
  """Temporary memory that the compiled forward pass of one slice plans on this device, at its peak.

  Weights, input and logits are not in it. XLA plans it when it compiles; what a library that it
  calls allocates for itself is not known to it.

  Returns:
    Bytes, or None where XLA does not say.
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
  """A module as it ran: parameters and multiplications of its own, without those of its parts."""

  kind: str
  group: bool
  output: tuple[int, ...] = ()
  parameters: int = 0
  macs: int = 0


def _trace(net: nn.Module, image_shape: Sequence[int]) -> dict[ModulePath, _Call]:
  """Every module inside the network by its path, in the order in which they were first called."""
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
    call = calls[path[:-1]]
    call.parameters += weight.size
    call.macs += sum(_multiplications(path[-1], weight, *shape) for shape in shapes[path[:-1]])
  return calls


def _multiplications(name: str, weight: Any, source: Sequence[int], result: Sequence[int]) -> int:
  """Multiplications of one parameter in one call, from the shapes of its input and output."""
  # Per pixel; behind the global mean, at gates, there are none.
  before, after = math.prod(source[1:-1]), math.prod(result[1:-1])
  if name in ('kernel', 'depthwise'):  # strided: of the output's pixels; transposed: of the input's
    return weight.size * min(before, after)
  if name == 'pointwise':  # behind the depthwise filter, on the grid of the output
    return weight.size * after
  if name in ('scale', 'bias'):
    return 0
  raise ValueError(f'how often is a parameter {name!r} multiplied? Add it to {__name__}')


def _kind(module: nn.Module) -> str:
  """What a module does, an operation by its name in genotypes."""
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
  return type(module).__name__
