"""Augmentation against scipy and against what must never change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from thrifty_jax import config
from thrifty_jax.data import augment, chance

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

ZERO = {
  'flip_left_right': False,
  'flip_up_down': False,
  'flip_diagonal': False,
  'crop_area': (1.0, 1.0),
  'crop_aspect': (1.0, 1.0),
  'rotate_degrees': 0.0,
  'scale': (1.0, 1.0),
  'translate': (0.0, 0.0),
  'elastic_probability': 0.0,
  'blur_probability': 0.0,
  'coarse_probability': 0.0,
  'saturation': 0.0,
  'hue_degrees': 0.0,
  'gamma': (1.0, 1.0),
  'gain': 0.0,
  'bias_field': 0.0,
  'offset': 0.0,
  'noise': 0.0,
}


def settings_with(**changes):
  """Settings that change nothing but what is named."""
  settings = config.default().augment
  for name, value in {**ZERO, **changes}.items():
    settings[name] = value
  return settings


def smooth_batch(batch=3, height=40, width=48, channels=1):
  """Smooth images in [0, 1], and masks of three classes cut from them."""
  random = np.random.default_rng(0)
  noise = random.normal(size=(batch, height, width, channels))
  image = scipy.ndimage.gaussian_filter(noise, (0, 4, 4, 0))
  image = (image - image.min()) / (image.max() - image.min())
  label = np.digitize(image[..., 0], [0.45, 0.6])
  return jnp.asarray(image, jnp.float32), jnp.asarray(label, jnp.int32)


def augmented(key, image, label, *, mean=(0.0,), std=(1.0,), **others):
  """An image that is normalised by mean and std; without them it is in [0, 1]."""
  mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
  run = functools.partial(augment.augment, mean=mean, std=std, **others)
  return jax.jit(run)(key, image, label)


def recovered_affine(where):
  """Matrix and offset of source = matrix @ (down, right) + offset, from the corners of a field."""
  origin = np.asarray(where[0, 0], np.float64)
  down = (np.asarray(where[-1, 0], np.float64) - origin) / (where.shape[0] - 1)
  right = (np.asarray(where[0, -1], np.float64) - origin) / (where.shape[1] - 1)
  return np.stack([down, right], axis=1), origin


def grid(height=40, width=48):
  return jnp.stack(jnp.mgrid[:height, :width], axis=-1).astype(jnp.float32)[None]


def test_empty_ranges_change_nothing():
  image, label = smooth_batch(channels=2)
  new_image, new_label = augmented(
    jax.random.key(0), image, label, settings=settings_with(), mean=jnp.ones(2), std=jnp.ones(2)
  )
  np.testing.assert_array_equal(new_image, image)
  np.testing.assert_array_equal(new_label, label)


def test_a_warp_by_no_displacement_is_exact_at_every_pixel():
  image, label = smooth_batch()
  where = jnp.broadcast_to(grid(), (3, 40, 48, 2))
  new_image, new_label = jax.jit(augment.warp)(image, label, where)
  np.testing.assert_array_equal(new_image, image)
  np.testing.assert_array_equal(new_label, label)


@pytest.mark.parametrize('name, axis', [('flip_left_right', 2), ('flip_up_down', 1)])
def test_flips_are_exact_and_as_often_as_not(name, axis):
  image, label = smooth_batch(batch=64)
  new_image, new_label = augmented(
    jax.random.key(1), image, label, settings=settings_with(**{name: True})
  )
  flipped = 0
  for example in range(64):
    turned = np.array_equal(new_image[example], np.flip(image[example], axis - 1))
    flipped += turned
    expected = np.flip(label[example], axis - 1) if turned else label[example]
    np.testing.assert_array_equal(new_label[example], expected)
    if not turned:
      np.testing.assert_array_equal(new_image[example], image[example])
  assert 16 < flipped < 48


def test_three_flips_are_all_eight_turns_and_mirrors_exact_and_as_often_as_one_another():
  image, label = smooth_batch(batch=128, height=17, width=17)
  settings = settings_with(flip_left_right=True, flip_up_down=True, flip_diagonal=True)
  found = augmented(jax.random.key(1), image, label, settings=settings)
  seen = np.zeros(8, int)
  for before, mask, after, new_mask in zip(*map(np.asarray, (image, label, *found)), strict=True):
    for form in range(8):
      step = -1 if form > 3 else 1
      if np.array_equal(np.rot90(before[:, ::step], form), after):
        np.testing.assert_array_equal(np.rot90(mask[:, ::step], form), new_mask)
        seen[form] += 1
  assert seen.sum() == 128 and seen.min() > 6


def test_nothing_is_flipped_where_flips_are_not_allowed():
  settings = settings_with(rotate_degrees=15.0, scale=(0.85, 1.2), translate=(0.1, 0.1))
  where = augment.affine_source(jax.random.key(2), grid(), batch=50, settings=settings)
  for example in range(50):
    assert np.linalg.det(recovered_affine(where[example])[0]) > 0


def test_rotation_scale_and_translation_agree_with_scipy():
  image, label = smooth_batch(batch=6)
  settings = settings_with(rotate_degrees=25.0, scale=(0.8, 1.25), translate=(0.1, 0.2))
  key = jax.random.key(3)
  new_image, new_label = augmented(key, image, label, settings=settings)
  where = augment.affine_source(jax.random.split(key, 3)[0], grid(), batch=6, settings=settings)
  for example in range(6):
    matrix, offset = recovered_affine(where[example])
    for found, source, order in ((new_image[..., 0], image[..., 0], 1), (new_label, label, 0)):
      expected = scipy.ndimage.affine_transform(
        np.asarray(source[example]), matrix, offset, order=order, mode='nearest'
      )
      if order:
        np.testing.assert_allclose(found[example], expected, atol=2e-4)
      else:  # Halfway between two pixels, rounding may fall either way.
        assert np.mean(np.asarray(found[example]) != expected) < 0.005


def test_a_rotation_alone_is_the_rotation_about_the_centre_that_scipy_makes():
  image, label = smooth_batch(batch=4)
  settings = settings_with(rotate_degrees=40.0)
  key = jax.random.key(4)
  new_image, _ = augmented(key, image, label, settings=settings)
  where = augment.affine_source(jax.random.split(key, 3)[0], grid(), batch=4, settings=settings)
  for example in range(4):
    matrix, _ = recovered_affine(where[example])
    degrees = np.rad2deg(np.arctan2(matrix[0, 1], matrix[0, 0]))
    assert 0.5 < abs(degrees) <= 40
    expected = scipy.ndimage.rotate(
      np.asarray(image[example, ..., 0]), degrees, reshape=False, order=1, mode='nearest'
    )
    np.testing.assert_allclose(new_image[example, ..., 0], expected, atol=1e-3)


def test_draws_keep_to_their_ranges_and_fill_them():
  settings = settings_with(rotate_degrees=15.0, scale=(0.8, 1.3), translate=(0.2, 0.1))
  where = augment.affine_source(jax.random.key(5), grid(), batch=400, settings=settings)
  centre = np.asarray([19.5, 23.5])
  degrees, scales, shifts = [], [], []
  for example in range(400):
    matrix, offset = recovered_affine(where[example])
    degrees.append(np.rad2deg(np.arctan2(matrix[0, 1], matrix[0, 0])))
    scales.append(1 / np.sqrt(np.linalg.det(matrix)))
    shifts.append((centre - np.linalg.solve(matrix, centre - offset)) / (40, 48))
  for values, low, high in (
    (degrees, -15, 15),
    (scales, 0.8, 1.3),
    (np.asarray(shifts)[:, 0], -0.1, 0.1),  # down
    (np.asarray(shifts)[:, 1], -0.2, 0.2),  # across
  ):
    width = high - low
    assert low - 1e-3 * width <= min(values) < low + 0.05 * width
    assert high - 0.05 * width < max(values) <= high + 1e-3 * width
  assert np.median(scales) == pytest.approx(np.sqrt(0.8 * 1.3), abs=0.03)


def crops(*, area, aspect, batch, height=40, width=48, seed=20):
  """Where the pixels of enlarged crops come from, [B, H, W, 2], and the key of their draws."""
  key = jax.random.key(seed)
  found = augment.crop_source(
    key,
    grid(height, width),
    shape=(batch, height, width),
    settings=settings_with(crop_area=area, crop_aspect=aspect),
  )
  return np.asarray(found, np.float64), key


def box(where):
  """Edges of a crop as shares of the slice: the first and last pixel's middles, half a pixel on."""
  size = np.asarray(where.shape[:2])
  share = (where[-1, -1] - where[0, 0]) / (size - 1)
  corner = (where[0, 0] + 0.5) / size - 0.5 * share / size
  return corner, share


