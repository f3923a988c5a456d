"""Signals of every kind, in processes of their own: nothing is lost, and nothing differs."""

import signal
import subprocess
import sys
import time

import interrupted
import pytest

from thrifty_jax import stopping


def test_a_run_that_is_killed_and_asked_to_stop_ends_with_the_same_bits(
  tmp_path, quick_compilation
):
  (search,) = interrupted.interrupted_runs(
    tmp_path,
    signals=[signal.SIGTERM, signal.SIGKILL],
    epochs=24,
    seed=1,
    seconds=2.0,
    stages=['search'],
    quick=True,
  )
  assert search.differences == []
  assert search.finished
  assert all('it was being written when' in line for line in search.damaged)
  assert search.statuses[0] == 128 + signal.SIGTERM
  assert search.resumed == sorted(search.resumed)


DEFERRED = """
import sys, time
from thrifty_jax import stopping
with stopping.handle(), stopping.defer():
  print('begun', flush=True)
  ends = time.monotonic() + 30
  while not stopping.requested() and time.monotonic() < ends:
    time.sleep(0.01)
  print('saving', flush=True)
  time.sleep(float(sys.argv[1]))
  print('saved', flush=True)
"""
# Minutes of work in C, as compiling is: no handler of Python's runs before it comes back.
RUN = """
from thrifty_jax import stopping
from thrifty_jax.running import command_line
def work():
  print('begun', flush=True)
  {work}
stopping.GRACE_SECONDS = 0.5
raise SystemExit(command_line.exit_status(work))
"""
BUSY = RUN.format(work="__import__('hashlib').pbkdf2_hmac('sha256', b'1', b'2', 2**30)")
IDLE = RUN.format(work="__import__('time').sleep(60)")


def started(script, *arguments):
  process = subprocess.Popen(
    [sys.executable, '-c', script, *arguments],
    cwd=interrupted.PROJECT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout and process.stdout.readline() == 'begun\n'
  return process


def test_a_loop_that_has_something_to_save_is_left_to_save_it():
  process = started(DEFERRED, '0.2')
  process.send_signal(signal.SIGINT)
  out, err = process.communicate(timeout=20)
  assert (process.returncode, out) == (0, 'saving\nsaved\n')
  assert err == '\nstopping: the state is being saved; press Ctrl-C again to leave at once\n'


def test_a_second_signal_ends_the_process_at_once():
  process = started(DEFERRED, '30')
  process.send_signal(signal.SIGINT)
  assert process.stdout and process.stdout.readline() == 'saving\n'
  began = time.monotonic()
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=20)
  assert (process.returncode, out) == (128 + signal.SIGTERM, '')
  assert time.monotonic() - began < 10


@pytest.mark.parametrize('number', stopping.SIGNALS)
@pytest.mark.parametrize('script', [BUSY, IDLE])
def test_work_with_nothing_to_save_ends_at_once_with_a_line(script, number):
  process = started(script)
  began = time.monotonic()
  process.send_signal(number)
  out, err = process.communicate(timeout=30)
  assert (process.returncode, out, err) == (128 + number, '', f'{stopping.GOES_ON}\n')
  assert time.monotonic() - began < 10


def test_a_signal_interrupts_what_a_loop_lets_be_interrupted_even_if_it_came_before():
  with stopping.handle(), stopping.defer():
    signal.raise_signal(signal.SIGTERM)
    assert stopping.requested() == signal.SIGTERM
    with pytest.raises(stopping.Stopped), stopping.defer(wanted=False):
      pass
  before = signal.getsignal(signal.SIGTERM)
  with stopping.handle():
    assert stopping.requested() == 0  # another run in this process
  assert signal.getsignal(signal.SIGTERM) is before
