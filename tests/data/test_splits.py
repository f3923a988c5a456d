"""No patient on two sides."""

from typing import Any

import numpy as np
import pytest

from thrifty_jax import config as configs
from thrifty_jax.data import splits
from thrifty_jax.errors import InputError

PATIENTS = [f'Case{number:02d}' for number in range(13)]


@pytest.mark.parametrize('folds', [3, 5, 13])
def test_every_patient_is_on_one_side_and_tests_in_exactly_one_fold(folds):
  tested = []
  for fold in range(folds):
    parts = splits.split_patients(PATIENTS, folds=folds, fold=fold)
    assert sorted(sum(parts.values(), ())) == PATIENTS
    assert all(parts.values())
    tested += parts['test']
  assert sorted(tested) == PATIENTS


def test_the_rule_is_the_rank_among_the_sorted_names():
  shuffled = list(np.random.default_rng(0).permutation(PATIENTS))
  parts = splits.split_patients(shuffled, folds=5, fold=4)
  assert parts['test'] == tuple(p for rank, p in enumerate(PATIENTS) if rank % 5 == 4)
  assert parts['validation'] == tuple(p for rank, p in enumerate(PATIENTS) if rank % 5 == 0)


def test_two_scans_of_one_patient_count_as_one_patient():
  parts = splits.split_patients(['a', 'a', 'b', 'b', 'c', 'c'], folds=3, fold=0)
  assert parts == {'train': ('c',), 'validation': ('b',), 'test': ('a',)}


def test_lists_win_over_the_rule():
  parts = splits.split_patients(
    PATIENTS, folds=5, fold=0, validation_patients=('Case03',), test_patients=('Case12', 'Case01')
  )
  assert parts['validation'] == ('Case03',)
  assert parts['test'] == ('Case01', 'Case12')
  assert len(parts['train']) == 10


@pytest.mark.parametrize(
  ('changes', 'told'),
  [
    ({}, 'fold 1 of 5'),
    ({'validation_patients': ('a',)}, 'validation patients by lists, the others by fold 1 of 5'),
    ({'validation_patients': ('a',), 'hold_out_test': False}, 'validation patients by lists'),
    ({'validation_patients': ('a',), 'test_patients': ('b',)},
     'validation and test patients by lists'),
  ],
)  # fmt: skip
def test_a_split_is_described_by_what_decides_it(changes, told):
  data = configs.default().data
  data.fold = 1
  data.update(changes)
  assert splits.describe(data) == told


def test_with_a_list_of_one_side_the_rule_divides_the_rest():
  rest = PATIENTS[3:]
  parts = splits.split_patients(PATIENTS, folds=5, fold=2, test_patients=PATIENTS[:3])
  assert parts['test'] == tuple(PATIENTS[:3])
  assert parts['validation'] == tuple(p for rank, p in enumerate(rest) if rank % 5 == 3)
  parts = splits.split_patients(PATIENTS, folds=5, fold=2, validation_patients=PATIENTS[:3])
  assert parts['test'] == tuple(p for rank, p in enumerate(rest) if rank % 5 == 2)
  assert parts['validation'] == tuple(PATIENTS[:3])


def test_without_test_patients_whoever_does_not_validate_trains():
  parts = splits.split_patients(
    PATIENTS, folds=5, fold=0, validation_patients=('Case05', 'Case03'), hold_out_test=False
  )
  assert parts['validation'] == ('Case03', 'Case05') and parts['test'] == ()
  assert sorted(parts['train'] + parts['validation']) == PATIENTS
  by_rule = splits.split_patients(PATIENTS, folds=5, fold=0, hold_out_test=False)
  assert by_rule['validation'] == tuple(PATIENTS[1::5]) and by_rule['test'] == ()
  assert len(by_rule['train']) == 10


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    ({'folds': 14}, 'only 13 patients'),
    ({'test_patients': ('Case99',)}, 'data.test_patients: there is no scan of Case99'),
    ({'validation_patients': ('x', 'y')}, 'data.validation_patients: there is no scan of x, y'),
    ({'validation_patients': PATIENTS[:6], 'test_patients': PATIENTS[6:]}, 'left to train'),
    ({'test_patients': PATIENTS[:9]}, 'only 4 patients'),
    ({'test_patients': PATIENTS[:1], 'hold_out_test': False}, 'hold_out_test is False'),
    ({'folds': 14, 'hold_out_test': False}, 'only 13 patients'),
    ({'validation_patients': PATIENTS, 'hold_out_test': False}, 'left to train'),
  ],
)
def test_a_split_that_cannot_be_is_refused_in_one_line(wrong, message):
  with pytest.raises(InputError, match=message) as caught:
    arguments: dict[str, Any] = {'folds': 5, 'fold': 0, **wrong}
    splits.split_patients(PATIENTS, **arguments)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('count', range(2, 14))
