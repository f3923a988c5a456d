"""A folder that a process works in is refused to others, and free as soon as that process ends."""

import contextlib
import datetime
import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from thrifty_jax import lock
from thrifty_jax.errors import InputError

PROJECT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from thrifty_jax import lock
with lock.hold(*map(Path, sys.argv[1:]), stage='search'):
  print('held', flush=True)
  sys.stdin.read()
"""


@contextlib.contextmanager
def process(script, *arguments):
  """A process that has said that it holds its lock; killed at the end."""
  started: Any = subprocess.Popen(
    [sys.executable, '-c', script, *map(str, arguments)],
    cwd=PROJECT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  with started:
    assert started.stdout.readline() == 'held\n'
    try:
      yield started
    finally:
      started.kill()


def refused(folder):
  with pytest.raises(InputError) as caught, lock.hold(folder):
    raise AssertionError('two processes in one folder')
  return str(caught.value)


def test_a_second_process_is_told_in_one_line_who_is_there_and_what_to_do(tmp_path):
  with process(HOLD, tmp_path) as holder:
    now = datetime.datetime.now()
    before = (tmp_path / lock.FILE).read_bytes()
    line = refused(tmp_path)
    pattern = (
      r'(.*): process (\d+) \(--stage=search\), since (\S+ \d\d:\d\d), works in this folder; '
    )
    found = re.fullmatch(pattern + 'wait for it to end, or use another --workdir', line)
    assert found and found[1] == str(tmp_path) and int(found[2]) == holder.pid
    since = datetime.datetime.strptime(found[3], '%Y-%m-%d %H:%M')
    assert 0 <= (now - since).total_seconds() < 120
    assert (tmp_path / lock.FILE).read_bytes() == before
    assert os.uname().nodename not in before.decode()
    with lock.hold(tmp_path / 'another'):
      pass


@pytest.mark.parametrize(
  'content',
  ['', 'process 7', 'process x (--stage=all), since 2026-01-01 00:00', '\x1b[2J' * 900, '\udcff'],
)
def test_an_owner_that_cannot_be_read_is_another_process(tmp_path, content):
  with lock.hold(tmp_path):
    (tmp_path / lock.FILE).write_bytes(content.encode(errors='surrogateescape'))
    assert refused(tmp_path).startswith(f'{tmp_path}: another process works in this folder; ')


def test_who_waits_gets_the_folder_once_the_other_process_has_ended(tmp_path):
  with process(HOLD, tmp_path) as holder, ThreadPoolExecutor(1) as executor:

    def work():
      with lock.hold(tmp_path, wait=True):
        return (tmp_path / lock.FILE).read_text()

    waiting = executor.submit(work)
    with pytest.raises(TimeoutError):
      waiting.result(timeout=1)
    holder.stdin.close()
    assert f'process {os.getpid()} ' in waiting.result(timeout=60)
  assert list(tmp_path.iterdir()) == []


def test_a_killed_process_is_in_nobodys_way(tmp_path):
  with process(HOLD, tmp_path) as holder:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert str(holder.pid) in (tmp_path / lock.FILE).read_text()
    with lock.hold(tmp_path):
      assert str(os.getpid()) in (tmp_path / lock.FILE).read_text()
      assert str(holder.pid) not in (tmp_path / lock.FILE).read_text()
  assert list(tmp_path.iterdir()) == []


FORK = """
import os
if not os.fork():
  os.write(1, b'held\\n')
  sys.stdin.read()  # the copy leaves the block when the original is dead
else:
  os.wait()
