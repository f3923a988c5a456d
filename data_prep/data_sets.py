"""Which module knows which data set, and where its files lie."""

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax.errors import InputError
from thrifty_jax.scans.volumes import Case

# Each module has find_cases(raw_dir), read_case(case), BUILDER (its TFDS class) and NOTE (a warning
# that belongs to the data, or ''); one whose data says what the config leaves open has
# resolve(config) too. Where files lack their partner, find_cases raises Unpaired. Names instead of
# imports, because these modules import the checks, which look up data sets here.
_MODULES = {
  'brain': 'data_prep.brain',
  'chaos': 'data_prep.chaos',
  'chaos_t1': 'data_prep.chaos_t1',
  'chaos_t2': 'data_prep.chaos_t2',
  'folder': 'data_prep.folder',
  'phantom': 'data_prep.phantom',
  'promise12': 'data_prep.promise12',
}
# Data sets of one archive lie in one folder.
_RAW_FOLDERS = {'chaos_t1': 'chaos', 'chaos_t2': 'chaos'}


class Unpaired(InputError):
  """Scans without a mask or masks without a scan; the message is that of the first.

  Attributes:
    problems: A line for each.
    cases: The scans that do have a mask.
  """

  def __init__(self, problems: Sequence[str], cases: Sequence[Case]):
    super().__init__(problems[0])
    self.problems, self.cases = tuple(problems), tuple(cases)


def cases_of(folders: Sequence[Path], find_case: Callable[[Path], Case]) -> list[Case]:
  """The scan of each folder, where each has one.

  Args:
    folders: One for each scan.
    find_case: Finds a folder's scan, or raises InputError.

  Raises:
    Unpaired: If it raises, with its message for each such folder and the scans of the others.
  """
  problems, cases = [], []
  for folder in folders:
    try:
      cases.append(find_case(folder))
    except InputError as error:
      problems.append(str(error))
  if problems:
    raise Unpaired(problems, cases)
  return cases


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


def raw_folder(name: str) -> str:
  """The name of a data set's raw folder: those of one archive share it."""
  return _RAW_FOLDERS.get(name, name)


def raw_dir(config: ConfigDict) -> Path:
  """Where the raw scans lie: the config's folder, else TFDS's place for manual downloads."""
  if config.data.raw_dir:
    return Path(config.data.raw_dir).expanduser().absolute()
  name = raw_folder(config.data.name)
  return data_dir(config) / 'downloads' / 'manual' / name


def resolve(config: ConfigDict) -> tuple[tuple[str, str], ...]:
  """Fills in, in place, what the config leaves to the data (Setting.open_value).

  Returns:
    What was found and chosen, for a person: titles and texts.

  Raises:
    InputError: If the data set leaves nothing open, or its scans do not say.
  """
  data_set = module(config)
  if not hasattr(data_set, 'resolve'):
    name = configs.left_to_data(config)[0]
    value = configs.flatten(config)[name]
    raise InputError(
      f'config.{name} is {value!r}, which leaves it to the data, but {config.data.name} does '
      'not say; set it'
    )
  return data_set.resolve(config)


def find_cases(config: ConfigDict) -> tuple[Case, ...]:
  """The labelled scans of the config's data set, sorted by name; none is read.

  Where config.data.download asks for it, scans that are missing are downloaded first.

  Raises:
    InputError: If scans or masks are missing, or cannot be downloaded.
  """
  if config.data.download:
    from data_prep import download

    download.provide(raw_folder(config.data.name), raw_dir(config))
  return tuple(sorted(module(config).find_cases(raw_dir(config)), key=lambda case: case.case))


def find_pairs(config: ConfigDict) -> tuple[tuple[Case, ...], tuple[str, ...]]:
  """The labelled scans, as `find_cases` has them, and a line for each file without its partner."""
  try:
    return find_cases(config), ()
  except Unpaired as error:
    return tuple(sorted(error.cases, key=lambda case: case.case)), error.problems
