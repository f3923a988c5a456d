"""What an epoch's figures are made of, and which slices a run may learn from."""

import itertools
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recorded import open_data

from data_prep import phantom
from thrifty_jax.errors import InputError
from thrifty_jax.networks.losses import overlap
from thrifty_jax.training import train_data
from thrifty_jax.training.train_data import Figures


@pytest.fixture(scope='module')
def settings(tmp_path_factory, phantom_config):
  folder = tmp_path_factory.mktemp('train_data')
  config = phantom_config(folder)
  phantom.write_promise12(folder / 'raw', patients=7, seed=0)
  return config


@pytest.fixture(scope='module')
def opened(settings):
  return open_data(settings)


def test_overlap_counts_pixels_as_a_loop_does():
  random = np.random.default_rng(0)
  logits = random.standard_normal((2, 3, 4, 3)).astype(np.float32)
  label = random.integers(3, size=(2, 3, 4)).astype(np.int32)
  expected = np.zeros((2, 3))
  for place in np.ndindex(label.shape):
    predicted, true = int(logits[place].argmax()), int(label[place])
    for k in (1, 2):
      expected[k - 1] += [predicted == true == k, predicted == k, true == k]
  for function in (overlap, jax.jit(overlap)):
    np.testing.assert_array_equal(function(jnp.asarray(logits), jnp.asarray(label)), expected)


def test_figures_average_over_the_steps_of_an_epoch():
  figures = Figures('search', 0)
  for step, loss in enumerate([3.0, 1.0, 0.5], start=1):
    figures.add(step, {'loss': jnp.asarray(loss)})
  assert figures.steps == 2  # the last one is still on the device
  assert figures.mean('loss') == 2.0
  figures.flush()
  assert figures.steps == 3
  assert figures.mean('loss') == 1.5
  figures.flush()
  assert figures.steps == 3  # nothing is counted twice
  assert math.isnan(figures.mean('accuracy'))


def test_dsc_pools_the_pixels_of_all_steps_and_averages_over_classes():
  random = np.random.default_rng(1)
  figures = Figures('search', 0)
  logits = random.standard_normal((3, 2, 4, 4, 3)).astype(np.float32)
  label = random.integers(3, size=(3, 2, 4, 4)).astype(np.int32)
  for step in range(3):
    figures.add(step, {'overlap': overlap(jnp.asarray(logits[step]), jnp.asarray(label[step]))})
  figures.flush()
  predicted = logits.argmax(-1)
  expected = [
    2 * ((predicted == k) & (label == k)).sum() / ((predicted == k).sum() + (label == k).sum())
    for k in (1, 2)
  ]
  assert figures.dsc() == pytest.approx(np.mean(expected), rel=1e-6)


@pytest.mark.parametrize(
  ('counts', 'expected'),
  [
    ([[[0, 0, 0]]], 1.0),  # neither there nor predicted
    ([[[0, 7, 0]]], 0.0),  # invented
    ([[[0, 0, 7]]], 0.0),  # missed
    ([[[5, 5, 5]]], 1.0),
    ([[[5, 5, 5], [0, 0, 0]]], 1.0),
    ([[[5, 5, 5], [0, 0, 3]]], 0.5),
    ([[[1, 2, 2]], [[0, 1, 1]]], 1 / 3),
  ],
)
def test_dsc_of_empty_and_full_masks_is_never_nan(counts, expected):
  figures = Figures('search', 0)
  for step, count in enumerate(counts):
    figures.add(step, {'overlap': jnp.asarray(count, jnp.float32)})
  figures.flush()
  assert figures.dsc() == pytest.approx(expected)


def test_dsc_before_the_first_step_is_unknown():
  assert math.isnan(Figures('search', 0).dsc())


def test_counts_stay_exact_over_an_epoch_of_many_pixels():
  figures = Figures('search', 0)
  for step in range(40):
    figures.add(step, {'overlap': jnp.asarray([[700_001, 700_001, 700_001]], jnp.float32)})
  figures.flush()
  assert figures.sums['overlap'].tolist() == [[28_000_040] * 3]  # float32 counts to 16,777,216


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('when', ['at the next step', 'at the end of the epoch'])
def test_a_number_that_is_not_finite_stops_and_names_stage_epoch_and_step(value, when):
  figures = Figures('retrain', 4)
  figures.add(11, {'loss': jnp.asarray(1.0)})
  figures.add(12, {'loss': jnp.asarray(1.0), 'gradient': jnp.asarray([0.0, value])})
  with pytest.raises(
    InputError, match='retrain, epoch 5, step 12: gradient is non-finite'
  ) as caught:
    if when == 'at the next step':
      figures.add(13, {'loss': jnp.asarray(1.0)})
    else:
      figures.flush()
  assert '\n' not in str(caught.value) and 'config.retrain' in str(caught.value)
  assert figures.steps == 1  # nothing of the bad step was taken


def test_no_patient_is_in_two_splits_and_all_slices_are_in_one(opened):
  for one, other in itertools.combinations(('train', 'validation', 'test'), 2):
    assert not set(opened.patients[one]) & set(opened.patients[other])
  examples = [opened.examples(patients) for patients in opened.patients.values()]
  rows = np.concatenate([one._rows for one in examples])
  assert sorted(rows) == list(range(len(opened.prepared.slices)))
  for one, patients in zip(examples, opened.patients.values(), strict=True):
    assert {case.patient for case in one.cases} == {*patients}