def test_a_crop_is_the_first_of_its_draws_that_fits():
  area, aspect = (0.45, 1.0), (0.5, 2.0)
  found, key = crops(area=area, aspect=aspect, batch=300)
  draws = np.asarray(chance.uniform(key, (300, 2 * augment.CROP_TRIES + 2)), np.float64)
  whole = 0
  for example, drawn in enumerate(draws):
    height = width = 1.0
    for attempt in range(augment.CROP_TRIES):
      covered = area[0] + (area[1] - area[0]) * drawn[attempt]
      longer = aspect[0] * (aspect[1] / aspect[0]) ** drawn[augment.CROP_TRIES + attempt]
      if covered * longer <= 1 and covered / longer <= 1:
        height, width = np.sqrt(covered / longer), np.sqrt(covered * longer)
        break
    else:
      whole += 1
    corner, share = box(found[example])
    np.testing.assert_allclose(share, [height, width], atol=1e-5)
    np.testing.assert_allclose(corner, drawn[-2:] * (1 - share), atol=1e-5)
  assert whole < 5  # half of all draws fit


def test_crops_keep_to_their_ranges_and_fill_them_and_lie_inside_the_slice():
  found, _ = crops(area=(0.3, 0.6), aspect=(0.75, 1.5), batch=500)
  boxes = np.asarray([box(where) for where in found])  # [B, 2, 2]
  corners, shares = boxes[:, 0], boxes[:, 1]
  areas, aspects = shares.prod(axis=1), shares[:, 1] / shares[:, 0]
  for values, low, high in ((areas, 0.3, 0.6), (aspects, 0.75, 1.5)):
    assert low - 1e-4 <= values.min() < low + 0.03
    assert high - 0.03 < values.max() <= high + 1e-4
  assert np.median(aspects) == pytest.approx(np.sqrt(0.75 * 1.5), abs=0.05)
  assert corners.min() >= -1e-5 and (corners + shares).max() <= 1 + 1e-5
  assert corners.min() < 0.01 and (corners + shares).max() > 0.99


