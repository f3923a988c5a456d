"""The whole command on made-up scans: what it leaves, what it does again, what it refuses."""

import csv
import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from few_operations import FEW
from tiny_lean_runs import NO_WARP

from data_prep import phantom
from thrifty_jax import export, main, model_folder, predict
from thrifty_jax.networks import build, genotype

PROJECT = Path(__file__).resolve().parents[1]
PATIENTS, FOLDS = 6, 3  # two patients train, two validate, two test
TINY = (
  f'--config.data.folds={FOLDS}',
  '--config.data.image_size=16',
  *NO_WARP,
  '--config.model.depth=3',
  '--config.model.nodes=1',
  '--config.model.channels=4',
  '--config.search.channels=4',
  f'--config.search.operations={FEW}',
  '--config.search.epochs=2',
  '--config.search.warmup_epochs=1',
  '--config.search.batch_size=4',
  '--config.retrain.epochs=2',
  '--config.retrain.validate_every=1',
  '--config.retrain.batch_size=4',
)
UNET_PARAMETERS = 485_682  # width 8, two classes, no norm


@pytest.fixture(scope='module', autouse=True)
def in_project(quick_compilation_of_module):
  """The commands run where the project lies."""
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(PROJECT)
    yield


@pytest.fixture(scope='module')
def scans(tmp_path_factory):
  """A raw folder with good scans."""
  folder = tmp_path_factory.mktemp('scans') / 'raw'
  phantom.write_promise12(folder, patients=PATIENTS, seed=0)
  return folder


@pytest.fixture(scope='module')
def slices(tmp_path_factory):
  """Where runs on the good scans keep their slices."""
  return tmp_path_factory.mktemp('slices')


def command(scans, slices, workdir, *arguments, config='configs/phantom.py'):
  return main.main(
    [
      f'--config={config}',
      f'--config.data.raw_dir={scans}',
      f'--config.data.data_dir={slices}',
      f'--workdir={workdir}',
      *TINY,
      *arguments,
    ]
  )


@pytest.fixture(scope='module')
def done(scans, slices, tmp_path_factory):
  """The workdir of a finished run."""
  workdir = tmp_path_factory.mktemp('runs') / 'phantom'
  assert command(scans, slices, workdir) == 0
  return workdir


def files_of(folder):
  return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def json_of(path):
  return json.loads(path.read_text(encoding='utf-8'))


def test_a_run_leaves_all_that_was_promised_and_nothing_unfinished(done):
  found = files_of(done)
  for name in (
    'config.json',
    'environment.json',
    'data.json',
    'splits.json',
    'search/metrics.jsonl',
    'search/genotype.json',
    'retrain/metrics.jsonl',
    'retrain/summary.json',
    'evaluate/scores.csv',
    'evaluate/summary.json',
    'report.html',
    'model/weights.safetensors',
    'model/genotype.json',
    'model/preprocessing.json',
    'model/card.md',
    'model/scores.json',
    'model/checksums.json',
  ):
    assert name in found
    assert (done / name).stat().st_size > 0
  for stage in ('search', 'retrain'):
    assert any(path.name.isdigit() for path in (done / stage / 'checkpoints').iterdir())
  for path in done.rglob('*'):
    assert not path.name.endswith(('.tmp', '.unfinished')), path
  assert [path.name for path in done.parent.iterdir()] == ['phantom']


def test_the_model_segments_a_raw_scan_and_knows_what_it_was_trained_on(done, scans, tmp_path):
  trained = json_of(done / 'evaluate' / 'summary.json')['patient_names']['train']
  slices = [
    SimpleITK.ReadImage(str(scans / 'TrainingData' / f'{name}.mhd')).GetSize() for name in trained
  ]
  ranges = json_of(done / 'model' / 'preprocessing.json')['training_scans']
  assert ranges['slices'] == [min(map(min, slices)), max(map(min, slices))]
  scan = scans / 'TrainingData' / f'{trained[0]}.mhd'
  arguments = (f'--model={done}', f'--input={scan}', f'--output={tmp_path / "mask.mha"}')
  assert predict.main(arguments) == 0
  mask, image = (SimpleITK.ReadImage(str(path)) for path in (tmp_path / 'mask.mha', scan))
  assert mask.GetSize() == image.GetSize() and mask.GetDirection() == image.GetDirection()


