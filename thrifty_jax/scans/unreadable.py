"""Files that cannot be read: the error that says so, in place of what libraries raise and print."""

import contextlib
import logging
import os
import sys
import warnings
import zlib
from collections.abc import Generator
from pathlib import Path

import nibabel

from thrifty_jax.errors import InputError
from thrifty_jax.scans import nifti

_READ_ERRORS = (  # of gzip, nibabel and SimpleITK
  *(OSError, EOFError, ValueError, OverflowError, RuntimeError, zlib.error),
  nibabel.spatialimages.HeaderDataError,
)


@contextlib.contextmanager
def quiet() -> Generator[None]:
  """Silences warnings and logs of libraries about odd files; those of pydicom quote the values."""
  before = logging.root.manager.disable
  logging.disable(logging.CRITICAL)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      yield
  finally:
    logging.disable(before)


@contextlib.contextmanager
def silence_libraries() -> Generator[None]:
  """Suppresses the messages of ITK and libtiff on stderr: an exception says what matters."""
  sys.stderr.flush()
  kept = os.dup(2)
  try:
    with open(os.devnull, 'w') as nothing:
      os.dup2(nothing.fileno(), 2)
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)


@contextlib.contextmanager
def report_unreadable(path: Path) -> Generator[None]:
  """Refuses a missing file, and one that the body cannot read."""
  if not path.is_file():
    what = 'is no regular file' if path.exists() else 'no such file'  # a pipe may never end
    raise InputError(
      f'{path}: {what}; expected a scan or a mask there. Restore it or correct the folder.'
    )
  try:
    yield
  except nifti.HeaderError as error:
    raise InputError(f'{path}: {error}') from error
  except MemoryError as error:
    raise InputError(
      f'{path}: takes more memory than there is; expected a scan that fits. Resample it, or use '
      'another machine.'
    ) from error
  except _READ_ERRORS as error:
    reason = ' '.join(str(error).split())[-160:]
    raise InputError(
      f'{path}: cannot be read ({reason}); expected an intact file. Copy or download it again.'
    ) from error
