"""A file is written whole or not at all."""

import errno
import os
import time
from pathlib import Path

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


def test_files_that_belong_together_are_all_written_or_none(tmp_path, monkeypatch):
  names = ('a.txt', 'b.txt')
  files.write_all({tmp_path / name: 'old' for name in names})
  room, synchronise = [1], os.fsync

  def fill_up(descriptor):
    if not room:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    synchronise(descriptor), room.pop()

  with monkeypatch.context() as patch:
    patch.setattr(os, 'fsync', fill_up)
    with pytest.raises(OSError, match='No space'):
      files.write_all({tmp_path / name: 'new' for name in names})
  assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, 'old')


def test_a_file_has_its_name_only_once_its_bytes_are_on_the_disk(tmp_path, monkeypatch):
  calls = []
  for name in ('fsync', 'replace'):
    real = getattr(os, name)
    monkeypatch.setattr(
      os, name, lambda *given, name=name, real=real: (calls.append(name), real(*given))
    )
  files.write_text(tmp_path / 'a.txt', 'whole')
  assert calls == ['fsync', 'replace'] and (tmp_path / 'a.txt').read_text() == 'whole'


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path, monkeypatch):
  left, writing, others = 'a.json', 'b.json', ('.c.tmp', '.d.json.0123456.tmp', 'e.01234567.tmp')
  with monkeypatch.context() as patch:
    patch.setattr(files.os, 'replace', lambda *paths: None)  # the process ends before it
    for name in (left, writing):
      files.write_text(tmp_path / 'deep' / name, 'whole')
  for name in others:
    (tmp_path / 'deep' / name).write_text('of another program')
  for path in (tmp_path / 'deep').iterdir():
    if writing not in path.name:
      os.utime(path, (0, time.time() - 3600))
  files.sweep(tmp_path.rglob('.*'))
  still = sorted(path.name for path in (tmp_path / 'deep').iterdir())
  assert still[0].startswith(f'.{writing}.') and still[1:] == sorted(others)


def test_what_matches_is_found_at_every_depth_but_through_no_link(tmp_path, monkeypatch):
  for path in ('checkpoints/1', 'seed_0/checkpoints/2', 'seed_0/a/3', 'gone/checkpoints/4'):
    (tmp_path / path).mkdir(parents=True)
  (tmp_path / 'away' / 'checkpoints' / '5').mkdir(parents=True)
  within, link = tmp_path / 'seed_0', tmp_path / 'gone' / 'link'
  link.symlink_to(tmp_path / 'away')
  found = {path.relative_to(tmp_path).as_posix() for path in files.find_below(tmp_path, 'a', '*/2')}
  assert found == {'seed_0/a', 'seed_0/checkpoints/2'}
  pattern = 'checkpoints/[0-9]'
  expected = {*tmp_path.glob(f'**/{pattern}')}
  assert {*files.find_below(tmp_path, pattern)} == expected and len(expected) == 4
  (within / 'checkpoints').rename(tmp_path / 'elsewhere')
  (within / 'checkpoints').symlink_to(tmp_path / 'elsewhere')  # one that is named is followed
  assert {*files.find_below(tmp_path, pattern)} == expected
  assert not [*files.find_below(tmp_path / 'nowhere', '*')]
  scandir = os.scandir

  def vanished(path):
    if 'gone' in str(path):
      raise FileNotFoundError(path)
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', vanished)
  assert {*files.find_below(tmp_path, pattern)} == {
    path for path in expected if 'gone' not in str(path)
  }


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def replace(place, name='new'):
  with files.whole_folder(place) as unfinished:
    (unfinished / name).touch()
    assert place.name not in names(place.parent) or names(place) == ['old']


def test_a_folder_has_its_name_only_once_it_is_whole_and_a_failure_changes_nothing(tmp_path):
  replace(tmp_path / 'deep' / 'there', 'old')
  replace(tmp_path / 'deep' / 'there')
  with pytest.raises(KeyboardInterrupt), files.whole_folder(tmp_path / 'deep' / 'there'):
    raise KeyboardInterrupt
  assert names(tmp_path / 'deep') == ['there'] and names(tmp_path / 'deep' / 'there') == ['new']


