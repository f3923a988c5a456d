"""A run's progress in TensorBoard, MLflow and Weights & Biases, read back by their own readers."""

import shutil
import time
import types
from pathlib import Path

import numpy as np
import pytest
from tracker_files import READERS, mlflow_run, read_tensorboard, wandb_records

from thrifty_jax import config as configs
from thrifty_jax import logbook, settings
from thrifty_jax.errors import InputError
from thrifty_jax.tracking import journal, stores, trackers
from thrifty_jax.tracking.trackers import Trackers
from thrifty_jax.training import autosave, hosts

EPOCHS = [
  {'epoch': 1, 'step': 4, 'loss': 0.5, 'alphas': [0.5, 0.5], 'architecture_loss': None},
  {'epoch': 2, 'step': 8, 'loss': 0.25, 'learning_rate': 1e-3},
  {'epoch': 3, 'step': 12, 'loss': 0.125},
]
LOSSES = [(4, 0.5), (8, 0.25), (12, 0.125)]


def config_with(*names):
  config = configs.default()
  config.trackers = names
  configs.validate(config)
  return config


@pytest.fixture(scope='module', autouse=True)
def at_home():
  """No variable of this machine names a server."""
  with pytest.MonkeyPatch.context() as patch:
    for name in ('MLFLOW_TRACKING_URI', 'MLFLOW_EXPERIMENT_NAME', 'WANDB_MODE', 'WANDB_PROJECT'):
      patch.delenv(name, raising=False)
    patch.setattr(trackers, 'PATIENCE', 120.0)  # on a busy machine too
    yield


@pytest.fixture(params=READERS)
def kind(request):
  for package in settings.TRACKERS[request.param]:
    pytest.importorskip(package)
  return request.param


def send(config, workdir, stage, entries):
  sent = Trackers(config, workdir, stage)
  for entry in entries:
    sent.add(entry)
  sent.close()


# --- what is in each of them


NAMES = ('Case17', 'Jane_Doe')
PLACES = ('/home/someone/scans', '/srv/models/liver', 'node7.example.org:1234')


@pytest.fixture(scope='module')
def everywhere(tmp_path_factory):
  """The folder of a run that all trackers got, with settings that are nobody's business."""
  for name in ('tensorboardX', 'mlflow', 'sqlalchemy', 'wandb'):
    pytest.importorskip(name)
  config = config_with(*settings.TRACKERS)
  config.data.update({'exclude': NAMES[:1], 'validation_patients': NAMES[:1]})
  config.data.update({'test_patients': NAMES[1:], 'raw_dir': PLACES[0], 'masks': PLACES[0]})
  config.retrain.update({'start_from': PLACES[1], 'learning_rate': 3e-3})
  config.coordinator_address = PLACES[2]
  workdir = tmp_path_factory.mktemp('everywhere') / 'liver' / 'fold_2'
  sent = Trackers(config, workdir, 'evaluate')
  sent.add_scores({'dsc': 0.5}, {f'worst/{NAMES[1]}': np.zeros((8, 24, 3), np.uint8)})
  sent.close()
  return workdir


def test_a_run_that_is_stopped_and_goes_on_is_one_run_with_every_epoch_once(kind, tmp_path, capsys):
  config, workdir = config_with(kind), tmp_path / 'liver'
  send(config, workdir, 'search', [{'epoch': 1, 'step': 7, 'weight_loss': 0.75}])
  send(config, workdir, 'retrain', EPOCHS[:2])
  send(config, workdir, 'retrain', EPOCHS[1:])  # the second was not in the last checkpoint
  found = READERS[kind](workdir)
  assert found['retrain/loss'] == LOSSES
  assert found['retrain/epoch'] == [(4, 1), (8, 2), (12, 3)]
  assert found['search/weight_loss'] == [(7, 0.75)]
  assert found['retrain/learning_rate'] == [(8, pytest.approx(1e-3))]
  assert not {name.partition('/')[2] for name in found} & {'alphas', 'architecture_loss'}
  assert capsys.readouterr().out == ''


