"""splits.json: the patients for training, validation and test; a file of the user takes precedence.

    {"train": ["p1", "p2", "p3"], "validation": ["p4"], "test": ["p5"]}

A run writes it when its first stage that needs the split starts. The names of a file that is there
become the config's lists of validation and test patients, whatever folds and lists it has. So a
file that was changed after a stage is done is refused like any other setting that the stage read.
"""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import files, words
from thrifty_jax.data import splits
from thrifty_jax.errors import InputError

FILE = 'splits.json'
PARTS = ('train', 'validation', 'test')
_MADE_BY = 'made_by'
_CLASSES = 'classes'  # there: the foreground classes of each patient


def honour(config: ConfigDict, workdir: Path) -> bool:
  """Sets, in place, the config's patients to those of the workdir's splits.json.

  Returns:
    Whether the file's split differs from that of the config's own folds and lists; if not, or if
    there is no file, the config is unchanged.
  """
  path = workdir / FILE
  if not path.exists():
    return False
  named = read(path, hold_out_test=config.data.hold_out_test)
  _require_same_making(path, config)
  patients = _classes_of_patients(path) or sum(named.values(), ())
  try:
    if splits.assign(config, patients) == named:
      return False
  except InputError:  # the folds are impossible with these patients, the file is not
    pass
  config.data.validation_patients = named['validation']
  config.data.test_patients = named['test']
  return True


def require_patients(workdir: Path, patients: Iterable[str]) -> None:
  """Refuses an existing splits.json that does not name exactly the patients of the data."""
  path, everyone = workdir / FILE, set(patients)
  if not path.exists():
    return
  written = files.read_json(path)
  listed = {name for part in PARTS for name in _normalise(written[part])}
  if unknown := sorted(listed - everyone):
    raise InputError(
      f'{path}: there is no scan of {_listed(unknown)}; expected names among '
      f'{_listed(sorted(everyone))}. Correct the file or add the scans.'
    )
  if missing := sorted(everyone - listed):
    raise InputError(
      f'{path}: no list has {_listed(missing)}; expected every patient in one. Add the names, or '
      'move the scans away.'
    )


def require_split(workdir: Path, split: Mapping[str, Sequence[str]]) -> None:
  """Refuses an existing splits.json that `honour` took for the config's own split, but is not."""
  path = workdir / FILE
  if path.exists() and read(path, hold_out_test=bool(split['test'])) != split:
    raise InputError(
      f'{path}: deals the patients to the folds by their names alone, but not all of them have '
      'every class, and the rule now deals each class evenly. To keep the split of the file name '
      'its patients in data.validation_patients and data.test_patients; to change it remove the '
      'file.'
    )


def write(
  config: ConfigDict,
  workdir: Path,
  split: Mapping[str, Sequence[str]],
  patients: Mapping[str, Collection[int]] | None = None,
) -> None:
  """Writes splits.json unless it exists: then it has these names already, see `honour`.

  `patients` maps to the classes of each, which are kept where the split depends on them.
  """
  if (workdir / FILE).exists():
    return
  named = {part: list(split[part]) for part in PARTS}
  made_by = splits.list_fields(config.data)
  if patients and splits.assign(config, [*patients]) != split:
    made_by[_CLASSES] = {name: sorted(found) for name, found in sorted(patients.items())}
  files.write_json(workdir / FILE, {**named, _MADE_BY: made_by})


def read(path: Path, *, hold_out_test: bool | None = True) -> dict[str, tuple[str, ...]]:
  """Returns the sorted names of a splits.json under 'train', 'validation' and 'test'.

  With `hold_out_test` there must be test patients, with False none, and with None either may be.
  """
  written = files.read_json(path)
  lists = [written.get(part) for part in PARTS] if isinstance(written, dict) else [None]
  if not all(isinstance(names, list) and all(isinstance(n, str) for n in names) for names in lists):
    raise InputError(
      f'{path}: expected lists of patients, as in {{"train": ["a", "b"], "validation": ["c"], '
      '"test": ["d"]}. Correct or remove the file.'
    )
  if surplus := sorted({*written} - {*PARTS, _MADE_BY}):
    raise InputError(
      f'{path}: has the entry {surplus[0]!r:.80}; expected {", ".join(PARTS)}. Remove it.'
    )
  named = {part: tuple(sorted(_normalise(written[part]))) for part in PARTS}
  for name, count in Counter(sum(named.values(), ())).items():
    if not name.isprintable():
      raise InputError(f'{path}: has the patient {name!r:.80}; expected a name. Correct the file.')
    if count > 1:
      places = ' and '.join(part for part in PARTS for one in named[part] if one == name)
      raise InputError(
        f'{path}: names {name:.60} in {places:.80}; expected each patient once. Remove one.'
      )
  empty = [part for part in PARTS if not named[part] and (part != 'test' or hold_out_test)]
  if empty:
    raise InputError(f'{path}: has no patient in {empty[0]}; expected one or more. Add some.')
  if named['test'] and hold_out_test is False:
    raise InputError(
      f'{path}: has {_listed(named["test"])} in test, but data.hold_out_test is False; expected '
      'nobody. Move them to train, or set the field to True.'
    )
  return named


def digest(split: Mapping[str, Sequence[str]]) -> str:
  """Returns the SHA-256 of a split, 64 hexadecimal digits, which names no patient.

  It is that of a JSON object without spaces: train, validation, test, and their sorted names.
  """
  named = {part: sorted(split[part]) for part in PARTS}
  text = json.dumps(named, ensure_ascii=False, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()


def _normalise(names: Iterable[str]) -> list[str]:
  """Returns names as those of scans are spelled: macOS writes an accent as a character."""
  return [unicodedata.normalize('NFC', name) for name in names]


def _classes_of_patients(path: Path) -> dict[str, list[int]]:
  """Returns the classes of each patient by which a file was made; {} if names were enough."""
  made_by = files.read_json(path).get(_MADE_BY)
  found = made_by.get(_CLASSES, {}) if isinstance(made_by, dict) else {}
  lists = found.values() if isinstance(found, dict) else [None]
  if not all(isinstance(of, list) and all(type(k) is int for k in of) for of in lists):
    raise InputError(
      f'{path}: {_MADE_BY}.{_CLASSES} is {found!r:.80}; expected a list of numbers for each '
      f'patient. Remove {_MADE_BY} to keep the names as they are.'
    )
  return found


def _require_same_making(path: Path, config: ConfigDict) -> None:
  """Refuses a file made by this program with other settings, which it would override unnoticed."""
  before, now = files.read_json(path).get(_MADE_BY), splits.list_fields(config.data)
  if not isinstance(before, dict):
    return  # written by hand
  differences = [
    f'data.{field} {before[field]!r:.80} -> {now[field]!r:.80}'
    for field in now
    if field in before and before[field] != now[field]
  ]
  if differences:
    raise InputError(
      f'{path}: was made with other settings: {", ".join(differences)}; go back to them, use '
      'another --workdir, or remove the file if nothing was trained with it.'
    )


def _listed(names: Sequence[str]) -> str:
  return words.list_some([f'{name:.60}' for name in names], 8)
