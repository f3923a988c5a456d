"""Random draws of the augmentation, and the ranges that they are mapped to."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def symmetric(draw: jax.Array, limit: float | jax.Array) -> jax.Array:
  """Maps a draw from [0, 1) to +-limit."""
  return (2 * draw - 1) * limit


def log_uniform(draw: jax.Array, limits: tuple[float, float]) -> jax.Array:
  """Maps a draw from [0, 1) to a range of factors, uniform in their logarithm."""
  low, high = np.log(limits[0]), np.log(limits[1])
  return jnp.exp(low + (high - low) * draw)


def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Draws from [0, 1) as a flat array: XLA's CPU compiler needs seconds for many odd sides."""
  return jax.random.uniform(key, (math.prod(shape),)).reshape(shape)


def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Draws, also as a flat array, from nearly the normal distribution, from -3.5 to 3.5.

  A draw is the sum of the four bytes of a random word, less its mean, over its deviation: where
  XLA draws in the kernel of the image, whose innermost loop is over its channels, a CPU takes
  several times as long for `jax.random.normal`. Nothing here needs more of its tails.
  """
  words = jax.random.bits(key, (math.prod(shape),), jnp.uint32)
  total = (words & 255) + (words >> 8 & 255) + (words >> 16 & 255) + (words >> 24)
  deviation = math.sqrt(4 * (256**2 - 1) / 12)
  return ((total.astype(jnp.float32) - 4 * 255 / 2) / deviation).reshape(shape)


def smoothing(side: int, sigma: float) -> np.ndarray:
  """Returns Gaussian weights from noise points half a sigma apart to pixels, [side, points].

  The points reach three sigma beyond the slice, and every row has length 1, so that unit noise
  gives unit variance everywhere, borders included.
  """
  points = np.arange(-3 * sigma, side - 1 + 3.5 * sigma, sigma / 2)
  distance = np.arange(side)[:, None] - points[None]
  weights = np.exp(-(distance**2) / (2 * sigma**2))
  return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)
