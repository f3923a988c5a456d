"""How pictures are drawn: whole, or in windows where their masks would lose by it."""

from pathlib import Path

import numpy as np
import pytest

from data_prep import reduction
from thrifty_jax.errors import InputError
from thrifty_jax.scans.volumes import Case

CASES = [Case(f'p{number}', f'p{number}', image=(Path('x'),)) for number in range(30)]


def disc(side):
  rows, columns = np.mgrid[:side, :side] / side - 0.5
  return (rows**2 + columns**2 < 0.1).astype(np.uint8)


def lines(side, width):
  """Lines of a width with gaps seven times as wide."""
  label = np.zeros((side, side), np.uint8)
  for start in range(width, side, 8 * width):
    label[:, start : start + width] = 1
  return label


def choose(mask, image_size=64, cases=CASES):
  return reduction.choose_reduction(cases, lambda case: mask, image_size=image_size)


def test_pictures_that_fit_and_large_things_are_drawn_whole():
  assert choose(lines(64, 1)) == 0
  assert choose(disc(512)) == 0


def test_fine_things_are_seen_in_windows_as_they_are_and_broader_ones_reduced():
  assert choose(lines(512, 1)) == 1
  broad = choose(lines(512, 12))
  assert 1 < broad < 8
  assert reduction.measure_kept([lines(512, 12)], broad) >= reduction.KEPT


def test_the_class_that_loses_most_decides():
  label = disc(512)
  label[100:400, 300:301] = 2
  assert choose(label) == 1


def test_what_is_kept_is_the_dsc_of_a_mask_with_itself():
  assert reduction.measure_kept([disc(64)], 1) == 1
  label = np.zeros((8, 8), np.uint8)
  label[:, 3] = 1  # a half of every pixel of 2 x 2 at the most, so it is lost
  assert reduction.measure_kept([label], 2) == 0
  assert reduction.measure_kept([np.zeros((8, 8), np.uint8)], 2) == 1


def test_no_more_than_twenty_masks_are_read_and_unreadable_ones_are_left_to_the_check():
  read = []

  def read_mask(case):
    read.append(case.case)
    if len(read) % 2:
      raise InputError('damaged')
    return lines(512, 1)

  assert reduction.choose_reduction(CASES, read_mask, image_size=64) == 1
  assert len(read) == len({*read}) == 20
  with pytest.raises(ZeroDivisionError):  # a fault is none of the masks'
    reduction.choose_reduction(CASES, lambda case: 1 / 0, image_size=64)  # type: ignore
