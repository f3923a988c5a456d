"""Masks and truths of two folders: paired, read on one grid, named, or refused in one line."""

import json
import re

import nibabel
import numpy as np
import pytest
from PIL import Image

from thrifty_jax.errors import InputError
from thrifty_jax.scans import pictures
from thrifty_jax.scores import mask_pairs

AFFINE = np.diag((2.0, 1.0, 3.0, 1.0))
CLASSES = ('background', 'liver', 'tumour')


def volume(seed=0, most=2):
  return np.random.default_rng(seed).integers(0, most + 1, (4, 5, 6)).astype(np.uint8)


def save(path, voxels, affine=AFFINE):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.name.endswith('.nii.gz'):
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
  else:
    Image.fromarray(voxels).save(path)


@pytest.fixture
def folders(tmp_path):
  """Two cases of volumes."""
  masks, truths = tmp_path / 'masks', tmp_path / 'set' / 'labelsTr'
  for number, name in enumerate(('a', 'b')):
    save(masks / f'{name}.nii.gz', volume(number))
    save(truths / f'{name}.nii.gz', volume(number + 5))
  return masks, truths


def read_all(masks, truths, **options):
  found = mask_pairs.find(masks, truths)
  mask_pairs.require_complete(found, masks)
  meaning = mask_pairs.find_meaning([found], **options)
  return meaning, [mask_pairs.read(pair, meaning) for pair in found.pairs]


def refuse(folders, message, **options):
  with pytest.raises(InputError, match=message) as caught:
    read_all(*folders, **options)
  assert '\n' not in str(caught.value)


def test_a_mask_whose_axes_are_in_another_order_lies_on_its_truth(folders):
  masks, truths = folders
  _, (expected, _) = read_all(masks, truths, classes=CLASSES)
  turned = nibabel.as_closest_canonical(
    nibabel.Nifti1Image.from_filename(masks / 'a.nii.gz')
  ).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
  nibabel.save(turned, masks / 'a.nii.gz')
  assert nibabel.Nifti1Image.from_filename(masks / 'a.nii.gz').shape == (5, 6, 4)
  _, (found, _) = read_all(masks, truths, classes=CLASSES)
  np.testing.assert_array_equal(found.image, expected.image)
  np.testing.assert_array_equal(found.truth, expected.truth)
  assert found.spacing_mm == (3, 1, 2)


@pytest.mark.parametrize('which', [0, 1])
def test_a_link_to_a_file_that_was_not_fetched_is_refused(folders, which):
  path = folders[which] / 'b.nii.gz'
  path.unlink()
  path.symlink_to('annex/none')
  refuse(folders, f'{path}: is a link to a file that is not there; expected the file. Fetch it')


@pytest.mark.parametrize('which', [0, 1])
def test_a_link_that_pairs_with_nothing_is_left_over_as_any_file(folders, which):
  path = folders[which] / 'c.nii.gz'
  path.symlink_to('annex/none')
  found = mask_pairs.find(*folders)
  assert [pair.case for pair in found.pairs] == ['a', 'b']
  assert (found.unused, found.missing)[which] == (path,)


def test_a_mask_that_may_be_a_mirror_image_of_its_truth_is_refused(folders):
  masks, truths = folders
  centred = AFFINE.copy()
  centred[:3, 3] = -3, -2, -7.5  # as of a file without a form
  save(truths / 'a.nii.gz', volume(), centred)
  nameless = nibabel.Nifti1Image(volume(), None)
  nameless.header.set_zooms((2, 1, 3))
  nibabel.save(nameless, masks / 'a.nii.gz')
  message = 'masks/a.nii.gz: its header does not say where .*, but that of a.nii.gz is clear; exp'
  refuse(folders, message, classes=CLASSES)


def test_names_pair_them_and_what_is_left_over_is_named(folders):
  masks, truths = folders
  save(truths / 'c.nii.gz', volume())
  save(masks / 'd.nii.gz', volume())
  (masks / 'plans.json').write_text('{}')
  found = mask_pairs.find(masks, truths)
  assert [pair.case for pair in found.pairs] == ['a', 'b'] and found.rule == 'by equal names'
  assert [path.name for path in found.missing] == ['c.nii.gz']
  assert [path.name for path in found.unused] == ['d.nii.gz']
  with pytest.raises(InputError, match=r'1 of 3 truths have no mask there \(c\.nii\.gz\)'):
    mask_pairs.require_complete(found, masks)


