"""The external test set: found, checked, scored once by the final model, and never learned of."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from tiny_lean_runs import NO_WARP

from data_prep import data_sets, folder, phantom_folders
from thrifty_jax import config as configs
from thrifty_jax import evaluate, main, predict, records
from thrifty_jax.errors import InputError
from thrifty_jax.run_files import EXTERNAL, ScoredMasks
from thrifty_jax.running import external

PROJECT = Path(__file__).resolve().parents[2]
PATIENTS = 6  # and seven scans with a mask, and one in imagesTs without
CASE, PATIENT = 'scan_007', 'p7'
TINY = (
  '--config.compilation_cache=',
  '--config.data.folds=3',
  '--config.data.image_size=16',
  '--config.data.context=0',
  *NO_WARP,
  '--config.model.width=2',
  '--config.model.depth=3',
  '--config.retrain.epochs=1',
  '--config.retrain.least_steps=1',
  '--config.retrain.warmup_epochs=0',
  '--config.retrain.validate_every=1',
  '--config.retrain.batch_size=8',
)


@pytest.fixture(scope='module', autouse=True)
def in_project(quick_compilation_of_module):
  """The commands run where the project lies."""
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(PROJECT)
    yield


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A folder of nnU-Net whose scan in imagesTs has a mask in labelsTs; nobody may change it."""
  place = tmp_path_factory.mktemp('made')
  there = place / 'Dataset007_MadeUp'
  phantom_folders.write_nnunet(there, patients=PATIENTS, seed=0)
  phantom_folders.write_nnunet(place / 'more', patients=PATIENTS + 1, seed=0)
  (there / 'labelsTs').mkdir()
  shutil.copy(place / 'more' / 'labelsTr' / f'{CASE}.nii.gz', there / 'labelsTs')
  with (there / 'patients.csv').open('a') as file:
    file.write(f'{CASE},{PATIENT}\n')
  described = json.loads((there / 'dataset.json').read_text())
  described['overwrite_image_reader_writer'] = 'NibabelIOWithReorient'
  (there / 'dataset.json').write_text(json.dumps(described))
  return there


@pytest.fixture
def there(made, tmp_path):
  return shutil.copytree(made, tmp_path / made.name)


@pytest.fixture
def config(there, tmp_path):
  config = configs.default()
  config.data.name = 'folder'
  configs.leave_to_data(config)
  config.data.update({'raw_dir': str(there), 'data_dir': str(tmp_path / 'tfds')})
  return config


def run(raw_dir, workdir, *arguments):
  return main.main(
    [
      '--config=configs/folder.py:small,unet',
      f'--config.data.raw_dir={raw_dir}',
      f'--config.data.data_dir={workdir.parent / "tfds"}',
      f'--workdir={workdir}',
      *TINY,
      *arguments,
    ]
  )


@pytest.fixture(scope='module')
def done(made, tmp_path_factory):
  """The workdir of a finished run of one fold."""
  workdir = tmp_path_factory.mktemp('runs') / 'one'
  assert run(made, workdir) == 0
  return workdir


# --- what is found


def test_the_set_stands_apart_from_the_scans_of_the_run(there, config):
  before = data_sets.find(config)
  (case,) = before.external
  assert (case.case, case.patient) == (CASE, PATIENT) and CASE not in str(before.cases)
  assert case.image[1] == there / 'imagesTs' / f'{CASE}_0001.nii.gz'
  assert folder.read_case(case).truth.any()
  told = dict(data_sets.resolve(config, before, ()))
  assert told['external'].startswith('1 scans of 1 patients in imagesTs') and 'not used' not in told
  shutil.rmtree(there / 'labelsTs')
  after = data_sets.find(config)
  assert not after.external and after.digest == before.digest and after.cases == before.cases


def lose_image(there):
  for path in (there / 'imagesTs').iterdir():
    path.unlink() if path.name.endswith('_0001.nii.gz') else None


def rename_mask(there):
  path = there / 'labelsTs' / f'{CASE}.nii.gz'
  path.rename(path.with_name('other.nii.gz'))


