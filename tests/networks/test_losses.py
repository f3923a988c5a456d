"""The loss against numpy, written the slow way in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax.networks.losses import segmentation_loss

SMOOTH = 1e-5


def some_logits(seed, *, shape=(2, 5, 4), classes=3, scale=3.0):
  random = np.random.default_rng(seed)
  logits = (scale * random.standard_normal((*shape, classes))).astype(np.float32)
  return logits, random.integers(classes, size=shape).astype(np.int32)


def probability_of(logits):
  """Softmax of one pixel's scores, [K]."""
  powers = np.exp(np.asarray(logits, float) - np.max(logits))
  return powers / powers.sum()


def slow_dice(logits, label):
  """Pixel by pixel, class by class; [K - 1]."""
  scores = []
  for k in range(1, logits.shape[-1]):
    overlap = predicted = true = 0.0
    for place in np.ndindex(label.shape):
      p, t = probability_of(logits[place])[k], float(label[place] == k)
      overlap, predicted, true = overlap + p * t, predicted + p, true + t
    scores.append((2 * overlap + SMOOTH) / (predicted + true + SMOOTH))
  return np.asarray(scores)


def slow_loss(logits, label):
  surprise = [-np.log(probability_of(logits[p])[label[p]]) for p in np.ndindex(label.shape)]
  return np.mean(surprise) + 1 - slow_dice(logits, label).mean()


RUNS = {
  'plain': lambda function: function,
  'jitted': jax.jit,
  # One example of a batch of batches.
  'vmapped': lambda function: (
    lambda logits, label: jax.tree.map(
      lambda leaf: leaf[1],
      jax.vmap(function)(jnp.stack([logits * 0, logits]), jnp.stack([label * 0, label])),
    )
  ),
}


@pytest.fixture(params=RUNS)
def run(request):
  return RUNS[request.param]


@pytest.mark.parametrize('classes', [2, 3])
def test_the_loss_is_cross_entropy_and_one_less_dice(run, classes):
  logits, label = some_logits(1, classes=classes)
  loss, dice = run(segmentation_loss)(jnp.asarray(logits), jnp.asarray(label))
  np.testing.assert_allclose(loss, slow_loss(logits, label), rtol=1e-5)
  np.testing.assert_allclose(dice, slow_dice(logits, label), rtol=1e-5)


def test_dice_pools_the_batch_and_does_not_average_its_slices():
  logits, label = some_logits(2)
  label[0] = 0  # a slice without any organ
  _, found = segmentation_loss(jnp.asarray(logits), jnp.asarray(label))
  np.testing.assert_allclose(found, slow_dice(logits, label), rtol=1e-5)
  apart = np.mean([slow_dice(logits[i : i + 1], label[i : i + 1]) for i in (0, 1)], axis=0)
  assert np.abs(found - apart).max() > 0.02


def test_deep_supervision_averages_the_losses_and_gives_the_dice_of_the_last(run):
  several = np.stack([some_logits(seed)[0] for seed in (3, 4, 5)])
  label = some_logits(3)[1]
  loss, dice = run(segmentation_loss)(jnp.asarray(several), jnp.asarray(label))
  assert loss.shape == ()
  np.testing.assert_allclose(loss, np.mean([slow_loss(one, label) for one in several]), rtol=1e-5)
  np.testing.assert_allclose(dice, slow_dice(several[-1], label), rtol=1e-5)


def test_a_class_that_is_absent_and_not_predicted_costs_nothing():
  _, label = some_logits(6, classes=2)
  logits = np.full((*label.shape, 3), -40.0, np.float32)
  np.put_along_axis(logits, label[..., None].astype(int), 40.0, axis=-1)
  loss, dice = segmentation_loss(jnp.asarray(logits), jnp.asarray(label))
  np.testing.assert_allclose(dice, [1, 1], atol=1e-5)
  assert float(loss) < 1e-5


def test_a_class_that_is_absent_but_predicted_scores_nearly_zero():
  logits, label = some_logits(7, classes=3)
  label[label == 2] = 0
  _, dice = segmentation_loss(jnp.asarray(logits), jnp.asarray(label))
  np.testing.assert_allclose(dice, slow_dice(logits, label), rtol=1e-4)
  assert 0 < float(dice[1]) < 1e-5


@pytest.mark.parametrize('scale', [0.0, 1e4])
def test_loss_and_gradient_are_finite_at_the_extremes(scale):
  logits, label = some_logits(8, scale=scale)
  (loss, dice), gradient = jax.value_and_grad(segmentation_loss, has_aux=True)(
    jnp.asarray(logits), jnp.asarray(label)
  )
  for value in (loss, dice, gradient):
    assert np.isfinite(value).all()


@pytest.mark.parametrize('shape', [(2, 5, 4, 1), (2, 4, 5), (5, 4), (1, 5, 4), (2, 5, 4, 3)])
def test_a_label_of_another_shape_is_refused_with_both_shapes(shape):
  logits, _ = some_logits(9)
  with pytest.raises(ValueError, match='must have the shape of logits') as caught:
    segmentation_loss(jnp.asarray(logits), jnp.zeros(shape, jnp.int32))
  assert str(shape) in str(caught.value) and '(2, 5, 4, 3)' in str(caught.value)
