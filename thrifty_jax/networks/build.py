"""Builds networks, initialises their parameters and applies them to images of any size."""

import functools
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from thrifty_jax import files
from thrifty_jax.errors import InputError
from thrifty_jax.networks import baselines, batch_norm, grid
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.lean import LeanNetwork
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.networks.model_spec import ModelSpec

Params = Any  # a pytree of arrays, {'stem': {'kernel': ...}, ...}
Shapes = dict[str, tuple[Sequence[int], str]]  # name -> shape and type, as in JSON
# Returns what the second argument reads from the bytes that an earlier run cached, or else from
# those that the first one makes; see compiling.keep.
Keep = Callable[[Callable[[], bytes], Callable[[bytes], Shapes]], Shapes]
# Message for a genotype of another space than that of the model.
_OTHER = (
  'config.genotype describes {}, and config.model.name is {!r}; add the variant {} to --config, or '
  'name another genotype'
)
_STACKED = re.compile(r'(down|up)_from_\d+$')  # names of the MixedEdges modules of a supernet


def build(spec: ModelSpec, genotype: Genotype | LeanShape | None) -> nn.Module:
  """Returns the network of a description; baselines have no genotype."""
  network, classes = spec.network, len(spec.classes)
  if genotype is None and network.name in ('lean', 'thrifty'):
    raise ValueError(f'a network {network.name!r} needs a genotype')
  if network.name == 'lean':
    if not isinstance(genotype, LeanShape):
      raise InputError(_OTHER.format('cells', 'lean', 'thrifty'))
    return LeanNetwork(genotype, classes)
  if network.name == 'thrifty':
    if not isinstance(genotype, Genotype):
      raise InputError(_OTHER.format('a lean network', 'thrifty', 'lean'))
    return grid.DerivedNetwork(
      genotype,
      classes,
      channels=network.channels,
      depth=network.depth,
      norm='batch' if network.norm == 'batch' else 'group',
      deep_supervision=network.deep_supervision,
    )
  return baselines.UNetPlusPlus(
    classes,
    nested=network.name == 'unet_plus_plus',
    deep_supervision=network.deep_supervision,
    norm=network.norm,
    widths=baselines.widths_of(network.width),
  )


def freeze(net: nn.Module, levels: int) -> tuple[nn.Module, tuple[str, ...]]:
  """Returns a network whose first levels training leaves as they are, and their modules' names.

  More levels than the network has, and those of cells, are a ValueError.
  """
  if not levels:
    return net, ()
  encoder = getattr(net, 'encoder', ())
  if levels > len(encoder):
    raise ValueError(f'{levels} levels of {len(encoder)} cannot be frozen')
  return net.copy(frozen=levels), encoder[:levels]


def trace_shapes(net: nn.Module, *inputs: Any) -> Shapes:
  """Returns the shapes and types of a network's parameters by their names.

  The inputs are arrays or jax.ShapeDtypeStruct, first an image, whose sides do not matter.
  """
  image, *others = inputs
  padded = jax.ShapeDtypeStruct(padded_shape(net, image.shape), image.dtype)
  init = functools.partial(net.init, jax.random.key(0))
  variables: Any = jax.eval_shape(init, padded, *others)
  leaves: dict[str, Any] = traverse_util.flatten_dict(variables['params'], sep='/')
  return {name: (leaf.shape, leaf.dtype.name) for name, leaf in leaves.items()}


def keep_shapes(keep: Keep, net: nn.Module, *inputs: Any) -> Shapes:
  """Returns the cached result of `trace_shapes`, which takes a second or two for a supernet."""
  return keep(lambda: json.dumps(trace_shapes(net, *inputs)).encode(), parse_shapes)


def parse_shapes(content: bytes) -> Shapes:
  """Returns the shapes of `keep_shapes` from JSON, or raises ValueError for anything else."""
  shapes = files.parse_json(content.decode())
  if not isinstance(shapes, dict) or not shapes:
    raise ValueError('no shapes by name')
  for name, (sizes, dtype) in shapes.items():
    is_shape = isinstance(sizes, list) and all(type(size) is int and size > 0 for size in sizes)
    if not (re.fullmatch(r'\w+(/\w+)*', name) and is_shape and np.dtype(dtype).kind in 'fV'):
      raise ValueError(f'{name!r:.60} has no shape')
  return shapes


@functools.lru_cache(maxsize=16)
def find_shapes(net: nn.Module, channels: int) -> Shapes:
  """Returns the result of `trace_shapes` for a network whose only input has this many channels."""
  return trace_shapes(net, jax.ShapeDtypeStruct((1, 1, 1, channels), jnp.float32))


