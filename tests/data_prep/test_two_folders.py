"""A folder of images and one of masks: paired, read as made, filled in, or refused in one line."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
from PIL import Image
from recorded import OPEN

from data_prep import check_page, checks, data_sets, folder, phantom_folders
from thrifty_jax import config as configs
from thrifty_jax.data import data_file
from thrifty_jax.errors import InputError
from thrifty_jax.scans import pictures, preprocessing, slices, volumes

PATIENTS = 3  # and four pictures
CLASSES, COLOURS = phantom_folders.CLASSES, phantom_folders.COLOURS


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  there = tmp_path_factory.mktemp('made') / 'set'
  phantom_folders.write_pictures(there, patients=PATIENTS, seed=0)
  return there


@pytest.fixture
def there(made, tmp_path):
  return shutil.copytree(made, tmp_path / 'set')


@pytest.fixture
def config(there, tmp_path):
  return configure(there, tmp_path)


def configure(there, place, **settings):
  config = configs.default()
  config.data.name = 'folder'
  configs.leave_to_data(config)
  names = {'images': str(there / 'images'), 'masks': str(there / 'masks')}
  config.data.update({**names, 'classes': CLASSES, 'colours': COLOURS, **settings})
  config.data.data_dir = str(place / 'tfds')
  return config


def found(config):
  return data_sets.find(config).cases


def write(path, pixels):
  path.parent.mkdir(exist_ok=True)
  Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def refuse(config, message):
  with pytest.raises(InputError, match=message) as caught:
    configs.validate(config)
    data_sets.resolve(config, data_sets.find(config), ())
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 600
  return str(caught.value)


# --- reading


def test_pictures_and_masks_read_back_as_they_were_made(config):
  cases = found(config)
  assert [case.case for case in cases] == [f'{n:02d}_photo' for n in range(PATIENTS + 1)]
  assert [case.patient for case in cases] == ['p1', 'p1', 'p2', 'p3']
  for number, case in enumerate(cases):
    image, label = phantom_folders.make_picture(number=number, seed=0)
    volume = folder.read_case(case)
    np.testing.assert_array_equal(volume.image, image[None])
    np.testing.assert_array_equal(volume.label, label[None])
    np.testing.assert_array_equal(volume.affine, pictures.AFFINE)
    assert folder.read_classes(case) == [*np.unique(label)[1:]] and volume.spacing_mm == (1, 1, 1)


def test_what_is_left_open_follows_from_the_pictures(config):
  scans = data_sets.find(config)
  told = dict(data_sets.resolve(config, scans, ()))
  data = config.data
  assert (data.modalities, data.context, data.slice_axis, data.unit) == (3, 0, 'axial', 'pixels')
  assert data.intensity == 'percentiles' and configs.left_to_data(config) == []
  assert told['folder'] == 'set/images: 4 pictures of 3 patients, as in patients.csv'
  assert told['masks'] == 'by names, *_photo with *_drawn'
  assert told['channels'] == 'red, green, blue' and told['pictures'].startswith('42 x 44 pixels')
  assert told['drawing'] == 'pictures drawn whole to 64 x 64 pixels'
  assert told['not used'] == '1 files or folders: images/Thumbs.db'


def test_volumes_in_two_folders_are_those_of_a_decathlon(tmp_path):
  raw = tmp_path / 'raw'
  phantom_folders.write_decathlon(raw, patients=2, seed=0)
  config = configure(raw, tmp_path, colours=())
  config.data.update({'images': str(raw / 'imagesTr'), 'masks': str(raw / 'labelsTr')})
  cases = found(config)
  assert cases == tuple(folder.find_cases(raw, OPEN))  # patients.csv lies beside the images
  assert all(case.legend is None for case in cases)
  assert dict(data_sets.resolve(config, data_sets.find(config), ()))['masks'] == 'by equal names'
  data = config.data
  assert (data.modalities, data.context, data.slice_axis, data.unit) == (2, 1, 'axial', 'mm')


def test_the_home_folder_may_be_written_as_a_tilde(config, there, monkeypatch):
  monkeypatch.setenv('HOME', str(there))
  expected = found(config)
  config.data.update({'images': '~/images', 'masks': '~/masks'})
  assert found(config) == expected


def test_images_and_masks_may_lie_in_one_folder(there, tmp_path):
  for path in (there / 'images').glob('*.png'):
    number = path.name[:2]
    path.rename(there / f'{number}.png')
    (there / 'masks' / f'{number}_drawn.png').rename(there / f'{number}_mask.png')
  (there / 'patients.csv').unlink()
  config = configure(there, tmp_path, images=str(there), masks=str(there))
  cases = found(config)
  assert [case.case for case in cases] == ['00', '01', '02', '03']
  assert all(case.label[0].name == f'{case.case}_mask.png' for case in cases)
  write(there / '07_notes.png', np.zeros((4, 4)))
  scans = data_sets.find(config)
  assert scans.cases == cases and len(scans.unpaired) == 1
  assert '07_notes.png: its mask is missing' in scans.unpaired[0].text


@pytest.mark.parametrize(
  ('pattern', 'name'),
  [('{case}_{channel}', '{}_{}.tif'), ('{channel}-of-{case}', '{1}-of-{0}.tif')],
)
def test_a_pattern_joins_the_files_of_each_channel(tmp_path, pattern, name):
  for case in ('a', 'b_1'):
    for value, channel in enumerate(('10', '2', 'dapi')):
      write(tmp_path / 'images' / name.format(case, channel), [[7 * value, 1]])
    write(tmp_path / 'masks' / f'{case}_mask.png', [[0, 1]])
  config = configure(tmp_path, tmp_path, colours=(), classes=('no', 'yes'), pattern=pattern)
  cases = found(config)
  assert [case.case for case in cases] == ['a', 'b_1']
  assert folder.read_case(cases[1]).image[0, 0, 0].tolist() == [7, 0, 14]
  assert dict(data_sets.resolve(config, data_sets.find(config), ()))['channels'] == '2, 10, dapi'
  assert config.data.modalities == 3
  lost = tmp_path / 'images' / name.format('a', '10')
  lost.unlink()
  scans = data_sets.find(config)
  assert [case.case for case in scans.cases] == ['b_1']
  assert len(scans.unpaired) == 1 and 'the channel 10 of a is missing' in scans.unpaired[0].text
  (tmp_path / 'images' / name.format('b_1', 'dapi')).unlink()
  refuse(
    config, 'images: no scan there is complete. The first problem: .* is missing, which others'
  )


def test_a_file_for_each_channel_is_grey(tmp_path):
  for channel in 'xy':
    write(tmp_path / 'images' / f'a_{channel}.png', np.zeros((2, 3, 3)))
  write(tmp_path / 'masks' / 'a.png', np.zeros((2, 3)))
  config = configure(tmp_path, tmp_path, colours=(), pattern='{case}_{channel}')
  with pytest.raises(InputError, match='a_x.png: is a picture in colours, but its scan has a file'):
    folder.read_case(found(config)[0])


# --- dataset.json beside pictures


@pytest.mark.parametrize('layout', ['decathlon', 'nnunet', 'a file a channel', 'listed'])
@pytest.mark.parametrize('ending', ['.png', '.tif', '.bmp'])
def test_pictures_in_the_layout_of_the_decathlon_or_of_nnunet(made, tmp_path, layout, ending):
  raw = tmp_path / 'raw'
  described: dict[str, Any] = {
    'channel_names': {'0': 'R', '1': 'G', '2': 'B'},
    'labels': {name: number for number, name in enumerate(CLASSES)},
  }
  if layout != 'decathlon':
    described['file_ending'] = ending
  for name in ('imagesTr', 'labelsTr'):
    (raw / name).mkdir(parents=True)
  for number in range(3):
    image, label = phantom_folders.make_picture(number=number, seed=0)
    write(raw / 'labelsTr' / f'c{number}{ending}', label)
    if layout == 'a file a channel':
      for channel in range(3):
        write(raw / 'imagesTr' / f'c{number}_000{channel}{ending}', image[..., channel])
    else:
      write(raw / 'imagesTr' / f'c{number}{"_0000" * (layout == "nnunet")}{ending}', image)
  if layout == 'listed':
    described['training'] = [
      {'image': f'./imagesTr/c{number}{ending}', 'label': f'./labelsTr/c{number}{ending}'}
      for number in range(3)
    ]
  (raw / 'dataset.json').write_text(json.dumps(described))
  for number, case in enumerate(folder.find_cases(raw, OPEN)):
    image, label = phantom_folders.make_picture(number=number, seed=0)
    volume = folder.read_case(case)
    np.testing.assert_array_equal(volume.image, image[None])
    np.testing.assert_array_equal(volume.label, label[None])
    assert case.legend == pictures.Legend((), 3)


def test_previews_beside_volumes_are_not_used(tmp_path):
  raw = tmp_path / 'raw'
  phantom_folders.write_nnunet(raw, patients=2, seed=0)
  description = json.loads((raw / 'dataset.json').read_text())
  del description['file_ending']
  (raw / 'dataset.json').write_text(json.dumps(description))
  before = folder.find_cases(raw, OPEN)
  write(raw / 'imagesTr' / 'scan_000_0000.png', np.zeros((4, 4)))
  assert folder.find_cases(raw, OPEN) == before
  assert folder.find_unused(raw, before, OPEN) == ['imagesTr/scan_000_0000.png']


# --- patients


def test_patients_may_be_named_in_the_folder_of_the_images(config, there):
  expected = [case.patient for case in found(config)]
  shutil.copy(there / 'patients.csv', there / 'images' / 'patients.csv')
  refuse(config, 'patients.csv: .*patients.csv is there too; expected one of both')
  (there / 'patients.csv').unlink()
  scans = data_sets.find(config)
  assert [case.patient for case in scans.cases] == expected
  assert scans.unused == ('images/Thumbs.db',)
  (there / 'images' / 'patients.csv').unlink()
  assert [case.patient for case in found(config)] == [case.case for case in scans.cases]


# --- what is refused


def test_what_has_no_partner_is_named_line_by_line(config, there):
  (there / 'masks' / '00_drawn.png').unlink()
  (there / 'images' / '02_photo.png').unlink()
  scans = data_sets.find(config)
  assert [case.case for case in scans.cases] == ['01_photo', '03_photo']
  image, mask = [one.text for one in scans.unpaired]
  assert image.startswith(f'{there}/images/00_photo.png: its mask is missing in {there}/masks;')
  assert mask.startswith(f'{there}/masks/02_drawn.png: its image is missing in {there}/images;')
  config.data.exclude = ('00_photo', '02_drawn')
  assert not data_sets.find(config).unpaired and len(found(config)) == 2


@pytest.mark.parametrize(
  ('masks', 'message'),
  [
    (['x.png', 'y.png'], 'no mask pairs with an image: y.png and b.png; expected equal names'),
    (
      ['a_1st.png', 'b_1st.png', 'a_2nd.png', 'b_2nd.png'],
      'a pairs with a_1st, but a with a_2nd; expected equal names',
    ),
    (['a.png', 'a.tif'], 'a.tif: a.png has the same name but for its ending'),
    ([], 'masks: no volume or picture there .*correct --config.data.masks'),
  ],
)
def test_names_that_do_not_pair_are_one_line(tmp_path, masks, message):
  for name in ('images/a.png', 'images/b.png', *(f'masks/{mask}' for mask in masks)):
    write(tmp_path / name, np.zeros((2, 2)))
  refuse(configure(tmp_path, tmp_path), message)


@pytest.mark.parametrize(
  ('values', 'option'),
  [
    (
      [0, 255],
      """classes="('background','class 1')" """
      """(black is the background, unless --config.data.colours="('#ffffff','#000000')").""",
    ),
    ([0, 1, 2], """classes="('background','class 1','class 2')"."""),
    (
      [0, 128, 255],
      """classes="('background','class 1','class 2')" """
      """--config.data.colours="('#000000','#808080','#ffffff')".""",
    ),
    ([*range(0, 250, 7)], '36 values; expected few class numbers, from 0 to 255.'),
  ],
)
def test_classes_that_nobody_names_are_asked_for_with_what_the_masks_hold(tmp_path, values, option):
  write(tmp_path / 'images' / 'a.png', np.zeros((1, len(values))))
  write(tmp_path / 'masks' / 'a.png', [values])
  text = refuse(configure(tmp_path, tmp_path, classes=(), colours=()), 'data.classes is not set')
  assert text.endswith(option) and ', '.join(map(str, values[:5])) in text


def test_classes_of_volumes_are_asked_for_by_their_numbers(tmp_path):
  raw = tmp_path / 'raw'
  phantom_folders.write_decathlon(raw, patients=2, seed=0)
  places = {'images': str(raw / 'imagesTr'), 'masks': str(raw / 'labelsTr')}
  config = configure(raw, tmp_path, classes=(), colours=(), **places)
  refuse(config, r'hold 0, 1, 2; name .*classes="\(\'background\',\'class 1\',\'class 2\'\)"\.$')


def test_a_pattern_in_one_folder_is_refused(there, tmp_path):
  config = configure(there, tmp_path, masks=str(there / 'images'), pattern='{case}_{channel}')
  refuse(config, 'images: is named for images and masks, but by data.pattern')


def test_colours_without_classes_are_asked_for_too(there, tmp_path):
  refuse(configure(there, tmp_path, classes=()), r'data.colours is set; name .*class 1.*class 2')
  refuse(configure(there, tmp_path, classes=(), colours=()), 'the mask has colours .*#ff0000')


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'masks': ''}, "config.data.masks is ''; expected a folder, as data.images is"),
    ({'images': ''}, "config.data.images is ''; expected a folder, as data.masks is"),
    ({'raw_dir': '/scans'}, "config.data.raw_dir is '/scans'; expected '', or no data.images"),
    ({'name': 'promise12'}, "config.data.images is '.*'; expected '' for the data set 'promise12'"),
    ({'pattern': '{case}'}, "config.data.pattern is '{case}'; expected '', or a name as"),
    ({'pattern': '{case}{channel}'}, 'with a text between the two'),
    ({'colours': COLOURS[:2]}, r'config.data.colours is .*; expected \(\) or 3 colours'),
    ({'colours': ('black', 'red', 'blue')}, r'expected \(\), or different colours, as in'),
    ({'slice_axis': 'coronal'}, "slice_axis is 'coronal' .*expected 'axial' and 0, as pictures"),
    ({'context': 1}, "data.context 1; expected 'axial' and 0, as pictures"),
    ({'images': '/nowhere'}, 'nowhere: no volume or picture there .*--config.data.images'),
  ],
)
def test_settings_that_contradict_one_another_are_one_line(there, tmp_path, settings, message):
  refuse(configure(there, tmp_path, **settings), message)


def test_a_pattern_needs_a_folder_of_images(tmp_path):
  config = configs.default()
  config.data.pattern = '{case}_{channel}'
  with pytest.raises(
    InputError, match="config.data.pattern is .*; expected '' without data.images"
  ):
    configs.validate(config)


def test_grey_and_coloured_pictures_are_no_set(config, there):
  path = there / 'images' / '02_photo.png'
  write(path, np.asarray(Image.open(path).convert('L')))
  refuse(config, '02_photo.png: has 1 channels, but 00_photo.png has 3')


def test_a_mask_of_another_size_names_both(config, there):
  path = there / 'masks' / '02_drawn.png'
  write(path, np.asarray(Image.open(path))[:, 1:])
  with pytest.raises(InputError, match=r'02_drawn.png: has 36 x 39 pixels .*02_photo.png has 36 x'):
    folder.read_case(found(config)[2])


def test_volumes_have_no_masks_that_are_pictures_and_no_colours(there, tmp_path):
  raw = tmp_path / 'raw'
  phantom_folders.write_decathlon(raw, patients=2, seed=0)
  for path in sorted((raw / 'labelsTr').iterdir()):
    shutil.copy(there / 'masks' / '00_drawn.png', tmp_path / 'set' / f'{path.name[:8]}.png')
  (there / 'patients.csv').unlink()
  config = configure(there, tmp_path, images=str(raw / 'imagesTr'), masks=str(there))
  with pytest.raises(InputError, match='scan_000.png: is no volume as scan_000.nii.gz is'):
    folder.read_case(found(config)[0])
  config.data.masks = str(raw / 'labelsTr')
  refuse(config, 'scan_000.nii.gz: is a volume, .* data.colours is set')


# --- what is kept of it


def test_classes_are_read_anew_where_the_colours_mean_something_else(config):
  assert {*data_sets.find(config).classes_of_patients(config)} == {'p1', 'p2', 'p3'}
  scans = data_sets.find(config)
  before = scans.classes_of_patients(config)
  assert scans.digest  # else nothing is kept
  scans.contents.keep()
  config.data.update({'colours': (COLOURS[0], '#00ff00', '#ffff00'), 'classes': CLASSES})
  after = data_sets.find(config).classes_of_patients(config)
  assert before['p2'] == {1, 2} and after['p2'] == set()


def test_slices_of_other_folders_or_colours_are_others(config, tmp_path):
  data_sets.resolve(config, data_sets.find(config), ())
  settings = {'raw_files': 'x', **preprocessing.slice_settings(config.data)}
  data = config.data
  record = data_file.Record(
    *('', '', '', '', settings, data_file._choices(data)),
    images=data.images, masks=data.masks, context=data.context,
  )  # fmt: skip
  assert data_file.find_differences(config, record, tmp_path) == []
  for name, value in (('images', '/a'), ('masks', '/b'), ('pattern', '{case}_{channel}')):
    changed = config.copy_and_resolve_references()
    changed.data[name] = value
    (difference,) = data_file.find_differences(changed, record, tmp_path)
    assert difference.startswith(f'{name} ')
  changed = config.copy_and_resolve_references()
  changed.data.colours = (*COLOURS[:2], '#ffffff')
  assert data_file.find_differences(changed, record, tmp_path)[0].startswith('colours ')
  left = config.copy_and_resolve_references()
  left.data.context, left.data.unit = -1, 'auto'
  assert data_file.find_differences(left, record, tmp_path) == []
  data_file.fill_in(left, record, tmp_path)
  assert (left.data.context, left.data.unit) == (0, 'pixels')


def test_the_check_shows_who_was_paired_with_whom(config, tmp_path, capsys):
  config.data.workers = 1
  scans = data_sets.find(config)
  told = data_sets.resolve(config, scans, ())
  checks.check(config, scans, {}, tmp_path, told)
  lines = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert ['02_photo', '02_drawn.png', 'p2', '-', '36x40'] in [line[:5] for line in lines]
  page = (tmp_path / check_page.PAGE).read_text(encoding='utf-8')
  assert '<td>02_photo</td><td>02_drawn.png</td>' in page
  assert '<dd>by names, *_photo with *_drawn</dd>' in page


def test_pictures_have_the_orientation_that_slices_have(config):
  volume = folder.read_case(found(config)[0])
  turned = volumes.along(volume, 'axial')
  np.testing.assert_array_equal(turned.image, volume.image)
  assert volume.orientation == 'LPS'


def test_distances_of_pictures_are_in_pixels_whatever_is_asked_for(there, tmp_path):
  config = configure(there, tmp_path, unit='mm')
  with pytest.raises(InputError, match="unit is 'mm'; expected 'pixels'"):
    data_sets.resolve(config, data_sets.find(config), ())


# --- what shows nothing


def check(config, place):
  scans = data_sets.find(config)
  told = data_sets.resolve(config, scans, ())
  checks.check(config, scans, {}, place, told)


def test_a_reduction_that_leaves_nothing_is_refused(there, tmp_path):
  config = configure(there, tmp_path, reduction=1000.0, workers=1)
  with pytest.raises(InputError, match='left part keeps no pixel. Raise data.image_size'):
    check(config, tmp_path)


def test_a_picture_without_blue_is_trained_on_with_a_warning(there, tmp_path, capsys):
  paths = sorted((there / 'images').glob('*.png'))
  for path, weights in ((paths[1], (1, 1, 0)), (paths[2], (0, 0, 0))):
    write(path, np.asarray(Image.open(path)) * np.array(weights, np.uint8))
  config = configure(there, tmp_path, workers=1)
  check(config, tmp_path)
  text = ' '.join(capsys.readouterr().out.split())
  assert '01_photo: channel 3 is the same in every pixel, and shows nothing' in text
  assert '02_photo: it is the same in every pixel, and shows nothing' in text
  case = found(config)[1]
  image, _ = slices.to_slices(folder.read_case(case), preprocessing.image_settings(config.data))
  assert np.isfinite(image).all() and not image[..., 2].any() and image[..., 1].any()


def test_pictures_that_all_lack_blue_are_refused(there, tmp_path):
  for path in (there / 'images').glob('*.png'):
    write(path, np.asarray(Image.open(path)) * np.array((1, 1, 0), np.uint8))
  with pytest.raises(InputError, match='channel 3 is the same in every pixel of every picture'):
    check(configure(there, tmp_path, workers=1), tmp_path)
