"""From counts and distances of cases to patients, summary and rows."""

import json

import numpy as np
import pytest

from thrifty_jax import records
from thrifty_jax.run_files import Figures, Overlap, Spread
from thrifty_jax.scans import slices
from thrifty_jax.scores import metrics, scoring, statistics, summaries

NAMES = ('background', 'grey', 'white')
METRICS = ('dsc', *metrics.DISTANCES, 'nsd', 'ravd_percent')


def counts(case, patient, native, network=None, volumes=()):
  """Counts of a case of two foreground classes; a row is (common, predicted, true)."""
  network = native if network is None else network
  return scoring.CaseCounts(case, patient, np.asarray(native), np.asarray(network), volumes)


CASES = (
  counts('b1', 'b', [(4, 6, 5), (0, 0, 3)], [(1, 2, 2), (1, 1, 1)]),
  counts('a1', 'a', [(2, 2, 2), (0, 0, 0)], [(0, 3, 0), (2, 2, 4)]),
  counts('a2', 'a', [(1, 3, 4), (0, 2, 0)], [(0, 0, 0), (0, 0, 0)]),
)


def measured(case, patient, seed, *, prediction=(1, 1), truth=(1, 1)):
  """A case of random masks with its distances; 0 for prediction or truth leaves the class out."""
  rng = np.random.default_rng(seed)
  labels = [
    np.select([values < 0.3 * present[0], values > 1 - 0.3 * present[1]], [1, 2], 0)
    for values, present in zip(rng.random((2, 4, 6, 5)), (prediction, truth), strict=True)
  ]
  found = scoring.score_case(
    case,
    patient,
    scores=np.eye(3)[labels[0]],
    label=labels[1],
    truth=labels[1],
    spacing_mm=(2.0, 0.5, 0.8),
  )
  return found


@pytest.fixture
def cases(monkeypatch):
  """Three patients: one with two scans; b's white is missed, c's white is invented."""
  monkeypatch.setattr(
    slices, 'native_classes', lambda scores, *_, **__: (scores[0].argmax(-1), None)
  )
  return (
    measured('a1', 'a', 1),
    measured('a2', 'a', 2),
    measured('b1', 'b', 3, prediction=(1, 0)),
    measured('c1', 'c', 4, truth=(1, 0)),
  )


def test_the_summary_is_the_mean_over_patients_not_over_cases():
  grey, white = [2 * 3 / 11, 2 * 4 / 11], [0.0, 0.0]  # white: invented in a, missed in b
  mean, classes = summaries.summarise(CASES, NAMES, Overlap)
  assert mean.dsc_mean == pytest.approx(np.mean([grey, white]))
  assert mean.dsc_mean == pytest.approx(scoring.mean_dsc(CASES))
  assert mean.dsc and mean.dsc.std == pytest.approx(np.std(np.mean([grey, white], axis=0), ddof=1))
  assert classes['grey'].dsc_mean == pytest.approx(np.mean(grey))
  assert classes['white'].dsc == Spread(0, 0, (0, 0))
  assert classes['white'].pooled_2d_dsc == pytest.approx(2 * 3 / 8)


def test_pooled_2d_is_one_dice_over_all_slices_of_all_patients():
  mean, _ = summaries.summarise(CASES, NAMES, Overlap)
  grey, white = 2 * 1 / (5 + 2), 2 * 3 / (3 + 5)
  assert mean.pooled_2d_dsc == pytest.approx((grey + white) / 2)


def test_a_single_patient_has_a_mean_and_no_deviation():
  mean, classes = summaries.summarise(CASES[:1], NAMES, Overlap)
  assert mean.dsc and classes['grey'].dsc
  assert mean.dsc.std is None and mean.dsc.ci95 is None and classes['grey'].dsc.std is None


def test_there_is_a_row_for_each_patient_and_class_with_the_floors_beside(tmp_path):
  rows = list(summaries.make_rows(CASES, NAMES, {'mean_mask': CASES}))
  assert [(row['patient'], row['class']) for row in rows] == [
    ('a', 'grey'), ('a', 'white'), ('b', 'grey'), ('b', 'white'),
  ]  # fmt: skip
  summaries.write_rows(tmp_path / 'scores.csv', rows)
  read = summaries.read_rows(tmp_path / 'scores.csv', ('patient', 'class', 'dsc'))
  assert read[0]['cases'] == 'a1 a2'
  assert float(read[0]['dsc']) == pytest.approx(6 / 11, abs=1e-6)
  assert read[0]['mean_mask_dsc'] == read[0]['dsc']
  assert (read[2]['common_voxels'], read[2]['predicted_voxels'], read[2]['truth_voxels']) == (
    '4', '6', '5',
  )  # fmt: skip