def test_scores_are_sent_again_only_where_they_differ(tmp_path):
  pytest.importorskip('tensorboardX')
  config = config_with('tensorboard')
  for dsc in (0.875, 0.875, 0.75):
    sent = Trackers(config, tmp_path, 'evaluate')
    sent.add_scores({'dsc': dsc, 'Leber (rechts) 1/dsc': dsc}, {})
    sent.close()
  found = read_tensorboard(tmp_path)
  assert found['evaluate/dsc'] == [(0, 0.875), (1, 0.75)]
  assert found['evaluate/Leber_rechts_1/dsc'] == found['evaluate/dsc']


def test_the_settings_are_those_of_the_run_and_its_name_is_that_of_its_folder(everywhere):
  assert 'settings/text_summary' in read_tensorboard(everywhere)
  _, run = mlflow_run(everywhere)
  assert run.data.params['retrain.learning_rate'] == '0.003' and run.info.status == 'FINISHED'
  (of_run,) = (record['run'] for record in wandb_records(everywhere) if record['type'] == 'run')
  assert of_run['config']['update']['retrain.learning_rate'] == 3e-3
  assert run.info.run_name == of_run['display_name'] == 'liver/fold_2'
  assert run.data.tags['thrifty_jax'] == of_run['run_id']
  assert of_run['host'] == 'thrifty_jax'  # not the machine's


def test_another_training_in_the_folder_is_another_run_and_a_longer_one_is_not(tmp_path):
  config = config_with()
  first = journal.Journal(config, tmp_path)
  first.add('retrain', 4, {'loss': 0.5})
  config.retrain.epochs *= 2
  config.debug = True
  again = journal.Journal(config, tmp_path)
  assert again.head == first.head and again.lines == first.lines
  config.retrain.learning_rate *= 2
  other = journal.Journal(config, tmp_path)
  assert other.head.id != first.head.id and other.lines == []


def other_genotype(config, folder):
  content = (folder / 'genotype.json').read_text()
  (folder / 'other.json').write_text(content.replace('"down_conv_3x3"', '"down_avg_pool"', 1))
  config.genotype = str(folder / 'other.json')


@pytest.mark.parametrize(
  'change',
  [
    other_genotype,
    lambda config, _: config.data.update({'validation_patients': NAMES[:1]}),
    lambda config, _: config.retrain.update({'start_from': PLACES[1]}),
    lambda config, _: config.retrain.update({'teacher': PLACES[1]}),
  ],
)
def test_another_genotype_split_or_model_is_another_run_and_stays_private(change, tmp_path):
  example = Path(journal.__file__).parents[1] / 'genotypes' / 'thrifty_0.61m.json'
  for name in ('genotype.json', 'copy.json'):
    shutil.copyfile(example, tmp_path / name)
  config = config_with()
  config.genotype = str(tmp_path / 'genotype.json')
  first = journal.Journal(config, tmp_path)
  first.add('retrain', 4, {'loss': 0.5})
  config.genotype, config.data.raw_dir = str(tmp_path / 'copy.json'), PLACES[0]
  assert journal.Journal(config, tmp_path).lines == first.lines  # the same, elsewhere
  path = tmp_path / 'trackers' / 'journal.jsonl'
  path.write_text(path.read_text().replace(first.head.private, ''))  # as an older version has it
  assert journal.Journal(config, tmp_path).head == first.head
  change(config, tmp_path)
  other = journal.Journal(config, tmp_path)
  assert other.head.id != first.head.id and other.lines == []
  assert not [word for word in (*NAMES, *PLACES, str(tmp_path)) if word in path.read_text()]


def test_a_training_that_begins_anew_is_another_run_with_the_lines_of_searches(tmp_path):
  config = config_with()
  first = journal.Journal(config, tmp_path, begins='search')
  for stage, step in (('search', 7), ('retrain', 4), ('evaluate', 0), ('search', 14)):
    first.add(stage, step, {'dsc': 0.5})
    logbook.Logbook(tmp_path / stage).truncate(0)
  again = journal.Journal(config, tmp_path)
  assert again.head == first.head and again.lines == first.lines
  anew = journal.Journal(config, tmp_path, begins='retrain')
  assert anew.head.id != first.head.id
  assert [(line.stage, line.step) for line in anew.lines] == [('search', 7), ('search', 14)]
  added = anew.add('retrain', 4, {'dsc': 0.25})
  assert added and added.number == 2
  other = journal.Journal(config, tmp_path, begins='search/seed_1')  # the first of its name
  assert other.head == anew.head and other.lines == anew.lines


