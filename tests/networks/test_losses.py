"""The loss against numpy, written the slow way in double precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax import labels
from thrifty_jax.networks.losses import (
  Lesson,
  Target,
  loss_of,
  loss_sums,
  members,
  overlap,
  probabilities,
  segmentation_loss,
)

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

SMOOTH = 1e-5
REGIONS = ((1, 2, 3), (2, 3), (3,))


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


def slow_loss_of_regions(logits, label):
  """Loss and Dice of regions, a pixel and a region at a time, without those that are ignored."""
  entropy, dice = [], []
  for k, own in enumerate(REGIONS, start=1):
    both = predicted = true = 0.0
    for place in np.ndindex(label.shape):
      if label[place] == 255:
        continue
      p = 1 / (1 + np.exp(float(logits[place][0]) - float(logits[place][k])))
      t = float(label[place] in own)
      entropy.append(-np.log(p if t else 1 - p))
      both, predicted, true = both + p * t, predicted + p, true + t
    dice.append((2 * both + SMOOTH) / (predicted + true + SMOOTH))
  return np.mean(entropy) + 1 - np.mean(dice), np.array(dice)


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


# --- regions, and pixels without a label


def some_regions(seed, *, ignored=True):
  logits, label = some_logits(seed, classes=4)
  label[np.random.default_rng(seed).random(label.shape) < 0.3 * ignored] = labels.IGNORED
  return logits, label


@pytest.mark.parametrize('ignored', [False, True])
def test_the_loss_of_regions_is_that_of_each_by_itself(run, ignored):
  logits, label = some_regions(10, ignored=ignored)
  loss, dice = run(functools.partial(segmentation_loss, target=Target(REGIONS, ignored)))(
    jnp.asarray(logits), jnp.asarray(label)
  )
  expected, of_each = slow_loss_of_regions(logits, label)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_allclose(dice, of_each, rtol=1e-5)


def test_a_single_region_of_one_label_has_the_loss_of_a_class():
  logits, label = map(jnp.asarray, some_logits(11, classes=2))
  found, expected = (segmentation_loss(logits, label, Target(own)) for own in (((1,),), ()))
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
  np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)


@pytest.mark.parametrize('regions', [(), REGIONS])
def test_what_is_ignored_changes_neither_loss_nor_gradient_nor_counts(run, regions):
  logits, label = some_regions(12)
  other = logits.copy()
  other[label == labels.IGNORED] = np.random.default_rng(3).normal(0, 30, 4)
  target = Target(regions, ignores=True)

  def measure(logits, label):
    gradient = jax.grad(lambda one: segmentation_loss(one, label, target)[0])(logits)
    return gradient, segmentation_loss(logits, label, target), overlap(logits, label, target)

  one, two = (run(measure)(jnp.asarray(each), jnp.asarray(label)) for each in (logits, other))
  jax.tree.map(np.testing.assert_array_equal, one, two)
  ignored = label == labels.IGNORED
  assert (np.asarray(one[0])[ignored] == 0).all() and (np.asarray(one[0])[~ignored] != 0).any()


@pytest.mark.parametrize('regions', [(), REGIONS])
def test_without_any_ignored_pixel_the_loss_is_that_of_all(regions):
  logits, label = map(jnp.asarray, some_regions(13, ignored=False))
  found, expected = (
    segmentation_loss(logits, label, Target(regions, ignores=ignores)) for ignores in (True, False)
  )
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
  np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)


def test_a_batch_in_which_all_is_ignored_has_no_gradient():
  logits, label = some_regions(14)
  label[:] = labels.IGNORED
  (loss, _), gradient = jax.value_and_grad(segmentation_loss, has_aux=True)(
    jnp.asarray(logits), jnp.asarray(label), Target((), ignores=True)
  )
  assert np.isfinite(loss) and not np.asarray(gradient).any()


def test_sums_of_parts_of_which_one_is_ignored_add_up():
  logits, label = some_regions(15)
  label[0] = labels.IGNORED
  target = Target(REGIONS, ignores=True)
  parts = [loss_sums(jnp.asarray(logits[at]), jnp.asarray(label[at]), target) for at in ([0], [1])]
  added = jax.tree.map(jnp.add, *parts)
  expected = segmentation_loss(jnp.asarray(logits), jnp.asarray(label), target)
  np.testing.assert_allclose(loss_of(added)[0], expected[0], rtol=1e-6)


def test_regions_are_counted_by_the_labels_that_belong_to_them():
  logits, label = some_regions(16)
  found = overlap(jnp.asarray(logits), jnp.asarray(label), Target(REGIONS, ignores=True))
  for k, own in enumerate(REGIONS, start=1):
    p = (logits[..., k] > logits[..., 0]) & (label != labels.IGNORED)
    t = np.isin(label, own)
    assert found[k - 1].tolist() == [(p & t).sum(), p.sum(), t.sum()]


# --- a teacher


def slow_taught_loss(logits, truth):
  """The loss of a soft truth, [B, H, W, K], a pixel and a class at a time."""
  surprise, dice = [], []
  probability = np.stack([probability_of(logits[p]) for p in np.ndindex(logits.shape[:3])])
  true = truth.reshape(probability.shape)
  for p, t in zip(probability, true, strict=True):
    surprise.append(-sum(t[k] * np.log(p[k]) for k in range(len(p))))
  for k in range(1, probability.shape[-1]):
    both = sum(p * t for p, t in zip(probability[:, k], true[:, k], strict=True))
    total = probability[:, k].sum() + true[:, k].sum()
    dice.append((2 * both + SMOOTH) / (total + SMOOTH))
  return np.mean(surprise) + 1 - np.mean(dice)


def soft_truth(label, taught, share):
  """The mixture of label and lesson; of a pixel without a label the lesson alone."""
  truth = np.empty(taught.shape)
  for place in np.ndindex(label.shape):
    one = np.eye(taught.shape[-1])
    known = label[place] != labels.IGNORED
    mixed = (1 - share) * one[label[place] % len(one)] + share * taught[place]
    truth[place] = mixed if known else taught[place]
  return truth


@pytest.mark.parametrize('ignores', [False, True])
@pytest.mark.parametrize('share', [0.3, 1.0])
def test_the_loss_of_a_lesson_is_that_of_the_mixture(share, ignores):
  logits, label = some_regions(20, ignored=ignores)
  taught = jax.nn.softmax(some_logits(21, classes=4)[0])
  target, lesson = Target((), ignores), Lesson(taught, share)
  sums = loss_sums(jnp.asarray(logits), jnp.asarray(label), target, lesson)
  expected = slow_taught_loss(logits, soft_truth(label, np.asarray(taught), share))
  np.testing.assert_allclose(loss_of(sums)[0], expected, rtol=1e-5)


@pytest.mark.parametrize('regions', [(), REGIONS])
def test_a_lesson_that_repeats_the_label_changes_nothing(regions):
  logits, label = map(jnp.asarray, some_regions(22, ignored=False))
  taught = members(label, regions) if regions else jax.nn.one_hot(label, 4)
  target = Target(regions)
  found = loss_of(loss_sums(logits, label, target, Lesson(taught.astype(jnp.float32), 0.7)))
  expected = segmentation_loss(logits, label, target)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


@pytest.mark.parametrize('regions', [(), REGIONS])
def test_a_network_that_says_what_its_teacher_says_of_unlabelled_pixels_has_no_gradient(regions):
  """That of the cross-entropy: the soft Dice of a soft truth still asks for certainty."""
  logits, label = some_logits(23, classes=4)
  label[:] = labels.IGNORED
  target, regional = Target(regions, ignores=True), bool(regions)

  def entropy(logits, taught):
    return loss_sums(logits, jnp.asarray(label), target, Lesson(taught, 0.5)).cross_entropy

  same = probabilities(jnp.asarray(logits), regions=regional)
  other = probabilities(jnp.asarray(some_logits(24, classes=4)[0]), regions=regional)
  at_rest, drawn = (jax.grad(entropy)(jnp.asarray(logits), each) for each in (same, other))
  np.testing.assert_allclose(at_rest, 0, atol=1e-5)
  assert np.abs(drawn).max() > 0.1
