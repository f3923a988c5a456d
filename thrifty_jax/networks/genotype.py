"""Genotypes: derivation from the weights of a search, random draws, and JSON files."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thrifty_jax import files, records
from thrifty_jax.errors import InputError
from thrifty_jax.networks import lean_space
from thrifty_jax.networks.architecture import ArchitectureWeights
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.networks.space import (
  CELL_KINDS,
  CellKind,
  GridCell,
  Space,
  derivable,
  edges_of,
  resample_of,
  skippable_cells,
  sources_of,
  state_name,
)

FORMAT = 'thrifty_jax.genotype'
VERSION = 2  # 1 had no space: its cells are those of thrifty
MAX_LEVELS = 32  # largest index of a cell: no image can be halved this often

Node = tuple[tuple[int, str], ...]  # kept edges as (source, operation)
# (node, source) -> score of every candidate but `none`, in the order of the table
CellScores = Mapping[tuple[int, int], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Genotype:
  """Structure of all down cells and of all up cells.

  Attributes:
    down: Kept edges of every node as (source, operation); source 0 is in0, 1 is in1, 2 is the
      first node.
    up: Kept edges of up cells, in the same form.
    skipped: Cells of the grid that are not built, sorted.
  """

  down: tuple[Node, ...]
  up: tuple[Node, ...]
  skipped: tuple[GridCell, ...] = ()


def require_depth(
  genotype: Genotype | LeanShape, depth: int, *, place: str = 'the genotype'
) -> None:
  """Checks that a grid of this depth can skip the cells that a genotype skips.

  Args:
    genotype: Genotype that is to be built.
    depth: Depth of the grid, L.
    place: File of the genotype, for the message.

  Raises:
    InputError: If it cannot; the message names the cell and the least depth that has it inside.
  """
  for m, j in genotype.skipped if isinstance(genotype, Genotype) else ():
    if (m, j) not in skippable_cells(depth):
      raise InputError(
        f'{place} skips cell [{m}, {j}], which cannot be skipped at depth {depth}; expected a '
        f'depth of {m + j + 2} or more: set config.model.depth, or use another genotype'
      )


class Scores(NamedTuple):
  """Scores of all choices: the number of alternatives times the weight of the choice.

  Attributes:
    down: Scores of the candidates of down cells.
    up: Scores of the candidates of up cells.
    gates: Scores of keeping and of skipping a cell, [2] each; empty if cells have no gates.
  """

  down: CellScores
  up: CellScores
  gates: Mapping[GridCell, np.ndarray] = {}


def compute_scores(weights: ArchitectureWeights, space: Space) -> Scores:
  """Returns N * softmax(alpha) * softmax(beta) for candidates, and 2 * softmax(gamma) for gates.

  N is the number of candidates of the edge, `none` included, so that edges with four and with six
  are comparable.

  Args:
    weights: Weights of all choices.
    space: Search space.
  """

  def of_cells(kind: CellKind) -> CellScores:
    part, found = getattr(weights, kind), {}
    for index, (node, source) in enumerate(edges_of(space.nodes)):
      names = space.candidates(kind, source)
      values = len(names) * np.asarray(part.alphas[index], float) * float(part.betas[index])
      scores = dict(zip(names, values.tolist(), strict=True))
      found[node, source] = {name: scores[name] for name in space.derivable(kind, source)}
    return found

  gates = {}
  if weights.gates is not None:
    scores = 2 * np.asarray(weights.gates, float)
    gates = dict(zip(skippable_cells(space.depth), scores, strict=True))
  return Scores(of_cells('down'), of_cells('up'), gates)


def derive(weights: ArchitectureWeights, space: Space) -> Genotype:
  """Keeps the strongest operation of every edge, the strongest edges of every node, and the cells.

  Args:
    weights: Weights of all choices.
    space: Search space.

  Returns:
    The genotype; of equal scores the operation, or the state, that is listed first is kept; a cell
    with equal scores of its gate is kept.
  """
  scores = compute_scores(weights, space)

  def node(kind: CellKind, index: int) -> Node:
    table = {source: getattr(scores, kind)[index, source] for source in sources_of(index)}
    best = {source: max(of_names, key=of_names.__getitem__) for source, of_names in table.items()}
    strongest = sorted(best, key=lambda source: -table[source][best[source]])
    return tuple((source, best[source]) for source in sorted(strongest[: space.edges_per_node]))

  down, up = (tuple(node(kind, index) for index in range(space.nodes)) for kind in CELL_KINDS)
  skipped = tuple(sorted(cell for cell, (keep, skip) in scores.gates.items() if skip > keep))
  return Genotype(down, up, skipped)


def draw(generator: np.random.Generator, space: Space) -> Genotype:
  """Draws a genotype, uniformly over kept edges, their operations, and skipped or kept cells.

  Args:
    generator: Random generator.
    space: Search space.
  """

  def node(kind: CellKind, index: int) -> Node:
    sources = list(sources_of(index))
    size = min(space.edges_per_node, len(sources))
    kept = sorted(map(int, generator.choice(sources, size=size, replace=False)))
    return tuple((source, str(generator.choice(space.derivable(kind, source)))) for source in kept)

  skipped = tuple(sorted(each for each in space.skippable if generator.integers(2)))
  down, up = (tuple(node(kind, index) for index in range(space.nodes)) for kind in CELL_KINDS)
  return Genotype(down, up, skipped)


def save(
  path: Path | str,
  genotype: Genotype | LeanShape,
  *,
  scores: Scores | None = None,
  provenance: dict[str, Any] | None = None,
) -> None:
  """Writes the genotype as JSON, with the score of each choice and its provenance."""
  if isinstance(genotype, LeanShape):
    head = {'format': FORMAT, 'version': VERSION, 'space': 'lean'}
    shape = records.to_json(genotype)
    files.write_json(path, {**head, 'shape': shape, 'provenance': provenance or {}})
    return

  def edge(kind: CellKind, node: int, source: int, name: str) -> dict[str, Any]:
    entry: dict[str, Any] = {'source': state_name(source), 'operation': name}
    if scores is not None:
      entry['score'] = round(getattr(scores, kind)[node, source][name], 6)
    return entry

  cells = {
    kind: [
      [edge(kind, node, source, name) for source, name in edges]
      for node, edges in enumerate(getattr(genotype, kind))
    ]
    for kind in CELL_KINDS
  }
  content: dict[str, Any] = {'format': FORMAT, 'version': VERSION, 'space': 'thrifty', **cells}
  gates = scores.gates if scores else {}
  if genotype.skipped or gates:
    content['skipped'] = genotype.skipped
  if gates:
    content['gates'] = [
      {'cell': cell, 'keep': round(float(keep), 6), 'skip': round(float(skip), 6)}
      for cell, (keep, skip) in gates.items()
    ]
  files.write_json(path, {**content, 'provenance': provenance or {}})


def load(path: Path | str) -> Genotype | LeanShape:
  """Reads and checks a genotype file.

  Raises:
    InputError: If the file is missing, is no genotype, is newer than this code, or has a state, an
      operation or a cell that is impossible. require_depth checks that the grid is deep enough for
      the skipped cells.
  """
  content = files.read_json(path)
  if not isinstance(content, dict) or content.get('format') != FORMAT:
    raise InputError(f'{path} is no genotype: expected a JSON object with "format": "{FORMAT}"')
  if content.get('version') not in (1, VERSION):
    raise InputError(
      f'{path} has genotype version {content.get("version")!r:.40}, expected at most {VERSION}: '
      'use a matching release of thrifty_jax'
    )
  if content.get('space') == 'lean':
    return lean_space.read(content.get('shape'), path)
  down, up = (_read_cell(path, kind, content.get(kind)) for kind in CELL_KINDS)
  genotype = Genotype(down, up, _read_skipped(path, content.get('skipped', [])))
  if len(genotype.down) != len(genotype.up):
    raise InputError(
      f'{path}: down cells have {len(genotype.down)} nodes and up cells {len(genotype.up)}, '
      'expected as many'
    )
  return genotype


def _read_cell(path: Path | str, kind: CellKind, nodes: Any) -> tuple[Node, ...]:
  if not isinstance(nodes, list) or not 1 <= len(nodes) <= 16:
    raise InputError(f'{path}: "{kind}" must be a list of 1 to 16 nodes')
  return tuple(_read_node(path, kind, index, node) for index, node in enumerate(nodes))


def _read_node(path: Path | str, kind: CellKind, index: int, edges: Any) -> Node:
  place = f'{path}: {kind} node{index + 1}'
  sources = {state_name(source): source for source in sources_of(index)}
  if not isinstance(edges, list) or not edges:
    raise InputError(f'{place} must be a list of at least one edge')
  kept = {}
  for edge in edges:
    if not isinstance(edge, dict) or edge.get('source') not in list(sources):
      raise InputError(f'{place}: an edge must come from one of {", ".join(sources)}: {edge!r:.80}')
    source = sources[edge['source']]
    allowed = derivable(resample_of(kind, source))
    if edge.get('operation') not in allowed:
      raise InputError(
        f'{place}: operation {edge.get("operation")!r:.80} is not possible from {edge["source"]}; '
        f'expected one of {", ".join(allowed)}'
      )
    if source in kept:
      raise InputError(f'{place}: two edges from {edge["source"]}, expected at most one')
    kept[source] = edge['operation']
  return tuple(sorted(kept.items()))


def _read_skipped(path: Path | str, cells: Any) -> tuple[GridCell, ...]:
  def is_cell(cell: Any) -> bool:
    whole = isinstance(cell, list) and [type(index) for index in cell] == [int, int]
    return whole and 1 <= cell[0] <= MAX_LEVELS and 0 <= cell[1] <= MAX_LEVELS

  if not isinstance(cells, list) or not all(map(is_cell, cells)):
    raise InputError(
      f'{path}: "skipped" must be a list of cells [level, column], the level from 1 and the column '
      f'from 0 to {MAX_LEVELS}: {cells!r:.80}'
    )
  if len({tuple(cell) for cell in cells}) < len(cells):
    raise InputError(f'{path}: "skipped" names a cell twice, expected each at most once')
  return tuple(sorted((level, column) for level, column in cells))
