"""The stages that race: the network for a budget, or the whole front, with its test scores."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import logbook, model_folder, records, stages, weights
from thrifty_jax.errors import InputError
from thrifty_jax.exporting import export_slices, onnx_network, quantise
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.racing import choice, entrants, jobs, short_trainings
from thrifty_jax.racing.jobs import Job
from thrifty_jax.racing.race import Race
from thrifty_jax.run_files import Raced
from thrifty_jax.scores import evaluate, over_folds, statistics, tables
from thrifty_jax.training import trainings

FILE = 'front.json'
BUDGETS = 'budgets.json'  # milliseconds that the networks of front.json raced for
EIGHT_BITS = 'int8.json'  # file in the folder of a full training
FAMILIES = ('lean', 'unet', 'genotype')


@dataclasses.dataclass(frozen=True)
class InEightBits:
  """int8.json: scores of a full training in 8 bits, see quantise.Quantised."""

  validation_dsc: float | None
  test_dsc: float | None
  weights_sha256: tuple[str, ...] = ()  # of the training; () in files of older versions


def search(config: ConfigDict, workdir: Path | str) -> Raced:
  """Finds the lean network for config.search.max_ms, and writes search/genotype.json.

  Without a limit it is the knee of the front over config.front.budgets_ms.

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
  scores = race.finalists()
  chosen = _choose(scores, race.ms(), budgets)
  found = _describe(race, chosen, scores, workdir)
  _write(folder, found, budgets)
  print('\n'.join(['', *format_table(found), '']), flush=True)
  best = next(one for one in found if one.knee)
  provenance = {
    'search': 'race',
    'seed': config.seed,
    'max_ms': limit or None,
    **{
      name: getattr(best, name)
      for name in ('name', 'source', 'ms', 'runtime', 'precision', 'size', 'machine')
    },
    'validation_dsc': best.validation_dsc,
  }
  genotypes.save(folder / 'genotype.json', race.entrants[best.name].genotype, provenance=provenance)
  logbook.say('found', f'{best.name}, {_line(best)}')
  return best


def front(config: ConfigDict, workdir: Path | str) -> list[Raced]:
  """Races all networks, trains the best of each budget and family in full, and scores these.

  Of those trained in full the validation patients choose for each budget. Writes front/front.json,
  in which the test patients count for nothing but the last scores.
  """
  workdir = Path(workdir)
  folder, budgets = workdir / 'front', tuple(config.front.budgets_ms)
  race = Race(config, workdir, folder)
  seeds = 0 if config.retrain.minutes else config.front.seeds
  race.run(budgets, FAMILIES, full=seeds)
  ms, scores = race.ms(), race.finalists()
  chosen = _choose(scores, ms, budgets)
  _write(folder, _describe(race, chosen, scores, workdir), budgets)
  rivals = [_pick_family(race, group.budget, group.family) for group in race.groups]
  names = [*dict.fromkeys([*chosen.values(), *filter(None, rivals)])]
  full = _train_in_full(config, workdir, race, names)
  scores = _read_validation(full) or scores  # these if every full training diverged
  chosen = _choose(scores, ms, budgets)
  more = {
    name: _read_full(places, workdir)
    | (_score_in_8_bits(places) if race.watch.best(name).precision == 'int8' else {})
    for name, places in full.items()
    if places
  }
  found = _describe(race, chosen, scores, workdir, more=more)
  _write(folder, found, budgets)
  print('\n'.join(['', *format_table(found), '']), flush=True)
  return found


def _write(folder: Path, found: Sequence[Raced], budgets: Sequence[float]) -> None:
  """Writes the networks that raced, and the budgets that they raced for."""
  records.write(folder / BUDGETS, tuple(budgets))
  records.write(folder / FILE, found)


def _choose(
  scores: Mapping[str, choice.Scores], ms: Mapping[str, float], budgets: Sequence[float]
) -> dict[float, str]:
  """Returns the network for each budget that has one."""
  found = {budget: choice.pick_within(scores, ms, budget) for budget in budgets}
  return {budget: name for budget, name in found.items() if name}


def _pick_family(race: Race, budget: float, family: str) -> str | None:
  """Returns the best network of a family within a budget."""
  ms = race.ms()
  names = {name for group in race.groups if group.family == family for name in group.names}
  scores = {name: found for name, found in race.finalists().items() if name in names}
  return choice.pick_within(scores, ms, budget)


def _train_in_full(
  config: ConfigDict, workdir: Path, race: Race, names: Sequence[str]
) -> dict[str, list[Path]]:
  """Trains networks as a run would, once for each seed, scores them, and returns their folders."""
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
  return {name: [one for one in of_name if trainings.read(one)] for name, of_name in places.items()}


def _read_validation(full: Mapping[str, Sequence[Path]]) -> dict[str, choice.Scores]:
  """Reads the DSC of the validation patients, the mean over the seeds, of those trained in full."""
  found: dict[str, choice.Scores] = {}
  for name, places in full.items():
    of_seeds = [scores for place in places if (scores := short_trainings.read_scores([place]))]
    if of_seeds:
      both = set.intersection(*map(set, of_seeds))
      found[name] = {one: float(np.mean([each[one] for each in of_seeds])) for one in both}
  return found


def _score_in_8_bits(places: Sequence[Path]) -> dict[str, Any]:
  """Quantises full trainings of a network, once each, and returns their fields of `Raced`."""
  found = []
  for place in places:
    path, now = place / EIGHT_BITS, weights.read(place)
    one = records.read_optional(path, InEightBits)
    if one is None or one.weights_sha256 not in ((), now):
      member = model_folder.load(place / 'model')
      content = onnx_network.to_onnx(member).SerializeToString()
      quantised = quantise.quantise_model(member, content, export_slices.open_run(place / 'model'))
      logbook.say('int8', f'{place}: {quantised}')
      one = InEightBits(quantised.validation_dsc, quantised.test_dsc, now)
      records.write(path, one)
    found.append(one)
  return {
    f'int8_{name}': float(np.mean([getattr(one, name) for one in found]))
    for name in ('validation_dsc', 'test_dsc')
    if all(getattr(one, name) is not None for one in found)
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
