"""What a race comes to: the network for each budget, by its scores in the precision of its time."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from thrifty_jax.racing import choice, eight_bits, short_trainings
from thrifty_jax.racing.choice import Scores
from thrifty_jax.racing.race import Race
from thrifty_jax.run_files import InEightBits


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a race came to.

  Attributes:
    budgets: Milliseconds that the networks raced for.
    chosen: Network for each budget that has one.
    scores: Scores that chose, by network.
    in_8_bits: Scores of those that were scored in 8 bits.
    is_full: Whether the scores are of full trainings, else of those of the last rung.
  """

  budgets: Sequence[float]
  chosen: Mapping[float, str]
  scores: Mapping[str, Scores]
  in_8_bits: Mapping[str, InEightBits]
  is_full: bool = False


def choose_by_last_rung(race: Race, budgets: Sequence[float]) -> Outcome:
  """Chooses by the last rung, until all that are chosen for their time in 8 bits are scored so."""
  scores, in_8_bits = race.finalists(), {}
  while True:
    chosen = _choose(scores, race.field.ms(), budgets)
    places = {name: race.places(name) for name in chosen.values() if name not in in_8_bits}
    scores, new = _score_in_8_bits(race, scores, places, tests=False)
    if not new:
      return Outcome(budgets, chosen, scores, in_8_bits)
    in_8_bits |= new


def choose_by_full_trainings(
  race: Race, budgets: Sequence[float], places: Mapping[str, Sequence[Path]]
) -> Outcome | None:
  """Chooses by full trainings, given as the folders of each network; None without any scores.

  Those that are fastest in 8 bits are scored in them, test patients too, who count for nothing.
  """
  full = _read_validation(places)
  if not full:
    return None
  scores, in_8_bits = _score_in_8_bits(race, full, places, tests=True)
  chosen = _choose(scores, race.field.ms(), budgets)
  return Outcome(budgets, chosen, scores, in_8_bits, is_full=True)


def _choose(
  scores: Mapping[str, Scores], ms: Mapping[str, float], budgets: Sequence[float]
) -> dict[float, str]:
  """Returns the network for each budget that has one."""
  found = {budget: choice.pick_within(scores, ms, budget) for budget in budgets}
  return {budget: name for budget, name in found.items() if name}


def _read_validation(places: Mapping[str, Sequence[Path]]) -> dict[str, Scores]:
  """Reads the DSC of the validation patients, the mean over the seeds, of those trained in full."""
  found: dict[str, Scores] = {}
  for name, of_name in places.items():
    of_seeds = [scores for place in of_name if (scores := short_trainings.read_scores([place]))]
    if of_seeds:
      both = set.intersection(*map(set, of_seeds))
      found[name] = {one: float(np.mean([each[one] for each in of_seeds])) for one in both}
  return found


def _score_in_8_bits(
  race: Race,
  scores: Mapping[str, Scores],
  places: Mapping[str, Sequence[Path]],
  *,
  tests: bool,
) -> tuple[dict[str, Scores], dict[str, InEightBits]]:
  """Scores networks in 8 bits that are fastest so, and judges what these cost.

  Args:
    race: The race.
    scores: Scores that choose.
    places: Folders of the trainings of each network.
    tests: Whether test patients are scored too.

  Returns:
    The scores that count, see eight_bits.judge, and those in 8 bits.
  """
  found = {
    name: eight_bits.score(of_name, tests=tests)
    for name, of_name in places.items()
    if race.field.watch.best(name).precision == 'int8'
  }
  judged = {
    name: eight_bits.judge(name, scores[name], one) for name, one in found.items() if name in scores
  }
  return {**scores, **judged}, found
