"""Batches in equal parts, one after the other: less memory, the same result to rounding."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from thrifty_jax.data.batching import Batch

T = TypeVar('T')  # a pytree of arrays


def total(sums: Callable[[Batch], T], batch: Batch, *, parts: int) -> T:
  """Returns the result of `sums` for the batch, to rounding, with the memory of a single part.

  A part keeps nothing for the derivative, which computes it again: about a third more work. This
  holds for every derivative, also the second.

  Args:
    sums: Function of a batch or a part whose results are sums over examples.
    batch: Arrays [B, ...].
    parts: Number of parts; it divides B. 1 is the plain `sums(batch)`.
  """
  if parts == 1:
    return sums(batch)
  # Every parts-th example, so that each device of a sharded batch has a share of each part.
  split = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), batch)
  # In a loop XLA cannot merge the second computation with the first, so this need not be prevented.
  of_part = jax.checkpoint(sums, prevent_cse=False)
  shapes = jax.eval_shape(sums, jax.tree.map(lambda leaf: leaf[0], split))
  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

  def add(before: T, part: Batch) -> tuple[T, None]:
    return jax.tree.map(jnp.add, before, of_part(part)), None

  return jax.lax.scan(add, zeros, split)[0]
