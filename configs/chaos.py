"""CHAOS: the liver in CT, or liver, kidneys and spleen in MR; 20 labelled patients each.

  python -m thrifty_jax.main --config=configs/chaos.py            CT, on a GPU
  python -m thrifty_jax.main --config=configs/chaos.py:small      CT, on a laptop's CPU
  python -m thrifty_jax.main --config=configs/chaos.py:paper      CT, the authors' settings
  python -m thrifty_jax.main --config=configs/chaos.py:t2,small --workdir=runs/chaos_t2

The folder data.raw_dir contains Train_Sets/CT and Train_Sets/MR, like the archive; if it is
missing, a message names its source. CT and MR show different people, even where numbers agree; T1
and T2 of one number are one person.

Not measured yet: no variant has been run on the real scans.

Variants, which compose (`:t1,small,unet`), applied from left to right:
  t1                     MR, T1-DUAL: two channels, in and out of phase, and four organs.
  t2                     MR, T2-SPIR: one channel and the same organs. Either needs a --workdir of
                         its own: without it runs of CT and MR share runs/chaos, and are refused.
  small                  128 x 128, a narrow supernet and few epochs.
  paper                  the authors' settings, see below; for a GPU; CT only.
  unet, unet_plus_plus   a baseline instead of the search.
  batch                  batch norms for cells and baselines and, unless the config has a rate of
                         its own, the learning rate of lean networks.
  lean                   a race of lean networks for search.max_ms milliseconds instead.

`:paper` takes from the authors (their paper or their public code):
  images                 0 to 255 HU, linear resize to 256, mean 0.2389, deviation 0.2801.
  augmentation           a crop of 0.45 to 1 of the area, aspect 0.5 to 2, back to full size;
                         translation +-0.3; two flips and elastic deformation, each with 50 %.
  search, network        all of thrifty_jax/authors.py: first SGD, then SGD and Adam in turn, up to
                         1000 epochs; 32 channels, depth 5, 2 nodes.
  retraining             SGD 6e-3, batch 12, up to 3600 epochs, clip 5, patience 200.
  metric, selection      one Dice over all validation slices at 256 x 256; the best epoch is chosen
                         and reported on them: not held out. There are no test patients.
and deliberately differs in this:
  split                  by patient, 16 train and 4 validate. Theirs is by slice, a fifth of them
                         validate: a patient can be on both sides. Corrected.
  validation images      are never augmented. Theirs are, so each epoch scores other images.
                         Corrected.
  halves of the search   by patient, of the training patients alone, for the same reason.
  architecture           its variables are not in the weights' optimiser, decay or clip norm, as
                         theirs are by mistake. Corrected.
  crop                   from the slice of 256 pixels, not before the resize: slices are prepared
                         once. Its aspect is log-uniform, theirs uniform in either orientation.
  border                 image and mask repeat the slice's border beyond it, and continue with the
                         slice beyond a crop: one warp, one resampling, instead of one a step.
  norms                  GroupNorm everywhere, where their residual block has BatchNorm: no batch
                         statistics to carry, and as many parameters. In the search those of the
                         stem and of in0's 1x1 convolution have a scale and a bias too.
"""

from ml_collections import ConfigDict

from thrifty_jax import authors
from thrifty_jax import config as defaults
from thrifty_jax.errors import InputError

_OF_ONE_DATA_SET = {'t1', 't2', 'paper'}  # of CHAOS the authors used CT only


def get_config(variants: str = '') -> ConfigDict:
  """Returns the settings; variants are the names after the colon, separated by commas."""
  if len(names := sorted(_OF_ONE_DATA_SET & {name.strip() for name in variants.split(',')})) > 1:
    raise InputError(
      f'config variants {" and ".join(names)} are of different data sets; name one of them'
    )
  config = defaults.default()

  data = config.data
  data.name = 'chaos'
  data.classes = ('background', 'liver')
  data.image_size = 256
  data.intensity = 'window'
  data.window = (-150.0, 250.0)

  # No flips: the liver lies on one side.
  return defaults.apply_variants(config, variants, t1=_t1, t2=_t2, small=_small, paper=_paper)


def _t1(config: ConfigDict) -> None:
  """Sets MR, in and out of phase."""
  _mr(config, 'chaos_t1', channels=2)


def _t2(config: ConfigDict) -> None:
  """Sets MR with fat suppression."""
  _mr(config, 'chaos_t2', channels=1)


def _mr(config: ConfigDict, name: str, *, channels: int) -> None:
  config.data.name = name
  config.data.classes = ('background', 'liver', 'right kidney', 'left kidney', 'spleen')
  config.data.modalities = channels
  config.data.intensity = 'percentiles'  # MR has no unit


def _small(config: ConfigDict) -> None:
  """Sets sizes for two CPU cores."""
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
  """Sets the authors' values; `code` is their public code, see thrifty_jax/authors.py."""
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
