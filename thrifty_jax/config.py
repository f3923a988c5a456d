"""The config of a run: built from the table of settings, changed by variants, and checked."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from thrifty_jax import extras, labels
from thrifty_jax.errors import InputError
from thrifty_jax.settings import DOWNLOADS, MODELS, SETTINGS, TRACKERS

_INSIDE = Path(__file__).with_name('configs')
# The files of the data sets: inside the package where it is installed, else beside it.
FOLDER = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[1] / 'configs'
NAMES = tuple(sorted(path.stem for path in FOLDER.glob('*.py')))  # which --config takes
_LARGEST = 10**15  # of a number, which the files of a run can then hold
_ALONE = 'nothing without --config.distributed=True'
_TOGETHER = 'several processes (config.distributed) train with all they have'


def default() -> ConfigDict:
  """Settings that all data sets share; a file in configs/ fills in the rest."""
  sections: dict[str, Any] = {}
  for name, setting in SETTINGS.items():
    group, _, field = name.rpartition('.')
    (sections.setdefault(group, {}) if group else sections)[field] = setting.default
  return ConfigDict(sections).lock()  # a misspelled field is an error


def from_json(content: dict[str, Any]) -> ConfigDict:
  """Returns the config that a JSON object holds, as stages.to_json writes it.

  A setting that an earlier release had is left out.
  """
  config = default()
  config.update_from_flattened_dict(
    {
      name: tuple(value) if isinstance(value, list) else value
      for name, value in flatten(content).items()
      if name in SETTINGS
    }
  )
  return config


def flatten(config: ConfigDict | dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Flattens a config to values by dotted name, such as `search.epochs`; tuples stay whole."""
  fields = {}
  for name, value in config.items():
    if isinstance(value, ConfigDict | dict):
      fields |= flatten(value, f'{prefix}{name}.')
    else:
      fields[prefix + name] = value
  return fields


def apply_variants(
  config: ConfigDict, variants: str, **changes: Callable[[ConfigDict], None]
) -> ConfigDict:
  """Applies the variants after the colon of `--config=configs/x.py:small,unet`, left to right.

  The config is changed in place and returned. `changes` are the variants of the data set; the names
  of models are further ones, and `batch`, which is applied last. Unknown or repeated ones, two
  models, and `batch` with a lean network, are an InputError.
  """
  names = [name.strip() for name in variants.split(',') if name.strip()]
  changes.setdefault('batch', _set_batch_norm)
  known = (*changes, *MODELS)
  for name in names:
    if name not in known:
      raise InputError(f'unknown config variant {name!r}; the variants are {", ".join(known)}')
    if names.count(name) > 1:
      raise InputError(f'config variant {name!r} is given twice')
  models = [name for name in names if name in MODELS]
  if len(models) > 1:
    raise InputError(f'config variants {" and ".join(models)} are two models; name one of them')
  for name in sorted(names, key=lambda name: name == 'batch'):
    if name in changes:
      changes[name](config)
    else:
      set_model(config, name)
  return config


def set_model(config: ConfigDict, name: str) -> None:
  """Sets the network, in place, and its learning rate unless the data set has one of its own.

  Limits that lean networks alone can keep are lifted for others.
  """
  _set_with_rate(config, name=name)
  if name != 'lean':
    config.search.max_ms, config.search.max_macs = 0.0, 0


def set_lean(config: ConfigDict) -> None:
  """Sets a lean network, in place, in a config that may have settings of other networks."""
  config.model.norm, config.model.deep_supervision = 'none', False  # first: the rate goes with them
  set_model(config, 'lean')


def _set_batch_norm(config: ConfigDict) -> None:
  """Sets the recipe of lean networks for another network."""
  if config.model.name == 'lean':
    raise InputError(
      "config variant 'batch': a lean network has the norm of its genotype; leave it out, or add "
      'thrifty, unet or unet_plus_plus'
    )
  _set_with_rate(config, norm='batch')


