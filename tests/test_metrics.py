"""Overlap metrics against the slow, obvious way."""

import numpy as np
import pytest

from thrifty_jax import metrics


def slow_dsc(prediction, truth):
  both = sum(bool(p) and bool(t) for p, t in zip(prediction.flat, truth.flat, strict=True))
  size = sum(map(bool, prediction.flat)) + sum(map(bool, truth.flat))
  return 1.0 if size == 0 else 2 * both / size


@pytest.mark.parametrize('seed', range(3))
def test_volume_dsc_equals_a_loop_over_voxels(seed):
  rng = np.random.default_rng(seed)
  prediction, truth = rng.random((2, 3, 5, 4)) < 0.4
  assert metrics.volume_dsc(prediction, truth) == pytest.approx(slow_dsc(prediction, truth))


def test_empty_on_both_sides_scores_one():
  empty = np.zeros((2, 3, 3), bool)
  assert metrics.volume_dsc(empty, empty) == 1.0


def test_a_missed_organ_scores_zero_not_nan():
  truth = np.zeros((2, 3, 3), bool)
  truth[0, 1, 1] = True
  assert metrics.volume_dsc(np.zeros_like(truth), truth) == 0.0


def test_an_invented_organ_scores_zero_not_nan():
  prediction = np.ones((2, 3, 3), bool)
  assert metrics.volume_dsc(prediction, np.zeros_like(prediction)) == 0.0


def test_counts_of_each_class_equal_its_own_binary_counts():
  rng = np.random.default_rng(1)
  prediction, truth = rng.integers(0, 4, (2, 5, 6, 7))
  counts = metrics.overlap_counts(prediction, truth, classes=4)
  for k in range(1, 4):
    p, t = prediction == k, truth == k
    assert counts[k - 1].tolist() == [(p & t).sum(), p.sum(), t.sum()]
    assert metrics.dsc(counts)[k - 1] == pytest.approx(slow_dsc(p, t))


def test_counts_of_parts_add_up_to_those_of_the_whole():
  rng = np.random.default_rng(2)
  prediction, truth = rng.integers(0, 3, (2, 6, 4, 4))
  whole = metrics.overlap_counts(prediction, truth, classes=3)
  parts = [metrics.overlap_counts(prediction[i], truth[i], classes=3) for i in range(6)]
  np.testing.assert_array_equal(np.sum(parts, axis=0), whole)


def test_a_label_outside_the_classes_is_refused():
  label = np.full((1, 2, 2), 3)
  with pytest.raises(ValueError, match='class 3 is not one of 3'):
    metrics.overlap_counts(np.zeros_like(label), label, classes=3)


def test_different_shapes_are_refused():
  with pytest.raises(ValueError, match='differ in shape'):
    metrics.overlap_counts(np.zeros((1, 2, 2), int), np.zeros((1, 2, 3), int), classes=2)


def test_a_single_value_has_no_deviation():
  assert metrics.mean_and_deviation(np.array([0.5])) == (0.5, None)
  mean, deviation = metrics.mean_and_deviation(np.array([0.0, 1.0]))
  assert mean == 0.5 and deviation == pytest.approx(np.sqrt(0.5))
