"""config.debug: every step is looked at, and the first value that is no finite number is named."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from thrifty_jax.errors import NotFinite
from thrifty_jax.training import not_finite, packing

Step = Callable[..., tuple[Any, dict[str, jax.Array]]]


def watched(step: Step, stage: str, source: Callable[..., str | None]) -> Step:
  """A step that waits for its own end, and stops the run where its figures are not finite.

  Args:
    step: (state, *batches) -> (state, metrics), which leaves the state it is given whole.
    stage: Name of the stage, for the error.
    source: The metrics and the same arguments -> what `not_finite.first_source` finds.

  Returns:
    The step, which raises NotFinite.
  """

  def look(state: Any, *batches: Any) -> tuple[Any, dict[str, jax.Array]]:
    moved, metrics = step(state, *batches)
    bad = [name for name, value in metrics.items() if not np.all(np.isfinite(value))]
    if bad:
      number = int(np.asarray(state.step).max()) + 1  # of several searches the one that is ahead
      found = source(metrics, state, *batches) or not_finite.in_tree(
        packing.all_unpacked(moved._asdict()), 'after the step,'
      )
      raise NotFinite(
        f'{stage}, step {number}: {bad[0]} is not finite, first of all '
        f'{found or "none of the layers as far as can be told"}',
        step=number,
      )
    return moved, metrics

  return look
