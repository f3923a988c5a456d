"""The prostate in T2 MR: PROMISE12, 50 labelled patients.

  python -m thrifty_jax.main --config=configs/promise12.py            a GPU
  python -m thrifty_jax.main --config=configs/promise12.py:small      a laptop's CPU
  python -m thrifty_jax.main --config=configs/promise12.py:paper      the authors' settings

The folder data.raw_dir holds TrainingData/CaseNN.mhd with CaseNN_segmentation.mhd; where to get
them is said when they are missing. Cases are ordered by hospital; folds take every fifth.

Measured, `:small`, on two CPU cores that other programs used as well, 36 patients at half the
resolution in plane, seed 0, fold 0: 1 h 03 min (search 9 min, retraining 54 min), 5.4 GiB of memory
while the search was compiled; mean volume DSC of 8 test patients 82.0 % with 565,792 parameters
(mean mask: 60.1 %). The default and `:paper` have not been run.

Variants, which compose (`:small,unet`), applied from left to right:
  small                  128 x 128, a narrow supernet and few epochs.
  paper                  the authors' search schedule (SGD 0.025 to 1e-3, Adam 1e-4, batch 12,
                         architecture from epoch 15, stop after 50 epochs with an unchanged
                         genotype), retraining (SGD 6e-3, momentum 0.9, decay 5e-4, clip 3,
                         patience 300), flips, translation and elastic deformation, validation
                         cases (5 15 25 35 45), and their pooled 2D Dice as the protocol. Not
                         theirs: no CLAHE, no curvature flow, linear resizing, no augmented
                         validation, and translation is as large down as across.
  unet, unet_plus_plus   a baseline instead of the search.
"""

from ml_collections import ConfigDict

from thrifty_jax import authors
from thrifty_jax import config as defaults


def get_config(variants: str = '') -> ConfigDict:
  """The settings; variants are the names after the colon, separated by commas."""
  config = defaults.default()

  data = config.data
  data.name = 'promise12'
  data.classes = ('background', 'prostate')
  data.image_size = 256
  data.intensity = 'percentiles'
  data.context = 1  # the slices above and below, as two more channels

  config.evaluate.flips = True
  config.augment.flip_left_right = True  # the prostate mirrors itself across the midline
  return defaults.apply_variants(config, variants, small=_small, paper=_paper)


def _small(config: ConfigDict) -> None:
  """Sizes for two CPU cores."""
  config.data.image_size = 128

  search = config.search
  search.epochs = 10
  search.warmup_epochs = 3
  search.batch_size = 8
  search.channels = 16
  search.architecture_learning_rate = 3e-3  # a fifth of the steps: each may go five times as far

  retrain = config.retrain
  retrain.epochs = 50
  retrain.batch_size = 8


def _paper(config: ConfigDict) -> None:
  """The authors' settings, as far as the docstring says."""
  authors.apply(config)
  config.data.validation_patients = ('Case05', 'Case15', 'Case25', 'Case35', 'Case45')
  config.augment.translate = (0.2, 0.2)
  config.retrain.clip_norm = 3.0
  config.retrain.patience = 300
