"""Which files of a folder are scans: lists of nnU-Net, names in any case, exclusions."""

import json
import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from recorded import OPEN

from data_prep import data_sets, folder, phantom_folders
from thrifty_jax import config as configs
from thrifty_jax.errors import InputError

NAMES = [f'scan_{number:03d}' for number in range(4)]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  there = tmp_path_factory.mktemp('made') / 'raw'
  phantom_folders.write_nnunet(there, patients=3, seed=0, channels=('T1',))
  (there / 'patients.csv').unlink()
  return there


@pytest.fixture
def raw(made, tmp_path):
  return shutil.copytree(made, tmp_path / 'raw')


@pytest.fixture
def config(raw, tmp_path):
  config = configs.default()
  config.data.update({'name': 'folder', 'raw_dir': str(raw), 'data_dir': str(tmp_path / 'tfds')})
  return config


def describe(raw, **changes):
  path = raw / 'dataset.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def entry(name, **changes):
  found = {'images': [f'imagesTr/{name}_0000.nii.gz'], 'label': f'labelsTr/{name}.nii.gz'}
  return found | changes


def test_only_what_the_dataset_lists_is_a_scan(raw):
  describe(raw, dataset={name: entry(name) for name in NAMES[:2]}, numTraining=2)
  cases = folder.find_cases(raw, OPEN)
  assert [case.case for case in cases] == NAMES[:2]
  assert cases[0].image == (raw / 'imagesTr' / 'scan_000_0000.nii.gz',)
  assert folder.find_unused(raw, cases, OPEN) == [
    'imagesTr/scan_002_0000.nii.gz', 'imagesTr/scan_003_0000.nii.gz',
    'labelsTr/scan_002.nii.gz', 'labelsTr/scan_003.nii.gz',
  ]  # fmt: skip


def test_listed_files_may_lie_anywhere_under_any_name(raw, tmp_path, monkeypatch):
  monkeypatch.setenv('nnUNet_raw', str(tmp_path))
  elsewhere = tmp_path / 'archive'
  elsewhere.mkdir()
  image = shutil.move(raw / 'imagesTr' / 'scan_000_0000.nii.gz', elsewhere / 'a.nii.gz')
  label = shutil.move(raw / 'labelsTr' / 'scan_000.nii.gz', raw / 'b.nii.gz')
  describe(
    raw, dataset={'first': entry('', images=['$nnUNet_raw/archive/a.nii.gz'], label='./b.nii.gz')}
  )
  (case,) = folder.find_cases(raw, OPEN)
  assert (case.case, case.image, case.label[0].resolve()) == (
    'first',
    (image,),
    Path(label).resolve(),
  )
  assert folder.read_case(case).truth.any()


@pytest.mark.parametrize(
  ('dataset', 'message'),
  [
    ([], r'dataset is \[\]; expected cases'),
    ({}, 'expected cases, as in'),
    ({'a': 'imagesTr/a.nii.gz'}, "dataset has 'a'"),
    ({'a': entry('a', images='imagesTr/a.nii.gz')}, "dataset has 'a'"),
    ({'a': entry('a', images=[])}, "dataset has 'a'"),
    ({'a': entry('a', label=None)}, "dataset has 'a'"),
    ({'../a': entry('scan_000')}, "dataset has '../a'"),
    ({'a': entry('a')}, 'scan.*a_0000.nii.gz: is missing, but dataset.json lists it'),
    ({'a': entry('scan_000', label='dataset.json')}, 'is no volume'),
    ({'a': entry('scan_000', images=['/etc/passwd'])}, '/etc/passwd: is no volume'),
    ({'a': entry('scan_000', images=['/dev/zero'])}, '/dev/zero: is missing'),
    ({'a': entry('scan_000', label='../x.nii.gz\0')}, 'is missing, but dataset.json lists it'),
    ({'a': entry('scan_000', images=['imagesTr/scan_000_0000.nii.gz'] * 3)}, 'lists 3 images of a'),
  ],
)
def test_a_list_that_cannot_be_followed_is_refused_in_one_line(raw, dataset, message):
  describe(raw, dataset=dataset)
  with pytest.raises(InputError, match=message.replace('scan.*', '')) as caught:
    folder.find_cases(raw, OPEN)
  assert '\n' not in str(caught.value)


def pair(name, **changes):
  """A case in the list of the Decathlon, or of nnU-Net v1 if the files have numbered channels."""
  return {'image': f'./imagesTr/{name}.nii.gz', 'label': f'./labelsTr/{name}.nii.gz'} | changes


