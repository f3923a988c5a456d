"""What a training learned of beside the masks, in words."""

from thrifty_jax.reporting import start
from thrifty_jax.run_files import Taught


def tell(taught: Taught, *, nameless: bool = False) -> str:
  """Returns a part of a sentence on the models and scans without masks that taught a network.

  A nameless text, which others may read, has no names of patients.
  """
  count = len(taught.models)
  models = f'{count} models, averaged' if count > 1 else 'one model'
  said = f'from masks and, to {100 * taught.share:g} %, the probabilities of {models}'
  if taught.unlabelled:
    said += f', which alone tell what is in {taught.unlabelled} scans without masks'
  return '; '.join(filter(None, (said, warn(taught, nameless=nameless))))


def warn(taught: Taught, *, nameless: bool = False) -> str:
  """Returns a warning of patients from whom the models may have learned; '' if there is none."""
  if taught.shared:
    shared = str(len(taught.shared)) if nameless else start.list_some(taught.shared)
    return (
      f'WARNING: the models have learned from patients with the names of {shared}, who validate or '
      'test here; if they are the same, the scores are too good'
    )
  return '' if taught.patients_known else f'the patients of the models {start.UNKNOWN}'
