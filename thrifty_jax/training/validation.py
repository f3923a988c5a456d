"""Scores of a training's weights on the validation patients."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from thrifty_jax.data import mesh
from thrifty_jax.networks import build, inference
from thrifty_jax.networks.model_spec import ModelSpec
from thrifty_jax.scores import cases
from thrifty_jax.training import hosts
from thrifty_jax.training.train_data import TrainData

# Maps parameters to the function that predicts the slices of a case.
WithParams = Callable[[build.Params], inference.Predict]


def make_predict(
  config: ConfigDict, train_data: TrainData, net: nn.Module, spec: ModelSpec
) -> WithParams:
  """Returns the function from parameters to one that predicts the slices of a case."""
  whole = mesh.whole(train_data.mesh)  # so that every process has the whole output
  background = np.asarray(spec.background, np.float32)

  @functools.partial(jax.jit, out_shardings=whole)
  def logits(params: build.Params, image: jax.Array) -> jax.Array:
    return build.last_logits(build.apply(net, params, image, background=background))

  def with_params(params: build.Params) -> inference.Predict:
    of_image, batch_size = functools.partial(logits, params), config.evaluate.batch_size
    return inference.predict_with(of_image, spec, batch_size=batch_size, mesh=train_data.mesh)

  return with_params


def validate(config: ConfigDict, train_data: TrainData, predict: inference.Predict) -> float:
  """Returns the DSC of the validation patients, in [0, 1], equal in every process."""
  patients, protocol = train_data.patients['validation'], config.evaluate.protocol
  dsc = cases.validation_dsc(train_data.validation, patients, predict, protocol=protocol)
  return hosts.share_first(dsc)  # it determines the best epoch and when to stop
