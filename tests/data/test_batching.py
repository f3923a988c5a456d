"""Batches against slow loops over the prepared slices of a phantom."""

import dataclasses
import itertools
import threading

import jax
import numpy as np
import pytest

from data_prep import prepare
from thrifty_jax import config
from thrifty_jax.data import batching
from thrifty_jax.data import prepared as prepared_
from thrifty_jax.errors import InputError

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

STATISTICS = {'mean': np.asarray([0.2], np.float32), 'std': np.asarray([0.3], np.float32)}


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """The slices of ten made-up scans; the first two are of one patient."""
  folder = tmp_path_factory.mktemp('data')
  settings = config.default()
  settings.data.name = 'phantom'
  settings.data.classes = ('background', 'organ')
  settings.data.image_size = 16
  settings.data.raw_dir = str(folder / 'raw')
  settings.data.data_dir = str(folder / 'tfds')
  opened = prepared_.open_folder(prepare.prepare(settings))
  first, second, *others = opened.cases
  second = dataclasses.replace(second, patient=first.patient)
  return dataclasses.replace(opened, cases=(first, second, *others))


def examples_of(prepared, names, budget_bytes=1 << 30):
  """The slices of the named cases."""
  cases = tuple(case for case in prepared.cases if case.case in names)
  return batching.Examples(prepared, cases, budget_bytes)


def two_ways(prepared, names):
  """The same examples, resident and streamed."""
  resident = examples_of(prepared, names)
  streamed = examples_of(prepared, names, budget_bytes=0)
  assert resident.resident is not None
  assert streamed.resident is None
  return resident, streamed


def slow_batch(examples, indices, context):
  """Image and label of some examples, one slice after the other."""
  images, labels = [], []
  for index in indices:
    for case in examples.cases:  # Find the case that the example falls in.
      if index < case.slices:
        break
      index -= case.slices
    channels = []
    for offset in range(-context, context + 1):
      neighbour = min(max(index + offset, 0), case.slices - 1)
      record = examples.prepared.slices[int(case.first_slice + neighbour)]
      assert (record['case'].decode(), record['slice']) == (case.case, neighbour)
      channels.append((record['image'].astype(np.float32) - STATISTICS['mean']) / STATISTICS['std'])
    images.append(np.concatenate(channels, axis=-1))
    labels.append(examples.prepared.slices[int(case.first_slice + index)]['label'])
  return np.stack(images), np.stack(labels)


def threads():
  return [thread for thread in threading.enumerate() if thread.name.startswith('read_ahead')]


def test_the_native_truth_of_a_case_has_its_native_shape(prepared):
  shapes = set()
  for case in prepared.cases:
    label = prepared.label_volume(case)
    assert label.dtype == np.uint8
    assert label.shape == case.native_shape
    assert set(np.unique(label)) == {0, 1}
    shapes.add(case.native_shape)
  assert len(shapes) > 1


def test_records_that_fit_the_budget_are_read_once_and_are_the_same(prepared):
  read = []

  class Counted:
    def __getitem__(self, row):
      read.append(row)
      return prepared.slices[row]

  counted = dataclasses.replace(prepared, slices=Counted())
  rows = range(4)
  size = sum(np.asarray(value).nbytes for value in prepared.slices[0].values())
  for budget, again in ((4 * size, []), (3 * size, [3]), (0, [0, 1, 2, 3])):
    remembering = counted.remembering(budget)
    found = [[remembering.slices[row] for row in rows] for _ in range(2)]
    assert read == [*rows, *again]
    read.clear()
    for record in found:
      jax.tree.map(np.testing.assert_array_equal, record, [prepared.slices[row] for row in rows])


def test_statistics_are_those_of_all_pixels_at_once(prepared):
  examples = examples_of(prepared, [case.case for case in prepared.cases[2:5]])
  pixels = examples.read(np.arange(len(examples)))['image'].astype(np.float64)
  found = batching.intensity_statistics(examples)
  np.testing.assert_allclose(found['mean'], pixels.mean(axis=(0, 1, 2)), rtol=1e-6)
  np.testing.assert_allclose(found['std'], pixels.std(axis=(0, 1, 2)), rtol=1e-6)
  assert found['mean'].shape == found['std'].shape == (1,)


