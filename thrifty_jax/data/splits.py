"""Splits of patients, never of slices, into training, validation and test."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax.errors import InputError

# Fields that, with the names, determine the split.
_FIELDS = ('folds', 'fold', 'validation_patients', 'test_patients', 'hold_out_test')


def assign(config: ConfigDict, patients: Iterable[str]) -> dict[str, tuple[str, ...]]:
  """Returns the split of a run: `split_patients` with the folds and lists of its config."""
  return split_patients(patients, **{field: config.data[field] for field in _FIELDS})


def list_fields(data: ConfigDict) -> dict[str, Any]:
  """Returns the fields of the section `data` that determine the split, as JSON values."""
  values = {field: data[field] for field in _FIELDS}
  return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def split_patients(
  patients: Iterable[str],
  *,
  folds: int,
  fold: int,
  validation_patients: Sequence[str] = (),
  test_patients: Sequence[str] = (),
  hold_out_test: bool = True,
) -> dict[str, tuple[str, ...]]:
  """Splits patients into train, validation and test.

  Patients are sorted; the test patients are those with rank % folds == fold, the validation
  patients those of the next fold. Neighbouring names often come from one hospital, so folds
  interleave. An explicit list overrides the rule, which then divides the remaining patients.

  Args:
    patients: Names, repeated or not, in any order.
    folds: Number of folds, at least 3: with 2 nobody would be left to train on.
    fold: Number of the test fold, from 0.
    validation_patients: Names of the validation patients; empty applies the rule.
    test_patients: Names of the test patients, none of whom validates; empty applies the rule.
    hold_out_test: Whether there are test patients; if not, all but the validation patients train.

  Returns:
    Sorted names under 'train', 'validation' and 'test': disjoint, together all patients, and not
    empty except for test without `hold_out_test`.
  """
  validation, test = validation_patients, test_patients
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
    raise InputError(
      f'data.folds is {folds}, but there are only {len(left)} patients; add scans or lower '
      'data.folds to 3 or more.'
    )
  if hold_out_test:
    test = test or left[fold::folds]
  validation = validation or left[(fold + 1) % folds :: folds]
  train = [patient for patient in left if patient not in {*validation, *test}]
  if not train:
    raise InputError(
      f'data: no patient of {len(everyone)} is left to train on; shorten data.validation_patients '
      'or data.test_patients.'
    )
  parts = {'train': train, 'validation': validation, 'test': test}
  return {part: tuple(sorted(names)) for part, names in parts.items()}


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
