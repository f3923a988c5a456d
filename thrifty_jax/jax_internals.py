"""What JAX has under no public name, and this program needs: all of it is here."""

from typing import Any

from jax._src import distributed, xla_bridge


def has_started() -> bool:
  """Whether JAX has started its devices: flags of XLA are not read any more."""
  return xla_bridge.backends_are_initialized()


def process_count() -> int:
  """How many processes have joined by `jax.distributed.initialize`; does not start the devices."""
  return distributed.global_state.num_processes


def process_index() -> int:
  """The number of this process among them, from 0."""
  return distributed.global_state.process_id


def client() -> Any:
  """The client of the service by which JAX's processes find each other.

  It keeps values by their keys, can be waited on for hours, and needs no device.
  """
  return distributed.global_state.client
