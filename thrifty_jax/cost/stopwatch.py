"""Times contenders in turns, so that a busy machine slows all of them alike."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from thrifty_jax.errors import InputError

# In each turn, untimed runs and timed ones after them. After other contenders the caches are cold,
# which about doubles the time; but slices of a scan follow one another.
WARM_UP, IN_A_ROW = 2, 3
ATTEMPTS = 4  # at a contender whose spread is too large, as other programs come and go


@dataclasses.dataclass(frozen=True)
class Timing:
  """The time of one contender.

  Attributes:
    seconds: Median of the runs.
    spread: Interquartile range of the runs over their median.
  """

  seconds: float
  spread: float


def time_in_turns(
  contenders: Mapping[str, Callable[[], Any]],
  *,
  repeats: int,
  warm_up: int = WARM_UP,
  most_spread: float,
  clock: Callable[[], float] = time.perf_counter,
  after_turn: Callable[[], Any] = lambda: None,
) -> dict[str, Timing]:
  """Times contenders in the order A B C A B C ... by the wall clock, some runs a turn.

  Those whose spread is too large are timed again, up to ATTEMPTS times.

  Args:
    contenders: Functions that return when their work is done, by name.
    repeats: Number of timed runs of each, IN_A_ROW a turn.
    warm_up: Number of runs at the start of each turn that are not timed.
    most_spread: Largest spread of a contender.
    clock: Function that returns the seconds.
    after_turn: Function that is called after every turn of all contenders, outside the times.

  Returns:
    The timing of each contender.

  Raises:
    InputError: If a spread stays above `most_spread`: the machine is too busy.
  """
  timings: dict[str, Timing] = {}
  noisy = [*contenders]
  for attempt in range(ATTEMPTS):
    seconds: dict[str, list[float]] = {name: [] for name in noisy}
    for turn in range(count_turns(repeats)):
      for name in noisy:
        for _ in range(warm_up):
          contenders[name]()
        for _ in range(min(IN_A_ROW, repeats - turn * IN_A_ROW)):
          began = clock()
          contenders[name]()
          seconds[name].append(clock() - began)
      if not attempt:
        after_turn()
    timings |= {name: summarise(found) for name, found in seconds.items()}
    noisy = [name for name in noisy if timings[name].spread > most_spread]
    if not noisy:
      return timings
  worst = max(noisy, key=lambda name: timings[name].spread)
  raise InputError(
    f'{worst}: the machine is too busy to time: {1e3 * timings[worst].seconds:.2f} ms with a '
    f'spread of {timings[worst].spread:.2f} (interquartile range over median), expected at most '
    f'{most_spread:g}; end other programs, or allow a larger one (--spread, config.cost.spread)'
  )


def count_turns(repeats: int) -> int:
  """Returns how many turns so many timed runs take."""
  return math.ceil(repeats / IN_A_ROW)


def summarise(seconds: list[float]) -> Timing:
  """Returns median and spread of the times of one contender."""
  low, median, high = np.percentile(seconds, (25, 50, 75))
  return Timing(float(median), float((high - low) / median))
