"""Random augmentation of training slices: one warp for image and mask, then intensities.

Everything runs on the device, inside jit, for a whole batch. A setting with an empty range costs
nothing: its code is left out when the function is traced. Nor does a setting change the draws of
another, so that a run goes on with the same bits where a later version knows more settings.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from thrifty_jax.data import chance, tones

# Elastic settings are pixels of a slice of this side, so that they mean the same at every size.
REFERENCE_SIDE = 256
# Limit on the crops drawn until one fits, as in the public code of the authors of Thrifty NAS.
CROP_TRIES = 10


def augment(
  key: jax.Array,
  image: jax.Array,
  label: jax.Array,
  *,
  settings: ConfigDict,
  mean: jax.Array,
  std: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns a batch in which every example is flipped, warped and re-toned by its own draws.

  Args:
    key: Random key; the same key gives the same result.
    image: Normalised slices, [B, H, W, C], floating point, H and W at least 2.
    label: Class of each pixel, [B, H, W], any integer type.
    settings: Section `augment` of the config; static under jit.
    mean: Mean that was subtracted from intensities in [0, 1], [M]; C is M modalities of each of
      C / M neighbouring slices, in slice order.
    std: Deviation that they were divided by afterwards, [M].

  Returns:
    Image, [B, H, W, C], and label, [B, H, W], with unchanged types.

  Raises:
    ValueError: If the shapes do not match, or colours are mixed of other than three modalities.
  """
  if image.ndim != 4 or label.shape != image.shape[:3]:
    raise ValueError(
      f'image {image.shape} and label {label.shape}: expected [B, H, W, C] and [B, H, W]'
    )
  affine_key, elastic_key, tone_key, crop_key = jax.random.split(key, 4)
  new_image = image.astype(jnp.float32)
  flips = settings.flip_left_right or settings.flip_up_down or settings.flip_diagonal
  moves = settings.rotate_degrees or any(settings.translate) or tuple(settings.scale) != (1, 1)
  elastic = settings.elastic_probability * settings.elastic_alpha > 0
  crop = tuple(settings.crop_area) != (1, 1)
  if flips or moves or elastic or crop:
    # Coordinates (down, right) of every pixel, [1, H, W, 2].
    where = jnp.moveaxis(jnp.indices(label.shape[1:], jnp.float32), 0, -1)[None]
    if flips or moves:
      where = affine_source(affine_key, where, batch=len(label), settings=settings)
    if elastic:
      where = where + displacement(elastic_key, label.shape, settings=settings)
    if crop:  # last on the way back: a slice is cropped first, then moved and deformed
      where = crop_source(crop_key, where, shape=label.shape, settings=settings)
    new_image, label = warp(new_image, label, where)
  # The split above has the numbers 0 to 3.
  if settings.blur_probability:
    new_image = tones.blur(jax.random.fold_in(key, 4), new_image, settings=settings)
  if settings.coarse_probability:
    new_image = tones.coarsen(jax.random.fold_in(key, 5), new_image, settings=settings)
  new_image = tones.change_tone(tone_key, new_image, settings=settings, mean=mean, std=std)
  return new_image.astype(image.dtype), label


def affine_source(
  key: jax.Array, where: jax.Array, *, batch: int, settings: ConfigDict
) -> jax.Array:
  """Returns the source of each pixel of flipped, rotated, scaled and translated slices.

  From pixel coordinates (down, right), [1, H, W, 2], follow those of B = `batch` examples,
  [B, H, W, 2], which may lie outside the slice.
  """
  draws = chance.uniform(key, (batch, 6))
  size = jnp.asarray(where.shape[1:3], jnp.float32)
  centre = (size - 1) / 2
  angle = chance.symmetric(draws[:, 0], np.deg2rad(settings.rotate_degrees))
  shrink = 1 / chance.log_uniform(draws[:, 1], settings.scale)
  across, down = settings.translate
  shift = chance.symmetric(draws[:, 2:4], jnp.asarray([down, across])) * size
  allowed = jnp.asarray([settings.flip_up_down, settings.flip_left_right])
  flip = jnp.where((draws[:, 4:] < 0.5) & allowed, -1.0, 1.0)
  cos, sin = jnp.cos(angle) * shrink, jnp.sin(angle) * shrink
  down, right = jnp.moveaxis(where - centre - shift[:, None, None], -1, 0)
  cos, sin = cos[:, None, None], sin[:, None, None]
  # No matrix product, which may be rounded to bfloat16 on an accelerator.
  turned = jnp.stack([cos * down + sin * right, cos * right - sin * down], axis=-1)
  flipped = flip[:, None, None] * turned
  if settings.flip_diagonal:
    swapped = chance.uniform(jax.random.fold_in(key, 1), (batch, 1, 1, 1)) < 0.5
    flipped = jnp.where(swapped, flipped[..., ::-1], flipped)
  return centre + flipped


