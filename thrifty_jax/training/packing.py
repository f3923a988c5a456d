"""A network's weights as two vectors, as some steps take them and give them back.

Each array that goes into a compiled step or comes out of it costs the host some time, and a small
network has hundreds, its optimiser and its average as many again: a quarter and more of the time
that the host takes to launch a step (benchmarks/README.md). Within a step the weights are cut out
of the vectors, and their gradient is put together as vectors again, so that an optimiser sees two
arrays, and XLA compiles a few operations for it instead of some for each weight. Checkpoints have
them one by one.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Layout(NamedTuple):
  """How weights lie in the vectors: kernels in the one, all else in the other, in their order.

  Attributes:
    tree: Their structure.
    shapes: Of each.
  """

  tree: Any
  shapes: tuple[tuple[int, ...], ...]


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=['kernels', 'others'], meta_fields=['layout']
)
@dataclasses.dataclass(frozen=True)
class Packed:
  """The weights of a network, or what an optimiser has of each of them.

  Attributes:
    kernels: Those with several axes, [n]; [S, n] of S networks.
    others: Biases and scales, likewise.
    layout: Of one network.
  """

  kernels: Any
  others: Any
  layout: Layout


def for_steps(params: Any, stage: str) -> Any:
  """Weights as the steps of a stage take them, on the device."""
  return jax.device_put(pack(params)) if pays(stage) else params


def pays(stage: str) -> bool:
  """Whether weights are packed for the steps of search or retrain on this device.

  On a CPU for the search alone, whose first half then compiles in a sixth less time: a training
  gains little, and XLA took 1.3 times as long to compile its step and 400 MiB more. On a TPU it has
  not been tried.
  """
  return jax.default_backend() in {'search': ('cpu', 'gpu'), 'retrain': ('gpu',)}[stage]


def pack(params: Any) -> Packed:
  """A pytree of arrays of one type, kernels and others among them, as vectors of numpy."""
  leaves, structure = jax.tree.flatten(params)
  layout = Layout(structure, tuple(leaf.shape for leaf in leaves))
  return Packed(*_joined(layout, jax.device_get(leaves), np), layout)


def unpacked(params: Any) -> Any:
  """Weights as the network takes them: a pytree of arrays, which is left as it is.

  Vectors of numpy give views of them. Within a traced function the gradient comes as vectors.
  """
  if not isinstance(params, Packed):
    return params
  if isinstance(params.kernels, np.ndarray):
    return _cut(params.layout, (params.kernels, params.others))
  return _cut_with_gradient(params.layout, (params.kernels, params.others))


def all_unpacked(tree: Any) -> Any:
  """A pytree with all weights in it unpacked."""
  return jax.tree.map(unpacked, tree, is_leaf=_is_packed)


def packed_like(tree: Any, like: Any) -> Any:
  """What `all_unpacked` made of `like`, or its equal, packed again."""

  def packed(old: Any, new: Any) -> Any:
    if not _is_packed(old):
      return new
    return Packed(*_joined(old.layout, jax.tree.leaves(new), np), old.layout)

  return jax.tree.map(packed, like, tree, is_leaf=_is_packed)


def is_kernel(params: Any) -> Any:
  """For each array or vector whether it is kernels: as an optimiser's mask."""
  if isinstance(params, Packed):
    return dataclasses.replace(params, kernels=True, others=False)
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _is_packed(tree: Any) -> bool:
  return isinstance(tree, Packed)


def _joined(layout: Layout, leaves: Sequence[Any], library: Any) -> tuple[Any, Any]:
  """The two vectors, by numpy or JAX."""
  vectors: tuple[list[Any], list[Any]] = ([], [])
  for leaf, shape in zip(leaves, layout.shapes, strict=True):
    several = leaf.shape[: leaf.ndim - len(shape)]
    vectors[len(shape) < 2].append(leaf.reshape(*several, math.prod(shape)))
  kernels, others = (library.concatenate(parts, axis=-1) for parts in vectors)
  return kernels, others


def _cut(layout: Layout, vectors: tuple[Any, Any]) -> Any:
  """The weights out of the two vectors."""

  def pieces() -> Iterator[Any]:
    at = [0, 0]
    for shape in layout.shapes:
      which = len(shape) < 2
      vector, start = vectors[which], at[which]
      at[which] += math.prod(shape)
      yield vector[..., start : at[which]].reshape(*vector.shape[:-1], *shape)

  return jax.tree.unflatten(layout.tree, pieces())


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cut_with_gradient(layout: Layout, vectors: tuple[jax.Array, jax.Array]) -> Any:
  # The barriers: else XLA compiles what reads a weight, or makes its gradient, anew for each place
  # in a vector, where a network has many layers alike.
  return jax.lax.optimization_barrier(_cut(layout, vectors))


def _forward(layout: Layout, vectors: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
  return _cut_with_gradient(layout, vectors), None


def _backward(layout: Layout, _: None, gradient: Any) -> tuple[tuple[jax.Array, jax.Array]]:
  leaves = jax.lax.optimization_barrier(jax.tree.leaves(gradient))
  return (_joined(layout, leaves, jnp),)


_cut_with_gradient.defvjp(_forward, _backward)