def test_the_summary_has_the_fields_that_others_read(done):
  summary = json_of(done / 'evaluate' / 'summary.json')
  assert summary['protocol'] == 'volume' and summary['split'] == 'test' and summary['held_out']
  assert summary['model'] == 'thrifty' and summary['patients'] == 2
  for field in ('dsc_mean', 'pooled_2d_dsc', 'floor_dsc'):
    assert 0 <= summary[field] <= 1
  assert summary['floor_dsc'] > 0.2  # the mean mask finds something
  assert list(summary['classes']) == ['organ']
  assert {'dsc_mean', 'dsc_std'} <= summary['classes']['organ'].keys()
  assert summary['parameters'] == build.count(model_folder.load(done / 'model').params)
  assert 'Made-up scans' in summary['note']


def test_scores_have_a_row_per_patient_and_class_that_make_up_the_mean(done):
  with (done / 'evaluate' / 'scores.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert [(row['patient'], row['class']) for row in rows] == [
    ('Case00', 'organ'),
    ('Case03', 'organ'),
  ]
  summary = json_of(done / 'evaluate' / 'summary.json')
  assert np.mean([float(row['dsc']) for row in rows]) == pytest.approx(
    summary['dsc_mean'], abs=1e-6
  )


def test_the_searched_genotype_is_the_one_that_was_trained(done):
  found = genotype.load(done / 'search' / 'genotype.json')
  assert genotype.load(done / 'model' / 'genotype.json') == found
  assert model_folder.load(done / 'model').genotype == found
  assert len(found.down) == len(found.up) == 1


def test_no_test_or_validation_patient_took_part_in_the_search(done):
  halves = json_of(done / 'search' / 'halves.json')
  names = json_of(done / 'evaluate' / 'summary.json')['patient_names']
  searched = halves['weights'] + halves['architecture']
  assert sorted(searched) == sorted(names['train'])
  everyone = names['train'] + names['validation'] + names['test']
  assert sorted(everyone) == [f'Case{number:02d}' for number in range(PATIENTS)]


def test_the_report_is_one_file_that_shows_the_score(done):
  text = (done / 'report.html').read_text(encoding='utf-8')
  summary = json_of(done / 'evaluate' / 'summary.json')
  assert f'{100 * summary["dsc_mean"]:.2f}' in text
  assert 'not a medical device' in text
  assert 'src="http' not in text and '<link' not in text


def test_a_second_call_does_nothing_again(done, scans, slices, capsys):
  def state():
    return {
      name: ((done / name).read_bytes(), (done / name).stat().st_mtime_ns)
      for name in files_of(done)
      if name.split('/')[0] in ('search', 'retrain', 'model', 'evaluate')
    }

  before, config = state(), json_of(done / 'config.json')
  assert command(scans, slices, done) == 0
  assert state() == before
  assert json_of(done / 'config.json') == config
  out = capsys.readouterr().out
  for stage in ('search', 'retrain', 'evaluate'):
    assert f'{stage}: done' in out


@pytest.fixture
def copied(done, slices, tmp_path):
  """Copies of a run and of its slices, as they arrive on another machine."""
  common = Path(os.path.commonpath([done, slices]))
  for folder in (done, slices):
    shutil.copytree(folder, tmp_path / folder.relative_to(common))
  workdir = tmp_path / done.relative_to(common)
  recorded = json_of(workdir / 'data.json') | {'folder': '/nowhere'}
  (workdir / 'data.json').write_text(json.dumps(recorded))
  return workdir


def test_a_copied_run_is_scored_exported_and_reported_where_no_scan_is(
  done, copied, scans, tmp_path, monkeypatch
):
  def look(*arguments):
    raise AssertionError('nothing may look at raw scans')

  for name in ('find_cases', 'read_case'):
    monkeypatch.setattr(phantom, name, look)
  shutil.rmtree(copied / 'evaluate')
  (copied / 'retrain' / 'summary.json').unlink()
  assert command(scans, tmp_path / 'none', copied) == 0  # trains, scores and reports
  for name in ('model/weights.safetensors', 'evaluate/scores.csv', 'evaluate/summary.json'):
    assert (copied / name).read_bytes() == (done / name).read_bytes()
  output = f'--output={tmp_path / "exported"}'
  assert export.main([f'--model={copied}', output, '--format=stablehlo']) == 0
  for stage in ('report', 'describe'):
    assert command(scans, tmp_path / 'none', copied, f'--stage={stage}') == 0


def test_a_changed_setting_is_refused_and_the_run_stays_as_it_was(done, scans, slices, capsys):
  before = {name: (done / name).read_bytes() for name in files_of(done)}
  assert command(scans, slices, done, '--config.seed=1') == 2
  assert {name: (done / name).read_bytes() for name in files_of(done)} == before
  error = capsys.readouterr().err
  assert len(error.splitlines()) == 1 and 'seed 0 -> 1' in error


