"""Floors: baselines without a network, which any network must exceed.

Both are fitted on training slices only. Their class scores are scored as a network's logits are.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from thrifty_jax import labels
from thrifty_jax.scores import metrics

DEPTH_BINS = 8  # parts of a scan along its slices, each with its own mean mask
MASK_THRESHOLDS = np.linspace(0.02, 0.9, 45)  # candidates for the mean mask
INTENSITY_LEVELS = 1024  # bins of the histograms that intensity thresholds are fitted on
COMBINATIONS = 20_000  # most choices of thresholds; more labels coarsen the grid
TRIES = 12_000_000  # most choices of thresholds and order of labels, likewise
MOST_LABELS = 7  # that thresholds are fitted for: more have too many orders
_AT_ONCE = 1 << 18  # choices and orders that are scored together, for the memory


@dataclass(frozen=True)
class TrainingCase:
  """One training case at network resolution: image [D, S, S, M] in [0, 1], label [D, S, S].

  Pixels whose label is IGNORED take no part in a fit.
  """

  patient: str
  image: np.ndarray
  label: np.ndarray


@dataclass(frozen=True)
class MeanMask:
  """Frequency of each class at each pixel, in each part of the scan."""

  frequency: np.ndarray  # [DEPTH_BINS, S, S, K - 1], float32 in [0, 1]
  threshold: float  # frequency from which a pixel is foreground
  training_dsc: float  # mean over training patients and classes

  def scores(self, image: np.ndarray) -> np.ndarray:
    """Class scores of image [D, S, S, M]: [D, S, S, K], float32, see labels.choose."""
    frequency = self.frequency[_depth_bins(len(image))]
    background = np.full_like(frequency[..., :1], self.threshold)
    return np.concatenate([background, frequency], axis=-1)


@dataclass(frozen=True)
class IntensityThresholds:
  """Intensity bands of the image's first modality, one per label."""

  thresholds: tuple[float, ...]  # ascending intensities in [0, 1], one less than labels
  band_labels: tuple[int, ...]  # label of each band, darkest first
  training_dsc: float  # mean over training patients and classes
  regions: labels.Regions = ()  # that the classes are

  def scores(self, image: np.ndarray) -> np.ndarray:
    """Class scores of image [D, S, S, M]: [D, S, S, K], float32, 1 for classes of the band."""
    band = np.searchsorted(self.thresholds, image[..., 0].astype(np.float32), side='right')
    return _scores_of_labels(len(self.band_labels), self.regions)[
      np.asarray(self.band_labels)[band]
    ]


def fit_mean_mask(
  training: Iterable[TrainingCase], *, classes: int, regions: labels.Regions = ()
) -> MeanMask:
  """Fits the mean of the training masks by relative depth, and its best threshold.

  The threshold has the highest mean DSC over training patients. The cases are read twice, so they
  are no generator; the number of classes includes the background, here and below.
  """
  total, slices = np.zeros((), np.float32), np.zeros(DEPTH_BINS)
  ignored = np.zeros((), np.float32)
  for case in training:
    bins = _depth_bins(len(case.label))
    found = np.zeros((DEPTH_BINS, *case.label.shape[1:], classes), np.float32)
    of_class = [labels.belongs(case.label, k, regions) for k in range(1, classes)]
    np.add.at(found, bins, np.stack([case.label == labels.IGNORED, *of_class], axis=-1))
    ignored, total = ignored + found[..., :1], total + found[..., 1:]
    np.add.at(slices, bins, 1)
  if not slices.any():
    raise ValueError('there is no training case to fit a mean mask to')
  # Training scans with fewer slices than bins leave bins empty, which copy the nearest filled bin.
  filled = np.flatnonzero(slices)
  nearest = filled[np.abs(np.arange(DEPTH_BINS)[:, None] - filled).argmin(1)]
  # [DEPTH_BINS, S, S, K - 1]
  labelled = slices[nearest, None, None, None].astype(np.float32) - ignored[nearest]
  frequency = total[nearest] / np.maximum(labelled, 1)

  counts: dict[str, np.ndarray] = {}
  for case in training:
    here = frequency[_depth_bins(len(case.label))]  # [D, S, S, K - 1]
    tried = [
      metrics.overlap_counts(mask, case.label, classes=classes, regions=regions)
      for mask in _cut(here, regions)
    ]
    counts[case.patient] = counts.get(case.patient, 0) + np.stack(tried)
  scores = metrics.dsc(np.stack(list(counts.values())))  # [patients, thresholds, K - 1]
  means = metrics.mean_of_scored(metrics.mean_of_scored(scores, axis=2), axis=0)
  best = int(np.nan_to_num(means).argmax())
  return MeanMask(frequency, float(MASK_THRESHOLDS[best]), float(means[best]))


def _cut(frequency: np.ndarray, regions: labels.Regions) -> Iterator[np.ndarray]:
  """Yields the labels of frequencies of the classes, [..., K - 1], for each threshold."""
  highest, likeliest = (
    frequency.max(-1).astype(np.float64),
    frequency.argmax(-1).astype(np.uint8) + 1,
  )
  for least in MASK_THRESHOLDS:
    if regions:
      background = np.full_like(frequency[..., :1], least)
      yield labels.choose(np.concatenate([background, frequency], axis=-1), regions)
    else:
      yield np.where(highest >= least, likeliest, 0)


