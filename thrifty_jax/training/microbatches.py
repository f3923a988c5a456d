"""A batch in equal parts, one after the other: less memory, the same result to rounding."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from thrifty_jax.data.batching import Batch

T = TypeVar('T')  # a pytree of arrays


def total(sums: Callable[[Batch], T], batch: Batch, *, parts: int) -> T:
  """The sums of a batch as those of its parts added up, with the memory of a single part.

  A part keeps nothing for the derivative, which computes it once more: about a third more work.
  That holds for every derivative, the second included.

  Args:
    sums: Of a batch, or of a part: each a sum over examples, so that those of parts add up.
    batch: Arrays [B, ...].
    parts: How many; it divides B. 1 is the plain `sums(batch)`.

  Returns:
    What `sums` returns for the batch, to rounding.
  """
  if parts == 1:
    return sums(batch)
  # Every parts-th example: of a batch that is spread over devices each then has a share of a part.
  split = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), batch)
  # In a loop nothing merges the second computation with the first, so nothing need prevent it.
  of_part = jax.checkpoint(sums, prevent_cse=False)
  shapes = jax.eval_shape(sums, jax.tree.map(lambda leaf: leaf[0], split))
  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

  def add(before: T, part: Batch) -> tuple[T, None]:
    return jax.tree.map(jnp.add, before, of_part(part)), None

  return jax.lax.scan(add, zeros, split)[0]