"""
CHILD = """
import subprocess
subprocess.Popen([sys.executable, '-c', 'print("held", flush=True); input()'], close_fds=False)
sys.stdin.read()
"""


@pytest.mark.parametrize('left', [FORK, CHILD], ids=['a copy', 'a child'])
def test_what_a_killed_process_leaves_running_does_not_keep_the_lock(tmp_path, left):
  body = left.strip().replace('\n', '\n  ')
  script = HOLD.replace("print('held', flush=True)\n  sys.stdin.read()", body)
  with process(script, tmp_path) as holder:
    assert str(holder.pid) in refused(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock.hold(tmp_path):
      holder.stdin.close()  # the copy ends, and removes no lock of ours
      assert holder.stdout.read() == ''  # until it has ended
      assert 'works in this folder' in refused(tmp_path)
  assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_folders_that_were_made_for_nothing(tmp_path):
  workdir = tmp_path / 'runs' / 'brain'
  with pytest.raises(KeyError), lock.hold(workdir, workdir / 'fold_0'):
    assert (workdir / 'fold_0' / lock.FILE).exists()
    raise KeyError
  assert list(tmp_path.iterdir()) == []
  with lock.hold(workdir, workdir / 'fold_0'):
    (workdir / 'check.html').write_text('')
  assert [path.name for path in workdir.iterdir()] == ['check.html']
  (tmp_path / 'mine').mkdir()
  with lock.hold(tmp_path / 'mine'):
    pass
  assert list((tmp_path / 'mine').iterdir()) == []  # it was there before


def test_if_one_of_several_folders_is_taken_none_is_held(tmp_path):
  with process(HOLD, tmp_path / 'fold_1'):
    folders = tmp_path, tmp_path / 'fold_0', tmp_path / 'fold_1'
    with pytest.raises(InputError, match='fold_1: process'), lock.hold(*folders):
      raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == ['fold_1']
    with lock.hold(tmp_path, tmp_path / 'fold_0'):
      pass


COUNT = """
import sys
from pathlib import Path
from thrifty_jax import lock
from thrifty_jax.errors import InputError
print('held', flush=True)
sys.stdin.readline()
folder, counter, done = Path(sys.argv[1]), Path(sys.argv[2]), 0
while done < 100:
  try:
    with lock.hold(folder):
      before = int(counter.read_text())
      counter.write_text(str(before + 1))
      done += 1
  except InputError:
    pass
"""


def test_processes_that_come_and_go_are_never_in_a_folder_together(tmp_path):
  counter = tmp_path / 'counter'
  counter.write_text('0')
  with contextlib.ExitStack() as running:
    folder = tmp_path / 'runs' / 'run'  # made and removed by each
    started = [running.enter_context(process(COUNT, folder, counter)) for _ in range(4)]
    for one in started:
      one.stdin.write('\n')
      one.stdin.flush()
    assert [one.wait() for one in started] == [0] * 4
  assert counter.read_text() == '400'


@pytest.mark.parametrize('code', [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_folder_that_cannot_be_locked_is_told_in_one_line(tmp_path, monkeypatch, capsys, code):
  def fail(*arguments):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(fcntl, 'flock', fail)
  with lock.hold(tmp_path / 'run', tmp_path / 'run' / 'fold_0'):
    assert not list(tmp_path.rglob(lock.FILE))
  out, err = capsys.readouterr()
  assert out.startswith(f'{tmp_path / "run"}: this folder cannot be locked')
  assert out.count('\n') == 1 and err == ''
  assert list(tmp_path.iterdir()) == []


def test_a_fault_of_the_file_system_is_no_reason_to_go_on_unlocked(tmp_path, monkeypatch):
  def fail(*arguments):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(fcntl, 'flock', fail)
  assert 'cannot be written (input/output error)' in refused(tmp_path / 'run')


def test_a_disk_without_space_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
  def fail(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, 'write', fail)
  with (
    pytest.raises(InputError, match=r'\.lock: cannot be written \(no space'),
    lock.hold(tmp_path / 'run'),
  ):
    raise AssertionError
  assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
  target = tmp_path / 'precious'
  target.write_text('mine')
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / lock.FILE).symlink_to(target)
  assert 'cannot be written' in refused(tmp_path / 'run')
  assert target.read_text() == 'mine'


def test_whoever_holds_a_folder_removes_what_killed_processes_left(tmp_path):
  left = tmp_path / 'search' / '.halves.json.0123abcd.tmp'
  left.parent.mkdir()
  left.write_text('')
  os.utime(left, (0, 0))
  with lock.hold(tmp_path):
    assert not left.exists()


def test_a_folder_that_vanishes_meanwhile_is_passed_over(tmp_path, monkeypatch):
  (tmp_path / 'search' / 'checkpoints' / '3').mkdir(parents=True)
  scandir = os.scandir

  def vanished(path):
    if str(path).endswith('checkpoints'):
      raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', vanished)
  with lock.hold(tmp_path):
    assert (tmp_path / lock.FILE).exists()
