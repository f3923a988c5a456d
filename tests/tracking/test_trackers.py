"""A run's progress in TensorBoard, MLflow and Weights & Biases, read back by their own readers."""

import json
import socket
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from recorded import prepare_for

from data_prep import phantom
from thrifty_jax import config as configs
from thrifty_jax import logbook, settings, stopping
from thrifty_jax.errors import InputError
from thrifty_jax.scores import evaluate
from thrifty_jax.tracking import journal, stores, trackers
from thrifty_jax.tracking.trackers import Trackers
from thrifty_jax.training import retrain

EPOCHS = [
  {'epoch': 1, 'step': 4, 'loss': 0.5, 'alphas': [0.5, 0.5], 'architecture_loss': None},
  {'epoch': 2, 'step': 8, 'loss': 0.25, 'learning_rate': 1e-3},
  {'epoch': 3, 'step': 12, 'loss': 0.125},
]
LOSSES = [(4, 0.5), (8, 0.25), (12, 0.125)]


# --- the readers of each tracker, for its files in a run's folder: (step, value) by name


def read_tensorboard(workdir, part='.'):
  event_pb2 = pytest.importorskip('tensorboardX.proto.event_pb2')
  found = {}
  for path in (workdir / 'trackers' / 'tensorboard' / part).glob('events.out.*'):
    content = path.read_bytes()
    while content:  # length, its checksum, the event, its checksum
      length = int.from_bytes(content[:8], 'little')
      event = event_pb2.Event.FromString(content[12 : 12 + length])
      for each in event.summary.value:
        found.setdefault(each.tag, []).append((event.step, each.simple_value or each.image))
      content = content[16 + length :]
  return found


def mlflow_run(workdir):
  """The client of a run's own database, and its one run."""
  client_of = pytest.importorskip('mlflow').MlflowClient
  pytest.importorskip('sqlalchemy')
  client = client_of(f'sqlite:///{workdir}/trackers/mlflow.db')
  experiment = client.get_experiment_by_name('thrifty_jax')
  assert experiment
  (run,) = client.search_runs([experiment.experiment_id])
  return client, run


