"""Meshes of the devices that share a batch, in one process or several.

A batch is split along its first axis over a mesh with one axis, 'data'; all else is replicated.
Compiled programs see the whole batch, so sums, means and random numbers are those of a single
device up to rounding: XLA adds up over devices.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding
from ml_collections import ConfigDict

from thrifty_jax.errors import InputError, first_line

AXIS = 'data'

Step = TypeVar('Step', bound=Callable)


def start(config: ConfigDict) -> None:
  """Joins the processes of a run; to be called before JAX starts its devices.

  JAX asks the cluster (SLURM, Open MPI, Kubernetes or a Cloud TPU) for what the config leaves open,
  and ends the process if the others do not come within five minutes.
  """
  try:
    jax.distributed.initialize(
      coordinator_address=config.coordinator_address or None,
      num_processes=config.num_processes or None,
      process_id=None if config.process_id < 0 else config.process_id,
    )
  except (ValueError, RuntimeError, OSError) as error:
    raise InputError(
      'config.distributed is True, but the processes did not come together '
      f'({first_line(error):.200}); outside of SLURM, Open MPI, Kubernetes and Cloud TPU give '
      'each of them --config.coordinator_address=HOST:PORT --config.num_processes=N '
      '--config.process_id=0...N-1'
    ) from error


def make_mesh(config: ConfigDict) -> Mesh:
  """Returns the mesh of config.devices of all devices, which must be there; 0 takes all."""
  mesh = make_full_mesh()
  if config.devices > mesh.size:
    raise InputError(
      f'config.devices is {config.devices}, but JAX finds only {mesh.size} here; 0 takes all'
    )
  return _mesh(mesh.devices[: config.devices or None])


def make_full_mesh() -> Mesh:
  """Returns the mesh of all devices of all processes."""
  # Sorted by process, so that the rows of a batch of one process are contiguous.
  return _mesh(sorted(jax.devices(), key=lambda device: (device.process_index, device.id)))


def _mesh(devices: Any) -> Mesh:
  return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def require_even(config: ConfigDict, stage: str) -> None:
  """Refuses a batch of a stage, search or retrain, that the devices cannot share evenly."""
  mesh, size = make_mesh(config), config[stage].batch_size
  if size % mesh.size == 0:
    return
  lower = size // mesh.size * mesh.size
  sizes = ' or '.join(str(near) for near in (lower, lower + mesh.size) if near)
  fewer = max(count for count in range(1, mesh.size) if size % count == 0)
  or_fewer = '' if config.distributed else f', or use fewer: --config.devices={fewer}'
  raise InputError(
    f'config.{stage}.batch_size is {size}, which {mesh.size} devices cannot share evenly; '
    f'set it to {sizes}{or_fewer}'
  )


def split(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a batch: its first axis over all devices."""
  return NamedSharding(mesh, PartitionSpec(AXIS))


def whole(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of all else: replicated on every device."""
  return NamedSharding(mesh, PartitionSpec())


def own_rows(mesh: Mesh, count: int) -> slice:
  """Returns the rows of a batch of `count` that belong to the devices of this process."""
  slices = split(mesh).addressable_devices_indices_map((count,)).values()
  ranges = [rows[0].indices(count) for rows in slices if rows]
  return slice(min(low for low, _, _ in ranges), max(high for _, high, _ in ranges))


def place(tree: Any, sharding: Sharding | None) -> Any:
  """Places arrays that every process has whole as global arrays; None is the default device."""
  if sharding is None or sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)

  def placed(leaf: Any) -> jax.Array:
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

  return jax.tree.map(placed, tree)


def place_rows(tree: Any, sharding: Sharding | None) -> Any:
  """Places arrays of which every process has its own rows as global arrays."""
  if sharding is None or sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)
  return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), tree)


def fetch(tree: Any) -> Any:
  """Returns numpy copies of the replicated arrays; other leaves are unchanged."""
  # Copies: on a CPU numpy would share the memory of an array that a step is about to donate.
  return jax.tree.map(lambda leaf: np.array(leaf) if isinstance(leaf, jax.Array) else leaf, tree)


def place_like(tree: Any, like: Any) -> Any:
  """Places a state from `fetch` on the devices again."""
  return jax.tree.map(
    lambda leaf, old: place(leaf, old.sharding) if isinstance(old, jax.Array) else leaf, tree, like
  )


def replicate(step: Step, mesh: Mesh) -> Step:
  """Returns a step whose state and metrics are replicated, whatever XLA would choose."""
  if mesh.size == 1:
    return step

  def constrained(*arguments: Any) -> Any:
    return jax.lax.with_sharding_constraint(step(*arguments), whole(mesh))

  return cast(Step, constrained)