def crop_source(
  key: jax.Array, where: jax.Array, *, shape: tuple[int, ...], settings: ConfigDict
) -> jax.Array:
  """Returns the source of each point of a random crop that is enlarged to the whole slice.

  Area, a share of the slice's, and aspect, width over height relative to the slice's, are drawn
  until a crop fits the slice, so large crops are seldom elongated; if none of CROP_TRIES fits, the
  whole slice is used. From coordinates in the enlarged crop, [B or 1, H, W, 2], follow those in the
  slice, [B, H, W, 2], inside the crop where `where` is inside the slice; `shape` is (B, H, W).
  """
  batch, *size = shape
  draws = chance.uniform(key, (batch, 2 * CROP_TRIES + 2))
  low, high = settings.crop_area
  area = low + (high - low) * draws[:, :CROP_TRIES]
  aspect = chance.log_uniform(draws[:, CROP_TRIES:-2], settings.crop_aspect)
  tried = jnp.sqrt(jnp.stack([area / aspect, area * aspect], axis=-1))  # shares of H and W
  fits = (tried <= 1).all(-1)
  first = jnp.take_along_axis(tried, fits.argmax(1)[:, None, None], axis=1)[:, 0]
  share = jnp.where(fits.any(1)[:, None], first, 1.0)
  corner = draws[:, -2:] * (1 - share) * jnp.asarray(size, jnp.float32)
  share, corner = share[:, None, None], corner[:, None, None]
  return (where + 0.5) * share - 0.5 + corner  # the centre of a pixel is half a pixel from its edge


def displacement(key: jax.Array, shape: tuple[int, ...], *, settings: ConfigDict) -> jax.Array:
  """Returns smooth random displacements (down, right) in pixels, [B, H, W, 2].

  They are zero for examples that are not drawn. They are Gaussian-smoothed white noise, as in
  Simard et al. (2003), "Best practices for convolutional neural networks", section 2, but drawn at
  points half a sigma apart: a smooth field needs no finer noise, and two small matrix products
  interpolate it to every pixel. It has the variance and correlation of their field: uniform noise
  in +-1 has variance 1/3, and smoothing over two axes leaves 1 / (4 pi sigma^2) of it. Alpha and
  sigma are pixels of a slice of REFERENCE_SIDE.
  """
  batch, height, width = shape
  noise_key, chance_key = jax.random.split(key)
  pixels = min(height, width) / REFERENCE_SIDE
  sigma = max(settings.elastic_sigma * pixels, 1.0)  # less would be noise from pixel to pixel
  spread = settings.elastic_alpha * pixels * np.sqrt(1 / 3 / (4 * np.pi)) / settings.elastic_sigma
  down, right = chance.smoothing(height, sigma), chance.smoothing(width, sigma)
  noise = chance.normal(noise_key, (batch, 2, down.shape[1], right.shape[1]))
  field = jnp.einsum('hn,banm,wm->bhwa', down, noise, right)
  drawn = chance.uniform(chance_key, (batch,)) < settings.elastic_probability
  return field * (spread * drawn)[:, None, None, None]


def warp(image: jax.Array, label: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Samples image (bilinear) and label (nearest) at the same coordinates.

  Beyond the border image and mask repeat it, so that a mask never ends where its organ does not.
  Image, [B, H, W, C], float32, H and W at least 2, and label, [B, H, W], keep their shapes; the
  coordinates (down, right) are in pixels, [B, H, W, 2].
  """
  batch, height, width, channels = image.shape
  last = jnp.asarray([height - 1, width - 1], jnp.float32)
  where = jnp.clip(where, 0, last)
  first = jnp.minimum(jnp.floor(where), last - 1)
  down, right = jnp.split(where - first, 2, axis=-1)

  # A pixel with all its channels is one row: on a CPU the time of a gather is proportional to rows.
  pixels = image.reshape(batch, -1, channels)

  def row(at: jax.Array) -> jax.Array:
    at = at.astype(jnp.int32)
    return at[..., 0] * width + at[..., 1]

  @jax.vmap  # example by example: devices that share the batch need not communicate
  def take(rows: jax.Array, at: jax.Array) -> jax.Array:
    return rows.at[at].get(mode='promise_in_bounds')

  def corner(step: int) -> jax.Array:
    return take(pixels, row(first) + step)

  upper = corner(0) * (1 - right) + corner(1) * right
  lower = corner(width) * (1 - right) + corner(width + 1) * right
  new_label = take(label.reshape(batch, -1), row(jnp.floor(where + 0.5)))
  return upper * (1 - down) + lower * down, new_label
