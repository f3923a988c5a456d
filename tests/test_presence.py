"""Who has which class, in words."""

import pytest

from thrifty_jax import presence

SPLIT = {'train': ['a', 'b'], 'validation': ['c'], 'test': ['d']}
CLASSES = ('background', 'liver', 'lesion')


@pytest.mark.parametrize(
  ('patients', 'having', 'absent'),
  [
    ({'a': {1, 2}, 'b': {1, 2}, 'c': {1, 2}, 'd': {1, 2}}, 'every patient has every class', ''),
    ({'a': set(), 'b': set(), 'c': set(), 'd': set()}, '', ''),
    (
      {'a': {1, 2}, 'b': {1}, 'c': {1, 2}, 'd': {1, 2}},
      'train: liver 2, lesion 1 of 2 patients; validation: liver 1, lesion 1 of 1 patients; '
      'test: liver 1, lesion 1 of 1 patients',
      '',
    ),
    (
      {'a': {1, 2}, 'b': {1}, 'c': {1}, 'd': {1}},
      'train: liver 2, lesion 1 of 2 patients; validation: liver 1, lesion 0 of 1 patients; '
      'test: liver 1, lesion 0 of 1 patients',
      'lesion (no validation or test patient)',
    ),
    (
      {'a': {1}, 'b': {1}, 'c': {1}, 'd': {2}},
      'train: liver 2, lesion 0 of 2 patients; validation: liver 1, lesion 0 of 1 patients; '
      'test: liver 0, lesion 1 of 1 patients',
      'liver (no test patient), lesion (no train or validation patient)',
    ),
  ],
)
def test_each_part_says_how_many_patients_have_each_class(patients, having, absent):
  counted = presence.count(SPLIT, patients, CLASSES)
  assert presence.describe(counted, SPLIT) == having
  told = presence.describe_absent(counted, SPLIT)
  assert absent in told and bool(absent) == bool(told) and '\n' not in told


def test_a_part_without_patients_lacks_nobody():
  split = {'train': ['a'], 'validation': ['b'], 'test': []}
  counted = presence.count(split, {'a': {1, 2}, 'b': {1, 2}}, CLASSES)
  assert presence.describe_absent(counted, split) == ''
  assert presence.describe(counted, split) == 'every patient has every class'
