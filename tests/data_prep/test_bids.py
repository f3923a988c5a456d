"""A folder in BIDS: paired, read as two folders are, or refused in one line."""

import json
import shutil
from typing import Any

import nibabel
import numpy as np
import pytest
from recorded import check, prepare_for

from data_prep import data_sets, folder, phantom_folders
from thrifty_jax import config as configs
from thrifty_jax.data import data_file
from thrifty_jax.data.prepared import open_slices
from thrifty_jax.errors import InputError

PATIENTS = 5  # and six scans
CLASSES = phantom_folders.CLASSES
CHANNELS = ('FLAIR', 'T1w')
SCANS = ['sub-01_ses-1', 'sub-01_ses-2', *(f'sub-0{number}_ses-1' for number in range(2, 6))]


@pytest.fixture(scope='module')
def flat(tmp_path_factory):
  """The same scans in a folder of images and one of masks."""
  there = tmp_path_factory.mktemp('flat') / 'raw'
  phantom_folders.write_nnunet(there, patients=PATIENTS, seed=0)
  return there


@pytest.fixture(scope='module')
def made(flat, tmp_path_factory):
  """A folder in BIDS of two channels, whose masks one dseg.tsv names; nobody may change it."""
  there = tmp_path_factory.mktemp('made') / 'bids'
  for number, scan in enumerate(SCANS):
    for channel, suffix in enumerate(CHANNELS):
      place(there, scan, suffix, flat / 'imagesTr' / f'scan_{number:03d}_{channel:04d}.nii.gz')
    place(
      there / 'derivatives' / 'manual',
      scan,
      'dseg',
      flat / 'labelsTr' / f'scan_{number:03d}.nii.gz',
    )
  (there / 'dataset_description.json').write_text(json.dumps({'Name': 'Made-up'}))
  write_table(there, dict(enumerate(CLASSES)))
  return there


def place(root, scan, suffix, file):
  """Puts a file of a scan into its folder; returns its path."""
  subject, session, *_ = scan.split('_')
  path = root / subject / session / 'anat' / f'{scan}_{suffix}.nii.gz'
  path.parent.mkdir(parents=True, exist_ok=True)
  return shutil.copy(file, path)


def write_table(root, names, name='dseg.tsv'):
  rows = [f'{index}\t{name}\tX' for index, name in names.items()]
  (root / 'derivatives' / 'manual' / name).write_text(
    '\n'.join(['index\tname\tabbreviation', *rows])
  )


@pytest.fixture
def there(made, tmp_path):
  return shutil.copytree(made, tmp_path / 'bids')


def configure(there, place, **settings):
  config = configs.default()
  config.data.name = 'folder'
  configs.leave_to_data(config)
  config.data.update({'raw_dir': str(there), 'data_dir': str(place / 'tfds'), **settings})
  return config


@pytest.fixture
def config(there, tmp_path):
  return configure(there, tmp_path)


def mask_of(there, scan):
  return next((there / 'derivatives' / 'manual').glob(f'sub-*/ses-*/anat/{scan}*_dseg.nii.gz'))


def change(path, function):
  """Writes a NIfTI file anew with other voxels."""
  image: Any = nibabel.load(path)
  voxels = function(np.asarray(image.dataobj))
  nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)


def refuse(config, message):
  with pytest.raises(InputError, match=message) as caught:
    configs.validate(config)
    scans = data_sets.find(config)
    data_sets.resolve(config, scans, ())
    for case in scans.cases:
      folder.read_case(case)
    raise InputError(scans.unpaired[0].text)
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 600


# --- reading


def test_prepared_slices_are_those_of_the_same_scans_in_two_folders(made, flat, tmp_path):
  read = []
  for there in (made, flat):
    config = configure(there, tmp_path / there.name)
    if there == flat:
      config.data.update({'raw_dir': '', 'images': str(flat / 'imagesTr'), 'classes': CLASSES})
      config.data.update({'masks': str(flat / 'labelsTr'), 'pattern': '{case}_{channel}'})
    data_sets.resolve(config, data_sets.find(config), ())
    prepare_for(config, tmp_path / there.name)
    prepared = open_slices(tmp_path / there.name, config)
    read.append(
      [(case, prepared.read(case), prepared.label_volume(case)) for case in prepared.cases]
    )
  assert [case.case for case, *_ in read[0]] == SCANS
  assert [case.patient for case, *_ in read[0]] == ['01', '01', '02', '03', '04', '05']
  for (_, slices, truth), (_, others, same) in zip(*read, strict=True):
    assert slices.keys() == others.keys() and truth.max() == 2
    np.testing.assert_array_equal(truth, same)
    for name, values in slices.items():
      np.testing.assert_array_equal(values, others[name])


