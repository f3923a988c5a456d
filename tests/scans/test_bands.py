"""Pictures reduced and enlarged by bands of rows, against the same of the whole."""

import dataclasses

import image_settings
import numpy as np
import pytest

from thrifty_jax.scans import bands, slices, windows
from thrifty_jax.scans.volumes import Volume

SETTINGS = image_settings.make(reduction=1.0)
SIZES = [(16, 16), (61, 47), (5, 40), (40, 5), (9, 8), (1, 33)]


@pytest.mark.parametrize('pixels', [1 << 20, 300])
@pytest.mark.parametrize('reduction', [1.0, 1.5, 3.7])
@pytest.mark.parametrize('size', SIZES)
def test_windows_and_the_way_back_are_those_of_the_whole_to_the_last_bit(
  size, reduction, pixels, monkeypatch
):
  monkeypatch.setattr(bands, '_BAND_PIXELS', pixels)
  rng = np.random.default_rng(0)
  for kind, resize in ((np.uint8, 'linear'), (np.uint16, 'nearest'), (np.float32, 'linear')):
    picture = (200 * rng.random((*size, 3))).astype(kind)
    settings = dataclasses.replace(SETTINGS, reduction=reduction, resize=resize)
    whole = Volume(picture[None].astype(np.float32), None, np.eye(4), 'a', 'a')
    expected = slices.image_to_slices(whole, settings)
    reduced = bands.Reduced(picture, settings, bands.find_levels(picture))
    found = np.stack([*windows.iterate(reduced, 16)])
    assert found.dtype == expected.dtype == np.float16
    np.testing.assert_array_equal(found, expected)
    scores = rng.normal(size=(len(found), 16, 16, 2)).astype(np.float32)
    joined = windows.blend(scores, reduced.shape[:2])
    native = np.concatenate([*bands.enlarge(joined, reduced.shape[:2], size)])
    np.testing.assert_array_equal(native, slices.to_native(scores, size, reduction=reduction)[0])


@pytest.mark.parametrize('step', [1, 2, 3, 7])
def test_every_row_and_column_is_kept_at_the_same_step_over_bands(step, monkeypatch):
  monkeypatch.setattr(bands, '_BAND_PIXELS', 100)
  picture = np.random.default_rng(0).integers(0, 256, (33, 21, 3), np.uint8)
  np.testing.assert_array_equal(bands.thin(picture, step), picture[::step, ::step])


def test_a_channel_of_nearly_equal_values_has_the_least_and_the_greatest_as_limits():
  picture = np.zeros((40, 40, 1), np.uint8)
  picture[7, 7] = 90
  reduced = bands.Reduced(picture, SETTINGS, bands.find_levels(picture))
  assert reduced[7:8][0, 7, 0] == 1 and reduced[:40].sum() == 1
