"""Describes the networks that raced: for front.json, in the table, and with a genotype."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax import logbook
from thrifty_jax.racing import choice
from thrifty_jax.racing.outcome import Outcome
from thrifty_jax.racing.race import Race
from thrifty_jax.run_files import Raced
from thrifty_jax.scores import over_folds, statistics, tables
from thrifty_jax.training import trainings


def describe(
  race: Race, ended: Outcome, workdir: Path, full: Mapping[str, Sequence[Path]]
) -> list[Raced]:
  """Returns what front.json says of every network that raced, the fastest first.

  `full` has the folders of full trainings, by network.
  """
  ms, names = race.field.ms(), {*ended.chosen.values()}
  knee = choice.find_knee(names, ended.scores, ms) if names else ''
  found = []
  for name, standing in race.standings.items():
    cost, own = race.field.watch.best(name), standing.scores
    values = np.array([*own.values()]) if own else None
    in_8_bits = ended.in_8_bits.get(name)
    found.append(
      Raced(
        name=name,
        title=race.field.entrants[name].title,
        source=race.field.entrants[name].source,
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
        epochs=standing.length.epochs,
        minutes=standing.length.minutes,
        validation_dsc=choice.mean(own) if own else None,
        validation_ci95=None if values is None else statistics.bootstrap_interval(values),
        chosen=name in names,
        budgets_ms=tuple(budget for budget, one in ended.chosen.items() if one == name),
        knee=name == knee,
        genotype=race.field.path(name).relative_to(workdir).as_posix(),
        folder=standing.folder.relative_to(workdir).as_posix(),
        int8_validation_dsc=in_8_bits.validation_dsc if in_8_bits else None,
        int8_test_dsc=in_8_bits.test_dsc if in_8_bits else None,
        **(_describe_full(full[name], workdir) if name in full else {}),
      )
    )
  return sorted(found, key=lambda one: one.ms)


def _describe_full(places: Sequence[Path], workdir: Path) -> dict[str, Any]:
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


def tell_time(one: Raced) -> dict[str, Any]:
  """Returns what the provenance of a network says of its time, see raced_time.RacedTime."""
  names = ('name', 'source', 'ms', 'runtime', 'precision', 'threads', 'size', 'machine')
  return {name: getattr(one, name) for name in names}


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


def format_line(one: Raced) -> str:
  """Describes a network in a line."""
  length = logbook.format_length(one.epochs, one.minutes)
  return (
    f'{one.title}: {one.ms:.2f} ms in {one.runtime} {one.precision}, a slice of {one.size} x '
    f'{one.size} pixels, {one.parameters:,} parameters, validation DSC '
    f'{100 * (one.validation_dsc or 0):.2f} % after {length}'
  )
