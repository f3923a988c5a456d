"""Networks in use: slice by slice on a CPU, in batches of one size, averaged over flips."""

import dataclasses
import itertools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax import config as configs
from thrifty_jax import device
from thrifty_jax.networks import inference
from thrifty_jax.networks.model_spec import make_spec
from thrifty_jax.scans.preprocessing import FLIPS

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')


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
  found = inference.run_slice_by_slice(logits)(images)
  assert logits._cache_size() == 1  # one shape, whatever the batch
  np.testing.assert_allclose(found, logits(images), rtol=1e-6)
  assert inference.run_slice_by_slice(logits)(images[:1]).shape == (1, 8, 8, 2)


def test_after_the_first_as_many_slices_run_at_once_as_there_are_cores(two_cores, images):
  both, calls = threading.Barrier(2, timeout=60), []

  def logits(image):
    calls.append(image)
    if len(calls) > 1:
      both.wait()  # raises if no second one comes
    return image

  np.testing.assert_array_equal(inference.run_slice_by_slice(logits)(images), images)
  assert [call.shape for call in calls] == 5 * [(1, 8, 8, 1)]


def test_a_batch_smaller_than_the_cores_is_as_many_programs(two_cores):
  assert inference.split_batch(1) == (1, 1)
  assert inference.split_batch(16) == (2, 1)


def test_on_an_accelerator_a_batch_stays_whole(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert inference.split_batch(16) == (1, 16)
  assert inference.run_slice_by_slice(jnp.sin) is jnp.sin


@pytest.mark.parametrize(
  'flips',
  [(), ('left_right',), ('up_down', 'left_right'), ('diagonal',), ('left_right', 'diagonal')],
)
def test_averaging_over_flips_equals_a_loop_over_flipped_copies(flips):
  rng = np.random.default_rng(0)
  image = rng.normal(size=(2, 6, 6, 1))
  weight = rng.normal(size=(6, 6, 3))  # a network that tells left from right

  def logits(image):
    return image * weight

  expected = []
  for wanted in itertools.product((False, True), repeat=len(flips)):
    copy = image
    chosen = [flip for flip, on in zip(flips, wanted, strict=True) if on]
    axes = tuple({'up_down': 1, 'left_right': 2}[flip] for flip in chosen if flip != 'diagonal')
    order = (0, 2, 1, 3) if 'diagonal' in chosen else (0, 1, 2, 3)
    copy = logits(np.flip(copy, axes).transpose(order))
    expected.append(np.flip(copy.transpose(order), axes))
  found = inference.average_over_flips(logits, flips)(image)
  np.testing.assert_allclose(found, np.mean(expected, axis=0), rtol=1e-12)


def test_averaged_logits_do_not_change_when_the_image_is_mirrored():
  rng = np.random.default_rng(1)
  weight = rng.normal(size=(4, 4, 2))
  averaged = inference.average_over_flips(lambda x: x * weight, ('left_right',))
  image = rng.normal(size=(1, 4, 4, 1))
  np.testing.assert_allclose(averaged(image[:, :, ::-1])[:, :, ::-1], averaged(image))


def test_three_flips_are_all_eight_turns_and_mirrors_of_a_square():
  weight = np.random.default_rng(2).normal(size=(5, 5, 1))
  averaged = inference.average_over_flips(lambda x: x * weight, FLIPS)
  turned = [np.rot90(mirrored, k) for k in range(4) for mirrored in (weight, weight[::-1])]
  np.testing.assert_allclose(averaged(np.ones((1, 5, 5, 1)))[0], np.mean(turned, axis=0))


def a_spec(**changes):
  config = configs.default()
  config.data.update({'modalities': 2, 'context': 1})
  spec = make_spec(config, {'mean': [0.25, 0.5], 'std': [0.5, 2.0]})
  return dataclasses.replace(spec, **changes)


@pytest.mark.parametrize('slices', [1, 4, 7])
def test_the_slices_of_a_scan_come_back_in_order_normalised_between_their_neighbours(slices):
  image = np.random.default_rng(0).random((slices, 6, 6, 2)).astype(np.float16)
  shapes = set()

  def logits(batch):
    shapes.add(batch.shape)
    return batch

  found = inference.predict_with(logits, a_spec(), batch_size=4)(image)
  unit = (image.astype(np.float32) - (0.25, 0.5)) / (0.5, 2.0)
  around = (np.clip(np.arange(slices) + offset, 0, slices - 1) for offset in (-1, 0, 1))
  np.testing.assert_allclose(found, np.concatenate([unit[rows] for rows in around], -1), atol=1e-6)
  assert found.dtype == np.float32 and shapes == {(1, 6, 6, 6)}


def test_batches_have_one_size_and_are_filled_with_the_last_slice():
  image = np.arange(5, dtype=np.float16)[:, None, None, None]
  batches = []

  def network(found):
    batches.append(found)
    return found[:, 0]

  found = inference.class_scores(network, image, context=0, batch_size=3)
  np.testing.assert_array_equal(found, image)
  assert [batch.ravel().tolist() for batch in batches] == [[0, 1, 2], [3, 4, 4]]
