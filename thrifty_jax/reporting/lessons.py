"""What a training learned of beside the masks, in words."""

from thrifty_jax.reporting import start
from thrifty_jax.run_files import Taught


def tell(taught: Taught) -> str:
  """Returns a part of a sentence on the models and scans without masks that taught a network."""
  count = len(taught.models)
  models = f'{count} models, averaged' if count > 1 else 'one model'
  said = f'from masks and, to {100 * taught.share:g} %, the probabilities of {models}'
  if taught.unlabelled:
    said += f', which alone tell what is in {taught.unlabelled} scans without masks'
  return said if taught.patients_known else f'{said}; the patients of these {start.UNKNOWN}'
