"""Contours of masks: pixels by their centres, by the slow way too; and back without a change."""

import numpy as np
import pytest
from scipy import ndimage

from thrifty_jax.scans import contours

SHAPE = (12, 15)


def count_slowly(polygon, shape):
  """How often a ray to the left of each centre crosses a polygon, and how near an edge it is."""
  counts, nearest = np.zeros(shape, int), np.full(shape, np.inf)
  for row in range(shape[0]):
    for column in range(shape[1]):
      point = np.array([row, column])
      for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        along = np.clip((point - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
        distance = np.linalg.norm(start + along * (end - start) - point)
        nearest[row, column] = min(nearest[row, column], distance)
        if (start[0] > row) != (end[0] > row):
          share = (row - start[0]) / (end[0] - start[0])
          counts[row, column] += start[1] + share * (end[1] - start[1]) < column
  return counts, nearest


@pytest.mark.parametrize('seed', range(4))
def test_centres_within_an_odd_number_of_contours_are_inside(seed):
  random = np.random.default_rng(seed)
  polygons = [random.uniform(-3, 17, (random.integers(3, 8), 2)) for _ in range(1 + seed)]
  counted = [count_slowly(polygon, SHAPE) for polygon in polygons]
  clear = np.min([nearest for _, nearest in counted], axis=0) > 0.02
  expected = np.sum([counts for counts, _ in counted], axis=0) % 2 == 1
  found = contours.fill(polygons, SHAPE)
  np.testing.assert_array_equal(found[clear], expected[clear])
  assert clear.mean() > 0.9 and 0.1 < expected.mean() < 0.9


def test_a_contour_through_centres_has_them_inside_also_around_a_hole():
  """OpenCV, and so rt-utils, draws through the outermost pixels, and around a hole."""
  outer = np.array([[1, 1], [1, 7], [7, 7], [7, 1]], float)
  rim = np.array([[3, 4], [4, 5], [5, 4], [4, 3]], float)  # of a hole of one pixel
  expected = np.zeros((9, 9), bool)
  expected[1:8, 1:8] = True
  expected[4, 4] = False
  noise = np.random.default_rng(0).uniform(-1e-3, 1e-3, (2, 4, 2))
  for shift in (0, noise):
    found = contours.fill([*(np.array([outer, rim]) + shift)], (9, 9))
    np.testing.assert_array_equal(found, expected)
  lines = [np.array([[2.0, 3.0]]), np.array([[4.0, 1.0], [6.0, 3.0]])]
  assert np.argwhere(contours.fill(lines, (9, 9))).tolist() == [[2, 3], [4, 1], [5, 2], [6, 3]]


def test_what_lies_beyond_the_pixels_is_left_out():
  far = np.array([[-1e6, -1e6], [-1e6, 4], [1e6, 4], [1e6, -1e6]])
  found = contours.fill([far], (3, 9))
  assert found[:, :5].all() and not found[:, 5:].any()
  assert not contours.fill([far + 3e6], (3, 9)).any()


MASKS = {
  'noise': (0, 0.0),
  'sparse noise': (0, 1.2),
  'dense noise': (0, -1.2),
  'blobs': (2, 0.0),
  'blobs with holes': (1.5, -0.4),
}


@pytest.mark.parametrize('kind', MASKS)
def test_traced_contours_fill_the_same_pixels(kind):
  smooth, above = MASKS[kind]
  random = np.random.default_rng(len(kind))
  for size in ((1, 1), (1, 9), (7, 2), (40, 33)):
    noise = ndimage.gaussian_filter(random.standard_normal(size), smooth)
    mask = noise > above * max(noise.std(), 1e-9)
    lines = contours.trace(mask)
    rounded = [np.round(line * 0.7 + 131.3, 2) for line in lines]  # as text in millimetres
    for drawn in (lines, [(line - 131.3) / 0.7 for line in rounded]):
      np.testing.assert_array_equal(contours.fill(drawn, size), mask)
  assert not contours.trace(np.zeros((4, 4), bool))


def test_holes_need_no_rule_as_a_line_leads_to_them():
  """Programs that unite contours, and those of even and odd, find the same pixels."""
  rows, columns = np.indices((31, 31)) - 15
  distance = np.hypot(rows, columns)
  mask = (distance < 14) & ~((distance > 6) & (distance < 9)) & ~(distance < 2)
  mask[15, 24] = False  # a hole of one pixel in the outer ring
  lines = contours.trace(mask)
  assert len(lines) == 2  # a ring with the hole, and a ring within it
  united = np.any([contours.fill([line], mask.shape) for line in lines], axis=0)
  np.testing.assert_array_equal(united, mask)
