"""Random changes of intensities: sharpness, colour, brightness and contrast, and noise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from thrifty_jax.data import chance


def change_tone(
  key: jax.Array, image: jax.Array, *, settings: ConfigDict, mean: jax.Array, std: jax.Array
) -> jax.Array:
  """Mixes colours, then applies gamma, gain and bias field to intensities in [0, 1].

  Offset and noise, which follow, are in deviations: `image` is normalised by mean and std. Every
  modality has its own draws; neighbouring slices of one modality share them.
  """
  batch, channels = image.shape[0], image.shape[-1]
  if mean.shape != std.shape or mean.ndim != 1 or channels % mean.size:
    raise ValueError(f'mean {mean.shape} and std {std.shape} do not fit {channels} channels')
  slices = channels // mean.size
  draw_key, noise_key = jax.random.split(key)
  draws = chance.uniform(draw_key, (4, batch, 1, 1, mean.size))

  def every_slice(value: jax.Array) -> jax.Array:
    return jnp.tile(value, slices)

  mixes = settings.saturation or settings.hue_degrees
  gamma = tuple(settings.gamma) != (1, 1)
  if mixes or gamma or settings.gain or settings.bias_field:
    intensity = jnp.maximum(image * every_slice(std) + every_slice(mean), 0)
    if mixes:
      intensity = mix_colours(jax.random.fold_in(draw_key, 2), intensity, settings=settings)
    if gamma:
      exponent = every_slice(chance.log_uniform(draws[0], settings.gamma))
      bent = _power(intensity, exponent)
      if settings.gamma_inverted:
        lot = chance.uniform(jax.random.fold_in(draw_key, 3), draws[0].shape)
        inverted = every_slice(lot < settings.gamma_inverted)
        bent = jnp.where(inverted, 1 - _power(jnp.maximum(1 - intensity, 0), exponent), bent)
      intensity = bent
    gain = 1 + chance.symmetric(draws[1], settings.gain)
    if settings.bias_field:
      shape = (*image.shape[:3], mean.size)
      gain = gain * jnp.exp(settings.bias_field * _field(jax.random.fold_in(draw_key, 1), shape))
    image = (intensity * every_slice(gain) - every_slice(mean)) / every_slice(std)
  if settings.offset:
    image = image + every_slice(chance.symmetric(draws[2], settings.offset))
  if settings.noise:
    spread = settings.noise * draws[3]
    image = image + every_slice(spread) * chance.normal(noise_key, image.shape)
  return image


def _power(base: jax.Array, exponent: jax.Array) -> jax.Array:
  """Returns powers of numbers from 0 on, for exponents above 0; a CPU takes longer for `**`."""
  return jnp.exp(exponent * jnp.log(base))


def mix_colours(key: jax.Array, intensity: jax.Array, *, settings: ConfigDict) -> jax.Array:
  """Turns colours about grey and stretches their distance from it, by the draws of each example.

  Red, green and blue, [B, H, W, 3] in [0, 1], stay above 0. Grey is their mean, which does not
  change but for that limit; hue is the angle about the line of greys.
  """
  if intensity.shape[-1] != 3:
    raise ValueError(f'saturation and hue of {intensity.shape[-1]} channels: expected 3')
  draws = chance.uniform(key, (2, len(intensity), 1, 1, 1))
  stretch = 1 + chance.symmetric(draws[0], settings.saturation)
  angle = chance.symmetric(draws[1], np.deg2rad(settings.hue_degrees))
  grey = intensity.mean(axis=-1, keepdims=True)
  colour = intensity - grey
  # The rotation by Rodrigues' formula: across is the cross product with the direction of grey.
  across = (jnp.roll(colour, 1, axis=-1) - jnp.roll(colour, -1, axis=-1)) / math.sqrt(3)
  return jnp.maximum(grey + stretch * (jnp.cos(angle) * colour + jnp.sin(angle) * across), 0)


def blur(key: jax.Array, image: jax.Array, *, settings: ConfigDict) -> jax.Array:
  """Smooths a share of the examples by Gaussians, as wide as each one's draw says, in pixels.

  The channels of an image, [B, H, W, C], have the same; beyond the border it repeats. A Gaussian
  ends at three times the largest sigma.
  """
  lot, width = chance.uniform(key, (2, len(image), 1))
  low, high = settings.blur_sigma
  sigma = low + (high - low) * width
  reach = math.ceil(3 * high)
  distance = np.arange(-reach, reach + 1)
  weights = jnp.exp(-(distance**2) / (2 * sigma**2))
  weights = weights / weights.sum(axis=1, keepdims=True)
  weights = jnp.where(lot < settings.blur_probability, weights, distance == 0)
  for axis in (1, 2):
    image = _average(image, weights, axis=axis)
  return image


def coarsen(key: jax.Array, image: jax.Array, *, settings: ConfigDict) -> jax.Array:
  """Draws a share of the examples with fewer pixels and enlarges them again.

  A side keeps the share of its pixels that is drawn for the example: the nearest ones, between
  which it is interpolated linearly. All channels of an image, [B, H, W, C], have the same.
  """
  lot, place = chance.uniform(key, (2, len(image)))
  low, high = settings.coarse_scale
  coarse = image
  for _ in range(2):
    coarse = _coarsen_rows(coarse, low + (high - low) * place).swapaxes(1, 2)
  return jnp.where((lot < settings.coarse_probability)[:, None, None, None], coarse, image)


def _average(image: jax.Array, weights: jax.Array, *, axis: int) -> jax.Array:
  """Averages pixels of images, [B, H, W, C], with their neighbours along an axis.

  The weights, [B, 2R + 1], are those of pixels R before to R behind. A pixel with all its channels,
  or a row of pixels, stays in one piece, so that a CPU adds long vectors: ten times as fast.
  """
  side, piece = image.shape[axis], math.prod(image.shape[axis + 1 :])
  reach = weights.shape[1] // 2
  pieces = image.reshape(len(image), -1, side, piece)
  padded = jnp.pad(pieces, ((0, 0), (0, 0), (reach, reach), (0, 0)), mode='edge')
  padded = padded.reshape(*pieces.shape[:2], -1)
  terms = (
    padded[..., step * piece : (step + side) * piece] * weight[:, None, None]
    for step, weight in enumerate(weights.T)
  )
  return sum(terms, start=jnp.zeros(())).reshape(image.shape)


def _coarsen_rows(image: jax.Array, scale: jax.Array) -> jax.Array:
  """Keeps a share, [B], of the rows of each image, [B, H, W, C], and interpolates the others."""
  side = image.shape[1]
  kept = jnp.maximum(jnp.round(side * scale), 1)[:, None]
  # Place of each row among those that are kept; the first and the last go on to the border.
  where = jnp.clip((jnp.arange(side) + 0.5) * kept / side - 0.5, 0, kept - 1)
  first = jnp.floor(where)
  part = (where - first)[..., None, None]

  def rows(number: jax.Array) -> jax.Array:
    at = jnp.floor((jnp.minimum(number, kept - 1) + 0.5) * side / kept).astype(jnp.int32)
    return jax.vmap(lambda one, at: one.at[at].get(mode='promise_in_bounds'))(image, at)

  return rows(first) * (1 - part) + rows(first + 1) * part


def _field(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Draws normal fields of unit variance that vary over half a slice, [B, H, W, M]."""
  batch, height, width, modalities = shape
  down, across = (chance.smoothing(side, side / 2) for side in (height, width))
  noise = chance.normal(key, (batch, down.shape[1], across.shape[1], modalities))
  return jnp.einsum('hp,wq,bpqm->bhwm', down, across, noise, precision='highest')
