"""Raw scans to slices in TFDS, once for each choice of settings."""

import contextlib
import hashlib
import io
import json
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from ml_collections import ConfigDict

from data_prep import builder, checks, data_sets, workers
from data_prep.workers import CasesMap
from thrifty_jax import fields, files, logbook
from thrifty_jax.scans.preprocessing import image_settings
from thrifty_jax.scans.volumes import Case

# Nothing takes so long to prepare: an older unfinished folder is nobody's work in progress.
_STALE_SECONDS = 24 * 3600


def prepare(config: ConfigDict) -> Path:
  """Prepares the slices of the config's data set unless they are there.

  A call that stops half-way leaves no data set: TFDS writes to a folder of another name and renames
  it at the end.

  Args:
    config: Of a run; only `config.data` is read.

  Returns:
    The folder with the prepared slices.

  Raises:
    InputError: If scans are missing, unreadable or unusable, or the slices cannot be written.
  """
  cases = data_sets.find_cases(config)
  checks.check_patients(cases, config)  # before hours of work
  folder = prepared_dir(config)
  if folder.exists():
    print(f'{config.data.name}: {len(cases)} cases are prepared already in {folder}')
    return folder
  _sweep(folder)
  start = time.monotonic()
  with (
    logbook.progress(len(cases), f'prepare {config.data.name}') as bar,
    workers.cases_map(config.data.workers) as cases_map,
  ):
    slices = _builder(config, cases, case_done=bar.update, cases_map=cases_map)
    try:
      with files.writing_to(data_sets.data_dir(config), '--config.data.data_dir'), _quiet_tfds():
        slices.download_and_prepare(file_format='array_record')
    except OSError:
      if not folder.exists():  # else another process finished the same work first
        raise
    finally:
      _remove_empty(folder.parent, folder.parent.parent)
  seconds = time.monotonic() - start
  count = sum(case['slices'] for case in slices.info.metadata['cases'])
  print(
    f'{config.data.name}: prepared {count} slices of {len(cases)} cases in {seconds:.0f} s in '
    f'{folder}'
  )
  return folder


def prepared_dir(config: ConfigDict) -> Path:
  """The folder with the slices of these settings, prepared or not.

  Raises:
    InputError: If scans are missing: without them the settings cannot be told.
  """
  return Path(_builder(config, data_sets.find_cases(config)).data_dir)


def settings_of(config: ConfigDict, cases: Sequence[Case]) -> dict[str, Any]:
  """All that the slices depend on; whatever else changes in the config, they stay the same.

  Folds are not among them: the slices serve every fold.
  """
  data = config.data
  return {
    'name': data.name,
    **fields.to_json(image_settings(data)),
    'classes': list(data.classes),
    'modalities': data.modalities,
    'raw_files': digest_of_files(cases),
    'format': str(builder.VERSION),
  }


def _builder(
  config: ConfigDict,
  cases: tuple[Case, ...],
  *,
  case_done: Callable[[], object] = lambda: None,
  cases_map: CasesMap = map,
) -> tfds.core.DatasetBuilder:
  """The data set's TFDS builder for these settings; its folder's name says which they are."""
  data_set = data_sets.module(config)
  settings = settings_of(config, cases)
  digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
  slice_config = builder.SliceConfig(
    name=f'{config.data.image_size}px_{digest}',
    settings=settings,
    cases=cases,
    note=data_set.NOTE,
    case_done=case_done,
    cases_map=cases_map,
  )
  with _quiet_tfds():
    return data_set.BUILDER(config=slice_config, data_dir=data_sets.data_dir(config))


def digest_of_files(cases: Sequence[Case]) -> str:
  """Changes when a raw file is added, removed, renamed or written again; the contents are not read.

  A corrected mask often keeps its size to the byte, so the time of the last change counts too.
  """
  digest = hashlib.sha256()
  for case in cases:
    digest.update(f'{case.case}\t{case.patient}\n'.encode())
    for path in [*case.image, *case.label]:
      # A header's voxels lie beside it under the same stem: Case01.mhd, Case01.raw.
      for part in (
        sorted(path.parent.glob(f'{path.name.split(".")[0]}.*'))
        if path.suffix == '.mhd'
        else [path]
      ):
        status = part.stat()
        digest.update(f'{part.name}\t{status.st_size}\t{status.st_mtime_ns}\n'.encode())
  return digest.hexdigest()[:16]


@contextlib.contextmanager
def _quiet_tfds() -> Generator[None]:
  """Keeps TFDS's bars and its remarks about downloads off the console; errors come through."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(verbosity)


def _sweep(folder: Path) -> None:
  """Removes what a killed process left; after an exception TFDS cleans up itself."""
  for leftover in folder.parent.glob('incomplete.*'):
    if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
      shutil.rmtree(leftover, ignore_errors=True)


def _remove_empty(*folders: Path) -> None:
  for folder in folders:
    with contextlib.suppress(OSError):  # not there, or not empty
      folder.rmdir()
