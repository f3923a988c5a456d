"""Settings that the authors use for both of their data sets: the variant `paper`.

A comment names the source of each value. `paper`: Thrifty NAS (AAAI 2022). `code`: the first
author's public development code, github.com/RayburnChen/NasUnet at commit 6468752. `ours`: the
authors have no such step, so it is off, or only this value reproduces the paper's numbers. The
configs set what differs between the data sets; their docstrings list our deliberate deviations.
"""

from ml_collections import ConfigDict

# All fields of a recipe are set, so that no later default changes it. The configs of the data sets
# set crop, translation, and the clip norm and patience of the retraining.
RECIPE = {
  'data.context': 0,  # code: a single slice
  'data.image_size': 256,  # code
  'data.hold_out_test': False,  # code: all patients outside validation train
  'augment.flip_left_right': True,  # code, probability 0.5
  'augment.flip_up_down': True,  # code, probability 0.5
  'augment.elastic_probability': 0.5,  # code
  'augment.elastic_alpha': 384.0,  # code: 1.5 sides of 256 pixels
  'augment.elastic_sigma': 17.9,  # code: 0.07 sides
  'augment.rotate_degrees': 0.0,  # ours: off, like all of the augmentation below
  'augment.flip_diagonal': False,
  'augment.scale': (1.0, 1.0),
  'augment.blur_probability': 0.0,
  'augment.coarse_probability': 0.0,
  'augment.saturation': 0.0,
  'augment.hue_degrees': 0.0,
  'augment.gamma': (1.0, 1.0),
  'augment.gamma_inverted': 0.0,
  'augment.gain': 0.0,
  'augment.bias_field': 0.0,
  'augment.offset': 0.0,
  'augment.noise': 0.0,
  'model.channels': 32,  # code
  'model.depth': 5,  # paper, figure 1
  'model.nodes': 2,  # paper, figure 1
  'model.edges_per_node': 2,  # code; the paper's K
  'model.deep_supervision': False,  # code
  'model.width': 32,  # ours: gives U-Nets with the paper's 7.76M and 9.04M parameters
  'model.norm': 'none',  # ours: the U-Nets have the paper's numbers without norms
  'search.epochs': 1000,  # code, at most
  'search.warmup_epochs': 15,  # code: the architecture is learned from here on
  'search.patience': 50,  # code: epochs with the same genotype
  'search.batch_size': 12,  # code
  'search.channels': 32,  # code
  'search.sample': 4,  # code, as in PC-DARTS
  'search.sampling': 'shuffle',  # code, as in the code of PC-DARTS
  'search.order': 'first',  # code
  'search.operations': (),  # code: all
  'search.weight_learning_rate': 0.025,  # code; SGD, cosine decay to the next value
  'search.weight_learning_rate_end': 1e-3,  # code
  'search.weight_momentum': 0.9,  # code
  'search.weight_decay': 3e-4,  # code
  'search.clip_norm': 5.0,  # code
  'search.architecture_learning_rate': 1e-4,  # code; Adam
  'search.architecture_betas': (0.5, 0.999),  # code
  'search.architecture_decay': 1e-3,  # code
  'search.cell_path': False,  # ours: the paper names it and reports no result
  'search.max_parameters': 0,  # ours: off
  'retrain.epochs': 3600,  # code, at most
  'retrain.batch_size': 12,  # code
  'retrain.optimizer': 'sgd',  # code
  'retrain.learning_rate': 6e-3,  # code; cosine decay to 0
  'retrain.warmup_epochs': 0,  # ours: off
  'retrain.momentum': 0.9,  # code
  'retrain.weight_decay': 5e-4,  # code
  'retrain.ema_decay': 0.0,  # ours: off
  'retrain.validate_every': 1,  # code
  'evaluate.protocol': 'pooled_2d',  # code; the best epoch is chosen and reported on one set
  'evaluate.flips': False,  # ours: off
}


def apply(config: ConfigDict) -> None:
  """Sets the recipe in place."""
  config.update_from_flattened_dict(RECIPE)
