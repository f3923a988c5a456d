"""The only uses of JAX functions that have no public name."""

from typing import Any

from jax._src import distributed, xla_bridge


def has_started() -> bool:
  """Whether JAX has started its devices, after which XLA no longer reads flags."""
  return xla_bridge.backends_are_initialized()


def process_count() -> int:
  """Number of processes joined by `jax.distributed.initialize`; does not start the devices."""
  return distributed.global_state.num_processes


def process_index() -> int:
  """Index of this process among them, from 0."""
  return distributed.global_state.process_id


def client() -> Any:
  """Client of the service by which JAX's processes share values and wait, without a device."""
  return distributed.global_state.client
