"""A folder of DICOM studies, in folders of any depth: image series, and their truth.

The truth of a series is the DICOM SEG or the RTSTRUCT that refers to it. Slices of one series are
found by its number in their headers, wherever they lie. Patients are those of PatientID; they are
numbered by its order, and no value of a tag leaves this module and the readers: p001 is a patient,
p001_2 the second series of one with several. Names of files and folders may say more than that;
only the check and errors have them.
"""

import collections
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from data_prep.data_sets import Problem
from thrifty_jax.errors import InputError
from thrifty_jax.scans import dicom_file, dicom_truth, sources
from thrifty_jax.scans.dicom_file import Header
from thrifty_jax.scans.volumes import Case
from thrifty_jax.words import list_some

_LONGEST = 100  # characters of a name of a class, which is printed


@dataclasses.dataclass(frozen=True)
class _Series:
  """Slices of one series, and what refers to them."""

  slices: Mapping[Path, Header]
  truths: list[Path] = dataclasses.field(default_factory=list)

  @property
  def files(self) -> tuple[Path, ...]:
    return tuple(self.slices)

  @property
  def instances(self) -> set[str]:
    return {header.instance for header in self.slices.values()}

  @property
  def patients(self) -> set[str]:
    return {header.patient for header in self.slices.values()}

  @property
  def frames_of_reference(self) -> set[str]:
    return {frame for header in self.slices.values() for frame in header.frames_of_reference}

  def __str__(self) -> str:
    (first, *others) = self.slices
    return f'{first} and {len(others)} other slices' if others else str(first)


def holds_dicom(folder: Path) -> bool:
  """Returns whether some file in a folder, or below it, is DICOM."""
  return folder.is_dir() and any(map(sources.is_dicom, _walk(folder)))


def find(folder: Path, classes: Sequence[str]) -> tuple[list[Case], list[Problem]]:
  """Returns the series that have a truth, and a line for each that has none, or for what is wrong.

  `classes` are those asked for, background first; without them it is all whose names are in every
  truth.
  """
  headers: dict[Path, Header] = {}
  problems: list[Problem] = []
  for path in filter(sources.is_dicom, _walk(folder)):
    try:
      headers[path] = dicom_file.read_header(path)
    except InputError as error:
      problems.append(Problem(path.name, str(error)))
  groups: dict[str, dict[Path, Header]] = {}
  for path, header in headers.items():
    if header.kind == dicom_file.IMAGE:
      groups.setdefault(header.series, {})[path] = header
  series = {number: _Series(slices) for number, slices in sorted(groups.items())}
  for path, header in headers.items():
    if header.kind in (dicom_file.SEGMENTS, dicom_file.CONTOURS):
      try:
        _match(path, header, series, folder).truths.append(path)
      except InputError as error:
        problems.append(Problem(path.name, str(error)))
  if not series:
    raise InputError(
      f'{folder}: holds DICOM, but no series of images; expected slices beside their truth. '
      f'{problems[0].text if problems else "Add them, or correct --config.data.raw_dir."}'
    )
  whole: dict[str, tuple[str, _Series]] = {}
  for name, patient, one in _name(series.values()):
    if problem := _find_problem(one, folder):
      problems.append(Problem(name, problem))
    else:
      whole[name] = patient, one
  names = {path: dicom_truth.read_names(path) for _, one in whole.values() for path in one.truths}
  wanted = tuple(classes[1:]) or _find_common(names, folder)
  _require_background(names, classes)
  if len({*map(dicom_truth.simplify, wanted)}) < len(wanted):
    raise InputError(
      f'config.data.classes is {tuple(classes)}; expected names that differ in more than capital '
      'letters and blanks, which do not count in segments and structures. Correct the list.'
    )
  cases = []
  for name, (patient, one) in whole.items():
    (truth,) = one.truths
    if problem := _find_wrong_names(truth, names[truth], wanted):
      problems.append(Problem(name, problem))
    else:
      cases.append(Case(name, patient, one.files, (truth,), segments=wanted))
  return cases, problems