def test_a_crop_that_never_fits_leaves_the_slice_whole():
  where, _ = crops(area=(0.99, 1.0), aspect=(0.1, 1.0), batch=40)
  left = np.all(where == np.asarray(grid()), axis=(1, 2, 3))
  assert left.mean() > 0.7


def test_an_enlarged_crop_agrees_with_scipy():
  image, label = smooth_batch(batch=4)
  settings = settings_with(crop_area=(0.3, 0.9), crop_aspect=(0.6, 1.6))
  key = jax.random.key(21)
  new_image, new_label = augmented(key, image, label, settings=settings)
  where = augment.crop_source(
    jax.random.split(key, 4)[3], grid(), shape=(4, 40, 48), settings=settings
  )
  for example in range(4):
    matrix, offset = recovered_affine(where[example])
    for found, source, order in ((new_image[..., 0], image[..., 0], 1), (new_label, label, 0)):
      expected = scipy.ndimage.affine_transform(
        np.asarray(source[example]), matrix, offset, order=order, mode='nearest'
      )
      if order:
        np.testing.assert_allclose(found[example], expected, atol=2e-4)
      else:  # Halfway between two pixels, rounding may fall either way.
        assert np.mean(np.asarray(found[example]) != expected) < 0.005


def test_a_slice_is_cropped_before_it_is_moved():
  """So a translation is a share of the crop, and brings in what lies beside it in the slice."""
  image = jnp.tile(jnp.arange(64.0)[None, None, :, None], (96, 64, 1, 1))
  settings = settings_with(crop_area=(0.25, 0.25), translate=(0.4, 0.0))
  found, _ = augmented(jax.random.key(22), image, jnp.zeros((96, 64, 64), int), settings=settings)
  row = np.asarray(found)[:, 32, :, 0]
  inside = (row[:, 1:] < 63) & (row[:, :-1] > 0)
  np.testing.assert_allclose(np.diff(row, axis=1)[inside], 0.5, atol=1e-4)  # half of the side
  middles = (row[:, 31:33].mean(axis=1) + 0.5) / 64
  # The middle of a crop lies within 0.25 and 0.75, and moves by 0.4 of half a side.
  assert 0.05 <= middles.min() < 0.2 and 0.8 < middles.max() <= 0.95