def test_more_epochs_go_on_from_the_last_one_and_the_run_says_so(done, scans, slices, tmp_path):
  workdir = shutil.copytree(done, tmp_path / 'run')
  assert command(scans, slices, workdir, '--config.retrain.epochs=3') == 0
  lines = (workdir / 'retrain' / 'metrics.jsonl').read_text().splitlines()
  assert lines[:2] == (done / 'retrain' / 'metrics.jsonl').read_text().splitlines()
  summary = json_of(workdir / 'retrain' / 'summary.json')
  assert len(lines) == summary['epochs'] == 3 and summary['planned_epochs'] == [2, 3]
  scores = (workdir / 'evaluate' / 'summary.json').stat()
  assert scores.st_mtime_ns > (workdir / 'retrain' / 'summary.json').stat().st_mtime_ns
  assert command(scans, slices, workdir, '--config.retrain.epochs=3') == 0  # nothing left to do
  assert (workdir / 'evaluate' / 'summary.json').stat().st_mtime_ns == scores.st_mtime_ns
  assert command(scans, slices, workdir) == 2  # fewer than it has seen


def test_a_baseline_is_trained_without_a_search(scans, slices, tmp_path):
  arguments = ('--config.retrain.epochs=1', '--config.retrain.warmup_epochs=0')
  arguments += ('--config.model.width=8',)
  status = command(scans, slices, tmp_path / 'run', *arguments, config='configs/phantom.py:unet')
  assert status == 0
  summary = json_of(tmp_path / 'run' / 'evaluate' / 'summary.json')
  assert summary['model'] == 'unet' and summary['parameters'] == UNET_PARAMETERS
  assert not (tmp_path / 'run' / 'search').exists()
  assert not (tmp_path / 'run' / 'model' / 'genotype.json').exists()
  assert (tmp_path / 'run' / 'report.html').exists()


def test_the_variant_paper_runs_as_its_docstring_says(done, scans, slices, tmp_path, capsys):
  workdir = tmp_path / 'run'
  arguments = (
    f'--config.genotype={done / "search" / "genotype.json"}',
    "--config.data.validation_patients=('Case01', 'Case04')",
    '--config.retrain.warmup_epochs=0',
  )
  config = 'configs/promise12.py:paper'
  assert command(scans, slices, workdir, *arguments, config=config) == 0
  out = capsys.readouterr().out
  assert 'protocol pooled_2d, not held out' in out and 'test 0 patients' in out
  summary = json_of(workdir / 'evaluate' / 'summary.json')
  assert (summary['split'], summary['held_out']) == ('validation', False)
  assert summary['patient_names']['validation'] == ['Case01', 'Case04']
  assert len(summary['patient_names']['train']) == PATIENTS - 2
  chosen = json_of(workdir / 'retrain' / 'summary.json')
  assert chosen['validation_dsc'] == pytest.approx(summary['pooled_2d_dsc'])  # the same slices
  prepared = json_of(workdir / 'model' / 'preprocessing.json')
  assert (prepared['clahe_clip_limit'], prepared['resize']) == (0.05, 'nearest')
  assert prepared['curvature_flow_iterations'] == 5
  assert 'not held out' in (workdir / 'report.html').read_text(encoding='utf-8')


def test_a_comparison_takes_up_the_run_and_trains_the_others_alike(done, scans, slices, tmp_path):
  workdir = shutil.copytree(done, tmp_path / 'run')
  before = (workdir / 'retrain' / 'metrics.jsonl').read_bytes()
  arguments = (
    '--stage=compare',
    '--config.compare.baselines=()',
    '--config.compare.random_genotypes=1',
    '--config.compare.learning_rates=(2e-3,)',
    '--config.compare.seeds=2',
  )
  assert command(scans, slices, workdir, *arguments) == 0
  assert (workdir / 'retrain' / 'metrics.jsonl').read_bytes() == before
  results = json_of(workdir / 'compare' / 'results.json')
  assert [(one['folder'], one['seed']) for one in results] == [
    ('.', 0),
    ('compare/thrifty/run_0.002_seed_1', 1),
    ('compare/random_1/trials/0.002', 0),
    ('compare/random_1/run_0.002_seed_1', 1),
  ]
  assert len({one['steps'] for one in results}) == 1 and results[0]['macs'] > 0
  if importlib.util.find_spec('onnxruntime'):
    assert all(one['timed']['ms'] > 0 for one in results)
  summary = json_of(workdir / 'compare' / 'summary.json')
  for rival, of_rival in zip(summary['rivals'], (results[:2], results[2:]), strict=True):
    scored = [json_of(workdir / one['folder'] / 'evaluate' / 'summary.json') for one in of_rival]
    expected = [one['dsc_mean'] for one in scored]
    assert rival['seeds_dsc'] == pytest.approx(expected, abs=1e-6)
    assert rival['dsc_mean'] == pytest.approx(np.mean(expected), abs=1e-6)
    assert scored[0]['patient_names'] == scored[1]['patient_names']
    assert expected[0] != expected[1]
  assert 'Random 1' in (workdir / 'report.html').read_text(encoding='utf-8')


