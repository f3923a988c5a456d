"""The table of settings: one row holds all facts about a field; rules between them: config.py.

As a command it prints a page: `python -m thrifty_jax.settings > docs/settings.md`.
"""

import dataclasses
from typing import Any

from thrifty_jax.allowed import (
  ABOVE_0,
  ADDRESS,
  BELOW_1,
  COLOURS,
  COUNT,
  FACTORS,
  FILES,
  FROM_0,
  PATIENTS,
  PATTERN,
  PERCENTILES,
  PUBLIC_TEXT,
  RATES,
  REDUCTION,
  REGIONS,
  RISING,
  RISING_LIST,
  SHARE,
  SWITCH,
  TEXT,
  TWO_BELOW_1,
  Allowed,
  at_least,
  names,
  numbers,
  one_of,
  within,
)

DEVICES = ('auto', 'cpu', 'gpu', 'tpu')
MODELS = ('thrifty', 'lean', 'unet', 'unet_plus_plus')
FOLDS = 'folds'  # the teacher that is networks like the pupil, each trained without a fold
TEACHERS = ('unet', 'unet_plus_plus', FOLDS)  # what a retraining can train as its teacher
NORMS = ('none', 'group', 'batch')
# Rivals in a comparison: the paper's models as published and with the norms of the cells, and
# U-Nets narrow enough to have no more parameters than the searched network.
BASELINES = (
  'unet',
  'unet_group',
  'unet_plus_plus',
  'unet_plus_plus_group',
  'unet_matched',
  'unet_matched_group',
  'unet_plus_plus_deep',
)
DOWNLOADS = ('chaos', 'chaos_t1', 'chaos_t2', 'promise12')  # data sets that data.download can fetch
# Where the time of a network is measured, and in which numbers.
COST_RUNTIMES = ('installed', 'onnxruntime', 'openvino', 'jax', 'all')
COST_PRECISIONS = ('float32', 'int8', 'all')
# Programs that a run's progress may be sent to, and the packages of each.
TRACKERS = {
  'tensorboard': ('tensorboardX',),
  'mlflow': ('mlflow', 'sqlalchemy', 'alembic'),
  'wandb': ('wandb',),
}
SLICE_AXES = ('axial', 'coronal', 'sagittal')
# Stages whose results depend on a setting.
TRAINING = ('search', 'retrain')
ALL = ('search', 'retrain', 'evaluate')
OF_SECTION = ('those of its section',)


@dataclasses.dataclass(frozen=True)
class Setting:
  """A row of the table."""

  default: Any  # unless a file in configs/ or the command line sets another value
  allowed: Allowed  # regardless of other fields
  about: str  # explanation for a person, with the unit
  # Stages whose results depend on the field; once one is done, a change is refused.
  stages: tuple[str, ...] = OF_SECTION
  # Whether compiled programs do not depend on the field: no computation reads it, or a step
  # receives it as an argument (train_data.Facts).
  untraced: bool = False
  own: bool = False  # whether each process of a run has its own value
  may_grow: bool = False  # whether a finished stage continues with a larger value
  open_value: Any = None  # leaves the field to the data; None if the data cannot fill it in

  def is_open(self, value: Any) -> bool:
    """Whether the value leaves the field to the data."""
    return self.open_value is not None and value == self.open_value

  @property
  def private(self) -> bool:
    """Whether it may name a patient or a place, which is told to nobody outside of the machine."""
    return self.allowed in (ADDRESS, FILES, PATIENTS, TEXT)


