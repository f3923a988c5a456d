"""Whole files or none: everything is written under a temporary name, then renamed."""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thrifty_jax.errors import InputError

# Whoever gets one of these can do something about it: make space, or name another folder.
_NOT_WRITABLE = tuple(
  getattr(errno, name)
  for name in ('ENOSPC', 'EDQUOT', 'EFBIG', 'EROFS', 'EACCES', 'EPERM')
  if hasattr(errno, name)  # some systems lack some
)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
  """Writes a file so that a reader sees the old content or the new, never a part of it.

  Args:
    path: The file; folders above it that are missing are made.
    data: Its whole content.

  Returns:
    The path.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # In the same folder, because a rename is atomic only within one file system.
  temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:8]}.tmp')
  try:
    with temporary.open('xb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  return path


def write_text(path: str | os.PathLike[str], text: str) -> Path:
  """Writes text as UTF-8, whole or not at all (see write_bytes)."""
  return write_bytes(path, text.encode('utf-8'))


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
  """Writes indented JSON, whole or not at all.

  Args:
    path: The file.
    value: What json can write; NaN and infinity are refused, as they are not JSON.

  Returns:
    The path.

  Raises:
    ValueError: If value holds NaN or infinity.
  """
  text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
  return write_text(path, text + '\n')


@contextlib.contextmanager
def writing_to(folder: Path, option: str) -> Iterator[None]:
  """A full disk, a folder that must not be written or is gone, told in one line.

  Args:
    folder: Where the body writes.
    option: Of the command line, that names another folder, such as '--workdir'.

  Raises:
    InputError: If the body meets such an error, also as the exception of another type that
      ArrayRecord or TensorStore makes of it; any other comes through, one about a file elsewhere
      as well.
  """
  was_there = folder.is_dir()
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    reason = _not_writable(error, folder)
    if not reason and was_there and not folder.is_dir():
      reason = 'it is gone'
    if not reason:
      raise
    raise InputError(
      f'{folder}: cannot be written ({reason}); make space there, correct its rights, or name '
      f'another folder by {option}'
    ) from error


def _not_writable(error: Exception, folder: Path) -> str:
  """Why nothing can be written to the folder, '' where the error is another one."""
  place = getattr(error, 'filename', None)
  if isinstance(place, str) and os.path.isabs(place):
    one, other = Path(place).resolve(), folder.resolve()
    if one not in other.parents and not one.is_relative_to(other):
      return ''
  for code in _NOT_WRITABLE:
    if getattr(error, 'errno', None) == code or os.strerror(code) in str(error):
      return os.strerror(code).lower()
  return ''


def read_json(path: str | os.PathLike[str]) -> Any:
  """Reads a JSON file.

  Args:
    path: The file.

  Returns:
    Its value.

  Raises:
    InputError: If the file is missing, unreadable or not JSON.
  """
  path = Path(path)
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except OSError as error:
    raise InputError(f'cannot read {path}: {error.strerror}') from error
  except (ValueError, RecursionError) as error:
    raise InputError(
      f'{path} is not valid JSON: {error}; correct the file or restore it'
    ) from error
