"""Generated scans of ellipsoid organs: a run without any data, and what the tests use.

  python -m thrifty_jax.main --config=configs/phantom.py

The scans are generated into data.raw_dir if they are missing. They are easy on purpose; their
scores say nothing about real scans.

Variants: unet, unet_plus_plus (a baseline instead of the search), lean (a race of lean
networks for search.max_ms milliseconds), batch (batch norms for the others).
"""

from ml_collections import ConfigDict

from thrifty_jax import config as defaults


def get_config(variants: str = '') -> ConfigDict:
  """Returns the settings; variants are the names after the colon, separated by commas."""
  config = defaults.default()

  data = config.data
  data.name = 'phantom'
  data.classes = ('background', 'organ')
  data.image_size = 32

  config.augment.flip_left_right = True

  config.model.channels = 8
  config.model.depth = 3

  search = config.search
  search.epochs = 4
  search.warmup_epochs = 2
  search.batch_size = 8
  search.channels = 8

  retrain = config.retrain
  retrain.epochs = 20
  retrain.batch_size = 8
  retrain.warmup_epochs = 1
  retrain.validate_every = 5
  return defaults.apply_variants(config, variants)
