"""Floors against brute force."""

import itertools
import time

import numpy as np
import pytest

from thrifty_jax import labels
from thrifty_jax.scores import floors, metrics


def cases(seed=0, *, classes=2, count=4, size=6):
  """Random training cases, two scans of the first patient among them."""
  rng = np.random.default_rng(seed)
  made = []
  for i in range(count):
    label = rng.integers(0, classes, (3 + i, size, size)).astype(np.uint8)
    image = (label + rng.normal(0, 0.4, label.shape) + 1) / (classes + 1)
    patient = f'p{max(i - 1, 0)}'
    made.append(floors.TrainingCase(patient, image.clip(0, 1)[..., None].astype(np.float16), label))
  return made


def mean_patient_dsc(training, predict, classes):
  """Mean over patients and classes of the DSC of predict(case), the obvious way."""
  counts: dict[str, np.ndarray] = {}
  for case in training:
    count = metrics.overlap_counts(predict(case), case.label, classes=classes)
    counts[case.patient] = counts.get(case.patient, 0) + count
  return np.mean([metrics.dsc(count) for count in counts.values()])


@pytest.mark.parametrize('classes', [2, 3])
def test_the_mean_mask_threshold_is_the_best_of_all_tried(classes):
  training = cases(classes=classes)
  floor = floors.fit_mean_mask(training, classes=classes)

  def score(threshold):
    tried = floors.MeanMask(floor.frequency, threshold, 0.0)
    return mean_patient_dsc(training, lambda c: tried.scores(c.image).argmax(-1), classes)

  # Scores tie with the threshold only where a frequency equals it, where argmax takes background.
  scores = [score(threshold - 1e-6) for threshold in floors.MASK_THRESHOLDS]
  assert floor.training_dsc == pytest.approx(max(scores))
  assert score(floor.threshold - 1e-6) == pytest.approx(max(scores))


def test_the_mean_mask_is_the_mean_over_training_slices_of_the_same_depth():
  rng = np.random.default_rng(0)
  label = rng.integers(0, 2, (3, 16, 5, 5)).astype(np.uint8)
  training = [floors.TrainingCase(f'p{i}', each[..., None], each) for i, each in enumerate(label)]
  floor = floors.fit_mean_mask(training, classes=2)
  # 16 slices in 8 parts: the second part is slices 2 and 3.
  np.testing.assert_allclose(floor.frequency[1, ..., 0], label[:, 2:4].mean((0, 1)), atol=1e-6)


def test_the_mean_mask_is_defined_for_scans_longer_than_those_of_training():
  training = cases(count=2)  # of 3 and 4 slices: some depths stay empty
  scores = floors.fit_mean_mask(training, classes=2).scores(np.zeros((40, 6, 6, 1)))
  assert scores.shape == (40, 6, 6, 2)
  for part in np.split(scores[..., 1], 8):
    assert part.max() > 0


@pytest.mark.parametrize('at_once', [floors._AT_ONCE, 7])
@pytest.mark.parametrize('classes', [2, 3])
def test_intensity_thresholds_find_the_best_bands_there_are(classes, at_once, monkeypatch):
  monkeypatch.setattr(floors, 'INTENSITY_LEVELS', 16)
  monkeypatch.setattr(floors, '_AT_ONCE', at_once)
  training = cases(3, classes=classes)
  floor = floors.fit_thresholds(training, classes=classes)

  def score(thresholds, order):
    tried = floors.IntensityThresholds(thresholds, order, 0.0)
    return mean_patient_dsc(training, lambda c: tried.scores(c.image).argmax(-1), classes)

  every = [
    score(tuple(level / 16 for level in levels), order)
    for levels in itertools.combinations(range(1, 17), classes - 1)
    for order in itertools.permutations(range(classes))
  ]
  assert floor.training_dsc == pytest.approx(max(every))
  assert score(floor.thresholds, floor.band_labels) == pytest.approx(max(every))


def test_intensity_thresholds_recover_reversed_classes():
  label = np.tile(np.arange(3, dtype=np.uint8), (2, 6, 2))
  image = (0.9 - 0.4 * label[..., None]).astype(np.float16)  # the background is the brightest
  case = floors.TrainingCase('p', image, label)
  floor = floors.fit_thresholds([case], classes=3)
  assert floor.band_labels == (2, 1, 0)
  assert floor.training_dsc == 1.0
  np.testing.assert_array_equal(floor.scores(image).argmax(-1), label)


