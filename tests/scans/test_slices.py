"""Slices on the network's grid, and scores back on the native one."""

import image_settings
import numpy as np
import pytest
import SimpleITK
from scipy import ndimage
from skimage import exposure, transform

from thrifty_jax import labels
from thrifty_jax.errors import InputError
from thrifty_jax.scans import slices
from thrifty_jax.scans.volumes import Volume

SIZES = [(40, 48), (48, 40), (33, 64), (64, 64), (57, 41)]


def volume_of(image, label=None):
  image = np.asarray(image, np.float32)
  image = image[..., None] if image.ndim == 3 else image
  return Volume(image=image, label=label, affine=np.eye(4), case='a', patient='a')


def settings(size, low=0.0, high=1.0, **changes):
  return image_settings.make_window(low, high, image_size=size, **changes)


def by_percentiles(size, low, high):
  return image_settings.make(image_size=size, percentiles=(low, high))


def disc(height, width, *, top, left, radius):
  rows, columns = np.mgrid[:height, :width]
  return ((rows - top) ** 2 + (columns - left) ** 2 < radius**2).astype(np.uint8)


def dsc(a, b):
  return 2 * np.sum(a & b) / (a.sum() + b.sum())


@pytest.mark.parametrize('size', [32, 48, 96])
@pytest.mark.parametrize('native', SIZES)
def test_a_mask_returns_from_any_shape_where_it_was(native, size):
  tops, lefts = native[0] / 2 + np.arange(-3, 4) * 0.7, native[1] / 2 + np.arange(-3, 4) * 0.9
  places = zip(tops, lefts[[3, 0, 6, 1, 5, 2, 4]], strict=True)
  label = np.stack([disc(*native, top=top, left=left, radius=9.5) for top, left in places])
  _, small = slices.to_slices(volume_of(label, label), settings(size))
  assert small.shape == (7, size, size)
  back = slices.to_native(np.eye(2, dtype=np.float32)[small], native).argmax(-1)
  assert back.shape == label.shape
  pixel = max(1, max(native) / size)  # of the coarser of the two grids, in native pixels
  assert dsc(back.astype(bool), label.astype(bool)) > 1 - 0.035 * pixel
  shift = [
    np.argwhere(b).mean(axis=0) - np.argwhere(t).mean(axis=0)
    for b, t in zip(back, label, strict=True)
  ]
  assert np.abs(shift).max() < 0.4 * pixel  # each falls on the coarse grid differently
  assert np.abs(np.mean(shift, axis=0)).max() < 0.1 * pixel  # but none is favoured


@pytest.mark.parametrize('size', [24, 64, 100])
@pytest.mark.parametrize('native', SIZES)
def test_positions_survive_the_way_there_and_back(native, size):
  """A ramp is a position written as an intensity: half a pixel of shift would show."""
  rows, columns = np.mgrid[: native[0], : native[1]] / 100
  for ramp in (rows, columns):
    image = slices.image_to_slices(volume_of(ramp[None]), settings(size))
    back = slices.to_native(image.astype(np.float32), native)[0, ..., 0]
    margin = 2 + int(np.ceil(2 * max(native) / size))  # padding and anti-aliasing blur the edges
    inner = (slice(margin, -margin), slice(margin, -margin))
    np.testing.assert_allclose(back[inner], ramp[inner], atol=0.1 / 100)


def test_a_slice_that_fits_is_not_resampled_only_padded():
  random = np.random.default_rng(0)
  image, label = random.random((3, 5, 8)), random.integers(0, 3, (3, 5, 8)).astype(np.uint8)
  small_image, small_label = slices.to_slices(volume_of(image, label), settings(8))
  np.testing.assert_array_equal(small_image[:, 1:6, :, 0], image.astype(np.float16))
  np.testing.assert_array_equal(small_label[:, 1:6], label)
  assert not small_image[:, [0, 6, 7]].any()
  scores = random.random((3, 8, 8, 2)).astype(np.float32)
  np.testing.assert_array_equal(slices.to_native(scores, (5, 8)), scores[:, 1:6])


@pytest.mark.parametrize('size', [20, 32, 50])
def test_image_and_mask_of_one_shape_stay_one_shape(size):
  label = disc(40, 64, top=18, left=33, radius=11)[None]
  image, small = slices.to_slices(volume_of(label, label), settings(size))
  np.testing.assert_array_equal(small, image[..., 0] > 0.5)


def test_every_class_keeps_its_place():
  label = np.zeros((1, 40, 40), np.uint8)
  for k in (1, 2, 3):
    label[0, 10 * k - 4 : 10 * k + 4, 8:32] = k
  _, small = slices.to_slices(volume_of(label, label), settings(20))
  np.testing.assert_array_equal(small[0, ::2, 10], label[0, ::4, 20])
  assert set(np.unique(small)) == {0, 1, 2, 3}


