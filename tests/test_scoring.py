"""Scores per patient from class scores of slices, without a model."""

import csv
import io
import itertools

import numpy as np
import pytest

from thrifty_jax import metrics, scoring


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
NAMES = ('background', 'grey', 'white')


@pytest.mark.parametrize('flips', [(), ('left_right',), ('up_down', 'left_right')])
def test_averaging_over_flips_equals_a_loop_over_flipped_copies(flips):
  rng = np.random.default_rng(0)
  image = rng.normal(size=(2, 6, 6, 1))
  weight = rng.normal(size=(6, 6, 3))  # a network that tells left from right

  def logits(image):
    return image * weight

  expected = []
  for wanted in itertools.product((False, True), repeat=len(flips)):
    copy = image
    chosen = [flip for flip, on in zip(flips, wanted, strict=True) if on]
    axes = tuple({'up_down': 1, 'left_right': 2}[flip] for flip in chosen)
    copy = logits(np.flip(copy, axes))
    expected.append(np.flip(copy, axes))
  found = scoring.average_over_flips(logits, flips)(image)
  np.testing.assert_allclose(found, np.mean(expected, axis=0), rtol=1e-12)


def test_averaged_logits_do_not_change_when_the_image_is_mirrored():
  rng = np.random.default_rng(1)
  weight = rng.normal(size=(4, 4, 2))
  averaged = scoring.average_over_flips(lambda x: x * weight, ('left_right',))
  image = rng.normal(size=(1, 4, 4, 1))
  np.testing.assert_allclose(averaged(image[:, :, ::-1])[:, :, ::-1], averaged(image))


def test_perfect_scores_give_full_marks_on_both_grids():
  label = np.zeros((3, 8, 8), np.uint8)
  label[1, 2:6, 3:7] = 1
  label[2, :4, :4] = 2
  scores = np.eye(3, dtype=np.float32)[label]
  found = scoring.score_case('c', 'p', scores=scores, label=label, truth=label)
  assert metrics.dsc(found.native).tolist() == [1, 1]
  assert metrics.dsc(found.network).tolist() == [1, 1]


@pytest.mark.parametrize('size', [(8, 8), (16, 24), (32, 20)])
def test_a_block_comes_back_to_its_place_on_the_native_grid(size):
  height, width = size
  side = max(size)
  top, left = (side - height) // 2, (side - width) // 2
  # Both grids cover the padded square, so the middle half of one is the middle half of the other.
  network, native = np.zeros((2, 8, 8), np.uint8), np.zeros((2, side, side), np.uint8)
  network[:, 2:6, 2:6] = 1
  native[:, side // 4 : side - side // 4, side // 4 : side - side // 4] = 1
  truth = native[:, top : top + height, left : left + width]
  scores = np.eye(2, dtype=np.float32)[network]
  found = scoring.native_classes(scores, size)
  assert found.shape == (2, height, width)
  assert metrics.volume_dsc(found == 1, truth == 1) > 0.9


def test_more_slices_than_a_chunk_come_back_in_order():
  count = 2 * scoring.NATIVE_CHUNK + 3
  label = np.zeros((count, 4, 4), np.uint8)
  label[np.arange(count), np.arange(count) % 4] = 1
  scores = np.eye(2, dtype=np.float32)[label]
  np.testing.assert_array_equal(scoring.native_classes(scores, (4, 4)), label)


def test_two_cases_of_a_patient_are_scored_as_one():
  pooled = scoring.by_patient(CASES)
  assert list(pooled) == ['a', 'b']
  assert pooled['a'].tolist() == [[3, 5, 6], [0, 2, 0]]


def test_the_summary_is_the_mean_over_patients_not_over_cases():
  grey, white = [2 * 3 / 11, 2 * 4 / 11], [0.0, 0.0]  # white: invented in a, missed in b
  summary = scoring.summarise(CASES, NAMES)
  assert summary['dsc_mean'] == pytest.approx(np.mean([grey, white]))
  assert summary['dsc_mean'] == pytest.approx(scoring.mean_dsc(CASES))
  assert summary['dsc_std'] == pytest.approx(np.std(np.mean([grey, white], axis=0), ddof=1))
  assert summary['classes']['grey']['dsc_mean'] == pytest.approx(np.mean(grey))
  assert summary['classes']['white'] == {
    'dsc_mean': 0,
    'dsc_std': 0,
    'pooled_2d_dsc': pytest.approx(2 * 3 / 8),
  }


def test_pooled_2d_is_one_dice_over_all_slices_of_all_patients():
  summary = scoring.summarise(CASES, NAMES)
  grey, white = 2 * 1 / (5 + 2), 2 * 3 / (3 + 5)
  assert summary['pooled_2d_dsc'] == pytest.approx((grey + white) / 2)


def test_a_single_patient_has_a_mean_and_no_deviation():
  summary = scoring.summarise(CASES[:1], NAMES)
  assert summary['dsc_std'] is None and summary['classes']['grey']['dsc_std'] is None


def test_there_is_a_row_for_each_patient_and_class_with_the_floors_beside():
  rows = list(scoring.rows(CASES, NAMES, {'mean_mask': CASES}))
  assert [(row['patient'], row['class']) for row in rows] == [
    ('a', 'grey'), ('a', 'white'), ('b', 'grey'), ('b', 'white'),
  ]  # fmt: skip
  read = list(csv.DictReader(io.StringIO(scoring.csv_text(rows))))
  assert read[0]['cases'] == 'a1 a2'
  assert float(read[0]['dsc']) == pytest.approx(6 / 11, abs=1e-6)
  assert read[0]['mean_mask_dsc'] == read[0]['dsc']
  assert (read[2]['common_voxels'], read[2]['predicted_voxels'], read[2]['truth_voxels']) == (
    '4', '6', '5',
  )  # fmt: skip
