"""Resizing by matrices against scikit-image."""

import numpy as np
import pytest
from skimage import transform

from thrifty_jax.scans import resizing


@pytest.mark.parametrize('sizes', [(48, 32), (32, 48), (50, 25), (41, 40), (9, 64)])
@pytest.mark.parametrize('order', [0, 1])
def test_resizing_is_that_of_scikit_image(sizes, order):
  old, new = sizes
  plane = np.random.default_rng(0).random((old, old), np.float32)
  blur = order > 0 and new < old
  expected = transform.resize(plane, (new, new), order=order, mode='edge', anti_aliasing=blur)
  found = resizing.resize(plane, (new, new), order=order)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize('order', [0, 1])
def test_weights_are_what_scikit_image_makes_of_unit_vectors(order):
  sizes = [(1, 1), (1, 5), (5, 1), (2, 1), (512, 256), (100, 99), (99, 100), (97, 33), (300, 41)]
  for old, new in [*sizes, *np.random.default_rng(0).integers(1, 150, (20, 2)).tolist()]:
    blur = order > 0 and new < old
    expected = transform.resize(
      np.eye(old), (new, old), order=order, mode='edge', anti_aliasing=blur
    )
    found = resizing.weights(old, new, order)
    assert found.dtype == np.float32 and found.has_sorted_indices
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6, atol=1e-9)


def test_weights_of_a_long_side_take_memory_for_a_few_of_its_pixels():
  found = resizing.weights(20000, 5000, 1)
  assert found.nnz < 20 * 5000
  np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
