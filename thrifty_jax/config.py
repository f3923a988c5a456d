"""Every setting of a run, with its default; what may be set to what; the variants."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from thrifty_jax.errors import InputError
from thrifty_jax.networks import space

MODELS = ('thrifty', 'unet', 'unet_plus_plus')
# Of the comparison: the paper's models as they are, and with the norms that the cells have; U-Nets
# so narrow that they have no more parameters than the searched network.
BASELINES = (
  'unet',
  'unet_group',
  'unet_plus_plus',
  'unet_plus_plus_group',
  'unet_matched',
  'unet_matched_group',
  'unet_plus_plus_deep',
)
SLICE_AXES = ('axial', 'coronal', 'sagittal')
DOWNLOADS = ('chaos', 'chaos_t1', 'chaos_t2', 'promise12')  # what data.download fetches
# Who trains, validates and tests, and by what their intensities are normalised.
SPLIT = (
  'data.mean',
  'data.std',
  'data.folds',
  'data.fold',
  'data.validation_patients',
  'data.test_patients',
  'data.hold_out_test',
)

_CHOICES = {
  'device': ('auto', 'cpu', 'gpu', 'tpu'),
  'precision': ('auto', 'float32', 'bfloat16'),
  'data.slice_axis': SLICE_AXES,
  'data.intensity': ('percentiles', 'window'),
  'data.resize': ('linear', 'nearest'),
  'model.name': MODELS,
  'model.norm': ('none', 'group'),
  'search.sampling': ('shuffle', 'random'),
  'search.order': ('first', 'second'),
  'retrain.optimizer': ('adamw', 'sgd'),
  'evaluate.protocol': ('volume', 'pooled_2d'),
}
_POSITIVE_INTEGERS = (
  'data.modalities',
  'data.image_size',
  'data.max_image_size',
  'model.channels',
  'model.width',
  'search.seeds',
  'search.epochs',
  'search.batch_size',
  'search.microbatches',
  'search.channels',
  'search.sample',
  'retrain.epochs',
  'retrain.batch_size',
  'retrain.microbatches',
  'retrain.validate_every',
  'evaluate.batch_size',
)
_POSITIVE = (
  'data.curvature_flow_time_step',
  'augment.elastic_sigma',
  'search.weight_learning_rate',
  'search.architecture_learning_rate',
  'search.clip_norm',
  'retrain.learning_rate',
  'retrain.clip_norm',
)
_NOT_NEGATIVE = (
  'seed',
  'save_seconds',
  'devices',
  'num_processes',
  'data.context',
  'data.curvature_flow_iterations',
  'data.device_budget_bytes',
  'data.prefetch',
  'data.workers',
  'augment.rotate_degrees',
  'augment.elastic_alpha',
  'augment.gain',
  'augment.bias_field',
  'augment.offset',
  'augment.noise',
  'search.warmup_epochs',
  'search.patience',
  'search.max_parameters',
  'search.weight_learning_rate_end',
  'search.weight_decay',
  'search.architecture_decay',
  'retrain.warmup_epochs',
  'retrain.weight_decay',
  'retrain.patience',
  'evaluate.nsd_tolerance_mm',
  'compare.random_genotypes',
  'compare.trial_epochs',
)
_FRACTIONS = (
  'search.weight_momentum',
  'retrain.momentum',
  'retrain.ema_decay',
)
_ALONE = 'nothing without --config.distributed=True'
_TOGETHER = 'several processes (config.distributed) train with all they have'
_RISING = ('data.percentiles', 'data.window')
_FACTORS = ('augment.crop_area', 'augment.crop_aspect', 'augment.scale', 'augment.gamma')
# What these fields hold until the data says more; any other value wins. Only configs/folder.py has
# them so: data_sets.resolve fills them in before the run starts.
LEFT_TO_DATA = {
  'data.classes': (),
  'data.modalities': 0,
  'data.slice_axis': 'auto',
  'data.image_size': 0,
  'data.intensity': 'auto',
  'data.window': (),
}


def default() -> ConfigDict:
  """The settings that all data sets share; a file in configs/ fills in the rest."""
  config = ConfigDict()
  config.seed = 0
  config.device = 'auto'  # auto, cpu, gpu, tpu
  config.devices = 0  # that share a batch; 0 is all of them
  # What networks compute in while they are trained, bfloat16 or float32; auto is bfloat16 on a TPU
  # and on GPUs that have it, float32 on a CPU. Weights, statistics of norms, losses, optimisers and
  # all from validation on are float32 in any case.
  config.precision = 'auto'
  config.deterministic = False  # the same bits each time on a GPU too, more slowly
  config.compilation_cache = 'auto'  # a folder; '' turns the cache off
  config.save_seconds = 60.0  # between two checkpoints of a stage that trains
  config.debug = False  # look at every step; name the first layer that makes a NaN; slow
  config.tensorboard = False  # write the figures of epochs for TensorBoard too (needs tensorboardX)
  config.genotype = ''  # retrain this genotype file instead of the searched one

  # The devices of several processes train together, each process started by this command. Who they
  # are JAX asks of SLURM, Open MPI, Kubernetes or Cloud TPU, where the next three do not say it.
  config.distributed = False
  config.coordinator_address = ''  # HOST:PORT of process 0; the port is free to choose
  config.num_processes = 0
  config.process_id = -1  # from 0

  config.data = data = ConfigDict()
  data.name = ''  # brain, promise12, chaos, chaos_t1, chaos_t2, folder, phantom
  data.raw_dir = ''  # '' is <data_dir>/downloads/manual/<name>
  data.data_dir = ''  # '' is $TFDS_DATA_DIR, else ~/tensorflow_datasets
  data.download = False  # fetch the scans where they are missing: chaos and promise12 only
  data.workers = 0  # processes that read the scans; 0: one a core if it takes more than seconds
  data.classes = ('background', 'foreground')
  data.modalities = 1  # image channels
  data.context = 0  # neighbouring slices on each side, given as further image channels
  data.slice_axis = 'axial'  # or coronal, sagittal: what slices follow one another along
  data.image_size = 256  # pixels on each side of a prepared slice
  data.max_image_size = 256  # of an image_size that is left to the data
  data.intensity = 'percentiles'  # or 'window' (fixed limits, for CT)
  data.percentiles = (0.5, 99.5)  # of each volume, mapped to 0 and 1
  data.window = (-150.0, 250.0)  # Hounsfield units, mapped to 0 and 1
  data.clahe_clip_limit = 0.0  # adaptive histogram equalisation of each slice; 0 is off, at most 1
  data.resize = 'linear'  # of images; or nearest
  data.curvature_flow_iterations = 0  # smoothing of each slice that keeps its edges; 0 is off
  data.curvature_flow_time_step = 0.125  # seconds, in ITK's words
  data.mean = ()  # of intensities in [0, 1], one a modality; () is that of the training patients
  data.std = ()  # likewise
  data.folds = 5
  data.fold = 0
  data.validation_patients = ()  # explicit lists win over folds
  data.test_patients = ()
  data.hold_out_test = True  # False: all but the validation patients train; pooled_2d only
  # A split that fits stays in device memory; so much of the validation slices in the host's.
  data.device_budget_bytes = 2 << 30
  data.prefetch = 2  # batches read ahead of the device when the split does not fit

  config.augment = augment = ConfigDict()
  augment.flip_left_right = False  # only where anatomy allows
  augment.flip_up_down = False
  augment.crop_area = (1.0, 1.0)  # of a crop that is enlarged to the slice, uniform; 1 is off
  augment.crop_aspect = (1.0, 1.0)  # its width over its height, log-uniform; with an area below 1
  augment.rotate_degrees = 15.0  # uniform in +-
  augment.scale = (0.8, 1.3)  # log-uniform; above 1 enlarges
  augment.translate = (0.1, 0.1)  # across and down, uniform in +-, fractions of the sides
  augment.elastic_probability = 0.5
  augment.elastic_alpha = 350.0  # times smoothed uniform noise in +-1: about 3 pixels of 256
  augment.elastic_sigma = 20.0  # smoothing; both in pixels of a 256-pixel slice, at any size
  augment.gamma = (0.7, 1.45)  # log-uniform, on intensities in [0, 1]
  augment.gain = 0.15  # uniform in +-, of the intensity
  augment.bias_field = 0.0  # of a gain that changes across the slice, as of MR coils: log deviation
  augment.offset = 0.15  # uniform in +-, in training standard deviations
  augment.noise = 0.1  # largest standard deviation of added noise, likewise

  config.model = model = ConfigDict()
  model.name = 'thrifty'  # or unet, unet_plus_plus
  model.channels = 32
  model.depth = 5  # levels below the full size, 3 to 6
  model.nodes = 2  # of a cell, 1 to 4
  model.edges_per_node = 2  # that a node keeps, if it has as many
  model.deep_supervision = False
  model.width = 32  # channels of a baseline at full size, doubled at each half of it; the paper's
  model.norm = 'none'  # of the baselines: none (the paper's) or group

  config.search = search = ConfigDict()
  search.seeds = 1  # searches side by side, with seed, seed + 1, ...; the best one is kept
  search.epochs = 50
  search.warmup_epochs = 15  # weights only
  search.patience = 0  # stop after so many epochs with the same genotype; 0 never stops
  search.batch_size = 12
  search.microbatches = 1  # equal parts of a batch, one after the other; the result is the same
  search.remat = False  # cells are computed twice instead of kept; not on a CPU, which undoes it
  search.channels = 32  # of the supernet; the derived network has model.channels
  search.sample = 4  # one in so many channels goes through the candidates
  search.sampling = 'shuffle'  # or random
  search.order = 'first'  # or second: exact, through the weight step that follows; 3 times as slow
  search.weight_learning_rate = 0.025
  search.weight_learning_rate_end = 1e-3
  search.weight_momentum = 0.9
  search.weight_decay = 3e-4
  search.clip_norm = 5.0
  search.architecture_learning_rate = 6e-4
  search.architecture_betas = (0.5, 0.999)
  search.architecture_decay = 1e-3
  search.operations = ()  # names of the candidates, see networks/space.py; () is all
  search.cell_path = False  # let the search leave out up cells inside the grid
  search.max_parameters = 0  # the derived network has at most so many; 0 is no limit

  config.retrain = retrain = ConfigDict()
  retrain.epochs = 200
  retrain.batch_size = 12
  retrain.microbatches = 1  # as of the search
  retrain.remat = False  # as of the search; of a baseline its blocks
  retrain.optimizer = 'adamw'  # or sgd
  retrain.learning_rate = 2e-3
  retrain.warmup_epochs = 2
  retrain.momentum = 0.9  # of sgd
  retrain.weight_decay = 1e-2  # decoupled in adamw, L2 in sgd
  retrain.clip_norm = 5.0
  retrain.ema_decay = 0.99  # weights that are scored are an average over steps; 0 is off
  retrain.patience = 0  # epochs without a better validation DSC; 0 never stops
  retrain.validate_every = 2  # epochs

  config.evaluate = evaluate = ConfigDict()
  evaluate.protocol = 'volume'  # or pooled_2d, the paper's: not held out
  evaluate.batch_size = 16
  evaluate.nsd_tolerance_mm = 2.0  # how far a surface may be off for NSD
  evaluate.flips = False  # average over the flips that augmentation allows
  evaluate.threshold_floor = False  # also score thresholds on intensity, where they are strong

  config.compare = compare = ConfigDict()
  compare.baselines = BASELINES[:6]
  compare.random_genotypes = 3  # with about the parameters of the searched one
  compare.genotypes = ()  # files of further genotypes
  compare.learning_rates = (7e-4, 2e-3, 6e-3)  # each network has the best on validation patients
  compare.trial_epochs = 0  # to try a rate; 0 trains each in full
  return config


def flatten(config: ConfigDict | dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Every field by its dotted name, `search.epochs`; tuples stay whole.

  Args:
    config: A config or the dictionary of one.
    prefix: Put before each name.

  Returns:
    Name -> value, in order.
  """
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

  Args:
    config: Changed in place.
    variants: Names separated by commas, or ''.
    **changes: The data set's own variants; the models' names are variants of every data set.

  Returns:
    The config.

  Raises:
    InputError: If a variant is unknown, given twice, or names a second model.
  """
  names = [name.strip() for name in variants.split(',') if name.strip()]
  known = (*changes, *MODELS)
  for name in names:
    if name not in known:
      raise InputError(f'unknown config variant {name!r}; the variants are {", ".join(known)}')
    if names.count(name) > 1:
      raise InputError(f'config variant {name!r} is given twice')
  models = [name for name in names if name in MODELS]
  if len(models) > 1:
    raise InputError(f'config variants {" and ".join(models)} are two models; name one of them')
  for name in names:
    if name in changes:
      changes[name](config)
    else:
      apply_model_variant(config, name)
  return config


def apply_model_variant(config: ConfigDict, name: str) -> None:
  """Makes `name` the model that is trained; a baseline needs no search."""
  if name not in MODELS:
    raise InputError(f'unknown model {name!r}; the models are {", ".join(MODELS)}')
  config.model.name = name


def left_to_data(config: ConfigDict) -> list[str]:
  """Names of the fields that the data set has to fill in, see LEFT_TO_DATA."""
  fields = flatten(config)
  return [name for name, value in LEFT_TO_DATA.items() if fields[name] == value]


def searches(config: ConfigDict) -> bool:
  """Whether the run needs a search: not for a baseline, nor for a genotype that is given."""
  return config.model.name == 'thrifty' and not config.genotype


def validate(config: ConfigDict) -> None:
  """Refuses values that cannot work, before anything is read or written.

  Args:
    config: A whole config; what it leaves to the data passes, see LEFT_TO_DATA.

  Raises:
    InputError: If a field has a value that cannot work; the message names the field, its value
      and what is expected.
  """
  for name, value in flatten(config).items():
    for number in value if isinstance(value, tuple) else (value,):
      if isinstance(number, float) and not math.isfinite(number):
        raise InputError(f'config.{name} is {value!r}; expected finite numbers')
  for name, options in _CHOICES.items():
    _require(config, name, lambda value, options=options: value in options, ' or '.join(options))
  for name in _POSITIVE_INTEGERS:
    _require(config, name, lambda value: value >= 1, 'a whole number from 1')
  for name in _POSITIVE:
    _require(config, name, lambda value: value > 0, 'above 0')
  for name in _NOT_NEGATIVE:
    _require(config, name, lambda value: value >= 0, '0 or more')
  for name in _FRACTIONS:
    _require(config, name, lambda value: 0 <= value < 1, 'from 0 to below 1')
  for name in _RISING:
    _require(config, name, _is_rising_pair, 'two numbers, the first below the second')
  for name in _FACTORS:
    _require(config, name, _is_factor_range, 'two factors above 0, the smaller first')
  for name in ('data.classes', 'data.validation_patients', 'data.test_patients'):
    _require(config, name, _is_names, "different names, as in ('a', 'b')")
  _validate_distributed(config)
  _validate_data(config)
  _validate_model(config)
  if config.tensorboard and importlib.util.find_spec('tensorboardX') is None:
    raise InputError(
      'config.tensorboard is True, which needs the package tensorboardX: pip install tensorboardX'
    )
  if config.genotype and config.model.name != 'thrifty':
    raise InputError(
      f'config.genotype is given, but config.model.name is {config.model.name!r}; only thrifty '
      'networks have a genotype'
    )
  if config.genotype and not Path(config.genotype).is_file():
    raise InputError(f'config.genotype is {config.genotype!r}, which is not a file')


def _validate_distributed(config: ConfigDict) -> None:
  """Refuses what cannot work where several processes train together."""
  given = {'coordinator_address': '', 'num_processes': 0, 'process_id': -1}
  if not config.distributed:
    for name, default in given.items():
      _require(config, name, lambda value, default=default: value == default, _ALONE)
    return
  for name in ('debug', 'devices'):
    _require(config, name, lambda value: not value, f'{type(config[name])()}: {_TOGETHER}')
  _require(config, 'coordinator_address', _is_address, "HOST:PORT of process 0, or ''")
  count = config.num_processes
  within = f'from 0 to {count - 1}' if count else 'from 0, or -1 to be found out'
  _require(config, 'process_id', lambda value: -1 <= value < (count or math.inf), within)


def _validate_data(config: ConfigDict) -> None:
  """Refuses what cannot work in `data` and `augment`."""
  _require(config, 'data.classes', lambda value: len(value) >= 2, 'the background and a class more')
  _require(config, 'data.folds', lambda value: value >= 3, '3 or more: train, validation, test')
  folds = config.data.folds
  _require(config, 'data.fold', lambda value: 0 <= value < folds, f'from 0 to {folds - 1}')
  low, high = config.data.percentiles
  if not 0 <= low < high <= 100:
    raise InputError(f'config.data.percentiles is ({low}, {high}); expected two within 0 and 100')
  both = set(config.data.validation_patients) & set(config.data.test_patients)
  if both:
    raise InputError(f'config.data: {sorted(both)[0]} is a validation and a test patient; choose')
  if config.data.download and config.data.name not in DOWNLOADS:
    raise InputError(
      f'config.data.download is True, but {config.data.name} cannot be downloaded, only '
      f'{", ".join(DOWNLOADS)} can; leave it out'
    )
  _require(config, 'data.clahe_clip_limit', lambda value: 0 <= value <= 1, 'from 0 to 1')
  _validate_statistics(config)
  if not config.data.hold_out_test and config.evaluate.protocol != 'pooled_2d':
    raise InputError(
      'config.data.hold_out_test is False, but config.evaluate.protocol is '
      f'{config.evaluate.protocol!r}; only pooled_2d does without test patients'
    )
  _require(config, 'augment.elastic_probability', lambda value: 0 <= value <= 1, 'from 0 to 1')
  pair = 'two fractions, across and down, from 0 to below 1'
  _require(config, 'augment.translate', _are_fractions, pair)
  _require(config, 'augment.crop_area', lambda value: value[1] <= 1, 'at most 1, the whole slice')
  around = 'a range with 1 in it: a crop must fit the slice'
  _require(config, 'augment.crop_aspect', lambda value: value[0] <= 1 <= value[1], around)


def _validate_statistics(config: ConfigDict) -> None:
  """Refuses a fixed mean or deviation without the other, or not of every modality."""
  mean, std, count = config.data.mean, config.data.std, config.data.modalities
  if len(mean) != len(std):
    raise InputError(f'config.data.mean is {mean} and config.data.std is {std}; expected both')
  each = f'() or {count}, one for each modality'

  def is_one_each(value: Any) -> bool:
    return len(value) in (0, count) and all(_is_number(number) for number in value)

  _require(config, 'data.mean', is_one_each, each)
  _require(config, 'data.std', is_one_each, each)
  _require(config, 'data.std', lambda value: all(number > 0 for number in value), 'above 0')


def _validate_model(config: ConfigDict) -> None:
  """Refuses what cannot work in `model` and `retrain`."""
  _require(config, 'model.depth', lambda value: 3 <= value <= 6, 'from 3 to 6')
  _require(config, 'model.nodes', lambda value: 1 <= value <= 4, 'from 1 to 4')
  _require(config, 'model.edges_per_node', lambda value: value >= 2, '2 or more')
  side = 2**config.model.depth
  _require(config, 'data.image_size', lambda value: value >= side, f'{side} or more at this depth')
  if config.model.name == 'unet' and config.model.deep_supervision:
    raise InputError(
      'config.model.deep_supervision is True, but a U-Net has one output only; leave it out, or '
      'take unet_plus_plus'
    )
  epochs = config.retrain.epochs
  below = f'below retrain.epochs, which is {epochs}'
  _require(config, 'retrain.warmup_epochs', lambda value: value < epochs, below)
  _validate_microbatches(config, 'retrain')
  space.require_choice(config.search.operations)
  if searches(config):
    _validate_search(config)
  _validate_compare(config)


def _validate_search(config: ConfigDict) -> None:
  """Refuses what cannot work in `search`."""
  if config.distributed and config.search.seeds > 1:
    raise InputError(
      f'config.search.seeds is {config.search.seeds}; expected 1 where several processes train '
      'together (config.distributed): start a run for each seed instead, each process by itself, '
      'with its own --config.seed and --workdir'
    )
  sample = config.search.sample
  multiple = f'a multiple of search.sample, which is {sample}'
  _require(config, 'search.channels', lambda value: value % sample == 0, multiple)
  epochs = config.search.epochs
  below = f'below search.epochs, which is {epochs}: the architecture is learned after the warm-up'
  _require(config, 'search.warmup_epochs', lambda value: value < epochs, below)
  _validate_microbatches(config, 'search')
  betas = config.search.architecture_betas
  if len(betas) != 2 or not all(_is_number(beta) and 0 <= beta < 1 for beta in betas):
    raise InputError(f'config.search.architecture_betas is {betas}; expected two from 0 to below 1')


def _validate_microbatches(config: ConfigDict, stage: str) -> None:
  """Refuses microbatches of different sizes."""
  size, parts = config[stage].batch_size, config[stage].microbatches
  divisors = [number for number in range(1, size + 1) if size % number == 0]
  below, above = ([d for d in divisors if d < parts][-1:], [d for d in divisors if d > parts][:1])
  nearest = ' and '.join(map(str, below + above))
  divisor = f'a divisor of {stage}.batch_size, which is {size}: the nearest are {nearest}'
  if len(below + above) == 1:
    divisor = divisor.replace('nearest are', 'nearest is')
  _require(config, f'{stage}.microbatches', lambda value: value in divisors, divisor)


def _validate_compare(config: ConfigDict) -> None:
  """Refuses what cannot work in `compare`."""
  known = set(BASELINES)
  text = f'different ones of {", ".join(BASELINES)}'
  _require(config, 'compare.baselines', lambda value: _is_names(value) and {*value} <= known, text)
  _require(config, 'compare.genotypes', _is_names, "different files, as in ('a.json', 'b.json')")
  for path in config.compare.genotypes:
    if not Path(path).is_file():
      raise InputError(f'config.compare.genotypes names {path!r}, which is not a file')
  rates = config.compare.learning_rates
  if not rates or len({*rates}) < len(rates) or not all(_is_number(r) and r > 0 for r in rates):
    raise InputError(f'config.compare.learning_rates is {rates}; expected different ones above 0')
  epochs, least = config.compare.trial_epochs, config.retrain.warmup_epochs
  if 0 < epochs <= least:
    raise InputError(
      f'config.compare.trial_epochs is {epochs}; expected 0, or more than retrain.warmup_epochs, '
      f'which is {least}'
    )


def _require(config: ConfigDict, name: str, holds: Callable[[Any], bool], expected: str) -> None:
  """Refuses a field whose value the test does not hold for."""
  group, _, field = name.rpartition('.')
  value = config[group][field] if group else config[field]
  if name in LEFT_TO_DATA and value == LEFT_TO_DATA[name]:
    return
  try:
    fine = holds(value)
  except (TypeError, IndexError):
    fine = False
  if not fine:
    raise InputError(f'config.{name} is {value!r}; expected {expected}')


def _is_address(value: Any) -> bool:
  host, _, port = value.rpartition(':')
  return not value or (bool(host) and port.isdigit() and 0 < int(port) < 1 << 16)


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _is_rising_pair(value: Any) -> bool:
  return len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]


def _is_factor_range(value: Any) -> bool:
  return len(value) == 2 and all(map(_is_number, value)) and 0 < value[0] <= value[1]


def _are_fractions(value: Any) -> bool:
  return len(value) == 2 and all(_is_number(number) and 0 <= number < 1 for number in value)


def _is_names(value: Any) -> bool:
  texts = all(isinstance(name, str) and name for name in value)
  return texts and len(set(value)) == len(value)
