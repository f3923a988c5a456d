"""What race.json says: how a race went and by what it chose, so that the choice can be checked."""

import math
from collections.abc import Mapping

from thrifty_jax.exporting import quantise
from thrifty_jax.racing import choice
from thrifty_jax.racing.choice import Scores
from thrifty_jax.racing.outcome import Outcome
from thrifty_jax.racing.race import Race
from thrifty_jax.run_files import Behind, Choice, FoldOfRace, RaceCourse


def describe(race: Race, ended: Outcome) -> RaceCourse:
  """Describes a race that has ended."""
  return RaceCourse(
    level_dsc=choice.LEVEL,
    knee_dsc=choice.KNEE,
    int8_dsc=quantise.LOSS,
    folds=tuple(FoldOfRace(**fold) for fold in race.folds),
    rungs=tuple(race.rungs),
    in_8_bits=ended.in_8_bits,
    full=ended.is_full,
    choices=tuple(
      Choice(
        budget,
        ended.chosen.get(budget),
        tuple(_hold_to_best(ended.scores, race.field.ms(), budget)),
      )
      for budget in ended.budgets
    ),
  )


def _hold_to_best(
  scores: Mapping[str, Scores], ms: Mapping[str, float], budget: float
) -> list[Behind]:
  """Returns the networks within a budget by how far each is behind the best, the best first."""
  ranked = choice.rank({name: own for name, own in scores.items() if ms[name] <= budget}, ms)
  top = scores[ranked[0]] if ranked else None
  found = []
  for name in ranked:
    own = scores[name]
    if not top or not own or not {*top} & {*own}:
      found.append(Behind(name, ms[name], None, None, None))
      continue
    difference = choice.compare(top, own)
    error = None if math.isinf(difference.error) else difference.error
    found.append(Behind(name, ms[name], choice.mean(own), difference.mean, error))
  return found
