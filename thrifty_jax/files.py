"""Atomic writing (a temporary name, then a rename) and safe reading of files."""

import contextlib
import errno
import fnmatch
import functools
import hashlib
import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from thrifty_jax.errors import InputError

# Many times the size that a run of thousands of scans writes; parsed, it takes ten times as much.
MOST_JSON_BYTES = 16 << 20
_MOST_LINES_BYTES = 256 << 20  # of lines of JSON; an epoch of a search takes some 2 KB
_DEEPEST = 50  # levels of nested lists and objects; ours have 5
_DIGITS = 18  # of a whole number, so that it fits 64 bits

_TEMPORARY = re.compile(r'\..+\.[0-9a-f]{8}\.tmp')  # names of what is being written
# No file takes this long to be written: an older one was left by a process that was killed.
_STALE_SECONDS = 600

# Errors that the user can remedy by making space or naming another folder; some systems lack some.
_FULL_OR_FORBIDDEN = ('ENOSPC', 'EDQUOT', 'EFBIG', 'EROFS', 'EACCES', 'EPERM')
_NOT_WRITABLE = {getattr(errno, name, errno.ENOSPC) for name in _FULL_OR_FORBIDDEN}


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
  """Writes a file so that a reader sees either the old or the new content, never a part.

  Missing parent folders are created. Returns the path.
  """
  write_all({Path(path): data})
  return Path(path)


