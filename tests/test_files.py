"""A file is written whole or not at all."""

import errno
import os

import pytest

from thrifty_jax import files
from thrifty_jax.errors import InputError


def test_json_comes_back_and_nothing_else_is_left_in_the_folder(tmp_path):
  path = files.write_json(tmp_path / 'new' / 'a.json', {'name': 'Größe', 'numbers': [1, 2.5, None]})
  assert files.read_json(path) == {'name': 'Größe', 'numbers': [1, 2.5, None]}
  assert [each.name for each in path.parent.iterdir()] == ['a.json']


def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
  path = files.write_text(tmp_path / 'a.txt', 'old')

  def fail(source, target):
    raise OSError('disk full')

  monkeypatch.setattr(os, 'replace', fail)
  with pytest.raises(OSError, match='disk full'):
    files.write_text(path, 'new')
  assert path.read_text() == 'old'
  assert [each.name for each in tmp_path.iterdir()] == ['a.txt']


def test_what_is_not_json_is_not_written(tmp_path):
  with pytest.raises(ValueError):
    files.write_json(tmp_path / 'a.json', {'loss': float('nan')})
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('content', [None, b'{"a": ', b'\xff\xfe'])
def test_a_missing_or_broken_file_is_named(tmp_path, content):
  path = tmp_path / 'a.json'
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(InputError, match=r'a\.json'):
    files.read_json(path)


def test_a_full_disk_is_bad_input_with_the_folder_and_other_faults_come_through(tmp_path):
  full = os.strerror(errno.ENOSPC)
  for fault in (OSError(errno.ENOSPC, full), RuntimeError(f'write() failed: {full}; writing x')):
    with (
      pytest.raises(InputError, match=rf'^{tmp_path}: .*{full.lower()}.* --config.data.data_dir$'),
      files.report_unwritable(tmp_path, '--config.data.data_dir'),
    ):
      raise fault
  for place in (tmp_path / 'a' / 'b', tmp_path.parent):  # the second: the folder cannot be made
    with (
      pytest.raises(InputError, match='cannot be written'),
      files.report_unwritable(tmp_path, '--x'),
    ):
      raise PermissionError(errno.EACCES, 'no', str(place))
  elsewhere = PermissionError(errno.EACCES, 'not there', '/elsewhere/scan.mhd')
  for fault in (OSError('directory not empty'), RuntimeError('a fault of ours'), elsewhere):
    with pytest.raises(type(fault)) as caught, files.report_unwritable(tmp_path, '--workdir'):
      raise fault
    assert caught.value is fault