def test_searches_that_were_removed_begin_anew_as_one_run_without_the_old_figures(tmp_path):
  config, seeds = config_with(), [f'search/seed_{seed}' for seed in range(3)]
  books = []
  for loss in (0.5, 0.25):
    for stage in seeds:
      books.append(journal.Journal(config, tmp_path, begins=stage))
      logbook.Logbook(tmp_path / stage).truncate(0)
      books[-1].add(stage, 4, {'loss': loss})
    shutil.rmtree(tmp_path / 'search')
  ids = [book.head.id for book in books]
  assert len({*ids[:3]}) == len({*ids[3:]}) == 1 and ids[0] != ids[3]
  lines = [(line.stage, line.figures['loss']) for line in books[-1].lines]
  assert lines == [(stage, 0.25) for stage in seeds]


@pytest.mark.parametrize(('was_removed', 'loss'), [(True, 0.25), (False, 0.5)])
def test_figures_of_a_training_that_was_removed_are_not_those_of_the_next(
  was_removed, loss, tmp_path
):
  pytest.importorskip('tensorboardX')
  for value in (0.5, 0.25):  # the second begins at the first step too, as if the first was killed
    progress = autosave.Progress(state=types.SimpleNamespace(step=0))
    saved = autosave.Autosave(config_with('tensorboard'), tmp_path / 'retrain', 'retrain', progress)
    with saved.looping(steps=4, slices_of=str):
      saved.log.append({'epoch': 1, 'step': 4, 'loss': value})
    if was_removed and value == 0.5:
      shutil.rmtree(tmp_path / 'retrain')
  assert read_tensorboard(tmp_path)['retrain/loss'] == [(4, loss)]


def test_a_line_that_a_crash_cut_off_is_written_again(tmp_path):
  config = config_with()
  book = journal.Journal(config, tmp_path)
  for step in (4, 8):
    book.add('retrain', step, {'loss': 1 / step})
  path = tmp_path / 'trackers' / 'journal.jsonl'
  path.write_text(path.read_text()[:-9])
  book = journal.Journal(config, tmp_path)
  assert [line.step for line in book.lines] == [4]
  assert book.add('retrain', 4, {'loss': 1.0}) is None
  added = book.add('retrain', 8, {'loss': 0.125})
  assert added and added.number == 1
  assert journal.Journal(config, tmp_path).lines == book.lines


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('', 'has no line'),
    ('{"id": "0"}\n', 'line 1'),
    ('[]\n', 'line 1'),
    ('\xff\n', 'line 1'),
    ('{"id": "0", "name": "a", "settings": {}}\n{"stage": 3}\n', 'line 2'),
  ],
)
def test_a_damaged_journal_is_one_line_that_says_what_to_remove(content, message, tmp_path):
  path = tmp_path / 'trackers' / 'journal.jsonl'
  path.parent.mkdir()
  path.write_text(content, encoding='latin-1')
  with pytest.raises(InputError, match=message) as refused:
    journal.Journal(config_with(), tmp_path)
  assert 'remove the folder' in str(refused.value) and '\n' not in str(refused.value)


def test_only_the_first_of_several_processes_tracks_and_each_seed_has_its_own_names(
  tmp_path, monkeypatch
):
  pytest.importorskip('tensorboardX')
  config, folder = config_with('tensorboard'), tmp_path / 'search' / 'seed_1'
  for first in (False, True):
    monkeypatch.setattr(hosts, 'is_first', lambda first=first: first)
    progress = autosave.Progress(state=types.SimpleNamespace(step=0))
    saved = autosave.Autosave(config, folder, 'search', progress)
    with saved.looping(steps=1, slices_of=str):
      saved.log.append({'epoch': 1, 'step': 4, 'weight_loss': 0.5})
    assert (tmp_path / 'trackers').exists() == first
  assert read_tensorboard(tmp_path)['search/seed_1/weight_loss'] == [(4, 0.5)]


# --- what is not sent


def test_no_name_of_a_patient_and_no_place_of_the_machine_leaves_it(everywhere):
  _, run = mlflow_run(everywhere)
  head = (everywhere / 'trackers' / 'journal.jsonl').read_text()
  words = (*NAMES, *PLACES, str(everywhere.parents[1]))
  for text in (run.data, wandb_records(everywhere), head):
    assert not [word for word in words if word in str(text)]
  assert run.info.user_id == 'unknown'
  (shown,) = read_tensorboard(everywhere, 'patients').values()  # it stays here
  assert [(step, picture.width, picture.height) for step, picture in shown] == [(0, 24, 8)]
  assert not [*(everywhere / 'trackers' / 'wandb').glob('**/*.png')]