_RUN = {
  'seed': Setting(0, FROM_0, 'Start of all random numbers.', ALL, untraced=True),
  'device': Setting('auto', one_of(*DEVICES), 'Hardware; auto takes what is there.', own=True),
  'devices': Setting(0, FROM_0, 'Devices that share a batch; 0 takes all.'),
  # Weights, norm statistics, losses and optimisers, and validation and all after it, are float32.
  'precision': Setting(
    'auto',
    one_of('auto', 'float32', 'bfloat16'),
    'Type that networks are trained in; auto is bfloat16 on TPUs and on GPUs that have it.',
    TRAINING,
  ),
  'deterministic': Setting(False, SWITCH, 'Gives the same bits each time on a GPU too; slower.'),
  'compilation_cache': Setting(
    'auto', TEXT, "Folder of programs; auto is in ~/.cache, '' is none.", untraced=True, own=True
  ),
  'save_seconds': Setting(60.0, FROM_0, 'Seconds between two checkpoints.', untraced=True),
  'debug': Setting(False, SWITCH, 'Looks at every step and names the first NaN; slow.'),
  'trackers': Setting(
    (),
    names(f'different ones of {", ".join(TRACKERS)}', known=(*TRACKERS,)),
    'Programs that get the figures too; on this machine, unless their variables say otherwise.',
    untraced=True,
  ),
  'genotype': Setting('', TEXT, "Genotype file that is retrained; '' is the searched one."),
  # The devices of several processes train together; this command starts each process. Unless the
  # last three fields are set, JAX gets their values from SLURM, Open MPI, Kubernetes or Cloud TPU.
  'distributed': Setting(False, SWITCH, 'Trains with the devices of several processes.'),
  'coordinator_address': Setting('', ADDRESS, 'Address of process 0; any free port.'),
  'num_processes': Setting(0, FROM_0, 'Number of processes; 0 is found out.'),
  'process_id': Setting(-1, at_least(-1), 'Number of this process; -1 is found out.', own=True),
}
_PLACES = {
  'raw_dir': Setting('', TEXT, "Folder of scans; '' is DATA_DIR/downloads/manual/NAME.", own=True),
  'images': Setting('', TEXT, 'Folder of images, in place of raw_dir.', own=True),
  'masks': Setting('', TEXT, 'Folder of their masks; the names of the files pair them.', own=True),
  'pattern': Setting(
    '', PATTERN, "Name of an image that has one channel of several; '' if it has all."
  ),
  'derivative': Setting(
    '',
    PUBLIC_TEXT,
    "Masks of a BIDS folder, as PIPELINE or PIPELINE/desc-X_dseg; '' is the only kind.",
  ),
  'suffixes': Setting(
    (),
    names("different suffixes, as in ('T1w', 'FLAIR')"),
    'Images of a BIDS folder that are channels; () are those of all sessions.',
  ),
  'unlabelled': Setting(
    '',
    TEXT,
    'Folder of scans without masks, of which retrain.teacher tells what is in them.',
    ('retrain',),
    own=True,
  ),
  'data_dir': Setting(
    '', TEXT, "Folder of slices; '' is $TFDS_DATA_DIR, else ~/tensorflow_datasets.", own=True
  ),
  'download': Setting(False, SWITCH, f'Fetches missing scans of {", ".join(DOWNLOADS)}.'),
  'workers': Setting(
    0, FROM_0, 'Processes that read scans; 0 is one a core, at most 8, for large sets.'
  ),
}
_SLICES = {
  'name': Setting('', PUBLIC_TEXT, 'Data set; which there are is in data_prep/data_sets.py.'),
  'classes': Setting(
    ('background', 'foreground'),
    names("2 to 255 different names, the background first, as in ('a', 'b')", least=2, most=255),
    'Classes, in the order of their numbers in a mask.',
    open_value=(),
  ),
  'regions': Setting(
    '',
    REGIONS,
    "Labels of each class but the background, first the one that is written; '' is one a class.",
    open_value='auto',
  ),
  'ignore': Setting(
    0,
    within(0, 255),
    'Highest label in a mask, of voxels without a class; 0 is none.',
    open_value=-1,
  ),
  'modalities': Setting(1, COUNT, 'Channels of a scan.', open_value=0),
  'colours': Setting(
    (), COLOURS, 'Colour of each class in masks that are pictures; () where they hold numbers.'
  ),
  'context': Setting(
    0, FROM_0, 'Neighbouring slices on each side, given as further channels.', open_value=-1
  ),
  'slice_axis': Setting('axial', one_of(*SLICE_AXES), 'Plane of the slices.', open_value='auto'),
  'image_size': Setting(256, COUNT, 'Pixels on each side of a slice.', open_value=0),
  'max_image_size': Setting(256, COUNT, 'Largest image_size that the data may choose.', ()),
  'reduction': Setting(
    0.0,
    REDUCTION,
    'Factor that slices are reduced by and cut into windows; 0 draws them whole to image_size.',
    open_value=-1.0,
  ),
  'unit': Setting(
    'mm',
    one_of('mm', 'pixels'),
    'Unit of distances; pixels of pictures.',
    open_value='auto',
  ),
  'intensity': Setting(
    'percentiles',
    one_of('percentiles', 'window'),
    'Limits mapped to 0 and 1: percentiles of each scan, or a fixed window (CT).',
    open_value='auto',
  ),
  'percentiles': Setting((0.5, 99.5), PERCENTILES, 'Percentiles of a scan that become 0 and 1.'),
  'window': Setting(
    (-150.0, 250.0), RISING, 'Intensities that become 0 and 1; of CT in HU.', open_value=()
  ),
  'nan_is_lowest': Setting(
    False, SWITCH, 'Takes NaN, as SPM writes it outside the head, as the lowest value of the scan.'
  ),
  'clahe_clip_limit': Setting(0.0, SHARE, 'Clip limit of CLAHE, slice by slice; 0 is off.'),
  'resize': Setting('linear', one_of('linear', 'nearest'), 'Interpolation of images.'),
  'curvature_flow_iterations': Setting(0, FROM_0, 'Steps of edge-keeping smoothing; 0 is off.'),
  'curvature_flow_time_step': Setting(0.125, ABOVE_0, "Length of such a step, in ITK's seconds."),
}
# The split into training, validation and test patients, and the normalisation of intensities.
_PATIENTS = {
  'mean': Setting(
    (),
    numbers('numbers', lambda *means: True),
    'Mean of each channel, of intensities in [0, 1]; () is that of the training patients.',
  ),
  'std': Setting(
    (), numbers('above 0', lambda *stds: min(stds, default=1) > 0), 'Standard deviation, likewise.'
  ),
  'exclude': Setting((), PATIENTS, 'Scans that are left out, by their names in the check.'),
  'folds': Setting(5, at_least(3), 'Parts of the patients: one tests, one validates.'),
  'fold': Setting(0, FROM_0, 'Part that tests, from 0; the next one validates.'),
  'validation_patients': Setting((), PATIENTS, 'Patients that validate; lists win over folds.'),
  'test_patients': Setting((), PATIENTS, 'Patients that test.'),
  'hold_out_test': Setting(True, SWITCH, 'Keeps test patients apart; pooled_2d can do without.'),
}
_MEMORY = {
  'device_budget_bytes': Setting(
    2 << 30, FROM_0, 'Bytes of a split kept on the device, and of validation in memory.'
  ),
  'prefetch': Setting(2, FROM_0, 'Batches read ahead of the device if a split does not fit.'),
}
_AUGMENT = {
  'flip_left_right': Setting(False, SWITCH, 'Mirrors left and right; where anatomy allows.', ALL),
  'flip_up_down': Setting(False, SWITCH, 'Mirrors up and down, likewise.', ALL),
  'flip_diagonal': Setting(
    False, SWITCH, 'Mirrors along a diagonal; with both others these are quarter turns too.', ALL
  ),
  'crop_area': Setting(
    (1.0, 1.0),
    numbers('two factors above 0 and at most 1, rising', lambda a, b: 0 < a <= b <= 1),
    'Area of a crop that is enlarged to the slice, uniform; 1 is off.',
  ),
  'crop_aspect': Setting(
    (1.0, 1.0),
    numbers('a range with 1 in it: a crop must fit the slice', lambda a, b: 0 < a <= 1 <= b),
    'Width of a crop over its height, log-uniform; with an area below 1.',
  ),
  'rotate_degrees': Setting(15.0, FROM_0, 'Largest angle to either side, uniform.'),
  'scale': Setting((0.8, 1.3), FACTORS, 'Factor of sizes, log-uniform; above 1 enlarges.'),
  'translate': Setting(
    (0.1, 0.1), TWO_BELOW_1, 'Largest shift across and down, either way, uniform, in slice sides.'
  ),
  'elastic_probability': Setting(0.5, SHARE, 'Share of slices that are deformed.'),
  'elastic_alpha': Setting(
    350.0, FROM_0, 'Factor of smoothed noise in +-1 that shifts pixels; 350 is about 3 of 256.'
  ),
  'elastic_sigma': Setting(20.0, ABOVE_0, 'Smoothing of that noise, in pixels of a slice of 256.'),
  'blur_probability': Setting(0.0, SHARE, 'Share of slices that are blurred.'),
  'blur_sigma': Setting(
    (0.5, 1.0),
    numbers('two widths from 0.1 to 10, rising', lambda a, b: 0.1 <= a <= b <= 10),
    'Deviation of that Gaussian, in pixels, uniform.',
  ),
  'coarse_probability': Setting(0.0, SHARE, 'Share of slices that lose resolution.'),
  'coarse_scale': Setting(
    (0.5, 1.0),
    numbers('two factors above 0 and at most 1, rising', lambda a, b: 0 < a <= b <= 1),
    'Share of their pixels that a side keeps, uniform.',
  ),
  'saturation': Setting(0.0, SHARE, 'Largest change of saturation, either way; of colours only.'),
  'hue_degrees': Setting(0.0, within(0, 180), 'Largest turn of the hue, likewise.'),
  'gamma': Setting((0.7, 1.45), FACTORS, 'Exponent of intensities in [0, 1], log-uniform.'),
  'gamma_inverted': Setting(
    0.0, SHARE, 'Share of slices whose gamma acts on the distance from 1 instead.'
  ),
  'gain': Setting(0.15, FROM_0, 'Largest change of contrast to either side, uniform.'),
  'bias_field': Setting(
    0.0, FROM_0, 'Log deviation of a gain that changes across a slice, as of MR coils.'
  ),
  'offset': Setting(0.15, FROM_0, 'Largest shift of intensities, in training deviations.'),
  'noise': Setting(0.1, FROM_0, 'Largest deviation of added noise, in training deviations.'),
}
_MODEL = {
  'name': Setting('thrifty', one_of(*MODELS), 'Network: the searched one, or a baseline.'),
  # The search counts parameters at this width, see Stage.has_read.
  'channels': Setting(32, COUNT, 'Channels of the searched network at full size.', TRAINING),
  'depth': Setting(5, within(3, 6), 'Levels below the full size.', TRAINING),
  'nodes': Setting(2, within(1, 4), 'Nodes of a cell.', TRAINING),
  'edges_per_node': Setting(2, at_least(2), 'Edges that a node keeps, if it has them.', TRAINING),
  'deep_supervision': Setting(False, SWITCH, 'Trains outputs of every level, not the last alone.'),
  'width': Setting(32, COUNT, 'Channels of a baseline at full size, doubled at each level.'),
  'norm': Setting(
    'none',
    one_of(*NORMS),
    "Norm of a baseline, none is the paper's; batch also of a thrifty network, else group's.",
  ),
}
# microbatches and remat only change rounding, so no stage depends on them.
_SEARCH = {
  'seeds': Setting(
    1, COUNT, 'Searches, with seed, seed + 1, ...; the best one is kept.', untraced=True
  ),
  'epochs': Setting(50, COUNT, 'Epochs at most.', may_grow=True),
  'warmup_epochs': Setting(15, FROM_0, 'Epochs at first that train weights only.'),
  'patience': Setting(0, FROM_0, 'Epochs with one genotype after which it stops; 0 is never.'),
  'batch_size': Setting(12, COUNT, 'Slices in a step.'),
  'microbatches': Setting(1, COUNT, 'Equal parts of a batch, computed one by one.', ()),
  'remat': Setting(False, SWITCH, 'Computes cells twice instead of keeping them; not on CPUs.', ()),
  'channels': Setting(32, COUNT, 'Channels of the supernet; its network has model.channels.'),
  'sample': Setting(4, COUNT, 'One in so many channels goes through the candidates.'),
  'sampling': Setting('shuffle', one_of('shuffle', 'random'), 'How these channels are chosen.'),
  'order': Setting(
    'first',
    one_of('first', 'second'),
    'Gradient of the architecture; second is exact through the next weight step, thrice as slow.',
  ),
  'weight_learning_rate': Setting(0.025, ABOVE_0, 'Learning rate of SGD, a cosine to the next.'),
  'weight_learning_rate_end': Setting(1e-3, FROM_0, 'Learning rate of SGD at the end.'),
  'weight_momentum': Setting(0.9, BELOW_1, 'Momentum of SGD.'),
  'weight_decay': Setting(3e-4, FROM_0, 'Weight decay of SGD.'),
  'clip_norm': Setting(5.0, ABOVE_0, 'Largest norm of the gradient of the weights.'),
  'architecture_learning_rate': Setting(6e-4, ABOVE_0, 'Learning rate of the architecture, Adam.'),
  'architecture_betas': Setting((0.5, 0.999), TWO_BELOW_1, 'Decays of the moments in Adam.'),
  'architecture_decay': Setting(1e-3, FROM_0, 'Weight decay of the architecture.'),
  'operations': Setting(
    (),
    # networks/space.require_choice checks the names and that there are enough.
    Allowed("names, as in ('conv_3x3', 'identity')", lambda value: isinstance(value, tuple)),
    'Candidates, by their names; () takes all.',
  ),
  'cell_path': Setting(False, SWITCH, 'Lets the search leave out up cells inside the grid.'),
  'max_parameters': Setting(
    0, FROM_0, 'Most parameters of the network; 0 is no limit for cells, 8 million in a race.'
  ),
  'max_macs': Setting(
    0, FROM_0, 'Most multiplications for a slice of cost.size; of lean networks.'
  ),
  'max_ms': Setting(
    0.0, FROM_0, 'Most milliseconds for such a slice, as section cost says; likewise.'
  ),
}
# The race of lean networks, by which --stage=search finds one and --stage=front a whole front.
_FRONT = {
  'budgets_ms': Setting(
    (2.0, 5.0, 10.0, 20.0, 50.0), RISING_LIST, 'Milliseconds; a network is found for each.'
  ),
  'entrants': Setting(
    8, at_least(2), 'Lean networks that start for each budget; half as many U-Nets.'
  ),
  'rungs': Setting(
    3, COUNT, 'Rungs at most; after each the better half goes on, with mutations of it.'
  ),
  'steps': Setting(
    600,
    COUNT,
    'Steps of the first rung, about; a rung trains anew, twice as long.',
  ),
  'minutes': Setting(
    0.0, FROM_0, 'Minutes of a race, about, which choose its steps; 0 takes front.steps.'
  ),
  'folds': Setting(
    2, COUNT, 'Divisions of all but the test patients, on each of which every network trains once.'
  ),
  'genotypes': Setting((), FILES, 'Genotypes that race too.'),
  'channels': Setting(
    (8, 16),
    numbers('different whole numbers from 1', lambda *n: 0 < len({*n}) == len(n) and min(n) > 0),
    'Channels of those that are cells.',
  ),
  'seeds': Setting(1, COUNT, 'Full trainings of each network on the front; all are scored.'),
  'costs': Setting('', TEXT, "File of python -m thrifty_jax.cost; '' is this machine's stopwatch."),
  'workers': Setting(
    0, FROM_0, 'Trainings at a time; 0 is one a GPU, without GPUs one a core.', ()
  ),
  'cluster': Setting('', ADDRESS, "Address of a Dask scheduler; '' trains on this machine.", ()),
}
_RETRAIN = {
  'epochs': Setting(200, COUNT, 'Epochs at most.', may_grow=True, untraced=True),
  'least_steps': Setting(
    0, FROM_0, 'Steps of an epoch at least: few slices are passed more than once.', untraced=True
  ),
  'most_steps': Setting(
    0, FROM_0, 'Steps of an epoch at most: a pass takes several epochs; 0 is a pass.', untraced=True
  ),
  'minutes': Setting(
    0.0,
    FROM_0,
    'Minutes of training instead of epochs, equal ones in a race; 0 trains epochs.',
    untraced=True,
  ),
  'batch_size': Setting(12, COUNT, 'Slices in a step.'),
  'microbatches': Setting(1, COUNT, 'Equal parts of a batch, computed one by one.', ()),
  'remat': Setting(False, SWITCH, 'Computes cells or blocks twice instead of keeping them.', ()),
  'optimizer': Setting('adamw', one_of('adamw', 'sgd'), 'Optimiser of the weights.'),
  'learning_rate': Setting(2e-3, ABOVE_0, 'Largest learning rate, a cosine to 0.', untraced=True),
  'warmup_epochs': Setting(
    2, FROM_0, 'Epochs at first in which the learning rate rises.', untraced=True
  ),
  'momentum': Setting(0.9, BELOW_1, 'Momentum of SGD.'),
  'weight_decay': Setting(1e-2, FROM_0, 'Weight decay, decoupled in AdamW, L2 in SGD.'),
  'clip_norm': Setting(5.0, ABOVE_0, 'Largest norm of the gradient.'),
  'ema_decay': Setting(0.99, BELOW_1, 'Decay of the average over steps that is scored; 0 is off.'),
  'patience': Setting(0, FROM_0, 'Epochs without a better validation DSC to stop; 0 is never.'),
  'validate_every': Setting(2, COUNT, 'Epochs from one validation to the next.'),
  'teacher': Setting(
    '',
    TEXT,
    'Models or runs, by commas, from whose probabilities it learns too; unet, unet_plus_plus, and '
    'folds (networks like itself, each without a fold), are trained first.',
  ),
  'teacher_share': Setting(
    0.5, SHARE, 'Share of these probabilities in what is learned; masks have the rest.'
  ),
  'start_from': Setting(
    '',
    TEXT,
    "Model, or run, whose weights the training starts from; '' draws them.",
    untraced=True,
  ),
  'start_rate': Setting(
    0.3, ABOVE_0, 'Factor of the learning rate where it starts from a model.', untraced=True
  ),
  'freeze_levels': Setting(
    0, FROM_0, "Levels of the encoder that keep that model's weights and statistics."
  ),
}
_EVALUATE = {
  # It selects the best epoch.
  'protocol': Setting(
    'volume',
    one_of('volume', 'pooled_2d'),
    "Scores of volumes, or the paper's: all slices as one, not held out.",
    ('retrain', 'evaluate'),
  ),
  'batch_size': Setting(16, COUNT, 'Slices at a time.'),
  'list_suspects': Setting(
    True, SWITCH, 'Lists masks for training and validation that disagree with the network.'
  ),
  'nsd_tolerance_mm': Setting(
    2.0, FROM_0, 'Distance that a surface may be off for NSD, in data.unit.'
  ),
  'flips': Setting(False, SWITCH, 'Averages over the flips that the augmentation has.'),
  'threshold_floor': Setting(
    False, SWITCH, 'Scores thresholds on intensity, strong for some tissues; for at most 7 labels.'
  ),
}
_COMPARE = {
  'baselines': Setting(
    BASELINES[:6],
    names(f'different ones of {", ".join(BASELINES)}', known=BASELINES),
    'Baselines that are trained.',
  ),
  'random_genotypes': Setting(3, FROM_0, 'Random genotypes of about as many parameters.'),
  'genotypes': Setting((), FILES, 'Files of further genotypes.'),
  'learning_rates': Setting(
    (7e-4, 2e-3, 6e-3), RATES, 'Learning rates; validation patients choose each network its own.'
  ),
  'trial_epochs': Setting(0, FROM_0, 'Epochs to try a rate; 0 trains each in full.'),
  'seeds': Setting(
    1, COUNT, 'Trainings of each at its rate, with seed, seed + 1, ...; the first chooses the rate.'
  ),
}
# What --stage=describe, a comparison and a race time, by thrifty_jax.cost.
_COST = {
  'size': Setting(
    0,
    Allowed('0, or 16 or more', lambda size: size == 0 or size >= 16),
    'Pixels on each side of a timed slice; 0 is data.image_size.',
  ),
  'runtime': Setting(
    'installed', one_of(*COST_RUNTIMES), 'Programs that run it; installed: ONNX Runtime, OpenVINO.'
  ),
  'precision': Setting('all', one_of(*COST_PRECISIONS), 'Numbers it computes in; JAX has float32.'),
  'threads': Setting(1, COUNT, 'Threads that it runs on.'),
  'spread': Setting(
    0.25, ABOVE_0, 'Interquartile range of its times over their median that a race accepts.', ()
  ),
}