def _set_with_rate(config: ConfigDict, **model: str) -> None:
  """Sets fields of the model, and the learning rate that goes with them unless it is another.

  Batch norms take a higher rate: 8e-3 gained 0.7 points of DSC over 2e-3 on the hippocampus.
  """

  def usual() -> float:
    return 8e-3 if config.model.name == 'lean' or config.model.norm == 'batch' else 2e-3

  is_usual = config.retrain.learning_rate == usual()
  config.model.update(model)
  if is_usual:
    config.retrain.learning_rate = usual()


def leave_to_data(config: ConfigDict) -> None:
  """Marks, in place, every field that the data set can fill in as open."""
  config.update_from_flattened_dict(
    {name: one.open_value for name, one in SETTINGS.items() if one.open_value is not None}
  )


def left_to_data(config: ConfigDict) -> list[str]:
  """Names the fields that the data set has to fill in."""
  fields = flatten(config)
  return [name for name, setting in SETTINGS.items() if setting.is_open(fields[name])]


SUPERVISED = ('thrifty', 'unet_plus_plus')  # models with several outputs to train


def has_genotype(config: ConfigDict) -> bool:
  """Whether the network is that of a genotype file, not a baseline."""
  return config.model.name in ('thrifty', 'lean')


def searches(config: ConfigDict) -> bool:
  """Whether the run needs a search; a baseline or a given genotype needs none."""
  return has_genotype(config) and not config.genotype


def searches_cells(config: ConfigDict) -> bool:
  """Whether that is the paper's search, not a race of lean networks."""
  return config.model.name == 'thrifty' and searches(config)


def validate(config: ConfigDict) -> None:
  """Refuses invalid values before anything is read or written; fields left to the data pass.

  A value may be invalid by itself or in combination with others; the InputError names the field,
  its value and what is expected.
  """
  for name, setting in SETTINGS.items():
    _require(config, name, _can_be_kept, 'finite numbers of at most 1e15')
    _require(config, name, setting.allowed.holds, setting.allowed.expected)
  _validate_processes(config)
  _validate_data(config)
  _validate_model(config)
  for stage in ('search', 'retrain') if searches_cells(config) else ('retrain',):
    _validate_training(config, stage)
  for section in ('compare', 'front'):
    for path in config[section].genotypes:
      if not Path(path).is_file():
        raise InputError(f'config.{section}.genotypes names {path!r}, which is not a file')
  least = config.retrain.warmup_epochs
  more = f'0, or more than retrain.warmup_epochs, which is {least}'
  _require(config, 'compare.trial_epochs', lambda value: value == 0 or value > least, more)


def _validate_processes(config: ConfigDict) -> None:
  """Refuses settings that contradict the number of processes."""
  if not config.distributed:
    for name in ('coordinator_address', 'num_processes', 'process_id'):
      _require(config, name, lambda value, name=name: value == SETTINGS[name].default, _ALONE)
    return
  for name in ('debug', 'devices'):
    _require(config, name, lambda value: not value, f'{type(config[name])()}: {_TOGETHER}')
  for name in ('retrain.start_from', 'retrain.teacher'):
    _require(config, name, lambda path: not path, f"'': {_TOGETHER}, by the masks, drawn anew")
  count = config.num_processes
  if count:
    _require(config, 'process_id', lambda value: value < count, f'from 0 to {count - 1}')


