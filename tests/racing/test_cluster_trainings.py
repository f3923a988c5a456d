"""A training of a race on a Dask cluster whose worker is killed ends as on this machine."""

import os
import re
import signal

import pytest
import tiny_lean_runs

from data_prep import phantom
from thrifty_jax import config as configs
from thrifty_jax import files, lock, stopping, weights
from thrifty_jax.logbook import Logbook
from thrifty_jax.networks import genotype, lean_space
from thrifty_jax.racing import jobs
from thrifty_jax.training import checkpoint

distributed = pytest.importorskip('distributed')
EPOCHS = 60  # of 4 steps each: seconds, after the first state is saved too


@pytest.fixture(scope='module')
def alone(tmp_path_factory, quick_compilation_of_module):
  """The run of a training in this process, which nothing disturbs."""
  place = tmp_path_factory.mktemp('cluster')
  phantom.write_promise12(place / 'raw', patients=6, seed=0)
  genotype.save(place / 'genotype.json', lean_space.unet(4, levels=3))
  options = (
    f'--config.genotype={place / "genotype.json"}', f'--config.retrain.epochs={EPOCHS}',
    '--config.retrain.validate_every=20', '--config.save_seconds=0.2',
  )  # fmt: skip
  for stage in ('prepare', 'retrain'):
    assert tiny_lean_runs.command(place, place / 'alone', *options, f'--stage={stage}') == 0
  return place / 'alone'


def find_trainer(place):
  """Returns the number of the process that trains in a folder once it has saved a state, else 0."""
  saved = any(files.find_below(place, f'retrain/checkpoints/[0-9]*/{checkpoint.SEAL}'))
  owner = place / lock.FILE
  found = saved and owner.exists() and re.match(rb'process (\d+) ', owner.read_bytes())
  return int(found[1]) if found else 0


def test_a_cluster_trains_the_same_weights_though_a_worker_is_killed_in_mid_training(
  alone, monkeypatch, tmp_path
):
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # in the workers, as in this process
  config = configs.from_json(files.read_json(alone / 'config.json'))
  job, killed = jobs.Job.make(config, alone, tmp_path / 'job'), []

  def requested():  # looked at all the time
    if not killed and (process := find_trainer(tmp_path / 'job')):
      killed.append(process)
      os.kill(process, signal.SIGKILL)
    return 0

  with distributed.LocalCluster(
    n_workers=2, threads_per_worker=1, processes=True, dashboard_address=':0', silence_logs=50
  ) as cluster:
    config.front.cluster = cluster.scheduler_address.removeprefix('tcp://')
    monkeypatch.setattr(stopping, 'requested', requested)
    monkeypatch.setattr(jobs, '_TICK', 0.02)
    jobs.run_all(config, [job], 'rung 1')
  assert killed and os.getpid() not in killed
  assert 'resumed   after step' in (tmp_path / 'job' / jobs.LOG).read_text('utf-8')
  assert weights.read(tmp_path / 'job') == weights.read(alone) != ()
  lines = [Logbook(place / 'retrain').entries() for place in (alone, tmp_path / 'job')]
  first, second = ([(one['epoch'], one['loss']) for one in each] for each in lines)
  assert first == second and len(first) == EPOCHS
