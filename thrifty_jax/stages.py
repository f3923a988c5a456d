"""The stages of a run: their files, when they are done, which config changes invalidate them."""

import dataclasses
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import files, weights
from thrifty_jax.errors import InputError
from thrifty_jax.settings import SETTINGS

# Fields that a splits.json fills in, see data/split_file.py.
_LISTS = ('data.validation_patients', 'data.test_patients')
# The search reads the fields of cells, or those of the race for a lean network and its limits.
_CELLS, _RACE = ('search.', 'model.'), ('front.', 'cost.', 'search.max_ms', 'search.max_macs')
_LIMITS = {'search.max_parameters', 'search.max_macs', 'search.max_ms'}
DIVERGED = 'diverged.txt'  # file in the folder of a training whose loss was non-finite
# Folders of trainings on the slices of a run, and what each of these leaves in its own.
_TRAININGS = ('search', 'front', 'compare', 'teacher', 'training')
_TRAINED = ('retrain/summary.json', 'retrain/checkpoints/[0-9]*', DIVERGED)
_SHORT = reprlib.Repr()  # shortens lists of hundreds of patients, but not what people type
_SHORT.maxlist, _SHORT.maxstring, _SHORT.maxother = 8, 200, 200


@dataclasses.dataclass(frozen=True)
class Stage:
  """One verb of the command line."""

  name: str
  does: str
  leaves: tuple[str, ...] = ()  # files in the workdir; the stage is done when all exist
  planned: tuple[str, ...] = ()  # keys of the epochs planned in the first file that it leaves

  def is_done(self, workdir: Path, config: ConfigDict | None = None) -> bool:
    """Whether its results are in the workdir and, given a config, cover all of its epochs.

    A race has left the list of its networks too; where that was removed it is written anew.
    """
    there = self._has_left(workdir) and not self._lacks_front(workdir)
    if not (there and self.planned and config is not None) or config[self.name].get('minutes'):
      return there
    planned = self.read_planned(workdir)
    return planned is None or planned >= config[self.name].epochs

  def _has_left(self, workdir: Path) -> bool:
    return bool(self.leaves) and all((workdir / path).exists() for path in self.leaves)

  def _lacks_front(self, workdir: Path) -> bool:
    """Whether it is a search that raced, without the list of its networks."""
    folder = workdir / 'search'
    raced = self.name == 'search' and (folder / 'genotypes').is_dir()
    if not raced or (folder / 'front.json').exists():
      return False
    return _read_space(workdir) == 'lean'  # a search of cells may have followed a race

  def read_planned(self, workdir: Path) -> int | None:
    """Reads how many epochs its results were planned for; None if it is not done or tells none."""
    if not (self.planned and self._has_left(workdir)):
      return None
    found = files.read_json(workdir / self.leaves[0])
    for key in self.planned:
      found = found.get(key) if isinstance(found, dict) else None
    last = found[-1] if isinstance(found, list) and found else None
    return last if isinstance(last, int) else None

  def is_begun(self, workdir: Path) -> bool:
    """Whether it is done or would resume from a checkpoint."""
    # Several searches have a folder each.
    found = files.find_below(workdir / self.name, 'checkpoints/*')
    return any(path.name.isdigit() for path in found) or self._has_left(workdir)

  def has_read(self, field: str, config: ConfigDict) -> bool:
    """Whether its results depend on the field."""
    if field == 'retrain.epochs' and config.retrain.minutes:
      return False  # the time plans them
    if self.name == 'search' and field == 'model.name':
      return configs.searches(config)  # cells and lean networks lie in one folder
    if self.name == 'search' and field.startswith(_CELLS if config.model.name == 'lean' else _RACE):
      return field in _LIMITS and config.model.name == 'lean'
    if self.name == 'search' and field == 'model.channels':
      return config.search.max_parameters > 0  # counted at the width of the retraining
    return self.name in SETTINGS[field].stages


CHECK = Stage('check', 'reads every scan once and says what is wrong with it')
PREPARE = Stage('prepare', 'draws what a network sees of the scans, ready for the device')
SEARCH = Stage(
  'search',
  'finds the architecture; test patients are never seen',
  leaves=('search/genotype.json',),
  planned=('provenance', 'planned_epochs'),
)
RETRAIN = Stage(
  'retrain',
  'trains the found network, or a baseline, from scratch or from a model',
  leaves=('retrain/summary.json', 'model'),
  planned=('planned_epochs',),
)
EVALUATE = Stage(
  'evaluate', 'scores it on the patients that the protocol says', leaves=('evaluate/summary.json',)
)
REPORT = Stage('report', 'writes report.html, anew each time')
STAGES = (CHECK, PREPARE, SEARCH, RETRAIN, EVALUATE, REPORT)
DESCRIBE = Stage(
  'describe', 'prints the layers of the network, its parameters and MACs; needs no data'
)
COMPARE = Stage(
  'compare', 'trains baselines and random architectures alike, and writes who scored what'
)
FRONT = Stage(
  'front', 'races lean networks for a ladder of milliseconds, and trains and scores the best'
)
PLANES = Stage(
  'planes', 'trains briefly on axial, coronal and sagittal slices, and says which score higher'
)
SIZES = Stage('sizes', 'trains briefly on slices of smaller sizes, and says how small they may be')
SLICINGS = (PLANES, SIZES)  # train in folders of their own
NAMED = (DESCRIBE, *SLICINGS, COMPARE, FRONT)  # run only when named, never by 'all'


