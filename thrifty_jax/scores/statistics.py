"""Statistics of patients' scores: spread, interval and test, without NaN in input or output."""

import numpy as np

from thrifty_jax.scores import metrics

RESAMPLES = 10_000  # draws of the bootstrap
SEED = 0  # of the draws, so that the same scores have the same interval
DRAWN = 1 << 20  # resampled patients in memory at once
DECIMALS = 9  # differences of scores equal to so many decimals count as equal
# With fewer, no outcome has a two-sided p below 0.05: 5 equal signs have p = 1 / 16.
FEWEST_PATIENTS = 6


def mean_and_deviation(values: np.ndarray) -> tuple[float, float | None]:
  """Mean and sample standard deviation (divisor n - 1), which is None for a single value."""
  values = _finite(values)
  deviation = float(values.std(ddof=1)) if values.size > 1 else None
  return float(values.mean()), deviation


def bootstrap_interval(values: np.ndarray) -> tuple[float, float] | None:
  """95% interval of the mean of [patients] scores, by the percentile bootstrap; None for one.

  As many patients as there are get drawn with replacement; the interval runs from the 2.5th to the
  97.5th percentile of the means. It is too narrow for few patients, and covers variation between
  patients only, not between seeds, splits or trainings.

  Raises:
    ValueError: If there are no values or one is non-finite.

  Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
  """
  values = _finite(values)
  if values.size == 1:
    return None
  generator, means = np.random.default_rng(SEED), []
  at_once = max(1, DRAWN // values.size)
  for first in range(0, RESAMPLES, at_once):
    shape = min(at_once, RESAMPLES - first), values.size
    means.append(values[generator.integers(values.size, size=shape)].mean(axis=1))
  low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
  return float(low), float(high)


def paired_wilcoxon(first: np.ndarray, second: np.ndarray) -> float | None:
  """p of the two-sided Wilcoxon signed-rank test between two models on the same patients.

  Both have the scores of the same patients, [patients], in the same order. Patients with equal
  scores are left out (Wilcoxon's method) and equal differences share their mean rank, both to 9
  decimals. p is exact for up to 50 patients that differ, or 13 if some differences are equal;
  above, it is the normal approximation with correction for ties and without continuity correction.
  It is 1 if all differences are zero, and None for fewer than 6 patients.

  Raises:
    ValueError: If the lengths differ, there are no values, or one is non-finite.

  Source: Wilcoxon (1945), Biometrics Bulletin 1 (6), as in scipy.stats.wilcoxon.
  """
  first, second = _finite(first), _finite(second)
  if first.shape != second.shape:
    raise ValueError(
      f'got {first.size} and {second.size} scores; expected the same patients in both'
    )
  if first.size < FEWEST_PATIENTS:
    return None
  # Rounded, as 0.9 - 0.8 and 0.3 - 0.2 differ in floating point.
  differences = np.round(first - second, DECIMALS)
  differences = differences[differences != 0]
  if not differences.size:
    return 1.0
  from scipy import stats  # here, as it is a large package for one number at the end of a run

  return float(stats.wilcoxon(differences).pvalue)


def compare_paired(first: np.ndarray, second: np.ndarray) -> tuple[float | None, float | None]:
  """Mean difference of two models over the patients, and p of the paired test.

  A patient's score is the mean over the classes. A class that a patient lacks has no score where a
  model rightly finds nothing; if the other model, or another seed, invents it, that counts as 1,
  the Dice of two empty masks. Left out, it would take what was invented out of the difference.

  Args:
    first: DSC with each seed of each patient and class, [S, patients, K - 1]; NaN is no score.
    second: Those of the other model for the same patients, in the same order.

  Returns:
    The difference and p, None where no patient has a score; p also for few patients.
  """
  nothing = np.isnan(first).all(axis=0) & np.isnan(second).all(axis=0)
  one, other = (
    metrics.mean_of_scored(
      np.where(nothing, np.nan, np.nan_to_num(scores, nan=1.0)).mean(axis=0), axis=1
    )
    for scores in (first, second)
  )
  scored = np.isfinite(one)
  if not scored.any():
    return None, None
  return float((one - other)[scored].mean()), paired_wilcoxon(one[scored], other[scored])


def _finite(values: np.ndarray) -> np.ndarray:
  """Values as float64, [n]; refuses empty, non-finite or misshapen ones."""
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not values.size or not np.isfinite(values).all():
    raise ValueError(f'expected a list of finite scores, one for each patient; got {values}')
  return values
