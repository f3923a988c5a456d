"""How steps are compiled: on a GPU as one graph, beside the work, and kept from run to run."""

import hashlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax import config as configs
from thrifty_jax import device, jax_internals
from thrifty_jax.errors import InputError
from thrifty_jax.networks import baselines, build
from thrifty_jax.training import compiling
from thrifty_jax.training.compiling import Program

known = pytest.mark.skipif(
  jax.__version_info__ < (0, 10, 2), reason='XLA cannot record convolutions yet'
)
STATE = {'step': jnp.zeros((), jnp.int32), 'weights': jnp.arange(3.0)}


def step(state, batch):
  weights = state['weights'] + batch.sum(0)
  return {'step': state['step'] + 1, 'weights': weights}, {'loss': weights.sum()}


class Lowered:
  """Remembers with which options a step was compiled."""

  def __init__(self, function, *arguments):
    self.lowered, self.options = jax.jit(function, donate_argnums=0).lower(*arguments), []

  def compile(self, compiler_options=None):
    self.options.append(compiler_options)
    return self.lowered.compile(compiler_options=compiler_options)


@pytest.fixture(autouse=True)
def no_flags(monkeypatch):
  """XLA_FLAGS say nothing."""
  monkeypatch.delenv('XLA_FLAGS', raising=False)


@pytest.fixture
def possible(monkeypatch):
  monkeypatch.setattr(compiling, '_can_be_one_graph', lambda: True)


def test_on_a_cpu_a_step_is_compiled_with_less_effort():
  lowered: Any = Lowered(step, STATE, jnp.ones((2, 3)))
  checked: list[Any] = []
  compiled = compiling.compile_step(lowered, check=checked.append)
  assert lowered.options[0] == compiling._QUICKLY and checked == [compiled]
  compiling.compile_step(lowered, lean=True)
  assert compiling._QUICKLY | compiling._LEAN in lowered.options
  assert lowered.options[-1]['xla_backend_optimization_level'] == 1
  moved, metrics = compiled(jax.tree.map(jnp.copy, STATE), jnp.ones((2, 3)))
  np.testing.assert_array_equal(moved['weights'], [2, 3, 4])
  assert int(moved['step']) == 1 and float(metrics['loss']) == 9


@known
def test_on_a_cpu_ynnpack_computes_sums_and_no_products():
  def products(state, batch):
    return batch @ state.T, batch.sum(0), state + 1

  # Large enough that XLA would not compute it in a loop of its own.
  state, batch = jnp.ones((64, 512)), jnp.ones((96, 512))
  lowered: Any = Lowered(products, state, batch)
  compiled = compiling.compile_step(lowered)
  product, total, _ = compiled(state, batch)
  np.testing.assert_array_equal(product, 512.0)
  np.testing.assert_array_equal(total, 96.0)
  by_itself, ours = (
    str(one.as_text()).count('__ynn_fusion') for one in (lowered.lowered.compile(), compiled)
  )
  assert 0 < ours < by_itself


