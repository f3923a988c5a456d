"""What raw scans hold: digests, and classes; files that did not change are not read again."""

import contextlib
import dataclasses
import hashlib
import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from thrifty_jax import files, logbook, records
from thrifty_jax.errors import InputError
from thrifty_jax.scans import metaimage, unreadable
from thrifty_jax.scans.volumes import Case

_DIGITS = 2 * hashlib.sha256().digest_size  # of a `_digest`


@dataclasses.dataclass(frozen=True)
class _Kept:
  """Contents of the file, each by the name of the files that it belongs to, see _name."""

  hashes: Mapping[str, str]
  classes: Mapping[str, tuple[int, ...]]  # by that name and the meaning of a mask
  checked: str = ''  # see Contents


class Contents:
  """Hashes and classes of scans; those of unchanged files are taken from a file, if there is one.

  The hashes do not depend on the times and places of the files. `checked` is the digest of the last
  scans in which a check found no error, with those of an external test set; `is_sound` is whether
  one has found none just now.
  """

  def __init__(self, path: Path):
    self.path = path
    self._before, self._now = _Kept({}, {}), dict[str, str]()
    if path.exists():
      try:
        self._before = records.read(path, _Kept)
      except InputError as error:  # it only saves time
        logbook.say('contents', f'{error}; all scans are read anew')
    self._classes = {name: [*found] for name, found in self._before.classes.items()}
    self.checked, self.is_sound = self._before.checked, False

  def digest(self, cases: Sequence[Case]) -> str:
    """Returns 16 hexadecimal digits, equal for the same scans under the same names."""
    return _digest(
      [[case.case, case.patient, self._hash(case), *_list_meaning(case)] for case in cases]
    )[:16]

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
    """Writes the file, of the scans whose hashes were used: those that changed leave nothing."""
    classes = {name: own for name, own in self._classes.items() if name[:_DIGITS] in self._now}
    with contextlib.suppress(OSError):  # they only save time; a shared folder may be read-only
      kept = {'hashes': self._now, 'classes': classes, 'checked': self.checked}
      files.write_json(self.path, kept)

  def _hash(self, case: Case) -> str:
    paths = _files_of(case)
    if (name := _name(paths)) not in self._now:
      known = self._before.hashes.get(name)
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
  """Returns what the labels in a mask are known by: `_name` of the files, then their meaning."""
  colours = [case.legend.colours, case.legend.classes] if case.legend else []
  meaning = [colours, case.values, case.segments, case.ignore]
  return _name(_files_of(case)) + _digest(meaning)


def _list_meaning(case: Case) -> list[Sequence[int] | Sequence[str]]:
  """Returns what the classes in a mask are known by: numbers other than 0, 1, 2, ..., or names."""
  numbers = [case.values] if case.values != tuple(range(len(case.values))) else []
  return [*numbers, *([case.segments] if case.segments else [])]


def _with_voxels(paths: Sequence[Path]) -> list[Path]:
  """Returns the files of a scan and those of voxels that a header names: Case01.mhd, Case01.raw.

  Of a header that is not valid there is only itself; the check reports it.
  """
  found: list[Path] = []
  for path in paths:
    found.append(path)
    if path.suffix.lower() in ('.mhd', '.mha'):
      with contextlib.suppress(InputError), unreadable.report_unreadable(path):
        metaimage.require_valid(path)
        voxels = metaimage.find_voxels(path)
        found += [one for one in voxels if one != path and one.exists()]
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
