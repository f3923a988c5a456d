"""Largest connected components against a slow flood fill."""

import numpy as np
import pytest
from scipy import ndimage

from thrifty_jax.scores import components
from thrifty_jax.scores.components import keep_largest


def flood_fill_pieces(mask):
  """Every piece of a mask as a set of voxels, found one voxel at a time."""
  left, pieces = {tuple(v) for v in np.argwhere(mask)}, []
  while left:
    piece, front = set(), [left.pop()]
    while front:
      voxel = front.pop()
      piece.add(voxel)
      for axis in range(3):
        for step in (-1, 1):
          near = tuple(v + step * (i == axis) for i, v in enumerate(voxel))
          if near in left:
            left.remove(near)
            front.append(near)
    pieces.append(piece)
  return pieces


def test_only_the_largest_piece_of_each_named_class_stays():
  rng = np.random.default_rng(0)
  for _ in range(20):
    prediction = rng.choice(3, size=(5, 6, 7), p=[0.6, 0.2, 0.2]).astype(np.uint8)
    kept = keep_largest(prediction, [1])
    sizes = sorted(len(piece) for piece in flood_fill_pieces(prediction == 1))
    remaining = flood_fill_pieces(kept == 1)
    assert [len(piece) for piece in remaining] == sizes[-1:]
    assert np.array_equal(kept == 2, prediction == 2)
    assert np.all((kept == prediction) | (kept == 0))


def test_voxels_that_touch_by_an_edge_only_are_two_pieces():
  prediction = np.zeros((1, 3, 3), np.uint8)
  prediction[0, 0, :2] = 1
  prediction[0, 1, 2] = 1
  assert keep_largest(prediction, [1])[0, 1, 2] == 0


def test_an_absent_class_and_no_class_change_nothing():
  prediction = np.zeros((2, 3, 3), np.uint8)
  prediction[1, 1, 1] = 2
  assert np.array_equal(keep_largest(prediction, [1]), prediction)
  assert np.array_equal(keep_largest(prediction, []), prediction)


@pytest.mark.parametrize('shape', [(1, 20, 17), (6, 5, 7), (1, 1, 9), (1, 9, 1), (9, 1, 1)])
@pytest.mark.parametrize('voxels', [1, 20, 60])
def test_pieces_over_several_bands_are_those_of_the_whole(shape, voxels, monkeypatch):
  monkeypatch.setattr(components, '_BAND_VOXELS', voxels)
  rng = np.random.default_rng(0)
  for _ in range(10):
    prediction = rng.choice(3, size=shape, p=[0.45, 0.4, 0.15]).astype(np.uint8)
    expected = prediction.copy()
    for index in (1, 2):
      pieces, count = ndimage.label(prediction == index)
      if count:
        largest = np.bincount(pieces.ravel())[1:].argmax() + 1  # the first of equals
        expected[(pieces > 0) & (pieces != largest)] = 0
    np.testing.assert_array_equal(keep_largest(prediction, [1, 2]), expected)


def test_small_pieces_of_a_region_become_what_is_around_them():
  regions = ((1, 2, 3), (2, 3), (3,))
  rng = np.random.default_rng(1)
  for _ in range(10):
    prediction = rng.choice(4, size=(5, 6, 7), p=[0.55, 0.15, 0.15, 0.15]).astype(np.uint8)
    for number, (own, around) in enumerate(zip(regions, (0, 1, 2), strict=True), start=1):
      pieces = flood_fill_pieces(np.isin(prediction, own))
      kept = keep_largest(prediction, [number], regions)
      (piece,) = flood_fill_pieces(np.isin(kept, own))
      assert len(piece) == max(map(len, pieces))
      small = [voxel for one in pieces if one != piece for voxel in one]
      expected = prediction.copy()
      expected[tuple(np.transpose(small))] = around
      np.testing.assert_array_equal(kept, expected)
