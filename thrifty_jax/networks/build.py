"""Networks built, started with fresh parameters, and applied to images of any size."""

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

from thrifty_jax.networks import baselines, grid
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.model_spec import ModelSpec

Params = Any  # a pytree of arrays, {'stem': {'kernel': ...}, ...}
Shapes = dict[str, tuple[Sequence[int], str]]  # name -> shape and type, as JSON has it
# Returns what an earlier run made, or what it is given makes, see compiling.kept.
Keep = Callable[[Callable[[], bytes]], bytes]
_STACKED = re.compile(r'(down|up)_from_\d+$')  # names of a supernet's MixedEdges


def build(spec: ModelSpec, genotype: Genotype | None) -> nn.Module:
  """The network that a description asks for.

  Args:
    spec: Its description.
    genotype: What its cells keep, for `thrifty`; the baselines take none.
  """
  network, classes = spec.network, len(spec.classes)
  if network.name == 'thrifty':
    if genotype is None:
      raise ValueError('a thrifty network needs a genotype')
    return grid.DerivedNetwork(
      genotype,
      classes,
      channels=network.channels,
      depth=network.depth,
      deep_supervision=network.deep_supervision,
    )
  return baselines.UNetPlusPlus(
    classes,
    nested=network.name == 'unet_plus_plus',
    deep_supervision=network.deep_supervision,
    norm=network.norm,
    widths=baselines.widths_of(network.width),
  )


def trace_shapes(net: nn.Module, *inputs: Any) -> Shapes:
  """Shapes and types of the parameters that a network asks for, by their names.

  Args:
    net: Network of this project.
    *inputs: What it is applied to, arrays or jax.ShapeDtypeStruct, the image first; no side of it
      matters.
  """
  image, *others = inputs
  padded = jax.ShapeDtypeStruct(padded_shape(net, image.shape), image.dtype)
  init = functools.partial(net.init, jax.random.key(0))
  variables: Any = jax.eval_shape(init, padded, *others)
  leaves: dict[str, Any] = traverse_util.flatten_dict(variables['params'], sep='/')
  return {name: (leaf.shape, leaf.dtype.name) for name, leaf in leaves.items()}


def keep_shapes(keep: Keep, net: nn.Module, *inputs: Any) -> Shapes:
  """What `trace_shapes` finds, which takes a second or two of a supernet, or what is kept."""
  return json.loads(keep(lambda: json.dumps(trace_shapes(net, *inputs)).encode()))


@functools.lru_cache(maxsize=16)
def shapes(net: nn.Module, channels: int) -> Shapes:
  """What `trace_shapes` finds of a network that takes images with so many channels alone."""
  return trace_shapes(net, jax.ShapeDtypeStruct((1, 1, 1, channels), jnp.float32))


def initialise(shapes: Shapes, *, seed: int) -> Params:
  """Fresh parameters: He-normal kernels (fan in), scales 1, biases 0.

  Compiling a module's own initialiser takes minutes for a supernet on a CPU, and running it
  uncompiled seconds. What numpy draws it also rounds: JAX would compile that for every shape, a
  second in all.

  Args:
    shapes: Shapes and types from `trace_shapes`.
    seed: Number that the values depend on, with each parameter's name; not with the others'.
  """

  def draw(name: str, shape: Sequence[int], dtype: str) -> jax.Array:
    top, *_, last = name.split('/')
    if last in ('scale', 'bias'):
      return jax.device_put(np.full(shape, last == 'scale', dtype))
    generator = np.random.default_rng((seed, zlib.crc32(name.encode())))
    # The edges of a supernet are stacked, [cells, E, ...]: neither axis feeds an output.
    stacked = 2 if _STACKED.match(top) else 0
    fan_in = np.prod(shape[stacked:-1])
    return jax.device_put(generator.normal(0, np.sqrt(2 / fan_in), tuple(shape)).astype(dtype))

  drawn = {name: draw(name, *shape) for name, shape in shapes.items()}
  return traverse_util.unflatten_dict(drawn, sep='/')


def count(params: Params) -> int:
  """Number of parameters."""
  return sum(int(leaf.size) for leaf in jax.tree.leaves(params))


def count_shapes(shapes: Mapping[str, tuple[Sequence[int], str]]) -> int:
  """Number of parameters of these shapes."""
  return sum(math.prod(shape) for shape, _ in shapes.values())


def padded_shape(net: nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
  """Shape of an image, [..., H, W, C], with sides that the network takes."""
  *batch, height, width, channels = shape
  multiple = 2**net.depth  # pyrefly: ignore[missing-attribute]
  return (*batch, height + -height % multiple, width + -width % multiple, channels)


def apply(
  net: nn.Module, params: Params, image: jax.Array, *inputs: Any, background: Any
) -> jax.Array:
  """Logits of a network for an image of any size, which is filled up on the right and below.

  Args:
    net: Network of this project.
    params: Its parameters.
    image: Normalised image, [B, H, W, C].
    *inputs: What a supernet takes besides.
    background: Normalised value that sides are filled up with, [C], see model_spec.background.

  Returns:
    [B, H, W, K], or with deep supervision [.., B, H, W, K].
  """
  _, height, width, _ = image.shape
  logits: Any = net.apply({'params': params}, pad(net, image, background), *inputs)
  return logits[..., :height, :width, :]


def pad(net: nn.Module, image: jax.Array, background: Any) -> jax.Array:
  """An image [B, H, W, C], filled up with the background to sides that the network takes."""
  shape = padded_shape(net, image.shape)
  if shape == image.shape:
    return image
  shade = jnp.asarray(background, image.dtype)
  missing = [(0, new - old) for new, old in zip(shape, image.shape, strict=True)]
  return jnp.pad(image - shade, missing) + shade


def last_logits(logits: jax.Array) -> jax.Array:
  """The network's own output, where deep supervision stacked others in front: [B, H, W, K]."""
  return logits[-1] if logits.ndim == 5 else logits


@functools.lru_cache(maxsize=16)
def predict_logits(net: nn.Module) -> Any:
  """The function (params, image, background) -> logits [B, H, W, K], as `apply` has them.

  It is compiled once for all models of one architecture.
  """

  def predict(params: Params, image: jax.Array, background: Any) -> jax.Array:
    return last_logits(apply(net, params, image, background=background))

  return jax.jit(predict)