def test_what_is_left_open_follows_from_the_folder(config):
  scans = data_sets.find(config)
  told = dict(data_sets.resolve(config, scans, ()))
  assert config.data.classes == CLASSES and config.data.modalities == 2
  assert told['folder'] == 'Made-up: 6 scans of 5 patients, each subject one'
  assert told['masks'] == 'manual/dseg' and told['channels'] == 'FLAIR, T1w'
  assert 'not used' not in told
  again = data_sets.find(config)  # with what was filled in
  assert again.cases == scans.cases and again.digest == scans.digest


def test_the_check_shows_who_was_paired_with_whom(there, config, tmp_path, capsys):
  mask_of(there, SCANS[2]).unlink()
  data_sets.resolve(config, data_sets.find(config), ())
  with pytest.raises(InputError, match=f'{SCANS[2]}_FLAIR.nii.gz: its mask is missing.*exclude'):
    check(config, tmp_path / 'run')
  text = capsys.readouterr().out
  assert f'{SCANS[0]}_dseg.nii.gz' in text and '1 error, ' in text
  config.data.exclude = (SCANS[2],)
  assert not data_sets.find(config).unpaired


@pytest.mark.parametrize('renumbered', [(0, 41, 1002), (0, 1002, 41)])
def test_the_numbers_of_a_table_become_classes(there, config, renumbered):
  expected = [folder.read_case(case).truth for case in data_sets.find(config).cases]
  for scan in SCANS:
    change(mask_of(there, scan), lambda label: np.array(renumbered, np.int16)[label])
  write_table(there, dict(zip(renumbered, CLASSES, strict=True)) | {7: 'in no mask'})
  config.data.classes = CLASSES
  scans = data_sets.find(config)
  assert scans.cases[0].values == renumbered
  for case, truth in zip(scans.cases, expected, strict=True):
    np.testing.assert_array_equal(folder.read_case(case).truth, truth)
    assert folder.read_classes(case) == [1, 2]
  write_table(there, dict(zip(renumbered, (CLASSES[0], *CLASSES[:0:-1]), strict=True)))
  swapped = data_sets.find(config)
  assert swapped.digest != scans.digest  # the same files mean something else
  assert swapped.classes_of_patients(config) == scans.classes_of_patients(config)


@pytest.fixture
def labelled(there):
  """The folder with a mask for each class in place of one for all."""
  for scan in SCANS:
    path = mask_of(there, scan)
    for number, label in ((2, 'left'), (1, 'right')):
      own = place(there / 'derivatives' / 'manual', f'{scan}_label-{label}', 'mask', path)
      change(own, lambda voxels, number=number: (voxels == number).astype(np.uint8))
    path.unlink()
  return there


def test_masks_of_one_class_each_become_one(labelled, made, config, tmp_path):
  cases, before = (
    data_sets.find(settings).cases for settings in (config, configure(made, tmp_path))
  )
  for case, other in zip(cases, before, strict=True):
    truth = folder.read_case(other).truth
    np.testing.assert_array_equal(folder.read_case(case).truth, np.array([0, 2, 1])[truth])
  data_sets.resolve(config, data_sets.find(config), ())
  assert config.data.classes == ('background', 'left', 'right')
  config.data.classes = ('left', 'right')
  refuse(config, "label-left, right, but data.classes begins with 'left', where the background")
  config.data.classes = ('nothing', 'right')
  (first, *_) = data_sets.find(config).cases
  assert folder.read_classes(first) == [1] and len(first.label) == 1
  path = first.label[0]
  change(path, lambda voxels: voxels * 3)
  refuse(config, 'label-right_mask.nii.gz: holds 3; expected 0, 1, the numbers of the classes')
  change(path, lambda voxels: np.ones_like(voxels))
  config.data.classes = ()
  refuse(config, 'of its voxels are in another mask of the scan too')
  path.unlink()
  assert (
    'the mask label-right of sub-01_ses-1 is missing' in data_sets.find(config).unpaired[0].text
  )


