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
  """Draws from the normal distribution, also as a flat array."""
  return jax.random.normal(key, (math.prod(shape),)).reshape(shape)


def smoothing(side: int, sigma: float) -> np.ndarray:
  """Returns Gaussian weights from noise points half a sigma apart to pixels, [side, points].

  The points reach three sigma beyond the slice, and every row has length 1, so that unit noise
  gives unit variance everywhere, borders included.
  """
  points = np.arange(-3 * sigma, side - 1 + 3.5 * sigma, sigma / 2)
  distance = np.arange(side)[:, None] - points[None]
  weights = np.exp(-(distance**2) / (2 * sigma**2))
  return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)
