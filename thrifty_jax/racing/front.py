"""The stages that race: the network for a budget, or the whole front, with its test scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import logbook, records, stages
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.racing import choice, course, eight_bits, entrants, jobs, raced, short_trainings
from thrifty_jax.racing.jobs import Job
from thrifty_jax.racing.race import Race
from thrifty_jax.run_files import COURSE, InEightBits, RaceCourse, Raced
from thrifty_jax.scores import evaluate
from thrifty_jax.training import trainings

FILE = 'front.json'
BUDGETS = 'budgets.json'  # milliseconds that the networks of front.json raced for
FAMILIES = ('lean', 'unet', 'genotype')


def search(config: ConfigDict, workdir: Path | str) -> Raced:
  """Finds the lean network for config.search.max_ms, and writes search/genotype.json.

  Without a limit it is the knee of the front over config.front.budgets_ms. Networks that are chosen
  for their time in 8 bits are scored in them, and chosen only if they are the best in them too.

  Raises:
    InputError: If no network is within the limits, or the machine is too busy to time them.
    Stopped: If a signal asks to stop; the trainings under way are saved.
  """
  workdir, limit = Path(workdir), config.search.max_ms
  if config.front.genotypes:
    raise InputError(
      f'config.front.genotypes is {config.front.genotypes}; expected () for the search, of lean '
      'networks and narrow U-Nets: given ones race in --stage=front'
    )
  folder = workdir / 'search'
  budgets = (limit,) if limit else tuple(config.front.budgets_ms)
  race = Race(config, workdir, folder)
  race.run(budgets, FAMILIES[:2])
  chosen, scores, in_8_bits = _choose_in_8_bits(race, budgets)
  found = raced.describe(race, chosen, scores, workdir, more=_list_int8(in_8_bits))
  _write(folder, found, course.describe(race, scores, chosen, budgets, in_8_bits=in_8_bits))
  print('\n'.join(['', *raced.format_table(found), '']), flush=True)
  best = next(one for one in found if one.knee)
  provenance = {
    'search': 'race',
    'seed': config.seed,
    'max_ms': limit or None,
    **raced.tell_time(best),
    'validation_dsc': best.validation_dsc,
  }
  shape = race.field.entrants[best.name].genotype
  genotypes.save(folder / 'genotype.json', shape, provenance=provenance)
  logbook.say('found', f'{best.name}, {raced.format_line(best)}')
  return best


def front(config: ConfigDict, workdir: Path | str) -> list[Raced]:
  """Races all networks, trains the best of each budget and family in full, and scores these.

  Of those trained in full the validation patients choose for each budget, once those that are
  fastest in 8 bits are scored in them. Writes front/front.json, in which the test patients count
  for nothing but the last scores.
  """
  workdir = Path(workdir)
  folder, budgets = workdir / 'front', tuple(config.front.budgets_ms)
  race = Race(config, workdir, folder)
  seeds = 0 if config.retrain.minutes else config.front.seeds
  race.run(budgets, FAMILIES, full=seeds)
  chosen, scores, in_8_bits = _choose_in_8_bits(race, budgets)
  found = raced.describe(race, chosen, scores, workdir, more=_list_int8(in_8_bits))
  _write(folder, found, course.describe(race, scores, chosen, budgets, in_8_bits=in_8_bits))
  rivals = [_pick_family(race, scores, group.budget, group.family) for group in race.field.groups]
  names = [*dict.fromkeys([*chosen.values(), *filter(None, rivals)])]
  for one in found:
    shape = race.field.entrants[one.name].genotype
    if one.name in names and isinstance(shape, LeanShape):  # cells may be made of another width
      path = race.field.path(one.name)  # of which the cards of its models tell the time
      told = {**genotypes.read_provenance(path), **raced.tell_time(one)}
      genotypes.save(path, shape, provenance=told)
  places = _train_in_full(config, workdir, race, names)
  if full := _read_validation(places):  # else every full training diverged
    scores, in_8_bits = _score_in_8_bits(race, full, places, tests=True)
    chosen = _choose(scores, race.field.ms(), budgets)
  more = _list_int8(in_8_bits)
  for name, of_name in places.items():
    more.setdefault(name, {}).update(raced.read_full(of_name, workdir))
  found = raced.describe(race, chosen, scores, workdir, more=more)
  told = course.describe(race, scores, chosen, budgets, in_8_bits=in_8_bits, full=bool(full))
  _write(folder, found, told)
  print('\n'.join(['', *raced.format_table(found), '']), flush=True)
  return found


def _write(folder: Path, found: Sequence[Raced], told: RaceCourse) -> None:
  """Writes the networks that raced, the budgets that they raced for, and how they were chosen."""
  records.write(folder / BUDGETS, tuple(one.budget_ms for one in told.choices))
  records.write(folder / COURSE, told)
  records.write(folder / FILE, found)


def _choose(
  scores: Mapping[str, choice.Scores], ms: Mapping[str, float], budgets: Sequence[float]
) -> dict[float, str]:
  """Returns the network for each budget that has one."""
  found = {budget: choice.pick_within(scores, ms, budget) for budget in budgets}
  return {budget: name for budget, name in found.items() if name}


def _pick_family(
  race: Race, scores: Mapping[str, choice.Scores], budget: float, family: str
) -> str | None:
  """Returns the best network of a family within a budget."""
  names = {name for group in race.field.groups if group.family == family for name in group.names}
  scores = {name: found for name, found in scores.items() if name in names}
  return choice.pick_within(scores, race.field.ms(), budget)


def _train_in_full(
  config: ConfigDict, workdir: Path, race: Race, names: Sequence[str]
) -> dict[str, list[Path]]:
  """Trains networks as a run would, once for each seed, scores them, and returns their folders.

  Those of trainings that diverged are left out.
  """
  places: dict[str, list[Path]] = {}
  found = []
  for number in range(config.front.seeds):
    for name in names:
      settings = entrants.configure(config, race.field.entrants[name], race.field.path(name))
      settings.seed = config.seed + number
      settings.evaluate.list_suspects = False  # the run itself lists them
      settings.evaluate.flips = False  # their milliseconds are those of one pass
      settings.trackers = ()  # as of all trainings of a race
      place = race.folder / name / 'full' / f'seed_{settings.seed}'
      places.setdefault(name, []).append(place)
      found.append((settings, place))
  jobs.run_all(config, [Job.make(one, workdir, place) for one, place in found], 'full')
  for settings, place in found:
    if trainings.read(place) and not stages.is_scored(place):
      logbook.say('scoring', str(place))
      evaluate.evaluate(settings, place)
  trained = {
    name: [one for one in of_name if trainings.read(one)] for name, of_name in places.items()
  }
  return {name: of_name for name, of_name in trained.items() if of_name}


def _read_validation(full: Mapping[str, Sequence[Path]]) -> dict[str, choice.Scores]:
  """Reads the DSC of the validation patients, the mean over the seeds, of those trained in full."""
  found: dict[str, choice.Scores] = {}
  for name, places in full.items():
    of_seeds = [scores for place in places if (scores := short_trainings.read_scores([place]))]
    if of_seeds:
      both = set.intersection(*map(set, of_seeds))
      found[name] = {one: float(np.mean([each[one] for each in of_seeds])) for one in both}
  return found


def _choose_in_8_bits(
  race: Race, budgets: Sequence[float]
) -> tuple[dict[float, str], dict[str, choice.Scores], dict[str, InEightBits]]:
  """Chooses by the last rung, until all that are chosen for their time in 8 bits are scored so.

  Returns the network for each budget, the scores that chose, and those in 8 bits.
  """
  scores, found = race.finalists(), {}
  while True:
    chosen = _choose(scores, race.field.ms(), budgets)
    places = {name: race.places(name) for name in chosen.values() if name not in found}
    scores, new = _score_in_8_bits(race, scores, places, tests=False)
    if not new:
      return chosen, scores, found
    found |= new


def _score_in_8_bits(
  race: Race,
  scores: Mapping[str, choice.Scores],
  places: Mapping[str, Sequence[Path]],
  *,
  tests: bool,
) -> tuple[dict[str, choice.Scores], dict[str, InEightBits]]:
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


def _list_int8(found: Mapping[str, InEightBits]) -> dict[str, dict[str, Any]]:
  """Returns the fields of `Raced` about 8 bits."""
  return {
    name: {'int8_validation_dsc': one.validation_dsc, 'int8_test_dsc': one.test_dsc}
    for name, one in found.items()
  }
