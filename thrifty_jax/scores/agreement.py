"""Cases whose masks disagree most with the network: labels to look at.

A network learns what most masks have in common, so a mask that does not fit its scan is one that it
contradicts, even where it was trained on it. At network resolution.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thrifty_jax.run_files import Agreement
from thrifty_jax.scans import turns
from thrifty_jax.scores import metrics

if TYPE_CHECKING:
  from thrifty_jax.scores.cases import PredictedCase  # imports JAX, which tables do without

_POOR = 0.7  # DSC from which on no other way of lying is tried: a mask that lies wrong has less
_BETTER = 0.1  # by how much a turned mask must agree better, and an outlier worse than the median
_OUTLIER, _NORMAL_MAD, _ENOUGH = 3.5, 0.6745, 5  # as in the check of the scans
_MOST = 10  # cases that are listed


def measure(
  predicted: 'PredictedCase', split: str, *, classes: int, slice_axis: str
) -> Agreement | None:
  """Measures how well a mask, and the best turn of it, agrees with the network.

  A case without a class in mask and prediction has no agreement, None.
  """
  case, regions = predicted.case, predicted.regions
  _, label, shown = predicted.joined()

  def dsc(label: np.ndarray) -> float:
    counts = metrics.overlap_counts(shown, label, classes=classes, regions=regions)
    return float(metrics.mean_of_scored(metrics.dsc(counts)))

  own, best, way = dsc(label), 0.0, ''
  if np.isnan(own):
    return None
  if own < _POOR:
    turned = {index: turns.turn(label, index) for index in range(1, len(turns.TURNS))}
    # A quarter turn of a picture that is no square has another size.
    tried = {index: dsc(one) for index, one in turned.items() if one.shape == label.shape}
    best = max(tried.values())
    way = turns.describe(max(tried, key=tried.__getitem__), slice_axis)
  return Agreement(case.case, case.patient, split, own, way, best)


def find_suspects(measured: Sequence[Agreement]) -> tuple[Agreement, ...]:
  """Returns the cases to look at, at most 10: those that a turn would mend, then the outliers.

  A turn mends a mask that then agrees better by 0.1 at least. An outlier is more than 3.5 robust
  standard deviations, and 0.1, below the median. Of cases of another kind `way` is ''.
  """
  dsc = np.array([one.dsc for one in measured])
  turned = [one for one in measured if one.way and one.turned_dsc >= one.dsc + _BETTER]
  turned.sort(key=lambda one: one.dsc - one.turned_dsc)
  outliers: list[Agreement] = []
  if len(dsc) >= _ENOUGH:
    middle = np.median(dsc)
    limit = max(_OUTLIER / _NORMAL_MAD * np.median(np.abs(dsc - middle)), _BETTER)
    outliers = [one for one in measured if one.dsc < middle - limit and one not in turned]
    outliers.sort(key=lambda one: one.dsc)
  without = [Agreement(o.case, o.patient, o.split, o.dsc, '', 0.0) for o in outliers]
  return (*turned, *without)[:_MOST]


def describe(one: Agreement) -> str:
  """Describes a suspect in a line."""
  text = f'{one.case} ({one.split}): DSC {100 * one.dsc:.1f} % with the network'
  return text + (f', {100 * one.turned_dsc:.1f} % if its mask is {one.way}' if one.way else '')