def initialise(shapes: Shapes, *, seed: int) -> Params:
  """Returns initial parameters: He-normal kernels (fan in), scales 1, biases 0.

  The compilation of a module's own initialiser takes minutes for a supernet on a CPU, and its
  uncompiled run takes seconds. numpy also casts the values it draws: JAX would compile the cast for
  every shape, one second in total. The seed, a parameter's name and its shape determine its values.
  """

  def draw(name: str, shape: Sequence[int], dtype: str) -> jax.Array:
    top, *_, last = name.split('/')
    if last in ('scale', 'bias', *batch_norm.LEAVES):
      return jax.device_put(np.full(shape, last in ('scale', 'variance'), dtype))
    generator = np.random.default_rng((seed, zlib.crc32(name.encode())))
    # The edges of a supernet are stacked, [cells, E, ...]: neither axis is part of the fan-in.
    stacked = 2 if _STACKED.match(top) else 0
    fan_in = np.prod(shape[stacked:-1])
    return jax.device_put(generator.normal(0, np.sqrt(2 / fan_in), tuple(shape)).astype(dtype))

  drawn = {name: draw(name, *shape) for name, shape in shapes.items()}
  return traverse_util.unflatten_dict(drawn, sep='/')


def count(params: Params) -> int:
  """Returns the number of parameters; running statistics are none."""
  leaves: dict[Any, Any] = traverse_util.flatten_dict(params)
  return sum(int(leaf.size) for path, leaf in leaves.items() if path[-1] not in batch_norm.LEAVES)


def count_shapes(shapes: Mapping[str, tuple[Sequence[int], str]]) -> int:
  """Returns the number of parameters with these shapes."""
  parameters = (name for name in shapes if name.rpartition('/')[2] not in batch_norm.LEAVES)
  return sum(math.prod(shapes[name][0]) for name in parameters)


def padded_shape(net: nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
  """Returns the shape of an image, [..., H, W, C], padded to sides that the network takes."""
  *batch, height, width, channels = shape
  multiple = 2**net.depth  # pyrefly: ignore[missing-attribute]
  return (*batch, height + -height % multiple, width + -width % multiple, channels)


def apply(
  net: nn.Module, params: Params, image: jax.Array, *inputs: Any, background: Any
) -> jax.Array:
  """Returns the logits of an image of any size, which is padded on the right and below.

  Args:
    net: Network of this project.
    params: Parameters of the network.
    image: Normalised image, [B, H, W, C].
    *inputs: Further inputs of a supernet.
    background: Normalised value of the padding, [C], see model_spec.background.

  Returns:
    Logits [B, H, W, K], or with deep supervision [.., B, H, W, K].
  """
  _, height, width, _ = image.shape
  logits: Any = net.apply({'params': params}, pad(net, image, background), *inputs)
  return logits[..., :height, :width, :]


def apply_training(
  net: nn.Module, params: Params, image: jax.Array, *, background: Any
) -> tuple[jax.Array, Any]:
  """Returns the result of `apply` with batch norms that use the batch's statistics, and these."""
  _, height, width, _ = image.shape
  padded = pad(net, image, background)
  logits, changed = net.apply({'params': params}, padded, mutable=[batch_norm.COLLECTION])
  return logits[..., :height, :width, :], changed.get(batch_norm.COLLECTION, {})


def pad(net: nn.Module, image: jax.Array, background: Any) -> jax.Array:
  """Pads an image [B, H, W, C] with the background to sides that the network takes."""
  shape = padded_shape(net, image.shape)
  if shape == image.shape:
    return image
  shade = jnp.asarray(background, image.dtype)
  missing = [(0, new - old) for new, old in zip(shape, image.shape, strict=True)]
  return jnp.pad(image - shade, missing) + shade


def take_last(logits: jax.Array) -> jax.Array:
  """Returns the last of stacked logits of deep supervision, else the logits, [B, H, W, K]."""
  return logits[-1] if logits.ndim == 5 else logits


@functools.lru_cache(maxsize=16)
def predict_logits(net: nn.Module) -> Any:
  """Returns the compiled function (params, image, background) -> logits [B, H, W, K], see `apply`.

  It is compiled once for all models of one architecture, and computes in full float32 on every
  device, however JAX was started.
  """

  def predict(params: Params, image: jax.Array, background: Any) -> jax.Array:
    with jax.default_matmul_precision('highest'):
      return take_last(apply(net, params, image, background=background))

  return jax.jit(predict)
