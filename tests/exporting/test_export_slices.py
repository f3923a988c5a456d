"""Which slices of a run an export is calibrated and checked on, against slow loops."""

from pathlib import Path

import numpy as np
import pytest

from thrifty_jax.data.batching import Prepared, PreparedCase
from thrifty_jax.exporting import export_slices

CASES, SLICES = 11, 40
PATIENTS = {
  'train': tuple(map(str, range(5))),
  'validation': tuple(map(str, range(5, CASES))),
  'test': (),
}


@pytest.fixture(scope='module')
def run():
  """A run with a patient a case, whose slices hold their own number among all."""
  cases = tuple(
    PreparedCase(f'case{n}', str(n), n * SLICES, SLICES, (SLICES, 2, 2), (1, 1, 1), ())
    for n in range(CASES)
  )
  slices = [
    {'image': np.full((2, 2, 1), number, np.float16), 'label': np.zeros((2, 2), np.uint8)}
    for number in range(CASES * SLICES)
  ]
  return export_slices.RunData(Prepared(Path('nowhere'), cases, slices, (2, 2, 1)), PATIENTS)


def take_slices(found):
  """The numbers of the given inputs' own slices among all, without their neighbours."""
  found = [*found]
  assert all(one.dtype == np.float32 and one.shape[1:] == (3, 2, 2) for one in found)
  return [one[:, 1, 0, 0].astype(int).tolist() for one in found]


@pytest.mark.parametrize(
  ('count', 'cases', 'each'),
  [(64, range(5), 13), (10, range(5), 2), (7, range(5), 2), (3, (0, 2, 4), 1), (1, (2,), 1)],
)
def test_calibration_takes_slices_spread_over_the_training_scans(run, count, cases, each):
  found = take_slices(export_slices.read_training(run, count, context=1))
  for case, numbers in zip(cases, found, strict=True):
    assert len(numbers) == each and {number // SLICES for number in numbers} == {case}
    apart = SLICES / each
    assert all(abs(one - apart) < 1 for one in np.diff(numbers))
    assert numbers[0] % SLICES < apart and numbers[-1] % SLICES >= SLICES - apart - 1


def test_calibration_takes_every_part_of_the_scans_even_if_only_one_slice_of_each(run):
  many = run._replace(patients={'train': tuple(map(str, range(CASES)))})
  found = take_slices(export_slices.read_training(many, CASES, context=1))
  heights = sorted(number % SLICES for (number,) in found)
  assert heights[0] < 6 and heights[-1] >= SLICES - 6 and max(np.diff(heights)) < 8


def test_calibration_takes_the_neighbours_of_slices(run):
  *_, one = export_slices.read_training(run, 64, context=1)
  for before, own, after in one[:, :, 0, 0].astype(int):
    first, last = own // SLICES * SLICES, own // SLICES * SLICES + SLICES - 1
    assert (before, after) == (max(own - 1, first), min(own + 1, last))


def test_scans_of_fewer_slices_than_wanted_are_taken_whole(run):
  alone = run._replace(patients={'train': ('3',)})
  (found,) = take_slices(export_slices.read_training(alone, 64, context=1))
  assert found == [*range(3 * SLICES, 4 * SLICES)]


def test_an_export_is_checked_on_the_middle_of_validation_scans_spread_over_all(run):
  found = export_slices.read_run(run)
  assert [one[0, 0, 0, 0] for one in found] == [n * SLICES + 12 for n in (5, 7, 8, 10)]
  assert all(one.shape == (16, 2, 2, 1) and one.dtype == np.float16 for one in found)
  assert all((np.diff(one[:, 0, 0, 0]) == 1).all() for one in found)


def test_a_spread_has_the_middle_of_each_of_as_many_equal_parts():
  for total in range(1, 30):
    for count in range(1, 35):
      found = export_slices.choose_spread(range(total), count)
      parts = min(count, total)
      assert len(found) == parts
      for part, one in enumerate(found):
        middle = (part + 0.5) * total / parts
        assert middle - 1 < one <= middle
