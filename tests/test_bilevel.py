"""The bilevel step against finite differences, its two optimisers against numpy."""

import contextlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from thrifty_jax import bilevel
from thrifty_jax import config as configs
from thrifty_jax.bilevel import Learners
from thrifty_jax.network import Supernet


@contextlib.contextmanager
def double_precision(monkeypatch):
  """Float64 everywhere, also where the code asks for float32."""
  jax.config.update('jax_enable_x64', True)
  with monkeypatch.context() as patch:
    patch.setattr(jnp, 'float32', jnp.float64)
    try:
      yield
    finally:
      jax.config.update('jax_enable_x64', False)


def test_the_architecture_step_follows_the_finite_differences_of_its_loss(monkeypatch):
  random = np.random.default_rng(0)
  with double_precision(monkeypatch):
    batch = {
      'image': jnp.asarray(random.normal(size=(2, 8, 8, 1))),
      'label': jnp.asarray(random.integers(2, size=(2, 8, 8)), jnp.int32),
    }
    net = Supernet(classes=2, channels=4, depth=2, nodes=2, sample=2)
    # Steepest descent at rate 1: the step is the gradient.
    learners = Learners(net, optax.sgd(1.0), optax.sgd(1.0))
    shape = jax.ShapeDtypeStruct(batch['image'].shape, batch['image'].dtype)
    state = bilevel.init_state(learners, shape, seed=0)
    uneven = jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape)), state.architecture)
    state = state._replace(architecture=uneven)
    _, step = bilevel.make_half_steps(learners, augment=lambda key, batch: batch, seed=0)
    step = jax.jit(step)
    moved, metrics = step(state, batch)
    assert metrics['architecture_loss'].dtype == np.float64
    gradient = jax.tree.map(lambda a, b: np.asarray(a - b), state.architecture, moved.architecture)

    leaves, tree = jax.tree.flatten(state.architecture)
    leaves = [np.array(leaf) for leaf in leaves]
    expected = [np.zeros(leaf.shape) for leaf in leaves]
    for leaf, result in zip(leaves, expected, strict=True):
      for place in np.ndindex(leaf.shape):
        losses = []
        for distance in (1e-5, -1e-5):
          before = leaf[place]
          leaf[place] += distance
          changed = state._replace(architecture=jax.tree.unflatten(tree, map(jnp.asarray, leaves)))
          losses.append(float(step(changed, batch)[1]['architecture_loss']))
          leaf[place] = before
        result[place] = (losses[0] - losses[1]) / 2e-5
    for found, result in zip(jax.tree.leaves(gradient), expected, strict=True):
      np.testing.assert_allclose(found, result, rtol=1e-5, atol=1e-8)
    assert len(expected) == 2 * 5 + 2  # alphas of five edges and betas, down and up
    for result in expected:  # every edge and every beta matters to the loss
      assert np.abs(result).max() > 1e-5


def numpy_sgd(params, gradients, *, clip, decay, momentum, rates):
  """Clip, then L2 decay, then momentum: `torch.nn.utils.clip_grad_norm_`, then `optim.SGD`."""
  params = [np.array(p, float) for p in params]
  velocity = [np.zeros_like(p) for p in params]
  for gradient, rate in zip(gradients, rates, strict=True):
    norm = math.sqrt(sum((g**2).sum() for g in gradient))
    gradient = [g * min(1.0, clip / norm) for g in gradient]
    for p, v, g in zip(params, velocity, gradient, strict=True):
      v[...] = momentum * v + (g + decay * p)
      p -= rate * v
  return params


def numpy_adam(params, gradients, *, decay, rate, betas):
  """Adam with L2 decay added to the gradient: `optim.Adam(weight_decay=...)`."""
  params = [np.array(p, float) for p in params]
  first, second = ([np.zeros_like(p) for p in params] for _ in range(2))
  for count, gradient in enumerate(gradients, start=1):
    for p, m, v, g in zip(params, first, second, gradient, strict=True):
      g = g + decay * p
      m[...] = betas[0] * m + (1 - betas[0]) * g
      v[...] = betas[1] * v + (1 - betas[1]) * g**2
      p -= rate * (m / (1 - betas[0] ** count)) / (np.sqrt(v / (1 - betas[1] ** count)) + 1e-8)
  return params


def some_steps(seed):
  """Parameters and the gradients of five steps: some above, some below the clip norm."""
  random = np.random.default_rng(seed)
  shapes = [(3, 4), (5,), ()]
  params = [random.normal(size=shape) for shape in shapes]
  sizes = (3.0, 0.01, 1.0, 0.05, 10.0)
  return params, [[size * random.normal(size=shape) for shape in shapes] for size in sizes]


def run_optimizer(transformation, params, gradients):
  params = [jnp.asarray(p, jnp.float32) for p in params]
  state = transformation.init(params)
  for gradient in gradients:
    updates, state = transformation.update(
      [jnp.asarray(g, jnp.float32) for g in gradient], state, params
    )
    params = optax.apply_updates(params, updates)
  return params


def search_settings(**changes):
  settings = configs.default().search
  settings.update(changes)
  return settings


def test_the_weights_follow_sgd_as_pytorch_has_it():
  params, gradients = some_steps(0)
  settings = search_settings(clip_norm=0.5, weight_decay=0.1, weight_learning_rate=0.3)
  found = run_optimizer(bilevel.weight_optimizer(settings, steps=5), params, gradients)
  low, high = settings.weight_learning_rate_end, settings.weight_learning_rate
  rates = [low + (high - low) * (1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)]
  expected = numpy_sgd(params, gradients, clip=0.5, decay=0.1, momentum=0.9, rates=rates)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_architecture_follows_adam_as_pytorch_has_it():
  params, gradients = some_steps(1)
  settings = search_settings(architecture_decay=0.1, architecture_learning_rate=0.2)
  found = run_optimizer(bilevel.architecture_optimizer(settings), params, gradients)
  expected = numpy_adam(params, gradients, decay=0.1, rate=0.2, betas=(0.5, 0.999))
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
