"""Overlap of a predicted and a true segmentation, counted in voxels."""

import numpy as np

# Columns of the counts that the functions below pass on.
INTERSECTION, PREDICTED, TRUTH = 0, 1, 2


def overlap_counts(prediction: np.ndarray, truth: np.ndarray, *, classes: int) -> np.ndarray:
  """Voxels of each foreground class: in both, in the prediction, in the truth.

  Counts add up: those of two scans of a patient, summed, are the counts of the patient, and those
  of all slices give the pooled score.

  Args:
    prediction: Predicted class of each voxel, integers in [0, classes), any shape.
    truth: True class of each voxel, likewise, the same shape.
    classes: K, the background counted.

  Returns:
    [K - 1, 3], int64: columns INTERSECTION, PREDICTED, TRUTH.

  Raises:
    ValueError: If the shapes differ, or a value is not a class.
  """
  if prediction.shape != truth.shape:
    raise ValueError(f'prediction {prediction.shape} and truth {truth.shape} differ in shape')
  predicted = _voxels(prediction, classes)
  true = _voxels(truth, classes)
  both = _voxels(truth[prediction == truth], classes)
  return np.stack([both, predicted, true], axis=1)[1:]


def dsc(counts: np.ndarray) -> np.ndarray:
  """Dice similarity coefficient 2 |A and B| / (|A| + |B|) from counts; never NaN.

  Args:
    counts: [..., 3], as from overlap_counts.

  Returns:
    Scores in [0, 1], [...], float64. Both empty: 1. A missed or an invented class: 0.
  """
  counts = np.asarray(counts, np.float64)
  size = counts[..., PREDICTED] + counts[..., TRUTH]
  return np.where(size > 0, 2 * counts[..., INTERSECTION] / np.maximum(size, 1), 1.0)


def volume_dsc(prediction: np.ndarray, truth: np.ndarray) -> float:
  """DSC of one class of one volume.

  Args:
    prediction: Whether a voxel is predicted to be of the class, [D, H, W], bool.
    truth: Whether it is, [D, H, W], bool.

  Returns:
    The score in [0, 1]: 1 if both are empty, 0 if a truth is missed or one is invented.

  Raises:
    ValueError: If the shapes differ.
  """
  counts = overlap_counts(prediction.astype(np.uint8), truth.astype(np.uint8), classes=2)
  return float(dsc(counts)[0])


def mean_and_deviation(values: np.ndarray) -> tuple[float, float | None]:
  """Mean and sample standard deviation (n - 1 below); the latter is None for a single value."""
  values = np.asarray(values, np.float64)
  deviation = float(values.std(ddof=1)) if values.size > 1 else None
  return float(values.mean()), deviation


def _voxels(label: np.ndarray, classes: int) -> np.ndarray:
  """How many voxels each class has, [K], int64."""
  voxels = np.bincount(label.reshape(-1), minlength=classes)
  if voxels.size > classes:
    raise ValueError(f'class {voxels.size - 1} is not one of {classes}')
  return voxels.astype(np.int64)
