"""Surfaces and their distances in closed form; test_metrics.py has them against brute force."""

import itertools

import numpy as np
import pytest

from thrifty_jax.scores import surface


def test_the_surface_of_a_box_is_all_but_its_inside():
  mask = np.zeros((7, 8, 9), bool)
  mask[1:5, 2:7, 3:9] = True
  expected = mask.copy()
  expected[2:4, 3:6, 4:8] = False
  np.testing.assert_array_equal(surface.surface_voxels(mask), expected)


def test_voxels_at_the_border_of_the_volume_are_on_the_surface():
  found = surface.surface_voxels(np.ones((3, 4, 5), bool))
  assert found.sum() == 3 * 4 * 5 - 1 * 2 * 3


def test_there_is_no_surface_across_an_axis_of_length_one():
  filled = np.ones((1, 5, 6), bool)
  forth, back = surface.distances_mm(filled, filled, spacing_mm=(1, 1, 1))
  assert len(forth) == len(back) == 5 * 6 - 3 * 4
  line, _ = surface.distances_mm(filled[:, :1], filled[:, :1], spacing_mm=(1, 1, 1))
  assert len(line) == 2
  flat = np.zeros((3, 5, 6), bool)
  flat[1] = True  # a flat mask in a volume has a surface on both sides
  assert len(surface.distances_mm(flat, flat, spacing_mm=(1, 1, 1))[0]) == 5 * 6


def test_each_mask_has_its_own_list_in_the_order_of_its_voxels():
  point, line = np.zeros((2, 1, 4, 6), bool)
  point[0, 0, 1] = line[0, 3, :4] = True
  forth, back = surface.distances_mm(point, line, spacing_mm=(1, 2, 0.5))
  np.testing.assert_allclose(forth, [6])
  np.testing.assert_allclose(back, np.hypot(6, [0.5, 0, 0.5, 1]))


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_each_axis_has_its_own_spacing(axis):
  spacing = (3.6, 0.625, 1.1)
  first, second = np.zeros((2, 9, 9, 9), bool)
  first[4, 4, 4] = True
  second[tuple(np.add((4, 4, 4), 3 * np.eye(3, dtype=int)[axis]))] = True
  for found in surface.distances_mm(first, second, spacing_mm=spacing):
    np.testing.assert_allclose(found, [3 * spacing[axis]], rtol=1e-12)


def test_an_empty_mask_has_no_distance():
  mask = np.ones((2, 2, 2), bool)
  for pair in itertools.permutations((mask, np.zeros_like(mask))):
    with pytest.raises(ValueError, match='empty'):
      surface.distances_mm(*pair, spacing_mm=(1, 1, 1))
