"""Draws the grid of a network: its cells and the inputs of each.

A row is a resolution, full size at the top; the encoder goes down on the left, up cells go up to
the right. Labels are the names of the network's modules.
"""

from collections.abc import Collection

from thrifty_jax.drawings import svg
from thrifty_jax.drawings.svg import Picture, Place
from thrifty_jax.networks import space
from thrifty_jax.networks.space import GridCell

COLUMN, ROW = 108, 70  # pixels from a cell to the next
WIDTH, HEIGHT = 84, 26  # of a cell
LEFT = 150  # middle of the first column; labels and the lines past a row are left of it
TOP = 84  # middle of the first row
KEY = 16  # height of a line of the key
COLOURS = {'down': ('#5566c4', '#8f9df0'), 'up': ('#ad7420', '#dba850')}  # on light, on dark
FAINT = f'stroke-opacity=".55" {svg.fill("ground")}'  # frame of a skipped cell
AFTER = 'up cells read all cells to their left, joined, and one from below'


def draw_grid(depth: int, skipped: Collection[GridCell] = ()) -> Picture:
  """Draws the network, a box per cell, coloured by the CSS variables --cell-down and --cell-up.

  Args:
    depth: Number of levels below the full size, 2 or more.
    skipped: Up cells X[m, j], as (m, j), that are not built.

  Raises:
    ValueError: If a skipped cell is none of space.skippable_cells at this depth.
  """
  for m, j in skipped:
    if (m, j) not in space.skippable_cells(depth):
      raise ValueError(f'cell ({m}, {j}) cannot be skipped at depth {depth}')
  stem, encoded, head = (0, -1), (0, 0), (depth, -1)
  kinds = dict.fromkeys(space.down_cells(depth), 'down') | {stem: '', encoded: ''}
  kinds |= {cell: 'up' for cell in (*space.up_cells(depth), head) if cell not in skipped}
  paths = {encoded: [_direct(stem, encoded)]}

  def read(cell: GridCell, left: list[GridCell], other: GridCell) -> GridCell:
    """Draws the inputs of a cell."""
    up = [_direct(left[-1], cell), _up(other, cell)]
    paths[cell] = up if cell[0] else [_direct(other, cell), _past(left[0], cell)]
    return cell

  outputs = space.connect(read, stem=stem, encoded=encoded, depth=depth, skipped=skipped)
  read(head, [stem], outputs[depth - 1, 0])
  lines = [path for cell in kinds for path in paths.get(cell, [])]
  kinds |= dict.fromkeys(sorted(skipped), 'skipped')
  boxes = [_box(cell, kind, depth) for cell, kind in kinds.items()]
  sizes = ['full size', *(f'1/{2 ** (row + 1)}' for row in range(depth))]
  parts = [svg.title('Network', AFTER), svg.lines(lines), *boxes]
  parts += [
    svg.text(Place(0, TOP + ROW * row), size, svg.MUTED, anchor='start')
    for row, size in enumerate(sizes)
  ]
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


def _direct(source: GridCell, cell: GridCell) -> str:
  """Arrow straight down, or to the right and behind all cells that are read."""
  start, end = _place(source), _place(cell)
  if start.y == end.y:
    return svg.arrow(start, Place(end.x - WIDTH / 2, end.y))
  return svg.arrow(start, Place(end.x, end.y - HEIGHT / 2))


def _past(source: GridCell, cell: GridCell) -> str:
  """Arrow down past a row, left of the first column."""
  x = LEFT - WIDTH / 2
  # An incoming line ends above an outgoing one.
  y0, y1 = _place(source).y + 5, _place(cell).y - 5
  lane = x - (34 if cell[1] % 2 else 20)  # two lines run in parallel along a row
  return (
    f'<path d="M{x:g} {y0:g}C{lane:g} {y0:g} {lane:g} {y0 + 20:g} {lane:g} {y0 + 40:g}'
    f'V{y1 - 40:g}C{lane:g} {y1 - 20:g} {lane:g} {y1:g} {x:g} {y1:g}"/>'
  ) + svg.arrow_head(Place(x, y1), 1, 0)


def _up(source: GridCell, cell: GridCell) -> str:
  """Arrow to the row above, from the top of a cell to the bottom of another."""
  start, end = _place(source), _place(cell)
  tip = Place(end.x, end.y + HEIGHT / 2)
  side = WIDTH / 4  # avoids the arrow from above
  return svg.curve(Place(start.x + side, start.y - HEIGHT / 2), tip) + svg.arrow_head(tip, 0, -1)


def _box(cell: GridCell, kind: str, depth: int) -> str:
  """Box of a cell; stem and residual block have no kind, and a skipped cell is dashed."""
  middle, style = _place(cell), svg.MONOSPACE
  name = {(0, -1): 'stem', (0, 0): 'encode', (depth, -1): 'head'}.get(cell) or space.cell_name(cell)
  if kind in COLOURS:
    frame = svg.tinted_box(middle, WIDTH, HEIGHT, 5, f'cell-{kind}', COLOURS[kind][0])
  elif kind == 'skipped':
    frame = svg.box(middle, WIDTH, HEIGHT, 5, f'stroke-dasharray="4 4" {FAINT}')
    style += ' fill-opacity=".5"'
  else:
    return svg.plain_box(middle, WIDTH, HEIGHT, name, style)
  return frame + svg.text(middle, name, style)


def _ends(depth: int) -> list[str]:
  """Arrows and labels of the network's input and output."""
  stem, head = _place((0, -1)).x, _place((depth, -1)).x
  top = TOP - HEIGHT / 2
  enters = svg.arrow(Place(stem, top - 20), Place(stem, top))
  leaves = svg.arrow(Place(head, top), Place(head, top - 20))
  words = ((stem, 'image'), (head, 'classes'))
  texts = [svg.text(Place(x, top - 29), word, svg.MUTED) for x, word in words]
  return [svg.lines([enters, leaves]), *texts]


def _key(depth: int, skips: bool) -> list[str]:
  """Key of the boxes, in the free corner at the lower right."""
  rows = [('down', 'down cells: one structure, each with its own weights')]
  rows += [('up', 'up cells: likewise')]
  rows += [('', 'skipped: the nearest cell to its left is read instead')] if skips else []
  foot, parts = _place((1, depth - 1)), []
  for index, (kind, words) in enumerate(rows):
    y = foot.y + HEIGHT / 2 - KEY * (len(rows) - 1 - index) - KEY / 2
    place = Place(foot.x + 30, y)
    if kind:
      parts.append(svg.tinted_box(place, 18, 10, 3, f'cell-{kind}', COLOURS[kind][0]))
    else:
      parts.append(svg.box(place, 18, 10, 3, f'stroke-dasharray="3 3" {FAINT}'))
    parts.append(svg.text(Place(place.x + 18, y), words, svg.MUTED, anchor='start'))
  return parts
