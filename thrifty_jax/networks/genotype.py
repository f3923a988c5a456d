"""Genotypes: derivation from the weights of a search, random draws, and JSON files."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from thrifty_jax import files, records
from thrifty_jax.allowed import within
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
MADE_FOR = 'made_for'  # name of candidates.MadeFor in the provenance

# Kept edges as (source, operation); source 0 is in0, 1 is in1, 2 is the first node.
Node = tuple[tuple[int, str], ...]
# (node, source) -> score of every candidate but `none`, in the order of the table.
CellScores = Mapping[tuple[int, int], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Genotype:
  """Structure of all down cells and of all up cells."""

  down: tuple[Node, ...]
  up: tuple[Node, ...]
  skipped: tuple[GridCell, ...] = ()  # cells of the grid that are not built, sorted


def require_depth(
  genotype: Genotype | LeanShape, depth: int, *, place: str = 'the genotype'
) -> None:
  """Raises an InputError if a grid of this depth cannot skip the cells that a genotype skips."""
  for m, j in genotype.skipped if isinstance(genotype, Genotype) else ():
    if (m, j) not in skippable_cells(depth):
      raise InputError(
        f'{place} skips cell [{m}, {j}], which cannot be skipped at depth {depth}; expected a '
        f'depth of {m + j + 2} or more: set config.model.depth, or use another genotype'
      )


class Scores(NamedTuple):
  """Scores of all choices: the number of alternatives times the weight of the choice."""

  down: CellScores
  up: CellScores
  gates: Mapping[GridCell, np.ndarray] = {}  # scores of keeping and of skipping a cell, [2] each


def compute_scores(weights: ArchitectureWeights, space: Space) -> Scores:
  """Returns N * softmax(alpha) * softmax(beta) for candidates, and 2 * softmax(gamma) for gates.

  N is the number of candidates of the edge, `none` included, so that edges with four and with six
  are comparable.
  """

  def score_cells(kind: CellKind) -> CellScores:
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
  return Scores(score_cells('down'), score_cells('up'), gates)


def derive(weights: ArchitectureWeights, space: Space) -> Genotype:
  """Keeps the strongest operation of every edge, the strongest edges of every node, and the cells.

  Of equal scores the operation, or the state, that is listed first is kept; a cell whose gate has
  equal scores is kept.
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
  """Draws a genotype, uniformly over kept edges, their operations, and skipped or kept cells."""

  def node(kind: CellKind, index: int) -> Node:
    sources = list(sources_of(index))
    size = min(space.edges_per_node, len(sources))
    kept = sorted(map(int, generator.choice(sources, size=size, replace=False)))
    return tuple((source, str(generator.choice(space.derivable(kind, source)))) for source in kept)

  skipped = tuple(sorted(each for each in space.skippable if generator.integers(2)))
  down, up = (tuple(node(kind, index) for index in range(space.nodes)) for kind in CELL_KINDS)
  return Genotype(down, up, skipped)


@dataclasses.dataclass(frozen=True)
class Edge:
  """A kept edge in a genotype file."""

  source: str
  operation: str
  score: float | None = None  # not in files that are written by hand


@dataclasses.dataclass(frozen=True)
class GenotypeFile:
  """Form of a genotype file; cells have indices up to 32, as no image can be halved so often."""

  down: tuple[tuple[Edge, ...], ...]
  up: tuple[tuple[Edge, ...], ...]
  skipped: tuple[tuple[Annotated[int, within(1, 32)], Annotated[int, within(0, 32)]], ...] = ()


def save(
  path: Path | str,
  genotype: Genotype | LeanShape,
  *,
  scores: Scores | None = None,
  provenance: dict[str, Any] | None = None,
) -> None:
  """Writes the genotype as JSON, with the score of each choice and its provenance."""
  head, provenance = {'format': FORMAT, 'version': VERSION}, provenance or {}
  if isinstance(genotype, LeanShape):
    content = {**head, 'space': 'lean', 'shape': genotype, 'provenance': provenance}
    records.write(Path(path), content)
    return

  def edge(kind: CellKind, node: int, source: int, name: str) -> Edge:
    score = round(getattr(scores, kind)[node, source][name], 6) if scores else None
    return Edge(state_name(source), name, score)

  cells = {
    kind: [
      [edge(kind, node, *kept) for kept in edges]
      for node, edges in enumerate(getattr(genotype, kind))
    ]
    for kind in CELL_KINDS
  }
  content: dict[str, Any] = {**head, 'space': 'thrifty', **cells}
  gates = scores.gates if scores else {}
  if genotype.skipped or gates:
    content['skipped'] = genotype.skipped
  if gates:
    content['gates'] = [
      {'cell': cell, 'keep': round(float(keep), 6), 'skip': round(float(skip), 6)}
      for cell, (keep, skip) in gates.items()
    ]
  records.write(Path(path), {**content, 'provenance': provenance})