def test_displacements_have_the_spread_and_smoothness_of_filtered_uniform_noise():
  alpha, sigma, side = 200.0, 8.0, 256
  settings = settings_with(elastic_probability=1.0, elastic_alpha=alpha, elastic_sigma=sigma)
  found = np.asarray(augment.displacement(jax.random.key(6), (8, side, side), settings=settings))
  random = np.random.default_rng(0)
  noise = random.uniform(-1, 1, (16, side, side))
  expected = alpha * scipy.ndimage.gaussian_filter(noise, (0, sigma, sigma), mode='wrap')
  assert found.std() == pytest.approx(expected.std(), rel=0.04)
  for lag in (4, 8, 16):
    here = np.mean(found[:, lag:] * found[:, :-lag]) / found.var()
    there = np.mean(expected[:, lag:] * expected[:, :-lag]) / expected.var()
    assert here == pytest.approx(there, abs=0.05)
  border = np.concatenate([found[:, 0], found[:, -1], found[:, :, 0], found[:, :, -1]])
  assert border.std() == pytest.approx(found.std(), rel=0.12)


def test_elastic_settings_mean_the_same_at_every_size():
  settings = settings_with(elastic_probability=1.0, elastic_alpha=200.0, elastic_sigma=16.0)
  large = augment.displacement(jax.random.key(7), (4, 128, 128), settings=settings)
  small = augment.displacement(jax.random.key(7), (4, 64, 64), settings=settings)
  assert float(large.std()) == pytest.approx(2 * float(small.std()), rel=0.1)


def test_elastic_warps_as_many_examples_as_its_probability_says():
  settings = settings_with(elastic_probability=0.25, elastic_alpha=200.0)
  field = augment.displacement(jax.random.key(8), (400, 8, 8), settings=settings)
  moved = np.mean(np.any(np.asarray(field) != 0, axis=(1, 2, 3)))
  assert 0.17 < moved < 0.33


def test_the_default_displacements_never_fold_the_slice():
  settings = config.default().augment
  settings.elastic_probability = 1.0
  field = augment.displacement(jax.random.key(9), (64, 128, 128), settings=settings)
  where = np.asarray(grid(128, 128) + field, np.float64)
  down, right = np.diff(where, axis=1)[:, :, :-1], np.diff(where, axis=2)[:, :-1]
  area = down[..., 0] * right[..., 1] - down[..., 1] * right[..., 0]
  assert area.min() > 0.2


@pytest.mark.parametrize('crop_area', [(1.0, 1.0), (0.4, 0.9)])
def test_the_mask_moves_with_the_image(crop_area):
  _, label = smooth_batch(batch=8)
  label = (label > 0).astype(jnp.int32)
  settings = config.default().augment
  settings.flip_left_right = settings.flip_up_down = True
  settings.crop_area, settings.crop_aspect = crop_area, (0.5, 2.0)
  for name in ('gamma', 'gain', 'bias_field', 'offset', 'noise'):
    settings[name] = ZERO[name]
  image = label[..., None].astype(jnp.float32)
  new_image, new_label = augmented(jax.random.key(10), image, label, settings=settings)
  assert np.mean(np.asarray(new_label != label)) > 0.1
  # Nearest and a bilinear threshold may part only within half a pixel of an edge.
  inside = np.asarray(new_image[..., 0])
  np.testing.assert_array_equal(np.asarray(new_label)[inside > 0.76], 1)
  np.testing.assert_array_equal(np.asarray(new_label)[inside < 0.24], 0)
  assert np.mean((inside > 0.5) != np.asarray(new_label)) < 0.01


def test_an_organ_at_the_border_goes_on_beyond_it_in_image_and_mask():
  image, label = jnp.full((16, 32, 32, 1), 0.7), jnp.full((16, 32, 32), 2, jnp.int32)
  settings = settings_with(rotate_degrees=45.0, scale=(0.6, 0.7), translate=(0.3, 0.3))
  new_image, new_label = augmented(jax.random.key(11), image, label, settings=settings)
  np.testing.assert_allclose(new_image, 0.7, rtol=1e-6)
  np.testing.assert_array_equal(new_label, 2)


