"""Your own scans: a folder as of the Decathlon, nnU-Net v2 or BIDS, or two folders.

  python -m thrifty_jax.main --config=configs/folder.py --config.data.raw_dir=FOLDER --workdir=RUN
  python -m thrifty_jax.main --config=configs/folder.py:small --config.data.raw_dir=FOLDER

FOLDER contains dataset.json, imagesTr, labelsTr and, if a patient has several scans, patients.csv
(case,patient). RUN, the folder of results, is runs/folder without --workdir: use another one for
each FOLDER. Run --stage=check first and read its findings. FOLDER may be in BIDS instead, see
docs/data.md. In place of FOLDER, two folders whose
files are paired by their names, with patients.csv beside IMAGES or in it:

  --config.data.images=IMAGES --config.data.masks=MASKS
  --config.data.classes="('background','liver')"

Scans are volumes or pictures; docs/data.md says how masks of pictures are read. FOLDER may also
hold DICOM studies with DICOM SEG or RTSTRUCT, whose names data.classes chooses.

Values left open here are filled in from the folder, shown at the start and recorded in
config.json; a value that you set takes precedence:
  data.classes, data.modalities     from dataset.json, or names of BIDS; of two folders the classes
                                    must be set
  data.context, data.unit           1 and mm; of pictures 0 and pixels
  data.slice_axis                   the axis of thick slices; axial where voxels are nearly cubes,
                                    where --stage=planes compares it with the others
  data.image_size                   the median longer side of a slice, up to a multiple of 32, at
                                    most data.max_image_size
  data.reduction                    0, which draws slices whole; pictures whose masks would lose
                                    by that are cut into windows of image_size
  data.intensity, data.window       CT: a window learned from the training patients' foreground, so
                                    folds may differ in it; else the percentiles of each scan

No flips: how an anatomy may be mirrored is unknown. If left and right look alike and have one
class, set augment.flip_left_right and evaluate.flips. If up and down mean nothing, as in most
microscopy, add the variant unoriented. Of volumes the network also sees the slices
above and below; data.context=0 takes them away, which cost 0.8 points on the hippocampus.

Measured: Task04_Hippocampus of the Decathlon (221 scans of 145 patients), variant small with
search.max_ms=5 and cost.size=256, fold 0, seed 0, on two cores of an Intel Xeon with AMX: 45
minutes, 336,595 parameters, 3.7 ms in 8 bits; test DSC of 29 patients, anterior 88.8 %, posterior
86.1 %. On an AMD EPYC server an hour, another network, and 88.8 % and 86.2 %. A network of such a
race on coronal slices, five folds of 18 minutes each: 89.5 % and 88.0 %.

Variants, which compose (`:small,unet`), applied from left to right:
  small                  at most 128 x 128, a race of half an hour for 5 ms and 10^9
                         multiplications a slice of 256 x 256, and few epochs, of at most
                         500 steps each.
  unet, unet_plus_plus   a baseline instead of the search.
  batch                  batch norms for cells and baselines and, unless the config has a rate of
                         its own, the learning rate of lean networks.
  thrifty                the paper's search of cells instead of the race of lean networks.
  unoriented             all flips and quarter turns, each as often as another.
"""

from ml_collections import ConfigDict

from thrifty_jax import config as defaults


def get_config(variants: str = '') -> ConfigDict:
  """Returns the settings; variants are the names after the colon, separated by commas."""
  config = defaults.default()

  config.data.name = 'folder'
  defaults.leave_to_data(config)
  config.retrain.least_steps = 50  # else the epochs of ten scans or pictures are a step or two each
  defaults.set_model(config, 'lean')
  return defaults.apply_variants(config, variants, small=_small, unoriented=_unoriented)


def _small(config: ConfigDict) -> None:
  """Sets sizes for two CPU cores, as in promise12.py."""
  config.data.max_image_size = 128

  # The whole front would take a day; so would networks that take 5 ms for a smaller slice.
  config.cost.size = 256
  config.front.budgets_ms = (5.0,)
  config.front.minutes = 30.0

  search = config.search
  # Where 8 bits are fast, 5 ms allow three times as many, which train as slowly and gain nothing.
  search.max_macs = 10**9 if config.model.name == 'lean' else 0
  search.epochs = 10
  search.warmup_epochs = 3
  search.batch_size = 8
  search.channels = 16
  search.architecture_learning_rate = 3e-3

  retrain = config.retrain
  retrain.epochs = 40
  retrain.most_steps = 500  # of hundreds of scans a pass takes longer than the race may
  retrain.batch_size = 16
  retrain.validate_every = 4


def _unoriented(config: ConfigDict) -> None:
  """Sets the three flips whose combinations are the eight turns and mirrors of a square."""
  for name in ('flip_left_right', 'flip_up_down', 'flip_diagonal'):
    config.augment[name] = True
