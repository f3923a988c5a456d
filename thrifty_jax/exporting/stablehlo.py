"""Exports a network as StableHLO: a program for CPU, GPU and TPU, serialised by jax.export."""

from collections.abc import Callable

import jax
import jax.export  # must be imported explicitly
import jax.numpy as jnp
import numpy as np

from thrifty_jax.exporting.onnx_graph import tool
from thrifty_jax.model_folder import LoadedModel


def to_stablehlo(member: LoadedModel) -> bytes:
  """Exports network and weights, from image [N, C, S, S] in [0, 1] to logits [N, K, S, S].

  The program normalises the image, as in `onnx_network.to_onnx`; N may be any number.
  """
  tool('flatbuffers')  # which serialising needs
  spec, side = member.spec, member.spec.image.image_size
  mean, std = (np.tile(values, 2 * spec.context + 1) for values in spec.statistics.values())

  def network(image: jax.Array) -> jax.Array:
    normalised = (jnp.moveaxis(image, 1, 3) - mean) / std
    return jnp.moveaxis(member.logits(normalised), 3, 1)

  (slices,) = jax.export.symbolic_shape('slices')
  image = jax.ShapeDtypeStruct((slices, spec.image_channels, side, side), jnp.float32)
  exported = jax.export.export(jax.jit(network), platforms=('cpu', 'cuda', 'tpu'))(image)
  return bytes(exported.serialize())


def runner(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
  """Returns the function of numpy arrays that a file computes."""
  exported = jax.export.deserialize(bytearray(content))
  return lambda image: np.asarray(exported.call(image))