def find_unused(folder: Path, cases: Sequence[Case]) -> list[str]:
  """Returns the names of files that belong to no case; a folder of nothing else is one name."""
  used = {path for case in cases for path in (*case.image, *case.label)}
  within = {parent for path in used for parent in path.parents}

  def search(place: Path) -> Iterator[str]:
    for path in sorted(place.glob('[!.]*')):
      if path in within:
        yield from search(path)
      elif path not in used:
        yield f'{path.relative_to(folder)}{"/" * path.is_dir()}'

  return list(search(folder))


def describe(cases: Sequence[Case]) -> tuple[tuple[str, str], ...]:
  """Returns titles and texts about the truths of cases, for a person."""
  if not cases:
    return ()
  kinds = collections.Counter(dicom_file.read_header(case.label[0]).kind for case in cases)
  wanted = {dicom_truth.simplify(name): name for name in cases[0].segments}
  absent = {name: list[str]() for name in wanted.values()}
  others = collections.Counter[str]()
  for case in cases:
    there = {dicom_truth.simplify(name): name for name in dicom_truth.read_names(case.label[0])}
    for key in wanted.keys() - there.keys():
      absent[wanted[key]].append(case.case)
    others.update(key for key in there if key not in wanted)
  found = [
    ('masks', f'{" and ".join(f"{n} {kind}" for kind, n in kinds.items())}, each of the series it '
     'refers to')
  ]  # fmt: skip
  if missing := [
    f'{name} in {len(names)} scans ({list_some(names)})' for name, names in absent.items() if names
  ]:
    found.append(('not named', f'{"; ".join(missing)}: it counts as absent there'))
  if others:
    named = [_shorten(f'{name!r} in {count}') for name, count in sorted(others.items())]
    found.append(('not asked', f'names that are not in data.classes: {", ".join(named)}'))
  return tuple(found)


def name_modality(cases: Sequence[Case]) -> str:
  """Returns the modality of the series, such as CT; of several all of them, in one text."""
  found = {dicom_file.read_header(case.image[0]).modality or 'unknown' for case in cases}
  return ' or '.join(sorted(found))


def name_files(case: Case, folder: Path) -> tuple[str, str]:
  """Returns where slices and truth of a case lie in a folder."""
  parents = {path.parent for path in case.image}
  place = min(parents).relative_to(folder) if len(parents) == 1 else Path('several folders')
  return f'{place} ({len(case.image)} files)', str(case.label[0].relative_to(folder))


def _walk(folder: Path, seen: Collection[Path] = ()) -> Iterator[Path]:
  """Yields the files in a folder and below it, without hidden ones; links are followed."""
  seen = {*seen, folder.resolve()}
  with sources.report_closed():
    for path in sorted(folder.iterdir()):  # `glob` passes over a folder that must not be listed
      if path.name.startswith('.'):
        continue
      if not path.is_dir():
        yield path
      elif path.resolve() not in seen:
        yield from _walk(path, seen)


def _match(path: Path, header: Header, series: Mapping[str, _Series], folder: Path) -> _Series:
  """Returns the series that a truth belongs to, or refuses it."""
  if header.referenced_series or header.referenced_instances:
    found = [
      one
      for number, one in series.items()
      if number in header.referenced_series or header.referenced_instances & one.instances
    ]
    how = 'refers to'
  else:
    found = [one for one in series.values() if header.frames_of_reference & one.frames_of_reference]
    how = 'names no series and has the frame of reference of'
  if len(found) != 1:
    raise InputError(
      f'{path}: the {header.kind} {how} {len(found) or "no"} series in {folder}; expected one. '
      f'{"Move the others away" if found else "Add its series or move it away"}.'
    )
  (one,) = found
  if one.frames_of_reference and header.frames_of_reference - one.frames_of_reference:
    raise InputError(
      f'{path}: the {header.kind} has another frame of reference than the series it refers to, '
      f'{one}; expected one. Export it for this series.'
    )
  if strange := header.referenced_instances - one.instances:
    raise InputError(
      f'{path}: the {header.kind} refers to {len(strange)} images that are not in its series, '
      f'{one}; expected all of them. Add the missing slices, or export it for this series.'
    )
  return one


