"""Several searches as one step, each what a run with its seed alone would be.

Whatever belongs to a search, its state, its metrics and the figures of its epoch, has a leading
axis [S] where there are several; a search alone has no such axis. Their batches follow one another
in a single one, [S B, ...]. Of several devices each has searches of its own with whole batches, so
that devices send one another nothing.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from thrifty_jax.data import mesh as meshes
from thrifty_jax.searching import bilevel

T = TypeVar('T')  # a pytree


class Searches(NamedTuple):
  """Which searches take a step, and what it is told of each.

  Attributes:
    facts: What the step of each is told, `train_data.Facts`, every array with the axis [S].
    going: Whether it goes on, bool [S]; one that does not keeps its state, and its metrics are 0.
      One alone always goes on.
  """

  facts: Any
  going: jax.Array


def of(config: ConfigDict) -> tuple[int, ...]:
  """The seeds of a run's searches: its own and those that follow it."""
  return tuple(range(config.seed, config.seed + config.search.seeds))


def stack(trees: Sequence[T]) -> T:
  """Pytrees of arrays, one of each search, as one."""
  if len(trees) == 1:
    return trees[0]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def each(tree: T, count: int) -> list[T]:
  """What `stack` made of so many, one by one again."""
  if count == 1:
    return [tree]
  return [jax.tree.map(lambda leaf, place=place: leaf[place], tree) for place in range(count)]


def batches_of_each(batch: T, count: int) -> T:
  """A batch of so many searches, [S B, ...], as `stack` has it: [S, B, ...]."""
  if count == 1:
    return batch
  return jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), batch)


def sharding(mesh: Mesh, count: int) -> NamedSharding:
  """How what has the axis [S] lies on the devices: one search is whole on all of them."""
  return meshes.whole(mesh) if count == 1 else meshes.split(mesh)


def told(facts: Sequence[T], mesh: Mesh, *, going: np.ndarray | None = None) -> Searches:
  """What a step is told of the searches, on the devices.

  Args:
    facts: Of each search, in numpy.
    mesh: The devices.
    going: Which go on, bool [S], [] of one alone; None is all.
  """
  count = len(facts)
  stacked = facts[0] if count == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *facts)
  going = np.ones(count if count > 1 else (), bool) if going is None else going
  return Searches(*meshes.place((stacked, going), sharding(mesh, count)))


def side_by_side(
  step: Callable[..., tuple[T, bilevel.Metrics]],
  *,
  count: int,
  mesh: Mesh,
  vectorised: bool | None = None,
) -> Callable[..., tuple[T, bilevel.Metrics]]:
  """A half step of so many searches.

  Args:
    step: (facts, state, *batches) -> (state, metrics).
    count: Of the searches, S; a multiple of the devices if there are several.
    mesh: The devices.
    vectorised: Whether a device computes its searches together, or one after the other; None is
      what is faster on it.

  Returns:
    (state, searches, *batches) -> (state, metrics): state and metrics as `stack` has them, searches
    a `Searches`, each batch [S B, ...].
  """
  if count == 1:

    def alone(state: T, searches: Searches, *batches: Any) -> tuple[T, bilevel.Metrics]:
      return step(searches.facts, state, *batches)

    return meshes.replicated(alone, mesh)
  own = count // mesh.size
  if vectorised is None:
    vectorised = own > 1 and _gains_by_vectorising(mesh)
  over = jax.vmap if vectorised else lambda one: functools.partial(jax.lax.map, one)
  step = jax.jit(step)  # traced once, though it is called twice below

  def one(arguments: tuple[T, Searches, tuple[Any, ...]]) -> tuple[T, bilevel.Metrics]:
    state, (facts, going), batches = arguments
    metrics = jax.eval_shape(step, facts, state, *batches)[1]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), metrics)
    return jax.lax.cond(going, lambda: step(facts, state, *batches), lambda: (state, zeros))

  def of_device(state: T, searches: Searches, *batches: Any) -> tuple[T, bilevel.Metrics]:
    rows = jax.tree.map(lambda leaf: leaf.reshape(own, -1, *leaf.shape[1:]), batches)
    return over(one)((state, searches, rows))

  if mesh.size == 1:
    return of_device
  axis = PartitionSpec(meshes.AXIS)
  return jax.shard_map(of_device, mesh=mesh, in_specs=axis, out_specs=axis, check_vma=False)


def _gains_by_vectorising(mesh: Mesh) -> bool:
  """Whether a device computes several searches better together than one after the other.

  One search alone keeps the cores of a CPU busy, and a GPU: four together took 676 ms a step on an
  H200, one 91 beside another program (32 channels, 256 x 256, batch 12, bfloat16). Convolutions
  with kernels of their own become grouped ones, whose kernels' gradients are slow. Together they
  also take the temporary memory of all, and compute those that are finished. Of TPUs it is not
  known yet.
  """
  # JAX 0.7 cannot vectorise the gradient of a convolution that knows how its arguments are shared,
  # as all do where there are several devices; 0.10 can.
  can = jax.device_count() == 1 or jax.__version_info__ >= (0, 10)
  return can and mesh.devices.flat[0].platform == 'tpu'
