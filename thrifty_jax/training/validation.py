"""What a training's weights are worth on the validation patients."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from thrifty_jax import model
from thrifty_jax.data import mesh
from thrifty_jax.scores import evaluate
from thrifty_jax.training import hosts
from thrifty_jax.training.train_data import TrainData

# Parameters -> what predicts the slices of a case.
WithParams = Callable[[model.Params], evaluate.Predict]


def make_predict(config: ConfigDict, train_data: TrainData, net: nn.Module) -> WithParams:
  """Makes the function from parameters to one that predicts the slices of a case."""
  whole = mesh.whole(train_data.mesh)  # so every process has all of it

  @functools.partial(jax.jit, out_shardings=whole)
  def logits(params: model.Params, image: jax.Array) -> jax.Array:
    return model.last_logits(model.apply(net, params, image))

  def with_params(params: model.Params) -> evaluate.Predict:
    return evaluate.network_predict(
      lambda image: logits(params, image),
      statistics=train_data.statistics,
      context=config.data.context,
      batch_size=config.evaluate.batch_size,
      mesh=train_data.mesh,
    )

  return with_params


def validate(config: ConfigDict, train_data: TrainData, predict: evaluate.Predict) -> float:
  """DSC of the validation patients, in [0, 1], the same in every process."""
  dsc = evaluate.validation_dsc(
    train_data.validation,
    train_data.patients['validation'],
    predict,
    protocol=config.evaluate.protocol,
  )
  return hosts.share_first(dsc)  # it decides which epoch is the best, and when to stop