def share_patient(there):
  path = there / 'patients.csv'
  path.write_text(path.read_text().replace(f',{PATIENT}', ',p2'))


def forget_patient(there):
  path = there / 'patients.csv'
  path.write_text(path.read_text().replace(f'{CASE},{PATIENT}', ''))


def copy_scan(there):
  """Brings a scan for training into the set under another name."""
  for channel in ('_0000', '_0001', ''):
    source = there / ('imagesTr' if channel else 'labelsTr') / f'scan_003{channel}.nii.gz'
    target = there / ('imagesTs' if channel else 'labelsTs') / f'{CASE}{channel}.nii.gz'
    shutil.copy(source, target)


def damage_mask(there):
  shutil.copy(there / 'labelsTr' / 'scan_001.nii.gz', there / 'labelsTs' / f'{CASE}.nii.gz')


@pytest.mark.parametrize(
  ('spoil', 'message'),
  [
    (lose_image, f'imagesTs/{CASE}_0000.nii.gz: {CASE} has the channels 0000; expected 0000, 0001'),
    (rename_mask, 'labelsTs/other.nii.gz: its scan other is missing in'),
    (
      share_patient,
      'is a scan of the patient p2, as .* is; expected other patients in an external',
    ),
    (forget_patient, f'does not say whose scan {CASE} is'),
    (copy_scan, f'{CASE}: every voxel is that of scan_003'),
    (damage_mask, f'labelsTs/{CASE}.nii.gz: has .* voxels'),
    (lambda there: shutil.rmtree(there / 'imagesTs'), 'imagesTs: no volume or picture there'),
  ],
)
def test_a_set_that_cannot_be_scored_is_refused_before_anything_is_trained(
  there, tmp_path, capsys, spoil, message
):
  spoil(there)
  assert run(there, tmp_path / 'run') == 2
  lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith('check ')]
  assert len(lines) == 1 and re.search(message, lines[0])
  assert not (tmp_path / 'run' / 'data.json').exists()


def test_a_set_is_checked_once_also_where_the_slices_are_prepared(there, tmp_path, capsys):
  shutil.move(there / 'labelsTs', there / 'later')
  assert run(there, tmp_path / 'first', '--stage=prepare') == 0
  shutil.move(there / 'later', there / 'labelsTs')
  for name, is_checked in (('second', True), ('third', False)):
    capsys.readouterr()
    assert run(there, tmp_path / name, '--stage=prepare') == 0
    assert ('cases are usable' in capsys.readouterr().out) == is_checked
  copy_scan(there)
  assert run(there, tmp_path / 'fourth', '--stage=prepare') == 2
  assert f'{CASE}: every voxel is that of scan_003' in capsys.readouterr().err
  assert not (tmp_path / 'fourth' / 'data.json').exists()


def test_a_scan_of_the_set_can_be_left_out(there, config):
  config.data.exclude = (CASE,)
  assert not data_sets.find(config).external
  rename_mask(there)
  config.data.exclude = ('other',)
  assert not data_sets.find(config).unpaired


def test_the_set_is_found_alone_where_the_scans_of_the_run_were_not_fetched(there, config):
  external_cases = data_sets.find(config).external
  for path in [*there.glob('*Tr/*')]:
    path.unlink()
    path.symlink_to('annex/none')
  assert data_sets.find_external(config) == (external_cases, ())
  rename_mask(there)
  _, (problem,) = data_sets.find_external(config)
  assert problem.case == 'other' and 'its scan other is missing' in problem.text
  config.data.exclude = ('other',)
  assert data_sets.find_external(config) == ((), ())


# --- what is scored


@pytest.fixture
def random(done, random_model):
  """The function that copies the run with random weights, which find something everywhere."""

  def copy(place, seed=0):
    shutil.copytree(done, place)
    shutil.rmtree(place / EXTERNAL)
    shutil.rmtree(place / 'model')
    config = settings_of(place)
    config.model.update({'name': 'thrifty', 'channels': 4, 'depth': 3})
    random_model(place / 'model', config, seed=seed)
    return place

  return copy


