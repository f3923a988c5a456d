"""The stages of a run: what each reads of the config, what it leaves, when it is done.

What each runs is in verbs.py.
"""

import dataclasses
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import files
from thrifty_jax.errors import InputError

# What decides which slices there are and who is in which split. Where the slices are stored and how
# many are kept in memory may change between two calls.
_DATA = (
  'data.name',
  'data.raw_dir',
  'data.classes',
  'data.modalities',
  'data.context',
  'data.slice_axis',
  'data.image_size',
  'data.intensity',
  'data.percentiles',
  'data.window',
  'data.clahe_clip_limit',
  'data.resize',
  'data.curvature_flow_iterations',
  'data.curvature_flow_time_step',
  *configs.SPLIT,
)
# They change where numbers are rounded, not what is computed: a run may go on with others, as on
# another device.
_FREE = ('search.microbatches', 'search.remat', 'retrain.microbatches', 'retrain.remat')
# The lists that a splits.json enters as, see data/split_file.py.
_LISTS = ('data.validation_patients', 'data.test_patients')
_SHORT = reprlib.Repr()  # of lists of hundreds of patients; what people type stays whole
_SHORT.maxlist, _SHORT.maxstring, _SHORT.maxother = 8, 200, 200


@dataclasses.dataclass(frozen=True)
class Stage:
  """One verb of the command line."""

  name: str
  does: str
  leaves: tuple[str, ...] = ()  # in the workdir; the stage is done when all are there
  reads: tuple[str, ...] = ()  # config fields, or groups of them
  planned: tuple[str, ...] = ()  # the file, and the keys in it, of the epochs it was to take

  def is_done(self, workdir: Path, config: ConfigDict | None = None) -> bool:
    """Whether its results lie in the workdir, and if a config is given, of all its epochs."""
    there = bool(self.leaves) and all((workdir / path).exists() for path in self.leaves)
    return there and (config is None or not self._is_extended(workdir, config))

  def is_begun(self, workdir: Path) -> bool:
    """Whether it is done or would go on from a checkpoint."""
    # Of several searches each has a folder of its own.
    found = (workdir / self.name).glob('**/checkpoints/*')
    saved = any(path.name.isdigit() for path in found)
    return saved or self.is_done(workdir)

  def _is_extended(self, workdir: Path, config: ConfigDict) -> bool:
    """Whether it is to train for more epochs than it was."""
    if not self.planned:
      return False
    place, *keys = self.planned
    found = files.read_json(workdir / place)
    for key in keys:
      found = found.get(key) if isinstance(found, dict) else None
    return isinstance(found, list) and found[-1:] < [config[self.name].epochs]

  def has_read(self, field: str, config: ConfigDict) -> bool:
    """Whether its results depend on the field."""
    if field in _FREE:
      return False
    if self.name == 'search' and field == 'model.channels':
      return config.search.max_parameters > 0  # counted at the width of the retraining
    return any(field == name or field.startswith(name + '.') for name in self.reads)


CHECK = Stage('check', 'reads every scan once and says what is wrong with it')
PREPARE = Stage('prepare', 'cuts the scans into slices, ready for the device')
SEARCH = Stage(
  'search',
  'finds the architecture, on the training patients alone',
  leaves=('search/genotype.json',),
  reads=(
    'seed',
    'precision',
    *_DATA,
    'augment',
    'model.depth',
    'model.nodes',
    'model.edges_per_node',
    'search',
  ),
  planned=('search/genotype.json', 'provenance', 'planned_epochs'),
)
RETRAIN = Stage(
  'retrain',
  'trains the found network, or a baseline, from scratch',
  leaves=('retrain/summary.json', 'model'),
  # Of the genotype the content counts, see `require`; wherever the file lies.
  # The protocol says by which score of the validation patients the weights are chosen.
  reads=('seed', 'precision', *_DATA, 'augment', 'model', 'retrain', 'evaluate.protocol'),
  planned=('retrain/summary.json', 'planned_epochs'),
)
EVALUATE = Stage(
  'evaluate',
  'scores it on the patients that the protocol says',
  leaves=('evaluate/summary.json',),
  reads=('seed', *_DATA, 'augment.flip_left_right', 'augment.flip_up_down', 'evaluate'),
)
REPORT = Stage('report', 'writes report.html, anew each time')
STAGES = (CHECK, PREPARE, SEARCH, RETRAIN, EVALUATE, REPORT)
DESCRIBE = Stage(
  'describe', 'prints the layers of the network, its parameters and MACs; needs no data'
)
COMPARE = Stage(
  'compare',
  'trains baselines and random architectures alike, and writes who scored what',
)
NAMED = (DESCRIBE, COMPARE)  # run when they are named, never by 'all'
# These may grow once a stage is begun, or done: it goes on for the epochs that are left.
_MAY_GROW = ('search.epochs', 'retrain.epochs')
# The order in which a stage's results lead to those after it.
_FOLDERS = {'search': 'search', 'retrain': 'retrain model', 'evaluate': 'evaluate'}


def refuse_changes(config: ConfigDict, workdir: Path, *, may_grow: bool = True) -> None:
  """Refuses a config that differs in what a finished or begun stage of the workdir has read.

  Args:
    config: Of this call.
    workdir: Of the run; a new one has nothing to refuse.
    may_grow: Whether more epochs than before are no difference.

  Raises:
    InputError: With the first stage, the fields, their values then and now, and the remedy.
  """
  for stage in STAGES:
    differences = {
      name: values
      for name, values in _differences(stage, config, workdir).items()
      if not (may_grow and name in _MAY_GROW and values[0] < values[1])
    }
    if differences and stage.is_begun(workdir):
      state = 'is done' if stage.is_done(workdir) else 'is half done'
      lists = any(name in _LISTS for name in differences)
      of_file = ' (splits.json counts)' if lists and (workdir / 'splits.json').exists() else ''
      raise InputError(
        f'{workdir}: {stage.name} {state} with other settings: {", ".join(_texts(differences))}'
        f'{of_file}; go back to them, use another --workdir, or remove {_and_later(stage, workdir)}'
      )


