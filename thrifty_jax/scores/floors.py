"""Floors: baselines without a network, which any network must exceed.

Both are fitted on training slices only. Their class scores are scored as a network's logits are.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from thrifty_jax.scores import metrics

DEPTH_BINS = 8  # parts of a scan along its slices, each with its own mean mask
MASK_THRESHOLDS = np.linspace(0.02, 0.9, 45)  # candidates for the mean mask
INTENSITY_LEVELS = 1024  # bins of the histograms that intensity thresholds are fitted on
COMBINATIONS = 20_000  # most combinations of thresholds to try; more classes coarsen the grid


@dataclass(frozen=True)
class TrainingCase:
  """One training case at network resolution: image [D, S, S, M] in [0, 1], label [D, S, S]."""

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
    """Class scores of image [D, S, S, M]: [D, S, S, K], float32; the largest wins."""
    frequency = self.frequency[_depth_bins(len(image))]
    background = np.full_like(frequency[..., :1], self.threshold)
    return np.concatenate([background, frequency], axis=-1)


@dataclass(frozen=True)
class IntensityThresholds:
  """Intensity bands of the image's first modality, one per class."""

  thresholds: tuple[float, ...]  # ascending intensities in [0, 1], K - 1 of them
  band_classes: tuple[int, ...]  # class of each of the K bands, darkest first
  training_dsc: float  # mean over training patients and classes

  def scores(self, image: np.ndarray) -> np.ndarray:
    """Class scores of image [D, S, S, M]: [D, S, S, K], float32, 1 for the band's class."""
    band = np.searchsorted(self.thresholds, image[..., 0].astype(np.float32), side='right')
    classes = len(self.band_classes)
    return np.eye(classes, dtype=np.float32)[np.asarray(self.band_classes)[band]]


def fit_mean_mask(training: Iterable[TrainingCase], *, classes: int) -> MeanMask:
  """Fits the mean of the training masks by relative depth, and its best threshold.

  The threshold has the highest mean DSC over training patients. The cases are read twice, so they
  are no generator; the number of classes includes the background, here and below.
  """
  total, slices = np.zeros((), np.float32), np.zeros(DEPTH_BINS)
  for case in training:
    bins = _depth_bins(len(case.label))
    found = np.zeros((DEPTH_BINS, *case.label.shape[1:], classes - 1), np.float32)
    np.add.at(found, bins, case.label[..., None] == np.arange(1, classes))
    total = total + found
    np.add.at(slices, bins, 1)
  if not slices.any():
    raise ValueError('there is no training case to fit a mean mask to')
  # Training scans with fewer slices than bins leave bins empty, which copy the nearest filled bin.
  filled = np.flatnonzero(slices)
  nearest = filled[np.abs(np.arange(DEPTH_BINS)[:, None] - filled).argmin(1)]
  # [DEPTH_BINS, S, S, K - 1]
  frequency = total[nearest] / slices[nearest, None, None, None].astype(np.float32)

  counts: dict[str, np.ndarray] = {}
  for case in training:
    here = frequency[_depth_bins(len(case.label))]  # [D, S, S, K - 1]
    highest, likeliest = here.max(-1).astype(np.float64), here.argmax(-1).astype(np.uint8) + 1
    tried = [
      metrics.overlap_counts(np.where(highest >= least, likeliest, 0), case.label, classes=classes)
      for least in MASK_THRESHOLDS
    ]
    counts[case.patient] = counts.get(case.patient, 0) + np.stack(tried)
  scores = metrics.dsc(np.stack(list(counts.values())))  # [patients, thresholds, K - 1]
  means = metrics.mean_of_scored(metrics.mean_of_scored(scores, axis=2), axis=0)
  best = int(np.nan_to_num(means).argmax())
  return MeanMask(frequency, float(MASK_THRESHOLDS[best]), float(means[best]))


def fit_thresholds(training: Iterable[TrainingCase], *, classes: int) -> IntensityThresholds:
  """Fits the intensity thresholds and the order of the classes to the training slices.

  Of a grid of quantiles of the training intensities above 0, every combination, with every
  assignment of the K bands to the K classes, is tried; that with the highest mean DSC over training
  patients and foreground classes is returned.
  """
  counts: dict[str, np.ndarray] = {}  # pixels of each level and class by patient
  for case in training:
    intensity = case.image[..., 0].astype(np.float32)
    level = np.clip((intensity * INTENSITY_LEVELS).astype(int), 0, INTENSITY_LEVELS - 1)
    of_patient = counts.setdefault(case.patient, np.zeros((INTENSITY_LEVELS, classes), np.int64))
    np.add.at(of_patient, (level, case.label), 1)
  histograms = np.stack(list(counts.values()))
  grid = _quantile_grid(histograms.sum((0, 2)), classes)
  # below[p, g, k]: number of pixels of patient p and class k darker than the grid's level g.
  below = np.pad(np.cumsum(histograms, axis=1), ((0, 0), (1, 0), (0, 0)))
  combinations = np.asarray(list(itertools.combinations(grid, classes - 1)))
  edges = np.pad(combinations, ((0, 0), (1, 1)), constant_values=((0, 0), (0, INTENSITY_LEVELS)))
  orders = list(itertools.permutations(range(classes)))
  scores = np.stack([_dsc_of_bands(below, edges, order) for order in orders])
  order, place = np.unravel_index(scores.argmax(), scores.shape)
  thresholds = tuple(float(level) / INTENSITY_LEVELS for level in combinations[place])
  return IntensityThresholds(thresholds, orders[order], float(scores.max()))


def _depth_bins(slices: int) -> np.ndarray:
  """Part of the scan that each slice lies in, [D], integers below DEPTH_BINS."""
  return ((np.arange(slices) + 0.5) * DEPTH_BINS / slices).astype(int)


def _dsc_of_bands(below: np.ndarray, edges: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
  """Mean DSC over patients and foreground classes of every choice of bands, [choices].

  `below` are the pixels darker than each level, [patients, INTENSITY_LEVELS + 1, K]; `edges` the
  levels between which the bands lie, [choices, K + 1]; `order` the class of each band.
  """
  total, scored = np.zeros(len(edges)), np.zeros(len(edges))
  for patient in below:
    scores = []
    for band, k in enumerate(order):
      if k:
        inside = patient[edges[:, band + 1]] - patient[edges[:, band]]
        truth = np.broadcast_to(patient[-1, k], total.shape)
        scores.append(metrics.dsc(np.stack([inside[:, k], inside.sum(-1), truth], axis=-1)))
    means = metrics.mean_of_scored(np.stack(scores), axis=0)
    total += np.nan_to_num(means)
    scored += ~np.isnan(means)
  return total / np.maximum(scored, 1)


def _quantile_grid(histogram: np.ndarray, classes: int) -> np.ndarray:
  """Levels at even quantiles of the intensities above 0, ascending, without duplicates."""
  sizes = range(classes, 257)
  size = max(size for size in sizes if math.comb(size, classes - 1) <= COMBINATIONS)
  foreground = np.cumsum(histogram[1:])
  wanted = np.linspace(0, foreground[-1], size, endpoint=False)
  levels = np.unique(np.searchsorted(foreground, wanted, side='right') + 1)
  if len(levels) >= classes - 1:
    return levels
  # Few distinct intensities may give fewer levels than thresholds; then even ones are taken.
  return np.linspace(1, INTENSITY_LEVELS - 1, classes - 1).astype(int)
