"""How a step is compiled: one CUDA graph, how it is tried and where not; on a CPU. All on one."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax import device
from thrifty_jax.training import compiling

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