def changes(stage: Stage, config: ConfigDict, workdir: Path) -> list[str]:
  """What differs from the config in the workdir, of that which the stage reads.

  Args:
    stage: Whose fields are compared.
    config: Of this call.
    workdir: Of the run; a new one has no config, and so no difference.

  Returns:
    The differences, `seed 0 -> 1`.

  Raises:
    InputError: If the config in the workdir cannot be read.
  """
  return _texts(_differences(stage, config, workdir))


def _differences(stage: Stage, config: ConfigDict, workdir: Path) -> dict[str, tuple[Any, Any]]:
  """The values before and now of each field that differs."""
  if not (workdir / 'config.json').exists():
    return {}
  before = _recorded(workdir)
  now = configs.flatten(as_json(config))
  return {
    name: (before[name], now[name])
    for name in now
    if stage.has_read(name, config) and name in before and before[name] != now[name]
  }


def _texts(differences: Mapping[str, tuple[Any, Any]]) -> list[str]:
  return [
    f'{name} {_SHORT.repr(before)} -> {_SHORT.repr(now)}'
    for name, (before, now) in differences.items()
  ]


def fill_in_recorded(config: ConfigDict, workdir: Path) -> None:
  """Fills in, in place, what the config leaves to the data by what it was when the run was made.

  Args:
    config: Of this call.
    workdir: Of the run.

  Raises:
    InputError: If there is no run, or its config lacks such a field or has a value that cannot be.
  """
  left = configs.left_to_data(config)
  if not left:
    return
  require(REPORT, config, workdir)
  before = _recorded(workdir)
  for name in left:
    group, field = name.split('.')
    try:
      config[group][field] = tuple(before[name]) if isinstance(before[name], list) else before[name]
    except (KeyError, TypeError) as error:
      raise InputError(
        f'{workdir / "config.json"}: has no {name} that can be used; restore the file, or set '
        f'--config.{name}'
      ) from error
  configs.validate(config)


def _recorded(workdir: Path) -> dict[str, Any]:
  """The fields of the config that the run has recorded, as JSON has them."""
  path = workdir / 'config.json'
  written = files.read_json(path)
  if not isinstance(written, dict):
    raise InputError(f'{path} holds no settings; expected a JSON object. Use another --workdir')
  return configs.flatten(written)


def require(stage: Stage, config: ConfigDict, workdir: Path) -> None:
  """Refuses to start a stage without what the stages before it leave.

  Raises:
    InputError: With the file that is missing or no longer fits, and the remedy.
  """
  if stage is SEARCH and configs.searches(config) and config.search.max_parameters:
    from thrifty_jax.searching import budget  # imports JAX, which takes seconds

    budget.require_possible(config)
  if stage is EVALUATE and not (workdir / 'model').is_dir():
    raise InputError(f'{workdir / "model"}: there is no model; train one with --stage=retrain')
  if stage is REPORT and not any((workdir / name).exists() for name in _FOLDERS):
    raise InputError(f'{workdir}: there is no run to report on; expected the folder of a run')
  if stage is DESCRIBE and config.model.name == 'thrifty':
    path = genotype_file(config, workdir)
    if not path.is_file():
      raise InputError(
        f'{path}: there is no genotype to describe; name one, for example '
        '--config.genotype=thrifty_jax/genotypes/thrifty_0.61m.json'
      )
  if stage is RETRAIN and config.model.name == 'thrifty':
    from thrifty_jax.networks import genotype

    path = genotype_file(config, workdir)
    if not path.exists():
      raise InputError(
        f'{path}: there is no genotype; run --stage=search, or name one by --config.genotype=FILE'
      )
    found, begun = genotype.load(path), workdir / 'retrain' / 'genotype.json'
    genotype.require_depth(found, config.model.depth, place=str(path))
    if begun.exists() and genotype.load(begun) != found:
      raise InputError(
        f'{workdir}: retrain began with another genotype than {path} has now; put it back, use '
        f'another --workdir, or remove {_and_later(RETRAIN, workdir)}'
      )


def genotype_file(config: ConfigDict, workdir: Path) -> Path:
  """The genotype of a thrifty network: the one that is named, or the searched one."""
  return Path(config.genotype) if config.genotype else workdir / 'search' / 'genotype.json'


def is_scored(workdir: Path) -> bool:
  """Whether evaluation is done, and of the model that is there now."""
  if not (EVALUATE.is_done(workdir) and RETRAIN.is_done(workdir)):
    return False
  scores, trained = (workdir / stage.leaves[0] for stage in (EVALUATE, RETRAIN))
  return scores.stat().st_mtime_ns >= trained.stat().st_mtime_ns


def is_prepared(config: ConfigDict) -> bool:
  """Whether the slices of this data set and these settings lie ready."""
  from data_prep import data_sets, prepare

  _, unpaired = data_sets.find_pairs(config)  # never prepared: the check lists them
  return not unpaired and prepare.prepared_dir(config).is_dir()


def as_json(config: ConfigDict) -> dict[str, Any]:
  """The config as JSON has it: tuples are lists."""
  return json.loads(json.dumps(config.to_dict()))


def _and_later(stage: Stage, workdir: Path) -> str:
  """The folders to remove so that a stage and those after it run again."""
  names = list(_FOLDERS)
  later = ' '.join(_FOLDERS[name] for name in names[names.index(stage.name) :]).split()
  return ' '.join(str(workdir / folder) for folder in later if (workdir / folder).exists())
