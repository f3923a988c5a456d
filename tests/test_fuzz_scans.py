"""A short run of fuzz_scans.py, and what would let it pass with nothing found."""

import collections
import dataclasses
import gc

import fuzz_scans
import pytest

from thrifty_jax.errors import InputError
from thrifty_jax.scans import sources


@pytest.mark.parametrize('name', fuzz_scans.FORMATS)
def test_what_is_damaged_is_whole_before(tmp_path, monkeypatch, name):
  files = fuzz_scans.FORMATS[name].make()
  monkeypatch.setattr(fuzz_scans, 'make_case', lambda seed, number: (name, files))
  alone = name.startswith(('jpeg', 'bmp', 'gif', 'tiff, lzw'))
  expected = 'read here alone' if alone else 'read'
  assert fuzz_scans.run_case(0, 0, tmp_path) == expected


def test_a_damaged_scan_is_read_as_another_reader_does_or_refused_in_a_line():
  events = list(fuzz_scans.run_cases(0, range(150)))
  counts = collections.Counter(map(str, events[1::2]))
  assert {*counts} == {'read', 'refused', 'read here alone'}, counts
  assert counts['read'] > 20


def fail(volume):
  raise KeyError('a traceback')


def speak(volume):
  raise InputError('one line\nand another')


FAULTS = {
  'a traceback': fail,
  'two lines': speak,
  'another voxel': lambda volume: dataclasses.replace(volume, image=volume.image + 1),
  'another place': lambda volume: dataclasses.replace(volume, affine=2 * volume.affine),
  'voxels from elsewhere': lambda volume: dataclasses.replace(
    volume, image=volume.image * 0 + fuzz_scans.SECRET
  ),
  'memory': lambda volume: dataclasses.replace(
    volume, case=str(len(b'x' * (2 * fuzz_scans.MOST_BYTES)))
  ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_each_fault_is_found(tmp_path, monkeypatch, fault):
  files = fuzz_scans.FORMATS['mha'].make()
  monkeypatch.setattr(fuzz_scans, 'make_case', lambda seed, number: ('mha', files))
  read = sources.read

  def faulty(source):
    volume, grid = read(source)
    return FAULTS[fault](volume), grid

  monkeypatch.setattr(sources, 'read', faulty)
  gc.collect()  # else what other tests left may go meanwhile, and hide what is taken
  with pytest.raises((AssertionError, KeyError, MemoryError)):
    fuzz_scans.run_case(0, 0, tmp_path)
