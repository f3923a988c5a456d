"""Masks that do not fit their scan, planted one at a time among masks that do."""

import numpy as np
import pytest

from data_prep import findings, placement
from thrifty_jax.scans import turns
from thrifty_jax.scans.volumes import SLICE_AXES

SHAPE = (10, 64, 64)
TURNS = {
  'mirrored left to right': lambda mask: mask[:, :, ::-1],
  'mirrored front to back': lambda mask: mask[:, ::-1],
  'mirrored head to feet': lambda mask: mask[::-1],
  'mirrored front to back and left to right': lambda mask: mask[:, ::-1, ::-1],
  'mirrored head to feet and left to right': lambda mask: mask[::-1, :, ::-1],
  'with rows and columns exchanged': lambda mask: mask.swapaxes(1, 2),
  # The remedy of a turn by a right angle is the turn back.
  'with rows and columns exchanged and mirrored front to back': lambda mask: np.rot90(
    mask, -1, (1, 2)
  ),
}


def made(seed, *, classes=1):
  """A noisy scan with an organ of its own brightness, which is no middle of the scan."""
  rng = np.random.default_rng(seed)
  middle = np.array([3.5, 22, 40]) + rng.uniform(-1.5, 1.5, 3)
  radius = np.array([3, 9, 6]) * rng.uniform(0.85, 1.15)
  grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing='ij'), -1)
  label = (((grid - middle) / radius) ** 2).sum(-1) <= 1
  image = np.where(label, rng.uniform(0.6, 0.7), rng.uniform(0.2, 0.3)) + rng.normal(0, 0.05, SHAPE)
  label = label.astype(np.uint8)
  if classes == 2:
    label[(label == 1) & (grid[..., 2] > middle[2])] = 2
  return np.clip(image, 0, 1), label


def misplaced(change, *, count=10, classes=1, at=4):
  measured = []
  for n in range(count):
    image, label = made(n, classes=classes)
    label = np.ascontiguousarray(change(label)) if n == at else label
    measured.append(placement.measure(image, label, classes + 1))
  return placement.find_misplaced(measured)


@pytest.mark.parametrize('classes', [1, 2])
@pytest.mark.parametrize('count', [5, 10, 30])
def test_masks_that_fit_are_not_suspected(classes, count):
  assert misplaced(lambda mask: mask, classes=classes, count=count) == {}


@pytest.mark.parametrize('turn', TURNS)
def test_a_mask_that_was_mirrored_or_turned_is_found_with_its_turn(turn):
  found = misplaced(TURNS[turn])
  assert list(found) == [4]
  assert turns.describe(found[4], 'axial') == turn


@pytest.mark.parametrize('shift', [(0, 12, 0), (0, 0, -12), (0, 8, 9), (0, -12, 0), (0, 15, -15)])
def test_a_mask_that_was_moved_is_found(shift):
  assert misplaced(lambda mask: np.roll(mask, shift, (0, 1, 2))) == {4: 0}


def test_a_mirrored_class_of_several_is_found():
  assert list(misplaced(lambda mask: mask[:, ::-1], classes=2)) == [4]


@pytest.mark.parametrize('count', [1, 2, 4])
def test_of_few_scans_nothing_is_said(count):
  assert misplaced(lambda mask: mask[:, ::-1], count=count, at=0) == {}


def test_an_empty_mask_and_a_rare_class_are_no_fault():
  assert misplaced(np.zeros_like) == {}
  assert misplaced(lambda mask: np.where(mask == 2, 0, mask), classes=2) == {}


def test_a_slice_that_is_no_square_is_mirrored_only():
  image, label = (array[:, :48] for array in made(0))
  measured = placement.measure(image, label, 2)[0]
  turned = [exchanged for exchanged, *_ in turns.TURNS]
  np.testing.assert_array_equal(np.isnan(measured).all(axis=-1), turned)


@pytest.mark.parametrize('turn', range(1, len(turns.TURNS)))
def test_a_turn_of_the_mask_is_measured_as_the_turned_mask_is(turn):
  image, label = made(3)
  turned = np.ascontiguousarray(turns.turn(label, turn))
  expected = placement.measure(image, turned, 2)[0, 0]
  np.testing.assert_allclose(placement.measure(image, label, 2)[0, turn], expected, atol=1e-9)


@pytest.mark.parametrize('axis', SLICE_AXES)
def test_a_turn_is_named_by_the_axes_of_the_slices(axis):
  sides = {'S': 'head to feet', 'I': 'head to feet', 'P': 'front to back', 'L': 'left to right'}
  for place, to in enumerate(SLICE_AXES[axis]):
    turn = turns.TURNS.index((False, *(place == other for other in range(3))))
    assert turns.describe(turn, axis) == f'mirrored {sides[to]}'


def test_the_check_names_the_scan(tmp_path):
  from data_prep.survey import Scan

  scans = [
    Scan(
      case=f'c{n}', patient=f'p{n}', shape=SHAPE, spacing_mm=(3.0, 1.0, 1.0), orientation='LPS',
      intensity=np.array([[0.0, 0.3, 1.0]]), class_size=np.ones(1), image_digest=f'i{n}',
      label_digest=f'l{n}', study_digest='', disordered=(), blank=(), picture='', pictured=1,
      placement=placement.measure(made(n)[0], made(n)[1][:, ::-1] if n == 2 else made(n)[1], 2),
    )
    for n in range(8)
  ]  # fmt: skip
  (found,) = findings.find(scans, ('background', 'organ'))
  assert found.case == 'c2' and not found.is_error
  assert 'mirrored front to back it would lie on the same: look at its picture' in found.text