def settings_of(workdir):
  return configs.from_json(json.loads((workdir / 'config.json').read_text()))


def test_the_scores_are_those_of_predict_and_evaluate(random, there, tmp_path):
  done = random(tmp_path / 'random')
  config = settings_of(done)
  config.data.raw_dir = str(there)
  shutil.rmtree(there / 'labelsTr')  # whatever became of the scans of the run
  assert external.score(config, done, done)
  assert not external.score(config, done, done)  # twice
  summary = records.read(done / EXTERNAL / 'summary.json', ScoredMasks)
  assert summary.mean.dsc and summary.mean.dsc.mean > 0
  assert [case.patient for case in summary.cases] == [PATIENT] and not summary.missing
  given = [f'--input={there / "imagesTs"}', f'--output={tmp_path / "masks"}']
  assert predict.main([f'--model={done}', *given]) == 0
  mask = f'{CASE}.nii.gz'  # as nnU-Net names it
  own = (done / EXTERNAL / 'masks' / mask).read_bytes()
  assert (tmp_path / 'masks' / mask).read_bytes() == own
  folders = [f'--masks={tmp_path / "masks"}', f'--truths={there / "labelsTs"}']
  folders.append(f'--patients={there / "patients.csv"}')
  assert evaluate.main([*folders, f'--output={tmp_path / "scores"}']) == 0
  other = records.read(tmp_path / 'scores' / 'summary.json', ScoredMasks)
  assert summary.mean == other.mean and summary.classes == other.classes
  rows = [[*csv.reader(path.read_text().splitlines())] for path in
          (done / EXTERNAL / 'scores.csv', tmp_path / 'scores' / 'scores.csv')]  # fmt: skip
  assert rows[0] == rows[1] and len(rows[0]) == 3


def move_scan(there):
  """Moves a scan for training into the set."""
  for path in [*there.glob('*Tr/scan_003*')]:
    path.rename(there / path.parent.name.replace('Tr', 'Ts') / path.name)
  described = json.loads((there / 'dataset.json').read_text())
  described['numTraining'] = PATIENTS
  (there / 'dataset.json').write_text(json.dumps(described))


def test_scans_of_the_run_that_are_moved_into_the_set_are_not_scored(random, there, tmp_path):
  done = random(tmp_path / 'random')
  move_scan(there)
  config = settings_of(done)
  config.data.raw_dir = str(there)
  (moved, _) = data_sets.find(config).external
  message = rf'scan_003_0000.nii.gz: is a scan of the patient {moved.patient}, who takes part in'
  with pytest.raises(InputError, match=message):
    external.score(config, done, done)
  assert not (done / EXTERNAL).exists()


def test_nobody_of_the_set_took_part_in_the_run(done):
  named = (done / 'splits.json').read_text() + (done / 'evaluate' / 'summary.json').read_text()
  assert PATIENT not in named and CASE not in named
  assert json.loads((done / 'data.json').read_text())['external'] == 1


def test_the_report_has_a_table_of_its_own(done):
  text = (done / 'report.html').read_text(encoding='utf-8')
  assert 'External test set' in text and f'{EXTERNAL}/summary.json' in text


def test_a_second_call_scores_nothing_again_and_says_where_masks_are_gone(
  done, made, tmp_path, capsys
):
  summary = done / EXTERNAL / 'summary.json'
  before = summary.stat().st_mtime_ns
  assert run(made, done) == 0 and summary.stat().st_mtime_ns == before
  assert 'have changed since' not in capsys.readouterr().out
  os.utime(next((made / 'labelsTs').iterdir()))
  assert run(made, done) == 0
  assert 'files of the external test set have changed since: to' in capsys.readouterr().out
  copied = shutil.copytree(done, tmp_path / 'copied')
  shutil.rmtree(copied / 'evaluate')
  capsys.readouterr()
  assert run(tmp_path / 'gone', copied, '--stage=evaluate') == 2  # the config names another folder
  arguments = ['--config=configs/folder.py:small,unet', f'--workdir={copied}', *TINY]
  made.rename(made.with_name('moved'))
  try:
    assert main.main([*arguments, '--stage=evaluate']) == 0
  finally:
    made.with_name('moved').rename(made)
  assert f'not scored: {made}/labelsTs is not there' in capsys.readouterr().out
  assert not (copied / EXTERNAL).exists()


