"""What raw scans hold, told by their bytes: neither the times nor the places of files count."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thrifty_jax import files
from thrifty_jax.scans.volumes import Case


class Contents:
  """Hashes of scans; those of files that did not change since are taken from a file of hashes."""

  def __init__(self, path: Path):
    """Takes the file of hashes, which need not be there."""
    self.path = path
    self._before: dict[str, str] = files.read_json(path) if path.exists() else {}
    self._now: dict[str, str] = {}

  def digest(self, cases: Sequence[Case]) -> str:
    """The same for the same scans under the same names: 16 hexadecimal digits."""
    return _digest([[case.case, case.patient, self._hash(case)] for case in cases])[:16]

  def keep(self) -> None:
    """Writes the file of hashes, with those that were asked for."""
    with contextlib.suppress(OSError):  # they only save time; slices may be shared, to be read
      if self._now != self._before:
        files.write_json(self.path, self._now)

  def _hash(self, case: Case) -> str:
    paths = [_with_voxels(files_) for files_ in (case.image, case.label)]
    found = _digest([[[str(path), *_status(path)] for path in part] for part in paths])
    if found not in self._now:
      known = self._before.get(found)
      self._now[found] = known or _digest([[_hash_of(path) for path in part] for part in paths])
    return self._now[found]


def _with_voxels(paths: Sequence[Path]) -> list[Path]:
  """The files of a scan, with the voxels that lie beside a header: Case01.mhd, Case01.raw."""
  return [
    found
    for path in paths
    for found in (
      sorted(path.parent.glob(f'{path.name.split(".")[0]}.*')) if path.suffix == '.mhd' else [path]
    )
  ]


def _status(path: Path) -> tuple[int, int, int]:
  """What changes with a file: its size and two times. A program may set back the first alone."""
  status = path.stat()
  return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _hash_of(path: Path) -> str:
  """The hash of a file's bytes; '' of what cannot be read: check and prepare refuse it by name."""
  try:
    with path.open('rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError:
    return ''


def _digest(value: Any) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()
