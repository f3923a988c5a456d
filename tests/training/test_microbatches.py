"""A batch in parts, and layers computed twice, against the whole batch at once; in float64."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thrifty_jax import config as configs
from thrifty_jax import labels
from thrifty_jax.networks import baselines, build, genotype, grid
from thrifty_jax.networks.losses import LABELS, Sums, Target, loss_of, loss_sums, segmentation_loss
from thrifty_jax.searching import bilevel
from thrifty_jax.training import microbatches, train_step
from thrifty_jax.training.train_data import seed_bits

pytestmark = pytest.mark.usefixtures('quick_compilation', 'double_precision')

BATCH = (4, 8, 8, 1)
FOUND = genotype.Genotype(
  down=(((0, 'down_max_pool'), (1, 'down_sep_conv_3x3')),),
  up=(((0, 'conv_3x3'), (1, 'up_se_conv_3x3')),),
)
DERIVED = grid.DerivedNetwork(FOUND, classes=3, channels=4, depth=3, deep_supervision=True)
SUPERNET = grid.Supernet(3, channels=4, depth=2, nodes=1, sample=2, sampling='random')
UNET = baselines.UNetPlusPlus(3, nested=True, widths=(2, 2, 2), norm='group')


class Toy(nn.Module):
  """What a half step needs of a supernet: logits of an image, the architecture and a key."""

  depth: int = 0  # it takes images of any size

  @nn.compact
  def __call__(self, image, architecture, key):
    x = nn.tanh(nn.Conv(4, (3, 3), param_dtype=image.dtype, name='first')(image))
    x = x * jax.nn.softmax(architecture) * jax.random.bernoulli(key, 0.5, (4,))
    return nn.Conv(3, (3, 3), param_dtype=image.dtype, name='classes')(x)


def noisy(key, batch):
  """An augmentation that draws, so that parts with random numbers of their own are found out."""
  return {**batch, 'image': batch['image'] + 0.5 * jax.random.normal(key, batch['image'].shape)}


def some_batch(seed):
  """Slices that differ: an organ in some, and in others none."""
  random = np.random.default_rng(seed)
  label = random.integers(3, size=BATCH[:3])
  label[::3] = 0
  return {'image': jnp.asarray(random.normal(size=BATCH)), 'label': jnp.asarray(label, jnp.int32)}


def assert_same(found, expected):
  """Equal to the rounding of float64."""
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-11)


def test_sums_and_both_their_derivatives_are_those_of_the_whole_batch():
  batch = some_batch(0)

  def loss(weight, count):
    def sums(part):
      assert len(part['label']) == 4 // count
      return loss_sums(jnp.tanh(part['image'] * weight), part['label'])

    return loss_of(microbatches.total(sums, batch, parts=count))[0]

  @functools.partial(jax.jit, static_argnums=1)
  def all_of(weight, count):
    value, gradient = jax.value_and_grad(loss)(weight, count)
    return value, gradient, jax.hessian(loss)(weight, count)

  weight = jnp.asarray([0.5, -1.0, 2.0])
  assert_same(all_of(weight, 4), all_of(weight, 1))


def test_a_part_has_every_so_many_th_example_and_each_is_seen_once():
  batch = {'image': jnp.arange(6.0)}
  seen = microbatches.total(
    lambda part: jnp.zeros(6).at[part['image'].astype(int)].add(part['image'][0] + 1),
    batch,
    parts=2,
  )
  np.testing.assert_array_equal(seen, [1, 2, 1, 2, 1, 2])


@pytest.mark.parametrize('supervised', [False, True])
def test_the_sums_of_a_loss_add_up(supervised):
  shape = ((2,) if supervised else ()) + BATCH[:3] + (3,)
  logits = jnp.asarray(np.random.default_rng(1).normal(size=shape))
  label = some_batch(1)['label']
  parts = [loss_sums(logits[..., at, :, :, :], label[at]) for at in (slice(1), slice(1, 4))]
  added = Sums(*(a + b for a, b in zip(*parts, strict=True)))
  assert_same(loss_of(added), segmentation_loss(logits, label))


BLACK = (0.0,)


@functools.cache
def retrained(parts, remat):
  """A step of retraining with deep supervision: the state after it and its metrics."""
  transformation = optax.sgd(0.1)
  image = jax.ShapeDtypeStruct(BATCH, np.float64)
  net = UNET.copy(norm='none', deep_supervision=True, remat=remat)
  state, _ = train_step.init_state(net, transformation, image, seed=0)
  state = jax.tree.map(jnp.asarray, state)._replace(
    params=jax.tree.map(lambda leaf: leaf.astype(np.float64), state.params)
  )
  step = train_step.make_train_step(
    net, transformation, augment=noisy, average_decay=0, seed=0, background=BLACK, parts=parts
  )
  return jax.jit(step)(state, some_batch(2))


def test_a_step_of_retraining_in_parts_is_that_of_the_whole_batch():
  found, expected = retrained(2, True), retrained(1, False)
  assert_same(found[0].params, expected[0].params)
  assert_same(found[1], expected[1])


@functools.cache
def searched(parts, target=LABELS, spoil=None):
  """Both half steps in second order: the states after them and their metrics."""
  settings = configs.default().search
  settings.weight_learning_rate = 0.3  # large, so that the step ahead matters
  toy: Any = Toy()
  learners = bilevel.Learners(
    toy,
    BLACK,
    bilevel.weight_optimizer(settings, steps=9),
    optax.sgd(1.0),  # its step is its gradient
    bilevel.weight_optimizer(settings, steps=9, clipped=False),
  )
  architecture: Any = jnp.asarray([0.3, -0.2, 0.5, 0.0])
  params = toy.init(jax.random.key(1), some_batch(3)['image'], architecture, jax.random.key(2))
  state = bilevel.SearchState(
    jnp.zeros((), jnp.int32),
    params['params'],
    architecture,
    learners.for_weights.init(params['params']),
    learners.for_architecture.init(architecture),
  )
  weight_step, architecture_step = bilevel.make_half_steps(
    learners, augment=noisy, random_sampling=True, parts=parts, target=target
  )
  seed, batches = seed_bits(0), (some_batch(3), some_batch(4))
  if spoil:
    batches = [spoil(batch) for batch in batches]
  return (
    jax.jit(weight_step)(seed, state, batches[0]),
    jax.jit(architecture_step)(seed, state, *batches),
  )


def test_both_half_steps_in_parts_are_those_of_the_whole_batch_in_second_order_too():
  for (found, metrics), (expected, known) in zip(searched(2), searched(1), strict=True):
    assert_same((found.params, found.architecture), (expected.params, expected.architecture))
    assert_same(metrics, known)
  counts = known['overlap']
  assert counts.shape == (2, 3) and counts[:, 2].sum() == (some_batch(4)['label'] > 0).sum()


def without_some_labels(batch):
  """One slice without any label, and a part of another."""
  label = batch['label'].at[1].set(labels.IGNORED).at[2, :5].set(labels.IGNORED)
  return {**batch, 'label': label}


@pytest.mark.parametrize('regions', [(), ((1, 2), (2,))])
def test_half_steps_with_regions_and_ignored_pixels_too(regions):
  target = Target(regions, ignores=True)
  (whole, _), (parts, _) = (
    [state for state, _ in searched(count, target, without_some_labels)] for count in (1, 2)
  )
  assert_same((parts.params, parts.architecture), (whole.params, whole.architecture))
  plain = searched(1)[0][0]
  assert not np.allclose(whole.params['classes']['kernel'], plain.params['classes']['kernel'])


# Cells or blocks: 2 down, 3 up and the head for 2 outputs; 1, 1 and the head; a triangle of 6.
@pytest.mark.parametrize('net,count', [(DERIVED, 7), (SUPERNET, 3), (UNET, 6)])
def test_every_cell_is_computed_twice_and_no_parameter_changes(net, count):
  inputs: list[Any] = [jax.ShapeDtypeStruct(BATCH, np.float32)]
  if net is SUPERNET:
    inputs.append(grid.init_architecture(jax.random.key(0), nodes=1))
  again = net.copy(remat=True)
  params, same = (
    build.initialise(build.trace_shapes(one, *inputs), seed=0) for one in (net, again)
  )
  jax.tree.map(np.testing.assert_array_equal, params, same)
  marked = []
  for one in (net, again):
    program = jax.make_jaxpr(functools.partial(build.apply, one, background=BLACK))(params, *inputs)
    marked.append(sum('prevent_cse' in equation.params for equation in program.eqns))
  assert marked == [0, count]
