"""A batch shared by several devices, of one process or two: the numbers are those of one device."""

import json
import os
import re
import socket
import subprocess
import sys

import devices
import pytest
from recorded import prepare_for

from thrifty_jax import config as configs
from thrifty_jax.errors import InputError

# Of numbers up to 6: sums over devices are rounded in another order, and AdamW enlarges that where
# a gradient is small. Measured: 5e-7 with jax 0.10.2, 2e-5 with 0.7.2.
ROUNDING = 1e-4

# The command, and a signal to stop that one process alone gets when it has taken the figures of a
# step of a stage so many times; a search takes those of both halves. Or slices that it alone does
# not find.
PROCESS = """
import os, signal, sys
from thrifty_jax import main
from thrifty_jax.data import data_file
from thrifty_jax.errors import InputError
from thrifty_jax.training import train_data
add, times = train_data.Figures.add, [0]
stage, step, at = sys.argv.pop().split()
def stopped(figures, number, metrics):
  add(figures, number, metrics)
  times[0] += (figures.stage, number) == (stage, int(step))
  if times[0] == int(at):
    times[0] += 1
    os.kill(os.getpid(), signal.SIGTERM)
train_data.Figures.add = stopped
def lost(workdir, record, config):
  raise InputError(f'{record.name}: is not here')
if stage == 'lost':
  data_file.find = lost
sys.exit(main.main(sys.argv[1:]))
"""
NEVER, LOST = 'no 0 -1', 'lost 0 -1'


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  return tmp_path_factory.mktemp('devices')


@pytest.fixture(scope='module')
def found(place):
  """What tests/devices.py finds out."""
  command = [sys.executable, str(devices.PROJECT / 'tests' / 'devices.py'), str(place)]
  done = subprocess.run(
    command, cwd=devices.PROJECT, capture_output=True, encoding='utf-8', timeout=900
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('name', ['two', 'eight'])
def test_a_search_and_a_retraining_give_the_numbers_of_one_device_on(found, name):
  assert 0 <= found[name] < ROUNDING


def test_a_step_in_the_whole_space_gives_the_numbers_of_one_device(found):
  assert 0 <= found['whole space'] < ROUNDING


def test_a_state_goes_on_with_another_number_of_devices(found):
  assert 0 <= found['changed'] < ROUNDING


def test_slices_read_as_they_are_needed_make_the_batches_of_slices_on_all_devices(found):
  assert found['streamed as resident']


def test_devices_send_one_another_sums_alone_and_those_together(found):
  # Of the Dice, on the way forwards, and of all gradients, on the way back.
  assert len(found['exchanges']) == 4
  for step in found['exchanges']:
    assert {*step} == {'all-reduce'} and len(step) <= 3


def test_the_gradient_of_an_upsampling_needs_no_other_device(found):
  assert not found['upsampling']


def test_what_devices_cannot_share_is_refused_before_anything_is_written(found):
  of_search, of_retrain, too_many, of_race = found['refused']
  shares = 'which 8 devices cannot share evenly; set it to'
  assert of_search == [
    2,
    f'error: config.search.batch_size is 12, {shares} 8 or 16, or use fewer: --config.devices=6\n',
    False,
  ]
  assert (
    of_retrain
    == of_race
    == [
      2,
      f'error: config.retrain.batch_size is 5, {shares} 8, or use fewer: --config.devices=5\n',
      False,
    ]
  )
  assert too_many[:2] == [2, 'error: config.devices is 9, but JAX finds only 8 here; 0 takes all\n']


def run_two(place, workdir, *arguments, stop=NEVER):
  """Two processes with two devices each: their statuses and what they said.

  Args:
    place: Folder with the scans, slices and compiled programs.
    workdir: Folder of the run.
    *arguments: Further ones of the command.
    stop: Stage, step and time at which the second process gets a signal; LOST hides its slices.
  """
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]
  fields = devices.settings_of(place) | {
    'device': 'cpu',
    'distributed': True,
    'coordinator_address': f'127.0.0.1:{port}',
    'num_processes': 2,
  }
  environment = os.environ | {
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=2',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
  }
  processes = [
    subprocess.Popen(
      [
        *(sys.executable, '-c', PROCESS, '--config=configs/phantom.py', f'--workdir={workdir}'),
        *(f'--config.{name}={value}' for name, value in fields.items()),
        *(f'--config.process_id={number}', *arguments),
        stop if number else NEVER,
      ],
      cwd=devices.PROJECT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      encoding='utf-8',
    )
    for number in range(2)
  ]
  try:
    for process in processes:
      process.wait(timeout=600)
  except subprocess.TimeoutExpired:
    before = [process.poll() for process in processes]
    for process in processes:
      process.kill()
    said = [process.communicate() for process in processes]
    pytest.fail(f'after ten minutes the statuses were {before}; they said {said}')
  said = [process.communicate() for process in processes]
  return [process.returncode for process in processes], said


