"""The search space in plain Python: a table of the candidate operations, and the rules of cells.

An operation is a row of OPERATIONS. Its form selects the module in `ops` and the function in
`onnx_network` that compute it. This module does not import JAX.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple, TypeVar

from ml_collections import ConfigDict

from thrifty_jax.errors import InputError

Resample = Literal['down', 'up', 'normal']  # sides are halved, doubled, kept
CellKind = Literal['down', 'up']
CELL_KINDS: tuple[CellKind, ...] = ('down', 'up')
GridCell = tuple[int, int]  # (k, j): X[k, j], see `connect`
T = TypeVar('T')


class Colour(NamedTuple):
  """Colour in pictures that operations of one sort share."""

  name: str  # of the CSS variable, --op-<name>
  light: str  # on a light background, '#rrggbb'
  dark: str  # on a dark background


# As far apart as nine can be, for readers without red or green cones too (simulated after Machado
# et al., 2009), in lightness where hues come close.
CONV = Colour('conv', '#2a468c', '#73c1e5')
DIL_CONV = Colour('dil-conv', '#267f6f', '#7fffe8')
SEP_CONV = Colour('sep-conv', '#e57045', '#99701f')
SE_CONV = Colour('se-conv', '#b700ff', '#e659ff')
AVG_POOL = Colour('avg-pool', '#736200', '#e3f29d')
MAX_POOL = Colour('max-pool', '#8c006e', '#e52e68')
IDENTITY = Colour('identity', '#0099f2', '#31838c')
NONE = Colour('none', '#888888', '#9a9a9a')
SE = Colour('se', '#bf394d', '#f2b89d')


@dataclasses.dataclass(frozen=True)
class Operation:
  """Candidate operation, a row of the table."""

  name: str  # in genotypes, settings and pictures
  resample: Resample  # list that the operation is in, by its effect on the sides
  form: str  # zeros, identity, avg_pool, max_pool, gate, convolution (3x3)
  colour: Colour
  dilation: int = 1  # distance of a convolution's taps, in pixels
  separable: bool = False  # whether the convolution is depthwise, then 1x1, without a norm between
  gated: bool = False  # whether squeeze and excitation precedes the convolution

  def __post_init__(self) -> None:
    if self.dilation > 1 and self.separable:
      raise ValueError(f'operation {self.name!r}: a separable convolution has dilation 1')
    if self.dilation % 2 == 0 and self.resample == 'up':  # leaves holes with stride 2
      raise ValueError(f'operation {self.name!r}: dilation {self.dilation} going up; expected odd')

  @property
  def parameterless(self) -> bool:
    """Whether the operation has no parameters."""
    return self.form in ('zeros', 'identity', 'avg_pool', 'max_pool')


# The order is that in genotypes and breaks ties: add new rows last in their list. A new form also
# needs a module in ops.FORMS and a function in onnx_network._operation.
OPERATIONS: tuple[Operation, ...] = (
  Operation('down_avg_pool', 'down', 'avg_pool', AVG_POOL),
  Operation('down_max_pool', 'down', 'max_pool', MAX_POOL),
  Operation('down_conv_3x3', 'down', 'convolution', CONV),
  Operation('down_dil_conv_3x3', 'down', 'convolution', DIL_CONV, dilation=2),
  Operation('down_sep_conv_3x3', 'down', 'convolution', SEP_CONV, separable=True),
  Operation('down_se_conv_3x3', 'down', 'convolution', SE_CONV, gated=True),
  Operation('up_conv_3x3', 'up', 'convolution', CONV),
  Operation('up_dil_conv_3x3', 'up', 'convolution', DIL_CONV, dilation=3),
  Operation('up_sep_conv_3x3', 'up', 'convolution', SEP_CONV, separable=True),
  Operation('up_se_conv_3x3', 'up', 'convolution', SE_CONV, gated=True),
  Operation('identity', 'normal', 'identity', IDENTITY),
  Operation('none', 'normal', 'zeros', NONE),
  Operation('se', 'normal', 'gate', SE),
  Operation('conv_3x3', 'normal', 'convolution', CONV),
  Operation('dil_conv_3x3', 'normal', 'convolution', DIL_CONV, dilation=2),
  Operation('sep_conv_3x3', 'normal', 'convolution', SEP_CONV, separable=True),
)


def operation(name: str) -> Operation:
  """Returns the row of an operation, or raises a ValueError that lists the known names."""
  for row in OPERATIONS:
    if row.name == name:
      return row
  names = ', '.join(row.name for row in OPERATIONS)
  raise ValueError(f'there is no operation {name!r:.80}; expected one of {names}')


def candidates(resample: Resample, chosen: Collection[str] = ()) -> tuple[str, ...]:
  """Returns the names of a list's operations, in the order of the table.

  `chosen` are the names that a search may use, () stands for all; a ValueError names one that the
  table does not have.
  """
  rows = [operation(name) for name in chosen] or OPERATIONS
  return tuple(row.name for row in OPERATIONS if row in rows and row.resample == resample)


def derivable(resample: Resample, chosen: Collection[str] = ()) -> tuple[str, ...]:
  """Returns the candidates that a derived network may have: all but `none`."""
  names = candidates(resample, chosen)
  return tuple(name for name in names if operation(name).form != 'zeros')


def require_choice(chosen: Sequence[str]) -> None:
  """Checks that config.search.operations, if any, leaves candidates for every edge.

  Raises:
    InputError: If a name is unknown or given twice, or a list has no candidate left but `none`.
  """
  known = [row.name for row in OPERATIONS]
  for name in chosen:
    if name not in known:
      raise InputError(
        f'config.search.operations names {name!r:.40}, which is no operation; expected names, as '
        f"in ('conv_3x3', 'identity'), out of {', '.join(known)}, or () for all"
      )
    if chosen.count(name) > 1:
      raise InputError(f'config.search.operations names {name!r} twice; expected it once')
  edges = {'down': 'that halve the sides', 'up': 'that double them', 'normal': 'that keep them'}
  for resample in ('down', 'up', 'normal'):
    if not derivable(resample, chosen):
      raise InputError(
        f'config.search.operations leaves no operation for the edges {edges[resample]}; add one of '
        f'{", ".join(derivable(resample))}'
      )


def sources_of(node: int) -> range:
  """Returns the states that node 0, 1, ... may read: in0, in1 and all nodes before it."""
  return range(2 + node)


def targets_of(source: int, *, nodes: int) -> range:
  """Returns the nodes that may read a state."""
  return range(max(0, source - 1), nodes)


def edges_of(nodes: int) -> list[tuple[int, int]]:
  """Returns the edges of a cell in the search, (node, source), in the order of their variables."""
  return [(node, source) for node in range(nodes) for source in sources_of(node)]


def edge_count(nodes: int) -> int:
  """Returns a cell's number of edges; also the index of the first edge into node `nodes`."""
  return len(edges_of(nodes))


