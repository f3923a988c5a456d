"""Time and memory of a stage."""

import mmap
import sys
import types

import pytest

from thrifty_jax import records
from thrifty_jax.run_files import Resources
from thrifty_jax.training import resources

SIZE = 64 << 20


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems keep one peak for good')
def test_a_peak_is_that_since_it_was_forgotten():
  resources.forget_peak()
  before = resources.peak_process_bytes()
  with mmap.mmap(-1, SIZE) as held:  # pages of its own, where malloc may give what it had kept
    held.write(b'1' * SIZE)
    with_pages = resources.peak_process_bytes()
    assert with_pages - before >= SIZE // 2
  assert resources.peak_process_bytes() >= with_pages - SIZE // 2  # the kernel counts roughly
  resources.forget_peak()
  assert resources.peak_process_bytes() <= with_pages - SIZE // 2


def test_the_peak_of_an_accelerator_is_that_of_its_fullest_device():
  def fake(platform, stats):
    return types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)

  gpus = [fake('gpu', {'peak_bytes_in_use': 5}), fake('gpu', {'peak_bytes_in_use': 7})]
  assert resources.peak_device_bytes(gpus) == 7
  assert resources.peak_device_bytes([fake('cpu', {'peak_bytes_in_use': 5})]) is None
  assert resources.peak_device_bytes([fake('gpu', None)]) is None


def test_resources_are_written_beside_the_stage(tmp_path):
  resources.write(tmp_path / 'retrain', seconds=12.5)
  found = records.read(tmp_path / 'retrain' / 'resources.json', Resources)
  assert found.seconds == 12.5 and found.peak_process_bytes > 1 << 20
  assert found.peak_device_bytes is None and found.device.startswith('CPU')