def write_all(contents: Mapping[Path, bytes | str]) -> None:
  """Writes files that belong together, all or, where one of them has no space, none.

  Each is written as by `write_bytes`, a text as by `write_text`.
  """
  # A temporary file is in the folder of its own, as a rename is atomic only within a file system.
  temporary = {path: _name_temporary(path) for path in contents}
  try:
    for path, data in contents.items():
      path.parent.mkdir(parents=True, exist_ok=True)
      with temporary[path].open('xb') as file:
        file.write(data.encode('utf-8', 'backslashreplace') if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    for path, written in temporary.items():
      os.replace(written, path)
  except BaseException:
    for written in temporary.values():
      written.unlink(missing_ok=True)
    raise


@contextlib.contextmanager
def whole_folder(place: Path) -> Generator[Path]:
  """Yields an empty folder that replaces the one at `place` once the body has filled it.

  If the body fails, nothing changes. A process that is killed leaves the old folder or the new one;
  between the two renames the old one is .NAME.replaced, from where the next call takes it back.
  """
  unfinished, replaced = _name_temporary(place), place.with_name(f'.{place.name}.replaced')
  if replaced.exists() and not place.exists():
    replaced.rename(place)
  unfinished.mkdir(parents=True)
  sweep(path for path in place.parent.iterdir() if path.name.startswith(f'.{place.name}.'))
  try:
    yield unfinished
  except BaseException:
    shutil.rmtree(unfinished, ignore_errors=True)
    raise
  if place.exists():
    shutil.rmtree(replaced, ignore_errors=True)
    place.rename(replaced)
  unfinished.rename(place)
  shutil.rmtree(replaced, ignore_errors=True)


def _name_temporary(path: Path) -> Path:
  return path.with_name(f'.{path.name}.{uuid.uuid4().hex[:8]}.tmp')


def sweep(paths: Iterable[Path]) -> None:
  """Removes those files and folders that a killed process left unfinished here.

  One that a process may still be writing stays.
  """
  for path in [*paths]:
    if _TEMPORARY.fullmatch(path.name):
      with contextlib.suppress(OSError):  # another process removes it too, or may alone
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
          shutil.rmtree(path) if path.is_dir() else path.unlink()


def find_below(folder: Path, *patterns: str) -> Iterator[Path]:
  """Yields what matches one of the patterns in a folder or, but for links, in any folder below it.

  Unlike `Path.rglob` it passes over a folder that another process removes meanwhile.
  """
  for place, folders, others in os.walk(folder):
    for pattern in patterns:
      first, _, _ = pattern.partition('/')
      if fnmatch.filter([*folders, *others], first):  # which is faster than a glob
        with contextlib.suppress(FileNotFoundError):
          yield from Path(place).glob(pattern)


def in_home(*parts: str) -> Path:
  """Returns a path in the home folder, or in .thrifty_jax here where no home can be written to."""
  return _home().joinpath(*parts)


@functools.cache
def _home() -> Path:
  home = Path(os.path.expanduser('~'))  # stays ~ where there is none
  there = next((place for place in (home, *home.parents) if place.exists()), None)
  if home.is_absolute() and there and there.is_dir() and os.access(there, os.W_OK):
    return home
  other = Path('.thrifty_jax').absolute()
  print(
    f'no home folder can be written to ({home}): slices and compiled programs go to {other}; set '
    'HOME, or --config.data.data_dir and --config.compilation_cache',
    file=sys.stderr,
  )
  return other


def others_can_write(folder: Path) -> bool:
  """Returns whether another user may have put files into a folder; False if there is none."""
  try:
    status = folder.stat()
  except OSError:
    return False
  if not hasattr(os, 'getuid'):  # Windows has other rights
    return False
  return status.st_uid not in (0, os.getuid()) or bool(status.st_mode & 0o022)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
  """Writes text as UTF-8, whole or not at all (see write_bytes).

  What UTF-8 cannot hold, as a byte of another encoding in a file's name, is escaped.
  """
  write_all({Path(path): text})
  return Path(path)


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
  """Writes indented JSON, whole or not at all; refuses NaN and infinity (ValueError)."""
  return write_text(path, format_json(value))


def format_json(value: Any) -> str:
  """Returns the text that `write_json` writes."""
  return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + '\n'


@contextlib.contextmanager
def report_unwritable(folder: Path, option: str) -> Generator[None]:
  """Reports a full disk, or a folder that is read-only or gone, as bad input (InputError).

  The exceptions that ArrayRecord or TensorStore raise for it are recognised too. Other errors, and
  errors about files elsewhere, pass unchanged. `option` names another folder, as --workdir does.
  """
  was_there = folder.is_dir()
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    reason = _not_writable(error, folder)
    if not reason and was_there and not folder.is_dir():
      reason = 'the folder no longer exists'
    if not reason:
      raise
    raise InputError(
      f'{folder}: cannot be written ({reason}); make space there, correct its rights, or name '
      f'another folder by {option}'
    ) from error


def _not_writable(error: Exception, folder: Path) -> str:
  """Reason why nothing can be written to the folder; '' for any other error."""
  place = getattr(error, 'filename', None)
  if isinstance(place, str) and (os.path.isabs(place) or os.path.exists(place)):
    one, other = Path(place).resolve(), folder.resolve()
    if one not in other.parents and not one.is_relative_to(other):
      return ''
  for code in _NOT_WRITABLE:
    if getattr(error, 'errno', None) == code or os.strerror(code) in str(error):
      return os.strerror(code).lower()
  return ''


def require_writable(option: str, folder: Path) -> None:
  """Refuses a place for outputs if its folder, or the next one above that exists, is read-only.

  `option` is what named the place, as --output=masks.
  """
  there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
  try:
    tempfile.TemporaryFile(dir=there).close()  # os.access knows no file systems without new files
  except OSError as error:
    raise InputError(
      f'{option}: {there} cannot be written ({error.strerror}); name another folder'
    ) from error


def require_file(path: str | os.PathLike[str], *, most_bytes: int | None = None) -> None:
  """Refuses anything but a file, or one of more bytes, before it is read (InputError).

  Reading a pipe or a device may never end.
  """
  try:
    status = Path(path).stat()
  except (OSError, ValueError) as error:  # ValueError: the name contains a NUL
    reason = getattr(error, 'strerror', '') or error
    raise InputError(f'cannot read {path}: {reason}') from error
  if not stat.S_ISREG(status.st_mode):
    raise InputError(f'cannot read {path}: it is not a file')
  if most_bytes is not None and status.st_size > most_bytes:
    raise InputError(
      f'cannot read {path}: it has {status.st_size:,} bytes, expected at most {most_bytes:,}'
    )


def read_json(path: str | os.PathLike[str]) -> Any:
  """Reads a JSON file of at most 16 MiB that need not be trusted, or raises InputError.

  The value can be compared, printed and written again: it contains no NaN or infinity, no number
  of more than 18 digits, no repeated name in an object, no unpaired surrogate, and has at most 50
  levels.
  """
  path = Path(path)
  require_file(path, most_bytes=MOST_JSON_BYTES)
  try:
    return parse_json(path.read_text(encoding='utf-8-sig'))  # as some editors begin with a mark
  except OSError as error:
    raise InputError(f'cannot read {path}: {error.strerror}') from error
  except ValueError as error:
    raise InputError(
      f'{path} is not valid JSON: {error}; correct the file or restore it'
    ) from error


def read_json_lines(path: Path, *, remedy: str) -> dict[str, Any]:
  """Reads lines of JSON, of at most 256 MiB, under the limits of `read_json`, or raises InputError.

  Returns:
    The value of each line by its place, such as `metrics.jsonl, line 3`, for messages. A last line
    that a crash cut off is left out.
  """
  require_file(path, most_bytes=_MOST_LINES_BYTES)
  *lines, _ = path.read_bytes().split(b'\n')
  found = {}
  for number, line in enumerate(lines, start=1):
    place = f'{path}, line {number}'
    try:
      found[place] = parse_json(line.decode())
    except ValueError as error:
      raise InputError(f'{place}: {error}; the file is damaged: {remedy}') from error
  return found


def digest_json(value: Any) -> str:
  """Returns the SHA-256 of a value that JSON can hold, the same before and after it was a file."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def parse_json(text: str) -> Any:
  """Parses JSON text under the limits of `read_json`, or raises ValueError."""
  parsers = {'parse_int': _whole, 'parse_float': _finite, 'parse_constant': _finite}
  with contextlib.suppress(RecursionError):
    value = json.loads(text, object_pairs_hook=_each_once, **parsers)
    json.dumps(value, ensure_ascii=False).encode()  # printing an unpaired surrogate would fail
    if _levels(value) <= _DEEPEST:
      return value
  raise ValueError(f'lists or objects are nested too deeply, expected at most {_DEEPEST} levels')


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  value = {}
  for name, inner in pairs:
    if name in value:
      raise ValueError(f'{name!r:.40} is there twice in one object')
    value[name] = inner
  return value


def _whole(digits: str) -> int:
  if len(digits) > _DIGITS:
    raise ValueError(f'the number {digits:.20}... has over {_DIGITS} digits')
  return int(digits)


def _finite(text: str) -> float:
  value = float(text)
  if not math.isfinite(value):
    raise ValueError(f'{text:.20} is not a finite number')
  return value


def _levels(value: Any) -> int:
  """Number of lists and objects in one another, and 1 for what they hold."""
  inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
  return 1 + max(map(_levels, inner), default=0)