def _name(series: Collection[_Series]) -> list[tuple[str, str, _Series]]:
  """Returns the names of scan and patient of each series, numbers by the order of PatientID.

  Capital letters do not tell patients apart, but count in the order.
  """
  of_patient: dict[str, list[_Series]] = {}
  for one in series:
    of_patient.setdefault(min(one.patients).casefold(), []).append(one)
  width = max(3, len(str(len(of_patient))))
  found = []
  groups = sorted(of_patient.values(), key=lambda group: min(min(one.patients) for one in group))
  for number, several in enumerate(groups, 1):
    patient = f'p{number:0{width}d}'
    found += [
      (f'{patient}_{k}' if len(several) > 1 else patient, patient, one)
      for k, one in enumerate(several, 1)
    ]
  return found


def _find_problem(one: _Series, folder: Path) -> str:
  """Returns why a series cannot be a case, '' if it can."""
  if not all(header.series and header.instance for header in one.slices.values()):
    return (
      f'{one}: there is no SeriesInstanceUID or SOPInstanceUID, by which slices and truth are '
      'matched; expected both in every slice. Restore the original files.'
    )
  if len(one.patients) > 1 or '' in one.patients:
    what = 'several values of' if len(one.patients) > 1 else 'no'
    return (
      f'{one}: the slices have {what} PatientID, by which scans of one patient stay together; '
      'expected one. Write one into them, of which a number will do.'
    )
  if not one.truths:
    return (
      f'{one}: no DICOM SEG or RTSTRUCT in {folder} belongs to this series; expected one. Add it, '
      'or move the series away.'
    )
  if len(one.truths) > 1:
    return (
      f'{one.truths[0]}: belongs to the same series as {list_some(one.truths[1:])}; expected one '
      'truth for each series. Join them, or move one away.'
    )
  return ''


def _find_common(names: Mapping[Path, Sequence[str]], folder: Path) -> tuple[str, ...]:
  """Returns the names that are in every truth, sorted, as the first truth has them."""
  counts = collections.Counter(
    key for there in names.values() for key in {dicom_truth.simplify(name) for name in there}
  )
  first = next(iter(names.values()), ())
  common = {dicom_truth.simplify(name): name for name in first}
  found = sorted(
    key
    for key in common
    if key.isprintable() and key not in ('', 'background') and counts[key] == len(names)
  )
  if names and not found:
    some = [_shorten(f'{name!r} in {count}') for name, count in counts.most_common()]
    raise InputError(
      f'{folder}: no name of a segment or structure is in all {len(names)} truths: '
      f'{list_some(some)}; expected common names, or data.classes. Name them, the background '
      """first, as in --config.data.classes="('background','liver')"."""
    )
  return tuple(common[key] for key in found)


def _require_background(names: Mapping[Path, Sequence[str]], classes: Sequence[str]) -> None:
  """Refuses classes of which the first, the background, is drawn in a truth."""
  first = dicom_truth.simplify(classes[0]) if classes else ''
  for path, there in names.items():
    if first not in ('', 'background') and first in map(dicom_truth.simplify, there):
      raise InputError(
        f'{path}: holds {classes[0]}, the first of config.data.classes {tuple(classes)}, which is '
        "the background; expected one that is not drawn. Put 'background' before it."
      )


def _find_wrong_names(path: Path, names: Sequence[str], wanted: Sequence[str]) -> str:
  """Returns what is wrong with the names in a truth, '' if nothing is."""
  keys = [dicom_truth.simplify(name) for name in names]
  for name in wanted:
    if (count := keys.count(dicom_truth.simplify(name))) > 1:
      return (
        f'{path}: {count} segments or structures are called {name}, but for capital letters; '
        'expected one of each class. Rename them.'
      )
  if not {*keys} & {*map(dicom_truth.simplify, wanted)}:
    some = list_some([_shorten(repr(name)) for name in names]) or 'nothing'
    return (
      f'{path}: holds {some}, and none of data.classes ({", ".join(wanted)}); expected one of '
      'them. Rename it, or move the file away.'
    )
  return ''


def _shorten(name: str) -> str:
  return name if len(name) <= _LONGEST else f'{name[: _LONGEST - 1]}…'