def test_what_predict_writes_beside_a_mask_is_none(tmp_path):
  masks, truths = tmp_path / 'masks', tmp_path / 'truths'
  for number in (21, 22):
    save(truths / f'{number}_manual1.gif', 255 * volume(number, most=1)[0])
    save(masks / f'{number}_training.png', volume(number, most=1)[0])
    for added in ('overlay', 'preview', 'probability_1'):
      save(masks / f'{number}_training_{added}.png', volume(number)[0])
  found = mask_pairs.find(masks, truths)
  assert [pair.mask.name for pair in found.pairs] == ['21_training.png', '22_training.png']
  assert not found.unused


def test_several_truths_of_a_patient_are_told_by_a_table(folders, tmp_path):
  (tmp_path / 'p.csv').write_text('case,patient\na,p1\nb,p1\n')
  found = mask_pairs.find(*folders, patients=tmp_path / 'p.csv')
  assert [pair.patient for pair in found.pairs] == ['p1', 'p1']
  with pytest.raises(InputError, match=r'--patients=q\.csv: there is no such file'):
    mask_pairs.find(*folders, patients=type(tmp_path)('q.csv'))


# Where the names of the classes may stand, as the fixture has its folders.
NAMED = {
  'masks/classes.json': {'classes': {'0': 'background', '1': 'liver', '2': 'tumour'}},
  'masks/dataset.json': {'labels': {'background': 0, 'liver': 1, 'tumour': 2}},
  'set/labelsTr/dataset.json': {'labels': {'0': 'background', '1': 'liver', '2': 'tumour'}},
  'set/dataset.json': {'labels': {'background': 0, 'liver': 1, 'tumour': 2}},
}


@pytest.mark.parametrize('place', NAMED)
def test_classes_have_the_names_that_a_file_beside_them_gives(folders, tmp_path, place):
  (tmp_path / place).write_text(json.dumps(NAMED[place]))
  meaning, _ = read_all(*folders)
  assert meaning.classes == CLASSES


def test_two_files_that_name_the_classes_differently_are_refused_but_not_where_they_are_given(
  folders, tmp_path
):
  (tmp_path / 'masks' / 'classes.json').write_text(json.dumps(NAMED['masks/classes.json']))
  swapped = {'labels': {'background': 0, 'tumour': 1, 'liver': 2}}
  (tmp_path / 'set' / 'dataset.json').write_text(json.dumps(swapped))
  refuse(folders, r'dataset\.json: the classes are background, tumour, liver, but in .*classes')
  assert read_all(*folders, classes=CLASSES)[0].classes == CLASSES


def test_classes_without_names_are_numbered_up_to_the_largest_of_both(folders):
  masks, truths = folders
  save(masks / 'b.nii.gz', volume(1, most=4))
  meaning, _ = read_all(masks, truths)
  assert meaning.classes == ('background', 'class_1', 'class_2', 'class_3', 'class_4')


def test_black_and_white_pictures_meet_masks_of_0_and_1(tmp_path):
  masks, truths = tmp_path / 'masks', tmp_path / 'truths'
  label = volume(most=1)[0]
  save(truths / 'a.png', 255 * label)
  save(masks / 'a.tif', label)
  meaning, (found,) = read_all(masks, truths)
  assert meaning.classes == ('background', 'class_1')
  np.testing.assert_array_equal(found.truth[0], label)
  np.testing.assert_array_equal(found.image[0, ..., 0], label)


@pytest.mark.parametrize('masks_hold_numbers', [False, True])
def test_colours_mean_classes_in_the_truths_and_in_the_masks_unless_these_hold_numbers(
  tmp_path, masks_hold_numbers
):
  palette = np.array([(0, 0, 255), (255, 0, 0), (0, 255, 0)], np.uint8)
  label = volume()[0]
  save(tmp_path / 'truths' / 'a.png', palette[label])
  save(tmp_path / 'masks' / 'a.png', label if masks_hold_numbers else palette[label])
  options = {
    'colours': ('#0000ff', '#ff0000', '#00ff00'),
    'masks_hold_numbers': masks_hold_numbers,
  }
  meaning, (found,) = read_all(tmp_path / 'masks', tmp_path / 'truths', **options)
  assert meaning.classes == ('background', 'class_1', 'class_2')
  np.testing.assert_array_equal(found.truth[0], label)
  np.testing.assert_array_equal(found.image[0, ..., 0], label)
  if masks_hold_numbers:
    refuse((tmp_path / 'masks', tmp_path / 'truths'), '--colours', colours=options['colours'])