def test_a_set_that_came_after_the_scores_is_named_with_what_to_do(done, made, tmp_path, capsys):
  copied = shutil.copytree(done, tmp_path / 'copied')
  shutil.rmtree(copied / EXTERNAL)
  capsys.readouterr()
  assert run(made, copied) == 0
  told = (
    f'; {made / "labelsTs"} is not scored yet: to score it remove {copied / "evaluate"} and run'
  )
  assert told in capsys.readouterr().out
  config = settings_of(copied)
  config.data.exclude = (CASE,)
  assert not external.tell_changes(config, copied)
  shutil.rmtree(copied / 'evaluate')
  assert run(made, copied, '--stage=evaluate') == 0
  assert 'external test set: 1 patient' in capsys.readouterr().out
  assert run(made, copied) == 0
  assert 'not scored yet' not in capsys.readouterr().out


@pytest.mark.parametrize('spoil', [rename_mask, share_patient, move_scan])
def test_scores_are_not_to_be_removed_for_a_set_that_cannot_be_scored(spoil, done, there, tmp_path):
  copied = shutil.copytree(done, tmp_path / 'copied')
  shutil.rmtree(copied / EXTERNAL)
  config = settings_of(copied)
  config.data.raw_dir = str(there)
  assert 'is not scored yet' in external.tell_changes(config, copied)
  spoil(there)
  assert not external.tell_changes(config, copied)


def test_several_folds_are_averaged_as_predict_does(random, made, tmp_path, capsys):
  workdir = tmp_path / 'folds'
  for fold in (0, 1):
    random(workdir / f'fold_{fold}', seed=fold)
  (workdir / 'fold_1' / 'splits.json').unlink()  # it has those of fold 0
  settings = json.loads((workdir / 'fold_1' / 'config.json').read_text())
  settings['data']['fold'] = 1
  (workdir / 'fold_1' / 'config.json').write_text(json.dumps(settings))
  shutil.rmtree(workdir / 'fold_1' / 'evaluate')
  recorded = json.loads((workdir / 'fold_1' / 'data.json').read_text())
  recorded['choices']['fold'] = 1  # the slices do not depend on it
  (workdir / 'fold_1' / 'data.json').write_text(json.dumps(recorded))
  assert run(made, workdir, '--folds=0,1', '--stage=evaluate') == 0
  assert 'external test set by 2 models, averaged: 1 patient' in capsys.readouterr().out
  assert not [*workdir.glob(f'fold_*/{EXTERNAL}')]
  given = [f'--input={made / "imagesTs"}', f'--output={tmp_path / "masks"}']
  assert predict.main([f'--model={workdir}', *given]) == 0
  mask = f'{CASE}.nii.gz'
  assert (tmp_path / 'masks' / mask).read_bytes() == (
    workdir / EXTERNAL / 'masks' / mask
  ).read_bytes()
  assert 'External test set' in (workdir / 'report.html').read_text(encoding='utf-8')
  summary = workdir / EXTERNAL / 'summary.json'
  before = summary.read_bytes()
  assert run(made, workdir, '--folds=0,1', '--stage=evaluate') == 0
  told = capsys.readouterr().out
  assert 'external test set by' not in told and 'not scored yet' not in told
  shutil.rmtree(workdir / 'fold_1' / 'model')
  shutil.copytree(workdir / 'fold_0' / 'model', workdir / 'fold_1' / 'model')
  assert run(made, workdir, '--folds=0,1', '--stage=evaluate') == 0
  assert 'external test set by 2 models, averaged' in capsys.readouterr().out
  assert summary.read_bytes() != before
