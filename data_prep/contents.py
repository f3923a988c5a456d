"""What raw scans hold: digests, and classes; files that did not change are not read again."""

import contextlib
import hashlib
import json
import operator
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from thrifty_jax import files
from thrifty_jax.scans.volumes import Case


class Contents:
  """Hashes and classes of scans; those of unchanged files are taken from a file, if there is one.

  The hashes do not depend on the times and places of the files.
  """

  def __init__(self, path: Path):
    self.path = path
    before = files.read_json(path) if path.exists() else {}
    self._before: dict[str, str] = before.get('hashes', {})
    self._now: dict[str, str] = {}
    self._classes: dict[str, list[int]] = before.get('classes', {})

  def digest(self, cases: Sequence[Case]) -> str:
    """Returns 16 hexadecimal digits, equal for the same scans under the same names."""
    return _digest([[case.case, case.patient, self._hash(case)] for case in cases])[:16]

  def classes_of(
    self, cases: Sequence[Case], read: Callable[[Sequence[Case]], Iterable[list[int] | None]]
  ) -> list[list[int]]:
    """Returns the foreground classes in the mask of each case; `read` finds those not known.

    What it cannot find, None, is tried again the next time, and has none here.
    """
    names = [_name_classes(case) for case in cases]
    unknown = [case for case, name in zip(cases, names, strict=True) if name not in self._classes]
    if unknown:
      for case, found in zip(unknown, read(unknown), strict=True):
        if found is not None:
          self._classes[_name_classes(case)] = found
    return [self._classes.get(name, []) for name in names]

  def keep(self) -> None:
    """Writes the file, with the hashes that were used."""
    with contextlib.suppress(OSError):  # they only save time; a shared folder may be read-only
      kept = {'hashes': self._now or self._before, 'classes': self._classes}
      files.write_json(self.path, kept)

  def _hash(self, case: Case) -> str:
    paths = _files_of(case)
    if (name := _name(paths)) not in self._now:
      known = self._before.get(name)
      self._now[name] = known or _digest([[_hash_of(path) for path in part] for part in paths])
    return self._now[name]


def _files_of(case: Case) -> list[list[Path]]:
  return [_with_voxels(paths) for paths in (case.image, case.label)]


def _name(paths: Sequence[Sequence[Path]]) -> str:
  """Returns the digest of names, sizes and times of files, which changes with their contents."""
  # A program can set back only the first of the two times.
  known_by = operator.attrgetter('st_size', 'st_mtime_ns', 'st_ctime_ns')
  return _digest([[[str(path), *known_by(path.stat())] for path in part] for part in paths])


def _name_classes(case: Case) -> str:
  """Returns what the classes in a mask are known by: its files, and the meaning of its colours."""
  name = _name(_files_of(case))
  legend = case.legend
  return _digest([name, legend.colours, legend.classes]) if legend else name


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
    if not path.is_file():  # a pipe may never end
      return ''
    with path.open('rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError:
    return ''


def _digest(value: Any) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()