def edge_name(node: int, source: int) -> str:
  """Returns the name of an edge's parameters, for instance node1_from_0."""
  return f'node{node + 1}_from_{source}'


def state_name(source: int) -> str:
  """Returns the name of a state: in0, in1, node1, node2, ..."""
  return f'in{source}' if source < 2 else f'node{source - 1}'


def resample_of(kind: CellKind, source: int) -> Resample:
  """Returns the list of operations that an edge out of a state may have.

  A down cell halves both inputs; an up cell's in0 has the size of the output, and in1 half of it.
  """
  if source >= 2 or (kind == 'up' and source == 0):
    return 'normal'
  return kind


def down_cells(depth: int) -> list[GridCell]:
  """Returns the cells X[0, j] of a grid, from the larger to the smaller."""
  return [(0, j) for j in range(1, depth)]


def up_cells(depth: int) -> list[GridCell]:
  """Returns the cells X[k, j] of a grid in the order of computation, without the head."""
  return [(k, j) for k in range(1, depth) for j in range(depth - k)]


def cell_count(kind: CellKind, *, depth: int) -> int:
  """Returns the number of cells of a kind in a grid; the head counts as an up cell."""
  return len(down_cells(depth)) if kind == 'down' else len(up_cells(depth)) + 1


def cell_name(cell: GridCell) -> str:
  """Returns the name of a cell's parameters, for instance up_1_0."""
  k, j = cell
  return f'{"up" if k else "down"}_{k}_{j}'


