"""The segmentation loss: cross-entropy and soft Dice.

Classes that are labels are exclusive, and their probabilities the softmax of the logits. Regions
overlap: the probability of each is the sigmoid of its logit less that of the background, which for
a single class is the same. Pixels without a label have no part in any sum.

Both are functions of sums over pixels, and the sums of parts of a batch add up to those of the
batch, so that a batch that does not fit in memory still has its exact loss, see microbatches.py.
"""

import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from thrifty_jax import labels

SMOOTH = 1e-5  # added to numerator and denominator of soft Dice, in pixels
_CLASSES = -4  # axis of the classes where they come before the pixels of a batch


class Target(NamedTuple):
  """Meaning of the numbers in a label, static under jit."""

  regions: labels.Regions = ()  # of each class from 1 on; () where class k is label k
  ignores: bool = False  # whether pixels may be labels.IGNORED


class Lesson(NamedTuple):
  """What a teacher says of the pixels of a batch, see training/teacher.py."""

  probability: jax.Array  # of each class, [B, H, W, K]
  share: float  # of it in what is learned of a pixel with a label, static under jit


LABELS = Target()  # each class is a label, and every pixel has one


def make_target(config: ConfigDict) -> Target:
  """Returns the meaning of the masks of a run."""
  ignores = config.data.ignore > 0 or config.data.unlabelled != ''
  return Target(labels.parse(config.data.regions), ignores)


class Sums(NamedTuple):
  """Sums over the pixels of a batch that determine the loss."""

  cross_entropy: jax.Array  # sum of the cross-entropy, [], or [S] for S supervised outputs
  overlap: jax.Array  # sum of probability times truth for every class, [K] or [S, K]
  total: jax.Array  # sum of probability plus truth for every class, [K] or [S, K]
  pixels: jax.Array  # number of pixels with a label, []


def probabilities(logits: jax.Array, *, regions: bool, axis: int = -1) -> jax.Array:
  """Returns the probability of each class, along an axis; of regions class 0 means nothing."""
  if regions:
    return jax.nn.sigmoid(logits - jax.lax.index_in_dim(logits, 0, axis))
  return jax.nn.softmax(logits, axis)


def loss_sums(
  logits: jax.Array, label: jax.Array, target: Target = LABELS, lesson: Lesson | None = None
) -> Sums:
  """Returns the sums that determine the loss, see segmentation_loss for the first arguments.

  With a lesson the truth is a mixture of label and lesson, and the lesson alone of a pixel without
  a label, which then counts as any other.
  """
  if label.shape != logits.shape[-4:-1]:
    raise ValueError(
      f'the label {label.shape} must have the shape of logits {logits.shape} without K'
    )
  # Classes come first, [S, K, B, H, W] and [K, B, H, W]: sums over rows of pixels take a third of
  # the time that sums over the few classes of each pixel take on a CPU.
  planes, regions = jnp.moveaxis(logits, -1, _CLASSES), bool(target.regions)
  probability = probabilities(planes, regions=regions, axis=_CLASSES)
  # With integer labels the gradient would be a scatter, slow to compile and run on a CPU.
  if regions:
    truth = members(label, target.regions)
  else:
    truth = label[..., None] == jnp.arange(logits.shape[-1])
  truth = jnp.moveaxis(truth, -1, _CLASSES).astype(logits.dtype)
  known = (label != labels.IGNORED).astype(logits.dtype) if target.ignores else None
  if lesson is not None:
    taught = jnp.moveaxis(lesson.probability, -1, _CLASSES).astype(logits.dtype)
    share = lesson.share if known is None else 1 - (1 - lesson.share) * known
    truth, known = truth + share * (taught - truth), None
  if regions:
    above = planes - jax.lax.index_in_dim(planes, 0, _CLASSES)
    each = optax.sigmoid_binary_cross_entropy(above, truth)
    cross_entropy = jax.lax.slice_in_dim(each, 1, None, axis=_CLASSES).mean(_CLASSES)
  else:
    cross_entropy = -(truth * jax.nn.log_softmax(planes, _CLASSES)).sum(_CLASSES)
  pixels = jnp.asarray(label.size, logits.dtype)
  if known is not None:
    cross_entropy, pixels = cross_entropy * known, known.sum()
    probability, truth = probability * known, truth * known
  space = (-3, -2, -1)
  return Sums(
    cross_entropy.sum(space),
    (probability * truth).sum(space),
    probability.sum(space) + truth.sum(space),
    pixels,
  )


def members(label: jax.Array, regions: labels.Regions) -> jax.Array:
  """Returns whether each pixel lies in each region, [B, H, W] to [B, H, W, K]; in class 0 none."""
  none = jnp.zeros(label.shape, bool)
  of_class = ((label == number for number in one) for one in regions)
  return jnp.stack([none, *(functools.reduce(operator.or_, one) for one in of_class)], axis=-1)


def overlap(logits: jax.Array, label: jax.Array, target: Target = LABELS) -> jax.Array:
  """Returns common, predicted and true pixels of each foreground class, [K - 1, 3], float32."""
  if target.regions:
    predicted, true = logits > logits[..., :1], members(label, target.regions)
    predicted, true = predicted[..., 1:], true[..., 1:]
  else:
    classes = jnp.arange(1, logits.shape[-1])
    predicted, true = logits.argmax(-1)[..., None] == classes, label[..., None] == classes
  if target.ignores:
    predicted &= (label != labels.IGNORED)[..., None]
  counts = [part.sum((0, 1, 2)) for part in (predicted & true, predicted, true)]
  return jnp.stack(counts, axis=-1).astype(jnp.float32)


def loss_of(sums: Sums) -> tuple[jax.Array, jax.Array]:
  """Returns the loss, [], and the soft Dice of the last output, [K - 1]; see segmentation_loss."""
  dice = ((2 * sums.overlap + SMOOTH) / (sums.total + SMOOTH))[..., 1:]
  loss = sums.cross_entropy / jnp.maximum(sums.pixels, 1) + 1 - dice.mean(-1)
  return loss.mean(), dice[-1] if dice.ndim == 2 else dice


def segmentation_loss(
  logits: jax.Array, label: jax.Array, target: Target = LABELS
) -> tuple[jax.Array, jax.Array]:
  """Returns mean cross-entropy + 1 - mean soft Dice of the foreground classes.

  Args:
    logits: Class scores before softmax, [B, H, W, K] float32; [S, B, H, W, K] for S outputs, whose
      losses are averaged.
    label: Label of each pixel, [B, H, W], integers in [0, K), or as `target` says.
    target: What the numbers in the label mean. The cross-entropy of regions is the mean of theirs.

  Returns:
    The loss, [], and the soft Dice of the last output, [K - 1].

  Raises:
    ValueError: If label does not have the spatial shape of logits.

  Source: Thrifty NAS (AAAI 2022), section Dataset: a combination of cross-entropy and Dice. Soft
  Dice is pooled over the batch, as V-Net (Milletari et al., 2016), section 3, without the squares.
  """
  return loss_of(loss_sums(logits, label, target))