# Prefix, stages and `untraced` of the rows that do not have their own.
_SECTIONS = (
  ('', (), False, _RUN),
  ('data.', (), True, _PLACES),
  ('data.', ALL, False, _SLICES),
  ('data.', ALL, True, _PATIENTS),
  ('data.', (), False, _MEMORY),
  ('augment.', TRAINING, False, _AUGMENT),
  ('model.', ('retrain',), False, _MODEL),
  ('search.', ('search',), False, _SEARCH),
  ('retrain.', ('retrain',), False, _RETRAIN),
  ('evaluate.', ('evaluate',), False, _EVALUATE),
  ('compare.', ('compare',), False, _COMPARE),
  ('cost.', ('search', 'front'), True, _COST),
  ('front.', ('search', 'front'), True, _FRONT),
)
SETTINGS: dict[str, Setting] = {
  prefix + name: dataclasses.replace(
    row,
    stages=stages if row.stages is OF_SECTION else row.stages,
    untraced=untraced or row.untraced,
  )
  for prefix, stages, untraced, rows in _SECTIONS
  for name, row in rows.items()
}
_INTRODUCTION = """\
# Settings

Every field of a config, as `python -m thrifty_jax.settings` prints them from the table in
`thrifty_jax/settings.py`. A file in `configs/` sets some of them for its data set, the command line
any of them: `--config.search.epochs=30`, `--config.data.window="(-100.0,200.0)"`,
`--config.model.deep_supervision=True`. A value that is not as expected is refused before anything
runs, and so are values that do not fit one another, as a warm-up longer than the training.

The results of the stages depend on the field: once search, retrain or evaluate has begun, the run's
folder takes no other value. Where it may grow, a stage that is done goes on for the epochs left."""


def write_page() -> str:
  """Returns the text of docs/settings.md."""
  lines, heading = [_INTRODUCTION], ''
  for name, row in SETTINGS.items():
    section = name.rpartition('.')[0] or 'the run'
    if section != heading:
      heading = section
      lines += [f'\n## {heading}\n', '| field | default | what it is | expected | stages |']
      lines.append('|---|---|---|---|---|')
    leave = f'; `{row.open_value!r}` leaves it to the data' if row.open_value is not None else ''
    stages = ', '.join((*row.stages, 'may grow') if row.may_grow else row.stages)
    about, expected = row.about, row.allowed.expected + leave
    lines.append(f'| `{name}` | `{row.default!r}` | {about} | {expected} | {stages} |')
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  print(write_page(), end='')
