"""Splits of patients, never of slices, into training, validation and test."""

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax.errors import InputError

# Fields that, with the names, determine the split.
_FIELDS = ('folds', 'fold', 'validation_patients', 'test_patients', 'hold_out_test')


# The names of patients, or a mapping from these to the foreground classes that each of them has.
Patients = Iterable[str] | Mapping[str, Collection[int]]


def assign(config: ConfigDict, patients: Patients) -> dict[str, tuple[str, ...]]:
  """Returns the split of a run: `split_patients` with the folds and lists of its config."""
  return split_patients(patients, **{field: config.data[field] for field in _FIELDS})


def list_fields(data: ConfigDict) -> dict[str, Any]:
  """Returns the fields of the section `data` that determine the split, as JSON values."""
  values = {field: data[field] for field in _FIELDS}
  return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def describe(data: Any) -> str:
  """Describes what splits the patients: a fold, lists, or both; `data` is that of a config."""
  parts = ('validation', 'test') if data.hold_out_test else ('validation',)
  listed = [part for part in parts if getattr(data, f'{part}_patients')]
  by_fold = f'fold {data.fold} of {data.folds}'
  if not listed:
    return by_fold
  by_lists = f'{" and ".join(listed)} patients by lists'
  return by_lists if len(listed) == len(parts) else f'{by_lists}, the others by {by_fold}'


def split_patients(
  patients: Patients,
  *,
  folds: int,
  fold: int,
  validation_patients: Sequence[str] = (),
  test_patients: Sequence[str] = (),
  hold_out_test: bool = True,
) -> dict[str, tuple[str, ...]]:
  """Splits patients into train, validation and test.

  Patients are sorted and dealt to the folds in turn, so that those of one hospital, whose names are
  often neighbours, are in several. A class that not every patient has is dealt first, the rarest
  before the others, so that each fold gets its share. One fold tests and the next validates. An
  explicit list overrides the rule, which then divides the remaining patients.

  Args:
    patients: Names, repeated or not, in any order, or a mapping to the classes of each.
    folds: Number of folds, at least 3: with 2 nobody would be left to train on.
    fold: Number of the test fold, from 0.
    validation_patients: Names of the validation patients; empty applies the rule.
    test_patients: Names of the test patients, none of whom validates; empty applies the rule.
    hold_out_test: Whether there are test patients; if not, all but the validation patients train.

  Returns:
    Sorted names under 'train', 'validation' and 'test': disjoint, together all patients, and not
    empty except for test without `hold_out_test`.
  """
  validation, test = map(_composed, (validation_patients, test_patients))
  everyone = sorted(set(patients))
  for field, names in (('data.validation_patients', validation), ('data.test_patients', test)):
    if unknown := sorted(set(names) - set(everyone)):
      raise InputError(
        f'{field}: there is no scan of {", ".join(unknown)}; expected names among '
        f'{", ".join(everyone)}. Correct the list or add the scans.'
      )
  if test and not hold_out_test:
    raise InputError(
      f'data.test_patients lists {", ".join(test)}, but data.hold_out_test is False; remove the '
      'list, or hold out test patients.'
    )
  left = [patient for patient in everyone if patient not in {*validation, *test}]
  if not (validation and (test or not hold_out_test)) and len(left) < folds:
    if len(left) < 3:
      raise InputError(
        f'data: there are only {len(left)} patients to split; expected 3 or more, for training, '
        'validation and test. Add scans of other patients.'
      )
    raise InputError(
      f'data.folds is {folds}, but there are only {len(left)} patients; add scans, or set '
      f'data.folds to {"3" if len(left) == 3 else f"3 to {len(left)}"}.'
    )
  parts = _deal(left, patients if isinstance(patients, Mapping) else {}, folds)
  if hold_out_test:
    test = test or parts[fold]
  validation = validation or parts[(fold + 1) % folds]
  train = [patient for patient in left if patient not in {*validation, *test}]
  if not train:
    raise InputError(
      f'data: no patient of {len(everyone)} is left to train on; shorten data.validation_patients '
      'or data.test_patients.'
    )
  found = {'train': train, 'validation': validation, 'test': test}
  return {part: tuple(sorted(names)) for part, names in found.items()}


def _composed(names: Sequence[str]) -> list[str]:
  """Returns names in the spelling of the scans' names: of letters with their accents."""
  return [unicodedata.normalize('NFC', name) for name in names]


def _deal(
  names: Sequence[str], classes: Mapping[str, Collection[int]], folds: int
) -> list[list[str]]:
  """Deals sorted names to folds of about equal size, each class evenly.

  Of the classes that the names left have, the one that the fewest have comes next; each of these
  goes to the fold with the fewest patients of that class, then of any, then to the first. A class
  of one or two patients goes to a fold that trains by default first: nobody could learn it else.

  Source: Sechidis et al. (2011), On the stratification of multi-label data.
  """
  parts: list[list[str]] = [[] for _ in range(folds)]
  having = {name: set(classes.get(name, ())) for name in names}
  total = Counter(k for found in having.values() for k in found)
  left = list(names)
  while left:
    counts = Counter(k for name in left for k in having[name])
    rarest = min(counts, key=lambda k: (counts[k], k), default=None)
    for name in [name for name in left if rarest is None or rarest in having[name]]:
      alike = [sum(rarest in having[other] for other in part) for part in parts]
      scarce = rarest is not None and total[rarest] < 3
      place = min(range(folds), key=lambda i: (alike[i], scarce and i != 2, len(parts[i]), i))
      parts[place].append(name)
      left.remove(name)
  return parts


def search_halves(patients: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Divides the training patients between the two levels of the search, weights and architecture.

  Random, but always the same: searches with different seeds are compared on the second half. Of an
  odd number, the weights get one more. Names may be repeated and in any order.
  """
  names = sorted(set(patients))
  if len(names) < 2:
    raise InputError(
      f'data: there is {len(names)} training patient; the search needs at least 2, one for each of '
      'its halves. Add scans.'
    )
  shuffled = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
  half = (len(names) + 1) // 2
  return tuple(sorted(shuffled[:half])), tuple(sorted(shuffled[half:]))


def teaching_folds(
  patients: Sequence[str], classes: Mapping[str, Collection[int]], folds: int
) -> list[tuple[str, ...]]:
  """Deals the training patients to the folds of a teacher, those with equal classes in turn.

  Args:
    patients: Names of the training patients.
    classes: Foreground classes of each of them; others may be there.
    folds: Number of folds, each of which one network of the teacher does without.

  Returns:
    The sorted names of each fold, none of which is empty.

  Raises:
    InputError: If there are fewer patients than folds.
  """
  if len(patients) < folds:
    raise InputError(
      f"config.retrain.teacher is 'folds', which deals the {len(patients)} training patients to "
      f'{folds} folds; expected one for each or more: add scans, name another teacher, or lower '
      'config.data.folds (3 or more)'
    )
  alike = sorted(patients, key=lambda name: (sorted(classes.get(name, ())), name))
  return [tuple(sorted(alike[fold::folds])) for fold in range(folds)]
