"""The device is chosen before JAX starts, and what is missing is said."""

import importlib.metadata
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

from thrifty_jax import config as configs
from thrifty_jax import device
from thrifty_jax.errors import InputError

PROJECT = Path(__file__).resolve().parents[1]

_SECOND_RUN = """
import sys
from thrifty_jax import config, device
settings = config.default()
settings.device = 'cpu'
settings.compilation_cache = sys.argv[1]
device.prepare(settings)
import jax, jax.numpy as jnp
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
jax.jit(lambda x: x * 2 + 1)(jnp.ones(3)).block_until_ready()
assert jax.default_backend() == 'cpu'
"""


@pytest.mark.parametrize('name', ['gpu', 'tpu'])
def test_a_device_that_is_not_there_is_refused_by_name(name):
  if jax.default_backend() != 'cpu':
    pytest.skip('there is an accelerator here')
  config = configs.default()
  config.device = name
  config.compilation_cache = ''
  with pytest.raises(InputError, match=f"config.device is '{name}', but JAX finds only CPU"):
    device.prepare(config)


def test_devices_that_jax_cannot_start_are_said_in_a_line(monkeypatch):
  def refuse():
    raise RuntimeError("Unable to initialize backend 'tpu': no such file\nmore")

  config = configs.default()
  config.compilation_cache = ''
  monkeypatch.setattr(jax, 'default_backend', refuse)
  monkeypatch.setattr(device, 'keep_freed_memory', lambda: None)
  with pytest.raises(InputError, match="backend 'tpu': no such file\\); free or repair") as caught:
    device.prepare(config)
  assert 'more' not in str(caught.value)


def test_networks_train_in_bfloat16_where_the_hardware_multiplies_in_it():
  def fake(platform, **more):
    return types.SimpleNamespace(platform=platform, **more)

  found = {
    'cpu': device.precision('auto', fake('cpu')),
    'tpu': device.precision('auto', fake('tpu')),
    'T4': device.precision('auto', fake('gpu', compute_capability='7.5')),
    'A100': device.precision('auto', fake('gpu', compute_capability='8.0')),
    'B200': device.precision('auto', fake('gpu', compute_capability='10.0')),
    'MI300X': device.precision('auto', fake('gpu', compute_capability='gfx942')),
  }
  assert [name for name, precision in found.items() if precision == 'float32'] == ['cpu', 'T4']
  assert {*found.values()} == {'float32', 'bfloat16'}
  assert device.precision('bfloat16', fake('cpu')) == 'bfloat16'
  assert device.precision('float32', fake('tpu')) == 'float32'


def test_float32_is_float32_on_an_accelerator_too(monkeypatch):
  config = configs.default()
  config.compilation_cache = ''
  before = jax.config.values['jax_default_matmul_precision']
  try:
    for backend, expected in (('cpu', before), ('tpu', 'highest')):
      monkeypatch.setattr(jax, 'default_backend', lambda backend=backend: backend)
      device.prepare(config)
      assert jax.config.values['jax_default_matmul_precision'] == expected
  finally:
    jax.config.update('jax_default_matmul_precision', before)


def test_xla_knows_its_flags_and_programs_are_kept_in_the_folder_that_the_config_names(tmp_path):
  command = [sys.executable, '-c', _SECOND_RUN, str(tmp_path / 'xla')]
  # XLA ends the process at a flag that it does not know.
  environment = os.environ | {'XLA_FLAGS': f'{device._CUBLAS} {device.DETERMINISTIC}'}
  subprocess.run(command, cwd=PROJECT, env=environment, check=True, timeout=120)
  assert any((tmp_path / 'xla').iterdir())


def test_programs_whose_use_is_longest_ago_make_room(monkeypatch, tmp_path):
  monkeypatch.setattr(device, '_MOST_BYTES', 250)
  for age, name in enumerate(('new-cache', 'next-cache', 'old-cache', 'oldest-cache', 'other')):
    (tmp_path / name).write_bytes(bytes(100))
    os.utime(tmp_path / name, (1e9 - age, 1e9 + age))
  device._bound_cache(tmp_path)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['new-cache', 'next-cache', 'other']


def test_the_cache_follows_the_users_cache_folder_and_can_be_off(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert device.cache_folder('auto') == tmp_path / 'thrifty_jax' / 'xla'
  monkeypatch.delenv('XDG_CACHE_HOME')
  assert device.cache_folder('auto') == Path.home() / '.cache' / 'thrifty_jax' / 'xla'
  assert device.cache_folder('') is None


def test_where_there_is_no_mallopt_nothing_happens(monkeypatch):
  monkeypatch.setattr(sys, 'platform', 'darwin')
  before = dict(jax.config.values)
  device.keep_freed_memory()
  device.give_back_memory()
  assert jax.config.values == before


def test_deterministic_operations_are_asked_for_once_and_beside_other_flags(monkeypatch):
  config = configs.default()
  config.compilation_cache, config.deterministic = '', True
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_enable_fast_math=false')
  monkeypatch.setattr(device, '_has_cuda_plugin', lambda: False)  # which has a flag of its own
  for _ in range(2):
    device.prepare(config)
    flags = '--xla_cpu_enable_fast_math=false --xla_gpu_deterministic_ops=true'
    assert os.environ['XLA_FLAGS'] == flags


@pytest.mark.parametrize(
  ('name', 'flags', 'expected'),
  [
    ('auto', '', '--xla_gpu_enable_triton_gemm=false'),
    ('gpu', '--a=1', '--a=1 --xla_gpu_enable_triton_gemm=false'),
    ('gpu', '--xla_gpu_enable_triton_gemm=true', '--xla_gpu_enable_triton_gemm=true'),
    ('cpu', '', ''),
  ],
)
def test_matrix_products_are_left_to_cublas_where_jax_may_use_nvidias_gpus(
  monkeypatch, name, flags, expected
):
  plugin = importlib.metadata.EntryPoint('xla_cuda13', 'jax_plugins.xla_cuda13', 'jax_plugins')
  monkeypatch.setattr(importlib.metadata, 'entry_points', lambda **_: (plugin,))
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu' if name == 'cpu' else 'gpu')
  monkeypatch.setattr(device, 'keep_freed_memory', lambda: None)
  monkeypatch.setenv('XLA_FLAGS', flags)
  config = configs.default()
  config.device, config.compilation_cache = name, ''
  before = jax.config.values['jax_default_matmul_precision']
  try:
    device.prepare(config)
  finally:
    jax.config.update('jax_default_matmul_precision', before)
  assert os.environ['XLA_FLAGS'] == expected


def test_deterministic_operations_are_refused_once_a_gpu_has_started_without(monkeypatch):
  config = configs.default()
  config.deterministic = True
  monkeypatch.setenv('XLA_FLAGS', '')
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  jax.devices()  # has started
  with pytest.raises(InputError, match='XLA_FLAGS=--xla_gpu_deterministic_ops=true before JAX'):
    device.prepare(config)
