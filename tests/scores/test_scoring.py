"""Scores per patient from class scores of slices, without a model."""

import numpy as np
import pytest

from thrifty_jax.scores import metrics, scoring


def counts(case, patient, native, network=None):
  """Counts of a case of two foreground classes; a row is (common, predicted, true)."""
  return scoring.CaseCounts(
    case, patient, np.asarray(native), np.asarray(native if network is None else network)
  )


CASES = (
  counts('b1', 'b', [(4, 6, 5), (0, 0, 3)], [(1, 2, 2), (1, 1, 1)]),
  counts('a1', 'a', [(2, 2, 2), (0, 0, 0)], [(0, 3, 0), (2, 2, 4)]),
  counts('a2', 'a', [(1, 3, 4), (0, 2, 0)], [(0, 0, 0), (0, 0, 0)]),
)


def test_perfect_scores_give_full_marks_on_both_grids():
  label = np.zeros((3, 8, 8), np.uint8)
  label[1, 2:6, 3:7] = 1
  label[2, :4, :4] = 2
  scores = np.eye(3, dtype=np.float32)[label]
  found = scoring.score_case('c', 'p', scores=scores, label=label, truth=label)
  assert metrics.dsc(found.native).tolist() == [1, 1]
  assert metrics.dsc(found.network).tolist() == [1, 1]


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_distances_are_those_of_the_native_grid_axis_by_axis(axis):
  truth = np.zeros((12, 12, 12), np.uint8)
  truth[3:6, 3:6, 3:6], truth[8:11, 8:11, 8:11] = 1, 2
  moved = np.roll(truth, 1, axis)
  scores = np.eye(3, dtype=np.float32)[moved]
  spacing = (3.6, 0.625, 1.25)
  found = scoring.score_case(
    'c', 'p', scores=scores, label=truth, truth=truth, spacing_mm=spacing, nsd_tolerance_mm=0.7
  )
  for k, volume in enumerate(found.volumes, start=1):
    expected = metrics.score_volume(
      moved == k, truth == k, spacing_mm=spacing, nsd_tolerance_mm=0.7
    )
    assert volume == expected
    assert volume.max_distance_mm == spacing[axis]
    assert (volume.nsd == 1) == (spacing[axis] < 0.7)
    assert volume.dsc == metrics.dsc(found.native)[k - 1]


def test_distances_are_of_the_largest_piece_where_only_that_counts():
  truth = np.zeros((1, 16, 16), np.uint8)
  truth[0, 2:6, 2:6] = 1
  found_too = truth.copy()
  found_too[0, 14, 14] = 1
  settings = {'scores': np.eye(2, dtype=np.float32)[found_too], 'label': truth, 'truth': truth}
  whole, largest = (
    scoring.score_case('c', 'p', **settings, largest=kept, spacing_mm=(1, 1, 1)).volumes[0]
    for kept in ((), (1,))
  )
  assert whole.max_distance_mm == pytest.approx(np.hypot(9, 9))
  assert largest.max_distance_mm == 0


def test_no_distances_are_measured_without_a_spacing(monkeypatch):
  monkeypatch.setattr(metrics, 'score_volume', None)  # would fail if it were called
  label = np.zeros((2, 4, 4), np.uint8)
  found = scoring.score_case('c', 'p', scores=np.eye(2)[label], label=label, truth=label)
  assert found.volumes == ()


def test_two_cases_of_a_patient_are_scored_as_one():
  pooled = scoring.by_patient(CASES)
  assert list(pooled) == ['a', 'b']
  assert pooled['a'].tolist() == [[3, 5, 6], [0, 2, 0]]