def test_percentiles_are_those_of_each_modality_of_the_volume():
  random = np.random.default_rng(0)
  image = random.normal(size=(4, 16, 16, 2)) * [1, 500] + [0, 3000]
  how = by_percentiles(16, 2.0, 90.0)
  mapped = slices.image_to_slices(volume_of(image), how)
  for m in range(2):
    values = np.sort(image[..., m].ravel())
    low, high = (values[round((len(values) - 1) * p)] for p in (0.02, 0.9))
    expected = np.clip((image[..., m] - low) / (high - low), 0, 1)
    np.testing.assert_allclose(mapped[..., m], expected, atol=0.02)


def test_a_window_maps_its_limits_to_0_and_1_and_clips():
  image = np.array([-1000.0, -150.0, 50.0, 250.0, 3000.0]).repeat(5).reshape(1, 5, 5)
  mapped = slices.image_to_slices(volume_of(image), settings(5, -150.0, 250.0))
  np.testing.assert_allclose(mapped[0, :, 0, 0], [0, 0, 0.5, 1, 1])
  assert mapped.dtype == np.float16


def test_a_scan_that_is_nearly_all_air_keeps_what_it_shows():
  image = np.zeros((2, 32, 32))
  image[0, 3, 4] = 7
  how = by_percentiles(32, 0.5, 99.5)
  mapped = slices.image_to_slices(volume_of(image), how)
  assert (mapped[0, 3, 4, 0], mapped.sum()) == (1, 1)


def test_the_steps_of_promise12_are_those_of_the_libraries_in_the_authors_order():
  random = np.random.default_rng(1)
  image = ndimage.gaussian_filter(random.random((2, 48, 48)), (0, 2, 2)) * 900
  how = settings(
    16, 0.0, 900.0, clahe_clip_limit=0.05, resize='nearest', curvature_flow_iterations=5
  )
  found = slices.image_to_slices(volume_of(image), how)[..., 0]
  for plane, one in zip(image, found, strict=True):
    expected = exposure.equalize_adapthist(plane / 900, clip_limit=0.05)
    expected = expected[1::3, 1::3]  # the middle one of nine voxels
    flow = SimpleITK.CurvatureFlow(SimpleITK.GetImageFromArray(expected), 0.125, 5)
    np.testing.assert_allclose(one, SimpleITK.GetArrayFromImage(flow), atol=2e-3)
    for step in ({'clahe_clip_limit': 0.05}, {'resize': 'nearest'}):
      one_step = settings(16, 0.0, 900.0, **step)
      other = slices.image_to_slices(volume_of(plane[None]), one_step)[0, ..., 0]
      assert np.abs(other.astype(float) - one).max() > 0.02


def test_curvature_flow_smooths_noise_more_than_an_edge():
  random = np.random.default_rng(2)
  plane = np.zeros((32, 32), np.float32)
  plane[:, 16:] = 1.0
  noisy = np.clip(0.25 + 0.5 * plane + random.normal(0, 0.05, plane.shape), 0, 1)
  how = settings(32, curvature_flow_iterations=5)
  flat, smooth = (
    slices.image_to_slices(volume_of(noisy[None]), h)[0, ..., 0].astype(float)
    for h in (settings(32), how)
  )
  assert smooth[:, 2:14].std() < 0.6 * flat[:, 2:14].std()
  step = smooth[:, 16].mean() - smooth[:, 15].mean()
  assert step > 0.8 * (flat[:, 16].mean() - flat[:, 15].mean())


def test_a_slice_of_one_shade_stays_as_it_is_when_slices_are_equalised():
  image = np.full((2, 16, 16), 0.25)
  image[1, 4:9, 4:9] = 0.5
  found = slices.image_to_slices(volume_of(image), settings(16, clahe_clip_limit=0.05))
  np.testing.assert_array_equal(found[0], 0.25)
  assert (found[1].min(), found[1].max()) == (0, 1)


def test_padding_takes_no_part_in_equalising():
  image = np.random.default_rng(3).random((1, 16, 32)) * 0.2 + 0.7
  found = slices.image_to_slices(volume_of(image), settings(32, clahe_clip_limit=0.05))[0, ..., 0]
  expected = exposure.equalize_adapthist(image[0], clip_limit=0.05)
  np.testing.assert_allclose(found[8:24], expected, atol=2e-3)
  assert not found[:8].any() and not found[24:].any()