SHIFTED = AFFINE + np.array([[0, 0, 0, 9], [0] * 4, [0] * 4, [0] * 4])


def corrupt(masks, truths, name, content, affine=AFFINE):
  save({'mask': masks, 'truth': truths}[name] / 'b.nii.gz', content, affine)


BAD_VOLUMES = {
  'another size': (
    ('mask', volume()[:3]),
    r'masks/b\.nii\.gz: has \(6, 5, 3\) voxels .*\(6, 5, 4\)',
  ),
  'another place': (('mask', volume(), SHIFTED), r'masks/b\.nii\.gz: lies up to 9 mm away'),
  'another spacing': (('mask', volume(), np.diag((2, 1, 4, 1))), 'lies up to 5 mm away'),
  'four axes': (('mask', np.stack([volume()] * 2, -1)), r'masks/b\.nii\.gz: has 4 axes'),
  'a truth with four axes': (('truth', np.stack([volume()] * 2, -1)), r'labelsTr/b.*has 4 axes'),
  'a class too many in a mask': (
    ('mask', volume(most=3)),
    r'masks/b\.nii\.gz: holds class 3; expected 0 to 2: background, liver, tumour\. Name all',
  ),
  'a class too many in a truth': (('truth', volume(most=3)), r'labelsTr/b\.nii\.gz: holds class 3'),
  'probabilities': (
    ('mask', volume().astype(np.float32) / 2),
    r'masks/b\.nii\.gz: the mask holds values from 0\.0 to 1\.0 that are not all whole',
  ),
  'numbers below 0': (('mask', -volume().astype(np.int16)), 'from -2.* not all whole numbers'),
  'NaN': (('mask', np.full((4, 5, 6), np.nan, np.float32)), 'not all whole numbers'),
}


@pytest.mark.parametrize(('content', 'message'), BAD_VOLUMES.values(), ids=BAD_VOLUMES)
def test_a_mask_that_does_not_fit_its_truth_is_refused(folders, content, message):
  corrupt(*folders, *content)
  refuse(folders, message, classes=CLASSES)


def test_a_file_that_is_cut_off_is_refused(folders):
  path = folders[0] / 'b.nii.gz'
  path.write_bytes(path.read_bytes()[:60])
  refuse(folders, r'masks/b\.nii\.gz: cannot be read', classes=CLASSES)


def test_every_file_that_cannot_be_read_is_named_though_classes_have_no_names(folders):
  for path in (folders[0] / 'a.nii.gz', folders[1] / 'b.nii.gz'):
    path.write_bytes(path.read_bytes()[:60])
  refuse(folders, r'masks/a\.nii\.gz: cannot be read.*labelsTr/b\.nii\.gz: cannot be read')


def empty(masks, truths):
  for path in masks.iterdir():
    path.unlink()


def strange(masks, truths):
  for number, path in enumerate(sorted(masks.iterdir())):
    path.rename(masks / f'{"xy"[number]}.nii.gz')


def ambiguous(masks, truths):
  for name in 'ab':
    path = masks / f'{name}.nii.gz'
    save(masks / f'{name}_one.nii.gz', volume())
    path.rename(masks / f'{name}_two.nii.gz')


def picture(masks, truths):
  empty(masks, truths)
  save(masks / 'a.png', volume()[0])


def of_regions(masks, truths):
  (truths / 'dataset.json').write_text('{"labels": {"background": 0, "whole": [1, 2]}}')


def of_nothing(masks, truths):
  (masks / 'classes.json').write_text('{"classes": {"0": "background"}}')


def many(masks, truths):
  save(masks / 'a.nii.gz', np.arange(120, dtype=np.uint8).reshape(4, 5, 6))


def nothing(masks, truths):
  for path in (*masks.iterdir(), *truths.iterdir()):
    save(path, 0 * volume())


BAD_FOLDERS = {
  empty: r'masks: no volume or picture there',
  strange: r'masks: no mask pairs with a truth in .*labelsTr: x\.nii\.gz and a\.nii\.gz',
  ambiguous: r'masks: masks pair with truths in more than one way: ',
  picture: r'masks/a\.png: is a picture, but the truth a\.nii\.gz is a volume',
  of_regions: r'dataset\.json: regions_class_order is None.*Or name the classes by --classes',
  of_nothing: r'classes\.json: names one class, background; expected the background and a',
  many: r'masks and truths hold 120 different values, and no classes are named',
  nothing: r'masks and truths hold nothing but 0, and no classes are named',
}


