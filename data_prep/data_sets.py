"""The modules of the data sets, and the scans in their raw folders."""

import collections
import dataclasses
import functools
import hashlib
import importlib
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeVar

import numpy as np
from ml_collections import ConfigDict

from data_prep import workers
from data_prep.contents import Contents
from thrifty_jax import config as configs
from thrifty_jax import files, labels
from thrifty_jax.errors import InputError
from thrifty_jax.scans.volumes import Case, Volume
from thrifty_jax.words import list_some

# Modules of this package. Each has find_cases(raw_dir), read_case(case) and ABOUT; one whose data
# decides what the config leaves open also has resolve(config, scans, training), and its find_cases
# takes section `data` of the config too; one whose masks can be read alone has read_classes(case);
# folder also has find_title, find_unused, find_external and require_split. Where files lack their
# counterpart, find_cases raises Unpaired.
_MODULES = ('brain', 'chaos', 'chaos_t1', 'chaos_t2', 'folder', 'phantom', 'promise12')


@dataclasses.dataclass(frozen=True)
class About:
  """Description of a data set, recorded with its slices."""

  description: str  # one sentence about what the slices show
  homepage: str = ''
  citation: str = ''
  note: str = ''  # warning that applies to the data and to everything made from it
  # Intensity from which on a voxel is outside the scan, and the value that replaces it.
  padding: tuple[float, float] | None = None


class Problem(NamedTuple):
  """A scan that cannot be used: a file is missing, was not fetched, or contradicts another."""

  case: str  # name by which data.exclude leaves it out
  text: str  # line that says what is wrong, where, and what to do


_Named = TypeVar('_Named', Case, Problem)


@dataclasses.dataclass(frozen=True)
class Scans:
  """Contents of a raw folder; no scan is read yet."""

  cases: tuple[Case, ...]  # those that have a mask, sorted by name
  unpaired: tuple[Problem, ...]
  contents: Contents
  unused: tuple[str, ...] = ()  # names of files and folders there that belong to no scan
  external: tuple[Case, ...] = ()  # scans of other patients, which the final model is scored on

  @property
  def patients(self) -> list[str]:
    """The patient's name of each scan."""
    return [case.patient for case in self.cases]

  def classes_of_patients(self, config: ConfigDict) -> dict[str, set[int]]:
    """Returns the foreground classes that each patient has; what is unreadable has none here."""
    read = functools.partial(_read_classes, config)
    found: dict[str, set[int]] = {}
    for case, there in zip(self.cases, self.contents.classes_of(self.cases, read), strict=True):
      found.setdefault(case.patient, set()).update(labels.to_classes(there, case.regions))
    return found

  @functools.cached_property
  def digest(self) -> str:
    """A digest that is equal for the same scans, wherever they lie."""
    return self.contents.digest(self.cases)

  @functools.cached_property
  def digest_with_external(self) -> str:
    """A digest as `digest`, with the scans of the external test set."""
    return self.contents.digest((*self.cases, *self.external))


class Unpaired(InputError):
  """Scans that cannot be used, see `Problem`, beside the cases that can."""

  def __init__(self, problems: Sequence[Problem], cases: Sequence[Case]):
    super().__init__(problems[0].text)
    self.problems, self.cases = tuple(problems), tuple(cases)


def find_cases(
  folders: Sequence[tuple[str, Path]], find_case: Callable[[str, Path], Case]
) -> list[Case]:
  """Returns the scan of each folder, or raises Unpaired if `find_case` refuses some of them.

  The folders are those of the cases, behind their names.
  """
  problems, cases = [], []
  for name, folder in folders:
    try:
      cases.append(find_case(name, folder))
    except InputError as error:
      problems.append(Problem(name, str(error)))
  if problems:
    raise Unpaired(problems, cases)
  return cases


def labels_in(label: np.ndarray) -> list[int]:
  """Returns the foreground labels in a mask, integers from 0 of any shape."""
  there = np.flatnonzero(np.bincount(label.reshape(-1)))
  return there[labels.foreground(there)].tolist()