def test_intensity_statistics_are_those_of_the_training_patients_only(opened):
  pixels = {
    name: opened.examples(patients).read(np.arange(len(opened.examples(patients))))['image']
    for name, patients in opened.patients.items()
  }
  training = pixels['train'].astype(np.float64)
  np.testing.assert_allclose(opened.statistics['mean'], [training.mean()], rtol=1e-5)
  np.testing.assert_allclose(opened.statistics['std'], [training.std()], rtol=1e-5)
  everyone = np.concatenate(list(pixels.values())).astype(np.float64)
  assert abs(training.mean() - everyone.mean()) > 1e-4  # the test can tell them apart


def test_a_fixed_mean_and_deviation_win_over_the_training_patients(opened, settings):
  settings = settings.copy_and_resolve_references()
  settings.data.mean, settings.data.std = (0.25,), (0.5,)
  fixed = open_data(settings)
  assert {name: value.tolist() for name, value in fixed.statistics.items()} == {
    'mean': [0.25],
    'std': [0.5],
  }
  ours, theirs = (
    next(one.epochs(one.patients['train'], batch_size=2, seed=0).batches(0))['image']
    for one in (opened, fixed)
  )
  mean, std = opened.statistics['mean'], opened.statistics['std']
  np.testing.assert_allclose(theirs, (ours * std + mean - 0.25) / 0.5, atol=1e-5)


@pytest.mark.parametrize('context', [0, 1])
def test_batches_have_the_shapes_that_were_announced(opened, settings, context):
  settings = settings.copy_and_resolve_references()
  settings.data.context = context
  opened = open_data(settings)
  epochs = opened.epochs(opened.patients['train'], batch_size=3, seed=0)
  batches = list(epochs.batches(0))
  assert len(batches) == epochs.steps == len(epochs.examples) // 3 > 1
  for batch in batches:
    for name, expected in opened.batch_shape(3).items():
      assert (batch[name].shape, batch[name].dtype) == (expected.shape, expected.dtype)
      assert batch[name].sharding.is_equivalent_to(expected.sharding, len(expected.shape))
  assert opened.batch_shape(3)['image'].shape == (3, 16, 16, 1 + 2 * context)


def test_an_epoch_that_goes_on_gives_the_batches_that_are_left(opened):
  epochs = opened.epochs(opened.patients['train'], batch_size=3, seed=0)
  whole, rest = (list(epochs.batches(1, first=first)) for first in (0, 2))
  jax.tree.map(np.testing.assert_array_equal, rest, whole[2:])


@pytest.mark.parametrize(('least', 'most', 'steps'), [(0, 0, 5), (7, 0, 7), (0, 2, 2)])
def test_the_slices_of_a_step_are_those_of_its_batch(opened, least, most, steps):
  patients = opened.patients['train']
  epochs = opened.epochs(patients, batch_size=3, seed=7, least_steps=least, most_steps=most)
  assert epochs.facts.epoch_steps == epochs.steps == steps
  every = {
    epochs.examples.name(index): image
    for index, image in enumerate(epochs.examples.read(np.arange(len(epochs.examples)))['image'])
  }
  mean, std = opened.statistics['mean'], opened.statistics['std']
  for epoch in (0, 1):
    for index, batch in enumerate(epochs.batches(epoch)):
      names = epochs.slices_of(epoch * epochs.steps + index + 1)
      expected = [(every[name].astype(np.float32) - mean) / std for name in names]
      np.testing.assert_allclose(batch['image'], expected, atol=1e-5)


@pytest.mark.parametrize('seed', [0, 3, 2**31 + 5, 2**32 - 1, 2**32 + 7, 2**40])
def test_a_seed_that_a_program_is_told_gives_the_random_numbers_of_the_seed_itself(seed):
  logging.disable(logging.WARNING)  # JAX says that a seed is longer than it takes
  try:
    expected = jax.random.key_data(jax.random.key(seed))
  except OverflowError:
    expected = jax.random.key_data(jax.random.key(seed % 2**32))
  finally:
    logging.disable(logging.NOTSET)
  found = jax.jit(lambda bits: jax.random.key_data(jax.random.key(bits)))(
    train_data.seed_bits(seed)
  )
  np.testing.assert_array_equal(found, expected)


def test_augmenting_a_batch_depends_on_the_key_alone(opened):
  batch = next(opened.epochs(opened.patients['train'], batch_size=2, seed=0).batches(0))
  augment = jax.jit(opened.augment)
  first, again, other = (augment(jax.random.key(seed), batch) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first['image'], again['image'])
  np.testing.assert_array_equal(first['label'], again['label'])
  assert np.abs(first['image'] - other['image']).max() > 0.01
  assert set(first) == set(batch) and first['label'].dtype == batch['label'].dtype


def test_a_run_that_nothing_was_prepared_for_is_bad_input(settings, tmp_path):
  with pytest.raises(
    InputError, match=r'data\.json: there is no such file.*run --stage=prepare first'
  ):
    train_data.open_train_data(settings, tmp_path)