def test_distances_of_two_scans_are_averaged_and_counts_are_summed(cases):
  scores = summaries.score_patients(cases)['a']
  first, second = cases[0].volumes, cases[1].volumes
  for k in (0, 1):
    for name in (*metrics.DISTANCES, 'nsd'):
      assert scores[name][k] == pytest.approx(
        (getattr(first[k], name) + getattr(second[k], name)) / 2
      )
    _, predicted, true = cases[0].native[k] + cases[1].native[k]
    assert scores['ravd_percent'][k] == pytest.approx(100 * (predicted - true) / true)
  assert scores['missed'].tolist() == scores['invented'].tolist() == [0, 0]


def test_a_class_missed_in_one_of_two_scans_is_counted_and_takes_the_diagonal(cases):
  pair = cases[0], scoring.CaseCounts('a3', 'a', *(cases[2].native,) * 2, cases[2].volumes)
  scores = summaries.score_patients(pair)['a']
  assert scores['missed'].tolist() == [0, 1]
  diagonal = np.linalg.norm(np.multiply((4, 6, 5), (2.0, 0.5, 0.8)))
  assert scores['hd95_mm'][1] == pytest.approx((cases[0].volumes[1].hd95_mm + diagonal) / 2)
  assert summaries.summarise(pair, NAMES, Figures)[1]['white'].missed == 1


def test_every_metric_has_mean_deviation_and_interval_per_class_and_over_classes(cases):
  mean, classes = summaries.summarise(cases, NAMES, Figures)
  scores = summaries.score_patients(cases).values()
  for name in METRICS:
    table = np.asarray([patient[name] for patient in scores])
    for column, figures in ((table[:, 0], classes['grey']), (table.mean(1), mean)):
      finite, found = column[np.isfinite(column)], getattr(figures, name)
      assert found.mean == pytest.approx(finite.mean())
      assert found.std == pytest.approx(finite.std(ddof=1))
      assert found.ci95 == statistics.bootstrap_interval(finite)
      assert found.ci95[0] <= found.mean <= found.ci95[1]


def test_missed_and_invented_are_counted_and_infinity_is_kept_out_of_json(cases):
  mean, classes = summaries.summarise(cases, NAMES, Figures)
  counted = [(found.missed, found.invented) for found in (*classes.values(), mean)]
  assert counted == [(0, 0), (1, 1), (1, 1)]
  white = summaries.score_patients(cases)
  finite = [white[patient]['ravd_percent'][1] for patient in 'ab']  # invented in c
  assert classes['white'].ravd_percent
  assert classes['white'].ravd_percent.mean == pytest.approx(np.mean(finite))
  alone = summaries.summarise(cases[3:], NAMES, Figures)[1]['white']
  assert alone.ravd_percent is None and alone.invented == 1
  assert alone.hd95_mm and alone.hd95_mm.mean > 0
  json.dumps(records.to_json([mean, alone]), allow_nan=False)


def test_rows_have_the_distances_and_an_infinity_that_readers_of_csv_know(cases, tmp_path):
  summaries.write_rows(tmp_path / 'scores.csv', list(summaries.make_rows(cases, NAMES, {})))
  read = summaries.read_rows(tmp_path / 'scores.csv', METRICS)
  scores = summaries.score_patients(cases)
  for row in read:
    for name in (*METRICS, 'missed', 'invented'):
      expected = scores[row['patient']][name][NAMES.index(row['class']) - 1]
      assert float(row[name]) == pytest.approx(expected, abs=1e-6)
  last = read[-1]
  assert (last['patient'], last['class'], last['ravd_percent']) == ('c', 'white', 'inf')
  assert (last['missed'], last['invented'], read[3]['missed']) == ('0', '1', '1')


def test_without_distances_there_is_dsc_alone():
  assert 'hd95_mm' not in next(summaries.make_rows(CASES, NAMES, {}))


EMPTY = (0, 0, 0)
RARE = (  # liver and lesion of patients: neither truth nor prediction of some has the lesion
  ([(8, 10, 10), EMPTY], 0.8, 1),
  ([(9, 10, 10), (2, 4, 4)], 0.7, 0),
  ([(5, 10, 10), (0, 0, 3)], 0.25, 0),  # missed
  ([(5, 10, 10), (0, 3, 0)], 0.25, 0),  # invented
  ([EMPTY, (1, 2, 2)], 0.5, 0),
  ([EMPTY, EMPTY], None, 1),
)


