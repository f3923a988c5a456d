"""Masks find their images by the names that people give them, or are left alone."""

import pytest

from thrifty_jax.scans import pairs

# Names of images and of masks, which pair in this order, and the rule.
PAIRED = {
  'equal': (['a', 'b'], ['a', 'b'], 'by equal names'),
  'equal, whatever they contain': (['1', '1_1'], ['1', '1_1'], 'by equal names'),
  'a suffix': (['1', '2', '10'], ['1_seg', '2_seg', '10_seg'], 'by names, * with *_seg'),
  'a hyphen': (['p-1', 'p-2'], ['p-1-mask', 'p-2-mask'], 'by names, * with *-mask'),
  'a prefix': (['x_1', 'x_2'], ['mask_x_1', 'mask_x_2'], 'by names, * with mask_*'),
  'a prefix without a sign': (['07', '12'], ['label07', 'label12'], 'by names, * with label*'),
  'a capital': (['catLeft', 'dog'], ['catLeftMask', 'dogMask'], 'by names, * with *Mask'),
  'a longer image': (['a_image', 'b_image'], ['a', 'b'], 'by names, *_image with *'),
  'channels of nnU-Net': (['a_0000', 'b_0000'], ['a', 'b'], 'by names, *_0000 with *'),
  'DRIVE': (
    ['21_training', '22_training'],
    ['21_manual1', '22_manual1'],
    'by names, *_training with *_manual1',
  ),
  'ISIC': (
    ['ISIC_0000000', 'ISIC_0000001'],
    ['ISIC_0000000_segmentation', 'ISIC_0000001_segmentation'],
    'by names, * with *_segmentation',
  ),
  'STARE': (['im0001', 'im0002'], ['im0001.ah', 'im0002.ah'], 'by names, * with *.ah'),
  'CHASE': (
    ['Image_01L', 'Image_01R', 'Image_02L'],
    ['Image_01L_1stHO', 'Image_01R_1stHO', 'Image_02L_1stHO'],
    'by names, * with *_1stHO',
  ),
  'both prefixes': (
    ['img_1', 'img_2', 'img_12'],
    ['lbl_1', 'lbl_2', 'lbl_12'],
    'by names, img_* with lbl_*',
  ),
  'spaces': (['scan 1', 'scan 2'], ['scan 1 copy', 'scan 2 copy'], 'by names, * with * copy'),
  'umlauts': (
    ['Müller', 'Ångström'],
    ['Müller_maske', 'Ångström_maske'],
    'by names, * with *_maske',
  ),
  'leading zeros': (['img_07', 'img_12'], ['7-left', '12-left'], 'by names, img_* with *-left'),
  'numbers alone': (['a_07', 'b_12'], ['7-left', '12-right'], 'by the numbers in their names'),
}


@pytest.mark.parametrize('name', PAIRED)
def test_masks_find_their_images_by_the_names_that_people_give(name):
  images, masks, rule = PAIRED[name]
  expected = dict(zip(images, masks, strict=True))
  for order in (slice(None), slice(None, None, -1)):
    found = pairs.pair(images[order], masks[order])
    assert found.masks == expected and found.rule == rule


# Names of images and of masks, and the pairs among them.
PARTLY = {
  'no rule is mixed with another': (['a1', 'b2'], ['a1', 'c2'], {'a1': 'a1'}),
  'a file of another kind': (
    ['a', 'b'],
    ['a_seg', 'b_seg', 'overview'],
    {'a': 'a_seg', 'b': 'b_seg'},
  ),
  'numbers are whole': (
    ['21', '22'],
    ['1_m', '2_m', '21_m', '22_m'],
    {'21': '21_m', '22': '22_m'},
  ),
  'numbers with a common digit are whole': (
    ['21_x', '22_x'],
    ['1_m', '2_m', '21_m', '22_m'],
    {'21_x': '21_m', '22_x': '22_m'},
  ),
  'a patient more': (
    ['p1_1_x', 'p1_2_x'],
    ['p1_1_m', 'p1_2_m', 'p2_1_m', 'p2_2_m'],
    {'p1_1_x': 'p1_1_m', 'p1_2_x': 'p1_2_m'},
  ),
  'nothing alike': (['x', 'y'], ['p', 'q'], {}),
  'a number added tells nothing': (['1', '2'], ['1_2', '2_1'], {}),
  'two numbers that differ': (['a1b2', 'a2b1'], ['c1d2', 'c2d1'], {}),
  'a single file of each': (['left'], ['right'], {}),
  'channels without a pattern': (['a_0000', 'a_0001', 'b_0000'], ['a', 'b'], {}),
}


@pytest.mark.parametrize('name', PARTLY)
def test_what_a_rule_does_not_pair_stays_alone(name):
  images, masks, expected = PARTLY[name]
  assert pairs.pair(images, masks).masks == expected


@pytest.mark.parametrize(
  ('images', 'masks', 'example'),
  [
    (['a', 'b'], ['a_one', 'b_one', 'a_two', 'b_two'], 'a pairs with a_one, but a with a_two'),
    (['a', 'b'], ['a_seg', 'b_mask'], 'a pairs with a_seg, but b with b_mask'),
    (['img_7', 'img_07'], ['lb7', 'lb8'], 'img_07 pairs with lb7, but img_7 with lb7 too'),
  ],
)
def test_names_that_pair_in_two_ways_are_refused(images, masks, example):
  with pytest.raises(pairs.AmbiguousError, match=example):
    pairs.pair(images, masks)


def test_masks_in_the_folder_of_their_images_are_those_with_a_text_more():
  names = ['benign (1)', 'benign (1)_mask', 'benign (2)', 'benign (2)_mask', 'benign (2)_mask_1']
  found = pairs.pair_within(names)
  assert found.masks == {'benign (1)': 'benign (1)_mask', 'benign (2)': 'benign (2)_mask'}
  assert found.rule == 'by names, * with *_mask'
  assert pairs.pair_within(['a', 'b', 'c']).masks == {}
  with pytest.raises(pairs.AmbiguousError, match='a pairs with a_mask, but a with a_overlay'):
    pairs.pair_within(['a', 'a_mask', 'a_overlay'])
