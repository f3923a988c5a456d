"""Downloads public scans, only with `config.data.download`.

An archive is written to the raw folder, first as NAME.part, from which an interrupted download
continues, and unpacked only if its size and SHA-256 are the known ones. We do not decide the terms
of use: the licence as we have read it is printed, and where to read the terms.
"""

import contextlib
import dataclasses
import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import thrifty_jax
from data_prep import unpack
from thrifty_jax import files, logbook
from thrifty_jax.errors import InputError

_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 60.0  # without a single byte
_TRIES = 6  # in a row without new bytes; the pauses between them add up to a minute
_PAUSE_S = 1.0  # after a try with new bytes; doubled after each one without
# Status codes below 500 that may change later: timeout, range not there, too early, too many.
_TRY_AGAIN = (408, 416, 425, 429)
# Errors of a connection, not of the disk; the next request may succeed.
_LOST = (ConnectionError, TimeoutError, ssl.SSLError)
_BROKEN_OFF = (urllib.error.URLError, http.client.HTTPException, *_LOST)


@dataclasses.dataclass(frozen=True)
class Archive:
  """A ZIP file at Zenodo."""

  record: str  # address of its page
  name: str
  size: int  # in bytes
  sha256: str
  licence: str  # as we have read it
  terms: str  # address of the terms of use
  folder: str  # name of the unpacked folder in the raw folder
  holds: str  # glob of a path that only this folder has, as archives nest folders differently

  @property
  def url(self) -> str:
    """Address of the file."""
    return f'{self.record}/files/{self.name}?download=1'


ARCHIVES = {
  'chaos': Archive(
    record='https://zenodo.org/records/3431873',
    name='CHAOS_Train_Sets.zip',
    size=890_771_694,
    sha256='535f7d3417a0e0f0d9133fb3d962423d2a9cf3f103e4f09a3d8a1daf87d5d2fc',
    licence='CC BY-NC-SA 4.0',
    terms='https://chaos.grand-challenge.org',
    folder='Train_Sets',
    holds='CT/*/DICOM_anon',
  ),
  'promise12': Archive(
    record='https://zenodo.org/records/8026660',
    name='training_data.zip',
    size=323_664_221,
    sha256='150287d0c74cd0105d8b70b43af4a7bf4f1fd3e1748829779177a0ccaf948f45',
    licence='research use, with citation',
    terms='https://promise12.grand-challenge.org',
    folder='TrainingData',
    holds='Case*.mhd',
  ),
}


def remedy(name: str, where: str) -> str:
  """Returns the advice for a data set of ARCHIVES whose scans are not where they belong."""
  archive = ARCHIVES[name]
  return (
    f'Read the terms at {archive.terms}, then --config.data.download=True fetches and unpacks '
    f'{archive.name} ({archive.size / 1e6:.0f} MB) where {archive.folder} is missing; or download '
    f'it from {archive.record} and unpack it so that {where}, or set --config.data.raw_dir. '
    '--config=brain runs without a download.'
  )


def provide(name: str, raw_dir: Path) -> None:
  """Puts the scans of a data set of ARCHIVES into its raw folder, unless they are there.

  Where that fails, nothing is left that could be mistaken for scans.
  """
  archive = ARCHIVES[name]
  target = raw_dir / archive.folder
  if target.exists():
    return
  with files.report_unwritable(raw_dir, '--config.data.raw_dir'):
    raw_dir.mkdir(parents=True, exist_ok=True)
    with _alone(raw_dir):
      if target.exists():  # another process had the same task
        return
      path = raw_dir / archive.name
      if not path.exists():
        _fetch(archive, path)
      elif not _is_intact(archive, path):
        raise InputError(
          f'{path}: is not the file of {archive.record}; expected {archive.size} bytes with the '
          f'SHA-256 {archive.sha256}. Remove it, and the same command downloads it.'
        )
      unpack.unpack(path, target, holds=archive.holds)
      logbook.say('download', f'{archive.name} is unpacked in {target}; the file may be removed')