def refuse_changes(config: ConfigDict, workdir: Path, *, may_grow: bool = True) -> None:
  """Refuses a config that changes settings read by a stage begun or finished in the workdir.

  The InputError names the first such stage, the fields, their old and new values, and the remedy;
  likewise where the config.json of such a stage is gone. With `may_grow` a larger number of epochs
  is accepted.
  """
  path = workdir / 'config.json'
  for stage in STAGES:
    changes = find_changes(stage, config, workdir, may_grow=may_grow)
    if (changes or not path.exists()) and stage.is_begun(workdir):
      state = 'is done' if stage.is_done(workdir) else 'is half done'
      remedy = f'use another --workdir, or remove {name_folders(stage, workdir)}'
      if not changes:
        given = '; a genotype that lies elsewhere is named by --config.genotype'
        raise InputError(
          f'{path}: there is no such file, but {stage.name} {state} with the settings that it had; '
          f'put it back, {remedy}{given * (stage is SEARCH)}'
        )
      listed = (workdir / 'splits.json').exists() and not changes.keys().isdisjoint(_LISTS)
      raise InputError(
        f'{workdir}: {stage.name} {state} with other settings: {", ".join(changes.values())}'
        f'{" (splits.json counts)" if listed else ""}; go back to them, {remedy}'
      )


def find_changes(
  stage: Stage, config: ConfigDict, workdir: Path, *, may_grow: bool = False
) -> dict[str, str]:
  """Finds the fields that a stage reads and whose values differ from those of a run so far.

  Returns text by field name, such as `seed 0 -> 1`. With `may_grow` a larger number of epochs is no
  change. A stage that is done has the epochs of its results: a run may have been asked for more and
  have trained none. A config.json that cannot be read is an InputError.
  """
  path = workdir / 'config.json'
  if not path.exists():
    return {}
  written = files.read_json(path)
  if not isinstance(written, dict):
    raise InputError(f'{path} holds no settings; expected a JSON object. Use another --workdir')
  before = configs.flatten(written)
  if stage is SEARCH:
    before['model.name'] = _find_kind(before, workdir)
  if planned := stage.read_planned(workdir):
    before[f'{stage.name}.epochs'] = planned
  return {
    name: f'{name} {_SHORT.repr(before[name])} -> {_SHORT.repr(now)}'
    for name, now in configs.flatten(to_json(config)).items()
    if stage.has_read(name, config) and name in before and before[name] != now
    if not (may_grow and SETTINGS[name].may_grow and before[name] < now)
  }


def _find_kind(before: Mapping[str, Any], workdir: Path) -> str:
  """Returns whether a search in the workdir is for thrifty or lean networks, by its files.

  The settings `before` tell it unless another network was trained since.
  """
  if (workdir / SEARCH.leaves[0]).exists():
    return _read_space(workdir)
  name = before.get('model.name')
  if name in ('thrifty', 'lean') and not before.get('genotype'):
    return name
  return 'lean' if (workdir / 'search' / 'genotypes').is_dir() else 'thrifty'


def _read_space(workdir: Path) -> str:
  """Reads the space of the network that a search has found."""
  found = files.read_json(workdir / SEARCH.leaves[0])
  return found.get('space', 'thrifty') if isinstance(found, dict) else 'thrifty'


def find_genotype(config: ConfigDict, workdir: Path) -> Path:
  """Path of a thrifty network's genotype: config.genotype if set, else the searched one."""
  return Path(config.genotype) if config.genotype else workdir / 'search' / 'genotype.json'


def is_scored(workdir: Path) -> bool:
  """Whether evaluation is done for the current model, by the times of files of older versions."""
  if not (EVALUATE.is_done(workdir) and RETRAIN.is_done(workdir)):
    return False
  scores, trained = (workdir / stage.leaves[0] for stage in (EVALUATE, RETRAIN))
  if weights.read_scored(scores):
    # More epochs without a better one write the same weights, without scores beside them.
    return (workdir / 'model' / 'scores.json').exists() and not weights.has_old_scores(workdir)
  return scores.stat().st_mtime_ns >= trained.stat().st_mtime_ns


def find_begun(workdir: Path, *, beside: bool = True) -> list[str]:
  """Names the stages of a workdir that have trained on its slices.

  Unless `beside` is False, folders of trainings beside these stages are named too.
  """
  begun = [stage.name for stage in (SEARCH, RETRAIN) if stage.is_begun(workdir)]
  for name in _TRAININGS if beside else ():
    if any(files.find_below(workdir / name, *_TRAINED)):
      begun.append(name)
  return begun


def to_json(config: ConfigDict) -> dict[str, Any]:
  """Returns the config in its JSON form, with lists for tuples."""
  return json.loads(json.dumps(config.to_dict()))


def name_folders(stage: Stage, workdir: Path) -> str:
  """Names the folders to remove so that a stage and the later ones run again."""
  left = [path for later in STAGES[STAGES.index(stage) :] for path in later.leaves]
  folders = [workdir / path.split('/')[0] for path in left]
  return ' '.join(str(folder) for folder in folders if folder.exists())
