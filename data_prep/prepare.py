"""Prepares slices in TFDS from raw scans, once for each choice of settings."""

import contextlib
import functools
import io
import shutil
import time
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from filelock import FileLock, Timeout
from ml_collections import ConfigDict

from data_prep import builder, data_sets, workers
from data_prep.data_sets import Scans
from thrifty_jax import files
from thrifty_jax.errors import InputError
from thrifty_jax.scans.preprocessing import slice_settings

# No preparation takes this long: an older unfinished folder is no work in progress.
_STALE_SECONDS = 24 * 3600


def prepare(config: ConfigDict, scans: Scans | None = None) -> Path:
  """Prepares the slices of the config's data set unless they exist, and returns their folder.

  An interrupted call leaves no data set: TFDS writes to a folder of another name and renames it at
  the end. Without `scans` those in the raw folder are found first.
  """
  scans = scans or data_sets.find(config)
  if scans.unpaired:
    raise InputError(scans.unpaired[0].text)
  name, folder = config.data.name, prepared_dir(config, scans)
  _sweep(folder)
  if folder.exists():
    print(f'{name}: {len(scans.cases)} cases are prepared already in {folder}')
  else:
    start = time.monotonic()
    with files.report_unwritable(data_sets.data_dir(config), '--config.data.data_dir'):
      count = _write(config, scans, folder)
    print(
      f'{name}: prepared {count} slices of {len(scans.cases)} cases in '
      f'{time.monotonic() - start:.0f} s in {folder}'
    )
    # TFDS looks there for the config of tfds.builder(name, data_dir=...): the last one prepared.
    record = folder.parents[1] / '.config' / 'metadata.json'
    files.write_json(record, {'default_config_name': folder.parent.name})
  if scans.contents.is_sound:
    scans.contents.checked = scans.digest_with_external
  scans.contents.keep()
  return folder


def prepared_dir(config: ConfigDict, scans: Scans | None = None) -> Path:
  """Returns the folder for the slices of these scans and settings, prepared or not."""
  return Path(_builder(config, scans or data_sets.find(config)).data_dir)


def collect_settings(config: ConfigDict, digest: str) -> dict[str, Any]:
  """Returns everything that the slices depend on, with the digest of the raw scans' contents."""
  version = str(builder.VERSION)
  return {**slice_settings(config.data), 'raw_files': digest, 'format': version}


def _write(config: ConfigDict, scans: Scans, folder: Path) -> int:
  """Writes the slices; returns their number."""
  settings = collect_settings(config, scans.digest)
  work = functools.partial(builder.slice_case, data_sets.find_module(config).read_case, settings)
  slices = _builder(config, scans)
  with workers.map_cases(config.data.workers, f'prepare {config.data.name}') as cases_map:
    slices.sliced = cases_map(work, scans.cases)
    try:
      with _mark(folder), _quiet_tfds():
        slices.download_and_prepare(file_format='array_record')
    except OSError:
      if not folder.exists():  # else another process finished the same work first
        raise
    finally:
      for place in (folder.parent, folder.parent.parent):
        with contextlib.suppress(OSError):  # missing, or not empty
          place.rmdir()
  return sum(case['slices'] for case in slices.info.metadata['cases'])


def _builder(config: ConfigDict, scans: Scans) -> builder.Slices:
  """Returns the TFDS builder for these settings, which determine the name of its folder."""
  settings = collect_settings(config, scans.digest)
  digest = files.digest_json(settings)[:10]
  with _quiet_tfds():
    return builder.Slices(
      f'{config.data.image_size}px_{digest}',
      data_sets.data_dir(config),
      settings=settings,
      about=data_sets.find_module(config).ABOUT,
      count=len(scans.cases),
    )


@contextlib.contextmanager
def _quiet_tfds() -> Generator[None]:
  """Hides TFDS's progress bars and messages about downloads; errors are shown."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _mark(folder: Path) -> Generator[None]:
  """Keeps a locked file beside the unfinished folder that the body writes, see _sweep.

  The lock is of the operating system and ends with this process, however that ends.
  """
  folder.parent.mkdir(parents=True, exist_ok=True)
  mark = folder.parent / f'.{uuid.uuid4().hex[:8]}.preparing'
  lock = FileLock(mark)
  try:
    lock.acquire(blocking=False)
  except OSError:  # a file system without locks, where the mark alone counts
    mark.touch()
  try:
    yield
  finally:
    with contextlib.suppress(OSError):  # Windows keeps open files
      mark.unlink()
    lock.release()


def _sweep(folder: Path) -> None:
  """Removes the remains of killed processes; after an exception TFDS cleans up itself.

  Two processes may prepare the same slices. What is there is listed before it is asked who is at
  work, as each marks itself before it writes.
  """
  files.sweep(folder.parent.parent.glob('.*'))
  leftovers = [*folder.parent.glob('incomplete.*')]
  at_work = [mark for mark in folder.parent.glob('.*.preparing') if _is_held(mark)]
  for leftover in leftovers:
    if not at_work or _is_stale(leftover):
      shutil.rmtree(leftover, ignore_errors=True)


def _is_held(mark: Path) -> bool:
  """Returns whether the process of a mark may be at work; if not, the mark is removed."""
  if not _is_stale(mark):
    try:
      with FileLock(mark, blocking=False):
        mark.unlink(missing_ok=True)  # while it is locked, as nobody else has it then
      return False
    except (OSError, Timeout):  # Timeout: it is locked; else there are no locks
      return True
  mark.unlink(missing_ok=True)
  return False


def _is_stale(path: Path) -> bool:
  try:
    return time.time() - path.stat().st_mtime > _STALE_SECONDS
  except OSError:  # another process removed it
    return False