def _fetch(archive: Archive, path: Path) -> None:
  """Downloads the archive and renames it once it is complete and verified."""
  logbook.say('download', f'{archive.name}, {archive.size / 1e6:.0f} MB, from {archive.record}')
  logbook.say(
    'terms',
    f'{archive.licence}, as we have read; that is second-hand. Read the terms at {archive.terms} '
    f'and {archive.record} before you use the scans',
  )
  part = path.with_name(path.name + '.part')
  for following in ('it is fetched once more, from the beginning', 'it is removed'):
    _receive_all(archive, part)
    if _is_intact(archive, part):
      os.replace(part, path)
      return
    part.unlink()
    logbook.say('download', f'what came is not the known file; {following}')
  raise InputError(
    f'{archive.url}: what came is not the known file, whose SHA-256 is {archive.sha256}; it was '
    f'removed. Try again later, or see at {archive.record} whether the file was replaced.'
  )


def _receive_all(archive: Archive, part: Path) -> None:
  """Receives the missing bytes, in as many pieces as it takes while there is progress."""
  most, failures, reason = _size(part), 0, ''
  unpack.require_space(part.parent, archive.size - most, archive.name)
  with logbook.progress(archive.size, f'download {archive.name}', unit='B') as bar:
    while _size(part) < archive.size:
      if reason:
        time.sleep(_PAUSE_S * 2**failures)
      try:
        reason = _receive(archive, part, bar)
      except urllib.error.HTTPError as error:
        error.close()
        reason = f'the server answers {error.code} {error.reason}'
        if error.code == 416:  # the server's file ends before the part does
          part.unlink()
        if error.code not in _TRY_AGAIN and error.code < 500:
          raise InputError(
            f'{archive.url}: {reason}. See {archive.record}; the same command tries again, or '
            f'fetch {archive.name} yourself and put it to {part.parent}.'
          ) from error
      except _BROKEN_OFF as error:
        reason = str(getattr(error, 'reason', error))
      failures = 0 if _size(part) > most else failures + 1
      most = max(most, _size(part))
      if failures == _TRIES:
        raise InputError(
          f'{archive.url}: the download broke off {_TRIES} times ({reason}); {part} is kept. The '
          f'same command goes on, or fetch {archive.name} yourself and put it beside.'
        )


def _receive(archive: Archive, part: Path, bar: Any) -> str:
  """Requests the missing bytes once; returns why some may still be missing."""
  start = _size(part)
  # Zenodo refuses some requests without a User-Agent.
  headers = {'User-Agent': f'thrifty_jax/{thrifty_jax.__version__}'}
  if start:
    headers['Range'] = f'bytes={start}-'
  request = urllib.request.Request(archive.url, headers=headers)
  with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
    if answer.status == 206:
      sent, _, total = answer.headers.get('Content-Range', '').partition('/')
      if not sent.startswith(f'bytes {start}-'):
        return 'the server sends another piece than it was asked for'
    else:  # a server without support for ranges starts over
      start, total = 0, answer.headers.get('Content-Length', '')
    if total.isdigit() and int(total) != archive.size:
      raise InputError(
        f'{archive.url}: the server has a file of {total} bytes; expected {archive.size}. See at '
        f'{archive.record} whether it was replaced.'
      )
    with part.open('ab') as file:
      file.truncate(start)
      bar.initial = bar.n = start  # the speed counts new bytes alone
      bar.refresh()
      while chunk := answer.read(min(_CHUNK_BYTES, archive.size - start)):
        file.write(chunk)
        start += len(chunk)
        bar.update(len(chunk))
  return 'the connection was closed early'


def _is_intact(archive: Archive, path: Path) -> bool:
  """Returns whether a file is the archive, by its size and SHA-256."""
  if _size(path) != archive.size:
    return False
  digest, bar = hashlib.sha256(), logbook.progress(archive.size, f'verify {archive.name}', unit='B')
  with path.open('rb') as file, bar:
    while chunk := file.read(_CHUNK_BYTES):
      digest.update(chunk)
      bar.update(len(chunk))
  return digest.hexdigest() == archive.sha256


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
  """Locks out other processes with the same task; the lock ends with its process."""
  import fcntl

  descriptor = os.open(folder, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):  # some network file systems have no locks; the hash guards
      fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
  finally:
    os.close(descriptor)


def _size(path: Path) -> int:
  return path.stat().st_size if path.exists() else 0