def find_module(config: ConfigDict) -> ModuleType:
  """Returns the module of the config's data set, whose name it checks."""
  name = config.data.name
  if name not in _MODULES:
    raise InputError(f'config.data.name is {name!r}; expected one of {", ".join(_MODULES)}')
  return importlib.import_module(f'data_prep.{name}')


def data_dir(config: ConfigDict) -> Path:
  """Returns TFDS's folder: the config's, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
  if folder := config.data.data_dir or os.environ.get('TFDS_DATA_DIR'):
    return expand(folder)
  return files.in_home('tensorflow_datasets')


def expand(folder: str) -> Path:
  """Returns the path of a folder that the config names; ~ is the home folder."""
  return Path(os.path.expanduser(folder)).absolute()


def raw_folder(name: str) -> str:
  """Returns the name of a data set's raw folder, which data sets of one archive share."""
  return 'chaos' if name.startswith('chaos_') else name


def raw_dir(config: ConfigDict) -> Path:
  """Returns the raw folder: the config's, or of its images; else TFDS's for manual downloads."""
  if named := config.data.images or config.data.raw_dir:
    return expand(named)
  return data_dir(config) / 'downloads' / 'manual' / raw_folder(config.data.name)


def find(config: ConfigDict) -> Scans:
  """Finds the scans in the raw folder; with config.data.download they are fetched if missing.

  Scans must have names of their own, and no value be open that this data set cannot decide. Those
  of data.exclude are left out.
  """
  data_set, left = find_module(config), configs.left_to_data(config)
  if left and not hasattr(data_set, 'resolve'):
    raise InputError(
      f'config.{left[0]} is {configs.flatten(config)[left[0]]!r}, which leaves it to the data, but '
      f'{config.data.name} does not determine it; set it'
    )
  folder, unpaired = raw_dir(config), ()
  if config.data.download:
    from data_prep import download

    download.provide(raw_folder(config.data.name), folder)
  try:
    settled = (config.data,) if hasattr(data_set, 'resolve') else ()
    found = data_set.find_cases(folder, *settled)
  except Unpaired as error:
    found, unpaired = error.cases, error.problems
  cases, external = tuple(sorted(found, key=lambda case: case.case)), ()
  if hasattr(data_set, 'find_external'):
    external, alone = data_set.find_external(folder, config.data)
    unpaired = (*unpaired, *alone)
  unused = (
    data_set.find_unused(folder, cases, config.data) if hasattr(data_set, 'find_unused') else []
  )
  names = [case.case for case in (*cases, *external)]
  known, exclude = sorted({*names, *(problem.case for problem in unpaired)}), config.data.exclude
  if unknown := sorted({*exclude} - {*known}):
    raise InputError(
      f'config.data.exclude names {list_some(unknown)}; expected names among '
      f'{list_some(known)}. Correct the list.'
    )
  cases, external = _leave_out(cases, exclude), _leave_out(external, exclude)
  unpaired = _leave_out(unpaired, exclude)
  _require_other_patients(external, cases)
  _require_names(folder, names)
  place = hashlib.sha256(str(folder).encode()).hexdigest()[:10]
  contents = Contents(data_dir(config) / config.data.name / f'contents_{place}.json')
  return Scans(cases, unpaired, contents, tuple(unused), external)


def find_external(config: ConfigDict) -> tuple[tuple[Case, ...], tuple[Problem, ...]]:
  """Finds the external test set alone: its scans, () if there is none, and what is wrong there.

  Those of data.exclude are left out. Nothing depends on the scans of the run, which may be gone.
  """
  data_set, folder = find_module(config), raw_dir(config)
  if not hasattr(data_set, 'find_external'):
    return (), ()
  cases, problems = data_set.find_external(folder, config.data)
  _require_names(folder, [case.case for case in cases])
  exclude = config.data.exclude
  return _leave_out(cases, exclude), _leave_out(problems, exclude)


