"""Scores of a predicted segmentation against the truth: overlap, volume and distances.

A class that neither mask has gets no score: NaN here, null in files, a dash in tables.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from thrifty_jax import labels
from thrifty_jax.scores import surface

DISTANCES = ('hd95_mm', 'max_distance_mm', 'assd_mm')
# A surface voxel exactly at the tolerance counts as within it, despite a header's rounded spacing.
ROUNDING_MM = 1e-4

# Columns of the counts that the functions below exchange.
INTERSECTION, PREDICTED, TRUTH = 0, 1, 2


def overlap_counts(
  prediction: np.ndarray, truth: np.ndarray, *, classes: int, regions: labels.Regions = ()
) -> np.ndarray:
  """Number of voxels of each foreground class in both masks, in the prediction and in the truth.

  Counts are additive: the sum over a patient's scans is the count of the patient, and the sum over
  all slices gives the pooled score.

  Args:
    prediction: Predicted label of each voxel, integers in [0, classes), any shape.
    truth: True label of each voxel, with the same range and shape, or labels.IGNORED, which counts
      nowhere.
    classes: K, including the background.
    regions: Regions that the classes are, whose labels may be others.

  Returns:
    [K - 1, 3], int64: columns INTERSECTION, PREDICTED, TRUTH.

  Raises:
    ValueError: If the shapes differ, or a value is not a label.
  """
  if prediction.shape != truth.shape:
    raise ValueError(f'prediction {prediction.shape} and truth {truth.shape} differ in shape')
  known = labels.count(classes, regions)
  prediction, truth = labels.leave_out_ignored(prediction, truth)
  for label in (prediction, truth):
    if label.size and not 0 <= label.min() <= label.max() < known:
      wrong = label.min() if label.min() < 0 else label.max()
      raise ValueError(f'class {wrong} is not one of {known}, which are 0 to {known - 1}')
  counts = np.zeros((classes - 1, 3), np.int64)
  for k in range(1, classes):  # count_nonzero takes a tenth of the time of np.bincount
    predicted, true = (labels.belongs(each, k, regions) for each in (prediction, truth))
    counts[k - 1] = [np.count_nonzero(each) for each in (predicted & true, predicted, true)]
  return counts


def dsc(counts: np.ndarray) -> np.ndarray:
  """Dice similarity coefficient 2 |A and B| / (|A| + |B|) from counts of overlap_counts, [..., 3].

  Scores are in [0, 1], [...], float64: NaN if both are empty, 0 for a missed or an invented class.
  """
  counts = np.asarray(counts, np.float64)
  size = counts[..., PREDICTED] + counts[..., TRUTH]
  return np.where(size > 0, 2 * counts[..., INTERSECTION] / np.maximum(size, 1), np.nan)


def ravd_percent(counts: np.ndarray) -> np.ndarray:
  """Relative volume difference 100 (|A| - |B|) / |B| of prediction A and truth B, from counts.

  Differences, [...], float64, are in percent of the truth and positive if the prediction is larger:
  -100 for a missed class, infinite for an invented one, NaN if both are empty.
  """
  counts = np.asarray(counts, np.float64)
  predicted, true = counts[..., PREDICTED], counts[..., TRUTH]
  invented = np.where(predicted > 0, np.inf, np.nan)
  return np.where(true > 0, 100 * (predicted - true) / np.maximum(true, 1), invented)


def mean_of_scored(scores: np.ndarray, *, axis: int | None = None) -> np.ndarray:
  """Mean over an axis, or all, of the scores that there are; NaN where there is none."""
  there = ~np.isnan(scores)
  count = there.sum(axis=axis)
  total = np.where(there, scores, 0).sum(axis=axis)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


class VolumeScores(NamedTuple):
  """All scores of one class of one volume; NaN, but for the last three, if both masks are empty.

  The surface of a mask is its voxels with one of their 6 neighbours outside of it; outside the
  volume is background, but across an axis of length 1 there are no neighbours, so that the surface
  of a mask in a picture, [1, H, W], is its outline. The directed distances of a mask go from each
  of its surface voxels to the nearest surface voxel of the other mask, from centre to centre, in
  the unit of the spacing; there are two such lists.

  Attributes:
    dsc: Dice similarity coefficient, in [0, 1].
    hd95_mm: 95th percentile of the directed distances, interpolated linearly between the two
      nearest ranks; the larger of the two directions. MONAI does the same; MedPy takes one
      percentile of both lists together, which is usually lower.
    max_distance_mm: Largest distance: the Hausdorff distance of the two surfaces, as in MONAI and
      MedPy. ITK's filter uses all voxels of the masks, not their surfaces.
    assd_mm: Average symmetric surface distance: the mean of both lists together, as in MONAI and
      MedPy, not the mean of the two means.
    nsd: Normalised surface Dice, in [0, 1]: the share of the surface voxels of both masks within
      the tolerance, as in MONAI with its default settings. DeepMind's surface-distance puts
      surfaces between voxels and weights them by area, so all its distances differ slightly.
    ravd_percent: Relative volume difference, signed, in percent of the truth.
    missed: Whether there is a truth and no prediction: DSC and NSD are 0, RAVD is -100, and each
      distance is the diagonal of the volume, of a picture that of its plane.
    invented: Whether there is a prediction and no truth: the same, but RAVD is infinite.
    rightly_empty: Whether there is neither: nothing to score.

  Source: Maier-Hein et al., Metrics reloaded (2024), Nature Methods 21; NSD: Nikolov et al. (2021),
    Journal of Medical Internet Research 23 (7); the diagonal for a missed organ is ours.
  """

  dsc: float
  hd95_mm: float
  max_distance_mm: float
  assd_mm: float
  nsd: float
  ravd_percent: float
  missed: bool
  invented: bool
  rightly_empty: bool = False


def score_volume(
  prediction: np.ndarray,
  truth: np.ndarray,
  *,
  spacing_mm: Sequence[float],
  nsd_tolerance_mm: float = 2.0,
) -> VolumeScores:
  """Scores one class of one volume.

  Args:
    prediction: Whether a voxel is predicted to be of the class, [D, H, W], bool.
    truth: Whether it is, [D, H, W], bool.
    spacing_mm: Distances between voxels along D, H and W, in this order; 1, where pixels are the
      unit of all distances.
    nsd_tolerance_mm: Largest distance of surfaces that NSD counts as agreement.

  Raises:
    ValueError: If a mask is not a bool volume, the shapes differ, the spacing is not three numbers
      above 0 or the tolerance is below 0.
  """
  for name, mask in (('prediction', prediction), ('truth', truth)):
    if mask.dtype != bool or mask.ndim != 3:
      raise ValueError(f'{name} is {mask.dtype} {mask.shape}; expected a bool volume [D, H, W]')
  if len(spacing_mm) != 3 or not all(0 < step < np.inf for step in spacing_mm):
    raise ValueError(f'spacing_mm is {tuple(spacing_mm)}; expected three numbers above 0')
  if not 0 <= nsd_tolerance_mm < np.inf:
    raise ValueError(f'nsd_tolerance_mm is {nsd_tolerance_mm}; expected 0 or more')
  counts = overlap_counts(prediction.view(np.uint8), truth.view(np.uint8), classes=2)[0]
  predicted, true = bool(counts[PREDICTED]), bool(counts[TRUTH])
  if predicted and true:
    forth, back = surface.distances_mm(prediction, truth, spacing_mm=spacing_mm)
    both = np.concatenate([forth, back])
    hd95 = float(max(np.percentile(forth, 95), np.percentile(back, 95)))
    most, mean = float(both.max()), float(both.mean())
    nsd = float(np.mean(both <= nsd_tolerance_mm + ROUNDING_MM))
  else:
    # The diagonal of whole voxels is longer than any distance between their centres.
    axes = [*surface.extended_axes(truth.shape)]
    diagonal = float(np.linalg.norm(np.multiply(truth.shape, spacing_mm)[axes]))
    hd95 = most = mean = diagonal if predicted or true else np.nan
    nsd = 0.0 if predicted or true else np.nan
  return VolumeScores(
    dsc=float(dsc(counts)),
    hd95_mm=hd95,
    max_distance_mm=most,
    assd_mm=mean,
    nsd=nsd,
    ravd_percent=float(ravd_percent(counts)),
    missed=true and not predicted,
    invented=predicted and not true,
    rightly_empty=not (predicted or true),
  )