@pytest.mark.parametrize('context', [0, 2])
def test_training_batches_are_those_of_a_slow_loop(prepared, context):
  examples = examples_of(prepared, [case.case for case in prepared.cases[1:8:2]])
  plan = batching.order(len(examples), batch_size=6, seed=3, epoch=2)
  found = list(
    batching.batches(
      examples, batch_size=6, seed=3, epoch=2, statistics=STATISTICS, context=context
    )
  )
  assert len(found) == len(plan) == len(examples) // 6
  for batch, indices in zip(found, plan, strict=True):
    image, label = slow_batch(examples, indices, context)
    assert batch['image'].dtype == np.float32
    assert batch['label'].dtype == np.int32
    np.testing.assert_allclose(batch['image'], image, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(batch['label'], label)


@pytest.mark.parametrize('context', [0, 1])
def test_resident_and_streamed_batches_are_equal_bit_for_bit(prepared, context):
  settings = {'batch_size': 7, 'statistics': STATISTICS, 'context': context}
  both = two_ways(prepared, ['Case00', 'Case04'])
  one, other = (batching.batches(examples, seed=1, epoch=4, **settings) for examples in both)
  for batch, same in zip(one, other, strict=True):
    assert batch.keys() == same.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], same[name])


def test_reading_ahead_by_any_number_of_batches_gives_the_same(prepared):
  examples = two_ways(prepared, ['Case05'])[1]
  settings = {'batch_size': 2, 'seed': 0, 'epoch': 0, 'statistics': STATISTICS}
  expected = [
    np.asarray(batch['image']) for batch in batching.batches(examples, **settings, prefetch=0)
  ]
  for prefetch in (1, 5):
    found = [batch['image'] for batch in batching.batches(examples, **settings, prefetch=prefetch)]
    np.testing.assert_array_equal(found, expected)
  assert not threads()


def test_two_streams_of_one_data_set_do_not_disturb_each_other(prepared):
  settings = {'batch_size': 3, 'seed': 0, 'epoch': 0, 'statistics': STATISTICS, 'steps': 12}
  halves = [['Case00', 'Case03'], ['Case01', 'Case02']]
  expected = [list(batching.batches(examples_of(prepared, half), **settings)) for half in halves]
  streams = [
    batching.batches(examples_of(prepared, half, budget_bytes=0), **settings, prefetch=3)
    for half in halves
  ]
  for found, wanted in zip(zip(*streams, strict=True), zip(*expected, strict=True), strict=True):
    for batch, same in zip(found, wanted, strict=True):
      np.testing.assert_array_equal(batch['image'], same['image'])
      np.testing.assert_array_equal(batch['label'], same['label'])
  assert not threads()


def test_streamed_batches_have_one_shape_and_so_one_compilation(prepared, monkeypatch):
  shapes, finished = set(), batching._finished

  def recorded(*arrays, **settings):
    shapes.add(tuple(array.shape for array in jax.tree.leaves(arrays)))
    return finished(*arrays, **settings)

  monkeypatch.setattr(batching, '_finished', recorded)
  examples = two_ways(prepared, ['Case00', 'Case02'])[1]
  settings = {'batch_size': 5, 'statistics': STATISTICS, 'context': 1}
  for epoch in range(2):
    list(batching.batches(examples, seed=0, epoch=epoch, **settings))
  assert len(shapes) == 1


def test_a_case_is_read_whole_and_cases_are_found_by_their_patients(prepared):
  case = prepared.cases[1]
  assert prepared.cases_of([case.patient]) == tuple(
    one for one in prepared.cases if one.patient == case.patient
  )
  found, examples = prepared.read(case), examples_of(prepared, [case.case])
  assert len(found['image']) == case.slices == len(examples)
  for name, expected in examples.read(np.arange(len(examples))).items():
    np.testing.assert_array_equal(found[name], expected)


def test_the_order_is_a_function_of_seed_and_epoch():
  def order(seed, epoch):
    return batching.order(40, batch_size=6, seed=seed, epoch=epoch)

  np.testing.assert_array_equal(order(0, 3), order(0, 3))
  plans = [order(seed, epoch).ravel() for seed, epoch in itertools.product(range(3), range(3))]
  for one, other in itertools.combinations(plans, 2):
    assert (one != other).any()
  for plan in plans:
    assert len(plan) == len(set(plan)) == 36


def test_every_example_is_drawn_sooner_or_later():
  drawn = {
    i for epoch in range(8) for i in batching.order(40, batch_size=6, seed=0, epoch=epoch).flat
  }
  assert drawn == set(range(40))


def test_a_set_smaller_than_a_batch_starts_over():
  plan = batching.order(5, batch_size=12, seed=0, epoch=0)
  assert plan.shape == (1, 12)
  assert set(np.bincount(plan[0])) == {2, 3}


