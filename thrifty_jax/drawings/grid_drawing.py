"""The grid of a network as a picture: which cells there are, and what each of them reads.

A row is a resolution, full size at the top; the encoder goes down on the left, up cells come up to
the right. What is in the picture has the names of the network's modules.
"""

from collections.abc import Collection

from thrifty_jax.drawings import svg
from thrifty_jax.drawings.svg import Picture, Place

COLUMN, ROW = 108, 70  # pixels from a cell to the next
WIDTH, HEIGHT = 84, 26  # of a cell
LEFT = 150  # middle of the first column; labels and the lines past a row stand before it
TOP = 84  # middle of the first row
KEY = 16  # height of a line of the key
COLOURS = {'down': '#5566c4', 'up': '#ad7420'}
DARK_COLOURS = {'down': '#8f9df0', 'up': '#dba850'}
AFTER = 'up cells read all cells to their left, joined, and one from below'


def draw_grid(depth: int, skipped: Collection[tuple[int, int]] = ()) -> Picture:
  """The whole network, a box a cell; colours from CSS variables --cell-down and --cell-up.

  Args:
    depth: Levels below the full size, 2 or more.
    skipped: Interior up cells X[m, j], as (m, j), that are not built: 1 <= m < depth - 1 - j.

  Raises:
    ValueError: If a skipped cell is not an interior one at this depth.
  """
  for m, j in skipped:
    if m < 1 or j < 0 or m + j >= depth - 1:
      raise ValueError(f'cell ({m}, {j}) cannot be skipped at depth {depth}')
  kept = {(0, j): 'down' for j in range(1, depth)} | {(0, -1): '', (0, 0): ''}
  ups = {(k, j): 'up' for k in range(1, depth) for j in range(depth - k)}
  kept |= {cell: kind for cell, kind in ups.items() if cell not in skipped}
  kept[depth, -1] = 'up'  # the head
  paths = [path for cell in kept for path in _lines_into(cell, kept, depth)]
  boxes = [_box(cell, kind, depth) for cell, kind in kept.items()]
  ghosts = [_ghost(cell, depth) for cell in sorted(skipped)]
  sizes = [_size(row) for row in range(-1, depth)]
  parts = [svg.title('Network', AFTER), svg.lines(paths), *boxes, *ghosts, *sizes]
  parts += [*_ends(depth), *_key(depth, bool(skipped))]
  label = f'The grid of cells, depth {depth}, {len(skipped)} cells skipped'
  width = max(_place((depth, -1)).x + WIDTH / 2, _place((1, 0)).x + 330)
  return Picture(width + 2, _place((0, depth - 1)).y + HEIGHT / 2 + 2, parts, label)


def variables(colours: dict[str, str]) -> dict[str, str]:
  """Colours of cells as CSS variables, '--cell-down' and '--cell-up'."""
  return {f'--cell-{kind}': colour for kind, colour in colours.items()}


def _place(cell: tuple[int, int]) -> Place:
  """Middle of X[k, j]; row -1 is full size, where the stem and the head stand."""
  k, j = cell
  return Place(LEFT + COLUMN * k, TOP + ROW * (j + 1))


def _name(cell: tuple[int, int], depth: int) -> str:
  """Of the module."""
  k, j = cell
  outer = {(0, -1): 'stem', (0, 0): 'encode', (depth, -1): 'head'}
  return outer.get(cell, f'{"down" if k == 0 else "up"}_{k}_{j}')


def _lines_into(cell: tuple[int, int], kept: Collection[tuple[int, int]], depth: int) -> list[str]:
  """From what a kept cell reads, with an arrow's head at its end."""
  k, j = cell
  if k == 0:
    above = [_down((0, j - 1), cell)] if j >= 0 else []
    return above + ([_past((0, j - 2), cell)] if j >= 1 else [])
  # A skipped cell hands on what the nearest kept one to its left gives.
  in1 = next((m, j + 1) for m in range(k - 1, -1, -1) if (m, j + 1) in kept)
  left = next((m, j) for m in range(k - 1, -1, -1) if (m, j) in kept)
  return [_across(left, cell), _up(in1, cell)]


def _down(source: tuple[int, int], cell: tuple[int, int]) -> str:
  """Straight down."""
  start, end = _place(source), _place(cell)
  return f'<path d="M{start.x:g} {start.y:g}V{end.y - HEIGHT / 2:g}"/>' + _head(
    Place(end.x, end.y - HEIGHT / 2), 0, 1
  )


