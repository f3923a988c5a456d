"""Which module knows which data set, and what lies in its raw folder."""

import dataclasses
import functools
import hashlib
import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from data_prep.contents import Contents
from thrifty_jax import config as configs
from thrifty_jax.errors import InputError
from thrifty_jax.scans.volumes import Case

# Each module has find_cases(raw_dir), read_case(case) and ABOUT; one whose data says what the
# config leaves open has resolve(config, scans, training) too. Where files lack their partner,
# find_cases raises Unpaired.
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


@dataclasses.dataclass(frozen=True)
class About:
  """What is recorded with the slices of a data set.

  Attributes:
    description: What the slices show, in a sentence.
    homepage: Where it is published, or ''.
    citation: What to cite, or ''.
    note: A warning that belongs to the data and to everything made from it, or ''.
    padding: Intensity from which on a voxel is no part of the scan, and what it is given instead.
  """

  description: str
  homepage: str = ''
  citation: str = ''
  note: str = ''
  padding: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Scans:
  """What was found in a raw folder; no scan is read yet.

  Attributes:
    cases: The scans that have a mask, sorted by name.
    unpaired: A line for each file that lacks its partner.
    contents: Hashes of what the files hold.
  """

  cases: tuple[Case, ...]
  unpaired: tuple[str, ...]
  contents: Contents

  @property
  def patients(self) -> list[str]:
    """The name of the patient of each scan."""
    return [case.patient for case in self.cases]

  @functools.cached_property
  def digest(self) -> str:
    """The same for the same scans, wherever they lie."""
    return self.contents.digest(self.cases)


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


def find(config: ConfigDict) -> Scans:
  """Looks into the raw folder of the config's data set.

  Where config.data.download asks for it, scans that are missing are downloaded first.

  Raises:
    InputError: If there are no scans, they cannot be downloaded, or two have one name; or if the
      config leaves to them what this data set does not say.
  """
  data_set, left = module(config), configs.left_to_data(config)
  if left and not hasattr(data_set, 'resolve'):
    raise InputError(
      f'config.{left[0]} is {configs.flatten(config)[left[0]]!r}, which leaves it to the data, but '
      f'{config.data.name} does not say; set it'
    )
  folder, unpaired = raw_dir(config), ()
  if config.data.download:
    from data_prep import download

    download.provide(raw_folder(config.data.name), folder)
  try:
    found = data_set.find_cases(folder)
  except Unpaired as error:
    found, unpaired = error.cases, error.problems
  cases = tuple(sorted(found, key=lambda case: case.case))
  names = [case.case for case in cases]
  if twice := sorted({name for name in names if names.count(name) > 1}):
    raise InputError(
      f'{folder}: more than one scan is called {", ".join(twice)}; rename or remove one.'
    )
  place = hashlib.sha256(str(folder).encode()).hexdigest()[:10]
  contents = Contents(data_dir(config) / config.data.name / f'contents_{place}.json')
  return Scans(cases, unpaired, contents)


def resolve(
  config: ConfigDict, scans: Scans, training: Sequence[str]
) -> tuple[tuple[str, str], ...]:
  """Fills in, in place, what the config leaves to the data (Setting.open_value).

  Args:
    config: Settings of a run.
    scans: What lies in the raw folder.
    training: Names of the training patients.

  Returns:
    What was found and chosen, for a person: titles and texts.

  Raises:
    InputError: If the scans do not say, or what they say does not fit the other settings.
  """
  if not configs.left_to_data(config):
    return ()
  found = module(config).resolve(config, scans, training)
  configs.validate(config)  # fields that depend on those
  return found