@pytest.mark.parametrize(('native', 'size'), [((40, 48), 32), ((64, 64), 100), ((57, 41), 24)])
def test_the_nearest_voxel_is_one_of_the_scan_and_near(native, size):
  rows, columns = np.mgrid[: native[0], : native[1]] / 100
  side = max(native)
  for ramp, axis in ((rows, 0), (columns, 1)):
    found = slices.image_to_slices(volume_of(ramp[None]), settings(size, resize='nearest'))
    found = 100 * found[0, ..., 0].astype(float)
    middle = (np.arange(size) + 0.5) * side / size - 0.5 - (side - native[axis]) // 2
    across = found[size // 2] if axis else found[:, size // 2]
    inside = (middle >= 0) & (middle <= native[axis] - 1)
    assert np.abs(across - middle)[inside].max() <= 0.5 + 0.04
    np.testing.assert_allclose(across[inside], np.round(across[inside]), atol=0.04)


def test_slices_of_a_scan_without_truth_are_images_only():
  volume = volume_of(np.zeros((1, 8, 8)))
  assert slices.image_to_slices(volume, settings(8)).shape == (1, 8, 8, 1)
  with pytest.raises(InputError, match='a: the scan has no truth'):
    slices.to_slices(volume, settings(8))


@pytest.mark.parametrize('native', [(40, 40), (30, 44)])
def test_a_pixel_is_the_class_with_the_largest_share_and_of_equal_ones_the_lowest(native):
  random = np.random.default_rng(2)
  coarse = random.integers(0, 5, (2, native[0] // 2, native[1] // 2)) % 4 * 2  # 0, 2, 4, 6
  label = coarse.repeat(2, axis=1).repeat(2, axis=2).astype(np.uint8)
  label[0, ::3] = 0
  found = slices.to_slices(volume_of(label, label), settings(max(native) // 2))[1]
  padded = np.pad(label, [(0, 0), *[((max(native) - side) // 2,) * 2 for side in native]])
  blur = {'order': 1, 'mode': 'edge', 'anti_aliasing': True}
  for plane, result in zip(padded, found, strict=True):
    shares = [transform.resize((plane == k) * 1.0, result.shape, **blur) for k in range(7)]
    np.testing.assert_array_equal(result, np.round(shares, 6).argmax(axis=0))


def test_a_pixel_that_is_half_of_a_class_stays_background():
  label = np.zeros((1, 16, 16), np.uint8)
  label[0, :, 5:11] = 1  # the borders run through the middle of pixels
  _, small = slices.to_slices(volume_of(label, label), settings(8))
  np.testing.assert_array_equal(np.unique(small[0], axis=0), [[0, 0, 0, 1, 1, 0, 0, 0]])


@pytest.mark.parametrize('size', [(8, 8), (16, 24), (32, 20)])
def test_a_block_comes_back_to_its_place_on_the_native_grid(size):
  height, width = size
  side = max(size)
  top, left = (side - height) // 2, (side - width) // 2
  # Both grids cover the padded square, so the middle half of one is the middle half of the other.
  network, native = np.zeros((2, 8, 8), np.uint8), np.zeros((2, side, side), np.uint8)
  network[:, 2:6, 2:6] = 1
  native[:, side // 4 : side - side // 4, side // 4 : side - side // 4] = 1
  truth = native[:, top : top + height, left : left + width]
  scores = np.eye(2, dtype=np.float32)[network]
  found, _ = slices.native_classes([scores], size)
  assert found.shape == (2, height, width)
  assert dsc(found == 1, truth == 1) > 0.9


def test_more_slices_than_a_chunk_come_back_in_order():
  count = 2 * slices._NATIVE_CHUNK + 3
  label = np.zeros((count, 4, 4), np.uint8)
  label[np.arange(count), np.arange(count) % 4] = 1
  scores = np.eye(2, dtype=np.float32)[label]
  np.testing.assert_array_equal(slices.native_classes([scores], (4, 4))[0], label)


@pytest.mark.parametrize('classes', [2, 3])
def test_of_classes_with_the_same_score_the_first_wins(classes):
  scores = np.random.default_rng(0).integers(0, 3, (4, 5, classes)).astype(np.float32)
  found = labels.choose(scores)
  assert found.dtype == np.uint8
  for place in np.ndindex(found.shape):
    assert found[place] == list(scores[place]).index(max(scores[place]))


# --- pixels without a label


@pytest.mark.parametrize('size', [8, 12, 32])
def test_a_pixel_of_which_most_is_ignored_is_ignored_and_no_other(size):
  label = np.zeros((2, 24, 24), np.uint8)
  label[0, :, :9], label[0, :, 9:15] = labels.IGNORED, 1
  label[1] = labels.IGNORED
  _, found = slices.to_slices(volume_of(np.zeros(label.shape), label), settings(size))
  shares = [slices.resize((label[0] == k).astype(np.float32), (size, size)) for k in (0, 1, 255)]
  expected = np.array([0, 1, 255])[np.argmax(np.round(shares, 5), axis=0)]
  np.testing.assert_array_equal(found[0], expected)
  assert (found[1] == labels.IGNORED).all() and {*np.unique(found[0])} == {0, 1, 255}


def test_what_lies_around_a_slice_without_a_label_has_none_either():
  label = np.full((1, 10, 24), labels.IGNORED, np.uint8)
  _, found = slices.to_slices(volume_of(np.zeros(label.shape), label), settings(16))
  assert (found == labels.IGNORED).all()
