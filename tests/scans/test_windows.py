"""Windows of planes that are larger than a network's input, and the way back."""

import dataclasses

import image_settings
import numpy as np
import pytest

from thrifty_jax.scans import slices, windows
from thrifty_jax.scans.volumes import Volume

SIZES = [(8, 8), (8, 9), (21, 30), (64, 17), (5, 8), (3, 40), (4, 5)]
SETTINGS = image_settings.make_window(0.0, 1.0, reduction=1.0)


@pytest.mark.parametrize('side', [8, 5])
@pytest.mark.parametrize('size', SIZES)
def test_windows_cover_a_plane_overlap_by_half_and_join_to_it(size, side):
  plane = np.random.default_rng(0).random(size, np.float32)
  parts = windows.cut(plane, side)
  assert parts.shape == (windows.count(size, side), side, side)
  np.testing.assert_allclose(windows.join(parts, size), plane, atol=1e-6)
  for length in size:
    found = windows.starts(length, side)
    assert found[0] == 0 and found[-1] == max(length - side, 0)
    assert all(0 < b - a <= side // 2 for a, b in zip(found, found[1:], strict=False))


def test_the_middle_of_a_window_counts_more_than_its_border():
  # Windows of 4 at 0 and 2: columns 2 and 3 lie in both, with weights 2 and 1 against 1 and 2.
  parts = np.stack([np.zeros((4, 4)), np.ones((4, 4))])
  np.testing.assert_allclose(windows.join(parts, (4, 6))[0], [0, 0, 1 / 3, 2 / 3, 1, 1])


def test_a_plane_smaller_than_a_window_lies_in_its_middle():
  parts = windows.cut(np.ones((2, 3)), 5)
  assert parts.shape == (1, 5, 5)
  np.testing.assert_array_equal(
    np.argwhere(parts[0]), np.argwhere(np.pad(np.ones((2, 3)), ((1, 2), (1, 1))))
  )


@pytest.mark.parametrize('reduction', [1.0, 1.5, 3.0])
@pytest.mark.parametrize('depth', [1, 3])
def test_scores_of_windows_return_to_the_native_grid(reduction, depth):
  rows, columns = np.mgrid[:90, :70]
  label = np.stack([(rows - 30 - 5 * d) ** 2 + (columns - 40) ** 2 < 20**2 for d in range(depth)])
  label = label.astype(np.uint8)
  image = np.stack([label / 2, 1 - label], axis=-1).astype(np.float32)
  volume = Volume(image=image, label=label, affine=np.eye(4), case='a', patient='a')
  settings = dataclasses.replace(SETTINGS, reduction=reduction)
  parts, truth = slices.to_slices(volume, settings)
  count = slices.count_windows((90, 70), 16, reduction)
  assert parts.shape == (depth * count, 16, 16, 2) and truth.shape == parts.shape[:3]
  assert len(slices.join(parts, (90, 70), reduction=reduction)) == depth
  scores = np.eye(2, dtype=np.float32)[truth]
  found, shares = slices.native_classes(
    [scores, scores], (90, 70), reductions=[reduction, reduction], probabilities=True
  )
  wrong = (found != label).sum()
  assert wrong == 0 if reduction == 1 else wrong < 0.07 * label.sum()
  assert shares is not None and shares.shape == (1, depth, 90, 70)
  if reduction == 1:
    np.testing.assert_allclose(
      slices.join(parts, (90, 70), reduction=1.0), image.astype(np.float16), atol=1e-3
    )


def test_networks_that_see_a_scan_whole_and_in_windows_are_averaged():
  label = np.zeros((1, 32, 32), np.uint8)
  label[:, 8:24, 8:24] = 1
  whole = 3 * np.eye(2, dtype=np.float32)[label]
  volume = Volume(np.zeros((1, 32, 32, 1), np.float32), label, np.eye(4), 'a', 'a')
  _, parts = slices.to_slices(volume, SETTINGS)
  found, _ = slices.native_classes(
    [whole, np.eye(2, dtype=np.float32)[1 - parts]], (32, 32), reductions=[0.0, 1.0]
  )
  np.testing.assert_array_equal(found, label)
