"""Reads and validates the files of a run for the report; they may be damaged or untrusted."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from thrifty_jax import files, logbook, records, weights
from thrifty_jax.allowed import Allowed, one_of, within
from thrifty_jax.errors import InputError
from thrifty_jax.networks import space
from thrifty_jax.run_files import Compared, Epoch, Evaluated, Side
from thrifty_jax.scans import volumes
from thrifty_jax.scores import summaries

T = TypeVar('T')
Colour = Annotated[str, Allowed('a colour as #rrggbb', re.compile('#[0-9a-fA-F]{6}').fullmatch)]


@dataclass(frozen=True)
class Network:
  """The part of config.json about the network."""

  name: str = ''
  depth: Annotated[int, within(2, 12)] | None = None


@dataclass(frozen=True)
class DataSet:
  """The part of config.json about the data set."""

  name: str
  classes: tuple[str, ...]
  image_size: Side
  intensity: str
  slice_axis: Annotated[str, one_of(*volumes.SLICE_AXES)] = 'axial'
  unit: str = 'mm'
  reduction: float = 0.0
  colours: tuple[Colour, ...] = ()
  folds: int = 5
  fold: int = 0
  validation_patients: tuple[str, ...] = ()  # empty where the fold chooses them, as below
  test_patients: tuple[str, ...] = ()
  hold_out_test: bool = True


@dataclass(frozen=True)
class Search:
  """The part of config.json about the search."""

  operations: tuple[str, ...] = ()  # empty for all


@dataclass(frozen=True)
class Settings:
  """The part of config.json that the page describes."""

  model: Network = Network()
  data: DataSet | None = None
  search: Search = Search()
  genotype: str = ''


@dataclass(frozen=True)
class Environment:
  """The part of environment.json that the page describes."""

  command: str = ''
  earlier: tuple[dict, ...] = ()


@dataclass(frozen=True)
class RetrainLine:
  """A line of retrain/metrics.jsonl; validation_dsc is None in epochs without a validation."""

  epoch: Epoch
  loss: float
  dsc: float
  validation_dsc: float | None = None


@dataclass(frozen=True)
class SearchLine:
  """A line of search/metrics.jsonl; architecture_loss is None during the warm-up."""

  epoch: Epoch
  unchanged_epochs: Annotated[int, within(0, 10_000_000)]  # since the genotype last changed
  weight_loss: float | None
  architecture_loss: float | None
  architecture_dsc: float | None  # on the architecture half, in [0, 1]
  down_alphas: tuple[tuple[float, ...], ...]  # weight of each operation of each edge, [E][N]
  up_alphas: tuple[tuple[float, ...], ...]
  down_betas: tuple[float, ...]  # weight of each edge among those into its node, [E]
  up_betas: tuple[float, ...]


def read_with_content(path: Path, form: type[T]) -> tuple[dict[str, Any], T]:
  """Reads the whole content of a JSON file, {} if it is missing, and its validated part."""
  content = files.read_json(path) if path.exists() else {}
  return content, records.parse(content, form, path)


def read_evaluated(run: Path) -> Evaluated | None:
  """Reads evaluate/summary.json and checks that its parts fit together.

  None if it is missing, or of other weights than the run has now.
  """
  path = run / 'evaluate' / 'summary.json'
  found = records.read_optional(path, Evaluated)
  if found is None or weights.has_old_scores(run):
    return None
  lacking = {*found.patient_names} - {*found.slices}
  if found.having:
    lacking |= {*found.patient_names} - {*found.having}
  for floor in found.floors.values():
    lacking |= {*found.classes} - {*floor.classes}
  if lacking:
    raise InputError(
      f'{path}: has no slices, or no score of a floor, of {min(lacking)!r:.60}; the file is '
      'damaged: put it back, or remove it and run the stage that writes it again'
    )
  return found


def read_compared(workdir: Path) -> tuple[Compared, list[dict[str, str]]] | None:
  """Reads compare/summary.json and the rows of compare/scores.csv; None if they are missing."""
  path, table = workdir / 'compare' / 'summary.json', workdir / 'compare' / 'scores.csv'
  found = records.read_optional(path, Compared)
  if found is None:
    return None
  rows = summaries.read_rows(table, ('rival', 'patient', 'class', 'dsc'))
  classes = {row['class'] for row in rows}
  expected = sorted((rival.name, name) for rival in found.rivals for name in classes)
  if sorted({(row['rival'], row['class']) for row in rows}) != expected:
    raise InputError(
      f'{table}: expected the scores of every class for each network of {path}, and of no other; '
      'run --stage=compare again'
    )
  return found, rows


def read_lines(folder: Path, form: type[T]) -> list[T]:
  """Reads the lines of a stage's metrics.jsonl; none if it is missing."""
  # A Logbook creates its folder, which a report must not do.
  path = folder / 'metrics.jsonl'
  if not path.exists():
    return []
  lines = enumerate(logbook.Logbook(folder).entries(), start=1)
  return [records.parse(line, form, f'{path}, line {number}') for number, line in lines]


def read_search(workdir: Path, chosen: Sequence[str]) -> list[SearchLine]:
  """Reads the lines of the search and checks that they have the weights of every choice.

  `chosen` are the names of the candidate operations; () means all.
  """
  space.require_choice(chosen)
  found = read_lines(workdir / 'search', SearchLine)
  count = len(found[0].down_betas) if found else 0
  edges = next((e for e in map(space.edges_of, range(1, 17)) if len(e) == count), [])
  for line, kind in itertools.product(found, space.CELL_KINDS):
    sizes = [len(space.candidates(space.resample_of(kind, source), chosen)) for _, source in edges]
    alphas, betas = getattr(line, f'{kind}_alphas'), getattr(line, f'{kind}_betas')
    if not edges or len(betas) != len(edges) or [*map(len, alphas)] != sizes:
      raise InputError(
        f'{workdir / "search" / "metrics.jsonl"}: the weights are not those of cells with the same '
        f'nodes in every line, from epoch {line.epoch} on; the file is damaged, or the program has '
        'other operations than the one that searched: put the file back, or search again'
      )
  return found