@pytest.mark.parametrize('renames', [0, 1])
def test_a_process_that_is_killed_leaves_the_folder_that_was_there(tmp_path, monkeypatch, renames):
  place, left, rename = tmp_path / 'there', [None] * renames, Path.rename
  replace(place, 'old')

  def killed(self, target):
    if not left:
      raise KeyboardInterrupt
    left.pop()
    return rename(self, target)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(Path, 'rename', killed)
    replace(place)
  assert names(tmp_path / '.there.replaced' if renames else place) == ['old']
  with pytest.raises(OSError, match='no space'), files.whole_folder(place):
    raise OSError('no space')
  assert names(place) == ['old']
  for path in tmp_path.glob('.*'):  # what it had written, and later nobody is writing
    os.utime(path, (0, time.time() - 3600))
  replace(place)
  assert names(tmp_path) == ['there'] and names(place) == ['new']


def test_what_is_not_json_is_not_written(tmp_path):
  with pytest.raises(ValueError):
    files.write_json(tmp_path / 'a.json', {'loss': float('nan')})
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('content', [None, b'{"a": ', b'\xff\xfe', b'{"a": 1, "a": 2}'])
def test_a_missing_or_broken_file_is_named(tmp_path, content):
  path = tmp_path / 'a.json'
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(InputError, match=r'a\.json'):
    files.read_json(path)


def test_a_full_disk_is_bad_input_with_the_folder_and_other_faults_come_through(
  tmp_path, monkeypatch
):
  full = os.strerror(errno.ENOSPC)
  monkeypatch.chdir('/usr')
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
  scans = PermissionError(errno.EACCES, 'no', 'bin')  # a relative path, not in the folder
  for fault in (OSError('directory not empty'), RuntimeError('a fault of ours'), elsewhere, scans):
    with pytest.raises(type(fault)) as caught, files.report_unwritable(tmp_path, '--workdir'):
      raise fault
    assert caught.value is fault


@pytest.mark.parametrize(
  ('mode', 'found'), [(0o700, False), (0o755, False), (0o720, True), (0o702, True)]
)
def test_a_folder_of_the_group_or_of_all_may_hold_files_of_others(tmp_path, mode, found):
  tmp_path.chmod(mode)
  assert files.others_can_write(tmp_path) == found
  assert not files.others_can_write(tmp_path / 'absent')


def test_whole_numbers_fit_64_bits():
  assert files.parse_json('9' * 18) == 10**18 - 1
  with pytest.raises(ValueError, match='over 18 digits'):
    files.parse_json('9' * 19)


@pytest.fixture
def no_memory():
  files._home.cache_clear()
  yield
  files._home.cache_clear()


@pytest.mark.usefixtures('no_memory')
def test_a_home_folder_that_can_be_written_to_is_taken(monkeypatch, tmp_path, capsys):
  for home in (tmp_path, tmp_path / 'to be made' / 'deep'):
    monkeypatch.setenv('HOME', str(home))
    files._home.cache_clear()
    assert files.in_home('.cache', 'x') == home / '.cache' / 'x'
  assert capsys.readouterr().err == ''


@pytest.mark.usefixtures('no_memory')
@pytest.mark.parametrize('home', ['~', 'relative', 'file/below', '', 'locked/below'])
def test_without_a_home_folder_one_here_is_taken_with_a_line(monkeypatch, tmp_path, capsys, home):
  (tmp_path / 'file').write_text('')
  monkeypatch.chdir(tmp_path)
  path = home if home in ('~', 'relative', '') else str(tmp_path / home)
  monkeypatch.setattr(files.os.path, 'expanduser', lambda name: path)
  if 'locked' in home:
    monkeypatch.setattr(files.os, 'access', lambda *arguments: False)
  assert files.in_home('x') == files.in_home('x') == tmp_path / '.thrifty_jax' / 'x'
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1 and 'set HOME' in lines[0]


@pytest.mark.parametrize(
  'name', [b'M\xfcller', b'\xff', b'scan\xe9_0000', b'a\xc3', b'caf\xe9 \xe9'], ids=str
)
def test_a_name_that_is_no_utf8_can_be_written_about(tmp_path, name):
  text = os.fsdecode(name)
  written = files.write_text(tmp_path / 'page.html', f'<p>{text}</p>').read_bytes()
  assert written.startswith(b'<p>') and b'\\udc' in written and written.decode('utf-8')
