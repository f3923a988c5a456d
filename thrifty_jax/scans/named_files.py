"""Scans, masks and patients of a folder, by the names of their files."""

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from thrifty_jax.errors import InputError
from thrifty_jax.scans import pictures

VOLUMES = ('.nii.gz', '.nii', '.nrrd', '.mha', '.mhd')
ENDINGS = (*VOLUMES, *pictures.ENDINGS)


def find(folder: Path, *, endings: Sequence[str], option: str) -> dict[str, Path]:
  """Returns the volumes of a folder, else its pictures, by name without ending.

  Hidden files, and those with other endings, are left out. Links to files that were not fetched
  are among them, see `describe_unfetched`. `option` names the folder.
  """
  if folder.exists() and not folder.is_dir():
    raise InputError(f'{folder}: is no folder; expected one of scans or masks. Correct {option}.')
  for kind in (VOLUMES, pictures.ENDINGS):
    if found := list_files(folder.glob('*'), [one for one in endings if one in kind]):
      return found
  raise InputError(
    f'{folder}: no volume or picture there ({", ".join(endings)}); expected one or more for each '
    f'scan. Copy them there or correct {option}.'
  )


def list_files(paths: Iterable[Path], endings: Sequence[str]) -> dict[str, Path]:
  """Returns those of the paths that are files with one of the endings, not hidden, by name.

  Links that lead nowhere are among them.
  """
  found: dict[str, Path] = {}
  for path in sorted(paths):
    name = name_of(path, endings)
    if name is not None and not path.name.startswith('.') and not path.is_dir():
      add(found, name, path)
  return found


def add(found: dict[str, Path], name: str, path: Path) -> None:
  """Adds a file or folder, in place, under a name that no other may have."""
  # A composed and a decomposed spelling, as of macOS, are one name.
  first = found.setdefault(unicodedata.normalize('NFC', name), path)
  if first != path:
    raise InputError(
      f'{path}: {first.name} has the same name but for its ending; expected each scan once. Move '
      'one away.'
    )


def name_of(path: Path, endings: Sequence[str] = ENDINGS) -> str | None:
  """Returns a file's name without its ending, in lower or upper case; None if it has no such."""
  ending = next((ending for ending in endings if path.name.lower().endswith(ending)), None)
  return path.name[: -len(ending)] if ending else None


def is_there(path: Path) -> bool:
  """Returns whether a path is a file, or a link to one that was not fetched."""
  return path.is_file() or (path.is_symlink() and not path.exists())


def describe_unfetched(paths: Iterable[Path]) -> str:
  """Returns the words that refuse links of which only the names were fetched; '' if none is."""
  for path in paths:
    if path.is_symlink() and not path.exists():
      return (
        f'{path}: is a link to a file that is not there; expected the file. Fetch it, as by '
        'datalad get, or move the link away.'
      )
  return ''


def read_patients(path: Path, names: Sequence[str]) -> dict[str, str]:
  """Returns the patient of each case, from patients.csv; without it each case is a patient."""
  if not path.exists():
    return {name: name for name in names}
  patients: dict[str, str] = {}
  try:
    with path.open(newline='', encoding='utf-8-sig') as file:
      text = unicodedata.normalize('NFC', file.read())
      rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if any(row)]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(f'{path}: cannot be read ({error}); expected text, case,patient.') from error
  if not rows or rows[0] != ['case', 'patient']:
    raise InputError(f'{path}: expected a first line "case,patient", then one for each scan.')
  spellings: dict[str, str] = {}
  for row in rows[1:]:
    if len(row) != 2 or not all(row):
      raise InputError(
        f'{path}: has the line {",".join(row)!r:.80}; expected a case and a patient.'
      )
    if patients.setdefault(row[0], row[1]) != row[1]:
      raise InputError(f'{path}: gives {row[0]} to two patients; expected one. Correct the file.')
    if (first := spellings.setdefault(row[1].casefold(), row[1])) != row[1]:
      raise InputError(
        f'{path}: has the patients {first} and {row[1]}, who differ in capital letters alone; '
        'expected one spelling of each. Correct the file.'
      )
  if unknown := [name for name in names if name not in patients]:
    raise InputError(f'{path}: does not say whose scan {unknown[0]} is. Add a line for it.')
  return patients
