"""The segmentation loss: cross-entropy and soft Dice.

Both are functions of sums over pixels, and the sums of parts of a batch add up to those of the
batch, so that a batch that does not fit in memory still has its exact loss, see microbatches.py.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

SMOOTH = 1e-5  # added to numerator and denominator of soft Dice, in pixels


class Sums(NamedTuple):
  """Sums over the pixels of a batch that determine the loss."""

  cross_entropy: jax.Array  # sum of the cross-entropy, [], or [S] for S supervised outputs
  overlap: jax.Array  # sum of probability times truth for every class, [K] or [S, K]
  total: jax.Array  # sum of probability plus truth for every class, [K] or [S, K]
  pixels: jax.Array  # number of pixels, []


def loss_sums(logits: jax.Array, label: jax.Array) -> Sums:
  """Returns the sums that determine the loss, see segmentation_loss for the arguments."""
  if label.shape != logits.shape[-4:-1]:
    raise ValueError(
      f'the label {label.shape} must have the shape of logits {logits.shape} without K'
    )
  # The gradient with integer labels would be a scatter, which is slow to compile and run on a CPU.
  truth = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
  probability, space = jax.nn.softmax(logits), (-4, -3, -2)
  return Sums(
    optax.softmax_cross_entropy(logits, truth).sum((-3, -2, -1)),
    (probability * truth).sum(space),
    probability.sum(space) + truth.sum(space),
    jnp.asarray(label.size, logits.dtype),
  )


def loss_of(sums: Sums) -> tuple[jax.Array, jax.Array]:
  """Returns the loss, [], and the soft Dice of the last output, [K - 1]; see segmentation_loss."""
  dice = ((2 * sums.overlap + SMOOTH) / (sums.total + SMOOTH))[..., 1:]
  loss = sums.cross_entropy / sums.pixels + 1 - dice.mean(-1)
  return loss.mean(), dice[-1] if dice.ndim == 2 else dice


def segmentation_loss(logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns mean cross-entropy + 1 - mean soft Dice of the foreground classes.

  Args:
    logits: Class scores before softmax, [B, H, W, K] float32; [S, B, H, W, K] for S outputs, whose
      losses are averaged.
    label: Class of each pixel, [B, H, W], integers in [0, K).

  Returns:
    The loss, [], and the soft Dice of the last output, [K - 1].

  Raises:
    ValueError: If label does not have the spatial shape of logits.

  Source: Thrifty NAS (AAAI 2022), section Dataset: a combination of cross-entropy and Dice. Soft
  Dice is pooled over the batch, as V-Net (Milletari et al., 2016), section 3, without the squares.
  """
  return loss_of(loss_sums(logits, label))
