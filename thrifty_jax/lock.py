"""Allows one process at a time in the folder of a run; the error of a second names the first.

filelock takes a lock of the operating system on a file. The lock ends with its process, however
that ends, so a file left behind by a killed run blocks nobody.
"""

import contextlib
import datetime
import errno
import os
import re
from collections.abc import Generator
from pathlib import Path

from filelock import FileLock, Timeout

from thrifty_jax import files
from thrifty_jax.errors import InputError
from thrifty_jax.logbook import say

FILE = '.lock'
# Errors of file systems without locks: some network mounts, cloud storage mounted as folders.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_TICK = 0.2  # seconds between two looks at whether a folder is free
_TRIES = 100  # attempts to lock a folder that others create and remove
# What the holder writes into the file, which is untrusted when it is read.
_OWNER = re.compile(rb'process \d{1,20} \(--stage=\w{1,20}\), since [\d-]{10} [\d:]{5}')


@contextlib.contextmanager
def hold(*folders: Path, stage: str = 'all', wait: bool = False) -> Generator[None]:
  """Keeps other processes out of the folders of runs while the body runs.

  What killed processes left unfinished in them is removed (`files.sweep`).
  Missing folders are created, and removed again if they are empty at the end. If the file system
  has no locks, a line is printed and the body runs. If another process holds one of them, it is an
  InputError, or with `wait` the body runs once that has ended; if the lock file cannot be written,
  it is an InputError. `stage` is shown to a process that is kept out.
  """
  with contextlib.ExitStack() as all_held:
    locked = [all_held.enter_context(_hold(folder, stage, wait)) for folder in folders]
    if not all(locked):
      folder = folders[locked.index(False)]
      say(f'{folder}: this folder cannot be locked here; make sure that no other process uses it')
    for folder in folders:
      files.sweep(files.find_below(folder, '.*'))
    yield


@contextlib.contextmanager
def _hold(folder: Path, stage: str, wait: bool) -> Generator[bool]:
  """Holds one folder; yields whether it is really locked."""
  made = [path for path in (folder, *folder.parents) if not path.exists()]
  path = folder / FILE
  lock = FileLock(path, on_acquired=lambda descriptor: _sign(descriptor, path, stage))
  try:
    yield _acquire(lock, folder, wait)
  finally:
    if lock.is_locked:  # not in a forked copy of the process
      with contextlib.suppress(OSError):  # Windows keeps open files; the folder may be gone
        path.unlink()  # while it is locked; later it could belong to another process
      lock.release()
    with contextlib.suppress(OSError):  # stops at the first that is not empty or is missing
      for place in made:
        place.rmdir()


def _acquire(lock: FileLock, folder: Path, wait: bool) -> bool:
  """Locks the folder and creates it if missing; False if there are no locks."""
  path, waiting = folder / FILE, False
  for again in reversed(range(_TRIES)):
    try:
      folder.mkdir(parents=True, exist_ok=True)
      lock.acquire(blocking=waiting, poll_interval=_TICK)
      break
    except Timeout as error:
      where = f'{folder}: {_describe_owner(path)} works in this folder'
      if not wait:
        raise InputError(f'{where}; wait for it to end, or use another --workdir') from error
      say(f'{where}; waiting for it to end')
      waiting = True
    except OSError as error:
      if error.errno in _NO_LOCKS:
        path.unlink(missing_ok=True)
        return False
      # Another process has just removed the folder that it had created.
      if not (again and isinstance(error, FileNotFoundError)):
        reason = os.strerror(error.errno or errno.EIO).lower()
        raise InputError(
          f'{path}: cannot be written ({reason}); correct that, or use another --workdir'
        ) from error
  return True


def _sign(descriptor: int, path: Path, stage: str) -> None:
  """Writes the holder into the locked file, without the name of the machine or the user."""
  owner = f'process {os.getpid()} (--stage={stage}), since {datetime.datetime.now():%Y-%m-%d %H:%M}'
  try:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, owner.encode())
  except OSError:
    path.unlink()
    raise


def _describe_owner(path: Path) -> str:
  """Describes the holder of the lock."""
  found = None
  with contextlib.suppress(OSError), path.open('rb') as file:  # Windows lets nobody read it
    found = _OWNER.match(file.read(200))
  return f'{found[0].decode()},' if found else 'another process'