def _past(source: tuple[int, int], cell: tuple[int, int]) -> str:
  """Down past a row, on the left of the first column."""
  x = LEFT - WIDTH / 2
  start, end = _place(source), _place(cell)
  y0, y1 = start.y + 5, end.y - 5  # one line arrives above the other that leaves
  lane = x - (34 if cell[1] % 2 else 20)  # lines that run beside each other for a row
  return (
    f'<path d="M{x:g} {y0:g}C{lane:g} {y0:g} {lane:g} {y0 + 20:g} {lane:g} {y0 + 40:g}'
    f'V{y1 - 40:g}C{lane:g} {y1 - 20:g} {lane:g} {y1:g} {x:g} {y1:g}"/>'
  ) + _head(Place(x, y1), 1, 0)


def _across(source: tuple[int, int], cell: tuple[int, int]) -> str:
  """To the right along a row; the line goes on behind all cells that are read."""
  start, end = _place(source), _place(cell)
  return f'<path d="M{start.x:g} {start.y:g}H{end.x - WIDTH / 2:g}"/>' + _head(
    Place(end.x - WIDTH / 2, end.y), 1, 0
  )


def _up(source: tuple[int, int], cell: tuple[int, int]) -> str:
  """To the row above, from the top of a cell to the foot of another."""
  start, end = _place(source), _place(cell)
  tip = Place(end.x, end.y + HEIGHT / 2)
  side = WIDTH / 4  # clear of the arrow from above
  return svg.curve(Place(start.x + side, start.y - HEIGHT / 2), tip) + _head(tip, 0, -1)


def _head(tip: Place, right: int, down: int) -> str:
  """An arrow's head that points right, down or up."""
  x, y = tip.x - 7 * right, tip.y - 7 * down
  across = f'{4 * down:g} {4 * right:g}'
  return (
    f'<path d="M{tip.x:g} {tip.y:g}L{x:g} {y:g}m{across}L{tip.x:g} {tip.y:g}'
    f'l{-7 * right - 4 * down:g} {-7 * down - 4 * right:g}z" fill="currentColor" stroke="none"/>'
  )


def _box(cell: tuple[int, int], kind: str, depth: int) -> str:
  """A cell that is built; stem and residual block have no kind."""
  middle = _place(cell)
  if kind:
    frame = svg.tinted_box(middle, WIDTH, HEIGHT, 5, f'cell-{kind}', COLOURS[kind])
  else:
    frame = svg.box(middle, WIDTH, HEIGHT, 5, f'stroke-width="1.4" {svg.fill("ground")}')
  return frame + svg.text(middle, _name(cell, depth), svg.MONOSPACE)


def _ghost(cell: tuple[int, int], depth: int) -> str:
  """A cell that is skipped."""
  middle = _place(cell)
  frame = f'stroke-dasharray="4 4" stroke-opacity=".55" {svg.fill("ground")}'
  name = svg.text(middle, _name(cell, depth), f'{svg.MONOSPACE} fill-opacity=".5"')
  return svg.box(middle, WIDTH, HEIGHT, 5, frame) + name


def _size(row: int) -> str:
  """Resolution of a row."""
  size = 'full size' if row < 0 else f'1/{2 ** (row + 1)}'
  return svg.text(Place(0, _place((0, row)).y), size, svg.MUTED, anchor='start')


def _ends(depth: int) -> list[str]:
  """What enters the stem and what leaves the head."""
  stem, head = _place((0, -1)), _place((depth, -1))
  top = stem.y - HEIGHT / 2
  enters = f'<path d="M{stem.x:g} {top - 20:g}V{top:g}"/>' + _head(Place(stem.x, top), 0, 1)
  leaves = f'<path d="M{head.x:g} {top:g}V{top - 20:g}"/>' + _head(Place(head.x, top - 20), 0, -1)
  words = ((stem, 'image'), (head, 'classes'))
  texts = [svg.text(Place(place.x, top - 29), word, svg.MUTED) for place, word in words]
  return [svg.lines([enters, leaves]), *texts]


def _key(depth: int, skips: bool) -> list[str]:
  """What the boxes mean, in the free corner at the lower right."""
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
      svg.tinted_box(place, 18, 10, 3, f'cell-{kind}', COLOURS[kind])
      if kind
      else svg.box(place, 18, 10, 3, frame)
    )
    parts.append(svg.text(Place(place.x + 18, y), words, svg.MUTED, anchor='start'))
  return parts
