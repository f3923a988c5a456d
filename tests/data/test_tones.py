"""Sharpness, colours and inverted gamma against scipy and slow loops in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from scipy.spatial.transform import Rotation

from thrifty_jax import config
from thrifty_jax.data import chance, tones

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')


def settings_with(**changes):
  settings = config.default().augment
  settings.update(changes)
  return settings


def noise(batch=8, height=24, width=31, channels=2):
  return np.random.default_rng(0).random((batch, height, width, channels)).astype(np.float32)


def run(function, key, image, **changes):
  one = functools.partial(function, settings=settings_with(**changes))
  return np.asarray(jax.jit(one)(key, image))


def test_a_blur_is_the_gaussian_of_scipy_with_the_width_that_is_drawn():
  image, key = noise(), jax.random.key(0)
  found = run(tones.blur, key, image, blur_probability=1.0, blur_sigma=(0.6, 2.2))
  widths = 0.6 + 1.6 * np.asarray(chance.uniform(key, (2, 8, 1)))[1, :, 0]
  assert widths.max() - widths.min() > 0.8
  for example, sigma in enumerate(widths):
    expected = scipy.ndimage.gaussian_filter(
      image[example], sigma, mode='nearest', radius=7, axes=(0, 1)
    )
    np.testing.assert_allclose(found[example], expected, atol=1e-5)


def slow_coarse(values, scale):
  """One line of pixels with a share of them kept."""
  side = len(values)
  kept = max(round(side * scale), 1)
  middles = (np.arange(kept) + 0.5) * side / kept - 0.5
  nearest = [values[int(np.floor(middle + 0.5))] for middle in middles]
  return np.interp(np.arange(side), middles, nearest)


def test_coarse_pixels_are_the_nearest_ones_with_lines_between_them():
  image, key = noise(channels=1), jax.random.key(1)
  found = run(tones.coarsen, key, image, coarse_probability=1.0, coarse_scale=(0.2, 0.9))
  scales = 0.2 + 0.7 * np.asarray(chance.uniform(key, (2, 8)))[1]
  assert scales.max() - scales.min() > 0.4
  for example, scale in enumerate(scales):
    expected = np.apply_along_axis(slow_coarse, 0, image[example, ..., 0], scale)
    expected = np.apply_along_axis(slow_coarse, 1, expected, scale)
    np.testing.assert_allclose(found[example, ..., 0], expected, atol=1e-5)


@pytest.mark.parametrize(
  ('function', 'name'),
  [(tones.blur, 'blur_probability'), (tones.coarsen, 'coarse_probability')],
)
def test_what_is_not_drawn_keeps_its_bits_and_the_probability_is_that_of_the_setting(
  function, name
):
  image = noise(batch=400, height=8, width=9, channels=1)
  found = run(function, jax.random.key(2), image, coarse_scale=(0.4, 0.6), **{name: 0.25})
  assert 0.17 < np.mean(np.any(found != image, axis=(1, 2, 3))) < 0.33


def test_colours_turn_about_grey_as_scipy_rotates_them():
  image, key = noise(channels=3), jax.random.key(3)
  found = run(tones.mix_colours, key, image, saturation=0.5, hue_degrees=30.0)
  first, second = np.asarray(chance.uniform(key, (2, 8, 1, 1, 1)), np.float64)[..., 0, 0, 0]
  for example in range(8):
    axis = np.deg2rad(30) * (2 * second[example] - 1) * np.ones(3) / np.sqrt(3)
    turned = Rotation.from_rotvec(axis).apply(image[example].reshape(-1, 3)).reshape(24, 31, 3)
    grey = turned.mean(axis=-1, keepdims=True)
    expected = grey + (turned - grey) * (1 + 0.5 * (2 * first[example] - 1))
    np.testing.assert_allclose(found[example], np.maximum(expected, 0), atol=1e-5)
  assert np.any(found == 0)  # what would be below is cut off


def test_colours_of_other_than_three_channels_are_refused():
  with pytest.raises(ValueError, match='saturation and hue of 2 channels'):
    run(tones.mix_colours, jax.random.key(0), noise(), saturation=0.5)


def test_an_inverted_gamma_acts_on_the_distance_from_1_in_the_share_of_the_setting():
  mean, std = jnp.asarray([0.3, 0.5]), jnp.asarray([0.2, 0.4])
  image = noise(batch=200, height=4, width=4)
  settings = settings_with(gamma=(1.7, 1.7), gamma_inverted=0.25, gain=0.0, offset=0.0, noise=0.0)
  change = functools.partial(tones.change_tone, settings=settings, mean=mean, std=std)
  found = jax.jit(change)(jax.random.key(5), (image - mean) / std) * std + mean
  plain, inverted = image**1.7, 1 - (1 - image) ** 1.7
  is_plain, is_inverted = (
    np.all(np.abs(found - one) < 1e-5, axis=(1, 2)) for one in (plain, inverted)
  )
  assert np.all(is_plain ^ is_inverted)
  assert 0.17 < is_inverted.mean() < 0.33