def test_thresholds_of_as_many_labels_as_there_may_be_are_fitted_at_once():
  most = floors.MOST_LABELS
  label = np.tile(np.arange(most, dtype=np.uint8), (2, most, 1))
  image = (label[..., None] / most + 0.01).astype(np.float32)
  began = time.process_time()
  floor = floors.fit_thresholds([floors.TrainingCase('p', image, label)], classes=most)
  assert time.process_time() - began < 20  # all orders of 18 quantiles take 11 times as long
  assert floor.band_labels == tuple(range(most)) and floor.training_dsc == 1.0


@pytest.mark.parametrize(
  ('count', 'size'), [(2, 256), (3, 200), (4, 50), (5, 27), (6, 20), (floors.MOST_LABELS, 13)]
)
def test_thresholds_are_of_as_many_quantiles_as_can_be_tried(count, size):
  grid = floors._quantile_grid(np.ones(floors.INTENSITY_LEVELS, np.int64), count)
  assert len(grid) == size


def test_no_training_case_is_refused():
  with pytest.raises(ValueError, match='no training case'):
    floors.fit_mean_mask([], classes=2)


# --- regions, and pixels without a label

REGIONS = ((1, 2), (2,))


def fits(training, **meaning):
  return floors.fit_mean_mask(training, **meaning), floors.fit_thresholds(training, **meaning)


@pytest.mark.parametrize('regions', [(), REGIONS])
def test_no_floor_depends_on_pixels_that_are_ignored(regions):
  training, other = cases(classes=3), cases(classes=3)
  for one, two in zip(training, other, strict=True):
    ignored = np.random.default_rng(1).random(one.label.shape) < 0.2
    two.image[ignored] = 0.37
    for case in (one, two):
      case.label[ignored] = labels.IGNORED
  (mask, bands), (same_mask, same_bands) = (
    fits(each, classes=3, regions=regions) for each in (training, other)
  )
  np.testing.assert_array_equal(mask.frequency, same_mask.frequency)
  assert mask.threshold == same_mask.threshold and bands == same_bands
  assert mask.training_dsc == same_mask.training_dsc


def test_the_mean_mask_is_the_mean_over_slices_with_a_label_there():
  label = np.random.default_rng(0).integers(0, 3, (8, 16, 5, 5)).astype(np.uint8)
  label[np.random.default_rng(1).random(label.shape) < 0.3] = labels.IGNORED
  training = [floors.TrainingCase(f'p{i}', each[..., None], each) for i, each in enumerate(label)]
  floor = floors.fit_mean_mask(training, classes=3, regions=REGIONS)
  here = label[:, 2:4]  # 16 slices in 8 parts: of the second part
  for k, own in enumerate(REGIONS):
    expected = np.isin(here, own).sum((0, 1)) / np.maximum((here != labels.IGNORED).sum((0, 1)), 1)
    np.testing.assert_allclose(floor.frequency[1, ..., k], expected, atol=1e-6)


def test_floors_of_regions_are_the_best_of_all_tried(monkeypatch):
  training = cases(2, classes=3)
  monkeypatch.setattr(floors, 'TRIES', 360)
  mask, bands = fits(training, classes=3, regions=REGIONS)

  def score(floor):
    counts: dict[str, np.ndarray] = {}
    for case in training:
      found = labels.choose(floor.scores(case.image), REGIONS)
      pairs = [(np.isin(found, own), np.isin(case.label, own)) for own in REGIONS]
      count = np.array([[(p & t).sum(), p.sum(), t.sum()] for p, t in pairs])
      counts[case.patient] = counts.get(case.patient, 0) + count
    return np.mean([metrics.dsc(count) for count in counts.values()])

  assert score(bands) == pytest.approx(bands.training_dsc)
  for order in itertools.permutations(range(3)):
    tried = floors.IntensityThresholds(bands.thresholds, order, 0.0, REGIONS)
    assert score(tried) <= bands.training_dsc + 1e-9
  assert score(mask) == pytest.approx(mask.training_dsc)
  for threshold in floors.MASK_THRESHOLDS:
    assert score(floors.MeanMask(mask.frequency, threshold, 0.0)) <= mask.training_dsc + 1e-9
