"""Processes give what this process gives, in its order, and leave nothing running."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_prep import workers
from thrifty_jax.errors import InputError
from thrifty_jax.scans.volumes import Case

PROJECT = Path(__file__).resolve().parents[2]
CASES = [Case(case=f'c{number}', patient='', image=()) for number in range(9)]


# What processes do must be found by its name, so it stands here.
def process_and_name(case):
  time.sleep(0.01 * (case.case in ('c0', 'c4')))  # so that later ones are ready earlier
  return os.getpid(), case.case, np.full((3, 200_000), int(case.case[1:]), np.float16)


def refuses_two(case):
  if case.case in ('c2', 'c3'):
    raise InputError(f'{case.case}.mhd: cannot be read; expected an intact file.')
  return case.case


def fails(case):
  raise ZeroDivisionError(f'a fault of ours at {case.case}')


def dies(case):
  os._exit(0 if case.case == 'c1' else 1) if case.case in ('c1', 'c2') else None
  return case.case


def imported(case):
  importlib.import_module(case.case)
  return sorted({'jax', 'tensorflow', 'SimpleITK'} & {*sys.modules})


def itk_threads(case):
  return importlib.import_module('SimpleITK').ProcessObject.GetGlobalDefaultNumberOfThreads()


def waits(case):
  time.sleep(60 if case.case == 'c3' else 0)
  return os.getpid()


def waits_a_little(case):
  time.sleep(0.5 if case.case > 'c2' else 0)
  return os.getpid()


@pytest.mark.parametrize('count', [1, 3])
def test_results_come_in_order_from_as_many_processes_as_were_asked_for(count):
  with workers.map_cases(count, 'work') as cases_map:
    results = list(cases_map(process_and_name, CASES))
  assert [name for _, name, _ in results] == [case.case for case in CASES]
  for number, (_, _, array) in enumerate(results):
    assert (array == number).all() and array.dtype == np.float16
  used = {process for process, _, _ in results}
  assert used == {os.getpid()} if count == 1 else os.getpid() not in used and len(used) == count
  for process in used - {os.getpid()}:
    with pytest.raises(ProcessLookupError):
      os.kill(process, 0)


def test_short_work_stays_here_and_long_work_goes_on_in_processes(monkeypatch):
  monkeypatch.setattr('thrifty_jax.device.cores', lambda: 2)
  for seconds, here in ((60.0, len(CASES)), (0.0, 0)):
    monkeypatch.setattr(workers, '_ALONE_SECONDS', seconds)
    with workers.map_cases(0, 'work') as cases_map:
      results = list(cases_map(process_and_name, CASES))
    assert [name for _, name, _ in results] == [case.case for case in CASES]
    assert sum(process == os.getpid() for process, _, _ in results) == here


@pytest.mark.parametrize('count', [1, 2])
def test_bad_input_is_the_same_line_at_its_turn(count):
  seen = []
  with (
    workers.map_cases(count, 'work') as cases_map,
    pytest.raises(InputError, match=r'^c2\.mhd: cannot be read; expected an intact file\.$'),
  ):
    seen.extend(cases_map(refuses_two, CASES))
  assert seen == [] or seen == ['c0', 'c1']


def test_a_fault_has_the_traceback_of_where_it_happened():
  with (
    workers.map_cases(2, 'work') as cases_map,
    pytest.raises(ZeroDivisionError, match='c0') as raised,
  ):
    list(cases_map(fails, CASES))
  assert "in fails\n    raise ZeroDivisionError(f'a fault of ours" in raised.value.__notes__[0]


def test_a_process_that_dies_is_one_line_with_its_case():
  with (
    workers.map_cases(2, 'work') as cases_map,
    pytest.raises(InputError, match=r'^c1: the process that read it ended.*data\.workers'),
  ):
    for name, case in zip(cases_map(dies, CASES), CASES, strict=False):
      assert name == case.case


def test_processes_do_without_jax_and_tensorflow_and_without_itk_until_a_file_needs_it():
  work = [Case(f'data_prep.{name}', '', ()) for name in ('builder', 'checks', 'chaos', 'folder')]
  with workers.map_cases(2, 'work') as cases_map:
    assert list(cases_map(imported, work)) == [[]] * 4


def test_itk_takes_one_thread_in_each_process():
  with workers.map_cases(2, 'work') as cases_map:
    assert list(cases_map(itk_threads, CASES[:3])) == [1] * 3


def test_a_fixed_number_of_cases_is_in_memory_however_many_there_are(tmp_path):
  """Each process answers as fast as it can, but none is far ahead of what was taken."""
  with workers.map_cases(2, 'work') as cases_map:
    results = cases_map(leaves_a_file, [Case(str(n), str(tmp_path), ()) for n in range(40)])
    for taken in range(1, 20):
      next(results)
      time.sleep(0.01)
      assert len(list(tmp_path.iterdir())) <= taken - 1 + 2 * workers._AHEAD


def leaves_a_file(case):
  Path(case.patient, case.case).touch()


def test_leaving_early_ends_the_processes_at_once():
  began = time.monotonic()
  with workers.map_cases(2, 'work') as cases_map:
    results = cases_map(waits, CASES)
    used = {next(results) for _ in range(3)}
  assert time.monotonic() - began < 30
  for process in used:
    with pytest.raises(ProcessLookupError):
      os.kill(process, 0)


# A script as users write them: nothing keeps it from running again if it is imported.
SCRIPT = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.path.append({tests!r})
import test_workers
from data_prep import workers
print('once', flush=True)
with workers.map_cases(2, 'work') as cases_map:
  for process in cases_map(test_workers.{work}, test_workers.CASES):
    print(process, flush=True)
"""


def started(tmp_path, work):
  """The script in a process of its own, waiting for its fourth case."""
  script = tmp_path / 'script.py'
  script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), work=work))
  process = subprocess.Popen(
    [sys.executable, str(script)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {'PYTHONPATH': str(PROJECT)},
  )
  assert process.stdout and process.stdout.readline() == 'once\n'
  assert all(int(process.stdout.readline()) != process.pid for _ in range(3))
  return process


# Its processes share its stdout and stderr: that these end means that all of them have ended.


def test_ctrl_c_ends_the_processes_of_a_script_and_none_of_them_says_a_word(tmp_path):
  process = started(tmp_path, 'waits')
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=30)
  assert err.count('Traceback') == 1 and err.endswith('KeyboardInterrupt\n')


def test_after_a_kill_the_processes_end_with_the_case_they_work_on(tmp_path):
  process = started(tmp_path, 'waits_a_little')
  process.kill()
  out, err = process.communicate(timeout=30)
  assert out == '' and all(line.startswith('work: ') for line in err.splitlines())
