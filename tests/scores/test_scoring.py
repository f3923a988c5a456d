"""Scores per patient from class scores of slices, without a model."""

from typing import Any

import numpy as np
import pytest

from thrifty_jax import labels
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


def test_a_progress_bar_has_a_dash_where_nothing_can_be_scored():
  assert scoring.format_dsc(CASES) == f'{100 * scoring.mean_dsc(CASES):.1f} %'
  assert scoring.format_dsc([counts('e', 'e', [(0, 0, 0), (0, 0, 0)])]) == '–'


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


# --- regions, and voxels without a label

REGIONS = ((1, 2, 3), (2, 3), (3,))
MOST: dict[str, Any] = {
  'classes': 4,
  'regions': REGIONS,
  'spacing_mm': (3.0, 1.0, 2.0),
  'nsd_tolerance_mm': 1.5,
}


def some_masks(seed):
  random = np.random.default_rng(seed)
  return [random.integers(0, 4, (4, 7, 6)).astype(np.uint8) for _ in range(2)]


def test_the_scores_of_a_region_are_those_of_the_mask_of_all_its_labels():
  prediction, truth = some_masks(0)
  found = scoring.score_mask('c', 'p', prediction=prediction, truth=truth, **MOST)
  for k, own in enumerate(REGIONS):
    p, t = np.isin(prediction, own), np.isin(truth, own)
    expected = metrics.score_volume(p, t, spacing_mm=(3.0, 1.0, 2.0), nsd_tolerance_mm=1.5)
    assert found.volumes[k] == expected
    assert found.native[k].tolist() == [(p & t).sum(), p.sum(), t.sum()]


@pytest.mark.parametrize('regions', [(), REGIONS])
def test_no_score_depends_on_what_is_predicted_where_the_truth_is_ignored(regions):
  prediction, truth = some_masks(1)
  ignored = np.random.default_rng(2).random(truth.shape) < 0.3
  other = np.where(ignored, some_masks(3)[0], prediction).astype(np.uint8)
  left_out = [np.where(ignored, 0, mask).astype(np.uint8) for mask in (prediction, truth)]
  truth[ignored] = labels.IGNORED
  settings = MOST | {'regions': regions}
  found, same, expected = (
    scoring.score_mask('c', 'p', prediction=p, truth=t, **settings)
    for p, t in ((prediction, truth), (other, truth), left_out)
  )
  assert found.volumes == same.volumes == expected.volumes
  assert found.native.tolist() == same.native.tolist() == expected.native.tolist()


def test_scores_of_slices_write_regions_and_leave_out_what_is_ignored():
  _, truth = some_masks(4)
  scores = np.random.default_rng(5).standard_normal((*truth.shape, 4)).astype(np.float32)
  scores, truth = scores[:, :6], truth[:, :6]
  truth[:, 2] = labels.IGNORED
  found = scoring.score_case('c', 'p', scores=scores, label=truth, truth=truth, regions=REGIONS)
  mask = np.zeros(truth.shape, int)
  for k in (1, 2, 3):
    mask[scores[..., k] > scores[..., 0]] = k
  known = truth != labels.IGNORED
  for k, own in enumerate(REGIONS):
    p, t = np.isin(mask, own) & known, np.isin(truth, own)
    expected = [(p & t).sum(), p.sum(), t.sum()]
    assert found.native[k].tolist() == found.network[k].tolist() == expected
