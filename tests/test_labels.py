"""Labels and regions against loops over single voxels, written as nnU-Net documents them."""

import numpy as np
import pytest

from thrifty_jax import labels

BRATS = ((1, 2, 3), (2, 3), (3,))
PARTS = ((2, 1), (1,), (2,), (3,))  # a whole that its parts fill, and one apart
NAMES = ('background', 'whole', 'core', 'enhancing')
MASK = np.array([0, 1, 2, 3, labels.IGNORED], np.uint8)


def test_regions_are_written_one_after_the_other():
  scores = np.random.default_rng(0).standard_normal((4, 5, 4)).astype(np.float32)
  found = labels.choose(scores, BRATS)
  for place in np.ndindex(found.shape):
    expected = 0
    for number, written in ((1, 1), (2, 2), (3, 3)):
      if 1 / (1 + np.exp(scores[place][0] - scores[place][number])) > 0.5:
        expected = written
    assert found[place] == expected
  assert found.dtype == np.uint8 and {*np.unique(found)} == {0, 1, 2, 3}


def test_a_single_region_is_a_single_class():
  scores = np.random.default_rng(1).standard_normal((50, 2)).astype(np.float32)
  np.testing.assert_array_equal(labels.choose(scores, ((1,),)), labels.choose(scores))


def test_without_regions_the_first_of_the_largest_scores_counts():
  scores = np.array([[0, 1, 1], [2, 2, 0], [0, 0, 3]], np.float32)
  assert labels.choose(scores).tolist() == [1, 0, 2]


def test_a_voxel_is_of_each_region_that_has_its_label():
  assert [labels.belongs(MASK, k, BRATS).tolist() for k in (1, 2, 3)] == [
    [False, True, True, True, False],
    [False, False, True, True, False],
    [False, False, False, True, False],
  ]
  assert labels.belongs(MASK, 2).tolist() == [False, False, True, False, False]


def test_a_voxel_is_drawn_by_its_smallest_class_and_not_where_it_is_ignored():
  assert labels.innermost(MASK, BRATS).tolist() == [0, 1, 2, 3, 0]
  assert labels.innermost(MASK, PARTS).tolist() == [0, 2, 3, 4, 0]
  assert labels.innermost(MASK, ((1, 3), (2,))).tolist() == [0, 1, 2, 1, 0]
  assert labels.innermost(MASK).tolist() == [0, 1, 2, 3, 0]


def test_what_is_no_more_of_a_region_is_of_the_next_one_around_it():
  assert [labels.around(k, BRATS) for k in (1, 2, 3)] == [0, 1, 2]
  assert [labels.around(k, PARTS) for k in (1, 2, 3, 4)] == [0, 2, 2, 0]
  assert labels.around(2) == 0


def test_classes_follow_from_the_labels_that_are_there():
  assert labels.to_classes([2], BRATS) == [1, 2]
  assert labels.to_classes([1, 3], PARTS) == [1, 2, 4]
  assert labels.to_classes([1, 3]) == [1, 3]
  assert labels.count(4, BRATS) == labels.count(4) == 4 and labels.count(3, ((1, 2, 5), (5,))) == 6


def test_ignored_voxels_are_in_neither_mask():
  marked = labels.mark_ignored(np.array([0, 1, 4], np.uint8), 4)
  assert marked.tolist() == [0, 1, labels.IGNORED]
  assert labels.foreground(marked).tolist() == [False, True, False]
  prediction, truth = labels.leave_out_ignored(np.array([1, 1, 1], np.uint8), marked)
  assert (prediction.tolist(), truth.tolist()) == ([1, 1, 0], [0, 1, 0])
  for ignore in (0, 4):
    with pytest.raises(ValueError, match='holds the label 255'):
      labels.mark_ignored(MASK, ignore)
  assert labels.mark_ignored(MASK, labels.IGNORED).tolist() == MASK.tolist()


@pytest.mark.parametrize('regions', [BRATS, ((1, 2), (3,), (4,)), ((1, 2, 3), (2,), (3,))])
def test_nested_and_separate_regions_have_no_fault(regions):
  assert labels.find_fault(NAMES, regions) == ''
  assert labels.parse(labels.format_text(regions)) == regions


@pytest.mark.parametrize(
  ('regions', 'fault'),
  [
    (((1,), (2,)), '2 regions for 3 classes'),
    (((1, 2), (2,), ()), 'enhancing has the labels []'),
    (((1, 2), (2,), (255,)), 'enhancing has the labels [255]'),
    (((2,), (1, 2), (3,)), 'core would be written over whole'),
    (((1, 2), (2, 3), (3,)), 'whole and core overlap'),
  ],
)
def test_a_fault_of_regions_names_them(regions, fault):
  assert fault in labels.find_fault(NAMES, regions)


def test_regions_are_described_with_their_labels():
  expected = 'background, whole (1, 2, 3), core (2, 3), enhancing (3)'
  assert labels.describe(NAMES, BRATS) == expected
  assert labels.describe(NAMES) == 'background, whole, core, enhancing'