@pytest.mark.parametrize(('spoil', 'message'), BAD_FOLDERS.items())
def test_folders_that_cannot_be_scored_are_refused(folders, spoil, message):
  spoil(*folders)
  refuse(folders, message)


def test_options_that_do_not_fit_the_files_are_refused(folders):
  masks, truths = folders
  refuse((masks, masks), 'is the folder of the truths too')
  refuse((masks / 'none', truths), '--masks=.*none: there is no such folder')
  refuse((masks, truths / 'none'), '--truths=.*none: there is no such folder')
  refuse((masks, truths), 'leave out --colours', colours=('#000000', '#ff0000'))


def write_pairs(folder, ending, mask, truth):
  """Two pairs of files, in which a voxel each has one of the numbers."""
  for name, numbers in (('masks', mask), ('truths', truth)):
    voxels = np.resize(np.array(numbers, np.uint8), (4, 5))
    for case in 'ab':
      path = folder / name / f'{case}{ending}'
      save(path, voxels if ending == '.png' else voxels[..., None])
  return folder / 'masks', folder / 'truths'


OTHER_NUMBERS = {  # of masks and truths, what is nowhere, and the folders that hold more than it
  '.nii.gz 0,255 0,1': (2, ('masks',), True),
  '.nii.gz 0,1 0,255': (2, ('truths',), True),
  '.nii.gz 0,255 0,255': (1, ('masks', 'truths'), True),
  '.nii.gz 0,1,2 0,5,10': (3, ('truths',), False),
  '.nii.gz 1,2 1,2': (0, ('masks', 'truths'), False),
  '.png 0,128 0,1': (2, ('masks',), False),
  '.png 0,255 0,1,2': (3, ('masks',), True),
}


@pytest.mark.parametrize(('case', 'expected'), OTHER_NUMBERS.items(), ids=OTHER_NUMBERS)
def test_numbers_with_a_gap_are_no_unnamed_classes(tmp_path, case, expected):
  ending, *numbers = case.split()
  gap, places, white = expected
  folders = write_pairs(tmp_path, ending, *([*map(int, text.split(','))] for text in numbers))
  named = '; '.join(f'a{ending}, b{ending} in {tmp_path / place}' for place in places)
  with pytest.raises(InputError) as caught:
    read_all(*folders)
  text = str(caught.value)
  assert f'but no {gap},' in text and text.endswith(f'above {gap} are in {named}')
  assert 'by --classes' in text and ('255 must be 1' in text) == white


def test_named_classes_may_have_a_gap_and_black_and_white_needs_no_names(tmp_path):
  folders = write_pairs(tmp_path / 'gap', '.nii.gz', (0, 1, 3), (0, 3))
  assert read_all(*folders, classes=('background', 'a', 'b', 'c'))[1][0].image.max() == 3
  folders = write_pairs(tmp_path / 'white', '.png', (0, 255), (0, 1))
  meaning, read = read_all(*folders)
  assert len(meaning.classes) == 2 and (read[0].image[..., 0] == read[0].label).all()


BAD_PICTURES = {
  'another size': (volume()[0][:3], r'masks/a\.png: has 3 x 6 pixels .* truth a\.png has 5 x 6'),
  'another class': (volume(most=3)[0], r'masks/a\.png: the mask holds 4 values .*in --colours'),
  'colours': (np.stack([volume()[0], *2 * [0 * volume()[0]]], -1), '--colours='),
}


@pytest.mark.parametrize(('pixels', 'message'), BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_a_picture_that_does_not_fit_its_truth_is_refused(tmp_path, pixels, message):
  masks, truths = tmp_path / 'masks', tmp_path / 'truths'
  save(truths / 'a.png', volume()[0])
  save(masks / 'a.png', pixels)
  refuse((masks, truths), message, classes=CLASSES)
  with pytest.raises(InputError) as caught:
    read_all(masks, truths, classes=CLASSES)
  assert not re.search(r'config|setting', str(caught.value))


def test_as_many_colours_as_classes_are_expected(tmp_path):
  for name in ('masks', 'truths'):
    save(tmp_path / name / 'a.png', volume()[0])
  refuse(
    (tmp_path / 'masks', tmp_path / 'truths'), '^--colours has 2 colours.*3 classes.*the option',
    classes=CLASSES, colours=('#000000', '#ff0000'),
  )  # fmt: skip


def test_a_volume_is_read_where_both_kinds_lie(folders):
  save(folders[0] / 'a_overlay.png', volume()[0])
  found = mask_pairs.find(*folders)
  assert not found.of_pictures and not pictures.is_picture(found.pairs[0].mask)
