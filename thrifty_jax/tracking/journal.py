"""All that the trackers of a run get, in order; each of them can be brought up to date from it."""

import dataclasses
import json
import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import files, logbook, records, stages
from thrifty_jax.errors import InputError
from thrifty_jax.settings import SETTINGS, TRAINING

FOLDER = 'trackers'  # in that of a run
_FILE = 'journal.jsonl'
_NOT_IN_NAMES = re.compile(r'[^\w\-./]+')  # TensorBoard shows no others
_REMEDY = 'remove the folder, and the trackers get a new run'


@dataclasses.dataclass(frozen=True)
class Head:
  """First line of the journal: the run as trackers know it."""

  id: str  # the same in every tracker
  name: str
  settings: dict  # by name, without those that may name a patient or a place
  private: str = ''  # SHA-256 of the others, which no tracker gets; '' in files of older versions


@dataclasses.dataclass(frozen=True)
class Line:
  """Figures of an epoch, or of an evaluation."""

  stage: str  # with the seed of one of several searches, as in search/seed_1
  step: int
  time: float  # seconds since 1970
  figures: Mapping[str, float]
  number: int  # of the line, from 0

  @property
  def named(self) -> dict[str, float]:
    """Figures by the names that trackers show."""
    return {simplify(f'{self.stage}/{name}'): value for name, value in self.figures.items()}


class Journal:
  """The journal of a run, in <workdir>/trackers/journal.jsonl.

  An epoch that a resumed training repeats stands in it once. A training with other settings is
  another run: it begins a new journal. So does one that was removed and begins again, with the
  lines of the searches that are still there.
  """

  def __init__(self, config: ConfigDict, workdir: Path, *, begins: str = ''):
    """Opens the journal of a run, or begins one; InputError if it is damaged.

    Args:
      config: Settings of the run.
      workdir: Folder of the run.
      begins: Name of the stage, as in its lines, whose training has nothing in its folder yet; ''
        if none.
    """
    self.folder = workdir / FOLDER
    self._path = self.folder / _FILE
    parts = workdir.absolute().parts
    name = '/'.join(parts[-2:] if parts[-1].startswith('fold_') else parts[-1:])
    self.head = Head(uuid.uuid4().hex[:8], name, public_settings(config), _digest_private(config))
    self.lines: list[Line] = []
    if self._path.exists():
      head, lines = self._read()
      if not _is_another(head, self.head):
        if begins in {line.stage for line in lines}:
          self.lines = _keep_searches(lines, workdir, without=begins)
        else:
          self.head, self.lines = dataclasses.replace(head, private=self.head.private), lines
    # Also removes what a crash has left of a last line.
    content = [records.to_json(self.head), *map(records.to_json, self.lines)]
    files.write_text(self._path, ''.join(json.dumps(entry) + '\n' for entry in content))

  def add(self, stage: str, step: int, figures: Mapping[str, float]) -> Line | None:
    """Adds a line and returns it; None if the journal has this step already."""
    if any((line.stage, line.step) == (stage, step) for line in self.lines):
      return None
    line = Line(stage, step, time.time(), figures, number=len(self.lines))
    with self._path.open('a', encoding='utf-8') as file:
      file.write(json.dumps(records.to_json(line)) + '\n')
    self.lines.append(line)
    return line

  def _read(self) -> tuple[Head, list[Line]]:
    found = [*files.read_json_lines(self._path, remedy=_REMEDY).items()]
    if not found:
      raise InputError(f'{self._path}: has no line; expected the run in the first one: {_REMEDY}')
    (place, head), *lines = found
    return records.parse(head, Head, place, remedy=_REMEDY), [
      records.parse(line, Line, place, remedy=_REMEDY) for place, line in lines
    ]


def simplify(name: str) -> str:
  """Returns the name of a figure or a picture with characters that every tracker shows."""
  return _NOT_IN_NAMES.sub('_', name)


def public_settings(config: ConfigDict) -> dict[str, Any]:
  """Returns the settings, as JSON, but those that may name a patient or a place of the machine."""
  found = configs.flatten(stages.to_json(config))
  return {name: value for name, value in found.items() if not SETTINGS[name].private}


def _digest_private(config: ConfigDict) -> str:
  """Returns the SHA-256 of the genotype that the config names and of private settings.

  Of these it has the ones by which another network is trained, where they are not empty.
  """
  found = configs.flatten(stages.to_json(config))
  texts = {
    name: value
    for name, value in found.items()
    if value and SETTINGS[name].private and _is_of_training(name)
  }
  path, shape = Path(config.genotype), {}
  if config.genotype and path.exists():  # its content, as it may be read from a copy later
    shape = {**files.read_json(path), 'provenance': None}
  return files.digest_json([texts, shape])


def _keep_searches(lines: list[Line], workdir: Path, *, without: str) -> list[Line]:
  """Returns the lines of the searches that are still there, but the one that begins; numbered anew.

  Other stages are the one that begins, or follow from it.
  """
  there = {
    stage
    for stage in {line.stage for line in lines} - {without}
    if stage.startswith(stages.SEARCH.name) and (workdir / stage / logbook.FILE).exists()
  }
  kept = [line for line in lines if line.stage in there]
  return [dataclasses.replace(line, number=number) for number, line in enumerate(kept)]


def _is_of_training(name: str) -> bool:
  return not {*TRAINING}.isdisjoint(SETTINGS[name].stages)


def _is_another(before: Head, now: Head) -> bool:
  """Returns whether a head is that of another training, not of one that is longer."""
  return bool(before.private and before.private != now.private) or any(
    before.settings[name] != value
    for name, value in now.settings.items()
    if name in before.settings and not SETTINGS[name].may_grow and _is_of_training(name)
  )
