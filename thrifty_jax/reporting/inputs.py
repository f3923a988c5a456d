"""Reads and validates the files of a run for the report; they may be damaged or untrusted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from thrifty_jax import files, logbook, records
from thrifty_jax.allowed import within
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.networks import space
from thrifty_jax.run_files import Compared, Epoch, Evaluated, Side
from thrifty_jax.scores import summaries

T = TypeVar('T')


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


@dataclass(frozen=True)
class Search:
  """The part of config.json about the search; empty operations mean all."""

  operations: tuple[str, ...] = ()


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
  """A line of search/metrics.jsonl.

  Attributes:
    epoch: Number of the epoch that ended, from 1.
    unchanged_epochs: Number of epochs since the genotype last changed.
    weight_loss: Mean loss of the weight steps.
    architecture_loss: Mean loss of the architecture steps, None during the warm-up.
    architecture_dsc: DSC on the architecture half, in [0, 1].
    down_alphas, up_alphas: Weight of each operation of each edge, [E][N].
    down_betas, up_betas: Weight of each edge among those into its node, [E].
  """

  epoch: Epoch
  unchanged_epochs: Annotated[int, within(0, 10_000_000)]
  weight_loss: float | None
  architecture_loss: float | None
  architecture_dsc: float | None
  down_alphas: tuple[tuple[float, ...], ...]
  up_alphas: tuple[tuple[float, ...], ...]
  down_betas: tuple[float, ...]
  up_betas: tuple[float, ...]


def read_optional(path: Path, form: type[T]) -> T | None:
  """Reads a JSON file; None if it is missing."""
  return records.read(path, form) if path.exists() else None


def read_with_content(path: Path, form: type[T]) -> tuple[dict[str, Any], T]:
  """Reads the whole content of a JSON file, {} if it is missing, and its validated part."""
  content = files.read_json(path) if path.exists() else {}
  return content, records.parse(content, form, path)


def read_evaluated(run: Path) -> Evaluated | None:
  """Reads evaluate/summary.json and checks that its parts fit together; None if it is missing."""
  path = run / 'evaluate' / 'summary.json'
  found = read_optional(path, Evaluated)
  if found is None:
    return None
  # These are shown side by side.
  beside = [(found.patient_names, found.slices)]
  beside += [(found.classes, floor.classes) for floor in found.floors.values()]
  for names, others in beside:
    if lacking := {*names} - {*others}:
      raise InputError(
        f'{path}: has no slices, or no score of a floor, of {min(lacking)!r:.60}; the file is '
        'damaged: put it back, or remove it and run the stage that writes it again'
      )
  return found


def read_compared(workdir: Path) -> tuple[Compared, list[dict[str, str]]] | None:
  """Reads compare/summary.json and the rows of compare/scores.csv; None if they are missing."""
  path, table = workdir / 'compare' / 'summary.json', workdir / 'compare' / 'scores.csv'
  found = read_optional(path, Compared)
  if found is None:
    return None
  rows = summaries.read_rows(table, ('rival', 'class', 'dsc'))
  names = [rival.name for rival in found.rivals]
  everyone = {(row['class'], row['rival']) for row in rows}
  if {rival for _, rival in everyone} != {*names} or len({*names}) < len(names):
    raise InputError(f'{path}: compares others than {table} has; run --stage=compare again')
  if len(everyone) != len(names) * len({of_class for of_class, _ in everyone}):
    raise InputError(f'{table}: not every rival has every class; run --stage=compare again')
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

  Args:
    workdir: Folder of the run.
    chosen: Names of the candidate operations; () means all.
  """
  space.require_choice(chosen)
  found = read_lines(workdir / 'search', SearchLine)
  nodes = next((n for n in range(1, 17) if found and _shape(n, chosen) == _weights(found[0])), 0)
  if found and not all(nodes and _weights(line) == _shape(nodes, chosen) for line in found):
    raise InputError(
      f'{workdir / "search" / "metrics.jsonl"}: the weights are not those of cells with the same '
      'nodes in every line; the file is damaged'
    )
  return found


def read_searched(workdir: Path) -> genotypes.Genotype | None:
  """Reads the genotype that the search found; None if it has not ended."""
  path = workdir / 'search' / 'genotype.json'
  return genotypes.load(path) if path.exists() else None


def _shape(nodes: int, chosen: Sequence[str]) -> list[list[int]]:
  """Number of candidates of every edge of a down cell and an up cell."""
  return [
    [len(space.candidates(space.resample_of(kind, s), chosen)) for _, s in space.edges_of(nodes)]
    for kind in space.CELL_KINDS
  ]


def _weights(line: SearchLine) -> list[list[int]] | None:
  """Number of candidates in a line, as in _shape; None if edges lack a weight of their own."""
  if (len(line.down_alphas), len(line.up_alphas)) != (len(line.down_betas), len(line.up_betas)):
    return None
  return [[len(alphas) for alphas in part] for part in (line.down_alphas, line.up_alphas)]
