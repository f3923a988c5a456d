"""Which module knows which data set, and where its files lie."""

import importlib
import os
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from data_prep.volumes import Case
from thrifty_jax.errors import InputError

# Each module has find_cases(raw_dir), read_case(case), BUILDER (its TFDS class) and NOTE (a warning
# that belongs to the data, or ''). Names instead of imports, because these modules import the
# checks, which look up data sets here.
_MODULES = {
  'brain': 'data_prep.brain',
  'chaos': 'data_prep.chaos',
  'phantom': 'data_prep.phantom',
  'promise12': 'data_prep.promise12',
}


def module(config: ConfigDict) -> ModuleType:
  """The module of the config's data set.

  Raises:
    InputError: If no module knows `config.data.name`.
  """
  name = config.data.name
  if name not in _MODULES:
    raise InputError(f'data.name is {name!r}; expected one of {", ".join(_MODULES)}.')
  return importlib.import_module(_MODULES[name])


def data_dir(config: ConfigDict) -> Path:
  """TFDS's folder: the config's, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
  folder = config.data.data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return Path(folder).expanduser().absolute()


def raw_dir(config: ConfigDict) -> Path:
  """Where the raw scans lie: the config's folder, else TFDS's place for manual downloads."""
  if config.data.raw_dir:
    return Path(config.data.raw_dir).expanduser().absolute()
  return data_dir(config) / 'downloads' / 'manual' / config.data.name


def find_cases(config: ConfigDict) -> tuple[Case, ...]:
  """The labelled scans of the config's data set, sorted by name; none is read.

  Raises:
    InputError: If scans or masks are missing.
  """
  return tuple(sorted(module(config).find_cases(raw_dir(config)), key=lambda case: case.case))
