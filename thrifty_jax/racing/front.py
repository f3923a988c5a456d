"""The stages that race: the network for a budget, or the whole front, with its test scores."""

import types
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import logbook, records, stages
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.racing import choice, course, entrants, field, jobs, outcome, raced
from thrifty_jax.racing.jobs import Job
from thrifty_jax.racing.outcome import Outcome
from thrifty_jax.racing.race import Race
from thrifty_jax.run_files import COURSE, Raced
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
  found = _write(race, outcome.choose_by_last_rung(race, budgets), workdir)
  _print(found)
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
  race.run(budgets, FAMILIES, full=config.front.seeds)
  ended = outcome.choose_by_last_rung(race, budgets)
  found = _write(race, ended, workdir)
  rivals = [_pick_family(race, ended.scores, group) for group in race.field.groups]
  names = [*dict.fromkeys([*ended.chosen.values(), *filter(None, rivals)])]
  for one in found:
    shape = race.field.entrants[one.name].genotype
    if one.name in names and isinstance(shape, LeanShape):  # cells may be made of another width
      path = race.field.path(one.name)  # of which the cards of its models tell the time
      told = {**genotypes.read_provenance(path), **raced.tell_time(one)}
      genotypes.save(path, shape, provenance=told)
  places = _train_in_full(config, workdir, race, names)
  # That of the last rung stays if every full training diverged.
  ended = outcome.choose_by_full_trainings(race, budgets, places) or ended
  found = _write(race, ended, workdir, places)
  _print(found)
  return found


def _write(
  race: Race,
  ended: Outcome,
  workdir: Path,
  full: Mapping[str, Sequence[Path]] = types.MappingProxyType({}),
) -> list[Raced]:
  """Writes what a race came to, how, and its budgets, and returns the networks that raced.

  `full` has the folders of full trainings, by network.
  """
  found, told = raced.describe(race, ended, workdir, full), course.describe(race, ended)
  records.write(race.folder / BUDGETS, tuple(ended.budgets))
  records.write(race.folder / COURSE, told)
  records.write(race.folder / FILE, found)
  return found


def _print(found: Sequence[Raced]) -> None:
  """Prints the networks that reached the last rung."""
  print('\n'.join(['', *raced.format_table(found), '']), flush=True)


def _pick_family(race: Race, scores: Mapping[str, choice.Scores], group: field.Group) -> str | None:
  """Returns the best network of a group's family within its budget."""
  names = {name for one in race.field.groups if one.family == group.family for name in one.names}
  scores = {name: found for name, found in scores.items() if name in names}
  return choice.pick_within(scores, race.field.ms(), group.budget)


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
