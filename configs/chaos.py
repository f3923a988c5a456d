"""The liver in CT: CHAOS, 20 labelled patients.

  python -m thrifty_jax.main --config=configs/chaos.py            a GPU
  python -m thrifty_jax.main --config=configs/chaos.py:small      a laptop's CPU
  python -m thrifty_jax.main --config=configs/chaos.py:paper      the authors' settings

The folder data.raw_dir holds Train_Sets/CT/<patient>/DICOM_anon and Ground; where to get them is
said when they are missing.

Not measured yet: neither variant has been run on the real scans.

Variants, which compose (`:small,unet`), applied from left to right:
  small                  128 x 128, a narrow supernet and few epochs.
  paper                  the authors' settings, see below; for a GPU.
  unet, unet_plus_plus   a baseline instead of the search.

`:paper` has of the authors (their paper, or their public code):
  images                 0 to 255 HU, linear resize to 256, mean 0.2389, deviation 0.2801.
  augmentation           a crop of 0.45 to 1 of the area, aspect 0.5 to 2, back to full size;
                         translation +-0.3; two flips and elastic deformation, each one in two.
  search, network        all of thrifty_jax/authors.py: first SGD, then SGD and Adam in turn, up to
                         1000 epochs; 32 channels, depth 5, 2 nodes.
  retraining             SGD 6e-3, batch 12, up to 3600 epochs, clip 5, patience 200.
  metric, selection      one Dice over all validation slices at 256 x 256; the best epoch is chosen
                         and reported on them: not held out. Nobody is kept for a test.
and is deliberately different in this:
  split                  by patient, 16 train and 4 validate. Theirs is by slice, a fifth of them
                         validate: a patient can be on both sides. Corrected.
  validation images      are never augmented. Theirs are, which scores other images in each epoch.
                         Corrected.
  halves of the search   by patient, of the training patients alone, for the same reason.
  architecture           its variables are not in the weights' optimiser, decay or clip norm, as
                         theirs are by mistake. Corrected.
  crop                   from the slice of 256 pixels, not before the resize: slices are prepared
                         once. Its aspect is log-uniform, theirs uniform either way up.
  border                 image and mask go on beyond the slice as at its border, and after a crop as
                         the slice itself: one warp, one resampling, instead of one a step.
  norms                  GroupNorm everywhere, where their residual block has BatchNorm: no batch
                         statistics to carry, and as many parameters.
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
  """The authors' settings; `code` is their public code, see thrifty_jax/authors.py."""
  authors.apply(config)

  data = config.data
  data.intensity = 'window'
  data.window = (0.0, 255.0)  # code, HU
  data.mean = (0.2389,)  # code
  data.std = (0.2801,)  # code
  data.clahe_clip_limit = 0.0  # ours: off
  data.resize = 'linear'  # code
  data.curvature_flow_iterations = 0  # ours: off

  augment = config.augment
  augment.crop_area = (0.45, 1.0)  # code
  augment.crop_aspect = (0.5, 2.0)  # code
  augment.translate = (0.3, 0.3)  # code

  config.retrain.clip_norm = 5.0  # code
  config.retrain.patience = 200  # code