def _validate_data(config: ConfigDict) -> None:
  """Refuses data settings that contradict one another."""
  data, protocol = config.data, config.evaluate.protocol
  _require(config, 'data.fold', lambda value: value < data.folds, f'from 0 to {data.folds - 1}')
  side = 2**config.model.depth
  _require(config, 'data.image_size', lambda value: value >= side, f'{side} or more at this depth')
  whole = '0 where data.reduction cuts slices into windows, which have no neighbouring slices'
  _require(config, 'data.context', lambda value: value == 0 or data.reduction <= 0, whole)
  if both := {*data.validation_patients} & {*data.test_patients}:
    raise InputError(
      f'config.data: {min(both)} is a validation and a test patient; leave it out of one list'
    )
  _validate_places(config)
  only = f'False: only {", ".join(DOWNLOADS)} can be downloaded, and this is {data.name!r}'
  _require(config, 'data.download', lambda on: not on or data.name in DOWNLOADS, only)
  each = f'() or {data.modalities}, one for each modality'
  _require(config, 'data.mean', lambda mean: len(mean) in (0, data.modalities), each)
  alike = f'as many as config.data.mean, which is {data.mean}'
  _require(config, 'data.std', lambda std: len(std) == len(data.mean), alike)
  coloured = data.unit != 'mm' and data.modalities in (0, 3)  # or these are left to the data
  only = '0 but for pictures in colour, whose data.unit is pixels and data.modalities are 3'
  for name in ('saturation', 'hue_degrees'):
    _require(config, f'augment.{name}', lambda most: most == 0 or coloured, only)
  only = f'True with the protocol {protocol!r}: only pooled_2d does without test patients'
  _require(config, 'data.hold_out_test', lambda on: on or protocol == 'pooled_2d', only)


def _validate_places(config: ConfigDict) -> None:
  """Refuses places of scans, and ways to read them, that contradict one another."""
  data = config.data
  if data.images or data.masks:
    for name, other in (('images', 'masks'), ('masks', 'images')):
      both = f'a folder, as data.{other} is {data[other]!r}'
      _require(config, f'data.{name}', lambda folder: folder != '', both)
    alone = "'', or no data.images and data.masks: the scans of the run lie in one or the other"
    _require(config, 'data.raw_dir', lambda folder: folder == '', alone)
    own = f"'' for the data set {data.name!r}; add --config=folder"
    _require(config, 'data.images', lambda _: data.name == 'folder', own)
  for name in ('derivative', 'suffixes'):
    only = f'{type(data[name])()!r} but for a folder in BIDS, named by data.raw_dir'
    of_folder = data.name == 'folder' and not data.images
    _require(config, f'data.{name}', lambda value, ok=of_folder: not value or ok, only)
  only = "'' without data.images"
  _require(config, 'data.pattern', lambda pattern: not pattern or data.images, only)
  if data.classes:
    _validate_labels(config)


def _validate_labels(config: ConfigDict) -> None:
  """Refuses regions that fit neither the classes nor one another, and other ignored labels."""
  data = config.data
  is_open = SETTINGS['data.regions'].is_open(data.regions)
  regions = () if is_open else labels.parse(data.regions)
  fault = labels.find_fault(data.classes, regions) if regions else ''
  own = f'regions of {", ".join(data.classes[1:])}, nested or apart, the outer ones first: {fault}'
  _require(config, 'data.regions', lambda _: not fault, own)
  count = labels.count(len(data.classes), regions)
  highest = f'0, or a label above the others, {count} or more'
  _require(config, 'data.ignore', lambda value: value == 0 or value >= count, highest)
  count += data.ignore > 0
  each = f'() or {count} colours, one for each label'
  _require(config, 'data.colours', lambda found: len(found) in (0, count), each)
  if data.colours:
    none = "'' with data.colours: masks with regions hold numbers"
    _require(config, 'data.regions', lambda text: not text, none)
    last = f'0 or {count - 1}, as the last of data.colours is that of ignored pixels'
    _require(config, 'data.ignore', lambda value: value in (0, count - 1), last)


