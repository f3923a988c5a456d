"""Genotypes: what a search found, derived from its architecture variables, as a JSON file."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax import files
from thrifty_jax.errors import InputError
from thrifty_jax.networks import ops
from thrifty_jax.networks.cell import CELL_KINDS, CellKind, edge_count, resample_of, sources_of

FORMAT = 'thrifty_jax.genotype'
VERSION = 1
MAX_LEVELS = 32  # of a grid: more halvings than any image has

Node = tuple[tuple[int, str], ...]  # kept edges as (source, operation)
GridCell = tuple[int, int]  # (m, j): X[m, j], see network.grid
# down and up: (node, source) -> score of every candidate, [N]; path, if cells have gates: (m, j) ->
# scores of keeping and of skipping, [2].
Scores = Mapping[Any, Mapping[tuple[int, int], np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Genotype:
  """The structure that all down cells, and that all up cells share.

  Attributes:
    down: For every node its kept edges as (source, operation); source 0 is in0, 1 is in1, 2 the
      first node.
    up: The same for up cells.
    skipped: Cells of the grid that are not built, sorted.
  """

  down: tuple[Node, ...]
  up: tuple[Node, ...]
  skipped: tuple[GridCell, ...] = ()


def skippable_cells(depth: int) -> tuple[GridCell, ...]:
  """The up cells X[m, j] inside the grid, by level, then column; those on its edge always stay."""
  return tuple((m, j) for m in range(1, depth - 1) for j in range(depth - 1 - m))


def require_depth(genotype: Genotype, depth: int, *, place: str = 'the genotype') -> None:
  """Refuses a genotype that skips a cell which a grid of this depth cannot skip.

  Args:
    genotype: What is to be built.
    depth: L of the grid.
    place: Where the genotype stands, for the message.

  Raises:
    InputError: With the cell and the least depth that has it inside.
  """
  for m, j in genotype.skipped:
    if (m, j) not in skippable_cells(depth):
      raise InputError(
        f'{place} skips cell [{m}, {j}], which cannot be skipped at depth {depth}; expected a '
        f'depth of {m + j + 2} or more: set config.model.depth, or use another genotype'
      )


def operations_of(kind: CellKind, source: int) -> tuple[str, ...]:
  """The candidates on an edge out of a state, in listed order."""
  return ops.OPERATIONS[resample_of(kind, source)]


def scores(
  kind: CellKind, alphas: Sequence[np.ndarray], betas: np.ndarray, *, nodes: int
) -> dict[tuple[int, int], np.ndarray]:
  """Score of every candidate: N * softmax(alpha) * softmax(beta), -1 for `none`.

  N is the number of candidates of the edge, `none` counted, so that edges with four and with six
  compare.

  Args:
    kind: down or up.
    alphas: Softmax weights, E arrays [N].
    betas: Softmax weights, [E].
    nodes: Nodes of the cell.

  Returns:
    (node, source) -> scores [N].
  """
  result = {}
  for node in range(nodes):
    for source in sources_of(node):
      index = edge_count(node) + source
      kinds = operations_of(kind, source)
      value = len(kinds) * np.asarray(alphas[index], float) * float(betas[index])
      result[node, source] = np.where([name == 'none' for name in kinds], -1.0, value)
  return result


def all_scores(weights: Mapping[Any, Any], *, nodes: int, depth: int = 0) -> Scores:
  """The scores of every choice there is; those of a gate are 2 * softmax(gamma).

  Args:
    weights: {'down': {'alphas', 'betas'}, 'up': ...} after the softmax, and {'path': {'gates'}},
      [G, 2], where the cells of the grid have gates.
    nodes: Nodes of a cell.
    depth: L of the grid, where there are gates.
  """
  table: dict[str, dict[tuple[int, int], np.ndarray]] = {
    kind: scores(kind, weights[kind]['alphas'], weights[kind]['betas'], nodes=nodes)
    for kind in CELL_KINDS
  }
  if 'path' in weights:  # as operations have it: the number of choices times the weight
    gates = 2 * np.asarray(weights['path']['gates'], float)
    table['path'] = dict(zip(skippable_cells(depth), gates, strict=True))
  return table


def derive(
  weights: Mapping[Any, Any], *, nodes: int, edges_per_node: int, depth: int = 0
) -> Genotype:
  """The strongest operation of every edge, the strongest edges of every node, the path of cells.

  Args:
    weights: As in all_scores.
    nodes: Nodes of a cell.
    edges_per_node: Edges that a node keeps, if it has as many.
    depth: L of the grid, where there are gates.

  Returns:
    The genotype; ties go to the operation, then to the state, that is listed first, and a tie of a
    gate keeps the cell.
  """
  all_tables = all_scores(weights, nodes=nodes, depth=depth)

  def part(kind: CellKind) -> tuple[Node, ...]:
    table, cell = all_tables[kind], []
    for node in range(nodes):
      best = {source: table[node, source].max() for source in sources_of(node)}
      kept = sorted(sorted(best, key=lambda source: -best[source])[:edges_per_node])
      cell.append(
        tuple(
          (source, operations_of(kind, source)[int(table[node, source].argmax())])
          for source in kept
        )
      )
    return tuple(cell)

  gates = all_tables.get('path', {})
  skipped = tuple(sorted(cell for cell, (keep, skip) in gates.items() if skip > keep))
  return Genotype(down=part('down'), up=part('up'), skipped=skipped)


def draw(
  generator: np.random.Generator,
  *,
  nodes: int,
  edges_per_node: int,
  skippable: Sequence[GridCell] = (),
) -> Genotype:
  """A genotype at random.

  Args:
    generator: Draws evenly among the edges a node may keep, their operations, and skipping or not.
    nodes: Nodes of a cell.
    edges_per_node: Edges that a node keeps, if it has as many.
    skippable: Cells that may be skipped.
  """

  def node(kind: CellKind, index: int) -> Node:
    sources = list(sources_of(index))
    kept = generator.choice(sources, size=min(edges_per_node, len(sources)), replace=False)
    options = {
      source: [name for name in operations_of(kind, source) if name != 'none']
      for source in sorted(map(int, kept))
    }
    return tuple((source, str(generator.choice(names))) for source, names in options.items())

  def cell(kind: CellKind) -> tuple[Node, ...]:
    return tuple(node(kind, index) for index in range(nodes))

  skipped = tuple(sorted(each for each in skippable if generator.integers(2)))
  return Genotype(down=cell('down'), up=cell('up'), skipped=skipped)


def state_name(source: int) -> str:
  """in0, in1, node1, node2, ..."""
  return f'in{source}' if source < 2 else f'node{source - 1}'


def save(
  path: Path | str,
  genotype: Genotype,
  *,
  scores: Scores | None = None,
  provenance: dict[str, Any] | None = None,
) -> None:
  """Writes the genotype as JSON, with the score of each choice and where it came from."""

  def edge(kind: CellKind, node: int, source: int, name: str) -> dict[str, Any]:
    entry: dict[str, Any] = {'source': state_name(source), 'operation': name}
    if scores is not None:
      rank = operations_of(kind, source).index(name)
      entry['score'] = round(float(scores[kind][node, source][rank]), 6)
    return entry

  cells = {
    kind: [
      [edge(kind, node, source, name) for source, name in edges]
      for node, edges in enumerate(getattr(genotype, kind))
    ]
    for kind in ('down', 'up')
  }
  content: dict[str, Any] = {'format': FORMAT, 'version': VERSION, **cells}
  gates = (scores or {}).get('path', {})
  if genotype.skipped or gates:
    content['skipped'] = genotype.skipped
  if gates:
    content['gates'] = [
      {'cell': cell, 'keep': round(float(keep), 6), 'skip': round(float(skip), 6)}
      for cell, (keep, skip) in gates.items()
    ]
  files.write_json(path, {**content, 'provenance': provenance or {}})


def load(path: Path | str) -> Genotype:
  """Reads and checks a genotype file.

  Raises:
    InputError: The file is missing, is no genotype, is newer than this code, or names a state, an
      operation or a cell that there cannot be. Whether the grid is deep enough for the cells that
      it skips is not known here: see require_depth.
  """
  content = files.read_json(path)
  if not isinstance(content, dict) or content.get('format') != FORMAT:
    raise InputError(f'{path} is no genotype: expected a JSON object with "format": "{FORMAT}"')
  if content.get('version') != VERSION:
    raise InputError(
      f'{path} has genotype version {content.get("version")!r:.40}, expected {VERSION}: '
      'use a matching release of thrifty_jax'
    )
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
    allowed = [name for name in operations_of(kind, source) if name != 'none']
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