def test_only_what_the_decathlon_lists_is_a_scan(tmp_path):
  raw = tmp_path / 'raw'
  phantom_folders.write_decathlon(raw, patients=3, seed=0)
  every = folder.find_cases(raw, OPEN)
  describe(raw, training=[pair(name) for name in NAMES])
  assert folder.find_cases(raw, OPEN) == every
  (raw / 'labelsTr' / 'scan_003.nii.gz').unlink()  # neither is listed now
  describe(raw, training=[pair(name) for name in NAMES[2:0:-1]])
  cases = folder.find_cases(raw, OPEN)
  assert cases == every[1:3]
  assert folder.find_unused(raw, cases, OPEN) == [
    *(f'imagesTr/scan_{number}.nii.gz' for number in ('000', '003')),
    'labelsTr/scan_000.nii.gz',
  ]


@pytest.mark.parametrize('channels', [('T1',), ('T1', 'T2')])
def test_cases_that_nnunet_1_lists_are_files_for_each_channel(tmp_path, channels):
  raw = tmp_path / 'raw'
  phantom_folders.write_nnunet(raw, patients=3, seed=0, channels=channels)
  every = folder.find_cases(raw, OPEN)
  describe(raw, training=[pair(name) for name in NAMES[:3]], numTraining=3)
  assert folder.find_cases(raw, OPEN) == every[:3]
  for path in (raw / 'imagesTr').glob(f'scan_001_{len(channels) - 1:04d}*'):
    path.unlink()
  missing = 'scan_001.nii.gz' if len(channels) == 1 else 'scan_001_0001.nii.gz'
  with pytest.raises(data_sets.Unpaired, match=f'{missing}: is missing, but dataset.json') as error:
    folder.find_cases(raw, OPEN)
  assert [case.case for case in error.value.cases] == ['scan_000', 'scan_002']


@pytest.mark.parametrize(
  ('training', 'message'),
  [
    ([], r'training is \[\]; expected cases, as in'),
    ({}, r'training is {}; expected cases'),
    (4, 'training is 4; expected cases'),
    (['imagesTr/a.nii.gz'], "training has 'imagesTr/a.nii.gz'; expected a case as in"),
    ([{'image': 'imagesTr/a.nii.gz'}], "training has {'image': 'imagesTr/a.nii.gz'}"),
    ([pair('a', image=3)], "training has {'image': 3"),
    ([pair('a', image=[])], r"training has {'image': \[\]"),
    ([pair('scan_000', label='dataset.json', image='dataset.json')], 'dataset.json: is no volume'),
    ([pair('scan_000'), pair('scan_000')], "training has 'scan_000' twice"),
    ([pair('a')], 'a.nii.gz: is missing, but dataset.json lists it as of a; add it'),
    ([pair('scan_000', label='./labelsTr/b.nii.gz')], 'b.nii.gz: is missing, but dataset.json'),
  ],
)
def test_a_list_of_the_decathlon_that_cannot_be_followed_is_refused(raw, training, message):
  describe(raw, training=training)
  with pytest.raises(InputError, match=message) as caught:
    folder.find_cases(raw, OPEN)
  assert '\n' not in str(caught.value)


def unfetch(*paths):
  """Makes files what git-annex leaves of those that it did not fetch."""
  for path in paths:
    path.unlink()
    path.symlink_to('../.git/annex/objects/nothing')


UNFETCHED = {  # files, and which of them is named
  'an image': (['imagesTr/scan_001_0000'], 'imagesTr/scan_001_0000'),
  'a mask': (['labelsTr/scan_001'], 'labelsTr/scan_001'),
  'both': (['imagesTr/scan_001_0000', 'labelsTr/scan_001'], 'imagesTr/scan_001_0000'),
  'a mask of the external set': (['labelsTs/scan_004'], 'labelsTs/scan_004'),
  'all of the external set': (['imagesTs/scan_004_0000', 'labelsTs/scan_004'], 'imagesTs/scan_004'),
}


