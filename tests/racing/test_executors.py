"""Jobs in processes and on a Dask cluster: held on cores, stopped, killed, never left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import pytest
import racing_jobs
from racing_jobs import Stand, read, wait_for

from thrifty_jax import config as configs
from thrifty_jax import device, lock, stages, stopping
from thrifty_jax.errors import InputError
from thrifty_jax.racing import executors, jobs

PROJECT = Path(__file__).parents[2]
linux = pytest.mark.skipif(
  not hasattr(os, 'sched_getaffinity'), reason='only Linux holds processes'
)


@pytest.fixture(scope='module')
def config():
  config = configs.default()
  config.front.workers = 2
  return config


def run_all(config, work, places):
  """Runs stand-ins for trainings as a race does."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jobs, 'run', work)
    patch.setattr(jobs, '_is_done', lambda job: False)
    stands: Any = [Stand(str(place)) for place in places]
    jobs.run_all(config, stands, 'rung 1')


def is_alive(process):
  """Returns whether a process is there, and no zombie."""
  status = Path(f'/proc/{process}/status')
  with contextlib.suppress(FileNotFoundError):
    return 'State:\tZ' not in status.read_text()
  return False


# --- processes of this machine


@pytest.fixture(scope='module')
def stopped(config, tmp_path_factory):
  """The folders of jobs that a signal to the first process stopped; the third had to wait."""
  if not hasattr(os, 'sched_getaffinity'):
    pytest.skip('only Linux holds processes')
  folder = tmp_path_factory.mktemp('stopped')
  places = [folder / name for name in 'abc']

  def requested():
    both = all((place / 'begun').exists() for place in places[:2])
    return signal.SIGTERM if both else 0

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stopping, 'requested', requested)
    with pytest.raises(stopping.Stopped) as error:
      run_all(config, racing_jobs.save_once_asked, places)
  assert error.value.signal == signal.SIGTERM
  return places


def test_jobs_under_way_save_before_a_stopped_race_ends_and_no_more_begin(stopped):
  processes = [read(place, 'saved') for place in stopped]
  assert processes == [read(place, 'begun') for place in stopped]
  assert [len(found) for found in processes] == [1, 1, 0]
  assert not any(is_alive(found[0]) for found in processes[:2])


@pytest.mark.skipif(device.cores() < 2, reason='needs two cores')
def test_each_process_has_a_core_of_its_own(stopped):
  assert [read(place, 'cores') for place in stopped[:2]] == [[1], [1]]
  assert read(stopped[0], 'core') != read(stopped[1], 'core')


def test_bad_input_of_a_job_arrives_as_it_is(config, tmp_path):
  with pytest.raises(InputError, match='is bad$'):
    run_all(config, racing_jobs.refuse, [tmp_path / 'a', tmp_path / 'b'])


def test_a_process_that_was_killed_is_one_line_that_says_how_to_go_on(config, tmp_path):
  with pytest.raises(InputError, match='ended from outside.*the same command goes on') as error:
    run_all(config, racing_jobs.end_by_itself, [tmp_path / 'a', tmp_path / 'b'])
  assert str(tmp_path) in str(error.value) and '\n' not in str(error.value)


@linux
def test_the_processes_end_with_the_first_one_however_that_ends(tmp_path):
  places = [tmp_path / 'a', tmp_path / 'b']
  script = str(PROJECT / 'tests' / 'racing_jobs.py')
  environment = {**os.environ, 'PYTHONPATH': str(PROJECT)}
  first = subprocess.Popen(
    [sys.executable, script, *map(str, places)], cwd=PROJECT, env=environment
  )
  processes = [wait_for(place, 'begun') for place in places]
  assert all(map(is_alive, processes))
  first.kill()
  first.wait()
  ends = time.monotonic() + 20
  while any(map(is_alive, processes)) and time.monotonic() < ends:
    time.sleep(0.05)
  assert not any(map(is_alive, processes))
  assert not any(read(place, 'saved') for place in places)


def test_one_training_at_a_time_needs_no_process(config, tmp_path):
  config = config.copy_and_resolve_references()
  config.front.workers = 1
  run_all(config, racing_jobs.go_on, [tmp_path / 'a'])
  assert {*read(tmp_path / 'a', 'process')} == {os.getpid()}


def test_what_is_done_starts_nothing_and_keeps_no_states(config, monkeypatch, tmp_path):
  monkeypatch.setattr(jobs, '_is_done', lambda job: True)
  monkeypatch.setattr(executors, 'start', None)
  stands: Any = [Stand(str(tmp_path / name)) for name in 'ab']
  left = tmp_path / 'b' / 'retrain' / 'checkpoints'
  (left / '7').mkdir(parents=True)
  jobs.run_all(config, stands, 'rung 1')
  assert not left.exists()


