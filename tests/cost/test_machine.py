"""The processor in words, and a process that is held on some of its cores."""

import os
import platform

import pytest

from thrifty_jax import device
from thrifty_jax.cost import machine
from thrifty_jax.errors import InputError

INTEL = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C
flags\t\t: fpu sse2 avx2 fma avx512f avx512_vnni amx_int8 avx512_vnni_like

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8481C
flags\t\t: fpu
"""


def test_the_text_has_the_model_the_cores_and_the_extensions(tmp_path, monkeypatch):
  monkeypatch.setattr(machine.os, 'cpu_count', lambda: 2)
  (tmp_path / 'cpuinfo').write_text(INTEL)
  assert machine.describe(tmp_path / 'cpuinfo') == (
    'Intel(R) Xeon(R) Platinum 8481C, 2 cores, avx2 fma avx512f avx512_vnni amx_int8'
  )


def test_without_cpuinfo_python_names_the_processor(tmp_path, monkeypatch):
  monkeypatch.setattr(machine.os, 'cpu_count', lambda: 1)
  monkeypatch.setattr(platform, 'processor', lambda: 'arm')
  assert machine.describe(tmp_path / 'none') == 'arm, 1 core'


def test_on_arm_the_extensions_stand_under_features(tmp_path, monkeypatch):
  monkeypatch.setattr(machine.os, 'cpu_count', lambda: 4)
  monkeypatch.setattr(platform, 'processor', lambda: 'aarch64')
  (tmp_path / 'cpuinfo').write_text('processor : 0\nFeatures : fp asimd i8mm\n')
  assert machine.describe(tmp_path / 'cpuinfo') == 'aarch64, 4 cores, asimd i8mm'


@pytest.mark.skipif(not hasattr(os, 'sched_getaffinity'), reason='only Linux holds threads')
def test_the_process_is_held_on_as_many_cores_and_freed_again():
  before = os.sched_getaffinity(0)
  with pytest.raises(KeyError), machine.hold_on_cores(1):
    assert len(os.sched_getaffinity(0)) == 1
    raise KeyError
  assert os.sched_getaffinity(0) == before


def test_more_cores_than_there_are_are_refused():
  with (
    pytest.raises(InputError, match='ask for fewer'),
    machine.hold_on_cores(device.cores() + 1),
  ):
    pass


def test_a_system_that_cannot_hold_threads_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(device, 'cores', lambda: 4)
  monkeypatch.setattr(machine, '_TASKS', tmp_path / 'none')
  with pytest.raises(InputError, match='with 4 threads'), machine.hold_on_cores(1):
    pass
