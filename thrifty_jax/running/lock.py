"""One process at a time in the folder of a run: the second is told who is at work there.

The lock is the kernel's, on a file: it ends with its process, however that ends, so a file that a
killed run left behind is in nobody's way.
"""

import contextlib
import datetime
import errno
import json
import os
from collections.abc import Generator
from pathlib import Path

from thrifty_jax.errors import InputError

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None

FILE = '.lock'
# What file systems answer that have no locks: some network mounts, clouds mounted as folders.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_TRIES = 100  # to open the file
_LONGEST = 1000  # bytes of an owner that are read: the file may be anybody's

# Locked files of this process. A copy of the process must not keep them locked when it ends.
_locked: set[int] = set()


@contextlib.contextmanager
def held(*folders: Path, stage: str = 'all') -> Generator[None]:
  """Keeps other processes out of the folders while the body runs.

  Folders that are missing are made, and removed again if nothing is in them at the end. Where a
  folder cannot be locked, by its file system or on Windows, a line says so and the body runs.

  Args:
    folders: Of runs. The process may hold none of them already.
    stage: What is run, for whoever is kept out.

  Raises:
    InputError: If another process holds one of them, with its number and since when; or if the
      file of the lock cannot be written.
  """
  with contextlib.ExitStack() as all_held:
    locked = [all_held.enter_context(_held(folder, stage)) for folder in folders]
    if not all(locked):
      folder = folders[locked.index(False)]
      print(
        f'{folder}: this folder cannot be locked here; see to it yourself that no other process '
        'works in it',
        flush=True,
      )
    yield


@contextlib.contextmanager
def _held(folder: Path, stage: str) -> Generator[bool]:
  """Holds one folder; whether it is really locked."""
  made = [path for path in (folder, *folder.parents) if not path.exists()]
  descriptor = None
  try:
    descriptor = _acquire(folder, stage)
    yield descriptor is not None
  finally:
    if descriptor is not None:
      _release(folder / FILE, descriptor)
    with contextlib.suppress(OSError):  # the first that is not empty, or not there
      for path in made:
        path.rmdir()


def _acquire(folder: Path, stage: str) -> int | None:
  """The locked file; None where there are no locks."""
  if fcntl is None:
    return None
  path = folder / FILE
  while True:
    descriptor = _open(path)
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      owner = _owner(descriptor)
      os.close(descriptor)
      raise InputError(
        f'{folder}: {owner} works in this folder; wait for it to end, or use another --workdir'
      ) from error
    except OSError as error:
      os.close(descriptor)
      path.unlink(missing_ok=True)
      if error.errno in _NO_LOCKS:
        return None
      raise
    # Whoever held it before may have removed the file after we opened it: then we have locked
    # what the next process will not find.
    if _is_at(path, descriptor):
      _locked.add(descriptor)
      try:
        _sign(descriptor, stage)
      except OSError as error:
        _release(path, descriptor)
        raise _not_writable(path, error) from error
      return descriptor
    os.close(descriptor)


def _open(path: Path) -> int:
  """The file of the lock, made with its folders when it is missing."""
  # Not through a link: that would write to wherever it leads.
  how = os.O_RDWR | os.O_CREAT | getattr(os, 'O_NOFOLLOW', 0) | getattr(os, 'O_NONBLOCK', 0)
  for again in reversed(range(_TRIES)):
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      return os.open(path, how, 0o644)
    except OSError as error:
      # Not there: another process has just removed the folder that it had made.
      if not (again and isinstance(error, FileNotFoundError)):
        raise _not_writable(path, error) from error
  raise AssertionError('the last try returns or raises')


def _not_writable(path: Path, error: OSError) -> InputError:
  reason = os.strerror(error.errno or errno.EIO).lower()
  return InputError(f'{path}: cannot be written ({reason}); correct that, or use another --workdir')


def _release(path: Path, descriptor: int) -> None:
  """Removes the file, then unlocks it: the other way round it could be another's by then."""
  if descriptor not in _locked:  # this is a copy of the process that holds it
    return
  _locked.remove(descriptor)
  with contextlib.suppress(OSError):  # somebody removed the folder
    if _is_at(path, descriptor):
      path.unlink()
  os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
  """Whether the open file is the one that the path leads to now."""
  try:
    return os.path.samestat(os.fstat(descriptor), path.lstat())
  except FileNotFoundError:
    return False


def _sign(descriptor: int, stage: str) -> None:
  """Writes who holds the lock: neither the machine's name nor the user's."""
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  owner = {'process': os.getpid(), 'since': now, 'stage': stage}
  os.ftruncate(descriptor, 0)
  os.write(descriptor, (json.dumps(owner) + '\n').encode())


def _owner(descriptor: int) -> str:
  """Who holds the lock, in words."""
  try:
    owner = json.loads(os.read(descriptor, _LONGEST))
    process, stage = int(owner['process']), str(owner['stage'])
    since = datetime.datetime.fromisoformat(owner['since']).astimezone()
    today = since.date() == datetime.datetime.now().date()
    when = since.strftime('%H:%M' if today else '%Y-%m-%d %H:%M')
    return f'process {process}{f" (--stage={stage})" * stage.isidentifier()}, since {when},'
  except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
    return 'another process'  # it has not written yet who it is


def _let_go() -> None:
  """In a copy of this process: closes what only the original holds, which stays locked."""
  for descriptor in _locked:
    with contextlib.suppress(OSError):
      os.close(descriptor)
  _locked.clear()


if hasattr(os, 'register_at_fork'):
  os.register_at_fork(after_in_child=_let_go)