def test_what_xla_flags_say_of_it_stays(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=3')
  told = compiling._options(lean=True).keys()
  assert (compiling._QUICKLY | compiling._LEAN).keys() - told == {'xla_backend_optimization_level'}


def test_still_less_effort_stays_so(quick_compilation):
  lowered: Any = Lowered(step, STATE, jnp.ones((2, 3)))
  compiling.compile_step(lowered)
  assert lowered.options == [None]


def test_options_that_xla_does_not_know_are_left_out(monkeypatch):
  level = {'xla_backend_optimization_level': 1}
  monkeypatch.setattr(compiling, '_QUICKLY', {'xla_unheard_of': True} | level | {'xla_nor_of': 2})
  lowered: Any = Lowered(step, STATE, jnp.ones((2, 3)))
  moved, _ = compiling.compile_step(lowered)(jax.tree.map(jnp.copy, STATE), jnp.ones((2, 3)))
  assert lowered.options[-1] == level and int(moved['step']) == 1


def test_what_goes_wrong_otherwise_is_raised():
  def broken(compiler_options):
    raise jax.errors.JaxRuntimeError('INTERNAL: no such kernel')

  lowered: Any = SimpleNamespace(compile=broken)
  with pytest.raises(jax.errors.JaxRuntimeError, match='no such kernel'):
    compiling.compile_step(lowered)


def test_elsewhere_a_step_is_compiled_as_it_is(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  lowered: Any = Lowered(step, STATE, jnp.ones((2, 3)))
  checked: list[Any] = []
  compiled = compiling.compile_step(lowered, check=checked.append)
  assert lowered.options == [None] and checked == [compiled]


@known
def test_a_step_that_runs_is_kept_and_touches_no_state(possible):
  lowered: Any = Lowered(step, STATE, jnp.ones((2, 3)))
  checked: list[Any] = []
  compiled = compiling.compile_step(lowered, check=checked.append)
  (options,) = lowered.options
  assert 'CONVOLUTION' in options['xla_gpu_enable_command_buffer'].split(',')
  assert checked == [compiled]
  moved, metrics = compiled(jax.tree.map(jnp.copy, STATE), jnp.ones((2, 3)))
  np.testing.assert_array_equal(moved['weights'], [2, 3, 4])
  assert int(moved['step']) == 1 and float(metrics['loss']) == 9


@known
def test_one_that_cannot_be_recorded_is_compiled_without_convolutions_and_says_so(possible, capsys):
  tried = []

  def once_broken(weights):
    tried.append(weights)
    if len(tried) == 1:
      raise RuntimeError('cudnn status 5003')
    return weights

  def broken(state, batch):
    moved, metrics = step(state, batch)
    weights = jax.pure_callback(once_broken, moved['weights'], moved['weights'])
    return {**moved, 'weights': weights}, metrics

  lowered: Any = Lowered(broken, STATE, jnp.ones((2, 3)))
  checked: list[Any] = []
  compiled = compiling.compile_step(lowered, check=checked.append)
  assert len(lowered.options) == 2 and not lowered.options[1]
  assert len(checked) == 1 and len(tried) == 1
  assert 'cuDNN cannot record a convolution' in capsys.readouterr().out
  moved, _ = compiled(jax.tree.map(jnp.copy, STATE), jnp.ones((2, 3)))
  np.testing.assert_array_equal(moved['weights'], [2, 3, 4])


def test_where_xla_cannot_record_them_a_step_is_compiled_as_it_is(possible, monkeypatch):
  unknown = {compiling._RECORDED: 'FUSION,NEVER_HEARD_OF'}
  monkeypatch.setattr(compiling, '_ONE_GRAPH', unknown)
  lowered: Any = Lowered(step, STATE, jnp.ones((2, 3)))
  moved, _ = compiling.compile_step(lowered)(jax.tree.map(jnp.copy, STATE), jnp.ones((2, 3)))
  assert lowered.options == [unknown, None] and int(moved['step']) == 1


def test_memory_that_runs_out_at_the_trial_is_told(possible):
  def exhausted():
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes')

  compiled: Any = exhausted
  compiled.args_info = ((), {})
  lowered: Any = SimpleNamespace(compile=lambda compiler_options: compiled)
  with pytest.raises(jax.errors.JaxRuntimeError, match='RESOURCE_EXHAUSTED'):
    compiling.compile_step(lowered)


@pytest.mark.parametrize(
  'change, expected',
  [
    ({}, True),
    ({'platform': 'rocm 60342'}, False),
    ({'devices': 2}, False),
    ({'flags': device.DETERMINISTIC}, False),
    ({'flags': '--xla_gpu_enable_command_buffer='}, False),
    ({'flags': '--xla_gpu_enable_triton_gemm=false'}, True),
  ],
)
def test_where_it_is_tried(change, expected, monkeypatch):
  at = {'platform': 'cuda 13000', 'devices': 1, 'flags': ''} | change
  gpu = SimpleNamespace(client=SimpleNamespace(platform_version=at['platform']))
  monkeypatch.setattr(jax, 'devices', lambda: [gpu] * at['devices'])
  monkeypatch.setattr(jax, 'device_count', lambda: at['devices'])
  monkeypatch.setenv('XLA_FLAGS', at['flags'])
  assert compiling._can_be_one_graph() == expected


# --- programs: compiled in a thread, kept as traced


class State(NamedTuple):
  step: jax.Array
  weights: dict[str, jax.Array]


BEFORE = State(jnp.zeros((), jnp.int32), {'b': jnp.ones(2), 'a': jnp.arange(3.0)})
BATCH = {'image': jnp.full((4, 3), 2.0)}


def arguments():
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (BEFORE, BATCH))


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
  traced, place = [], tmp_path / 'traced' / 'program'
  assert_moved(*Program(make_step(traced), arguments, place=place)(BEFORE, BATCH))
  assert place.is_file() and traced
  traced.clear()

  def not_asked_for():
    raise AssertionError('shapes are needed to trace alone')

  assert_moved(*Program(make_step(traced), not_asked_for, place=place)(BEFORE, BATCH))
  assert not traced


@pytest.mark.parametrize('damage', [b'', b'short', b'\0' * 3000])
def test_a_damaged_program_is_traced_again(damage, tmp_path):
  traced, place = [], tmp_path / 'program'
  place.write_bytes(damage)
  assert_moved(*Program(make_step(traced), arguments, place=place)(BEFORE, BATCH))
  assert traced and len(place.read_bytes()) > 100 and place.read_bytes() != damage


def test_a_program_is_begun_once_and_not_before_it_is_told_to():
  traced = []
  program = Program(make_step(traced), arguments)
  assert not traced
  program.begin().result()
  assert program.wait() is program.begin().result()
  assert_moved(*program(BEFORE, BATCH))
  assert len(traced) == 1


@pytest.mark.parametrize('donate', [False, True])
def test_a_program_uses_up_the_state_that_it_is_given_only_where_it_may(donate):
  state = jax.tree.map(jnp.copy, BEFORE)
  assert_moved(*Program(make_step([]), arguments, donate=donate)(state, BATCH))
  assert state.weights['a'].is_deleted() == donate
  assert not BATCH['image'].is_deleted()


def test_what_goes_wrong_is_raised_where_the_program_is_used():
  def broken(state, batch):
    raise ValueError('a shape that does not fit')

  program = Program(broken, arguments)
  program.begin()
  with pytest.raises(ValueError, match='does not fit'):
    program(BEFORE, BATCH)


def test_a_check_may_refuse_what_was_compiled():
  def refuse(compiled):
    assert compiled.memory_analysis() is not None
    raise InputError('too large')

  with pytest.raises(InputError, match='too large'):
    Program(make_step([]), arguments, check=refuse).wait()


@pytest.mark.parametrize(
  ('backend', 'processes', 'expected'),
  [('cpu', 1, [1, 0]), ('tpu', 1, [1, 0]), ('gpu', 1, [1, 1]), ('cpu', 2, [1, 1])],
)
def test_a_loop_waits_for_the_first_program_and_for_all_where_one_would_hold_up_the_others(
  backend, processes, expected, monkeypatch, capsys
):
  waited = [0, 0]

  def count(index):
    waited[index] += 1

  programs: Any = [SimpleNamespace(wait=lambda index=index: count(index)) for index in range(2)]
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  monkeypatch.setattr(jax_internals, 'process_count', lambda: processes)
  monkeypatch.setattr(compiling.hosts, 'meet', lambda brought: None)
  compiling.wait(programs)
  assert waited == expected
  assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ['compiled', 'in']


def test_a_process_may_leave_while_a_program_is_compiled():
  code = """
import threading
import numpy as np
from thrifty_jax import stopping
from thrifty_jax.training.compiling import Program

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


# --- what is kept from run to run


@pytest.fixture
def config(tmp_path):
  """The settings of a run that keeps what it traces."""
  config = configs.default()
  config.compilation_cache = str(tmp_path)
  return config


def test_the_place_follows_from_the_config_and_from_what_is_given(config, tmp_path):
  place = compiling.place(config, half=0, steps=7)
  assert place is not None and tmp_path in place.parents
  assert compiling.place(config, half=0, steps=7) == place
  others = {compiling.place(config, half=1, steps=7), compiling.place(config, half=0, steps=8)}
  config.search.channels *= 2
  others.add(compiling.place(config, half=0, steps=7))
  assert len(others) == 3 and place not in others
  config.compilation_cache = ''
  assert compiling.place(config, half=0, steps=7) is None


def test_the_place_follows_from_the_code_and_the_versions(config, monkeypatch):
  places = {compiling.place(config)}
  with monkeypatch.context() as patch:
    patch.setattr(compiling, '_code', lambda: 'changed')
    places.add(compiling.place(config))
  monkeypatch.setattr(compiling.importlib.metadata, 'version', lambda name: '99')
  places.add(compiling.place(config))
  assert len(places) == 3


def test_with_several_devices_nothing_is_kept(config, monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 2)
  assert compiling.place(config) is None


def test_the_place_depends_neither_on_where_data_lies_nor_on_seed_fold_and_schedule(config):
  place = compiling.place(config)
  config.seed, config.data.data_dir, config.data.raw_dir = 7, '/elsewhere', '/scans'
  config.data.fold, config.data.folds, config.search.seeds = 3, 10, 4
  config.retrain.epochs, config.retrain.warmup_epochs, config.retrain.minutes = 3, 1, 5.0
  assert compiling.place(config) == place
  config.retrain.batch_size += 1
  assert compiling.place(config) != place


def made(path, content):
  """What is kept in a file, and whether it had to be made."""
  asked = []

  def make():
    asked.append(True)
    return content

  return compiling.keep(path, make, bytes), bool(asked)


def test_what_is_kept_is_read_again(config):
  path, other = (compiling.place(config, weights_of=name) for name in ('a network', 'another'))
  assert made(path, b'shapes') == (b'shapes', True)
  assert made(path, b'other shapes') == (b'shapes', False)
  assert made(other, b'others') == (b'others', True)


def test_the_shapes_of_weights_are_traced_once(config, monkeypatch):
  net, image = baselines.UNetPlusPlus(2, nested=False, widths=(2, 2)), jnp.zeros((1, 8, 8, 1))
  shape = jax.ShapeDtypeStruct(image.shape, image.dtype)
  traced = json.loads(json.dumps(build.trace_shapes(net, shape)))
  assert compiling.make_shapes_finder(config, net, shape)(net, shape) == traced
  monkeypatch.setattr(build, 'trace_shapes', None)
  assert compiling.make_shapes_finder(config, net, shape)(net, shape) == traced


@pytest.mark.parametrize('damage', [b'', b'short', b'\0' * 3000])
def test_what_is_damaged_is_made_again(damage, tmp_path):
  path = tmp_path / 'one'
  made(path, b'shapes')
  path.write_bytes(damage)
  assert made(path, b'again') == (b'again', True)
  assert made(path, b'') == (b'again', False)


POISON = {
  'no JSON': b'garbage',
  'no UTF-8': b'\xff\xfe',
  'a name that leads elsewhere': b'{"../../etc/passwd": [[1], "float32"]}',
  'no shape': b'{"kernel": [["1"], "float32"]}',
  'a type of nothing': b'{"kernel": [[1], "float33"]}',
  'a list': b'[1]',
  'nothing': b'{}',
  'depths': b'[' * 100_000,
}


@pytest.mark.parametrize('name', POISON)
def test_content_that_was_swapped_is_made_again_with_a_line(tmp_path, capsys, name):
  path, good = tmp_path / 'one', b'{"kernel": [[1], "float32"]}'
  path.write_bytes(hashlib.sha256(POISON[name]).digest() + POISON[name])
  assert compiling.keep(path, lambda: good, build.parse_shapes) == {'kernel': [[1], 'float32']}
  printed = capsys.readouterr().out
  assert f'{path} cannot be used (' in printed and printed.count('\n') == 1
  assert compiling.keep(path, lambda: b'', build.parse_shapes) == {'kernel': [[1], 'float32']}
  assert not capsys.readouterr().out


def test_a_program_that_was_swapped_is_traced_again(tmp_path):
  place = tmp_path / 'one'
  place.write_bytes(hashlib.sha256(b'garbage').digest() + b'garbage')
  assert_moved(*Program(make_step([]), arguments, place=place)(BEFORE, BATCH))


def test_what_is_kept_is_for_this_user_alone(tmp_path):
  made(tmp_path / 'new' / 'one', b'shapes')
  assert (tmp_path / 'new').stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize('inner', ['', 'traced'])
def test_a_folder_into_which_others_can_write_is_not_used(config, tmp_path, capsys, inner):
  folder = tmp_path / 'shared'
  (folder / inner).mkdir(parents=True)
  (folder / inner).chmod(0o777)
  config.compilation_cache = str(folder)
  assert compiling.place(config) is None and compiling.place(config) is None
  assert capsys.readouterr().err.count(f'other users can write into {folder / inner};') == 1


def test_without_a_place_nothing_is_kept(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert made(None, b'shapes') == (b'shapes', True)
  assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_costs_no_run(tmp_path):
  (tmp_path / 'file').write_text('not a folder')
  place = tmp_path / 'file' / 'one'
  assert made(place, b'shapes') == (b'shapes', True)
  assert_moved(*Program(make_step([]), arguments, place=place)(BEFORE, BATCH))


def test_the_oldest_make_room_and_what_is_used_is_not_old(tmp_path, monkeypatch):
  monkeypatch.setattr(compiling, '_MOST_KEPT', 2)
  for age, name in enumerate('ab'):
    made(tmp_path / name, b'shapes')
    os.utime(tmp_path / name, (age, age))
  made(tmp_path / 'a', b'')
  made(tmp_path / 'c', b'shapes')
  assert sorted(path.name for path in tmp_path.iterdir()) == ['a', 'c']
