"""Draws the grid of a network: its cells and the inputs of each.

A row is a resolution, full size at the top; the encoder goes down on the left, up cells go up to
the right. Labels are the names of the network's modules.
"""

from collections.abc import Collection

from thrifty_jax.drawings import svg
from thrifty_jax.drawings.svg import Picture, Place
from thrifty_jax.networks.space import (
  GridCell,
  cell_name,
  connect,
  down_cells,
  skippable_cells,
  up_cells,
)

COLUMN, ROW = 108, 70  # pixels from a cell to the next
WIDTH, HEIGHT = 84, 26  # of a cell
LEFT = 150  # middle of the first column; labels and the lines past a row are left of it
TOP = 84  # middle of the first row
KEY = 16  # height of a line of the key
COLOURS = {'down': ('#5566c4', '#8f9df0'), 'up': ('#ad7420', '#dba850')}  # on light, on dark
AFTER = 'up cells read all cells to their left, joined, and one from below'


def draw_grid(depth: int, skipped: Collection[GridCell] = ()) -> Picture:
  """Draws the network, a box per cell, coloured by the CSS variables --cell-down and --cell-up.

  Args:
    depth: Number of levels below the full size, 2 or more.
    skipped: Interior up cells X[m, j], as (m, j), that are not built: 1 <= m < depth - 1 - j.

  Raises:
    ValueError: If a skipped cell is not an interior one at this depth.
  """
  for m, j in skipped:
    if (m, j) not in skippable_cells(depth):
      raise ValueError(f'cell ({m}, {j}) cannot be skipped at depth {depth}')
  stem, encoded, head = (0, -1), (0, 0), (depth, -1)
  kinds = dict.fromkeys(down_cells(depth), 'down') | {stem: '', encoded: ''}
  kinds |= {cell: 'up' for cell in (*up_cells(depth), head) if cell not in skipped}
  paths = {encoded: [_down(stem, encoded)]}

  def read(cell: GridCell, left: list[GridCell], other: GridCell) -> GridCell:
    """Draws the inputs of a cell."""
    if cell[0]:
      paths[cell] = [_across(left[-1], cell), _up(other, cell)]
    else:
      paths[cell] = [_down(other, cell), _past(left[0], cell)]
    return cell

  outputs = connect(read, stem=stem, encoded=encoded, depth=depth, skipped=skipped)
  read(head, [stem], outputs[depth - 1, 0])
  lines = [path for cell in kinds for path in paths.get(cell, [])]
  boxes = [_box(cell, kind, depth) for cell, kind in kinds.items()]
  ghosts = [_ghost(cell, depth) for cell in sorted(skipped)]
  sizes = [_size(row) for row in range(-1, depth)]
  parts = [svg.title('Network', AFTER), svg.lines(lines), *boxes, *ghosts, *sizes]
  parts += [*_ends(depth), *_key(depth, bool(skipped))]
  label = f'The grid of cells, depth {depth}, {len(skipped)} cells skipped'
  width = max(_place(head).x + WIDTH / 2, _place((1, 0)).x + 330)
  return Picture(width + 2, _place((0, depth - 1)).y + HEIGHT / 2 + 2, parts, label)


def variables(*, dark: bool = False) -> dict[str, str]:
  """Colours of cells as the CSS variables '--cell-down' and '--cell-up'."""
  return {f'--cell-{kind}': colours[dark] for kind, colours in COLOURS.items()}


def _place(cell: GridCell) -> Place:
  """Middle of X[k, j]; row -1 is full size, with the stem and the head."""
  k, j = cell
  return Place(LEFT + COLUMN * k, TOP + ROW * (j + 1))


def _name(cell: GridCell, depth: int) -> str:
  """Name of the module."""
  outer = {(0, -1): 'stem', (0, 0): 'encode', (depth, -1): 'head'}
  return outer.get(cell) or cell_name(cell)


def _down(source: GridCell, cell: GridCell) -> str:
  """Arrow straight down."""
  start, end = _place(source), _place(cell)
  return f'<path d="M{start.x:g} {start.y:g}V{end.y - HEIGHT / 2:g}"/>' + _head(
    Place(end.x, end.y - HEIGHT / 2), 0, 1
  )


def _past(source: GridCell, cell: GridCell) -> str:
  """Arrow down past a row, left of the first column."""
  x = LEFT - WIDTH / 2
  start, end = _place(source), _place(cell)
  y0, y1 = start.y + 5, end.y - 5  # an incoming line ends above an outgoing one
  lane = x - (34 if cell[1] % 2 else 20)  # two lines run in parallel along a row
  return (
    f'<path d="M{x:g} {y0:g}C{lane:g} {y0:g} {lane:g} {y0 + 20:g} {lane:g} {y0 + 40:g}'
    f'V{y1 - 40:g}C{lane:g} {y1 - 20:g} {lane:g} {y1:g} {x:g} {y1:g}"/>'
  ) + _head(Place(x, y1), 1, 0)


