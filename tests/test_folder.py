"""Folders in the Decathlon's and nnU-Net's layout: read as written, filled in, refused."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from recorded import OPEN, prepare_for

from data_prep import data_sets, fingerprint, folder, phantom_folders
from thrifty_jax import config as configs
from thrifty_jax import main, stages
from thrifty_jax.data import split_file, splits
from thrifty_jax.data.prepared import open_slices
from thrifty_jax.errors import InputError
from thrifty_jax.running import command_line, run_data
from thrifty_jax.scans import volumes

PROJECT = Path(__file__).resolve().parents[1]
REAL = PROJECT.parent / 'shared' / 'data'
GENOTYPE = PROJECT / 'thrifty_jax' / 'genotypes' / 'thrifty_0.61m.json'
AXES = tuple(volumes.SLICE_AXES)
PATIENTS = 6  # and seven scans
WRITERS = {'decathlon': phantom_folders.write_decathlon, 'nnunet': phantom_folders.write_nnunet}


def filled_in(arguments, workdir='unused'):
  """The command with what the data fills in."""
  return run_data.fill_in([command_line.parse([*arguments, f'--workdir={workdir}'])])[0]


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
  monkeypatch.chdir(PROJECT)


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  """The function from a layout and an axis to a raw folder, which nobody may change."""
  place, made = tmp_path_factory.mktemp('raw'), {}

  def folder_of(layout, axis='axial', **more):
    key = '_'.join([layout, axis, *map(str, more.values())])
    if key not in made:
      made[key] = place / key
      WRITERS[layout](made[key], patients=PATIENTS, seed=0, slice_axis=axis, **more)
    return made[key]

  return folder_of


def load(path) -> Any:
  return nibabel.load(path)


def parse(raw_dir, *arguments, variants='', data_dir='unused'):
  given = (f'--config.data.raw_dir={raw_dir}', f'--config.data.data_dir={data_dir}', *arguments)
  command = filled_in([f'--config=configs/folder.py{variants}', *given])
  return command.config.data, dict(command.found)


# --- reading


@pytest.mark.parametrize('axis', AXES)
@pytest.mark.parametrize('layout', WRITERS)
def test_scans_and_masks_read_back_as_they_were_made(raw, layout, axis):
  cases = folder.find_cases(raw(layout, axis), OPEN)
  assert [case.case for case in cases] == [f'scan_{number:03d}' for number in range(PATIENTS + 1)]
  stored = set()
  for number, case in enumerate(cases):
    made = phantom_folders.make_scan(number=number, seed=0, slice_axis=axis)
    volume = volumes.along(folder.read_case(case), axis)
    np.testing.assert_array_equal(volume.label, made.label)
    bright = (np.clip(made.image, 0, None) * 1000).astype(np.int16)
    np.testing.assert_array_equal(volume.image, np.stack([bright, 1500 - bright], axis=-1))
    np.testing.assert_allclose(volume.affine, made.affine, atol=1e-4)
    stored.add(nibabel.aff2axcodes(volumes.read_header(case.image[0])[1]))
  assert len(stored) >= 6


@pytest.mark.parametrize('axis', AXES)
@pytest.mark.parametrize('layout', WRITERS)
def test_a_mask_written_back_from_its_slices_lies_voxel_for_voxel_on_the_file(raw, layout, axis):
  """Whatever the file's orientation and the slices' axis are, the affine leads back."""
  for case in folder.find_cases(raw(layout, axis), OPEN):
    file = load(case.label[0])
    for slice_axis in AXES:
      volume = volumes.along(folder.read_case(case), slice_axis)
      affine = volume.affine[:, [2, 1, 0, 3]]  # slices [D, H, W] as NIfTI has them, [W, H, D]
      turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.io_orientation(file.affine)
      )
      written = nibabel.apply_orientation(np.moveaxis(volume.truth, (0, 1, 2), (2, 1, 0)), turn)
      np.testing.assert_array_equal(written, np.asarray(file.dataobj))
      back = affine @ nibabel.orientations.inv_ornt_aff(turn, volume.truth.shape[::-1])
      np.testing.assert_allclose(back, file.affine, atol=1e-4)


@pytest.mark.parametrize('ending', ['.nrrd', '.mha', '.mhd', '.nii'])
def test_other_formats_hold_the_same_scans(raw, ending):
  expected = [folder.read_case(case) for case in folder.find_cases(raw('nnunet'), OPEN)]
  cases = folder.find_cases(raw('nnunet', ending=ending), OPEN)
  for case, volume in zip(cases, expected, strict=True):
    read = folder.read_case(case)
    np.testing.assert_array_equal(read.image, volume.image)
    np.testing.assert_array_equal(read.label, volume.label)
    np.testing.assert_allclose(read.affine, volume.affine, atol=1e-4)


def name_segments(path, *names):
  """Writes the names of the numbers 1, 2, ... into an NRRD file as 3D Slicer does."""
  header, blank, voxels = path.read_bytes().partition(b'\n\n')
  for segment, name in enumerate(names):
    header += f'\nSegment{segment}_LabelValue:={segment + 1}'.encode()
    header += f'\nSegment{segment}_Name:={name}'.encode()
  path.write_bytes(header + blank + voxels)


def test_segments_of_3d_slicer_mean_one_thing_in_all_masks(raw, tmp_path):
  there = copy(raw('nnunet', ending='.nrrd'), tmp_path)
  first, second, *_, last = sorted((there / 'labelsTr').glob('[!.]*'))
  name_segments(first, 'tumour', 'oedema')
  name_segments(last, 'Tumour ', 'Segment_2')
  assert len(folder.find_cases(there, OPEN)) == PATIENTS + 1
  name_segments(second, 'oedema', 'tumour')
  with pytest.raises(data_sets.Unpaired) as caught:
    folder.find_cases(there, OPEN)
  assert {one.case for one in caught.value.problems} == {'scan_001'}
  assert str(caught.value).startswith(f"{second}: names 1 'oedema', but {first.name} 'tumour'; exp")
  data = configs.default().data
  data.update({'classes': phantom_folders.CLASSES, 'exclude': ('scan_001',)})
  assert len(folder.find_cases(there, data)) == PATIENTS + 1


def test_segments_of_3d_slicer_have_the_order_of_the_classes(raw, tmp_path):
  there = copy(raw('nnunet', ending='.nrrd'), tmp_path)
  path = there / 'labelsTr' / 'scan_002.nrrd'
  name_segments(path, 'Left  Part')  # capital letters and blanks do not count
  assert len(folder.find_cases(there, OPEN)) == PATIENTS + 1
  name_segments(there / 'labelsTr' / 'scan_004.nrrd', 'Left  Part', 'background')
  with pytest.raises(data_sets.Unpaired, match="names 2 'background', but that is 0 of data.class"):
    folder.find_cases(there, OPEN)


def test_nnunet_s_first_layout_is_read_too(raw, tmp_path):
  there = copy(raw('nnunet'), tmp_path)
  described = json.loads((there / 'dataset.json').read_text())
  labels = {str(number): name for name, number in described['labels'].items()}
  old = {'modality': described['channel_names'], 'labels': labels}
  (there / 'dataset.json').write_text(json.dumps(old))
  assert folder.find_cases(there, OPEN)[0].image == tuple(
    there / 'imagesTr' / f'scan_000_000{channel}.nii.gz' for channel in (0, 1)
  )


def test_hidden_files_test_images_and_other_files_are_no_scans(raw, tmp_path):
  there = copy(raw('decathlon'), tmp_path)
  assert (there / 'imagesTr' / '._scan_000.nii.gz').exists()
  assert len(list((there / 'imagesTs').iterdir())) == 1
  (there / 'labelsTr' / '.DS_Store').write_bytes(b'')
  (there / 'labelsTr' / 'notes.txt').write_text('none')
  (there / 'imagesTr' / 'old.nii.gz').mkdir()
  assert len(folder.find_cases(there, OPEN)) == PATIENTS + 1


# --- patients


def test_two_scans_of_one_patient_never_part(raw):
  cases = folder.find_cases(raw('decathlon'), OPEN)
  assert [case.patient for case in cases[:3]] == ['p1', 'p1', 'p2']
  for fold in range(5):
    parts = splits.split_patients([case.patient for case in cases], folds=5, fold=fold)
    assert sum('p1' in patients for patients in parts.values()) == 1


def test_without_patients_csv_each_scan_is_a_patient(raw, tmp_path):
  there = copy(raw('decathlon'), tmp_path)
  (there / 'patients.csv').unlink()
  assert all(case.patient == case.case for case in folder.find_cases(there, OPEN))
  _, found = parse(there)
  assert f'{PATIENTS + 1} patients' in found['folder'] and 'no patients.csv' in found['folder']


def test_patients_csv_may_come_from_a_spreadsheet_and_name_more_scans(raw, tmp_path):
  there = copy(raw('decathlon'), tmp_path)
  with (there / 'patients.csv').open(newline='') as file:
    rows = [*csv.reader(file), ['scan_900', 'p900'], []]
  text = '\r\n'.join(' , '.join(row) for row in rows)
  (there / 'patients.csv').write_text(text, encoding='utf-8-sig')
  assert folder.find_cases(there, OPEN) == [
    volumes.Case(
      case.case,
      case.patient,
      (there / 'imagesTr' / case.image[0].name,),
      (there / 'labelsTr' / case.label[0].name,),
    )
    for case in folder.find_cases(raw('decathlon'), OPEN)
  ]


# --- what is filled in


@pytest.mark.parametrize('axis', AXES)
@pytest.mark.parametrize('layout', WRITERS)
def test_what_is_left_open_comes_from_the_folder(raw, layout, axis):
  settings, found = parse(raw(layout, axis))
  assert settings.classes == phantom_folders.CLASSES
  assert (settings.modalities, settings.slice_axis, settings.image_size) == (2, axis, 64)
  assert settings.intensity == 'percentiles'
  name = {'decathlon': 'Made-up', 'nnunet': f'nnunet_{axis}'}[layout]  # the file's, or the folder's
  assert found['folder'] == f'{name}: 7 scans of 6 patients, as in patients.csv'
  assert found['channels'] == 'T1, T2' and found['drawing'] == f'{axis} slices of 64 x 64 pixels'
  assert 'slice_axis' in found['from data'] and 'plane' not in found


def test_of_cubic_voxels_the_other_planes_are_named_unless_one_is_chosen(raw, monkeypatch):
  monkeypatch.setattr(fingerprint, 'are_cubes', lambda grids: True)
  settings, found = parse(raw('decathlon', 'coronal'))
  assert settings.slice_axis == 'axial' and found['plane'].startswith('axial, as voxels are nearly')
  assert '--stage=planes tells' in found['plane']
  _, found = parse(raw('decathlon', 'coronal'), '--config.data.slice_axis=axial')
  assert 'plane' not in found


SET = {
  'classes': ('nothing', 'left', 'right'),
  'modalities': 3,
  'slice_axis': 'coronal',
  'image_size': 40,
  'intensity': 'window',
  'window': (-7.0, 8.0),
}


@pytest.mark.parametrize('name', SET)
def test_a_value_that_is_set_wins_over_the_folder(raw, name, tmp_path):
  settings, found = parse(raw('nnunet'), f'--config.data.{name}={SET[name]}', data_dir=tmp_path)
  assert settings[name] == SET[name]
  assert name not in found['from data'].split(';')[0].split(', ')
  others = {'classes': phantom_folders.CLASSES, 'modalities': 2, 'slice_axis': 'axial'}
  for other, expected in others.items():
    assert other == name or settings[other] == expected


def test_a_window_that_is_set_is_used(raw):
  settings, found = parse(raw('nnunet'), '--config.data.window=(0.0,900.0)')
  assert settings.intensity == 'window' and found['intensity'] == 'window 0 to 900'


def test_small_keeps_slices_small(raw, tmp_path):
  there = copy(raw('decathlon'), tmp_path)
  for name in ('image', 'label'):
    for path in (there / f'{name}sTr').glob('scan*'):
      file = load(path)
      wide = np.repeat(np.asarray(file.dataobj), 9, axis=1)
      nibabel.save(nibabel.Nifti1Image(wide, file.affine), path)
  assert parse(there)[0].image_size == 256
  assert parse(there, variants=':small')[0].image_size == 128
  assert parse(there, '--config.data.max_image_size=320')[0].image_size == 320


def shift(there, patients, by):
  """Makes the scans of some patients brighter."""
  for case in folder.find_cases(there, OPEN):
    if case.patient in patients:
      for path in case.image:
        image = SimpleITK.ReadImage(str(path))
        SimpleITK.WriteImage(SimpleITK.Cast(image, SimpleITK.sitkInt16) + by, str(path))


def test_the_window_of_ct_is_learned_from_the_training_patients_alone(raw, tmp_path, capsys):
  there = copy(raw('nnunet', channels=('CT',)), tmp_path)

  def window(fold):
    settings, found = parse(there, f'--config.data.fold={fold}', data_dir=tmp_path / 'tfds')
    assert settings.intensity == 'window' and 'training patients' in found['intensity']
    return settings.window

  names = [case.patient for case in folder.find_cases(there, OPEN)]
  parts = splits.split_patients(names, folds=5, fold=0)
  before = window(0)
  volume_of = {case.case: folder.read_case(case) for case in folder.find_cases(there, OPEN)}
  training = [volume for volume in volume_of.values() if volume.patient in parts['train']]
  for volume in training:
    values = volume.image[volume.truth > 0]
    assert ((before[0] <= values) & (values < before[1])).mean() > 0.95
  shift(there, parts['test'] + parts['validation'], 700)
  assert window(0) == before
  (kept,) = (tmp_path / 'tfds' / 'folder').glob('window_*.json')
  for damaged in ('', '{}', kept.read_text().replace(f'{before[1]:g}', '31', 1)):
    kept.write_text(damaged)
    assert window(0) == before
    assert f'{kept}' in capsys.readouterr().out
  shift(there, parts['train'], 700)
  assert window(0) == (before[0] + 700, before[1] + 700)


def test_only_ct_in_every_channel_has_a_window(raw, tmp_path):
  there = raw('nnunet', channels=('CT', 'PET'))
  assert parse(there)[0].intensity == 'percentiles'
  both = raw('nnunet', channels=('ct', 'CT '))
  assert parse(both, data_dir=tmp_path)[0].intensity == 'window'


def test_the_filled_in_values_are_those_that_are_recorded_and_compared(raw, tmp_path):
  arguments = ['--config=configs/folder.py', f'--config.data.raw_dir={raw("decathlon")}']
  config = filled_in(arguments).config
  assert configs.left_to_data(config) == []
  (tmp_path / 'search').mkdir()
  (tmp_path / 'search' / 'genotype.json').write_text('{"space": "lean"}')
  (tmp_path / 'config.json').write_text(json.dumps(stages.to_json(config)))
  stages.refuse_changes(filled_in(arguments).config, tmp_path)
  config = filled_in([*arguments, '--config.data.slice_axis=sagittal']).config
  with pytest.raises(InputError, match="data.slice_axis 'axial' -> 'sagittal'"):
    stages.refuse_changes(config, tmp_path)


# --- a report of a run whose scans are gone


@pytest.fixture
def made(raw, tmp_path):
  """The workdir of a run as far as its search, and arguments of its command; no scan is left."""
  there = copy(raw('decathlon'), tmp_path)
  arguments = [f'--config.data.raw_dir={there}', '--config.data.image_size=96']
  arguments.append(f'--config.data.data_dir={tmp_path / "tfds"}')
  config = filled_in(['--config=configs/folder.py:thrifty', *arguments]).config
  prepare_for(config, tmp_path / 'run')
  (tmp_path / 'run' / 'search').mkdir(parents=True)
  (tmp_path / 'run' / 'search' / 'genotype.json').write_text(GENOTYPE.read_text())
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(stages.to_json(config)))
  cases = folder.find_cases(there, OPEN)
  split_file.write(
    config, tmp_path / 'run', splits.assign(config, [case.patient for case in cases])
  )
  shutil.rmtree(there)
  return tmp_path / 'run', ['--config=configs/folder.py:thrifty', arguments[0], '--stage=report']


def report(made, *more):
  workdir, arguments = made
  return main.main([*arguments, f'--workdir={workdir}', *more])


def test_a_report_takes_what_the_data_filled_in_from_the_run(made, capsys):
  assert report(made) == 0
  text = (made[0] / 'report.html').read_text(encoding='utf-8')
  assert 'left part' in text and '>96<' in text
  assert 'error' not in capsys.readouterr().err


def change_split(workdir):
  split = json.loads((workdir / 'splits.json').read_text())
  split['train'], split['test'] = split['test'], split['train']
  (workdir / 'splits.json').write_text(json.dumps(split))


def set_recorded(name, value):
  def change(workdir):
    recorded = json.loads((workdir / 'data.json').read_text())
    recorded['settings'][name] = value
    (workdir / 'data.json').write_text(json.dumps(recorded))

  return change


def nothing(workdir):
  del workdir


@pytest.mark.parametrize(
  ('change', 'argument', 'message'),
  [
    (nothing, '--config.data.slice_axis=sagittal', "data.slice_axis 'axial' -> 'sagittal'"),
    (nothing, '--config.data.image_size=64', 'data.image_size 96 -> 64'),
    (nothing, '--config.search.epochs=20', 'search.epochs 50 -> 20'),
    (change_split, '', '(splits.json counts)'),
    (set_recorded('image_size', 'large'), '', 'data.json: has no valid image_size'),
    (set_recorded('slice_axis', 'oblique'), '', "config.data.slice_axis is 'oblique'"),
    (lambda workdir: (workdir / 'data.json').unlink(), '', 'data.json: there is no such file'),
    (shutil.rmtree, '', 'there is no run to report on'),
  ],
)
def test_a_report_of_a_run_that_was_changed_is_refused(made, capsys, change, argument, message):
  change(made[0])
  assert report(made, *[argument] if argument else []) == 2
  error = capsys.readouterr().err
  assert message in error and len(error.splitlines()) == 1
  assert not (made[0] / 'report.html').exists()


# --- the command


def run(raw_dir, place, *arguments):
  given = (f'--config.data.raw_dir={raw_dir}', f'--config.data.data_dir={place / "tfds"}')
  return main.main(['--config=configs/folder.py', *given, f'--workdir={place / "run"}', *arguments])


@pytest.mark.parametrize(('layout', 'axis'), [('decathlon', 'axial'), ('nnunet', 'sagittal')])
def test_a_folder_is_checked_and_prepared(raw, layout, axis, tmp_path, capsys):
  there = raw(layout, axis)
  assert run(there, tmp_path, '--stage=check') == 0
  lines = capsys.readouterr().out.splitlines()
  assert f'  drawing   {axis} slices of 64 x 64 pixels' in lines
  assert [line for line in lines if line.strip().startswith('scan_001 ')][0].split()[1:3] == [
    'p1',
    'test',
  ]
  assert any(
    '7 cases are usable; patients: 3 train, 1 validation, 2 test' in line for line in lines
  )
  assert not (tmp_path / 'tfds').exists()

  assert run(there, tmp_path, '--stage=prepare') == 0
  config = filled_in(
    [
      '--config=configs/folder.py',
      f'--config.data.raw_dir={there}',
      f'--config.data.data_dir={tmp_path / "tfds"}',
    ]
  ).config
  prepared = open_slices(tmp_path / 'run', config)
  assert prepared.slice_shape == (64, 64, 2)
  assert prepared.classes == phantom_folders.CLASSES
  for number, case in enumerate(prepared.cases):
    made = phantom_folders.make_scan(number=number, seed=0, slice_axis=axis)
    np.testing.assert_array_equal(prepared.label_volume(case), made.label)
    np.testing.assert_allclose(case.affine, made.affine, atol=1e-4)


def copy(source, place):
  return shutil.copytree(source, place / 'raw')


def write(name, content):
  return lambda there: (there / name).write_bytes(content)


def name_a_class_more(there):
  described = json.loads((there / 'dataset.json').read_text())
  described['labels']['3'] = 'nowhere'
  (there / 'dataset.json').write_text(json.dumps(described))


def give_the_first_scan_to_another_patient(there):
  for part in ('imagesTr', 'labelsTr'):
    shutil.copy(there / part / 'scan_000.nii.gz', there / part / 'scan_004.nii.gz')


# What no file by itself shows; the files that are broken are in test_broken_raw.py.
WRONG = {
  'a class that no scan shows': (name_a_class_more, 'no scan has a voxel of nowhere'),
  'too few patients': (
    write('patients.csv', b'case,patient\n' + b'\n'.join(b'scan_%03d,p' % n for n in range(7))),
    'there are only 1 patients',
  ),
  'a scan of two patients': (
    give_the_first_scan_to_another_patient,
    'scan_004: every voxel is that of scan_000: one scan under two names, so that a patient may',
  ),
}


@pytest.mark.parametrize('stage', ['all', 'prepare'])
@pytest.mark.parametrize('name', WRONG)
def test_no_run_begins_on_a_folder_that_cannot_be_trained_on(raw, name, stage, tmp_path, capfd):
  damage, message = WRONG[name]
  there = copy(raw('decathlon'), tmp_path)
  damage(there)
  assert run(there, tmp_path, f'--stage={stage}') == 2
  last = capfd.readouterr().err.splitlines()[-1]
  assert last.startswith('error: ') and message in last and len(last) < 600
  left = [path.name for path in (tmp_path / 'run').glob('*')]
  assert left in ([], ['check.html']) and not (tmp_path / 'tfds').exists()


def test_scans_of_one_patient_cannot_be_parted_by_hand_either(raw, tmp_path, capsys):
  there = copy(raw('decathlon'), tmp_path)  # scan_000 and scan_001 are both of p1
  parts = {'train': ['scan_000', 'p3', 'p4', 'p5'], 'validation': ['p2'], 'test': ['scan_001']}
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'splits.json').write_text(json.dumps(parts))
  assert run(there, tmp_path) == 2
  expected = 'splits.json: there is no scan of scan_000, scan_001; expected names among p1, p2'
  assert expected in capsys.readouterr().err
  parts['train'][0], parts['test'] = 'p1', ['p1']
  (tmp_path / 'run' / 'splits.json').write_text(json.dumps(parts))
  assert run(there, tmp_path) == 2
  assert 'splits.json: names p1 in train and test; expected each' in capsys.readouterr().err
  assert [path.name for path in (tmp_path / 'run').iterdir()] == ['splits.json']


# --- real scans


@pytest.mark.skipif(not REAL.is_dir(), reason='the real scans are not here')
def test_real_folders_are_understood(tmp_path):
  settings, found = parse(REAL / 'Task04_Hippocampus')
  assert settings.classes == ('background', 'Anterior', 'Posterior')
  assert (settings.modalities, settings.slice_axis, settings.image_size) == (1, 'axial', 64)
  assert '221 scans of 145 patients' in found['folder'] and 'plane' in found
  settings, found = parse(
    REAL / 'Task03_LiverCT8', '--config.data.window=(0.0,255.0)', '--config.data.folds=4'
  )
  assert (settings.classes[1:], settings.image_size) == (('liver',), 256)
  assert '8 scans of 4 patients' in found['folder']


# --- regions and ignored labels

OF_REGIONS = {
  'labels': {'background': 0, 'whole': [1, 2], 'right': 2},
  'regions_class_order': [1, 2],
}
CHANGED_LABELS = {
  'classes without regions': ({}, ['regions=1,2'], 'there are 1 regions for 2 classes'),
  'regions without classes': (
    OF_REGIONS,
    ["classes=('background','organ')"],
    'there are 2 regions for 1 classes',
  ),
  'the label of a class': (OF_REGIONS, ['ignore=2'], 'a label above the others, 3 or more'),
  'an ignored label of a folder': (
    {'labels': {'background': 0, 'left': 1, 'ignore': 3}},
    [],
    'above the others, 2',
  ),
}


@pytest.mark.parametrize('name', CHANGED_LABELS)
def test_labels_that_do_not_fit_together_are_refused_before_anything_is_read(raw, tmp_path, name):
  changes, options, message = CHANGED_LABELS[name]
  there = copy(raw('nnunet'), tmp_path)
  described = json.loads((there / 'dataset.json').read_text())
  (there / 'dataset.json').write_text(json.dumps(described | changes))
  with pytest.raises(InputError, match=message) as refused:
    parse(there, *(f'--config.data.{option}' for option in options))
  assert '\n' not in str(refused.value)


def test_what_the_settings_say_of_regions_takes_precedence(raw, tmp_path):
  there = copy(raw('nnunet'), tmp_path)
  described = json.loads((there / 'dataset.json').read_text())
  (there / 'dataset.json').write_text(json.dumps(described | OF_REGIONS))
  data, found = parse(there)
  assert (data.classes, data.regions) == (('background', 'whole', 'right'), '1,2 2')
  assert data.ignore == 0 and found['classes'] == 'background, whole (1, 2), right (2)'
  names = "--config.data.classes=('background','organ')"
  data, _ = parse(there, names, '--config.data.regions=1,2')
  assert (data.classes, data.regions) == (('background', 'organ'), '1,2')
  data, _ = parse(there, names.replace("'organ'", "'a','b'"), '--config.data.regions=')
  assert (data.classes, data.regions) == (('background', 'a', 'b'), '')


@pytest.mark.parametrize('option', ["suffixes=('T1w',)", 'derivative=PIPE/dseg'])
def test_what_chooses_among_files_of_bids_is_refused_elsewhere(raw, tmp_path, option):
  with pytest.raises(InputError, match='is no folder in BIDS, but data.suffixes or') as refused:
    parse(copy(raw('nnunet'), tmp_path), f'--config.data.{option}')
  assert '\n' not in str(refused.value)
