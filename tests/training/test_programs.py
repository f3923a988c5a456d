"""Compiled steps: kept as traced, found again, compiled beside the work."""

import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax import config as configs
from thrifty_jax.errors import InputError
from thrifty_jax.training import cache, programs
from thrifty_jax.training.programs import Program


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


def test_without_a_place_nothing_is_kept(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert_moved(*Program(make_step([]), arguments)(STATE, BATCH))
  assert not list(tmp_path.iterdir())


def test_a_program_is_begun_once_and_not_before_it_is_told_to():
  traced = []
  program = Program(make_step(traced), arguments)
  assert program.begin() is program.begin()
  assert_moved(*program(STATE, BATCH))
  assert len(traced) == 1
  Program(make_step(traced), arguments)
  assert len(traced) == 1


def test_what_goes_wrong_is_raised_where_the_program_is_used():
  def broken(state, batch):
    raise ValueError('a shape that does not fit')

  program = Program(broken, arguments)
  with pytest.raises(ValueError, match='does not fit'):
    program(STATE, BATCH)


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


@pytest.fixture
def config(tmp_path, monkeypatch):
  """The settings of a run that keeps what it traces; no program is loaded ahead yet."""
  monkeypatch.setattr(programs, '_ahead', {})
  config = configs.default()
  config.compilation_cache = str(tmp_path)
  return config


def test_a_program_that_was_named_is_loaded_ahead_and_used(config, monkeypatch):
  kept, named_in = cache.place(config, name='a'), programs.note(config, 'search')
  Program(make_step([]), arguments, kept=kept, named_in=named_in).wait()
  programs.load_ahead(config, 'search')
  (future,) = programs._ahead.values()
  compiled, checked = future.result(), []
  monkeypatch.setattr(programs, '_load', None)  # not again
  program = Program(make_step([]), arguments, kept=kept, check=checked.append)
  assert_moved(*program(STATE, BATCH))
  assert program.wait() is compiled and checked == [compiled] and not programs._ahead


def test_a_program_ahead_that_is_another_is_not_used(config):
  for name in 'ab':
    kept = cache.place(config, name=name)
    named_in = programs.note(config, 'search') if name == 'a' else None
    Program(make_step([]), arguments, kept=kept, named_in=named_in).wait()
  programs.load_ahead(config, 'search')
  (future,) = programs._ahead.values()
  kept, named_in = cache.place(config, name='b'), programs.note(config, 'search')
  program = Program(make_step([]), arguments, kept=kept, named_in=named_in)
  assert_moved(*program(STATE, BATCH))
  assert program.wait() is not future.result() and not programs._ahead
  programs.load_ahead(config, 'search')  # the latest one
  assert list(programs._ahead) == [kept]


def test_a_program_that_could_not_be_loaded_ahead_is_loaded_when_it_is_used(config, monkeypatch):
  kept, named_in = cache.place(config, name='a'), programs.note(config, 'search')
  Program(make_step([]), arguments, kept=kept, named_in=named_in).wait()

  def broken(content):
    raise ImportError('half of a module')

  with monkeypatch.context() as patch:
    patch.setattr(programs, '_load', broken)
    programs.load_ahead(config, 'search')
    (future,) = programs._ahead.values()
    assert isinstance(future.exception(), ImportError)
  assert_moved(*Program(make_step([]), arguments, kept=kept)(STATE, BATCH))


def test_what_is_refused_is_refused_of_a_program_ahead_too(config):
  kept, named_in = cache.place(config, name='a'), programs.note(config, 'search')
  Program(make_step([]), arguments, kept=kept, named_in=named_in).wait()
  programs.load_ahead(config, 'search')

  def refuse(compiled):
    raise InputError('too large')

  with pytest.raises(InputError, match='too large'):
    Program(make_step([]), arguments, kept=kept, check=refuse).wait()


@pytest.mark.parametrize('lacks', ['cache', 'note', 'program', 'cpu'])
def test_nothing_is_loaded_ahead_where(lacks, config, monkeypatch):
  kept, named_in = cache.place(config, name='a'), programs.note(config, 'search')
  Program(make_step([]), arguments, kept=kept, named_in=named_in).wait()
  if lacks == 'cache':
    config.compilation_cache = ''
  elif lacks == 'cpu':
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(programs, 'note', lambda config, stage: named_in)
  else:
    place = {'note': named_in, 'program': kept}[lacks]
    assert place is not None
    place.unlink()
  programs.load_ahead(config, 'search')
  assert not programs._ahead


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

Program(endless, lambda: (np.ones(1, np.float32),)).begin()
begun.wait()
print('told')
stopping.leave(143)
"""
  found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
  assert (found.returncode, found.stdout, found.stderr) == (143, 'told\n', '')