def read(path: Path | str) -> GenotypeFile:
  """Reads a genotype file of cells; raises an InputError if it has another form."""
  return _parse(_read_content(path), path)


def _parse(content: dict[str, Any], path: Path | str) -> GenotypeFile:
  if content.get('space') == 'lean':
    raise InputError(f'{path} describes a lean network; expected the cells of a thrifty one')
  cells = [content[kind] for kind in CELL_KINDS if isinstance(content.get(kind), list)]
  nodes = [node for cell in cells for node in cell]  # a damaged file may have a million
  if len(nodes) > 32:
    raise InputError(f'{path} has {len(nodes)} nodes; expected 1 to 16 in each cell')
  if any(isinstance(node, list) and len(node) > 17 for node in nodes):
    raise InputError(f'{path}: a node has more than 17 edges, so two edges come from one state')
  return records.parse(content, GenotypeFile, path, remedy='correct it, or use another genotype')


def _read_content(path: Path | str) -> dict[str, Any]:
  content = files.read_json(path)
  if not isinstance(content, dict) or content.get('format') != FORMAT:
    raise InputError(f'{path} is no genotype: expected a JSON object with "format": "{FORMAT}"')
  if content.get('version') not in (1, VERSION):
    raise InputError(
      f'{path} has genotype version {content.get("version")!r:.40}, expected at most {VERSION}: '
      'use a matching release of thrifty_jax'
    )
  space = content.get('space', 'thrifty')
  if space not in ('thrifty', 'lean'):
    raise InputError(f'{path}: space is {space!r:.40}, expected thrifty or lean')
  return content


def read_provenance(path: Path | str) -> dict[str, Any]:
  """Reads where the genotype in a file came from; {} if that is not said."""
  provenance = _read_content(path).get('provenance')
  return provenance if isinstance(provenance, dict) else {}


def load_any(path: Path | str) -> Genotype | LeanShape:
  """Reads and checks a genotype file of any space; see `load` and `lean_space.read`."""
  content = _read_content(path)
  if content.get('space') == 'lean':
    return lean_space.read(content.get('shape'), path)
  return _convert(_parse(content, path), path)


def load(path: Path | str) -> Genotype:
  """Reads and checks a genotype file of cells.

  Raises:
    InputError: If the file is missing, is no genotype, is newer than this code, or has a state, an
      operation or a cell that is impossible. require_depth checks that the grid is deep enough for
      the skipped cells.
  """
  return _convert(read(path), path)


def _convert(found: GenotypeFile, path: Path | str) -> Genotype:
  if not 1 <= len(found.down) == len(found.up) <= 16:
    raise InputError(
      f'{path}: down cells have {len(found.down)} nodes and up cells {len(found.up)}; expected '
      '1 to 16 in both, equally many'
    )
  if len({*found.skipped}) < len(found.skipped):
    raise InputError(f'{path}: "skipped" names a cell twice; expected each at most once')
  down, up = (
    tuple(_read_node(path, kind, *node) for node in enumerate(getattr(found, kind)))
    for kind in CELL_KINDS
  )
  return Genotype(down, up, tuple(sorted(found.skipped)))


def _read_node(path: Path | str, kind: CellKind, index: int, edges: tuple[Edge, ...]) -> Node:
  place = f'{path}: {kind} node{index + 1}'
  sources = {state_name(source): source for source in sources_of(index)}
  if not edges:
    raise InputError(f'{place} has no edge; expected one or more')
  kept = {}
  for edge in edges:
    source = sources.get(edge.source)
    if source is None:
      raise InputError(
        f'{place} has an edge from {edge.source!r:.80}; expected one of {", ".join(sources)}'
      )
    allowed = derivable(resample_of(kind, source))
    if edge.operation not in allowed:
      raise InputError(
        f'{place}: operation {edge.operation!r:.80} is not possible from {edge.source}; expected '
        f'one of {", ".join(allowed)}'
      )
    if source in kept:
      raise InputError(f'{place} has two edges from {edge.source}; expected at most one')
    kept[source] = edge.operation
  return tuple(sorted(kept.items()))