@pytest.mark.parametrize('name', UNFETCHED)
@pytest.mark.parametrize('layout', ['found', 'listed', 'listed as of nnU-Net v1', 'two folders'])
def test_scans_that_were_not_fetched_do_not_vanish(raw, config, name, layout):
  files, named = UNFETCHED[name]
  part = files[-1].split('/')[0][-2:]
  (raw / 'labelsTs').mkdir()
  shutil.copy(raw / 'labelsTr' / 'scan_000.nii.gz', raw / 'labelsTs' / 'scan_004.nii.gz')
  unfetch(*(raw / f'{file}.nii.gz' for file in files))
  if layout == 'listed':
    describe(raw, dataset={name: entry(name) for name in NAMES})
  if layout == 'listed as of nnU-Net v1':
    describe(raw, training=[pair(name) for name in NAMES])
  by_folders = layout == 'two folders'
  if by_folders:
    for path in sorted((raw / f'images{part}').glob('[!.]*')):
      path.rename(path.with_name(path.name.replace('_0000', '')))
    named = named.replace('_0000', '')
    config.data.update({'images': str(raw / f'images{part}'), 'masks': str(raw / f'labels{part}')})
    config.data.classes = ('background', 'left part', 'right part')
  if by_folders and part == 'Ts':  # of which it is the only scan
    with pytest.raises(InputError, match='is complete. The first problem: .* is a link to a file'):
      data_sets.find(config)
    return
  (problem,) = data_sets.find(config).unpaired
  assert problem.text.startswith(f'{raw / named}')
  assert '.nii.gz: is a link to a file that is not there; expected' in problem.text
  config.data.exclude = (problem.case,)
  assert not data_sets.find(config).unpaired


@pytest.mark.parametrize('ending', ['.NII.GZ', '.nii.GZ', '.NII.gz', '.nii.gz'])
def test_endings_may_be_in_upper_case(raw, ending):
  for path in [*raw.glob('*Tr/scan_001*')]:
    path.rename(path.with_name(path.name.replace('.nii.gz', ending)))
  cases = folder.find_cases(raw, OPEN)
  assert [case.case for case in cases] == NAMES
  assert folder.read_case(cases[1]).truth.any()
  assert folder.find_unused(raw, cases, OPEN) == []


@pytest.mark.parametrize(
  'stray', ['imagesTr/IM0001', 'imagesTr/a.dcm', 'labelsTr/notes.txt', 'labelsTr/deep/x.nii.gz',
            'imagesTr/loose.raw', 'imagesTr/a.nii.gz.part', 'deeper/x.nii.gz', 'x.nii.gz'],
)  # fmt: skip
def test_what_is_not_used_is_counted_and_named(raw, config, stray):
  (raw / stray).parent.mkdir(exist_ok=True)
  (raw / stray).write_bytes(b'x')
  (raw / 'imagesTr' / '.DS_Store').write_bytes(b'x')
  scans = data_sets.find(config)
  expected = stray.removesuffix('/x.nii.gz')
  assert scans.unused == (expected,)
  described = dict(data_sets.resolve(config, scans, ()))
  assert described['not used'] == f'1 files or folders: {expected}'


def test_folders_of_the_layout_and_of_listed_scans_are_used(raw):
  for name in ('imagesTs', 'labelsTs'):
    (raw / name).mkdir(exist_ok=True)
  for name in ('README.md', 'LICENSE', 'dataset.json.bak'):
    (raw / name).write_text('x')
  shutil.copytree(raw / 'imagesTr', raw / 'scans' / 'deep')
  listed = {name: {'images': [f'scans/deep/{name}_0000.nii.gz'],
                   'label': f'labelsTr/{name}.nii.gz'} for name in NAMES}  # fmt: skip
  shutil.rmtree(raw / 'imagesTr')
  describe(raw, dataset=listed)
  assert folder.find_unused(raw, folder.find_cases(raw, OPEN), OPEN) == []


def test_voxels_beside_a_header_are_used(tmp_path):
  phantom_folders.write_nnunet(tmp_path, patients=3, seed=0, ending='.mhd')
  assert folder.find_unused(tmp_path, folder.find_cases(tmp_path, OPEN), OPEN) == []


@pytest.mark.parametrize('exclude', [NAMES[:1], NAMES[1:3], NAMES[3:]])
def test_a_scan_can_be_left_out(raw, config, exclude):
  config.data.exclude = tuple(exclude)
  scans = data_sets.find(config)
  assert [case.case for case in scans.cases] == [name for name in NAMES if name not in exclude]
  told = dict(data_sets.resolve(config, scans, ()))
  assert all(name in told['left out'] for name in exclude)


@pytest.mark.parametrize('lost', ['imagesTr/scan_001_0000.nii.gz', 'labelsTr/scan_001.nii.gz'])
@pytest.mark.parametrize('listed', [False, True])
def test_a_scan_whose_mask_or_image_is_missing_can_be_left_out(raw, config, lost, listed):
  if listed:
    describe(raw, dataset={name: entry(name) for name in NAMES})
  (raw / lost).unlink()
  assert [one.case for one in data_sets.find(config).unpaired] == ['scan_001']
  config.data.exclude = ('scan_001',)
  scans = data_sets.find(config)
  assert not scans.unpaired
  assert [case.case for case in scans.cases] == ['scan_000', 'scan_002', 'scan_003']