@pytest.mark.parametrize(('listed', 'visible'), [('', ['0', '1', '0']), ('5,7', ['5', '7', '5'])])
def test_each_process_has_a_gpu_of_those_that_the_user_left(monkeypatch, listed, visible):
  found = []
  for slot in range(3):
    with monkeypatch.context() as patch:
      patch.setenv('CUDA_VISIBLE_DEVICES', listed)
      patch.setenv('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
      patch.setattr(executors, '_stop', None)
      patch.setattr(executors.signal, 'signal', lambda *arguments: None)
      patch.setattr(executors.threading.Thread, 'start', lambda thread: None)
      slots = executors.multiprocessing.get_context('spawn').SimpleQueue()
      slots.put(slot)
      executors._begin(slots, None, 2)
      slots.close()
      found.append(os.environ['CUDA_VISIBLE_DEVICES'])
  assert found == visible


def test_a_process_with_fewer_devices_than_the_run_trains_with_those(config, monkeypatch, tmp_path):
  config, trained = config.copy_and_resolve_references(), []
  config.devices = 64
  job = jobs.Job(stages.to_json(config), str(tmp_path), str(tmp_path / 'job'))
  monkeypatch.setattr(jobs.trainings, 'train', lambda settings, *more: trained.append(settings))
  jobs.run(job)
  (found,) = trained
  assert found.devices == jax.device_count()
  assert not stages.RETRAIN.has_read('devices', config)  # so that the training counts as done


# --- a Dask cluster


@pytest.fixture(scope='module')
def cluster():
  distributed = pytest.importorskip('distributed')
  with distributed.LocalCluster(
    n_workers=2, threads_per_worker=1, processes=True, dashboard_address=':0', silence_logs=50
  ) as found:
    yield found


def on(cluster, config):
  config = config.copy_and_resolve_references()
  config.front.cluster = cluster.scheduler_address.removeprefix('tcp://')
  return config


def test_a_cluster_gives_the_same_result_though_a_worker_is_killed(cluster, config, tmp_path):
  places = [tmp_path / name for name in ('a', 'bb', 'ccc')]
  alone = [tmp_path / 'alone' / place.name for place in places]
  for place in alone:
    racing_jobs.go_on(Stand(str(place)))

  killed = []

  def requested():  # looked at all the time
    done = read(places[0], 'process')
    if len(done) == 2 and not killed:
      killed.extend(done[:1])
      os.kill(done[0], signal.SIGKILL)
    return 0

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stopping, 'requested', requested)
    patch.setattr(jobs, '_TICK', 0.02)
    run_all(on(cluster, config), racing_jobs.go_on, places)
  assert killed and os.getpid() not in killed
  assert len({*read(places[0], 'process')}) == 2  # it went on elsewhere
  for place, expected in zip(places, alone, strict=True):
    assert read(place, 'sums') == read(expected, 'sums')


def test_a_stopped_race_of_a_cluster_takes_what_its_workers_went_on_with(cluster, config, tmp_path):
  places = [tmp_path / name for name in ('a', 'bb', 'ccc')]

  def requested():  # while the first two are under way
    return signal.SIGTERM if all(len(read(place, 'sums')) > 1 for place in places[:2]) else 0

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stopping, 'requested', requested)
    patch.setattr(jobs, '_TICK', 0.02)
    with pytest.raises(stopping.Stopped):
      run_all(on(cluster, config), racing_jobs.go_on_alone, places)
  assert not (places[2] / 'sums').exists()
  run_all(on(cluster, config), racing_jobs.go_on_alone, places)
  for place in places:
    racing_jobs.go_on(Stand(str(tmp_path / 'alone' / place.name)))
    assert read(place, 'sums') == read(tmp_path / 'alone' / place.name, 'sums')
    assert len({*read(place, 'process')}) == 1  # nothing was begun anew


def test_the_job_of_a_race_waits_for_the_process_that_is_in_its_folder(monkeypatch, tmp_path):
  job, trained = jobs.Job({}, str(tmp_path), str(tmp_path / 'job')), []
  monkeypatch.setattr(jobs.trainings, 'train', lambda *arguments: trained.append(arguments))
  with ThreadPoolExecutor(1) as executor:
    with lock.hold(tmp_path / 'job'):
      waiting = executor.submit(jobs.run, job)
      with pytest.raises(TimeoutError):
        waiting.result(timeout=0.5)
      log = (tmp_path / 'job' / jobs.LOG).read_text('utf-8')
      assert not trained and f'process {os.getpid()} ' in log and 'waiting for it to end' in log
    waiting.result(timeout=60)
  assert len(trained) == 1


def test_bad_input_of_a_job_arrives_from_a_cluster(cluster, config, tmp_path):
  with pytest.raises(InputError, match='is bad$'):
    run_all(on(cluster, config), racing_jobs.refuse, [tmp_path / 'a'])


def test_a_worker_with_several_threads_is_refused(config):
  distributed = pytest.importorskip('distributed')
  with (
    distributed.LocalCluster(
      n_workers=1, threads_per_worker=2, processes=False, dashboard_address=':0', silence_logs=50
    ) as found,
    pytest.raises(InputError, match='has several threads.*--nthreads=1'),
    executors.start(on(found, config), 2),
  ):
    pass


def test_a_cluster_without_workers_is_refused(config):
  distributed = pytest.importorskip('distributed')
  with (
    distributed.LocalCluster(
      n_workers=0, processes=False, dashboard_address=':0', silence_logs=50
    ) as found,
    pytest.raises(InputError, match='it has no worker'),
    executors.start(on(found, config), 2),
  ):
    pass


def test_an_address_where_nothing_answers_is_refused(config, monkeypatch):
  pytest.importorskip('distributed')
  monkeypatch.setattr(executors, '_PATIENCE', 0.5)
  config = config.copy_and_resolve_references()
  config.front.cluster = '127.0.0.1:9'
  with (
    pytest.raises(InputError, match='no Dask scheduler answers at 127.0.0.1:9; start one'),
    executors.start(config, 2),
  ):
    pass


def test_a_cluster_needs_its_package(config, monkeypatch):
  monkeypatch.setitem(sys.modules, 'distributed', None)
  config = config.copy_and_resolve_references()
  config.front.cluster = '127.0.0.1:9'
  with pytest.raises(InputError, match='requirements-cluster.txt'), executors.start(config, 2):
    pass
