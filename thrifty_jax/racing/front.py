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
from thrifty_jax.racing import choice, course, eight_bits, entrants, jobs, short_trainings
from thrifty_jax.racing.jobs import Job
from thrifty_jax.racing.race import Race
from thrifty_jax.run_files import COURSE, InEightBits, RaceCourse, Raced
from thrifty_jax.scores import evaluate, over_folds, statistics, tables
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
  found = _describe(race, chosen, scores, workdir, more=_list_int8(in_8_bits))
  _write(folder, found, course.describe(race, scores, chosen, budgets, in_8_bits=in_8_bits))
  print('\n'.join(['', *format_table(found), '']), flush=True)
  best = next(one for one in found if one.knee)
  provenance = {
    'search': 'race',
    'seed': config.seed,
    'max_ms': limit or None,
    **_tell_time(best),
    'validation_dsc': best.validation_dsc,
  }
  genotypes.save(folder / 'genotype.json', race.entrants[best.name].genotype, provenance=provenance)
  logbook.say('found', f'{best.name}, {_line(best)}')
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
  found = _describe(race, chosen, scores, workdir, more=_list_int8(in_8_bits))
  _write(folder, found, course.describe(race, scores, chosen, budgets, in_8_bits=in_8_bits))
  rivals = [_pick_family(race, scores, group.budget, group.family) for group in race.groups]
  names = [*dict.fromkeys([*chosen.values(), *filter(None, rivals)])]
  for one in found:
    shape = race.entrants[one.name].genotype
    if one.name in names and isinstance(shape, LeanShape):  # cells may be made of another width
      path = race.path(one.name)  # of which the cards of its models tell the time
      told = {**genotypes.read_provenance(path), **_tell_time(one)}
      genotypes.save(path, shape, provenance=told)
  places = _train_in_full(config, workdir, race, names)
  if full := _read_validation(places):  # else every full training diverged
    scores, in_8_bits = _score_in_8_bits(race, full, places, tests=True)
    chosen = _choose(scores, race.ms(), budgets)
  more = _list_int8(in_8_bits)
  for name, of_name in places.items():
    more.setdefault(name, {}).update(_read_full(of_name, workdir))
  found = _describe(race, chosen, scores, workdir, more=more)
  told = course.describe(race, scores, chosen, budgets, in_8_bits=in_8_bits, full=bool(full))
  _write(folder, found, told)
  print('\n'.join(['', *format_table(found), '']), flush=True)
  return found


def _write(folder: Path, found: Sequence[Raced], told: RaceCourse) -> None:
  """Writes the networks that raced, the budgets that they raced for, and how they were chosen."""
  records.write(folder / BUDGETS, tuple(one.budget_ms for one in told.choices))
  records.write(folder / COURSE, told)
  records.write(folder / FILE, found)


def _tell_time(one: Raced) -> dict[str, Any]:
  """Returns what the provenance of a network says of its time, see raced_time.RacedTime."""
  names = ('name', 'source', 'ms', 'runtime', 'precision', 'threads', 'size', 'machine')
  return {name: getattr(one, name) for name in names}


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
  names = {name for group in race.groups if group.family == family for name in group.names}
  scores = {name: found for name, found in scores.items() if name in names}
  return choice.pick_within(scores, race.ms(), budget)


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
      settings = entrants.configure(config, race.entrants[name], race.path(name))
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
    chosen = _choose(scores, race.ms(), budgets)
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
    if race.watch.best(name).precision == 'int8'
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


def _describe(
  race: Race,
  chosen: Mapping[float, str],
  scores: Mapping[str, choice.Scores],
  workdir: Path,
  *,
  more: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Raced]:
  """Returns what front.json says of every network that raced, the fastest first.

  `scores` are those by which the networks were chosen, and `more` has further fields of `Raced` of
  those trained in full.
  """
  knee = choice.find_knee({*chosen.values()}, scores, race.ms()) if chosen else ''
  found = []
  for name, standing in race.standings.items():
    cost, own = race.watch.best(name), standing.scores
    values = np.array([*own.values()]) if own else None
    found.append(
      Raced(
        name=name,
        title=race.entrants[name].title,
        source=race.entrants[name].source,
        space=cost.space,
        parameters=cost.parameters,
        macs=cost.macs,
        ms=cost.ms,
        ms_spread=cost.ms_spread,
        runtime=cost.runtime,
        precision=cost.precision,
        threads=cost.threads,
        size=cost.size,
        file_bytes=cost.file_bytes,
        machine=cost.machine,
        rung=standing.rung,
        epochs=standing.epochs,
        validation_dsc=choice.mean(own) if own else None,
        validation_ci95=None if values is None else statistics.bootstrap_interval(values),
        chosen=name in chosen.values(),
        budgets_ms=tuple(budget for budget, one in chosen.items() if one == name),
        knee=name == knee,
        genotype=race.path(name).relative_to(workdir).as_posix(),
        folder=standing.folder.relative_to(workdir).as_posix(),
        **(more or {}).get(name, {}),
      )
    )
  return sorted(found, key=lambda one: one.ms)


def _read_full(places: Sequence[Path], workdir: Path) -> dict:
  """Returns the fields of `Raced` about full trainings."""
  summaries = [trainings.read(place) for place in places]
  scored = [[over_folds.read_scored(place / 'evaluate')] for place in places]
  # With the protocol pooled_2d the patients that were scored have chosen the networks.
  tested = all(one.summary.split == 'test' for (one,) in scored)
  dsc = over_folds.join_seeds(scored).mean.dsc if tested else None
  return {
    'full': tuple(place.relative_to(workdir).as_posix() for place in places),
    'full_validation_dsc': float(np.mean([one.validation_dsc for one in summaries if one])),
    'test_dsc': dsc.mean if dsc else None,
    'test_ci95': dsc.ci95 if dsc else None,
  }


def format_table(found: Sequence[Raced]) -> list[str]:
  """Formats a line for each network that reached the last rung; chosen ones have their budgets."""
  last = max(one.rung for one in found)
  rows = [('network', 'title', 'in', 'ms', 'parameters', 'validation', 'full', 'test', 'for')]
  for one in found:
    if one.rung < last:
      continue
    dsc = (one.validation_dsc, one.full_validation_dsc, one.test_dsc)
    validation, full, test = ('–' if value is None else f'{100 * value:.2f}' for value in dsc)
    budgets = ', '.join(f'{budget:g} ms' for budget in one.budgets_ms)
    rows.append(
      (
        one.name,
        one.title,
        f'{one.runtime} {one.precision}',
        f'{one.ms:.2f}',
        f'{one.parameters:,}',
        validation,
        full,
        test,
        budgets + ' (knee)' * one.knee,
      )
    )
  return tables.align(rows, left=3)


def _line(one: Raced) -> str:
  """Describes a network in a line."""
  return (
    f'{one.title}: {one.ms:.2f} ms in {one.runtime} {one.precision}, a slice of {one.size} x '
    f'{one.size} pixels, {one.parameters:,} parameters, validation DSC '
    f'{100 * (one.validation_dsc or 0):.2f} % after {one.epochs} epochs'
  )
