"""Where a run takes its data from: raw scans are looked at by check and prepare alone, and once."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from recorded import OPEN, prepare_for

from data_prep import folder, phantom, phantom_folders
from thrifty_jax import stages
from thrifty_jax.data import splits
from thrifty_jax.errors import InputError
from thrifty_jax.running import folds, run_data, verbs
from thrifty_jax.running.command_line import Command
from thrifty_jax.stages import PREPARE

GENOTYPE = Path(run_data.__file__).parents[1] / 'genotypes' / 'thrifty_0.61m.json'


@pytest.fixture
def command(tmp_path, phantom_config):
  """A command of a run, beside its raw scans; nothing is prepared."""
  config = phantom_config(tmp_path)
  config.model.depth = 3
  phantom.write_promise12(tmp_path / 'raw', patients=6, seed=0)
  return Command(config, 'configs/phantom.py', tmp_path / 'run', 'all')


@pytest.fixture
def looks(monkeypatch):
  """The raw folders that are looked into, and the scans that are read."""
  found = []

  def noted(function):
    return lambda place, *data: (found.append(place), function(place, *data))[1]

  for module in (phantom, folder):
    for name in ('find_cases', 'read_case'):
      monkeypatch.setattr(module, name, noted(getattr(module, name)))
  return found


def fill_in(command, stage='all', **fields):
  """The command with other fields and what its data says."""
  config = command.config.copy_and_resolve_references()
  config.update_from_flattened_dict(fields)
  return run_data.fill_in([dataclasses.replace(command, config=config, stage=stage)])[0]


def prepare(command, **fields):
  filled = fill_in(command, 'prepare', **fields)
  verbs.run(PREPARE, filled)
  return filled


def begin(command):
  """Leaves the result of a search."""
  (command.workdir / 'search').mkdir(parents=True)
  (command.workdir / 'search' / 'genotype.json').write_text(GENOTYPE.read_text())
  write_config(command)


def write_config(command):
  settings = stages.to_json(command.config)
  (command.workdir / 'config.json').write_text(json.dumps(settings))


def correct_a_mask(raw):
  path = raw / 'TrainingData' / 'Case01_segmentation.zraw'
  content = path.read_bytes()
  path.write_bytes(content + b'\0')
  header = path.with_suffix('.mhd')
  size = f'CompressedDataSize = {len(content)}'
  assert size in header.read_text()
  header.write_text(header.read_text().replace(size, f'CompressedDataSize = {len(content) + 1}'))


@pytest.mark.parametrize('stage', ['all', 'search', 'retrain', 'evaluate', 'compare', 'report'])
def test_a_run_whose_slices_are_recorded_looks_at_no_scan(command, looks, stage):
  prepare(command)
  begin(command)
  shutil.rmtree(command.config.data.raw_dir)
  looks.clear()
  filled = fill_in(command, stage)
  assert filled.scans is None and run_data.is_checked(filled) and looks == []


@pytest.mark.parametrize('prepared', [False, True])
@pytest.mark.parametrize('stage', ['check', 'prepare'])
def test_check_and_prepare_look_once_whether_slices_are_there_or_not(
  command, looks, stage, prepared
):
  if prepared:
    prepare(command)
  looks.clear()
  filled = fill_in(command, stage)
  assert looks == [Path(command.config.data.raw_dir)]
  assert filled.scans.patients == [f'Case0{number}' for number in range(6)]
  assert run_data.is_checked(filled) == prepared


def test_a_new_run_takes_the_slices_of_another_that_has_the_same_scans(command, looks):
  prepare(command)
  looks.clear()
  other = dataclasses.replace(command, workdir=command.workdir.with_name('other'))
  filled = fill_in(other)
  assert len(looks) == 1 and run_data.is_checked(filled)
  verbs.run(PREPARE, filled)
  assert len(looks) == 1
  records = [json.loads((each.workdir / 'data.json').read_text()) for each in (command, other)]
  assert records[0]['folder'] == records[1]['folder']


def test_one_look_serves_all_folds(command, looks):
  several = dataclasses.replace(command, folds=(0, 1, 2))
  runs = run_data.fill_in(folds.make_commands(several))
  for run in runs:
    verbs.run(PREPARE, run)
  assert looks[0] == Path(command.config.data.raw_dir)
  assert len(looks) == 1 + 6  # and each scan read once
  assert len({(run.workdir / 'data.json').read_text() for run in runs}) == 3
  assert len({json.loads((run.workdir / 'data.json').read_text())['folder'] for run in runs}) == 1


def test_a_stage_without_prepared_slices_is_refused_and_looks_at_nothing(command, looks):
  with pytest.raises(
    InputError, match=r'data\.json: there is no such file.*run --stage=prepare first'
  ):
    fill_in(command, 'search')
  prepare(command)
  looks.clear()
  with pytest.raises(InputError, match=r'by other settings: image_size 16 -> 32; go back'):
    fill_in(command, 'search', **{'data.image_size': 32})
  assert looks == []


def test_other_settings_are_prepared_anew_until_something_is_trained(command):
  prepare(command)
  filled = fill_in(command, **{'data.image_size': 32})
  assert filled.scans and not run_data.is_checked(filled)


def test_slices_that_are_gone_are_prepared_again_from_the_same_scans_alone(command):
  prepare(command)
  begin(command)
  shutil.rmtree(command.config.data.data_dir)
  filled = fill_in(command)
  assert not run_data.is_checked(filled)
  correct_a_mask(Path(command.config.data.raw_dir))
  with pytest.raises(InputError, match='search began on other scans than lie in .*raw now; put'):
    fill_in(command)
  assert fill_in(command, 'check').scans  # may look at them
  shutil.rmtree(command.workdir / 'search')
  verbs.run(PREPARE, fill_in(command))
  assert fill_in(command).scans is None


@pytest.mark.parametrize('left', ['retrain/summary.json', 'retrain/checkpoints/3', 'diverged.txt'])
@pytest.mark.parametrize(
  'place', ['front/a/fold_0', 'compare/unet', 'teacher', 'search/a', 'training']
)
def test_what_is_trained_beside_the_stages_holds_to_its_scans_too(command, place, left):
  prepare(command)
  write_config(command)
  path = command.workdir / place / left
  path.parent.mkdir(parents=True)
  path.write_text('{}')
  fill_in(command, 'prepare')
  correct_a_mask(Path(command.config.data.raw_dir))
  with pytest.raises(InputError, match=f'{place.split("/")[0]} began on other scans than lie in'):
    fill_in(command, 'prepare')
  path.unlink()
  assert fill_in(command, 'prepare').scans


def test_trainings_whose_scans_are_no_longer_known_are_not_gone_on_with(command):
  prepare(command)
  begin(command)
  (command.workdir / 'data.json').unlink()
  with pytest.raises(InputError, match=r'data\.json: there is no such file, but search began on'):
    fill_in(command, 'prepare')
  assert fill_in(command, 'check').scans
  path = command.workdir / 'front' / 'a' / 'retrain' / 'summary.json'
  path.parent.mkdir(parents=True)
  path.write_text('{}')
  shutil.rmtree(command.workdir / 'search')
  with pytest.raises(InputError, match=r'data\.json: there is no such file, but front began on'):
    fill_in(command, 'prepare')


@pytest.mark.parametrize('beside', ['evaluate/summary.json', 'teacher/retrain/summary.json'])
def test_scores_of_folds_and_runs_in_a_new_folder_are_no_training_of_it(command, beside):
  path = command.workdir / beside
  path.parent.mkdir(parents=True)
  path.write_text('{}')
  if beside.startswith('evaluate'):
    write_config(command)
  assert fill_in(command, 'prepare').scans


def test_where_slices_and_scans_are_gone_both_are_told(command):
  prepare(command)
  shutil.rmtree(command.config.data.data_dir)
  shutil.rmtree(Path(command.config.data.raw_dir, 'TrainingData'))
  with pytest.raises(
    InputError, match=r'its slices are no longer in .*there is no TrainingData in it'
  ):
    fill_in(command)


def test_another_raw_folder_is_looked_at_and_may_only_hold_the_same_scans(command, looks):
  prepare(command)
  begin(command)
  raw = Path(command.config.data.raw_dir)
  shutil.copytree(raw, raw.with_name('copied'))
  looks.clear()
  filled = fill_in(command, **{'data.raw_dir': str(raw.with_name('copied'))})
  assert looks == [raw.with_name('copied')] and run_data.is_checked(filled)
  correct_a_mask(raw.with_name('copied'))
  with pytest.raises(InputError, match='search began on other scans than lie in .*copied now'):
    fill_in(command, **{'data.raw_dir': str(raw.with_name('copied'))})


def test_a_splits_json_is_held_to_the_patients_without_a_look(command, looks):
  prepare(command)
  looks.clear()
  parts = {'train': ['Case00', 'Case01', 'Case02'], 'validation': ['Case03'], 'test': ['Case04']}
  (command.workdir / 'splits.json').write_text(json.dumps(parts))
  with pytest.raises(InputError, match='no list has Case05'):
    fill_in(command)
  parts['test'].append('Case05')
  (command.workdir / 'splits.json').write_text(json.dumps(parts))
  filled = fill_in(command)
  assert filled.config.data.test_patients == ('Case04', 'Case05') and looks == []
  assert ('split', f'as in {command.workdir}/splits.json, not by folds and lists') in filled.found


@pytest.mark.parametrize('prepared', [False, True])
def test_too_few_patients_are_refused_before_anything_is_read(command, looks, prepared):
  if prepared:
    prepare(command)
  looks.clear()
  with pytest.raises(InputError, match='only 6 patients'):
    fill_in(command, **{'data.folds': 7})
  assert len(looks) == (not prepared)


# --- a folder, which says what the config leaves open


@pytest.fixture
def open_command(tmp_path, phantom_config):
  """Of scans by CT: a window is learned from those who train."""
  config = phantom_config(tmp_path)
  config.model.name, config.data.name = 'unet', 'folder'
  config.model.depth = 3
  config.data.update({'classes': (), 'modalities': 0, 'slice_axis': 'auto', 'window': ()})
  config.data.update({'intensity': 'auto', 'image_size': 0})
  phantom_folders.write_nnunet(tmp_path / 'raw', patients=6, seed=0, channels=('CT',))
  return Command(config, 'configs/folder.py', tmp_path / 'run', 'all')


def test_what_was_left_to_the_data_stays_what_it_was_without_the_scans(open_command, looks):
  before = prepare(open_command)
  assert any(title == 'intensity' for title, _ in before.found)
  shutil.rmtree(open_command.config.data.raw_dir)
  looks.clear()
  after = fill_in(open_command)
  assert after.config.to_dict() == before.config.to_dict() and looks == []
  assert after.config.data.intensity == 'window' and len(after.config.data.classes) == 3


def test_a_fold_with_other_training_patients_learns_its_own_window_once(open_command, looks):
  raw, first = Path(open_command.config.data.raw_dir), prepare(open_command)
  cases = folder.find_cases(raw, OPEN)
  train = [
    set(splits.split_patients([case.patient for case in cases], folds=3, fold=fold)['train'])
    for fold in (0, 1)
  ]
  assert train[0] != train[1]
  with pytest.raises(InputError, match='by other settings: fold 0 -> 1'):
    fill_in(open_command, 'retrain', **{'data.fold': 1})
  second = fill_in(open_command, **{'data.fold': 1})
  assert second.scans and second.config.data.intensity == 'window'
  looks.clear()
  fill_in(open_command, 'prepare', **{'data.fold': 1})
  assert looks == [raw]  # no scan is read to learn it again
  learned = sorted((raw.parent / 'tfds' / 'folder').glob('window_*.json'))
  patients = [set(json.loads(path.read_text())['training_patients']) for path in learned]
  assert sorted(patients, key=sorted) == sorted(train, key=sorted)
  assert first.config.data.fold == 0


def test_a_network_is_described_from_what_was_prepared(open_command, looks):
  with pytest.raises(InputError, match=r'data\.json: there is no such file'):
    run_data.fill_in_network(open_command)
  assert looks == []
  prepare(open_command)
  looks.clear()
  run_data.fill_in_network(open_command)
  assert len(open_command.config.data.classes) == 3 and looks == []


def test_a_command_is_not_changed(command):
  before = command.config.to_dict()
  prepare_for(command.config, command.workdir)
  fill_in(command)
  assert command.config.to_dict() == before
