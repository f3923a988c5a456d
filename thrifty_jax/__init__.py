"""Small segmentation networks for medical scans, found by architecture search in JAX."""

import importlib
from typing import Any

__version__ = '0.1.0'
RESEARCH_USE = 'Research use only, not a medical device.'

# What the package offers in Python, by the module that has it; docs/api.md describes it. Each is
# imported when it is first used, as JAX takes seconds; __init__.pyi has the types.
API = {
  'load_config': 'library',
  'run': 'library',
  'load_model': 'predicting.segment',
  'score': 'library',
  'InputError': 'errors',
}


def __getattr__(name: str) -> Any:
  if name not in API:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{API[name]}'), name)


def __dir__() -> list[str]:
  return [*globals(), *API]