def _across(source: GridCell, cell: GridCell) -> str:
  """Arrow to the right along a row, passing behind all cells that are read."""
  start, end = _place(source), _place(cell)
  return f'<path d="M{start.x:g} {start.y:g}H{end.x - WIDTH / 2:g}"/>' + _head(
    Place(end.x - WIDTH / 2, end.y), 1, 0
  )


def _up(source: GridCell, cell: GridCell) -> str:
  """Arrow to the row above, from the top of a cell to the bottom of another."""
  start, end = _place(source), _place(cell)
  tip = Place(end.x, end.y + HEIGHT / 2)
  side = WIDTH / 4  # avoids the arrow from above
  return svg.curve(Place(start.x + side, start.y - HEIGHT / 2), tip) + _head(tip, 0, -1)


def _head(tip: Place, right: int, down: int) -> str:
  """Head of an arrow that points right, down or up."""
  x, y = tip.x - 7 * right, tip.y - 7 * down
  across = f'{4 * down:g} {4 * right:g}'
  return (
    f'<path d="M{tip.x:g} {tip.y:g}L{x:g} {y:g}m{across}L{tip.x:g} {tip.y:g}'
    f'l{-7 * right - 4 * down:g} {-7 * down - 4 * right:g}z" fill="currentColor" stroke="none"/>'
  )


def _box(cell: GridCell, kind: str, depth: int) -> str:
  """Box of a cell that is built; stem and residual block have no kind."""
  middle = _place(cell)
  if kind:
    frame = svg.tinted_box(middle, WIDTH, HEIGHT, 5, f'cell-{kind}', COLOURS[kind][0])
  else:
    frame = svg.box(middle, WIDTH, HEIGHT, 5, f'stroke-width="1.4" {svg.fill("ground")}')
  return frame + svg.text(middle, _name(cell, depth), svg.MONOSPACE)


def _ghost(cell: GridCell, depth: int) -> str:
  """Box of a cell that is skipped."""
  middle = _place(cell)
  frame = f'stroke-dasharray="4 4" stroke-opacity=".55" {svg.fill("ground")}'
  name = svg.text(middle, _name(cell, depth), f'{svg.MONOSPACE} fill-opacity=".5"')
  return svg.box(middle, WIDTH, HEIGHT, 5, frame) + name


def _size(row: int) -> str:
  """Label with the resolution of a row."""
  size = 'full size' if row < 0 else f'1/{2 ** (row + 1)}'
  return svg.text(Place(0, _place((0, row)).y), size, svg.MUTED, anchor='start')


def _ends(depth: int) -> list[str]:
  """Arrows and labels of the network's input and output."""
  stem, head = _place((0, -1)), _place((depth, -1))
  top = stem.y - HEIGHT / 2
  enters = f'<path d="M{stem.x:g} {top - 20:g}V{top:g}"/>' + _head(Place(stem.x, top), 0, 1)
  leaves = f'<path d="M{head.x:g} {top:g}V{top - 20:g}"/>' + _head(Place(head.x, top - 20), 0, -1)
  words = ((stem, 'image'), (head, 'classes'))
  texts = [svg.text(Place(place.x, top - 29), word, svg.MUTED) for place, word in words]
  return [svg.lines([enters, leaves]), *texts]


def _key(depth: int, skips: bool) -> list[str]:
  """Key of the boxes, in the free corner at the lower right."""
  lines = [('down', 'down cells: one structure, each with its own weights')]
  lines += [('up', 'up cells: likewise')]
  lines += [('', 'skipped: the nearest cell to its left is read instead')] if skips else []
  foot = _place((1, depth - 1))
  parts = []
  for index, (kind, words) in enumerate(lines):
    y = foot.y + HEIGHT / 2 - KEY * (len(lines) - 1 - index) - KEY / 2
    place = Place(foot.x + 30, y)
    frame = f'stroke-dasharray="3 3" stroke-opacity=".55" {svg.fill("ground")}'
    parts.append(
      svg.tinted_box(place, 18, 10, 3, f'cell-{kind}', COLOURS[kind][0])
      if kind
      else svg.box(place, 18, 10, 3, frame)
    )
    parts.append(svg.text(Place(place.x + 18, y), words, svg.MUTED, anchor='start'))
  return parts