@pytest.mark.parametrize('count, steps', [(10, 7), (40, 3), (25, 6)])
def test_another_number_of_steps_walks_on_through_the_passes(count, steps):
  passes = [batching.order(count, batch_size=4, seed=2, epoch=lap) for lap in range(30)]
  walked = [batching.order(count, batch_size=4, seed=2, epoch=e, steps=steps) for e in range(8)]
  assert {plan.shape for plan in walked} == {(steps, 4)}
  expected = np.concatenate(passes)[: 8 * steps]
  np.testing.assert_array_equal(np.concatenate(walked), expected)


def test_an_exception_while_reading_ahead_reaches_the_consumer(prepared):
  class Broken:
    def __init__(self, rows):
      self.rows, self.left = rows, 5

    def __getitem__(self, row):
      self.left -= 1
      if self.left < 0:
        raise OSError('the disk is gone')
      return self.rows[row]

  broken = dataclasses.replace(prepared, slices=Broken(prepared.slices))
  examples = examples_of(broken, ['Case00'], budget_bytes=0)
  found = []
  with pytest.raises(OSError, match='the disk is gone'):
    for batch in batching.batches(examples, batch_size=2, seed=0, epoch=0, statistics=STATISTICS):
      found.append(batch)
  assert len(found) == 2
  assert not threads()


@pytest.mark.parametrize('prefetch', [1, 2, 50])
def test_a_consumer_that_stops_early_leaves_no_thread(prepared, prefetch):
  examples = two_ways(prepared, [case.case for case in prepared.cases])[1]
  for taken in (1, 3):
    for _ in range(taken):
      for _ in batching.batches(
        examples, batch_size=2, seed=0, epoch=0, statistics=STATISTICS, prefetch=prefetch
      ):
        break
    iterator = batching.batches(
      examples, batch_size=2, seed=0, epoch=0, statistics=STATISTICS, prefetch=prefetch
    )
    next(iterator)
    assert len(threads()) <= 1  # with room for every batch it may have ended already
    iterator.close()
    assert not threads()


def test_a_consumer_that_fails_leaves_no_thread(prepared):
  examples = two_ways(prepared, [case.case for case in prepared.cases])[1]

  def consume():
    for _ in batching.batches(examples, batch_size=2, seed=0, epoch=0, statistics=STATISTICS):
      raise RuntimeError('loss is not finite')

  with pytest.raises(RuntimeError, match='not finite'):
    consume()
  assert not threads()


def test_slices_lie_on_the_device_as_compact_as_on_disk(prepared):
  examples = examples_of(prepared, ['Case00'])
  stored = examples.resident
  assert stored is not None
  assert stored['image'].dtype == np.float16
  assert stored['label'].dtype == np.uint8
  assert sum(array.nbytes for array in stored.values()) == examples.bytes
  assert isinstance(stored['image'], jax.Array)
  assert examples.resident is stored


def test_the_budget_is_kept_to_the_byte(prepared):
  needed = examples_of(prepared, ['Case00']).bytes
  assert examples_of(prepared, ['Case00'], budget_bytes=needed).resident is not None
  assert examples_of(prepared, ['Case00'], budget_bytes=needed - 1).resident is None


@pytest.mark.parametrize(
  ('marked', 'times'), [((0,), 5), ((0, 1), 2), ((3, 4, 5, 6), 1), (range(10), 1), ((), 1)]
)
def test_windows_with_foreground_are_a_third_of_those_drawn(prepared, marked, times):
  case = dataclasses.replace(prepared.cases[0], first_slice=4, slices=10, marked=tuple(marked))
  drawn = batching.Examples(prepared, (case,)).drawn
  counts = np.bincount(drawn, minlength=10)
  assert [*counts] == [times if index in marked else 1 for index in range(10)]
  share = counts[[*marked]].sum() / len(drawn) if marked else 1
  assert share >= batching.MARKED


def test_slices_without_a_label_are_not_drawn(prepared):
  first, case, *_ = prepared.cases
  case = dataclasses.replace(case, unlabelled=(0, 3))
  drawn = batching.Examples(prepared, (first, case)).drawn
  every = range(first.slices + case.slices)
  assert sorted(drawn) == sorted({*every} - {first.slices, first.slices + 3})
  empty = dataclasses.replace(case, unlabelled=tuple(range(case.slices)))
  with pytest.raises(InputError, match=f'no slice of {case.case} .* keeps a label'):
    batching.Examples(prepared, (empty,)).drawn  # noqa: B018
