"""A step as one CUDA graph: how it is tried, and what becomes of one that cannot be. On the CPU."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax import cuda_graph, device

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
  monkeypatch.setattr(cuda_graph, '_is_possible', lambda: True)


def test_elsewhere_than_on_a_gpu_a_step_is_compiled_as_it_is():
  lowered: Any = Lowered(step, STATE, jnp.ones((2, 3)))
  checked: list[Any] = []
  compiled = cuda_graph.compile_step(lowered, check=checked.append)
  assert lowered.options == [None] and checked == [compiled]


@known
def test_a_step_that_runs_is_kept_and_touches_no_state(possible):
  lowered: Any = Lowered(step, STATE, jnp.ones((2, 3)))
  checked: list[Any] = []
  compiled = cuda_graph.compile_step(lowered, check=checked.append)
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
  compiled = cuda_graph.compile_step(lowered, check=checked.append)
  assert len(lowered.options) == 2 and not lowered.options[1]
  assert len(checked) == 1 and len(tried) == 1
  assert 'cuDNN cannot record a convolution' in capsys.readouterr().out
  moved, _ = compiled(jax.tree.map(jnp.copy, STATE), jnp.ones((2, 3)))
  np.testing.assert_array_equal(moved['weights'], [2, 3, 4])


def test_where_xla_cannot_record_them_a_step_is_compiled_as_it_is(possible, monkeypatch):
  unknown = {cuda_graph._FLAG: 'FUSION,NEVER_HEARD_OF'}
  monkeypatch.setattr(cuda_graph, '_ONE_GRAPH', unknown)
  lowered: Any = Lowered(step, STATE, jnp.ones((2, 3)))
  moved, _ = cuda_graph.compile_step(lowered)(jax.tree.map(jnp.copy, STATE), jnp.ones((2, 3)))
  assert lowered.options == [unknown, None] and int(moved['step']) == 1


def test_memory_that_runs_out_at_the_trial_is_told(possible):
  def exhausted():
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes')

  compiled: Any = exhausted
  compiled.args_info = ((), {})
  lowered: Any = SimpleNamespace(compile=lambda compiler_options: compiled)
  with pytest.raises(jax.errors.JaxRuntimeError, match='RESOURCE_EXHAUSTED'):
    cuda_graph.compile_step(lowered)


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
  assert cuda_graph._is_possible() == expected
