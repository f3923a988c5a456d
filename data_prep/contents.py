"""Digests of the contents of raw scans, independent of the times and places of files."""

import contextlib
import hashlib
import json
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thrifty_jax import files
from thrifty_jax.scans.volumes import Case


class Contents:
  """Hashes of scans; those of unchanged files are taken from a file of hashes, if there is one."""

  def __init__(self, path: Path):
    self.path = path
    self._before: dict[str, str] = files.read_json(path) if path.exists() else {}
    self._now: dict[str, str] = {}

  def digest(self, cases: Sequence[Case]) -> str:
    """Returns 16 hexadecimal digits, equal for the same scans under the same names."""
    return _digest([[case.case, case.patient, self._hash(case)] for case in cases])[:16]

  def keep(self) -> None:
    """Writes the file of hashes, with those that were used."""
    with contextlib.suppress(OSError):  # they only save time; a shared folder may be read-only
      if self._now != self._before:
        files.write_json(self.path, self._now)

  def _hash(self, case: Case) -> str:
    paths = [_with_voxels(files_) for files_ in (case.image, case.label)]
    # Size and times change with the contents; a program can set back only the first time.
    known_by = operator.attrgetter('st_size', 'st_mtime_ns', 'st_ctime_ns')
    found = _digest([[[str(path), *known_by(path.stat())] for path in part] for part in paths])
    if found not in self._now:
      known = self._before.get(found)
      self._now[found] = known or _digest([[_hash_of(path) for path in part] for part in paths])
    return self._now[found]


def _with_voxels(paths: Sequence[Path]) -> list[Path]:
  """Returns the files of a scan and those of voxels beside a header: Case01.mhd, Case01.raw."""
  found: list[Path] = []
  for path in paths:
    beside = path.parent.glob(f'{path.name.split(".")[0]}.*')
    found += sorted(beside) if path.suffix == '.mhd' else [path]
  return found


def _hash_of(path: Path) -> str:
  """Returns the hash of a file's bytes; '' if it is unreadable, which check and prepare report."""
  try:
    with path.open('rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError:
    return ''


def _digest(value: Any) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()
