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


# Number of slices, the training cases they are of, and the slices of each.
SPREAD = [
  (64, range(5), range(0, SLICES, 4)),  # 13 of each would do
  (10, range(5), (0, 20)),
  (7, range(5), (0, 20)),
  (3, (0, 2, 4), (0,)),
  (1, (0,), (0,)),
]


@pytest.mark.parametrize(('count', 'cases', 'slices'), SPREAD)
def test_calibration_takes_slices_spread_over_the_training_scans_with_their_neighbours(
  run, count, cases, slices
):
  found = list(export_slices.read_training(run, count, context=1))
  assert all(one.dtype == np.float32 and one.shape[1:] == (3, 2, 2) for one in found)
  wanted = [
    [[min(max(d + offset, 0), SLICES - 1) + n * SLICES for offset in (-1, 0, 1)] for d in slices]
    for n in cases
  ]
  assert [one[:, :, 0, 0].tolist() for one in found] == wanted


def test_an_export_is_checked_on_the_middle_of_validation_scans_spread_over_all(run):
  found = export_slices.read_run(run)
  assert [one[0, 0, 0, 0] for one in found] == [n * SLICES + 12 for n in (5, 7, 9)]
  assert all(one.shape == (16, 2, 2, 1) and one.dtype == np.float16 for one in found)
  assert all((np.diff(one[:, 0, 0, 0]) == 1).all() for one in found)


def test_a_spread_is_even_begins_with_the_first_and_has_no_more_than_wanted():
  for total in range(1, 30):
    for count in range(1, 35):
      found = export_slices.choose_spread(range(total), count)
      assert found[0] == 0 and len(found) <= count and len({*np.diff(found)}) <= 1
      assert len(found) == total or 2 * len(found) > count