def test_runs_are_scans_and_the_mask_names_its_image(there, config):
  for suffix in CHANNELS:
    for number in (1, 2):
      source = there / 'sub-02' / 'ses-1' / 'anat' / f'{SCANS[2]}_{suffix}.nii.gz'
      name = f'_acq-{suffix.lower()}_run-{number}' if suffix == 'T1w' else ''
      if name:
        place(there, f'{SCANS[2]}{name}', suffix, source)
    if suffix == 'T1w':
      source.unlink()
  mask = mask_of(there, SCANS[2])
  refuse_text = data_sets.find(config).unpaired[0].text
  assert 'may be the mask of 2 images' in refuse_text
  mask.rename(mask.with_name(f'{SCANS[2]}_run-2_dseg.nii.gz'))
  scans = data_sets.find(config)
  (case,) = [one for one in scans.cases if one.patient == '02']
  assert case.case == f'{SCANS[2]}_run-2'
  assert [path.name for path in case.image] == [
    f'{SCANS[2]}_FLAIR.nii.gz', f'{SCANS[2]}_acq-t1w_run-2_T1w.nii.gz'
  ]  # fmt: skip
  assert [one.case for one in scans.unpaired] == [f'{SCANS[2]}_acq-t1w_run-1']


@pytest.mark.parametrize('number', [1, 2])
def test_a_mask_of_a_run_is_not_that_of_an_image_without_runs(there, config, number):
  mask = mask_of(there, SCANS[2])
  mask.rename(mask.with_name(f'{SCANS[2]}_run-{number}_dseg.nii.gz'))
  (alone, *_) = data_sets.find(config).unpaired
  assert f'its image {SCANS[2]}_run-{number}_FLAIR is missing' in alone.text


def test_a_changed_choice_of_masks_or_channels_is_seen_after_preparing(made, tmp_path):
  config = configure(made, tmp_path, classes=CLASSES)
  asked = config.copy_and_resolve_references()
  data_sets.resolve(config, data_sets.find(config), ())
  prepare_for(config, tmp_path)
  record = data_file.require(tmp_path)
  assert not data_file.find_differences(asked, record, tmp_path)
  asked.data.suffixes = ('T1w',)
  assert data_file.find_differences(asked, record, tmp_path) == ["suffixes () -> ('T1w',)"]


# --- what is refused


def copy_masks(there, name):
  """Masks of another kind beside the others."""
  pipeline, _, kind = name.rpartition('/')
  for scan in SCANS:
    own, _, suffix = f'{scan}_{kind}'.rpartition('_')
    place(there / 'derivatives' / pipeline, own, suffix, mask_of(there, scan))


@pytest.mark.parametrize('kind', ['manual/desc-expert_dseg', 'auto/dseg'])
def test_masks_of_several_kinds_are_chosen_by_name(there, config, kind):
  copy_masks(there, kind)
  copy_masks(there, 'manual/space-MNI_desc-expert_dseg')  # where no image is
  table = there / 'derivatives' / kind.split('/')[0] / 'dseg.tsv'
  if not table.exists():
    shutil.copy(there / 'derivatives' / 'manual' / 'dseg.tsv', table)
  refuse(config, f'masks of several kinds, .*{kind}.* choose one by --config.data.derivative="')
  config.data.derivative = kind
  assert {str(case.label[0]).rsplit('ses-1_')[-1] for case in data_sets.find(config).cases[2:]} == {
    f'{kind.split("/")[1]}.nii.gz'
  }
  config.data.derivative = 'manual/space-MNI_desc-expert_dseg'
  refuse(config, 'is a mask in the space MNI, but images of sub-')
  config.data.derivative = 'someone'
  refuse(config, 'has no masks someone, as data.derivative says; expected one of ')


def remove(pattern):
  def apply(there):
    for path in [*there.glob(pattern)]:
      shutil.rmtree(path) if path.is_dir() else path.unlink()

  return apply


def rename_masks(name):
  def apply(there):
    for scan in SCANS:
      path = mask_of(there, scan)
      path.rename(path.with_name(f'{scan}_{name}.nii.gz'))

  return apply


def shift_channel(there):
  path = next(there.glob('sub-03/ses-1/anat/*_T1w.nii.gz'))
  change(path, lambda voxels: voxels[:-1])


def shift_mask(there):
  change(mask_of(there, SCANS[0]), lambda voxels: voxels[:, :-1])


def move_mask(there):
  path = mask_of(there, SCANS[1])
  path.rename(path.with_name(path.name.replace('sub-01', 'sub-02')))


