"""Who goes on in a race and who wins, by scores of the same patients.

Scores of a network are a mapping from the validation patients of all folds to their DSC in [0, 1];
None is a network whose training diverged, which loses to every other.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar('T')
Scores = Mapping[str, float] | None
KNEE = 0.005  # DSC below the best at which a faster network is taken
LEVEL = 0.002  # most DSC below the best of a budget at which a network may be level with it


class Difference(NamedTuple):
  """A paired difference of two networks: the mean over patients and its standard error."""

  mean: float
  error: float


def mean(scores: Scores) -> float:
  """Returns the mean over patients; -inf for a network that diverged."""
  return float(np.mean([*scores.values()])) if scores else -math.inf


def compare(first: Mapping[str, float], second: Mapping[str, float]) -> Difference:
  """Returns by how much the first network is better, over the patients that both have."""
  both = sorted({*first} & {*second})
  differences = np.array([first[name] - second[name] for name in both])
  if len(both) < 2:
    return Difference(float(differences.mean()), math.inf)
  return Difference(
    float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(len(both))
  )


def rank(scores: Mapping[str, Scores], ms: Mapping[str, float]) -> list[str]:
  """Ranks networks by their mean, the best first; of equal ones the faster one is first."""
  return sorted(scores, key=lambda name: (-mean(scores[name]), ms[name], name))


def keep_half(ranked: Sequence[T]) -> list[T]:
  """Returns the better half, of an odd number one more."""
  return [*ranked[: math.ceil(len(ranked) / 2)]]


def pick(scores: Mapping[str, Scores], ms: Mapping[str, float]) -> str | None:
  """Picks the fastest network that is level with the best; None if all diverged.

  It is behind by at most LEVEL, and by at most the standard error. The error alone would not do: of
  few patients it is so large that any network is within it.
  """
  best, *_ = rank(scores, ms)
  top = scores[best]
  if not top:
    return None

  def is_level(name: str) -> bool:
    own = scores[name]
    if not own:
      return False
    difference = compare(top, own)
    return difference.mean <= (0 if math.isinf(difference.error) else min(difference.error, LEVEL))

  return min(filter(is_level, scores), key=lambda name: ms[name])


def pick_within(scores: Mapping[str, Scores], ms: Mapping[str, float], budget: float) -> str | None:
  """Picks a network among those within a budget of milliseconds; None if there is none."""
  those = {name: found for name, found in scores.items() if ms[name] <= budget}
  return pick(those, ms) if those else None


def find_knee(front: Collection[str], scores: Mapping[str, Scores], ms: Mapping[str, float]) -> str:
  """Returns the fastest network of a front whose mean is at most KNEE below the best."""
  least = max(mean(scores[name]) for name in front) - KNEE
  return min((name for name in front if mean(scores[name]) >= least), key=lambda name: ms[name])
