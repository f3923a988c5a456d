"""The authors' settings that are the same for both of their data sets.

Read from their public development code and the paper, Thrifty NAS (AAAI 2022); where a data set
differs, its config says so.
"""

from ml_collections import ConfigDict


def apply(config: ConfigDict) -> None:
  """Sets them, in place."""
  config.evaluate.protocol = 'pooled_2d'
  config.evaluate.flips = False
  config.data.context = 0

  augment = config.augment
  augment.flip_left_right = True
  augment.flip_up_down = True
  augment.rotate_degrees = 0.0
  augment.scale = (1.0, 1.0)
  augment.elastic_probability = 0.5
  augment.elastic_alpha = 384.0
  augment.elastic_sigma = 17.9
  augment.gamma = (1.0, 1.0)
  augment.gain = 0.0
  augment.offset = 0.0
  augment.noise = 0.0

  search = config.search
  search.epochs = 1000
  search.patience = 50
  search.architecture_learning_rate = 1e-4

  retrain = config.retrain
  retrain.epochs = 3600
  retrain.optimizer = 'sgd'
  retrain.learning_rate = 6e-3
  retrain.warmup_epochs = 0
  retrain.weight_decay = 5e-4
  retrain.ema_decay = 0.0
  retrain.validate_every = 1
