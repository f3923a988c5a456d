"""Batch normalisation, whose running statistics are leaves of the parameters.

A network is in training while the collection `statistics` is mutable: norms then use the mean and
variance of the batch, over all devices that share it, and put them there. Else they use the leaves
`mean` and `variance`, which the training step moves towards the batch's, see `follow`. So weights
and statistics are averaged, saved and placed as one tree, and an export folds both away.

Source: Ioffe and Szegedy, 2015.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import lax

from thrifty_jax.networks.norm import EPSILON, Affine, standardise
from thrifty_jax.networks.spatial import at_least_float32

COLLECTION = 'statistics'
LEAVES = ('mean', 'variance')
MOMENTUM = 0.9  # share of the running statistics that a step keeps


class BatchNorm(nn.Module):
  """Normalises every channel of x [B, H, W, C], then scale, bias and, if asked, relu."""

  relu: bool = False
  frozen: bool = False  # whether it uses its running statistics in training too, and keeps them

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)
    mean = self.param('mean', nn.initializers.zeros, shape)
    variance = self.param('variance', nn.initializers.ones, shape)
    if self.is_mutable_collection(COLLECTION) and not self.frozen:
      found = lax.stop_gradient(at_least_float32(x))
      axes = tuple(range(x.ndim - 1))
      self.put_variable(COLLECTION, 'mean', found.mean(axes))
      self.put_variable(COLLECTION, 'variance', found.var(axes))
      # One example of all rows, a group a channel: the same formula as of group normalisation.
      rows = x.reshape(1, -1, *x.shape[2:])
      return standardise(rows, 1, Affine(scale, bias), relu=self.relu).reshape(x.shape)
    factor = scale * lax.rsqrt(variance + EPSILON)
    y = (x * factor + (bias - mean * factor)).astype(x.dtype)
    return nn.relu(y) if self.relu else y


def follow(params: Any, statistics: Any, *, old: Any) -> Any:
  """Moves the running statistics in a tree of parameters towards those of a batch.

  Args:
    params: Parameters after the optimiser's update, which is not for statistics.
    statistics: Collection `statistics` of the step's forward pass; may be empty.
    old: Parameters before the update.

  Returns:
    The parameters with new leaves `mean` and `variance`.
  """
  if not statistics:
    return params
  leaves: dict[Any, Any] = traverse_util.flatten_dict(params)
  before: dict[Any, Any] = traverse_util.flatten_dict(old)
  for path, new in traverse_util.flatten_dict(statistics).items():
    kept = before[path]
    leaves[path] = MOMENTUM * kept + (1 - MOMENTUM) * jnp.asarray(new, kept.dtype)
  return traverse_util.unflatten_dict(leaves)
