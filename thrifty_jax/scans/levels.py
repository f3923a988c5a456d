"""Percentiles of more values than fit in memory: of how often each value occurs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Levels(NamedTuple):
  """Distinct values and how often each occurs."""

  values: np.ndarray  # ascending, [N], float32
  counts: np.ndarray  # [N], int64

  def percentiles(self, shares: Sequence[float]) -> np.ndarray:
    """Returns np.percentile of all values, to the last bit, float64."""
    at = (self.counts.sum() - 1) * np.true_divide(shares, 100)
    ends = self.counts.cumsum()
    below, above = np.floor(at), np.ceil(at)
    low, high = (self.values[np.searchsorted(ends, end, side='right')] for end in (below, above))
    # As numpy does it: from the nearer of both, their distance in float32.
    part, step = at - below, high - low
    return np.where(part < 0.5, low + step * part, high - step * (1 - part))


def make_levels(counts: np.ndarray, values: np.ndarray) -> Levels:
  """Returns levels, given how often each of some ascending values may occur, [N] both."""
  seen = np.flatnonzero(counts)
  return Levels(values[seen].astype(np.float32), counts[seen])