def _leave_out(found: Sequence[_Named], exclude: Sequence[str]) -> tuple[_Named, ...]:
  return tuple(one for one in found if one.case not in exclude)


def _require_names(folder: Path, names: Sequence[str]) -> None:
  """Refuses names of scans that cannot be shown, or do not differ enough for files."""
  for name in names:
    if not name.isprintable():  # nor can logs, pages and slices hold it
      raise InputError(
        f'{folder}: has the scan {name!r:.80}, whose name is no text in UTF-8, or cannot be shown; '
        'rename its files.'
      )
  folded = collections.Counter(map(str.casefold, names))
  if twice := sorted({name for name in names if folded[name.casefold()] > 1}):
    raise InputError(
      f'{folder}: more than one scan is called {", ".join(twice)}; expected names that differ in '
      'more than capital letters, as files of some systems must. Rename or remove one.'
    )


def _require_other_patients(external: Sequence[Case], cases: Sequence[Case]) -> None:
  """Refuses an external test set with scans of patients who take part in the run."""
  known = {case.patient: case for case in cases}
  for case in external:
    if other := known.get(case.patient):
      raise InputError(
        f'{case.image[0]}: is a scan of the patient {case.patient}, as {other.image[0]} is; '
        'expected other patients in an external test set. Move its mask in labelsTs away, or name '
        'patients in patients.csv.'
      )


def _read_classes(config: ConfigDict, cases: Sequence[Case]) -> Iterator[list[int] | None]:
  """Yields the foreground classes in the masks of cases, read in several processes."""
  data_set = find_module(config)
  whole = functools.partial(_read_whole, data_set.read_case)
  read = functools.partial(_try, getattr(data_set, 'read_classes', whole))
  with workers.map_cases(config.data.workers, '') as cases_map:
    yield from cases_map(read, cases)


def _read_whole(read_case: Callable[[Case], Volume], case: Case) -> list[int]:
  return labels_in(read_case(case).truth)


def _try(read: Callable[[Case], list[int]], case: Case) -> list[int] | None:
  try:
    return read(case)
  except InputError:  # check and prepare report it
    return None


def resolve(
  config: ConfigDict, scans: Scans, training: Sequence[str]
) -> tuple[tuple[str, str], ...]:
  """Fills in, in place, what the config leaves to the data (Setting.open_value).

  Returns titles and texts, for a person, about what was found; `training` names the patients.
  """
  data_set, told = find_module(config), ()
  if hasattr(data_set, 'require_split'):
    data_set.require_split(config)
  if scans.unused:
    told += (('not used', f'{len(scans.unused)} files or folders: {list_some(scans.unused)}'),)
  if config.data.nan_is_lowest:
    told += (('NaN', 'is the lowest value of its scan, by data.nan_is_lowest'),)
  if scans.external:
    patients = len({case.patient for case in scans.external})
    text = f'{len(scans.external)} scans of {patients} patients in imagesTs, with masks in labelsTs'
    told += (('external', f'{text}: scored once, by the final model'),)
  if config.data.exclude:
    told += (('left out', f'{list_some(config.data.exclude)}, by data.exclude'),)
  if configs.left_to_data(config):
    told = (*data_set.resolve(config, scans, training), *told)
    configs.validate(config)  # fields that depend on the new values
  return told


def find_title(config: ConfigDict) -> str:
  """Returns what people call the data set: its own name, no path."""
  data_set = find_module(config)
  return data_set.find_title(config) if hasattr(data_set, 'find_title') else config.data.name


def name_exclusion(names: Sequence[str]) -> str:
  """Returns the words by which an error says how to go on without some scans."""
  value = f'({list_some([*map(repr, sorted(names))])},)'
  # A shell would take the first of these for something else within double quotes.
  quoted = shlex.quote(value) if {*'"$`\\!'} & {*value} else f'"{value}"'
  return f'To go on without: --config.data.exclude={quoted}.'