def break_links(pattern):
  def apply(there):
    for path in [*there.glob(pattern)]:
      path.unlink()
      path.symlink_to('../../.git/annex/objects/nothing')

  return apply


def forget_directions(there):
  """Leaves a channel no word of where its axes point, and mirrors the other."""
  for suffix, mirrored in (('FLAIR', True), ('T1w', False)):
    path = next(there.glob(f'{SCANS[0][:6]}/*/anat/{SCANS[0]}_{suffix}.nii.gz'))
    voxels = np.zeros((4, 5, 6), np.int16)
    affine = np.diag((1.0, 1, 1, 1))
    affine[:3, 3] = -1.5, -2, -2.5
    nibabel.save(nibabel.Nifti1Image(voxels, affine if mirrored else None), path)


def test_a_channel_that_may_be_a_mirror_image_is_one_scan_of_the_check(there, config, tmp_path):
  forget_directions(there)
  data_sets.resolve(config, data_sets.find(config), ())
  message = f'^1 error in 6 scans: .*{SCANS[0]}_T1w.nii.gz: its header .*exclude="..{SCANS[0]}'
  with pytest.raises(InputError, match=message):
    check(config, tmp_path / 'run')
  config.data.exclude = (SCANS[0],)
  check(config, tmp_path / 'run')


@pytest.mark.parametrize(
  ('spoil', 'message'),
  [
    (forget_directions, 'T1w.nii.gz: its header does not say .* that of .*FLAIR.nii.gz is clear'),
    (remove('derivatives'), r'derivatives: has no mask; expected PIPELINE/sub-\*'),
    (remove('sub-*'), 'is in BIDS, but has no image in'),
    (remove('sub-05'), f'{SCANS[5]}_dseg.nii.gz: its image {SCANS[5]}_FLAIR is missing; add it'),
    (remove('sub-02/ses-1/anat/*FLAIR*'), 'FLAIR, T1w, but sub-02_ses-1 has T1w; .*suffixes='),
    (rename_masks('probseg'), 'holds probabilities, not classes'),
    (rename_masks('space-MNI152_dseg'), 'is a mask in the space MNI152, but'),
    (move_mask, 'lies in sub-01, but its name says sub-02'),
    (break_links('sub-04/ses-1/anat/*_T1w*'), 'is a link to a file that is not there; .*datalad'),
    (break_links('sub-*/*/*/*'), 'no scan is complete. The first problem: .*T1w|FLAIR.* is a link'),
    (shift_channel, 'T1w.nii.gz: is on another grid than .*FLAIR.nii.gz; .*data.suffixes'),
    (shift_mask, 'dseg.nii.gz: has .* voxels .* but .*FLAIR.nii.gz has'),
    (remove('derivatives/manual/dseg.tsv'), 'data.classes is not set, and the first masks hold 0'),
    (lambda there: write_table(there, {1: 'a'}), 'dseg.nii.gz: holds 2; expected 0, 1, the num'),
    (lambda there: write_table(there, {1: 'a', 2: 'a'}), 'dseg.tsv has a name twice'),
    (lambda there: write_table(there, {n: f'a{n}' for n in range(256)}), '255 classes; .* to 254'),
    (lambda there: write_table(there, {'one': 'a'}), "has a row with the index 'one'"),
    (lambda there: write_table(there, {}), 'dseg.tsv: has no row'),
    (lambda there: write_table(there, {1: 'b', 2: 'c'}, 'sub-01_dseg.tsv'), 'dseg.tsv: names 1'),
    (lambda there: (there / 'derivatives/manual/dseg.tsv').write_bytes(b'\xff'), 'cannot be read'),
  ],
)  # fmt: skip
def test_what_cannot_be_read_rightly_is_refused_in_one_line(there, config, spoil, message):
  spoil(there)
  refuse(config, message)


def test_the_nearest_table_names_the_classes(there, config):
  for session in (1, 2):
    write_table(there, {1: 'b', 2: 'c'}, f'ses-{session}_dseg.tsv')
  data_sets.resolve(config, data_sets.find(config), ())
  assert config.data.classes == ('background', 'b', 'c')


def test_settings_of_bids_are_for_nothing_else(tmp_path):
  config = configure(tmp_path, tmp_path, images='a', masks='b', raw_dir='', derivative='manual')
  refuse(config, "data.derivative is 'manual'; expected '' but for a folder in BIDS")
