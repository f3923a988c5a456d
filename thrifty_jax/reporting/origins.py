"""What a training took of other models and learned of beside the masks, in words."""

from collections.abc import Sequence

from thrifty_jax import words
from thrifty_jax.run_files import Started, Taught

_UNKNOWN = 'are not recorded: make sure that none of them validates or tests here'


def tell_start(started: Started, *, nameless: bool = False) -> list[tuple[str, str]]:
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
  return [*lines, ('its patients', _judge_patients(started, nameless=nameless))]


def tell_teacher(taught: Taught, *, nameless: bool = False) -> str:
  """Returns a part of a sentence on the models and scans without masks that taught a network.

  A nameless text, which others may read, has no names of patients.
  """
  count = len(taught.models)
  models = f'{count} models, averaged' if count > 1 else 'one model'
  said = f'from masks and, to {100 * taught.share:g} %, the probabilities of {models}'
  if taught.unlabelled:
    said += f', which alone tell what is in {taught.unlabelled} scans without masks'
  return '; '.join(filter(None, (said, warn_of_teacher(taught, nameless=nameless))))


def warn_of_teacher(taught: Taught, *, nameless: bool = False) -> str:
  """Returns a warning of patients from whom the models may have learned; '' if there is none."""
  if taught.shared:
    return (
      'WARNING: the models have learned from patients with the names of '
      f'{_name(taught.shared, nameless)}, who validate or test here; if they are the same, the '
      'scores are too good'
    )
  return '' if taught.patients_known else f'the patients of the models {_UNKNOWN}'


def _judge_patients(started: Started, *, nameless: bool) -> str:
  """Returns a sentence on whether the model may have learned from patients who test here."""
  if started.shared:
    return (
      f'WARNING: it has learned from patients with the names of {_name(started.shared, nameless)}, '
      'who test here; if these are the same persons, the scores are too good'
    )
  if started.patients_known:
    return (
      'none of those it has learned from has the name of one who tests here; numbers, as of DICOM '
      'studies, are no names'
    )
  return _UNKNOWN


def _name(patients: Sequence[str], nameless: bool) -> str:
  return str(len(patients)) if nameless else words.list_some(patients)