@pytest.fixture(scope='module')
def two_processes(place, found):
  """A run of two processes, of which the second gets a signal; and the run that goes on."""
  del found  # which made the scans
  stopped = run_two(place, place / 'processes', stop='retrain 5 1')
  return stopped, run_two(place, place / 'processes')


def test_two_processes_in_one_workdir_give_the_numbers_of_one(two_processes, place):
  _, (statuses, said) = two_processes
  assert statuses == [0, 0], said
  assert 0 <= devices.largest_difference(place / 'processes', place / 'one') < ROUNDING
  assert (place / 'processes' / 'report.html').exists()


def test_a_signal_to_one_process_stops_all_after_the_same_step(two_processes):
  (statuses, said), (_, ((after, _), _)) = two_processes
  assert statuses == [143, 143], said
  (out, err), _ = said
  assert 'stopped: retrain is saved; the same command goes on from here' in err
  assert 'search: done' not in out and 'search: done' in after
  assert 'resumed   after step 6' in after  # what is asked for at a step is done after the next


def test_one_process_speaks(two_processes):
  for statuses, (_, (out, err)) in two_processes:
    lines = [line for line in (out + err).splitlines() if 'Gloo' not in line]
    assert lines[0] == 'process 1 trains with process 0, which prints the progress', statuses
    assert not any('retrain' in line for line in lines)


def test_two_processes_search_one_seed_after_the_other_and_go_on_in_the_second(
  place, found, tmp_path
):
  del found
  prepare_for(devices.config_of(place), tmp_path / 'run')
  seeds = '--stage=search', '--config.search.seeds=2'
  statuses, said = run_two(place, tmp_path / 'run', *seeds, stop='search 1 3')
  assert statuses == [143, 143], said
  folder, one = tmp_path / 'run' / 'search', place / 'one' / 'search'
  assert (folder / 'seed_0' / 'genotype.json').exists()
  assert (folder / 'seed_1').exists() and not (folder / 'genotype.json').exists()
  statuses, said = run_two(place, tmp_path / 'run', *seeds)
  assert statuses == [0, 0], said
  assert 0 <= devices.difference_of_trainings(folder / 'seed_0', one) < ROUNDING
  table = json.loads((folder / 'seeds.json').read_text())
  assert [row['epochs'] for row in table['searches']] == [3, 3]


def test_a_process_without_the_slices_ends_all_with_its_reason(place, found, tmp_path):
  del found
  statuses, ((_, first), (_, second)) = run_two(place, tmp_path / 'run', stop=LOST)
  assert statuses == [2, 2], (first, second)
  assert 'error: process 1 has failed: phantom/16px' in first
  assert 'error: phantom/16px' in second and second.rstrip().endswith(': is not here')


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'num_processes': 2}, 'num_processes is 2; expected nothing without --config.distributed'),
    ({'process_id': 0}, 'process_id is 0; expected nothing without'),
    ({'coordinator_address': 'a:1'}, "coordinator_address is 'a:1'; expected nothing without"),
    ({'distributed': True, 'coordinator_address': 'host'}, "is 'host'; expected HOST:PORT"),
    ({'distributed': True, 'coordinator_address': 'host:x'}, "is 'host:x'; expected HOST:PORT"),
    (
      {'distributed': True, 'num_processes': 2, 'process_id': 2},
      'process_id is 2; expected from 0 to 1',
    ),
    ({'distributed': True, 'debug': True}, 'debug is True; expected False: several processes'),
    ({'distributed': True, 'devices': 3}, 'devices is 3; expected 0: several processes'),
    ({'devices': -1}, 'devices is -1; expected 0 or more'),
  ],
)
def test_settings_of_several_processes_that_cannot_work_are_refused(fields, message):
  config = configs.default()
  config.data.name = 'phantom'
  config.update(fields)
  with pytest.raises(InputError) as caught:
    configs.validate(config)
  assert message in str(caught.value)


ALONE = """
from thrifty_jax import config
from thrifty_jax.data import mesh
settings = config.default()
settings.distributed = True
mesh.start(settings)
"""


def test_where_nothing_says_who_takes_part_that_is_said():
  given = ('SLURM_', 'OMPI_', 'KUBERNETES_', 'JAX_COORDINATOR_ADDRESS')
  environment = {name: os.environ[name] for name in os.environ if not name.startswith(given)}
  done = subprocess.run(
    [sys.executable, '-c', ALONE],
    cwd=devices.PROJECT,
    env=environment,
    capture_output=True,
    encoding='utf-8',
    timeout=120,
  )
  last = done.stderr.splitlines()[-1]
  assert re.match('.*InputError: .* did not come together .*--config.coordinator_address', last)
