"""Batch normalisation against its formula in numpy, and its running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax.networks import batch_norm
from thrifty_jax.networks.norm import EPSILON

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')


def make(*, relu=False, channels=5):
  generator = np.random.default_rng(0)
  x = generator.normal(1, 2, size=(3, 4, 6, channels)).astype(np.float32)
  params = {
    name: generator.uniform(0.5, 2, channels).astype(np.float32)
    for name in ('scale', 'bias', 'mean', 'variance')
  }
  return batch_norm.BatchNorm(relu=relu), params, x


def train(net, params, x):
  return net.apply({'params': params}, x, mutable=[batch_norm.COLLECTION])


@pytest.mark.parametrize('relu', [False, True])
def test_training_normalises_every_channel_over_the_batch(relu):
  net, params, x = make(relu=relu)
  y, changed = train(net, params, x)
  mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
  expected = (x - mean) / np.sqrt(variance + EPSILON) * params['scale'] + params['bias']
  np.testing.assert_allclose(y, np.maximum(expected, 0) if relu else expected, atol=1e-5)
  np.testing.assert_allclose(changed['statistics']['mean'], mean, rtol=1e-5)
  np.testing.assert_allclose(changed['statistics']['variance'], variance, rtol=1e-5)


@pytest.mark.parametrize('relu', [False, True])
def test_prediction_uses_the_running_statistics(relu):
  net, params, x = make(relu=relu)
  y = np.asarray(net.apply({'params': params}, x))
  expected = (x - params['mean']) / np.sqrt(params['variance'] + EPSILON)
  expected = expected * params['scale'] + params['bias']
  np.testing.assert_allclose(y, np.maximum(expected, 0) if relu else expected, atol=1e-5)


def test_gradients_are_those_of_the_formula():
  net, params, x = make()
  weights = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)

  def ours(params, x):
    return jnp.sum(train(net, params, x)[0] * weights)

  def formula(params, x):
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - mean) / jnp.sqrt(variance + EPSILON) * params['scale'] + params['bias']
    return jnp.sum(y * weights)

  found, expected = (jax.grad(one, (0, 1))(params, x) for one in (ours, formula))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), found, expected)


def test_running_statistics_move_by_the_momentum_and_nothing_else_does():
  old, updated, batch = (
    {'norm': {name: jnp.full(2, value) for name, value in values.items()}}
    for values in (
      {'mean': 0.0, 'variance': 1.0, 'scale': 1.0},
      {'mean': 9.0, 'variance': 0.0, 'scale': 3.0},
      {'mean': 10.0, 'variance': 2.0},
    )
  )
  found = batch_norm.follow(updated, batch, old=old)['norm']
  np.testing.assert_allclose(found['mean'], 1.0)  # 0.9 * 0 + 0.1 * 10, whatever an optimiser did
  np.testing.assert_allclose(found['variance'], 1.1)
  np.testing.assert_allclose(found['scale'], 3.0)


def test_parameters_without_batch_norms_are_left_as_they_are():
  params = {'kernel': np.ones(3)}
  assert batch_norm.follow(params, {}, old=params) is params
