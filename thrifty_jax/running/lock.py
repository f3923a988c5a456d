"""One process at a time in the folder of a run: the second is told who is at work there.

The lock is the operating system's, on a file, as filelock takes it: it ends with its process,
however that ends, so a file that a killed run left behind is in nobody's way.
"""

import contextlib
import datetime
import errno
import json
import os
from collections.abc import Generator
from pathlib import Path

from filelock import FileLock, Timeout

from thrifty_jax.errors import InputError

FILE = '.lock'
# What file systems answer that have no locks: some network mounts, clouds mounted as folders.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_TRIES = 100  # to lock a folder that others make and remove
_LONGEST = 1000  # bytes of an owner that are read: the file may be anybody's


@contextlib.contextmanager
def hold(*folders: Path, stage: str = 'all') -> Generator[None]:
  """Keeps other processes out of the folders while the body runs.

  Folders that are missing are made, and removed again if nothing is in them at the end. Where the
  file system has no locks, a line says so and the body runs.

  Args:
    folders: Folders of runs. The process may hold none of them already.
    stage: Name of what is run, for whoever is kept out.

  Raises:
    InputError: If another process holds one of them, with its number and since when; or if the
      file of the lock cannot be written.
  """
  with contextlib.ExitStack() as all_held:
    locked = [all_held.enter_context(_hold(folder, stage)) for folder in folders]
    if not all(locked):
      folder = folders[locked.index(False)]
      print(
        f'{folder}: this folder cannot be locked here; see to it yourself that no other process '
        'works in it',
        flush=True,
      )
    yield


@contextlib.contextmanager
def _hold(folder: Path, stage: str) -> Generator[bool]:
  """Holds one folder; whether it is really locked."""
  made = [path for path in (folder, *folder.parents) if not path.exists()]
  path = folder / FILE
  lock = FileLock(path, on_acquired=lambda descriptor: _sign(descriptor, path, stage))
  try:
    yield _acquire(lock, folder)
  finally:
    if lock.is_locked:  # a copy of the process, made by fork, has no lock
      with contextlib.suppress(OSError):  # Windows removes no open file; or the folder is gone
        path.unlink()  # still locked: afterwards it could be another's
      lock.release()
    with contextlib.suppress(OSError):  # the first that is not empty, or not there
      for place in made:
        place.rmdir()


def _acquire(lock: FileLock, folder: Path) -> bool:
  """Locks the folder, made when it is missing; False where there are no locks."""
  path = folder / FILE
  for again in reversed(range(_TRIES)):
    try:
      folder.mkdir(parents=True, exist_ok=True)
      lock.acquire(blocking=False)
      break
    except Timeout as error:
      raise InputError(
        f'{folder}: {_describe_owner(path)} works in this folder; wait for it to end, or use '
        'another --workdir'
      ) from error
    except OSError as error:
      if error.errno in _NO_LOCKS:
        path.unlink(missing_ok=True)
        return False
      # Not there: another process has just removed the folder that it had made.
      if not (again and isinstance(error, FileNotFoundError)):
        reason = os.strerror(error.errno or errno.EIO).lower()
        raise InputError(
          f'{path}: cannot be written ({reason}); correct that, or use another --workdir'
        ) from error
  return True


def _sign(descriptor: int, path: Path, stage: str) -> None:
  """Writes into the locked file who holds it: neither the machine's name nor the user's."""
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  owner = {'process': os.getpid(), 'since': now, 'stage': stage}
  try:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, (json.dumps(owner) + '\n').encode())
  except OSError:
    path.unlink()
    raise


def _describe_owner(path: Path) -> str:
  """Who holds the lock, in words."""
  try:
    with path.open('rb') as file:
      owner = json.loads(file.read(_LONGEST))
    process, stage = int(owner['process']), str(owner['stage'])
    since = datetime.datetime.fromisoformat(owner['since']).astimezone()
    today = since.date() == datetime.datetime.now().date()
    when = since.strftime('%H:%M' if today else '%Y-%m-%d %H:%M')
    return f'process {process}{f" (--stage={stage})" * stage.isidentifier()}, since {when},'
  except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
    return 'another process'  # it has not written yet who it is, or, on Windows, locks it whole
