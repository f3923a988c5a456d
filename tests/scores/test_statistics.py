"""Statistics against enumeration, and against scipy."""

import itertools

import numpy as np
import pytest
from scipy import stats

from thrifty_jax.scores import statistics


def enumerated_p(differences):
  """Share of all ways to sign the ranks whose sum lies as far from the middle, or farther."""
  differences = [value for value in differences if value != 0]
  sizes = [abs(value) for value in differences]
  # Mean rank among equals: the number of smaller ones, and half of the equal ones.
  ranks = [sum(b < a for b in sizes) + (sizes.count(a) + 1) / 2 for a in sizes]
  middle = sum(ranks) / 2
  seen = abs(sum(r for r, d in zip(ranks, differences, strict=True) if d > 0) - middle)
  ways = [
    abs(sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign) - middle)
    for signs in itertools.product((False, True), repeat=len(ranks))
  ]
  return sum(way >= seen - 1e-9 for way in ways) / len(ways)


def test_a_single_value_has_no_deviation():
  assert statistics.mean_and_deviation(np.array([0.5])) == (0.5, None)
  mean, deviation = statistics.mean_and_deviation(np.array([0.0, 1.0]))
  assert mean == 0.5 and deviation == pytest.approx(np.sqrt(0.5))


def test_the_interval_is_that_of_all_possible_resamples(monkeypatch):
  monkeypatch.setattr(statistics, 'RESAMPLES', 100_000)
  values = np.array([0.61, 0.72, 0.80, 0.83, 0.97])
  means = [np.mean(drawn) for drawn in itertools.product(values, repeat=5)]
  expected = np.percentile(means, (2.5, 97.5))
  found = statistics.bootstrap_interval(values)
  assert found == pytest.approx(expected, abs=0.003)  # the means lie that dense there


def test_the_interval_equals_that_of_scipy():
  values = np.random.default_rng(0).beta(8, 2, 20)
  expected = stats.bootstrap(
    (values,), np.mean, n_resamples=20_000, method='percentile', rng=np.random.default_rng(1)
  ).confidence_interval
  assert statistics.bootstrap_interval(values) == pytest.approx(tuple(expected), abs=0.002)


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says(monkeypatch):
  monkeypatch.setattr(statistics, 'RESAMPLES', 500)
  rng = np.random.default_rng(2)
  hits = 0
  for _ in range(400):
    found = statistics.bootstrap_interval(rng.normal(size=30))
    hits += found is not None and found[0] < 0 < found[1]
  assert 0.90 < hits / 400 < 0.97


def test_the_same_seed_gives_the_same_interval(monkeypatch):
  values = np.random.default_rng(3).normal(size=9)
  found = []
  for seed in (0, 0, 1):
    monkeypatch.setattr(statistics, 'SEED', seed)
    found.append(statistics.bootstrap_interval(values))
  assert found[0] == found[1] != found[2] is not None


def test_a_single_patient_has_no_interval():
  assert statistics.bootstrap_interval(np.array([0.9])) is None


@pytest.mark.parametrize('seed', range(10))
def test_p_is_the_share_of_all_signs_that_are_as_extreme(seed):
  rng = np.random.default_rng(seed)
  count = int(rng.integers(6, 12))
  # Whole numbers: ties and zeros are frequent, and nothing is lost to rounding.
  first, second = rng.integers(0, 5, (2, count)) if seed % 2 else rng.normal(size=(2, count))
  found = statistics.paired_wilcoxon(first, second)
  assert found == pytest.approx(enumerated_p(list(first - second)))
  assert statistics.paired_wilcoxon(second, first) == pytest.approx(found)


@pytest.mark.parametrize('count', [20, 50, 51, 120])
def test_p_of_many_patients_is_scipys(count):
  rng = np.random.default_rng(count)
  first = rng.normal(size=count)
  second = first + rng.normal(0.2, 1, count)
  method = 'exact' if count <= 50 else 'asymptotic'
  expected = stats.wilcoxon(first, second, method=method).pvalue
  assert statistics.paired_wilcoxon(first, second) == pytest.approx(expected)
  # Those who score the same change nothing.
  both = [np.concatenate([values, np.ones(7)]) for values in (first, second)]
  assert statistics.paired_wilcoxon(*both) == pytest.approx(expected)


def test_six_patients_that_all_agree_are_the_fewest_that_can_show_anything():
  better = np.arange(1.0, 7.0)
  assert statistics.paired_wilcoxon(better, np.zeros(6)) == pytest.approx(2 / 64)
  assert statistics.paired_wilcoxon(better[:5], np.zeros(5)) is None


def test_differences_that_are_equal_on_paper_are_equal():
  first = np.array([0.9, 0.3, 0.5, 0.7, 0.8, 0.2, 0.6])
  second = np.array([0.8, 0.2, 0.4, 0.8, 0.9, 0.1, 0.5])  # each 0.1 off: five up, two down
  assert len(set(np.abs(first - second))) > 1
  assert statistics.paired_wilcoxon(first, second) == pytest.approx(
    enumerated_p([1, 1, 1, -1, -1, 1, 1])
  )


def test_two_models_that_score_the_same_do_not_differ():
  assert statistics.paired_wilcoxon(np.full(6, 0.9), np.full(6, 0.9)) == 1


@pytest.mark.parametrize('values', [[], [1.0, np.nan], [np.inf, 1.0], [[1.0, 2.0]]])
def test_what_is_no_list_of_finite_scores_is_refused(values):
  for function in (statistics.mean_and_deviation, statistics.bootstrap_interval):
    with pytest.raises(ValueError, match='finite scores'):
      function(np.asarray(values))


def test_different_patients_are_no_pairs():
  with pytest.raises(ValueError, match='same patients'):
    statistics.paired_wilcoxon(np.zeros(6), np.zeros(7))


NONE = np.nan


def test_patients_of_whom_no_model_has_a_score_are_left_out_of_a_comparison():
  first, second = np.array([[[0.9], [NONE], [0.7]], [[0.8], [NONE], [0.7]]])
  difference, p = statistics.compare_paired(first[None], second[None])
  assert difference == pytest.approx(0.05) and p is None
  assert statistics.compare_paired(first[None, 1:2], second[None, 1:2]) == (None, None)


def test_a_model_that_invents_an_organ_does_not_win_by_it():
  rightly_empty = np.array([0.82] * 6 + [NONE] * 2)
  invented = np.array([1.0] * 6 + [0.0] * 2)
  difference, p = statistics.compare_paired(rightly_empty[None, :, None], invented[None, :, None])
  assert difference == pytest.approx((6 * -0.18 + 2 * 1) / 8)
  assert p == pytest.approx(stats.wilcoxon([-0.18] * 6 + [1] * 2).pvalue)


def test_models_are_compared_on_the_same_classes_of_a_patient_and_with_every_seed():
  first, second = np.array([[[0.8, NONE, NONE]], [[0.9, 0.0, NONE]]])
  difference, _ = statistics.compare_paired(first[None], second[None])
  assert difference == pytest.approx((0.8 + 1) / 2 - 0.9 / 2)
  seeds = np.stack([first, second])  # of which the second invents the organ
  difference, _ = statistics.compare_paired(seeds, np.stack([first, first]))
  assert difference == pytest.approx(((0.9 - 0.8) / 2 - 1 / 2) / 2)