def test_several_folds_score_other_patients_each_and_all_together(done, scans, slices, tmp_path):
  genotype_file = done / 'search' / 'genotype.json'
  # As many folds as patients: each leaves one out. The last one takes its validation from fold 0.
  folds = (0, PATIENTS - 1)
  arguments = (f'--folds=0,{folds[1]}', f'--config.data.folds={PATIENTS}')
  arguments += (f'--config.genotype={genotype_file}', '--config.retrain.epochs=2')
  assert command(scans, slices, tmp_path / 'run', *arguments) == 0
  summary = json_of(tmp_path / 'run' / 'evaluate' / 'summary.json')
  assert summary['fold'] == [*folds] and summary['patients'] == 2
  of_fold = [
    json_of(tmp_path / 'run' / f'fold_{fold}' / 'evaluate' / 'summary.json') for fold in folds
  ]
  tested = [set(one['patient_names']['test']) for one in of_fold]
  assert tested == [{'Case00'}, {f'Case{folds[1]:02d}'}]
  for fold, names in zip(folds, tested, strict=True):
    written = json_of(tmp_path / 'run' / f'fold_{fold}' / 'splits.json')
    assert set(written['test']) == names and len(written['train']) == PATIENTS - 2
  assert not (tmp_path / 'run' / 'splits.json').exists()
  assert set(summary['patient_names']['test']) == tested[0] | tested[1]
  assert summary['dsc_mean'] == pytest.approx(
    np.mean([one['dsc_mean'] for one in of_fold]), abs=1e-6
  )
  text = (tmp_path / 'run' / 'report.html').read_text(encoding='utf-8')
  assert f'fold_{folds[1]}/report.html' in text and 'Best, median and worst' in text


def test_the_split_is_written_down_as_it_was_used(done):
  names = json_of(done / 'evaluate' / 'summary.json')['patient_names']
  written = json_of(done / 'splits.json')
  assert {part: written[part] for part in names} == names
  assert written['made_by']['folds'] == FOLDS and written['made_by']['fold'] == 0


def test_a_split_that_is_changed_by_hand_afterwards_is_refused(
  done, scans, slices, tmp_path, capsys
):
  workdir = shutil.copytree(done, tmp_path / 'run')
  split = json_of(workdir / 'splits.json')
  split['train'], split['test'] = split['test'], split['train']
  (workdir / 'splits.json').write_text(json.dumps(split))
  before = {name: (workdir / name).read_bytes() for name in files_of(workdir)}
  for stage in ('all', 'retrain', 'evaluate', 'compare', 'report'):
    assert command(scans, slices, workdir, f'--stage={stage}') == 2
    error = capsys.readouterr().err
    assert 'search is done with other settings: data.test_patients [] -> [' in error
    assert '(splits.json counts)' in error and len(error.splitlines()) == 1
  assert {name: (workdir / name).read_bytes() for name in files_of(workdir)} == before


def test_a_split_written_by_hand_decides_who_trains_and_tests(
  done, scans, slices, tmp_path, capsys
):
  workdir = tmp_path / 'run'
  workdir.mkdir()
  parts = {'train': ['Case05', 'Case01', 'Case03'], 'validation': ['Case00'], 'test': ['Case02']}
  (workdir / 'splits.json').write_text(json.dumps(parts))
  arguments = (f'--config.genotype={done / "search" / "genotype.json"}', '--config.data.folds=50')
  assert command(scans, slices, workdir, *arguments) == 2
  assert 'no list has Case04' in capsys.readouterr().err
  parts['test'].append('Case04')
  (workdir / 'splits.json').write_text(json.dumps(parts))
  assert command(scans, slices, workdir, *arguments) == 0
  assert f'split     as in {workdir / "splits.json"}' in capsys.readouterr().out
  names = json_of(workdir / 'evaluate' / 'summary.json')['patient_names']
  assert names == {part: sorted(patients) for part, patients in parts.items()}
  assert json_of(workdir / 'splits.json') == parts
  assert command(scans, slices, workdir, *arguments) == 0  # and goes on with it
  assert 'evaluate: done' in capsys.readouterr().out
  (workdir / 'splits.json').unlink()
  assert command(scans, slices, workdir, *arguments[:1]) == 2
  assert "data.test_patients ['Case02', 'Case04'] -> []" in capsys.readouterr().err


