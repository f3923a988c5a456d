"""The prostate in T2 MR: PROMISE12, 50 labelled patients.

  python -m thrifty_jax.main --config=configs/promise12.py            a GPU
  python -m thrifty_jax.main --config=configs/promise12.py:small      a laptop's CPU
  python -m thrifty_jax.main --config=configs/promise12.py:paper      the authors' settings

The folder data.raw_dir contains TrainingData/CaseNN.mhd with CaseNN_segmentation.mhd; if they are
missing, a message names their source. Cases are ordered by hospital; folds take every fifth.

Measured, `:small`, on two CPU cores that other programs used as well, 36 patients at half the
resolution in plane, seed 0, fold 0: 1 h 03 min (search 9 min, retraining 54 min); mean volume DSC
of 8 test patients 82.0 % with 565,792 parameters (mean mask: 60.1 %). The default, on one NVIDIA
H200: 9 min 35 s, 86.2 % with 542,164. More, and what longer retraining gives: docs/results.md.
`:paper` has not been run.

Variants, which compose (`:small,unet`), applied from left to right:
  small                  128 x 128, a narrow supernet and few epochs.
  paper                  the authors' settings, see below; for a GPU.
  unet, unet_plus_plus   a baseline instead of the search.
  batch                  batch norms for cells and baselines and, unless the config has a rate of
                         its own, the learning rate of lean networks.
  lean                   a race of lean networks for search.max_ms milliseconds instead.

`:paper` takes from the authors (their paper or their public code):
  images                 CLAHE of each slice (clip limit 0.05), nearest resize to 256, curvature
                         flow (5 iterations of 0.125), z-score by the training patients.
  augmentation           translation +-0.2 across and +-0.1 down; two flips and elastic deformation,
                         each with 50 %; no crop.
  search, network        all of thrifty_jax/authors.py: first SGD, then SGD and Adam in turn, up to
                         1000 epochs; 32 channels, depth 5, 2 nodes.
  retraining             SGD 6e-3, batch 12, up to 3600 epochs, clip 3, patience 300.
  split                  cases 5 15 25 35 45 validate, all others train.
  metric, selection      one Dice over all validation slices at 256 x 256; the best epoch is chosen
                         and reported on them: not held out. There are no test patients.
and deliberately differs in this:
  validation images      are never augmented. Theirs are, so each epoch scores other images.
                         Corrected.
  halves of the search   by patient, of the training patients alone: no patient is on both sides.
  architecture           its variables are not in the weights' optimiser, decay or clip norm, as
                         theirs are by mistake. Corrected.
  truth                  a pixel is the class with the largest share of it; the nearest voxel alone
                         shifts the truth, and scores go back to the native grid.
  border                 image and mask repeat the slice's border beyond it: one warp, one
                         resampling, instead of one a step.
  norms                  GroupNorm everywhere, where their residual block has BatchNorm: no batch
                         statistics to carry, and as many parameters. In the search those of the
                         stem and of in0's 1x1 convolution have a scale and a bias too.
"""

from ml_collections import ConfigDict

from thrifty_jax import authors
from thrifty_jax import config as defaults


def get_config(variants: str = '') -> ConfigDict:
  """Returns the settings; variants are the names after the colon, separated by commas."""
  config = defaults.default()

  data = config.data
  data.name = 'promise12'
  data.classes = ('background', 'prostate')
  data.image_size = 256
  data.intensity = 'percentiles'
  data.context = 1  # the slices above and below, as two more channels

  config.evaluate.flips = True
  config.augment.flip_left_right = True  # the prostate is symmetric about the midline
  return defaults.apply_variants(config, variants, small=_small, paper=_paper)


def _small(config: ConfigDict) -> None:
  """Sets sizes for two CPU cores."""
  config.data.image_size = 128

  search = config.search
  search.epochs = 10
  search.warmup_epochs = 3
  search.batch_size = 8
  search.channels = 16
  search.architecture_learning_rate = 3e-3  # a fifth of the steps, each up to five times as large

  retrain = config.retrain
  retrain.epochs = 50
  retrain.batch_size = 8


def _paper(config: ConfigDict) -> None:
  """Sets the authors' values; `code` is their public code, see thrifty_jax/authors.py."""
  authors.apply(config)

  data = config.data
  data.intensity = 'percentiles'
  data.percentiles = (0.0, 100.0)  # ours: no limits, as CLAHE stretches each slice itself
  data.clahe_clip_limit = 0.05  # code
  data.resize = 'nearest'  # code
  data.curvature_flow_iterations = 5  # code
  data.curvature_flow_time_step = 0.125  # code, seconds
  data.mean = data.std = ()  # code: z-score by the training patients
  data.validation_patients = ('Case05', 'Case15', 'Case25', 'Case35', 'Case45')  # code

  augment = config.augment
  augment.crop_area = augment.crop_aspect = (1.0, 1.0)  # code: no crop
  augment.translate = (0.2, 0.1)  # code: across, down

  config.retrain.clip_norm = 3.0  # code
  config.retrain.patience = 300  # code
