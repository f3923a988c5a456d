"""What the configured network is made of: layers, parameters, multiplications, memory. No data."""

import collections
import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from thrifty_jax import device, stages
from thrifty_jax.logbook import say
from thrifty_jax.networks import baselines, build, cell, genotype, grid, norm, ops
from thrifty_jax.networks.model_spec import make_spec

ModulePath = tuple[str, ...]  # ('up_1_0', 'node1_from_0')
_SUPERVISED = (grid.DerivedNetwork, baselines.UNetPlusPlus)
# Modules whose parts have lines of their own in the table.
_GROUPS = (cell.DerivedCell, grid.ResidualBlock, baselines.Block)


@dataclasses.dataclass(frozen=True)
class Layer:
  """A line of the table.

  Attributes:
    path: Of the module, ('up_1_0',) for a cell, ('up_1_0', 'node1_from_0') for a part of it.
    kind: What it does: 'up cell', 'down_sep_conv_3x3'.
    output: Shape of what it gives for one slice, [H, W, C].
    parameters: Its own and those of its parts.
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
    image_shape: Of one slice, [H, W, C], any H and W.

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
    image_shape: Shape of one slice, [H, W, C]; sides are filled up to those the network takes.
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
  padded = jax.ShapeDtypeStruct(build.padded_shape(net, image.shape), jnp.float32)
  params = jax.eval_shape(functools.partial(net.init, jax.random.key(0)), padded)['params']
  planned = build.predict_logits(net).lower(params, image, background).compile().memory_analysis()
  return None if planned is None else int(planned.temp_size_in_bytes)


def describe(config: ConfigDict, workdir: Path) -> dict[str, Any]:
  """Prints the layers and the size of the configured network; the last line is JSON.

  Args:
    config: Of the run; no data is read.
    workdir: Where a searched genotype is looked for. Nothing is written.

  Returns:
    What the last line says.

  Raises:
    InputError: The genotype is missing or damaged.
  """
  data, name = config.data, config.model.name
  path = stages.genotype_file(config, workdir) if name == 'thrifty' else None
  # Neither shapes nor sizes depend on what the slices were normalised with.
  statistics = {'mean': np.zeros(data.modalities), 'std': np.ones(data.modalities)}
  net = build.build(make_spec(config, statistics), genotype.load(path) if path else None)
  image = (data.image_size, data.image_size, data.modalities * (2 * data.context + 1))
  found = layers(net, image)
  total = [layer for layer in found if len(layer.path) == 1]
  summary = {
    'model': name,
    'genotype': str(path) if path else None,
    'image': list(image),
    'classes': len(data.classes),
    'parameters': sum(layer.parameters for layer in total),
    'macs': sum(layer.macs for layer in total),
    'activation_bytes': activation_bytes(net, image),
    'device': device.describe(),
  }
  print('\n'.join(['', *table(found), '']))
  _say_totals(summary, deep_supervision=config.model.deep_supervision)
  print(json.dumps(summary), flush=True)
  return summary


def table(found: Sequence[Layer]) -> list[str]:
  """Lines of text: a layer each, parts indented below their cell, and the total."""
  whole = [layer for layer in found if len(layer.path) == 1]
  total = sum(layer.macs for layer in whole)
  unit, letter = _unit(total / 100)  # in which small layers have digits left
  parameters = sum(layer.parameters for layer in whole)
  rows = [
    ('layer', 'kind', 'output', 'parameters', f'MACs ({letter})', 'share'),
    *(_row(layer, unit, total) for layer in found),
    ('total', '', '', f'{parameters:,}', f'{total / unit:,.2f}', ''),
  ]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = [_line(row, widths) for row in rows]
  rule = '-' * (sum(widths) + 2 * len(widths) - 2)
  return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _row(layer: Layer, unit: float, total: int) -> tuple[str, ...]:
  """The columns of a layer; shares stand at whole cells only, where they add up."""
  name = '  ' * (len(layer.path) - 1) + layer.path[-1]
  output = ' x '.join(map(str, layer.output))
  share = f'{100 * layer.macs / total:.1f} %' if len(layer.path) == 1 else ''
  return name, layer.kind, output, f'{layer.parameters:,}', f'{layer.macs / unit:,.2f}', share


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
  """Names to the left, figures to the right."""
  columns = zip(row, widths, strict=True)
  aligned = [f'{text:<{w}}' if i < 2 else f'{text:>{w}}' for i, (text, w) in enumerate(columns)]
  return '  '.join(aligned).rstrip()


def _unit(count: float) -> tuple[float, str]:
  """What to count in, so that digits stand before the point."""
  if count >= 1e9:
    return 1e9, 'G'
  return (1e6, 'M') if count >= 1e6 else (1e3, 'k')


def _say_totals(summary: dict[str, Any], *, deep_supervision: bool) -> None:
  """The figures below the table, and what they mean."""
  parameters, planned = summary['parameters'], summary['activation_bytes']
  say('network', f'{parameters:,} parameters, {parameters * 4 / 2**20:.2f} MiB as float32')
  unit, letter = _unit(summary['macs'])
  shape = ' x '.join(map(str, summary['image']))
  say('MACs', f'{summary["macs"] / unit:.2f} {letter} to predict a slice of {shape}')
  if deep_supervision:
    say('', 'what deep supervision runs in training alone is not in them')
  memory = 'not known on this device' if planned is None else f'{planned / 2**20:.2f} MiB'
  say('memory', f'{memory}: peak temporary memory of the compiled forward pass of one slice')
  say('', f'on {summary["device"]}, beyond weights, input and logits\n')


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
  """Of one parameter in one call, from the shapes of what goes in and what comes out."""
  # Per pixel; behind the global mean, at gates, there are none.
  before, after = math.prod(source[1:-1]), math.prod(result[1:-1])
  if name in ('kernel', 'depthwise'):  # strided: of the output's pixels; transposed: of the input's
    return weight.size * min(before, after)
  if name == 'pointwise':  # behind the depthwise filter, on the grid of the output
    return weight.size * after
  if name in ('scale', 'bias'):
    return 0
  raise ValueError(f'how often is a parameter {name!r} multiplied? Add it to describe.py')


def _kind(module: nn.Module) -> str:
  """What a module does, an operation by its name in genotypes."""
  match module:
    case cell.DerivedCell():
      return f'{module.kind} cell'
    case grid.ResidualBlock():
      return 'residual block'
    case baselines.Block():
      return 'block'
    case baselines.Up():
      return 'up_conv_2x2'
    case ops.Convolution():
      return _convolution(module)
    case ops.Gated():
      return 'se'
    case ops.Parameterless():
      return module.kind
    case ops.ConvNorm():
      size = f'{module.kernel_size}x{module.kernel_size}'
      return f'conv_{size}' + (f', stride {module.stride}' if module.stride > 1 else '')
    case nn.Conv():
      return f'conv_{"x".join(map(str, np.atleast_1d(module.kernel_size)))}'
    case norm.Norm():
      return 'group norm'
  return type(module).__name__


def _convolution(module: ops.Convolution) -> str:
  """The name of a candidate operation."""
  scale = '' if module.resample == 'normal' else f'{module.resample}_'
  form = 'sep_' if module.separable else 'se_' if module.gated else ''
  return f'{scale}{form or ("dil_" if module.dilation > 1 else "")}conv_3x3'