def test_a_scan_that_is_not_there_cannot_be_left_out(config):
  config.data.exclude = ('scan_000', 'scan_999')
  with pytest.raises(
    InputError, match='data.exclude names scan_999; expected names among scan_000'
  ):
    data_sets.find(config)


@pytest.mark.parametrize(
  ('lists', 'refused'),
  [
    ({}, True),
    ({'validation_patients': ('scan_000',)}, True),
    ({'test_patients': ('scan_000',)}, True),
    ({'validation_patients': ('scan_000',), 'test_patients': ('scan_001',)}, False),
    ({'validation_patients': ('scan_000',), 'hold_out_test': False}, False),
  ],
)
@pytest.mark.parametrize('name', ['splits_final.json', 'splits_final.pkl'])
def test_splits_of_nnunet_are_not_passed_over(raw, config, name, lists, refused):
  config.data.update(lists)
  scans = data_sets.find(config)
  data_sets.resolve(config, scans, ())
  (raw / name).write_text(json.dumps([{'train': NAMES[:3], 'val': NAMES[3:]}]))
  if not refused:
    data_sets.resolve(config, scans, ())
    return
  with pytest.raises(InputError, match=f'{name}: .*data.validation_patients'):
    data_sets.resolve(config, scans, ())


@pytest.mark.parametrize('name', ['Müller', 'Ångström', 'é', 'ñandú', 'Jörg 2'])
@pytest.mark.parametrize('decomposed', ['image', 'label', 'patients.csv'])
def test_a_composed_and_a_decomposed_spelling_are_one_name(raw, name, decomposed):
  spelled = {
    kind: unicodedata.normalize('NFC', name) for kind in ('image', 'label', 'patients.csv')
  }
  spelled[decomposed] = unicodedata.normalize('NFD', name)
  (raw / 'imagesTr' / 'scan_000_0000.nii.gz').rename(
    raw / 'imagesTr' / f'{spelled["image"]}_0000.nii.gz'
  )
  (raw / 'labelsTr' / 'scan_000.nii.gz').rename(raw / 'labelsTr' / f'{spelled["label"]}.nii.gz')
  lines = [f'{case},p' for case in (spelled['patients.csv'], *NAMES[1:])]
  (raw / 'patients.csv').write_text('\n'.join(['case,patient', *lines]), encoding='utf-8')
  assert unicodedata.normalize('NFC', name) in [case.case for case in folder.find_cases(raw, OPEN)]


@pytest.mark.parametrize(
  'name',
  [
    b'M\xfcller',
    b'\xff',
    b'a\xc3',
    b'caf\xe9',
    b'\xe9\xe9',
    b'a\nb',
    b'a\x1b[31m',
    b'a\xe2\x80\x8b',
  ],
  ids=str,
)
def test_a_name_that_no_page_can_hold_is_refused_in_one_line(raw, config, name):
  for folder_, end in (('imagesTr', b'_0000.nii.gz'), ('labelsTr', b'.nii.gz')):
    path = next((raw / folder_).glob('scan_000*'))
    path.rename(os.fsdecode(os.fsencode(path.parent) + b'/' + name + end))
  with pytest.raises(
    InputError, match='whose name is no text in UTF-8, or cannot be shown; rename its files'
  ) as refused:
    data_sets.find(config)
  str(refused.value).encode()


def test_a_scan_that_is_incomplete_is_named_where_all_others_are_left_out(raw, config):
  configs.leave_to_data(config)
  (raw / 'labelsTr' / 'scan_001.nii.gz').unlink()
  config.data.exclude = (NAMES[0], *NAMES[2:])
  scans = data_sets.find(config)
  assert not scans.cases
  with pytest.raises(InputError, match='scan_001_0000.nii.gz: its mask scan_001 is missing'):
    data_sets.resolve(config, scans, ())


def test_the_classes_of_dataset_json_in_another_order_are_refused(raw):
  described = json.loads((raw / 'dataset.json').read_text())
  names = tuple(sorted(described['labels'], key=lambda name: int(described['labels'][name])))
  data = configs.default().data
  data.classes = (names[0], *names[:0:-1])
  with pytest.raises(InputError, match='dataset.json has the same names in the order .*; expected'):
    folder.find_cases(raw, data)
  data.classes = names
  assert folder.find_cases(raw, data)