def test_the_key_decides():
  image, label = smooth_batch()
  settings = config.default().augment
  first, first_label = augmented(jax.random.key(12), image, label, settings=settings)
  again, again_label = augmented(jax.random.key(12), image, label, settings=settings)
  other, _ = augmented(jax.random.key(13), image, label, settings=settings)
  np.testing.assert_array_equal(first, again)
  np.testing.assert_array_equal(first_label, again_label)
  assert not np.allclose(first, other, atol=0.05)


@pytest.mark.parametrize(
  'changes',
  [
    {'rotate_degrees': 10.0},
    {'scale': (0.8, 1.2)},
    {'translate': (0.1, 0.1)},
    {'crop_area': (0.3, 0.9), 'crop_aspect': (0.5, 2.0)},
    {'elastic_probability': 1.0},
    {'gamma': (0.5, 2.0)},
    {'gain': 0.3},
    {'bias_field': 0.3},
    {'offset': 0.3},
    {'noise': 0.3},
  ],
  ids=lambda changes: next(iter(changes)),
)
def test_every_example_of_a_batch_has_its_own_draws(changes):
  image, label = smooth_batch(batch=1)
  image, label = jnp.repeat(image, 5, axis=0), jnp.repeat(label, 5, axis=0)
  found, _ = augmented(jax.random.key(14), image, label, settings=settings_with(**changes))
  found = np.asarray(found)
  for one in range(5):
    for other in range(one):
      assert np.abs(found[one] - found[other]).max() > 1e-4


def test_a_setting_that_is_off_leaves_no_code():
  image, label = smooth_batch(channels=3)

  def traced(**changes):
    run = functools.partial(augment.augment, settings=settings_with(**changes))
    others = {'mean': jnp.zeros(3), 'std': jnp.ones(3)}
    return str(jax.make_jaxpr(functools.partial(run, **others))(jax.random.key(0), image, label))

  nothing = traced()
  unread = {'blur_sigma': (1.0, 3.0), 'coarse_scale': (0.2, 0.4), 'gamma_inverted': 0.5}
  assert traced(**unread) == nothing
  for name in ('blur_probability', 'coarse_probability', 'saturation', 'hue_degrees'):
    assert len(traced(**{name: 0.5})) > len(nothing)


def test_later_settings_leave_the_draws_of_the_first_version_as_they_are():
  """Else a run would not go on with the same bits; the figures are that version's."""
  image, label = jnp.full((3, 4, 4, 1), 0.5), jnp.zeros((3, 4, 4), int)
  first = {'gamma': (0.7, 1.45), 'gain': 0.15, 'bias_field': 0.1, 'offset': 0.15, 'noise': 0.1}
  names = ('blur_probability', 'coarse_probability', 'gamma_inverted')
  later = dict.fromkeys(names, 1e-9)  # as good as never, but the code is there
  found, _ = augmented(jax.random.key(7), image, label, settings=settings_with(**first, **later))
  np.testing.assert_allclose(found[:, 1, 2, 0], [0.53318, 0.66203, 0.52380], atol=2e-4)
  moved = {'rotate_degrees': 15.0, 'translate': (0.1, 0.1)}
  flipped = {'flip_left_right': True, 'flip_up_down': True}
  middle = (19.5, 23.5)  # where a diagonal swaps
  corners = np.asarray([[-0.4385, 2.2648], [35.0254, 3.5131], [44.7679, 2.6872]]) - middle
  for diagonal in (False, True):
    settings = settings_with(**moved, **flipped, flip_diagonal=diagonal)
    source = functools.partial(augment.affine_source, batch=3, settings=settings)
    found = np.asarray(jax.jit(source)(jax.random.key(7), grid()))[:, 0, 0] - middle
    for corner, expected in zip(found, corners, strict=True):
      either = (expected, expected[::-1]) if diagonal else (expected,)
      assert min(np.abs(corner - one).max() for one in either) < 2e-3