def _validate_model(config: ConfigDict) -> None:
  """Refuses a model that cannot be built or whose packages are not installed."""
  name = config.model.name
  one = f'False: {name} has one output only, unet_plus_plus has several'
  _require(config, 'model.deep_supervision', lambda on: not on or name in SUPERVISED, one)
  only = f"'' with the model {name!r}: only thrifty and lean networks have a genotype"
  _require(config, 'genotype', lambda path: not path or has_genotype(config), only)
  raced = f'0 with the model {name!r}: only lean networks are found by time; add the variant lean'
  for field in ('max_ms', 'max_macs'):
    _require(config, f'search.{field}', lambda most: not most or name == 'lean', raced)
  there = "a file that exists, or ''"
  _require(config, 'genotype', lambda path: not path or Path(path).is_file(), there)
  only = '0 without retrain.start_from, and with cells, whose levels share what they learn'
  may = config.retrain.start_from and name != 'thrifty'
  _require(config, 'retrain.freeze_levels', lambda count: not count or may, only)
  alone = "'' without retrain.teacher, which tells what is in scans without masks"
  _require(config, 'data.unlabelled', lambda path: not path or config.retrain.teacher, alone)
  own = "'none' with the model 'lean': the genotype has the norm of a lean network"
  _require(config, 'model.norm', lambda norm: norm == 'none' or name != 'lean', own)
  only = 'float32 or all with the runtime jax'
  cannot = config.cost.runtime == 'jax'
  _require(config, 'cost.precision', lambda kind: not (cannot and kind == 'int8'), only)
  unknown = '0 with front.cluster, whose pace is unknown; set front.steps'
  _require(config, 'front.minutes', lambda time: not (time and config.front.cluster), unknown)
  for tracker, packages in TRACKERS.items():
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    named = f'the package{"s" if len(missing) > 1 else ""} {" and ".join(missing)}'
    needed = f'{named} for {tracker}: {extras.how_to_install("trackers")}'
    _require(config, 'trackers', lambda on, it=tracker, no=missing: not (no and it in on), needed)


def _validate_training(config: ConfigDict, stage: str) -> None:
  """Refuses a search or retraining whose epochs, batches or channels do not fit together."""
  section = config[stage]
  epochs, why = section.epochs, ''
  if stage == 'search':
    sample, why = section.sample, ': the architecture is learned after the warm-up'
    multiple = f'a multiple of search.sample, which is {sample}'
    _require(config, 'search.channels', lambda value: value % sample == 0, multiple)
  below = f'below {stage}.epochs, which is {epochs}{why}'
  timed = stage == 'retrain' and section.minutes > 0
  _require(config, f'{stage}.warmup_epochs', lambda value: value < epochs or timed, below)
  size, parts = section.batch_size, section.microbatches
  divisors = [number for number in range(1, size + 1) if size % number == 0]
  near = [d for d in divisors if d < parts][-1:] + [d for d in divisors if d > parts][:1]
  nearest = f'nearest {"are" if len(near) > 1 else "is"} {" and ".join(map(str, near))}'
  divisor = f'a divisor of {stage}.batch_size, which is {size}: the {nearest}'
  _require(config, f'{stage}.microbatches', lambda value: size % value == 0, divisor)
  if stage == 'retrain':
    within = f'0 or at least retrain.least_steps, {section.least_steps}'
    _require(config, 'retrain.most_steps', lambda v: not v or v >= section.least_steps, within)
  # Drawn and known networks have batch norms; a model to start from brings a genotype of its own.
  raced = config.model.name == 'lean' and searches(config) and not config.retrain.start_from
  if stage == 'retrain' and (raced or config.model.norm == 'batch'):
    norms = 'batch norms' if raced else "model.norm 'batch'"
    whole = f'1 with {norms}, whose statistics are of a whole batch; lower the batch_size'
    _require(config, 'retrain.microbatches', lambda value: value == 1, whole)


def _require(config: ConfigDict, name: str, holds: Callable[[Any], Any], expected: str) -> None:
  """Refuses a field whose value fails the test; a field left to the data passes."""
  group, _, field = name.rpartition('.')
  value = config[group][field] if group else config[field]
  if SETTINGS[name].is_open(value):
    return
  try:
    fine = holds(value)
  except TypeError:  # the type or the number of values is wrong
    fine = False
  if not fine:
    raise InputError(f'config.{name} is {value!r}; expected {expected}')


def _can_be_kept(value: Any) -> bool:
  numbers = value if isinstance(value, tuple) else (value,)
  return all(abs(number) <= _LARGEST for number in numbers if isinstance(number, int | float))
