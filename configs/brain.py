"""Grey and white matter in one averaged brain: the first run, with no download of data.

  python -m thrifty_jax.main --config=configs/brain.py

The ICBM152 template comes with the nilearn package (requirements-demo.txt). It is one brain, the
average of many, cut into blocks of slices that stand in for patients, each as a scanner of its own
would show it: coil, contrast and noise are simulated. So this run shows that everything works; it
proves nothing about a network. For real data sets see promise12.py and chaos.py.

Measured on two CPU cores, seed 0, fold 0: 3 min 28 s without a compilation cache; test DSC 88.2 %
of grey and 83.5 % of white matter (intensity thresholds: 77.7 % and 42.6 %).

Variants: unet, unet_plus_plus (a baseline instead of the search), lean (a race of lean
networks for search.max_ms milliseconds), batch (batch norms for the others).
"""

from ml_collections import ConfigDict

from thrifty_jax import config as defaults


def get_config(variants: str = '') -> ConfigDict:
  """Returns the settings; variants are the names after the colon, separated by commas."""
  config = defaults.default()

  data = config.data
  data.name = 'brain'
  data.classes = ('background', 'grey matter', 'white matter')
  data.image_size = 192  # one pixel a voxel: grey matter is too thin for a coarser grid
  data.intensity = 'window'  # a block is not a scan: its own percentiles depend on its position
  data.window = (0.0, 255.0)

  # One averaged brain: there are no other shapes to learn. Scales vary widely all the same: the
  # norms of a network remove a slice's mean and contrast, and both depend on how much of the slice
  # is brain. Contrast and coil vary as in the data.
  augment = config.augment
  augment.flip_left_right = True  # the halves mirror each other
  augment.rotate_degrees = 20.0
  augment.scale = (0.65, 1.4)
  augment.translate = (0.1, 0.1)
  augment.elastic_probability = 0.0
  augment.gamma = (0.75, 1.35)
  augment.bias_field = 0.2
  augment.gain = 0.0
  augment.offset = 0.0
  augment.noise = 0.03

  config.model.channels = 16
  config.model.depth = 4

  search = config.search
  search.epochs = 6
  search.warmup_epochs = 2
  search.batch_size = 4
  search.channels = 16
  search.architecture_learning_rate = 1e-2  # a few dozen steps in all

  retrain = config.retrain
  retrain.epochs = 22
  retrain.batch_size = 4
  retrain.learning_rate = 3e-3
  retrain.warmup_epochs = 1
  retrain.validate_every = 5

  config.evaluate.threshold_floor = True  # without a coil, intensity alone separates the tissues
  return defaults.apply_variants(config, variants)
