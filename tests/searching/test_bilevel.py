"""The bilevel step against finite differences, its two optimisers against numpy."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from few_operations import FEW

from thrifty_jax import config as configs
from thrifty_jax.networks.grid import Supernet
from thrifty_jax.searching import bilevel
from thrifty_jax.searching.bilevel import Learners
from thrifty_jax.training.train_data import seed_bits

pytestmark = pytest.mark.usefixtures('quick_compilation')

BATCH = (2, 8, 8, 1)
BLACK = (0.0,)
SETTINGS = {
  'weight_learning_rate': 0.3,  # large, so that a step ahead matters
  'weight_decay': 0.1,
  'clip_norm': 0.01,  # any gradient exceeds it: the step ahead must not be clipped
}


# Every form of an operation once, and all three lists; with all 16 the second order takes long to
# compile.
FORMS = (
  *('down_avg_pool', 'down_max_pool', 'down_se_conv_3x3', 'up_dil_conv_3x3', 'up_conv_3x3'),
  *('identity', 'none', 'se', 'sep_conv_3x3'),
)


def noisy(key, batch):
  """An augmentation, so that a step with other random numbers is another step."""
  return {**batch, 'image': batch['image'] + 0.5 * jax.random.normal(key, batch['image'].shape)}


def half_steps(net, **optimizers):
  """Both half steps, the architecture by steepest descent at rate 1: its step is its gradient."""
  learners = Learners(net, BLACK, for_architecture=optax.sgd(1.0), **optimizers)
  random_sampling = net.sampling == 'random'
  steps = bilevel.make_half_steps(learners, augment=noisy, random_sampling=random_sampling)
  return [functools.partial(step, seed_bits(0)) for step in steps]


@functools.cache
def problem(sampling):
  """A tiny supernet, a state in the midst of a search, and a batch for each level; float64."""
  random = np.random.default_rng(0)
  nodes, operations = {'shuffle': (2, FEW), 'random': (1, FORMS)}[sampling]
  common = {'channels': 4, 'depth': 2, 'sample': 2}
  net = Supernet(2, nodes=nodes, sampling=sampling, operations=operations, **common)
  image = jax.ShapeDtypeStruct(BATCH, np.float64)
  optimizer = bilevel.weight_optimizer(search_settings(**SETTINGS), steps=9)
  state = bilevel.init_state(Learners(net, BLACK, optimizer, optax.sgd(1.0)), image, seed=0)

  def settled(leaf):
    """Velocities and architecture variables away from zero; the fourth of nine steps."""
    if leaf.dtype == np.int32:
      return leaf + 3
    return jnp.asarray(random.normal(0, 0.5, leaf.shape))

  state = state._replace(
    step=settled(state.step),
    params=jax.tree.map(lambda leaf: leaf.astype(np.float64), state.params),
    architecture=jax.tree.map(settled, state.architecture),
    weight_optimizer=jax.tree.map(settled, state.weight_optimizer),
  )
  batches = [
    {
      'image': jnp.asarray(random.normal(size=BATCH)),
      'label': jnp.asarray(random.integers(2, size=BATCH[:3]), jnp.int32),
    }
    for _ in range(2)
  ]
  return net, state, *batches


@functools.cache
def architecture_gradient(order, sampling):
  """What architecture_step descends along, and the loss that it reports."""
  net, state, *batches = problem(sampling)
  clipped, unclipped = (
    bilevel.weight_optimizer(search_settings(**SETTINGS), steps=9, clipped=clipped)
    for clipped in (True, False)
  )
  look_ahead = unclipped if order == 'second' else None
  _, step = half_steps(net, for_weights=clipped, look_ahead=look_ahead)
  moved, metrics = jax.jit(step)(state, *batches)
  gradient = jax.tree.map(lambda a, b: np.asarray(a - b), state.architecture, moved.architecture)
  return gradient, metrics['architecture_loss']


@functools.cache
def first_order_parts(sampling):
  """The weight step, its clip out of reach, and the loss of the architecture, both compiled."""
  optimizer = bilevel.weight_optimizer(search_settings(**SETTINGS | {'clip_norm': 1e9}), steps=9)
  weight_step, architecture_step = half_steps(problem(sampling)[0], for_weights=optimizer)
  loss = jax.jit(lambda *arguments: architecture_step(*arguments)[1]['architecture_loss'])
  return jax.jit(weight_step), loss


def loss_by_definition(order, sampling, architecture):
  """What is descended: the loss at these weights, or after the weight step that is really taken."""
  _, state, weight_batch, architecture_batch = problem(sampling)
  weight_step, loss = first_order_parts(sampling)
  at = state._replace(architecture=architecture)
  if order == 'second':
    at = weight_step(at, weight_batch)[0]._replace(step=state.step)
  return float(loss(at, weight_batch, architecture_batch))


def finite_differences(order, sampling):
  """Of the loss by definition, central, variable by variable."""
  leaves, tree = jax.tree.flatten(problem(sampling)[1].architecture)
  gradient = [np.zeros(leaf.shape) for leaf in leaves]
  for index, result in enumerate(gradient):
    for place in np.ndindex(result.shape):
      losses = []
      for distance in (1e-6, -1e-6):
        moved = [np.array(leaf) for leaf in leaves]
        moved[index][place] += distance
        losses.append(loss_by_definition(order, sampling, tree.unflatten(moved)))
      result[place] = (losses[0] - losses[1]) / 2e-6
  return gradient


# Random sampling has all that the shuffle has, and draws numbers; with it a step ahead that is not
# the very step that follows is found out.
@pytest.mark.parametrize('order,sampling', [('first', 'shuffle'), ('second', 'random')])
def test_the_architecture_step_follows_the_finite_differences_of_its_loss(
  order, sampling, double_precision
):
  gradient, value = architecture_gradient(order, sampling)
  architecture = problem(sampling)[1].architecture
  assert float(value) == pytest.approx(loss_by_definition(order, sampling, architecture), rel=1e-12)
  expected = finite_differences(order, sampling)
  for found, result in zip(jax.tree.leaves(gradient), expected, strict=True):
    np.testing.assert_allclose(found, result, rtol=1e-6, atol=2e-9)
    assert np.abs(result).max() > 1e-4  # every edge and every beta matters to the loss


def test_second_order_is_another_gradient_than_first_order(double_precision):
  gradient, _ = architecture_gradient('second', 'random')
  second = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])
  first = np.concatenate([leaf.ravel() for leaf in finite_differences('first', 'random')])
  assert np.linalg.norm(second - first) > 0.1 * np.linalg.norm(first)


def numpy_sgd(params, gradients, *, clips, decay, momentum, rates):
  """Clip, then L2 decay, then momentum: `torch.nn.utils.clip_grad_norm_`, then `optim.SGD`."""
  params = [np.array(p, float) for p in params]
  velocity = [np.zeros_like(p) for p in params]
  for gradient, rate, clip in zip(gradients, rates, clips, strict=True):
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


def run_optimizer(transformation, params, gradients, last=None):
  """The parameters after all steps, the last of them by another transformation if it is given."""
  params = [jnp.asarray(p, jnp.float32) for p in params]
  state = transformation.init(params)
  for step, gradient in enumerate(gradients, start=1):
    if last is not None and step == len(gradients):
      transformation = last
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
  expected = numpy_sgd(params, gradients, clips=[0.5] * 5, decay=0.1, momentum=0.9, rates=rates)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_step_ahead_is_the_weight_step_without_its_clip():
  params, gradients = some_steps(2)
  settings = search_settings(clip_norm=0.5, weight_decay=0.1, weight_learning_rate=0.3)
  taken = bilevel.weight_optimizer(settings, steps=5)
  ahead = bilevel.weight_optimizer(settings, steps=5, clipped=False)
  settings.clip_norm = 1e9
  out_of_reach = bilevel.weight_optimizer(settings, steps=5)
  low, high = settings.weight_learning_rate_end, settings.weight_learning_rate
  rates = [low + (high - low) * (1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)]
  for count in range(1, 6):  # ahead of a state that clipped steps have left
    steps = params, gradients[:count]
    found, same = (run_optimizer(taken, *steps, last=last) for last in (ahead, out_of_reach))
    clips = [0.5] * (count - 1) + [math.inf]
    expected = numpy_sgd(*steps, clips=clips, decay=0.1, momentum=0.9, rates=rates[:count])
    for f, s, e in zip(found, same, expected, strict=True):
      np.testing.assert_array_equal(f, s)
      np.testing.assert_allclose(f, e, rtol=1e-4, atol=1e-5)


def test_the_architecture_follows_adam_as_pytorch_has_it():
  params, gradients = some_steps(1)
  settings = search_settings(architecture_decay=0.1, architecture_learning_rate=0.2)
  found = run_optimizer(bilevel.architecture_optimizer(settings), params, gradients)
  expected = numpy_adam(params, gradients, decay=0.1, rate=0.2, betas=(0.5, 0.999))
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_optimisers_begin_as_optax_has_them():
  settings = search_settings()
  learners = Learners(
    Supernet(2, channels=4, depth=2, nodes=1, sample=2),
    BLACK,
    bilevel.weight_optimizer(settings, steps=9),
    bilevel.architecture_optimizer(settings),
  )
  state: Any = bilevel.init_state(learners, jax.ShapeDtypeStruct(BATCH, np.float32), seed=0)
  for optimizer, variables, begun in (
    (learners.for_weights, state.params, state.weight_optimizer),
    (learners.for_architecture, state.architecture, state.architecture_optimizer),
  ):
    expected = optimizer.init(variables)
    assert jax.tree.structure(begun) == jax.tree.structure(expected)
    for ours, optax_s in zip(jax.tree.leaves(begun), jax.tree.leaves(expected), strict=True):
      assert ours.dtype == optax_s.dtype
      np.testing.assert_array_equal(ours, optax_s)
