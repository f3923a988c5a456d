"""Who goes on and who wins, by values that were computed by hand."""

import math

import pytest

from thrifty_jax.racing import choice

MS = {'slow': 9.0, 'middle': 5.0, 'fast': 1.0}


def scores_of(*values):
  return {f'patient {number}': value for number, value in enumerate(values)}


def test_a_difference_is_paired_over_the_patients_that_both_have():
  first, second = scores_of(0.9, 0.8, 0.7, 0.1), scores_of(0.8, 0.5, 0.5)
  difference = choice.compare(first, second)  # 0.1, 0.3 and 0.2, of deviation 0.1
  assert difference.mean == pytest.approx(0.2)
  assert difference.error == pytest.approx(0.1 / math.sqrt(3))


def test_the_best_is_first_of_equal_ones_the_faster_and_diverged_ones_last():
  scores = {
    'diverged': None,
    'slow': scores_of(0.5),
    'best': scores_of(0.9),
    'fast': scores_of(0.5),
  }
  ms = {'diverged': 0.1, 'slow': 9.0, 'best': 20.0, 'fast': 1.0}
  assert choice.rank(scores, ms) == ['best', 'fast', 'slow', 'diverged']


@pytest.mark.parametrize(('count', 'kept'), [(1, 1), (2, 1), (3, 2), (8, 4), (9, 5)])
def test_half_is_rounded_up(count, kept):
  names = [str(number) for number in range(count)]
  assert choice.keep_half(names) == names[:kept]


@pytest.mark.parametrize(
  ('fast', 'picked'),
  [
    ((0.800, 0.817), 'fast'),  # behind by 0.000 and 0.003: mean 0.0015, standard error 0.0015
    ((0.799, 0.818), 'slow'),  # behind by 0.001 and 0.002: mean 0.0015, standard error 0.0005
    ((0.800, 0.814), 'slow'),  # behind by 0.000 and 0.006: mean and standard error 0.003
    ((0.800, 0.822), 'fast'),  # ahead
  ],
)
def test_the_fastest_within_a_standard_error_and_a_fifth_of_a_point_of_the_best_is_picked(
  fast, picked
):
  scores = {'slow': scores_of(0.80, 0.82), 'fast': scores_of(*fast)}
  assert choice.pick(scores, MS) == picked


def test_the_error_is_that_of_the_difference_not_of_the_scores():
  """Patients differ by 0.5, the two networks by 0.01 for each of them."""
  scores = {'slow': scores_of(0.9, 0.4, 0.6), 'fast': scores_of(0.891, 0.39, 0.59)}
  assert choice.pick(scores, MS) == 'slow'


@pytest.mark.parametrize(('fast', 'picked'), [(0.79, 'slow'), (0.8, 'fast')])
def test_a_single_patient_has_no_error_so_that_only_equals_tie(fast, picked):
  scores = {'slow': scores_of(0.8), 'fast': scores_of(fast)}
  assert choice.pick(scores, MS) == picked


def test_a_diverged_network_is_never_picked():
  scores = {'slow': scores_of(0.1, 0.3), 'fast': None}
  assert choice.pick(scores, MS) == 'slow'
  assert choice.pick({'slow': None, 'fast': None}, MS) is None


def test_a_budget_is_kept_to_the_last_millisecond():
  scores = {name: scores_of(ms / 10, ms / 10) for name, ms in MS.items()}  # slower is better
  assert choice.pick_within(scores, MS, 9.0) == 'slow'
  assert choice.pick_within(scores, MS, 8.99) == 'middle'
  assert choice.pick_within(scores, MS, 1.0) == 'fast'
  assert choice.pick_within(scores, MS, 0.99) is None


@pytest.mark.parametrize(('fast', 'knee'), [(0.8951, 'fast'), (0.8949, 'middle')])
def test_the_knee_is_the_fastest_within_half_a_point_of_the_best(fast, knee):
  scores = {'slow': scores_of(0.9), 'middle': scores_of(0.896), 'fast': scores_of(fast)}
  assert choice.find_knee([*MS], scores, MS) == knee
  assert choice.find_knee(['slow'], scores, MS) == 'slow'
