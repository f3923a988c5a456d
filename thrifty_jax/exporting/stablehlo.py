"""A model's network as StableHLO: a program for CPU, GPU and TPU, serialised by jax.export."""

from collections.abc import Callable

import jax
import jax.export  # has to be imported by itself
import jax.numpy as jnp
import numpy as np

from thrifty_jax import model
from thrifty_jax.errors import InputError
from thrifty_jax.model import LoadedModel

PLATFORMS = ('cpu', 'cuda', 'tpu')


def to_stablehlo(member: LoadedModel) -> bytes:
  """The network with its weights, from image [N, C, S, S] in [0, 1] to logits [N, K, S, S].

  Mean and deviation are taken inside, as in `onnx_network.to_onnx`; N may be any number.

  Raises:
    InputError: If the package that writes such files is not installed.
  """
  spec = member.preprocessing
  copies = 2 * spec['context'] + 1
  mean, std = (np.tile(np.float32(spec[name]), copies) for name in ('mean', 'std'))

  def network(image: jax.Array) -> jax.Array:
    normalised = (jnp.moveaxis(image, 1, 3) - mean) / std
    logits = model.last_logits(model.apply(member.module, member.params, normalised))
    return jnp.moveaxis(logits, 3, 1)

  (slices,) = jax.export.symbolic_shape('slices')
  shape = (slices, copies * spec['modalities'], *2 * (spec['image_size'],))
  image = jax.ShapeDtypeStruct(shape, jnp.float32)
  exported = jax.export.export(jax.jit(network), platforms=PLATFORMS)(image)
  try:
    return bytes(exported.serialize())
  except ModuleNotFoundError as error:
    raise InputError(
      f'{error.name} is not installed, and writing StableHLO needs it; '
      'pip install -r requirements-export.txt'
    ) from error


def runner(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
  """The function that a file's content is, of numpy arrays."""
  exported = jax.export.deserialize(bytearray(content))
  return lambda image: np.asarray(exported.call(image))
