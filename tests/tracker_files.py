"""Reads what a run has left for its trackers, by the trackers' own readers."""

import json
import subprocess
import sys

import pytest


def read_tensorboard(workdir, part='.'):
  """The (step, value or picture) of every name in TensorBoard's files."""
  event_pb2 = pytest.importorskip('tensorboardX.proto.event_pb2')
  found = {}
  for path in (workdir / 'trackers' / 'tensorboard' / part).glob('events.out.*'):
    content = path.read_bytes()
    while content:  # length, its checksum, the event, its checksum
      length = int.from_bytes(content[:8], 'little')
      event = event_pb2.Event.FromString(content[12 : 12 + length])
      for each in event.summary.value:
        value = each.image if each.HasField('image') else each.simple_value
        found.setdefault(each.tag, []).append((event.step, value))
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
  """The (step, value) of every figure in the one run of MLflow."""
  client, run = mlflow_run(workdir)
  return {
    name: [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
    for name in run.data.metrics
  }


def wandb_records(workdir):
  """What the one offline run of W&B holds, as its own program prints it."""
  pytest.importorskip('wandb')
  (path,) = (workdir / 'trackers' / 'wandb').glob('offline-run-*/run-*.wandb')
  command = [sys.executable, '-m', 'wandb', 'leet', 'inspect', '--json', str(path)]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  return [json.loads(line) for line in done.stdout.splitlines()]


def read_wandb(workdir):
  """The (step, value) of every figure in it."""
  found = {}
  for record in wandb_records(workdir):
    item = record['history']['item'] if record['type'] == 'history' else {}
    steps = [value for name, value in item.items() if name.endswith('/step')]
    for name, value in item.items():
      if '/' in name and not name.endswith('/step'):
        found.setdefault(name, []).append((*steps, value))
  return found


READERS = {'tensorboard': read_tensorboard, 'mlflow': read_mlflow, 'wandb': read_wandb}
