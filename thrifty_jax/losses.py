"""The segmentation loss: cross-entropy and soft Dice."""

import jax
import optax


def soft_dice(logits: jax.Array, label: jax.Array, *, smooth: float = 1e-5) -> jax.Array:
  """Soft Dice of each foreground class, pooled over the batch.

  Args:
    logits: Class scores before softmax, [B, H, W, K], float32.
    label: Class of each pixel, [B, H, W], integers in [0, K).
    smooth: Added above and below the ratio, in pixels.

  Returns:
    Scores in [0, 1], [K - 1]; class 0, the background, is left out.

  Raises:
    ValueError: If label does not have the spatial shape of logits.

  Source: V-Net (Milletari et al., 2016), section 3, without the squares.
  """
  if label.shape != logits.shape[:-1]:
    raise ValueError(f'label {label.shape} must have the shape of logits {logits.shape} less K')
  probability = jax.nn.softmax(logits)
  truth = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
  axes = (0, 1, 2)
  overlap = (probability * truth).sum(axes)
  total = probability.sum(axes) + truth.sum(axes)
  return ((2 * overlap + smooth) / (total + smooth))[1:]


def segmentation_loss(logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean cross-entropy + 1 - mean soft Dice of the foreground classes.

  Args:
    logits: [B, H, W, K], or [S, B, H, W, K] for S supervised outputs, whose losses are averaged.
    label: [B, H, W], integers in [0, K).

  Returns:
    The loss, a scalar, and the soft Dice of the last output, [K - 1].

  Source: Thrifty NAS (AAAI 2022), section Dataset: a combination of cross-entropy and Dice.
  """
  if logits.ndim == 5:
    losses, dice = jax.vmap(segmentation_loss, in_axes=(0, None))(logits, label)
    return losses.mean(), dice[-1]
  dice = soft_dice(logits, label)  # first: it says what is wrong with a label's shape
  # Not from integer labels: the gradient of that is a scatter, slow and long to compile on a CPU.
  truth = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
  cross_entropy = optax.softmax_cross_entropy(logits, truth).mean()
  return cross_entropy + 1 - dice.mean(), dice