def test_the_search_halves_share_no_patient_and_lose_none(count):
  weights, architecture = splits.search_halves(PATIENTS[:count])
  assert sorted(weights + architecture) == PATIENTS[:count]
  assert (len(weights), len(architecture)) == ((count + 1) // 2, count // 2)


def test_the_search_halves_depend_on_the_patients_and_on_nothing_else():
  halves = splits.search_halves(PATIENTS)
  assert halves == splits.search_halves(PATIENTS[::-1] * 2)
  assert halves != (tuple(PATIENTS[:7]), tuple(PATIENTS[7:]))  # neighbours are of one hospital


def test_one_patient_cannot_be_halved():
  assert splits.search_halves(['b', 'a']) in [(('a',), ('b',)), (('b',), ('a',))]
  with pytest.raises(InputError, match='at least 2'):
    splits.search_halves(['a', 'a'])


PARTS = ('train', 'validation', 'test')


def having(lesions, count=15):
  """Patients with a liver, of whom those of some ranks have a lesion too."""
  return {f'p{rank:02d}': {1, 2} if rank in lesions else {1} for rank in range(count)}


@pytest.mark.parametrize('folds', [3, 4, 5, 13])
@pytest.mark.parametrize('classes', [set(), {1}, {1, 2, 7}])
def test_where_every_patient_has_every_class_splits_stay_what_they_are(folds, classes):
  for fold in range(folds):
    parts = splits.split_patients(dict.fromkeys(PATIENTS, classes), folds=folds, fold=fold)
    assert parts['test'] == tuple(PATIENTS[fold::folds])
    assert parts['validation'] == tuple(PATIENTS[(fold + 1) % folds :: folds])
    assert parts == splits.split_patients(PATIENTS, folds=folds, fold=fold)


@pytest.mark.parametrize(
  'lesions', [(1, 6, 11), (0, 1, 2), (0, 5, 10), (12, 13, 14), (3, 8, 9, 14)]
)
def test_a_class_of_three_patients_is_in_every_part_of_the_first_fold(lesions):
  parts = splits.split_patients(having(lesions), folds=5, fold=0)
  for part in PARTS:
    assert any(int(name[1:]) in lesions for name in parts[part])
  assert [len(parts[part]) for part in PARTS] == [9, 3, 3]


@pytest.mark.parametrize('seed', range(6))
def test_with_a_patient_for_every_fold_each_fold_has_each_class(seed):
  rng = np.random.default_rng(seed)
  count, folds = int(rng.integers(15, 60)), 5
  classes = {f'p{rank:02d}': {1} for rank in range(count)}
  for k in (2, 3, 4):
    for rank in rng.choice(count, rng.integers(folds, count // 2 + 1), replace=False):
      classes[f'p{rank:02d}'].add(k)
  tested = []
  for fold in range(folds):
    parts = splits.split_patients(classes, folds=folds, fold=fold)
    tested += parts['test']
    for part in PARTS:
      assert {2, 3} <= set().union(*(classes[name] for name in parts[part]))
    assert abs(len(parts['test']) - count / folds) <= 2
  assert sorted(tested) == sorted(classes)


@pytest.mark.parametrize(
  ('lesions', 'expected'), [((4,), ['train']), ((0,), ['train']), ((0, 5), ['test', 'train'])]
)
def test_of_too_few_patients_the_first_trains_and_the_second_tests(lesions, expected):
  parts = splits.split_patients(having(lesions), folds=5, fold=0)
  found = [part for part in PARTS for name in parts[part] if int(name[1:]) in lesions]
  assert sorted(found) == expected


def test_lists_win_over_classes():
  classes = having((0, 1, 2))
  parts = splits.split_patients(
    classes, folds=5, fold=0, validation_patients=('p05',), test_patients=('p06', 'p07')
  )
  assert (parts['validation'], parts['test']) == (('p05',), ('p06', 'p07'))
  rest = splits.split_patients(classes, folds=5, fold=0, validation_patients=('p05',))
  assert rest['validation'] == ('p05',) and {*rest['test']} & {'p00', 'p01', 'p02'}


@pytest.mark.parametrize(
  ('count', 'folds', 'message'),
  [
    (1, 5, 'only 1 patients to split; expected 3 or more'),
    (2, 3, 'only 2 patients to split; expected 3 or more'),
    (2, 5, 'Add scans of other patients'),
    (3, 5, 'set data.folds to 3[.]'),
    (4, 5, 'set data.folds to 3 to 4[.]'),
  ],
)
def test_the_remedy_for_few_patients_helps(count, folds, message):
  with pytest.raises(InputError, match=message):
    splits.split_patients(PATIENTS[:count], folds=folds, fold=0)
