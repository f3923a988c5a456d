"""Statistics of the scores of patients: spread, interval, test. No NaN in or out."""

import numpy as np

RESAMPLES = 10_000
DRAWN = 1 << 20  # patients in memory at once
DECIMALS = 9  # differences of scores that agree so far are equal
# Below, no outcome has a two-sided p under 0.05: all of 5 signs alike happens once in 16.
FEWEST_PATIENTS = 6


def mean_and_deviation(values: np.ndarray) -> tuple[float, float | None]:
  """Mean and sample standard deviation (n - 1 below); the latter is None for a single value."""
  values = _finite(values)
  deviation = float(values.std(ddof=1)) if values.size > 1 else None
  return float(values.mean()), deviation


def bootstrap_interval(
  values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
  """95% interval of the mean over patients, by the percentile bootstrap.

  Patients are drawn with replacement, as many as there are; the interval runs from the 2.5th to the
  97.5th percentile of the means. Of few patients it is too narrow: it knows no other ones. It tells
  of patients only, not of another seed, split or training.

  Args:
    values: A score of each patient, [patients].
    resamples: How often patients are drawn.
    seed: Seed of the draw; the same one gives the same interval.

  Returns:
    (low, high), or None for a single patient.

  Raises:
    ValueError: If there are no values or one is not finite.

  Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
  """
  values = _finite(values)
  if values.size == 1:
    return None
  generator, means = np.random.default_rng(seed), []
  at_once = max(1, DRAWN // values.size)
  for first in range(0, resamples, at_once):
    shape = min(at_once, resamples - first), values.size
    means.append(values[generator.integers(values.size, size=shape)].mean(axis=1))
  low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
  return float(low), float(high)


def paired_wilcoxon(first: np.ndarray, second: np.ndarray) -> float | None:
  """p of the two-sided Wilcoxon signed-rank test between two models on the same patients.

  Patients on whom both score the same are left out (Wilcoxon's own way), equal differences share
  their mean rank, both to 9 decimals. p is exact for up to 50 patients that differ, or 13 if some
  differences are equal; above, the normal approximation with its correction for ties and without
  one for continuity. Nothing is drawn.

  Args:
    first: A score of each patient by one model, [patients].
    second: The same score of the same patients, in the same order, by the other.

  Returns:
    p in (0, 1]; 1 where all differences are zero. None for fewer than 6 patients.

  Raises:
    ValueError: If the two are not equally long, are empty, or a value is not finite.

  Source: Wilcoxon (1945), Biometrics Bulletin 1 (6), as in scipy.stats.wilcoxon.
  """
  first, second = _finite(first), _finite(second)
  if first.shape != second.shape:
    raise ValueError(f'{first.size} and {second.size} scores; expected the same patients in both')
  if first.size < FEWEST_PATIENTS:
    return None
  # Rounded, as 0.9 - 0.8 and 0.3 - 0.2 are equal on paper only.
  differences = np.round(first - second, DECIMALS)
  differences = differences[differences != 0]
  if not differences.size:
    return 1.0
  from scipy import stats  # here: a large package, for one number at the end of a run

  return float(stats.wilcoxon(differences).pvalue)


def _finite(values: np.ndarray) -> np.ndarray:
  """The values as [n], float64; refuses those that no statistic can take."""
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not values.size or not np.isfinite(values).all():
    raise ValueError(f'expected a list of finite scores, one a patient; got {values}')
  return values
