"""The liver in CT: CHAOS, 20 labelled patients.

  python -m thrifty_jax.main --config=configs/chaos.py            a GPU
  python -m thrifty_jax.main --config=configs/chaos.py:small      a laptop's CPU
  python -m thrifty_jax.main --config=configs/chaos.py:paper      the authors' settings

The folder data.raw_dir holds Train_Sets/CT/<patient>/DICOM_anon and Ground; where to get them is
said when they are missing.

Not measured yet: neither variant has been run on the real scans.

Variants, which compose (`:small,unet`), applied from left to right:
  small                  128 x 128, a narrow supernet and few epochs.
  paper                  the authors' window (0 to 255 HU), search schedule (SGD 0.025 to 1e-3, Adam
                         1e-4, batch 12, architecture from epoch 15, stop after 50 epochs with an
                         unchanged genotype), retraining (SGD 6e-3, momentum 0.9, decay 5e-4, clip
                         5, patience 200), flips, translation and elastic deformation, and their
                         pooled 2D Dice as the protocol. Not theirs: no random crop, no augmented
                         validation, and the split is by patient, never by slice.
  unet, unet_plus_plus   a baseline instead of the search.
"""

from ml_collections import ConfigDict

from thrifty_jax import authors
from thrifty_jax import config as defaults


def get_config(variants: str = '') -> ConfigDict:
  """The settings; variants are the names after the colon, separated by commas."""
  config = defaults.default()

  data = config.data
  data.name = 'chaos'
  data.classes = ('background', 'liver')
  data.image_size = 256
  data.intensity = 'window'
  data.window = (-150.0, 250.0)

  # No flips: the liver lies on one side.
  return defaults.apply_variants(config, variants, small=_small, paper=_paper)


def _small(config: ConfigDict) -> None:
  """Sizes for two CPU cores."""
  config.data.image_size = 128

  search = config.search
  search.epochs = 10
  search.warmup_epochs = 3
  search.batch_size = 8
  search.channels = 16

  retrain = config.retrain
  retrain.epochs = 30
  retrain.batch_size = 16


def _paper(config: ConfigDict) -> None:
  """The authors' settings, as far as the docstring says."""
  authors.apply(config)
  config.data.window = (0.0, 255.0)
  config.augment.translate = (0.3, 0.3)
  config.retrain.clip_norm = 5.0
  config.retrain.patience = 200
