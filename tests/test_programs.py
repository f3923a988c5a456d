"""Compiled steps: kept as traced, found again, compiled beside the work."""

import subprocess
import sys
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax import config as configs
from thrifty_jax import programs
from thrifty_jax.errors import InputError
from thrifty_jax.programs import Program


class State(NamedTuple):
  step: jax.Array
  weights: dict[str, jax.Array]


STATE = State(jnp.zeros((), jnp.int32), {'b': jnp.ones(2), 'a': jnp.arange(3.0)})
BATCH = {'image': jnp.full((4, 3), 2.0)}


def arguments():
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (STATE, BATCH))


def make_step(traced):
  def step(state, batch):
    traced.append(True)
    weights = {'a': state.weights['a'] + batch['image'].sum(0), 'b': 3 * state.weights['b']}
    return State(state.step + 1, weights), {'loss': batch['image'].mean()}

  return step


def assert_moved(moved, metrics):
  assert isinstance(moved, State) and int(moved.step) == 1
  np.testing.assert_allclose(moved.weights['a'], [8, 9, 10])
  np.testing.assert_allclose(moved.weights['b'], [3, 3])
  assert set(metrics) == {'loss'} and float(metrics['loss']) == 2


def test_a_kept_program_is_not_traced_again_and_does_the_same(tmp_path):
  traced, kept = [], tmp_path / 'traced' / 'program'
  assert_moved(*Program(make_step(traced), arguments, kept=kept)(STATE, BATCH))
  assert kept.is_file() and traced
  traced.clear()

  def not_asked_for():
    raise AssertionError('the state may not be there yet')

  assert_moved(*Program(make_step(traced), not_asked_for, kept=kept)(STATE, BATCH))
  assert not traced


@pytest.mark.parametrize('damage', [b'', b'short', b'\0' * 3000])
def test_a_damaged_program_is_traced_again(damage, tmp_path):
  traced, kept = [], tmp_path / 'program'
  kept.write_bytes(damage)
  assert_moved(*Program(make_step(traced), arguments, kept=kept)(STATE, BATCH))
  assert traced and len(kept.read_bytes()) > 100 and kept.read_bytes() != damage


def test_a_folder_that_cannot_be_written_costs_no_run(tmp_path):
  (tmp_path / 'file').write_text('not a folder')
  kept = tmp_path / 'file' / 'program'
  assert_moved(*Program(make_step([]), arguments, kept=kept)(STATE, BATCH))


def test_the_oldest_programs_make_room(tmp_path, monkeypatch):
  monkeypatch.setattr(programs, '_MOST_KEPT', 2)
  for name in 'abc':
    Program(make_step([]), arguments, kept=tmp_path / name).wait()
  assert sorted(path.name for path in tmp_path.iterdir()) == ['b', 'c']


def test_without_a_place_nothing_is_kept(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert_moved(*Program(make_step([]), arguments)(STATE, BATCH))
  assert not list(tmp_path.iterdir())


def test_the_second_program_begins_after_the_first(tmp_path):
  order, go = [], threading.Event()

  def first(state, batch):
    go.wait(20)
    order.append('first')
    return state, {'loss': batch['image'].sum()}

  def second(state, batch):
    order.append('second')
    return state, {'loss': batch['image'].sum()}

  one = Program(first, arguments)
  two = Program(second, arguments, after=one)
  go.set()
  two.wait()
  assert order == ['first', 'second']


def test_what_goes_wrong_is_raised_where_the_program_is_used():
  def broken(state, batch):
    raise ValueError('a shape that does not fit')

  program = Program(broken, arguments)
  after = Program(make_step([]), arguments, after=program)
  with pytest.raises(ValueError, match='does not fit'):
    program(STATE, BATCH)
  assert_moved(*after(STATE, BATCH))


def test_a_check_may_refuse_what_was_compiled():
  def refuse(compiled):
    assert compiled.memory_analysis() is not None
    raise InputError('too large')

  with pytest.raises(InputError, match='too large'):
    Program(make_step([]), arguments, check=refuse).wait()


def test_a_watch_is_put_around_every_call_of_the_watched_one_only():
  calls = []

  def watch(step):
    def watched(*arguments):
      calls.append(arguments)
      return step(*arguments)

    return watched

  program = Program(make_step([]), arguments)
  assert_moved(*program.watched(watch)(STATE, BATCH))
  assert len(calls) == 1
  program(STATE, BATCH)
  assert len(calls) == 1


def test_the_place_follows_from_the_config_and_from_what_is_given(tmp_path):
  config = configs.default()
  config.compilation_cache = str(tmp_path)
  place = programs.place(config, half=0, steps=7)
  assert place is not None and tmp_path in place.parents
  assert programs.place(config, half=0, steps=7) == place
  others = {programs.place(config, half=1, steps=7), programs.place(config, half=0, steps=8)}
  config.search.channels *= 2
  others.add(programs.place(config, half=0, steps=7))
  assert len(others) == 3 and place not in others
  config.compilation_cache = ''
  assert programs.place(config, half=0, steps=7) is None


def test_the_place_follows_from_the_code_and_the_versions(tmp_path, monkeypatch):
  config = configs.default()
  config.compilation_cache = str(tmp_path)
  places = {programs.place(config)}
  with monkeypatch.context() as patch:
    patch.setattr(programs, '_code', lambda: 'changed')
    places.add(programs.place(config))
  monkeypatch.setattr(programs.importlib.metadata, 'version', lambda name: '99')
  places.add(programs.place(config))
  assert len(places) == 3


def test_a_process_may_leave_while_a_program_is_compiled():
  code = """
import threading
import numpy as np
from thrifty_jax.programs import Program
from thrifty_jax.running import stopping

begun = threading.Event()

def endless(state):
  begun.set()
  threading.Event().wait()

Program(endless, lambda: (np.ones(1, np.float32),))
begun.wait()
print('told')
stopping.leave(143)
"""
  found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
  assert (found.returncode, found.stdout, found.stderr) == (143, 'told\n', '')