# --- bad input


def write(path, voxels):
  """Replaces the voxels of a MetaImage; its grid stays where the sizes are equal."""
  image = SimpleITK.GetImageFromArray(voxels)
  old = SimpleITK.ReadImage(str(path))
  image.SetSpacing(old.GetSpacing())
  image.SetOrigin(old.GetOrigin())
  image.SetDirection(old.GetDirection())
  SimpleITK.WriteImage(image, str(path), useCompression=True)


def change(name, function):
  """What changes the voxels of one file of a raw folder."""

  def apply(raw):
    path = raw / 'TrainingData' / name
    write(path, function(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))))

  return apply


def with_nan(voxels):
  voxels = voxels.astype(np.float32)
  voxels[1, 2, 3] = np.nan
  return voxels


def remove(name):
  return lambda raw: (raw / 'TrainingData' / name).unlink()


def cut_off(name):
  def apply(raw):
    path = raw / 'TrainingData' / name
    path.write_bytes(path.read_bytes()[:200])

  return apply


def nothing(raw):
  del raw


BAD_INPUT = {
  'an unknown field': (nothing, ['--config.search.epoch=3'], 'did you mean search.epochs'),
  'a wrong type': (nothing, ['--config.search.epochs=many'], 'many'),
  'a value that cannot be': (nothing, ['--config.search.channels=5'], 'multiple of search.sample'),
  'fewer patients than folds': (nothing, ['--config.data.folds=7'], 'only 6 patients'),
  'an unknown patient': (nothing, ["--config.data.test_patients=('Case77',)"], 'Case77'),
  'a missing scan': (remove('Case03.mhd'), [], 'Case03'),
  'a scan that is cut off': (cut_off('Case03.zraw'), [], 'Case03.mhd'),
  'a label outside the classes': (
    change('Case03_segmentation.mhd', lambda voxels: voxels * 7),
    [],
    'Case03_segmentation.mhd: the truth holds class 7',
  ),
  'a NaN volume': (change('Case03.mhd', with_nan), [], 'Case03.mhd: 1 voxels of the scan are NaN'),
  'no scans': (lambda raw: shutil.rmtree(raw / 'TrainingData'), [], 'no TrainingData in it'),
}


# ITK's reader tells the terminal itself what it stumbled over, before it raises.
REMARKS = ('check phantom: ', 'prepare phantom: ', 'MetaImage: ', '   ideal = ')


def assert_one_clear_line(error, message):
  """One line says what is wrong, last; progress and a reader's remarks may stand before it."""
  lines = error.splitlines()
  assert lines[-1].startswith('error: ') and message in lines[-1], error
  assert len(lines[-1]) < 600
  for line in lines[:-1]:
    assert line.startswith(REMARKS), error


@pytest.mark.parametrize('name', BAD_INPUT)
def test_bad_input_is_one_line_and_status_2_and_leaves_nothing(name, scans, tmp_path, capfd):
  damage, arguments, message = BAD_INPUT[name]
  raw = shutil.copytree(scans, tmp_path / 'raw')
  damage(raw)
  assert command(raw, tmp_path / 'slices', tmp_path / 'run', *arguments) == 2
  assert_one_clear_line(capfd.readouterr().err, message)
  assert files_of(tmp_path / 'run') in ([], ['check.html'])  # a run has not begun
  assert not [path for path in (tmp_path / 'slices').rglob('*') if path.is_file()]


@pytest.mark.parametrize('stage', ['retrain', 'evaluate'])
def test_a_stage_whose_input_is_missing_says_so_in_one_line(stage, scans, slices, tmp_path, capfd):
  assert command(scans, slices, tmp_path / 'run', '--stage=prepare') == 0
  capfd.readouterr()
  assert command(scans, slices, tmp_path / 'run', f'--stage={stage}') == 2
  missing = {'retrain': 'genotype.json', 'evaluate': 'there is no model'}[stage]
  assert_one_clear_line(capfd.readouterr().err, missing)
  for left in ('retrain', 'evaluate', 'model', 'report.html'):
    assert not (tmp_path / 'run' / left).exists()
