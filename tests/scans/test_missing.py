"""NaN outside the head becomes the lowest value, and nothing else changes."""

import numpy as np
import pytest

from thrifty_jax.scans import missing
from thrifty_jax.scans.volumes import Volume


def made(values):
  image = np.asarray(values, np.float32).reshape(1, 1, -1, 1)
  return Volume(image, None, np.eye(4), 'c', 'p')


@pytest.mark.parametrize(
  ('values', 'expected'),
  [
    ([1, 2, 3], [1, 2, 3]),
    ([np.nan, 2, 3], [2, 2, 3]),
    ([np.nan, -5, np.nan, 7], [-5, -5, -5, 7]),
    ([np.nan, 0, 4], [0, 0, 4]),
    ([np.nan, np.inf, 4], [4, np.inf, 4]),
    ([-np.inf, np.nan, 4], [-np.inf, -np.inf, 4]),
    ([np.nan, np.nan], [np.inf, np.inf]),  # which is refused as before
  ],
)
def test_nan_is_the_lowest_value(values, expected):
  filled = missing.fill(made(values)).image
  assert filled.dtype == np.float32
  np.testing.assert_array_equal(filled.reshape(-1), expected)


def test_each_channel_has_its_own_lowest_value():
  image = np.array([[np.nan, 10.0], [1.0, np.nan], [2.0, 20.0]], np.float32).reshape(1, 1, 3, 2)
  filled = missing.fill(Volume(image, None, np.eye(4), 'c', 'p')).image.reshape(3, 2)
  np.testing.assert_array_equal(filled, [[1, 10], [1, 10], [2, 20]])