def test_types_and_label_values_are_kept():
  image, label = smooth_batch()
  label = (label * 7).astype(jnp.uint8)
  new_image, new_label = augmented(
    jax.random.key(15), image.astype(jnp.bfloat16), label, settings=config.default().augment
  )
  assert (new_image.dtype, new_label.dtype) == (jnp.bfloat16, jnp.uint8)
  assert set(np.unique(new_label)) <= {0, 7, 14}


def test_gamma_acts_on_intensities_not_on_normalised_values():
  image, label = smooth_batch(channels=2)
  mean, std = np.asarray([0.3, 0.5], np.float32), np.asarray([0.2, 0.4], np.float32)
  found, _ = augmented(
    jax.random.key(16),
    (image - mean) / std,
    label,
    settings=settings_with(gamma=(1.7, 1.7)),
    mean=mean,
    std=std,
  )
  np.testing.assert_allclose(np.asarray(found) * std + mean, np.asarray(image) ** 1.7, atol=1e-5)


def test_gain_offset_and_noise_are_as_large_as_the_settings_say():
  image, label = jnp.ones((200, 8, 8, 1)), jnp.zeros((200, 8, 8), jnp.int32)
  mean, std = jnp.full(1, 0.5), jnp.full(1, 0.25)  # intensity 0.75
  run = functools.partial(augmented, mean=mean, std=std)
  gained, _ = run(jax.random.key(17), image, label, settings=settings_with(gain=0.2))
  change = (np.asarray(gained) * 0.25 + 0.5)[:, 0, 0, 0] / 0.75 - 1
  assert -0.2 <= change.min() < -0.18
  assert 0.18 < change.max() <= 0.2001
  moved, _ = run(jax.random.key(17), image, label, settings=settings_with(offset=0.3))
  change = np.asarray(moved - image)
  assert -0.3001 <= change.min() < -0.28
  assert 0.28 < change.max() <= 0.3001
  assert change.std(axis=(1, 2, 3)).max() < 1e-6
  noisy, _ = run(jax.random.key(17), image, label, settings=settings_with(noise=0.4))
  spread = np.asarray(noisy - image).std(axis=(1, 2, 3))
  assert spread.mean() == pytest.approx(0.2, rel=0.15)


def test_a_bias_field_is_a_smooth_gain_as_wide_as_the_setting_says():
  image, label = jnp.ones((400, 24, 32, 1)), jnp.zeros((400, 24, 32), jnp.int32)
  mean, std = jnp.full(1, 0.5), jnp.full(1, 0.25)  # intensity 0.75
  found, _ = augmented(
    jax.random.key(17), image, label, settings=settings_with(bias_field=0.4), mean=mean, std=std
  )
  field = np.log((np.asarray(found)[..., 0] * 0.25 + 0.5) / 0.75)
  assert abs(field.mean()) < 0.05
  np.testing.assert_allclose(field.std(axis=0), 0.4, rtol=0.15)  # everywhere, borders included
  for axis, side in ((1, 24), (2, 32)):
    assert np.abs(np.diff(field, axis=axis)).max() < 4 * 0.4 / (side / 2)  # slopes of four sigma
    assert np.mean(field.take(0, axis) * field.take(side - 1, axis)) < 0.4**2 / 2


def test_neighbouring_slices_share_their_tone_and_modalities_do_not():
  image = jnp.full((4, 8, 8, 6), 0.5)  # three slices of two modalities
  label = jnp.zeros((4, 8, 8), jnp.int32)
  found, _ = augmented(
    jax.random.key(18),
    image,
    label,
    settings=settings_with(gamma=(0.5, 2.0), gain=0.2, bias_field=0.2, offset=0.2),
    mean=jnp.zeros(2),
    std=jnp.ones(2),
  )
  found = np.asarray(found)[:, 0, 0].reshape(4, 3, 2)
  np.testing.assert_array_equal(found, np.repeat(found[:, :1], 3, axis=1))
  assert np.abs(found[..., 0] - found[..., 1]).min() > 1e-3


def test_shapes_that_do_not_belong_together_are_refused():
  image, label = smooth_batch()
  key = jax.random.key(0)
  with pytest.raises(ValueError, match=r'expected \[B, H, W, C\]'):
    augmented(key, image, label[:, :-1], settings=settings_with())
  with pytest.raises(ValueError, match='do not fit 1 channels'):
    augmented(key, image, label, settings=settings_with(), mean=jnp.ones(2), std=jnp.ones(2))
