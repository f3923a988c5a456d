import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax import device
from thrifty_jax.networks import slicewise


@pytest.fixture
def two_cores(monkeypatch):
  monkeypatch.setattr(device, 'cores', lambda: 2)


@pytest.fixture
def images():
  return np.random.default_rng(0).random((5, 8, 8, 1), np.float32)


def test_a_batch_slice_by_slice_gives_what_the_whole_batch_gives(two_cores, images):
  logits: Any = jax.jit(
    lambda x: jnp.concatenate([x.mean((1, 2), keepdims=True) - x, 2 * x], axis=-1)
  )
  found = slicewise.network(logits)(images)
  assert logits._cache_size() == 1  # one shape, whatever the batch
  np.testing.assert_allclose(found, logits(images), rtol=1e-6)
  assert slicewise.network(logits)(images[:1]).shape == (1, 8, 8, 2)


def test_after_the_first_as_many_slices_run_at_once_as_there_are_cores(two_cores, images):
  both, calls = threading.Barrier(2, timeout=60), []

  def logits(image):
    calls.append(image)
    if len(calls) > 1:
      both.wait()  # raises if no second one comes
    return image

  np.testing.assert_array_equal(slicewise.network(logits)(images), images)
  assert [call.shape for call in calls] == 5 * [(1, 8, 8, 1)]


def test_a_batch_smaller_than_the_cores_is_as_many_programs(two_cores):
  assert slicewise.split(1) == (1, 1)
  assert slicewise.split(16) == (2, 1)


def test_on_an_accelerator_a_batch_stays_whole(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert slicewise.split(16) == (1, 16)
  assert slicewise.network(jnp.sin) is jnp.sin
