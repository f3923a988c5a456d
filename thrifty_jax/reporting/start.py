"""What a training took of the model that it started from, in words."""

from collections.abc import Sequence

from thrifty_jax.run_files import Started

UNKNOWN = 'are not recorded: make sure that none of them validates or tests here'


def tell(started: Started, *, nameless: bool = False) -> list[tuple[str, str]]:
  """Returns titles and texts, for a person, of what a training takes from its model.

  A nameless text, which others may read, has neither the model's place nor names of patients.
  """
  place = '' if nameless else f'of {started.model}: '
  lines = [('weights', f'{place}{started.whole} tensors as they are')]
  if started.partly:
    lines.append(('in part', f'{", ".join(started.partly)}: the channels and classes of both'))
  if started.anew:
    lines.append(('drawn anew', ', '.join(started.anew)))
  if started.frozen:
    lines.append(('frozen', ', '.join(started.frozen)))
  if started.otherwise:
    lines.append(('otherwise', f'than the model learned it: {", ".join(started.otherwise)}'))
  return [*lines, ('its patients', judge_patients(started, nameless=nameless))]


def judge_patients(started: Started, *, nameless: bool = False) -> str:
  """Returns a sentence on whether the model may have learned from patients who test here."""
  if started.shared:
    shared = str(len(started.shared)) if nameless else list_some(started.shared)
    return (
      f'WARNING: it has learned from patients with the names of {shared}, who test here; if these '
      'are the same persons, the scores are too good'
    )
  if started.patients_known:
    return (
      'none of those it has learned from has the name of one who tests here; numbers, as of DICOM '
      'studies, are no names'
    )
  return UNKNOWN


def list_some(names: Sequence[str], most: int = 8) -> str:
  """Returns the first names of a list."""
  return ', '.join(names[:most]) + (', ...' if len(names) > most else '')