@pytest.mark.parametrize(('native', 'expected', 'unscored'), RARE)
def test_a_patient_counts_with_the_classes_it_has(native, expected, unscored):
  mean, classes = summaries.summarise((counts('a', 'a', native),), NAMES, Overlap)
  assert mean.dsc_mean == pytest.approx(expected)
  assert scoring.mean_dsc((counts('a', 'a', native),)) == pytest.approx(
    np.nan if expected is None else expected, nan_ok=True
  )
  assert classes['white'].scored == 1 - unscored
  assert (classes['white'].dsc is None) == bool(unscored)


def test_a_class_of_nobody_enters_no_mean_and_is_null_in_files(tmp_path):
  without = [counts(name, name, [(8, 10, 10), EMPTY]) for name in 'abc']
  mean, classes = summaries.summarise(without, NAMES, Overlap)
  assert classes['white'] == Overlap(None, None, 0)
  assert mean == classes['grey'] and mean.dsc_mean == pytest.approx(0.8) and mean.scored == 3
  content = records.to_json(classes['white'])
  assert content['dsc_mean'] is content['dsc_ci95'] is content['pooled_2d_dsc'] is None
  assert records.parse(content, Overlap, '') == classes['white']
  rows = list(summaries.make_rows(without, NAMES, {'mean_mask': without}))
  summaries.write_rows(tmp_path / 'scores.csv', rows)
  read = summaries.read_rows(tmp_path / 'scores.csv', ('dsc',), scores=('dsc', 'mean_mask_dsc'))
  assert [(row['dsc'], row['mean_mask_dsc']) for row in read[:2]] == [('0.800000',) * 2, ('', '')]
  _, arrays = summaries.to_arrays(read, ('dsc',))
  np.testing.assert_array_equal(arrays['dsc'], [[0.8, np.nan]] * 3)


def test_a_rare_class_is_averaged_over_those_who_have_it():
  rare = [counts(str(i), str(i), native) for i, (native, *_) in enumerate(RARE)]
  mean, classes = summaries.summarise(rare, NAMES, Overlap)
  assert classes['white'].dsc_mean == pytest.approx(np.mean([0.5, 0, 0, 0.5]))
  assert classes['grey'].dsc_mean == pytest.approx(np.mean([0.8, 0.9, 0.5, 0.5]))
  assert mean.dsc_mean == pytest.approx(np.mean([0.8, 0.7, 0.25, 0.25, 0.5]))
  assert (mean.scored, classes['grey'].scored, classes['white'].scored) == (5, 4, 4)
  np.testing.assert_allclose(scoring.mean_dsc_of_classes(rare), [0.675, 0.25])


def test_scans_with_nothing_to_find_are_counted(cases):
  healthy = measured('d1', 'd', 5, prediction=(1, 0), truth=(1, 0))
  mean, classes = summaries.summarise((*cases, healthy), NAMES, Figures)
  assert (mean.rightly_empty, classes['white'].rightly_empty) == (1, 1)
  assert classes['white'].scored == 3 and classes['grey'].scored == 4
  before, _ = summaries.summarise(cases, NAMES, Figures)
  assert before.rightly_empty == 0 and before.invented == mean.invented


def test_distances_in_pixels_have_columns_of_that_name_and_are_read_back(cases, tmp_path):
  rows = [list(summaries.make_rows(cases, NAMES, {}, unit=unit)) for unit in ('mm', 'pixels')]
  assert 'hd95_pixels' in rows[1][0] and not any('_mm' in name for name in rows[1][0])
  assert 'truth_voxels' in rows[0][0] and 'truth_pixels' in rows[1][0]
  assert not any('voxels' in name for name in rows[1][0])
  arrays = []
  for unit, table in zip(('mm', 'pixels'), rows, strict=True):
    summaries.write_rows(tmp_path / f'{unit}.csv', table)
    read = summaries.read_rows(tmp_path / f'{unit}.csv', ('patient', f'assd_{unit}'))
    arrays.append(summaries.to_arrays(read, unit=unit)[1])
  assert [*arrays[0]] == [*arrays[1]] == [*summaries.METRICS]
  for name in summaries.METRICS:
    np.testing.assert_array_equal(arrays[0][name], arrays[1][name])