def read_mlflow(workdir):
  client, run = mlflow_run(workdir)
  return {
    name: [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
    for name in run.data.metrics
  }


def wandb_records(workdir):
  """What the one offline run holds, as its own program prints it."""
  pytest.importorskip('wandb')
  (path,) = (workdir / 'trackers' / 'wandb').glob('offline-run-*/run-*.wandb')
  command = [sys.executable, '-m', 'wandb', 'leet', 'inspect', '--json', str(path)]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  return [json.loads(line) for line in done.stdout.splitlines()]


def read_wandb(workdir):
  found = {}
  for record in wandb_records(workdir):
    if record['type'] == 'history':
      item = record['history']['item']
      for name, value in item.items():
        stage = name.rpartition('/')[0]
        if stage and not name.endswith('/step'):
          steps = [value for key, value in item.items() if key.endswith('/step')]
          found.setdefault(name, []).append((*steps, value))
  return found


READERS = {'tensorboard': read_tensorboard, 'mlflow': read_mlflow, 'wandb': read_wandb}


def config_with(*names):
  config = configs.default()
  config.trackers = names
  configs.validate(config)
  return config


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
  """No variable of this machine names a server."""
  for name in ('MLFLOW_TRACKING_URI', 'MLFLOW_EXPERIMENT_NAME', 'WANDB_MODE', 'WANDB_PROJECT'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(trackers, 'PATIENCE', 120.0)  # on a busy machine too


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


def test_scores_are_sent_again_only_where_they_differ(kind, tmp_path):
  config = config_with(kind)
  for dsc in (0.875, 0.875, 0.75):
    sent = Trackers(config, tmp_path, 'evaluate')
    sent.add_scores({'dsc': dsc, 'Leber (rechts), 1/dsc': dsc}, {})
    sent.close()
  found = READERS[kind](tmp_path)
  assert found['evaluate/dsc'] == [(0, 0.875), (1, 0.75)]
  assert found['evaluate/Leber _rechts__ 1/dsc'] == found['evaluate/dsc']


def test_the_settings_are_those_of_the_run_and_its_name_is_that_of_its_folder(tmp_path):
  for name in ('tensorboardX', 'mlflow', 'sqlalchemy', 'wandb'):
    pytest.importorskip(name)
  config, workdir = config_with('tensorboard', 'mlflow', 'wandb'), tmp_path / 'liver' / 'fold_2'
  config.retrain.learning_rate = 3e-3
  send(config, workdir, 'retrain', EPOCHS)
  assert 'settings/text_summary' in read_tensorboard(workdir)
  _, run = mlflow_run(workdir)
  assert run.data.params['retrain.learning_rate'] == '0.003' and run.info.status == 'FINISHED'
  (of_run,) = (record['run'] for record in wandb_records(workdir) if record['type'] == 'run')
  assert of_run['config']['update']['retrain.learning_rate'] == 3e-3
  assert run.info.run_name == of_run['display_name'] == 'liver/fold_2'
  assert run.data.tags['thrifty_jax'] == of_run['run_id']


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


# --- what is not sent


NAMES = ('Case17', 'Jane_Doe')
PLACES = ('/home/someone/scans', '/srv/models/liver', 'node7.example.org:1234')


def test_no_name_of_a_patient_and_no_place_of_the_machine_leaves_it(tmp_path):
  for name in ('mlflow', 'sqlalchemy', 'wandb'):
    pytest.importorskip(name)
  config = config_with('tensorboard', 'mlflow', 'wandb')
  config.data.update({'exclude': NAMES[:1], 'validation_patients': NAMES[:1]})
  config.data.update({'test_patients': NAMES[1:], 'raw_dir': PLACES[0], 'masks': PLACES[0]})
  config.retrain.start_from, config.coordinator_address = PLACES[1], PLACES[2]
  sent = Trackers(config, tmp_path / 'liver', 'evaluate')
  picture = np.zeros((8, 24, 3), np.uint8)
  sent.add_scores({'dsc': 0.5}, {f'worst: {NAMES[1]}': picture})
  sent.close()
  _, run = mlflow_run(tmp_path / 'liver')
  for text in (run.data, wandb_records(tmp_path / 'liver'), journal.public_settings(config)):
    words = (*NAMES, *PLACES, str(tmp_path), socket.gethostname())
    assert not [word for word in words if word in str(text)]
  assert run.info.user_id == 'unknown'
  (shown,) = read_tensorboard(tmp_path / 'liver', 'patients').values()  # it stays here
  assert [(step, image.width, image.height) for step, image in shown] == [(0, 24, 8)]
  assert not list((tmp_path / 'liver' / 'trackers' / 'wandb').glob('**/*.png'))


def test_every_setting_that_is_a_path_or_a_list_of_patients_is_private():
  texts = {name for name, row in settings.SETTINGS.items() if isinstance(row.default, str | tuple)}
  private = {name for name, row in settings.SETTINGS.items() if row.private}
  assert private <= texts
  words = ('_dir', 'patients', 'exclude', 'genotype', 'images', 'masks', 'start_from', 'cache')
  assert {name for name in texts if name.rpartition('.')[2].endswith(words)} <= private
  assert {'front.costs', 'front.cluster', 'coordinator_address', 'compare.genotypes'} <= private


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


# --- a whole run


@pytest.mark.usefixtures('quick_compilation')
def test_a_training_that_is_stopped_and_its_scores_are_one_run(tmp_path, phantom_config, stop_at):
  pytest.importorskip('tensorboardX')
  config = phantom_config(tmp_path)
  config.trackers = ('tensorboard',)
  config.model.update({'name': 'unet', 'width': 2})
  config.retrain.update({'epochs': 4, 'warmup_epochs': 1, 'batch_size': 4})
  config.evaluate.list_suspects = False
  phantom.write_promise12(tmp_path / 'raw', patients=6, seed=0)
  workdir = tmp_path / 'run'
  prepare_for(config, workdir)
  with stop_at(5), pytest.raises(stopping.Stopped):
    retrain.retrain(config, workdir)
  retrain.retrain(config, workdir)
  summary = evaluate.evaluate(config, workdir)
  found, entries = read_tensorboard(workdir), logbook.Logbook(workdir / 'retrain').entries()
  for name in ('epoch', 'loss', 'dsc', 'learning_rate', 'seconds'):
    expected = [(entry['step'], pytest.approx(entry[name])) for entry in entries]
    assert found[f'retrain/{name}'] == expected
  assert found['evaluate/dsc'] == [(0, pytest.approx(summary.mean.dsc_mean))]
  of_class = config.data.classes[1]
  assert found[f'evaluate/{of_class}/hd95_mm'] == [
    (0, pytest.approx(summary.classes[of_class].hd95_mm.mean))
  ]
  shown = read_tensorboard(workdir, 'patients')
  patients = {case.patient for case in summary.cases}
  assert {title.split(':')[0] for title in shown} == {'best', 'worst'}
  assert all(any(name in title for name in patients) for title in shown)
  ((_, image),) = shown[min(shown)]
  assert image.width == 3 * image.height
