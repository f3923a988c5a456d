"""Weights as two vectors: nothing of them is lost, and what is computed on them stays the same."""

import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thrifty_jax.networks import build
from thrifty_jax.training import packing
from thrifty_jax.training.autosave import Autosave


class Net(nn.Module):
  """A convolution, a scale and a bias."""

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(3, (2, 2), name='first')(x)
    scale = self.param('scale', nn.initializers.ones, (3,))
    return nn.Conv(2, (1, 1), use_bias=False, name='last')(jnp.tanh(scale * x))


@pytest.fixture(scope='module')
def image():
  return jax.random.normal(jax.random.key(0), (2, 5, 5, 1))


@pytest.fixture(scope='module')
def params(image):
  drawn = Net().init(jax.random.key(1), image)['params']
  return jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), drawn)


def assert_equal(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def apply(params, image) -> Any:
  return Net().apply({'params': packing.unpacked(params)}, image)


def assert_close(found, expected):
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
  jax.tree.map(close, found, expected)


def test_weights_come_back_as_they_were_and_kernels_lie_apart(params):
  packed = packing.pack(params)
  assert [vector.shape for vector in jax.tree.leaves(packed)] == [(12 + 6,), (3 + 3,)]
  np.testing.assert_array_equal(packed.kernels[-6:], params['last']['kernel'].ravel())
  assert_equal(packing.unpacked(packed), jax.tree.map(np.asarray, params))
  assert_equal(jax.jit(packing.unpacked)(packed), params)
  assert packing.unpacked(params) is params
  assert build.count(packed) == build.count(params)


def test_a_network_and_its_gradient_are_those_of_the_weights_one_by_one(params, image):
  def loss(params):
    return (apply(params, image) ** 2).sum()

  value, gradient = jax.jit(jax.value_and_grad(loss))(packing.pack(params))
  expected_value, expected = jax.value_and_grad(loss)(params)
  np.testing.assert_allclose(value, expected_value, rtol=1e-6)
  assert len(jax.tree.leaves(gradient)) == 2
  assert_close(packing.unpacked(gradient), expected)


def test_a_gradient_through_a_step_is_that_of_the_weights_one_by_one(params, image):
  def ahead(factor, params):
    gradient = jax.grad(lambda p: (factor * apply(p, image) ** 2).sum())(params)
    moved = jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)
    return (apply(moved, image) ** 2).sum()

  for wanted in (jax.grad(ahead), jax.grad(ahead, argnums=1)):
    found, expected = jax.jit(wanted)(0.5, packing.pack(params)), wanted(0.5, params)
    assert_close(packing.unpacked(found), expected)
    assert np.abs(jax.tree.leaves(expected)[0]).max() > 0.1


def test_several_networks_have_a_leading_axis_and_are_computed_together(params, image):
  both = [params, jax.tree.map(lambda leaf: -leaf, params)]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(packing.pack, both))
  assert stacked.kernels.shape == (2, 18)
  assert_equal(packing.unpacked(stacked), jax.tree.map(lambda *each: jnp.stack(each), *both))

  def gradient(params):
    return jax.grad(lambda p: (apply(p, image) ** 2).sum())(params)

  found = jax.tree.leaves(jax.jit(jax.vmap(gradient))(stacked))
  for place, own in enumerate(both):
    assert_close([vector[place] for vector in found], jax.tree.leaves(gradient(packing.pack(own))))


def test_an_optimiser_moves_packed_weights_as_it_moves_them_one_by_one(params, image):
  optimizer = optax.chain(
    optax.clip_by_global_norm(0.3),
    optax.adamw(0.1, weight_decay=0.5, mask=packing.is_kernel),
  )

  def step(params, state):
    gradient = jax.grad(lambda p: (apply(p, image) ** 2).sum())(params)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  vectors, weights = jax.tree.map(jnp.asarray, packing.pack(params)), params
  states = optimizer.init(vectors), optimizer.init(weights)
  for _ in range(3):
    vectors, of_vectors = jax.jit(step)(vectors, states[0])
    weights, of_weights = jax.jit(step)(weights, states[1])
    states = of_vectors, of_weights
    assert_close(packing.unpacked(vectors), weights)
  moments = packing.all_unpacked(states[0])
  assert jax.tree.structure(moments) == jax.tree.structure(states[1])
  assert_close(moments, states[1])


class Progress:
  """Of a loop: a step, weights, and whatever belongs to each of them."""

  def __init__(self, params, *, several):
    self.state: Any = None
    self.epoch = 0
    self.tree = {'step': jnp.array(3), 'params': params, 'more': (several, {'of': params})}

  def arrays(self):
    return self.tree

  def take_up(self, arrays, notes):
    assert notes == {'epoch': 3}
    self.tree = arrays
    self.state = types.SimpleNamespace(step=arrays['step'])


@pytest.mark.parametrize('saved_packed', [True, False])
@pytest.mark.parametrize('taken_up_packed', [True, False])
def test_a_checkpoint_has_weights_one_by_one_and_is_taken_up_either_way(
  saved_packed, taken_up_packed, params, tmp_path
):
  def progress(*, packed, factor):
    own = jax.tree.map(lambda leaf: factor * leaf, params)
    own = jax.tree.map(jnp.asarray, packing.pack(own)) if packed else own
    return Progress(own, several=jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), own))

  saved = progress(packed=saved_packed, factor=1.0)
  with Autosave(tmp_path, 'search', seconds=0) as autosave:
    autosave.offer(lambda: (saved.arrays(), {'epoch': 3}), finished=True)
  found = progress(packed=taken_up_packed, factor=0.0)
  Autosave(tmp_path, 'search', seconds=0).resume(found)
  assert_equal(found.tree, progress(packed=taken_up_packed, factor=1.0).tree)
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found.tree))
