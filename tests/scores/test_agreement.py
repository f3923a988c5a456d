"""Masks that disagree with the network are listed with the turn that would mend them."""

import types

import numpy as np
import pytest

from thrifty_jax.run_files import Agreement
from thrifty_jax.scans import turns
from thrifty_jax.scores import agreement
from thrifty_jax.scores.cases import PredictedCase


def made(number, *, turn=0, shift=0):
  """A case whose network is nearly right; its mask may be turned or moved."""
  rng = np.random.default_rng(number)
  truth = np.zeros((6, 32, 32), np.uint8)
  truth[1:4, 4:14, 16:22], truth[1:3, 5:9, 22:28] = 1, 2
  shown = np.where(rng.random(truth.shape) < 0.01, 0, truth)
  label = np.roll(turns.turn(truth, turn), shift, axis=1)
  case = types.SimpleNamespace(case=f'c{number}', patient=f'p{number}')
  return PredictedCase(case, np.zeros(0), label, label, np.eye(3, dtype=np.float32)[shown])  # type: ignore


def suspects(*changed, count=12):
  cases = [made(n) for n in range(count)]
  for number, changes in changed:
    cases[number] = made(number, **changes)
  measured = (measure(one) for one in cases)
  return agreement.find_suspects([one for one in measured if one])


def measure(case):
  return agreement.measure(case, 'train', classes=3, slice_axis='axial')


def test_masks_that_agree_are_not_listed():
  assert suspects() == ()


@pytest.mark.parametrize('turn', range(1, len(turns.TURNS)))
def test_a_turned_mask_is_listed_with_its_remedy(turn):
  (one,) = suspects((3, {'turn': turn}))
  assert one.case == 'c3' and one.turned_dsc > 0.9 > one.dsc
  index = [turns.describe(i, 'axial') for i in range(len(turns.TURNS))].index(one.way)
  np.testing.assert_array_equal(turns.turn(turns.turn(made(0).label, turn), index), made(0).label)
  assert one.way in agreement.describe(one) and 'c3 (train)' in agreement.describe(one)


@pytest.mark.parametrize('shift', [3, 5, 8, -3, -4])
def test_a_moved_mask_is_listed_without_a_turn(shift):
  (one,) = suspects((7, {'shift': shift}))
  assert (one.case, one.way) == ('c7', '') and one.dsc < 0.8
  assert 'if its mask' not in agreement.describe(one)


def test_those_that_a_turn_mends_come_first_and_the_list_is_short():
  found = suspects((1, {'shift': 8}), (2, {'turn': 1}))
  assert [one.case for one in found] == ['c2', 'c1']
  many = [Agreement(f'c{n}', 'p', 'train', 0.1, 'mirrored', 0.9) for n in range(30)]
  assert len(agreement.find_suspects(many)) == 10


@pytest.mark.parametrize('count', [0, 1, 4])
def test_of_few_cases_none_is_an_outlier(count):
  few = [Agreement(f'c{n}', 'p', 'train', 0.9 - 0.2 * n, '', 0.0) for n in range(count)]
  assert agreement.find_suspects(few) == ()


def test_a_case_without_any_class_has_no_agreement():
  empty = made(0)._replace(label=np.zeros((6, 32, 32), np.uint8))
  empty = empty._replace(scores=np.eye(3, dtype=np.float32)[empty.label])
  assert measure(empty) is None