def fit_thresholds(
  training: Iterable[TrainingCase], *, classes: int, regions: labels.Regions = ()
) -> IntensityThresholds:
  """Fits the intensity thresholds and the order of the labels to the training slices.

  Of a grid of quantiles of the training intensities above 0, every combination, with every
  assignment of the bands to the labels, one each, is tried; that with the highest mean DSC over
  training patients and foreground classes is returned. There are MOST_LABELS labels at most.
  """
  count = labels.count(classes, regions)
  of_classes = _scores_of_labels(count, regions)[:, 1:] > 0  # which labels each class has
  counts: dict[str, np.ndarray] = {}  # pixels of each level and label by patient
  for case in training:
    intensity = case.image[..., 0].astype(np.float32)
    level = np.clip((intensity * INTENSITY_LEVELS).astype(int), 0, INTENSITY_LEVELS - 1)
    of_patient = counts.setdefault(case.patient, np.zeros((INTENSITY_LEVELS, count), np.int64))
    known = case.label != labels.IGNORED
    np.add.at(of_patient, (level[known], case.label[known]), 1)
  histograms = np.stack(list(counts.values()))
  grid = _quantile_grid(histograms.sum((0, 2)), count)
  # below[p, g, l]: number of pixels of patient p and label l darker than the grid's level g.
  below = np.pad(np.cumsum(histograms, axis=1), ((0, 0), (1, 0), (0, 0)))
  combinations = np.asarray(list(itertools.combinations(grid, count - 1)))
  edges = np.pad(combinations, ((0, 0), (1, 1)), constant_values=((0, 0), (0, INTENSITY_LEVELS)))
  orders = list(itertools.permutations(range(count)))
  best, places = np.full(len(orders), -1.0), np.zeros(len(orders), int)  # of each order
  step = max(1, _AT_ONCE // len(orders))
  for start in range(0, len(edges), step):
    scores = _dsc_of_bands(below, edges[start : start + step], np.asarray(orders), of_classes)
    better = scores.max(axis=1) > best
    places[better] = start + scores[better].argmax(axis=1)
    best = np.maximum(best, scores.max(axis=1))
  order = int(best.argmax())
  thresholds = tuple(float(level) / INTENSITY_LEVELS for level in combinations[places[order]])
  return IntensityThresholds(thresholds, orders[order], float(best[order]), regions)


def _scores_of_labels(count: int, regions: labels.Regions) -> np.ndarray:
  """Returns the scores of the classes for each label, [labels, K], float32, see labels.choose."""
  if not regions:
    return np.eye(count, dtype=np.float32)
  numbers = np.arange(count)
  of_class = [labels.belongs(numbers, k, regions) for k in range(1, len(regions) + 1)]
  return np.stack([np.full(count, 0.5), *of_class], axis=-1).astype(np.float32)


def _depth_bins(slices: int) -> np.ndarray:
  """Part of the scan that each slice lies in, [D], integers below DEPTH_BINS."""
  return ((np.arange(slices) + 0.5) * DEPTH_BINS / slices).astype(int)


def _dsc_of_bands(
  below: np.ndarray, edges: np.ndarray, orders: np.ndarray, of_classes: np.ndarray
) -> np.ndarray:
  """Mean DSC over patients and foreground classes of every choice of bands, [orders, choices].

  `below` are the pixels darker than each level, [patients, INTENSITY_LEVELS + 1, labels]; `edges`
  the levels between which the bands lie, [choices, labels + 1]; `orders` the labels of the bands,
  [orders, labels]; `of_classes` says which labels each foreground class has, [labels, K - 1].
  """
  band_of_label = np.argsort(orders, axis=1)  # [orders, labels]
  # The sets of bands that each class can have, [sets, bands of a set], and that of each order.
  sets = [
    np.unique(np.sort(band_of_label[:, own], axis=1), axis=0, return_inverse=True)
    for own in of_classes.T
  ]
  total = np.zeros((len(orders), len(edges)))
  scored = np.zeros_like(total)
  for patient in below:
    # Pixels of each label in each band, [labels, choices, labels], the band first.
    pixels = np.moveaxis(patient[edges[:, 1:]] - patient[edges[:, :-1]], 1, 0)
    scores = []
    for own, (bands, of_order) in zip(of_classes.T, sets, strict=True):
      inside = pixels[bands].sum(1)  # [sets, choices, labels]
      truth = np.broadcast_to(patient[-1, own].sum(), inside.shape[:2])
      counts = [inside[..., own].sum(-1), inside.sum(-1), truth]
      scores.append(metrics.dsc(np.stack(counts, axis=-1))[of_order.reshape(-1)])
    means = metrics.mean_of_scored(np.stack(scores), axis=0)
    total += np.nan_to_num(means)
    scored += ~np.isnan(means)
  return total / np.maximum(scored, 1)


def _quantile_grid(histogram: np.ndarray, classes: int) -> np.ndarray:
  """Levels at even quantiles of the intensities above 0, ascending, without duplicates."""
  sizes = range(classes, 257)
  orders = math.factorial(classes)
  most = min(COMBINATIONS, TRIES // orders)
  size = max(size for size in sizes if math.comb(size, classes - 1) <= most)
  foreground = np.cumsum(histogram[1:])
  wanted = np.linspace(0, foreground[-1], size, endpoint=False)
  levels = np.unique(np.searchsorted(foreground, wanted, side='right') + 1)
  if len(levels) >= classes - 1:
    return levels
  # Few distinct intensities may give fewer levels than thresholds; then even ones are taken.
  return np.linspace(1, INTENSITY_LEVELS - 1, classes - 1).astype(int)