def skippable_cells(depth: int) -> tuple[GridCell, ...]:
  """Returns the up cells X[m, j] inside the grid, by level, then column; those at its edge stay."""
  return tuple((m, j) for m, j in up_cells(depth) if m + j < depth - 1)


def connect(
  cell: Callable[[GridCell, list[T], T], T],
  *,
  stem: T,
  encoded: T,
  depth: int,
  skipped: Collection[GridCell] = (),
) -> dict[GridCell, T]:
  """Runs the cells of a grid, a triangle shaped like UNet++.

  X[0, j] go down to 1 / 2^depth of the image; X[k, j] come up and read every X[m, j] to their left,
  and X[k - 1, j + 1] from below. The cell to its left replaces a skipped cell.

  Args:
    cell: Function that runs a cell. Its arguments are the place, the inputs from the cell's row (a
      down cell has one, the output two rows above), and the input from the row below (above).
    stem: Output of the stem, which stands for X[0, -1].
    encoded: Output of the encoder, X[0, 0].
    depth: Levels below the full size, L.
    skipped: Cells that are not built.

  Returns:
    Every X[k, j] as other cells read it, the stem included.
  """
  outputs = {(0, -1): stem, (0, 0): encoded}
  for _, j in down_cells(depth):
    outputs[0, j] = cell((0, j), [outputs[0, j - 2]], outputs[0, j - 1])
  for k, j in up_cells(depth):
    if (k, j) in skipped:
      outputs[k, j] = outputs[k - 1, j]
    else:
      left = [outputs[m, j] for m in range(k) if (m, j) not in skipped]
      outputs[k, j] = cell((k, j), left, outputs[k - 1, j + 1])
  return outputs


class Space(NamedTuple):
  """Search space: the networks that a search may derive."""

  image_channels: int  # modalities times slices in the network's input
  classes: int  # K, background included
  channels: int  # channels of every cell of the derived network
  depth: int  # levels below the full size, L
  nodes: int  # nodes of a cell
  edges_per_node: int  # edges that a node keeps, if it has that many
  cell_path: bool = False  # whether cells may be skipped
  operations: tuple[str, ...] = ()  # names of the candidates; () stands for all

  @property
  def skippable(self) -> tuple[GridCell, ...]:
    """Cells that may be skipped."""
    return skippable_cells(self.depth) if self.cell_path else ()

  def candidates(self, kind: CellKind, source: int) -> tuple[str, ...]:
    """Returns the candidates on an edge out of a state."""
    return candidates(resample_of(kind, source), self.operations)

  def derivable(self, kind: CellKind, source: int) -> tuple[str, ...]:
    """Returns the candidates on an edge that a derived network may have."""
    return derivable(resample_of(kind, source), self.operations)


def space_of(config: ConfigDict) -> Space:
  """Returns the space of a run; its channels are those of the network that is retrained."""
  data, model = config.data, config.model
  return Space(
    image_channels=data.modalities * (2 * data.context + 1),
    classes=len(data.classes),
    channels=model.channels,
    depth=model.depth,
    nodes=model.nodes,
    edges_per_node=model.edges_per_node,
    cell_path=config.search.cell_path,
    operations=tuple(config.search.operations),
  )
