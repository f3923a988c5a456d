"""Slices that do not follow one another are found by what they show."""

import numpy as np
import pytest

from data_prep import slice_order

SLICES = 12


@pytest.fixture
def scan():
  """A bright ball that wanders from slice to slice, over noise."""
  random = np.random.default_rng(0)
  d, h, w = np.meshgrid(np.arange(SLICES), np.arange(40), np.arange(50), indexing='ij')
  ball = ((h - 10 - 1.5 * d) ** 2 + (w - 12 - 2 * d) ** 2) < 64
  return 100 * ball + random.normal(0, 5, ball.shape)


def reordered(scan, *order):
  return scan[list(order)]


def test_slices_in_order_are_left_alone_whichever_end_comes_first(scan):
  assert slice_order.find_out_of_order(scan) == ()
  assert slice_order.find_out_of_order(scan[::-1]) == ()


def test_brightness_that_changes_from_slice_to_slice_is_no_disorder(scan):
  gain = np.where(np.arange(SLICES) % 2, 3.0, 1.0)[:, None, None]
  assert slice_order.find_out_of_order(gain * scan + 50 * gain) == ()


def test_two_slices_that_changed_places_are_named(scan):
  swapped = reordered(scan, 0, 1, 2, 3, 5, 4, *range(6, SLICES))
  assert slice_order.find_out_of_order(swapped) == (4,)


def test_a_slice_that_lies_elsewhere_is_named(scan):
  moved = reordered(scan, 0, 1, 9, *range(2, 9), 10, 11)
  assert slice_order.find_out_of_order(moved) == (2,)


def test_every_second_slice_first_is_found(scan):
  for order in ([*range(0, SLICES, 2), *range(1, SLICES, 2)], [*range(0, 11, 2), *range(1, 11, 2)]):
    assert slice_order.find_out_of_order(scan[order]) == tuple(range(len(order)))


def test_empty_slices_at_the_ends_and_few_slices_say_nothing(scan):
  padded = np.concatenate([np.zeros_like(scan[:4]), scan, np.zeros_like(scan[:4])])
  assert slice_order.find_out_of_order(padded) == ()
  assert slice_order.find_out_of_order(scan[:4]) == ()
  assert slice_order.find_out_of_order(np.zeros((8, 5, 5))) == ()