def test_a_text_is_private_unless_its_row_says_otherwise():
  rows = settings.SETTINGS
  private = {name for name, row in rows.items() if row.private}
  texts = {name for name, row in rows.items() if row.allowed.expected == 'a text'}
  assert texts - private == {'data.name', 'data.derivative'}
  words = ('_dir', 'patients', 'exclude', 'genotype', 'genotypes', 'cluster', 'address')
  named = {name for name, row in rows.items() if not isinstance(row.default, int)}
  assert {name for name in named if name.endswith(words)} <= private


# --- what goes wrong


class _Fails:
  """A tracker whose server goes away at the second line."""

  sent = 0

  def __init__(self, head, folder):
    pass

  def send(self, line):
    type(self).sent += 1
    if line.number:
      raise ConnectionError('the server\nis away')

  def close(self):
    raise AssertionError('it has failed before')


def test_a_tracker_that_fails_is_one_line_and_the_others_go_on(tmp_path, monkeypatch, capsys):
  pytest.importorskip('tensorboardX')
  monkeypatch.setitem(stores.STORES, 'mlflow', _Fails)
  config = configs.default()
  config.trackers = ('mlflow', 'tensorboard')
  send(config, tmp_path, 'retrain', EPOCHS)
  assert read_tensorboard(tmp_path)['retrain/loss'] == LOSSES
  (line,) = capsys.readouterr().out.splitlines()
  assert 'mlflow has failed: the server is away; the run goes on without it' in line
  assert _Fails.sent == 2
  kept: list[int] = []
  later = types.SimpleNamespace(send=lambda line: kept.append(line.step), close=lambda: None)
  monkeypatch.setitem(stores.STORES, 'mlflow', lambda head, folder: later)
  send(config, tmp_path, 'evaluate', [])  # the next stage sends what is missing
  assert kept == [4, 8, 12]


def test_a_tracker_that_hangs_holds_up_neither_a_step_nor_for_long_the_end(
  tmp_path, monkeypatch, capsys
):
  hanging = types.SimpleNamespace(send=lambda line: time.sleep(60))
  monkeypatch.setitem(stores.STORES, 'wandb', lambda head, folder: hanging)
  monkeypatch.setattr(trackers, 'PATIENCE', 0.5)
  config = configs.default()
  config.trackers = ('wandb',)
  began = time.monotonic()
  send(config, tmp_path, 'retrain', EPOCHS)
  assert time.monotonic() - began < 10
  assert 'wandb has not taken all in 0.5 s; the run goes on' in capsys.readouterr().out


def test_without_a_key_wandb_asks_nobody(tmp_path, monkeypatch, capsys):
  pytest.importorskip('wandb')
  monkeypatch.setenv('WANDB_MODE', 'online')
  monkeypatch.setenv('WANDB_BASE_URL', 'http://127.0.0.1:9')
  monkeypatch.setenv('NETRC', str(tmp_path / 'netrc'))
  monkeypatch.delenv('WANDB_API_KEY', raising=False)
  send(config_with('wandb'), tmp_path, 'retrain', EPOCHS)
  assert 'wandb has failed: ' in capsys.readouterr().out


@pytest.mark.parametrize('name', settings.TRACKERS)
def test_a_tracker_that_is_not_installed_is_refused_with_what_to_install(name, monkeypatch):
  package = settings.TRACKERS[name][0]
  find = configs.importlib.util.find_spec
  without = lambda wanted: None if wanted == package else find(wanted)  # noqa: E731
  monkeypatch.setattr(configs.importlib.util, 'find_spec', without)
  with pytest.raises(InputError) as refused:
    config_with(name)
  message = str(refused.value)
  assert f'config.trackers is {(name,)!r}; expected ' in message and package in message
  assert 'pip install -r requirements-trackers.txt' in message and '\n' not in message
  config_with()


def test_what_is_no_tracker_is_refused():
  with pytest.raises(InputError, match='expected different ones of tensorboard, mlflow, wandb'):
    config_with('tensorbord')
