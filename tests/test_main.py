"""The command line: what it runs, what it skips, and how it says no."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import fabricated
import jax
import pytest

import data_prep
import thrifty_jax
from configs.phantom import get_config
from data_prep import prepare
from thrifty_jax import config as configs
from thrifty_jax import device, lock, records, stages
from thrifty_jax import main as main_
from thrifty_jax.errors import InputError
from thrifty_jax.scores import over_folds

PROJECT = Path(__file__).resolve().parents[1]
CONFIG = '--config=configs/phantom.py'
GENOTYPE_FILE = PROJECT / 'thrifty_jax' / 'genotypes' / 'thrifty_0.61m.json'
GENOTYPE = GENOTYPE_FILE.read_text()


@pytest.fixture(scope='module')
def slices() -> Path:
  """The prepared slices of the config."""
  return prepare.prepare(get_config())


@pytest.fixture
def ran(monkeypatch, slices) -> list[str]:
  """The stages as stand-ins that leave their artefacts; the list of those that ran."""
  monkeypatch.chdir(PROJECT)
  calls: list[str] = []

  def leave(workdir: Path, *names: str) -> None:
    for name in names:
      (workdir / name).parent.mkdir(parents=True, exist_ok=True)
      (workdir / name).write_text(GENOTYPE if name.endswith('genotype.json') else '{}')

  def stage(module: str, name: str, *left: str) -> None:
    def run(*arguments):
      calls.append(name)
      leave(arguments[-1], *left) if left else None

    monkeypatch.setattr(importlib.import_module(module), name, run)

  def find_slices(config, scans):
    calls.append('prepare')
    return slices

  monkeypatch.setattr('thrifty_jax.reporting.report.judge', lambda workdir: ())
  stage('data_prep.checks', 'check')
  monkeypatch.setattr(prepare, 'prepare', find_slices)
  monkeypatch.setattr(prepare, 'prepared_dir', lambda config, scans: Path('nowhere'))
  stage('thrifty_jax.searching.search', 'search', 'search/genotype.json')
  trained = ('retrain/summary.json', 'retrain/genotype.json', 'model/weights.safetensors')
  stage('thrifty_jax.training.retrain', 'retrain', *trained)
  stage('thrifty_jax.scores.evaluate', 'evaluate', 'evaluate/summary.json')
  stage('thrifty_jax.reporting.report', 'report', 'report.html')
  stage('thrifty_jax.training.compare', 'compare')
  monkeypatch.setattr(over_folds, 'write', lambda workdir, folds: calls.append('over_folds'))
  monkeypatch.setattr(device, 'prepare', lambda config: None)
  return calls


def _main(workdir: Path, *arguments: str) -> int:
  return main_.main([CONFIG, f'--workdir={workdir}', *arguments])


@pytest.fixture
def workdir(ran, tmp_path) -> Path:
  """The folder of a run whose slices are prepared."""
  assert _main(tmp_path, '--stage=prepare') == 0
  ran.clear()
  return tmp_path


def test_all_stages_run_in_order_and_leave_what_the_run_was(ran, tmp_path, capsys):
  assert _main(tmp_path / 'run', '--config.seed=7') == 0
  assert ran == ['check', 'prepare', 'search', 'retrain', 'evaluate', 'report']
  config = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert config['seed'] == 7 and config['data']['name'] == 'phantom'
  environment = json.loads((tmp_path / 'run' / 'environment.json').read_text())
  assert '--config.seed=7' in environment['command'] and environment['seed'] == 7
  out = capsys.readouterr().out
  for text in ('thrifty_jax', 'research use only', 'CPU with', 'volume', str(tmp_path / 'run')):
    assert text in out
  assert out.rstrip().endswith('report.html')


@pytest.mark.parametrize(
  ('program', 'typed'),
  [
    ('/usr/bin/thrifty-jax', 'thrifty-jax run'),
    ('/a/thrifty_jax/__main__.py', 'python -m thrifty_jax run'),
    ('/a/thrifty_jax/main.py', 'python -m thrifty_jax.main'),
    ('/a/pytest/__main__.py', 'python -m thrifty_jax.main'),
  ],
)
def test_the_command_is_recorded_as_it_was_typed(ran, workdir, monkeypatch, program, typed):
  monkeypatch.setattr(sys, 'argv', [program])
  _main(workdir, '--stage=search')
  command = json.loads((workdir / 'environment.json').read_text())['command']
  assert command == f'{typed} {CONFIG} --workdir={workdir} --stage=search'


def test_what_is_done_is_skipped_with_a_line_and_the_report_made_again(ran, tmp_path, capsys):
  _main(tmp_path)
  ran.clear()
  capsys.readouterr()
  assert _main(tmp_path) == 0
  assert ran == ['report']
  out = capsys.readouterr().out
  for stage in ('check', 'prepare', 'search', 'retrain', 'evaluate'):
    assert f'{stage}: done' in out


def test_scans_that_are_prepared_are_not_checked_again(ran, tmp_path, slices, monkeypatch):
  monkeypatch.setattr(prepare, 'prepared_dir', lambda config, scans: slices)
  _main(tmp_path)
  assert ran == ['prepare', 'search', 'retrain', 'evaluate', 'report']


def test_a_named_stage_runs_alone_once_and_says_when_it_is_done(ran, workdir, capsys):
  for _ in range(2):
    assert _main(workdir, '--stage=search') == 0
  assert ran == ['search']
  assert 'search: done' in capsys.readouterr().out
  for _ in range(2):
    assert _main(workdir, '--stage=report') == 0
  assert ran == ['search', 'report', 'report']


def test_scores_of_a_model_that_was_trained_again_are_made_again(ran, tmp_path):
  _main(tmp_path)
  (tmp_path / 'retrain' / 'summary.json').unlink()
  ran.clear()
  assert _main(tmp_path) == 0
  assert ran == ['retrain', 'evaluate', 'report']


def test_training_does_not_go_on_with_another_genotype(ran, tmp_path, capsys):
  _main(tmp_path)
  path = tmp_path / 'search' / 'genotype.json'
  path.write_text(GENOTYPE.replace('"down_conv_3x3"', '"down_avg_pool"', 1))
  assert _main(tmp_path) == 2
  assert 'retrain began with another genotype' in capsys.readouterr().err


def test_several_folds_are_runs_of_their_own(ran, tmp_path, capsys):
  assert _main(tmp_path / 'run', '--folds=0,2', '--config.data.folds=4') == 0
  one = ['check', 'prepare', 'search', 'retrain', 'evaluate', 'report']
  assert ran == [*one, *one, 'over_folds', 'report']
  for fold in (0, 2):
    config = json.loads((tmp_path / 'run' / f'fold_{fold}' / 'config.json').read_text())
    assert config['data']['fold'] == fold
  assert sorted(path.name for path in (tmp_path / 'run').iterdir()) == [
    'config.json',
    'environment.json',
    'fold_0',
    'fold_2',
    'report.html',
  ]
  assert 'fold 2 of 4' in capsys.readouterr().out


@pytest.mark.parametrize('text', ['3', '0,0', 'a', '0,', '-1'])
def test_folds_that_are_not_there_are_refused(ran, tmp_path, capsys, text):
  assert _main(tmp_path, f'--folds={text}', '--config.data.folds=3') == 2
  assert 'different ones from 0 to 2' in capsys.readouterr().err and ran == []


def test_a_comparison_that_has_not_ended_in_every_fold_stops_no_other_stage(ran, tmp_path, capsys):
  folds = ('--folds=0,1', '--config.data.folds=4')
  for stage in ('prepare', 'search'):
    assert _main(tmp_path, *folds, f'--stage={stage}') == 0
  for fold, names in enumerate((['thrifty', 'unet'], ['thrifty'])):
    path = tmp_path / f'fold_{fold}' / 'compare' / 'results.json'
    records.write(path, [fabricated.result(name) for name in names])
  assert _main(tmp_path, *folds, '--stage=search') == 0
  assert _main(tmp_path, *folds, '--stage=report') == 2
  assert 'fold_1: compares thrifty, but' in capsys.readouterr().err


def test_one_fold_and_several_do_not_share_a_workdir(ran, tmp_path, capsys):
  assert _main(tmp_path / 'one') == 0
  assert _main(tmp_path / 'one', '--folds=all') == 2
  assert 'holds search/ of a run of one fold' in capsys.readouterr().err
  assert _main(tmp_path / 'all', '--folds=all') == 0
  assert _main(tmp_path / 'all') == 2
  assert 'holds fold_0, fold_1' in capsys.readouterr().err
  assert _main(tmp_path / 'all', '--folds=0', "--config.data.test_patients=('x',)") == 2
  assert 'make one split' in capsys.readouterr().err


def test_a_comparison_needs_a_search_and_no_training_before(ran, tmp_path):
  assert _main(tmp_path, '--stage=compare') == 0
  assert ran == ['check', 'prepare', 'search', 'compare', 'report']


def test_a_comparison_scores_a_run_that_is_trained_as_its_own_stage_does(ran, tmp_path):
  _main(tmp_path)
  (tmp_path / 'evaluate' / 'summary.json').unlink()
  ran.clear()
  assert _main(tmp_path, '--stage=compare') == 0
  assert ran == ['evaluate', 'compare', 'report']


def test_a_comparison_after_a_time_is_refused_before_the_search(ran, tmp_path, capsys):
  assert _main(tmp_path, '--stage=compare', '--config.retrain.minutes=5') == 2
  assert 'retrain.minutes is 5; expected 0' in capsys.readouterr().err and ran == []


def test_a_comparison_of_a_baseline_is_refused(ran, tmp_path, capsys):
  assert main_.main([CONFIG + ':unet', f'--workdir={tmp_path}', '--stage=compare']) == 2
  assert 'leave the variant out' in capsys.readouterr().err and ran == []


@pytest.mark.parametrize('stage', ['retrain', 'evaluate', 'report'])
def test_a_stage_without_what_it_needs_is_refused_and_leaves_nothing(ran, tmp_path, capsys, stage):
  assert _main(tmp_path / 'run', f'--stage={stage}') == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and error.count('\n') == 1
  assert ran == [] and not (tmp_path / 'run').exists()


def test_a_workdir_that_is_a_file_and_a_config_that_holds_no_settings_are_refused(
  ran, tmp_path, capsys
):
  (tmp_path / 'file').write_text('')
  (tmp_path / 'config.json').write_text('[]')
  below = tmp_path / 'file' / 'run'
  for workdir, text in (
    (tmp_path / 'file', 'file is no folder'),
    (below, 'file is no folder; name another'),
    (tmp_path, 'holds no settings'),
  ):
    assert _main(workdir) == 2
    assert text in capsys.readouterr().err
  assert ran == []


@pytest.mark.parametrize('how', ['variant', 'field', 'genotype'])
def test_a_baseline_or_a_given_genotype_is_retrained_without_a_search(ran, tmp_path, how):
  (tmp_path / 'genotype.json').write_text(GENOTYPE)
  arguments = {
    'variant': [CONFIG + ':unet'],
    'field': [CONFIG, '--config.model.name=unet_plus_plus'],
    'genotype': [CONFIG, f'--config.genotype={tmp_path}/genotype.json'],
  }[how]
  assert main_.main([*arguments, f'--workdir={tmp_path}/run']) == 0
  assert ran == ['check', 'prepare', 'retrain', 'evaluate', 'report']


def test_a_changed_field_that_a_finished_stage_has_read_is_refused(ran, tmp_path, capsys):
  _main(tmp_path)
  before = _contents(tmp_path)
  ran.clear()
  assert _main(tmp_path, '--config.search.epochs=3', '--config.data.context=1') == 2
  error = capsys.readouterr().err
  assert ran == [] and _contents(tmp_path) == before
  assert len(error.splitlines()) == 1
  for text in (
    'search is done',
    'search.epochs 4 -> 3',
    'data.context 0 -> 1',
    '--workdir',
    'remove',
  ):
    assert text in error


def test_a_changed_field_of_a_later_stage_leaves_the_search_valid(ran, workdir, capsys):
  assert _main(workdir, '--stage=search') == 0
  assert _main(workdir, '--config.retrain.epochs=9') == 0
  assert ran == ['search', 'retrain', 'evaluate', 'report']
  assert _main(workdir, '--config.retrain.epochs=8') == 2
  assert 'retrain is done' in capsys.readouterr().err


@pytest.mark.parametrize('limit', [0, 500_000])
def test_the_search_has_read_the_width_of_the_network_only_where_it_has_a_limit(
  ran, workdir, capsys, limit
):
  settings = [f'--config.search.max_parameters={limit}', '--config.model.channels=16']
  assert _main(workdir, '--stage=search', *settings) == 0
  settings[-1] = '--config.model.channels=24'
  assert _main(workdir, '--stage=retrain', *settings) == (2 if limit else 0)
  assert ('model.channels 16 -> 24' in capsys.readouterr().err) == bool(limit)


def test_a_race_alone_has_read_how_networks_are_timed():
  for model in ('lean', 'thrifty'):
    config = configs.default()
    configs.set_model(config, model)
    fields = {f'cost.{name}' for name in config.cost}
    read = {name for name in fields if stages.SEARCH.has_read(name, config)}
    assert read == (fields - {'cost.spread'} if model == 'lean' else set())


def test_a_genotype_that_skips_cells_which_the_depth_does_not_have_is_refused_at_once(
  ran, tmp_path, capsys
):
  path = tmp_path / 'genotype.json'
  path.write_text(json.dumps(json.loads(GENOTYPE) | {'skipped': [[1, 0], [3, 0]]}))
  arguments = [f'--config.genotype={path}', '--config.data.image_size=32']
  assert _main(tmp_path / 'run', *arguments, '--config.model.depth=4') == 2
  error = capsys.readouterr().err
  assert error.startswith(f'error: {path} skips cell [3, 0]') and error.count('\n') == 1
  assert 'a depth of 5 or more' in error and ran == [] and not (tmp_path / 'run').exists()
  assert _main(tmp_path / 'run', *arguments, '--config.model.depth=5') == 0


def test_a_changed_field_that_no_stage_depends_on_is_taken(ran, tmp_path):
  _main(tmp_path)
  assert _main(tmp_path, '--config.data.prefetch=9', '--config.device=cpu') == 0


def test_a_run_goes_on_with_other_microbatches_but_not_in_another_precision(ran, tmp_path, capsys):
  _main(tmp_path)
  smaller = ('--config.search.microbatches=2', '--config.retrain.remat=True')
  assert _main(tmp_path, *smaller) == 0
  assert _main(tmp_path, '--config.precision=bfloat16') == 2
  assert 'search is done with other settings: precision' in capsys.readouterr().err


def test_memory_that_runs_out_is_one_line_and_status_2(ran, workdir, capsys, monkeypatch):
  def full(config, workdir):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory\nallocating 9 bytes')

  monkeypatch.setattr(sys.modules['thrifty_jax.searching.search'], 'search', full)
  assert _main(workdir, '--stage=search') == 2
  error = capsys.readouterr().err
  assert error.startswith('error: search: out of memory (Out of memory allocating 9 bytes); set ')
  assert error.count('\n') == 1 and 'search.microbatches=' in error


def test_a_half_done_search_refuses_changes_too(ran, workdir, capsys):
  _main(workdir, '--stage=search')
  (workdir / 'search' / 'genotype.json').unlink()
  assert _main(workdir, '--config.search.epochs=5', '--stage=check') == 0  # nothing saved yet
  (workdir / 'search' / 'checkpoints' / '12').mkdir(parents=True)
  assert _main(workdir, '--config.search.epochs=3') == 2
  assert 'search is half done' in capsys.readouterr().err


def test_all_folds_are_checked_once_and_no_run_begins(ran, tmp_path):
  assert _main(tmp_path / 'run', '--folds=all', '--stage=check') == 0
  assert ran == ['check'] and not (tmp_path / 'run').exists()


def test_bad_input_in_a_stage_is_one_line_and_status_2(ran, tmp_path, capsys, monkeypatch):
  def refuse(*arguments):
    raise InputError('scan.mhd: holds NaN; expected numbers; remove it')

  monkeypatch.setattr(data_prep.checks, 'check', refuse)
  assert _main(tmp_path) == 2
  assert capsys.readouterr().err == 'error: scan.mhd: holds NaN; expected numbers; remove it\n'
  assert ran == []
  assert list(tmp_path.iterdir()) == []


def test_a_full_disk_in_a_stage_is_one_line_and_status_2(ran, tmp_path, capsys, monkeypatch):
  def fill_up(workdir):
    raise OSError(28, 'No space left on device', str(workdir / 'report.html'))

  monkeypatch.setattr(thrifty_jax.reporting.report, 'report', fill_up)
  assert _main(tmp_path / 'run') == 2
  error = capsys.readouterr().err
  assert error.startswith(f'error: {tmp_path}/run: cannot be written (no space left on device)')
  assert error.endswith('--workdir\n') and len(error.splitlines()) == 1


@pytest.mark.parametrize('writer', ['running.console.record', 'data.split_file.write'])
def test_a_full_disk_before_a_stage_is_one_line_too(ran, tmp_path, capsys, monkeypatch, writer):
  def fill_up(*arguments):
    raise OSError(28, 'No space left on device', str(tmp_path / 'run' / 'config.json'))

  monkeypatch.setattr(f'thrifty_jax.{writer}', fill_up)
  assert _main(tmp_path / 'run') == 2
  error = capsys.readouterr().err
  assert error.startswith(f'error: {tmp_path}/run: cannot be written (no space left on device)')
  assert len(error.splitlines()) == 1


def test_a_fault_is_status_1_with_its_traceback(ran, tmp_path, capsys, monkeypatch):
  def fail(*arguments):
    raise RuntimeError('a mistake of ours')

  monkeypatch.setattr(data_prep.checks, 'check', fail)
  assert _main(tmp_path) == 1
  error = capsys.readouterr().err
  assert 'Traceback' in error and 'a mistake of ours' in error


BAD_COMMANDS = [
  ([], '--config is missing'),
  (['--config'], '--config is missing'),
  (['--confg=brain'], '--config is missing, for example --config=brain; --confg is no option;'),
  (['--config=configs/nothing.py'], 'no file configs/nothing.py; expected one, or a name: brain, '),
  (['--config=phantm:unet'], 'did you mean phantom?'),
  ([CONFIG + ':smal'], "unknown config variant 'smal'"),
  ([CONFIG, '--config.search.epoch=3'], 'did you mean search.epochs?'),
  ([CONFIG, '--config.epochs=3'], 'no such field; did you mean'),
  ([CONFIG, '--config.search=3'], '--config.search is a group'),
  ([CONFIG, '--config.search.epochs=many'], 'config.search.epochs=many'),
  ([CONFIG, '--config.search.epochs=1.5'], 'config.search.epochs=1.5'),
  ([CONFIG, '--config.model.deep_supervision=7'], 'config.model.deep_supervision=7'),
  ([CONFIG, '--config.data.fold=9'], 'config.data.fold is 9; expected from 0 to 4'),
  ([CONFIG, '--config.data.image_size=0'], 'but phantom does not determine it; set it'),
  (['--config=configs/folder.py'], 'no dataset.json there'),
  ([CONFIG, '--config.genotype=nowhere.json'], "'nowhere.json'; expected a file that exists"),
  ([CONFIG, '--stage=serach'], 'did you mean search?'),
  ([CONFIG, '--stages=all'], "Unknown command line flag 'stages'"),
  ([CONFIG, 'search'], "unexpected argument 'search'"),
]


@pytest.mark.parametrize(('arguments', 'message'), BAD_COMMANDS)
def test_a_bad_command_is_one_clear_line_and_status_2(ran, arguments, message, capsys, tmp_path):
  assert main_.main([*arguments]) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and len(error.splitlines()) == 1
  assert message in error
  assert ran == []


def test_lists_and_flags_can_be_set_from_the_command_line(ran, tmp_path):
  lists = "--config.data.test_patients=('Case01','Case02')"
  assert _main(tmp_path, lists, '--noconfig.augment.flip_left_right') == 0
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config['data']['test_patients'] == ['Case01', 'Case02']
  assert config['augment']['flip_left_right'] is False


def test_without_an_accelerator_asking_for_one_is_refused(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(PROJECT)
  if device.describe().startswith('CPU'):
    assert _main(tmp_path / 'run', '--config.device=tpu') == 2
    assert "config.device is 'tpu', but" in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


def test_a_new_process_shows_help_quickly_and_exits_with_2_on_a_typo(tmp_path):
  code = (
    'import sys; from thrifty_jax.main import main; status = main(sys.argv[1:]);'
    'assert not {"jax", "tensorflow_datasets", "nibabel"} & sys.modules.keys(); sys.exit(status)'
  )
  command = [sys.executable, '-c', code]
  shown = subprocess.run([*command, '--help'], capture_output=True, text=True, cwd=PROJECT)
  assert shown.returncode == 0, shown.stderr
  for text in ('usage:', '--stage', 'evaluate', 'small', 'report.html', 'Exit status'):
    assert text in shown.stdout
  typo = [*command, CONFIG, '--config.sed=3']
  refused = subprocess.run(typo, capture_output=True, text=True, cwd=PROJECT)
  assert refused.returncode == 2
  assert refused.stderr == 'error: --config.sed: there is no such field; did you mean seed?\n'


def test_a_workdir_in_use_is_refused_with_one_line_and_stays_as_it_is(ran, tmp_path, capsys):
  for used, arguments in (
    ('run', []),
    ('run/fold_1', ['--folds=all']),
    ('run', ['--folds=1', '--stage=check']),
  ):
    with lock.hold(tmp_path / used):
      assert _main(tmp_path / 'run', *arguments) == 2
      error = capsys.readouterr().err
      assert f'{tmp_path / used}: process {os.getpid()} ' in error and error.count('\n') == 1
      assert {path.name for path in tmp_path.rglob('*')} <= {'run', 'fold_1', '.lock'}
  assert ran == [] and list(tmp_path.iterdir()) == []
  with lock.hold(tmp_path):
    assert _main(tmp_path, '--stage=describe', f'--config.genotype={GENOTYPE_FILE}') == 0


def test_a_run_that_goes_on_elsewhere_keeps_where_it_was_before(ran, workdir, monkeypatch):
  _main(workdir, '--stage=search')
  _main(workdir, '--stage=retrain')
  environment = json.loads((workdir / 'environment.json').read_text())
  assert environment['earlier'] == []
  before = {name: value for name, value in environment.items() if name != 'earlier'}
  for version in ('9.0', '9.1'):
    monkeypatch.setattr(thrifty_jax, '__version__', version)
    _main(workdir, '--stage=evaluate')
    (workdir / 'evaluate' / 'summary.json').unlink()
  found = json.loads((workdir / 'environment.json').read_text())
  assert found['thrifty_jax'] == '9.1'
  assert found['earlier'][0] == before
  assert [each['thrifty_jax'] for each in found['earlier']] == [before['thrifty_jax'], '9.0']


def test_a_report_can_be_made_of_a_run_that_goes_on(ran, workdir):
  _main(workdir, '--stage=search')
  with lock.hold(workdir):
    assert _main(workdir, '--stage=report') == 0
  assert ran == ['search', 'report']


def test_a_fold_is_not_trained_twice_at_once(ran, slices, tmp_path, capsys, monkeypatch):
  def prepare_all(config, scans):
    if not outer:
      return slices
    outer.clear()
    assert _main(tmp_path / 'fold_2', '--config.data.fold=2') == 2
    assert f'{tmp_path / "fold_2"}: process' in capsys.readouterr().err
    return slices

  outer = ['has not been asked']
  monkeypatch.setattr(prepare, 'prepare', prepare_all)
  assert _main(tmp_path, '--folds=all', '--config.data.folds=3') == 0
  assert outer == [] and not list(tmp_path.rglob(lock.FILE))


def _contents(folder: Path) -> dict[str, bytes]:
  return {str(path): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}
