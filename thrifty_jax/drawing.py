"""A genotype as a picture: one SVG, both kinds of cell, without an external program.

A cell reads from top to bottom. Each node stands under the operations of its edges; a line leads
from the state that an operation reads to the operation, and from there to the node. Lines past a
row of operations run in lanes at the margins. Text and lines take the colour of the surrounding
text, so that the picture serves on light and on dark ground.
"""

from dataclasses import dataclass
from html import escape

from thrifty_jax.genotype import Genotype, Node, state_name

PILL_WIDTH, PILL_HEIGHT = 136, 26  # pixels; holds the longest name, up_dil_conv_3x3 and the like
GAP = 14  # between the operations of a node
MARGIN = 58  # for the lanes, on each side
LANE = 11  # between lanes
ROW = 150  # from a node to the next
TITLE = 54  # above the inputs
CELL_GAP = 40  # between the two cells

# Operations of one kind have one colour wherever they stand; the report's CSS may set others.
COLOURS = {
  'conv': '#3f7fbf',
  'dil_conv': '#2f9a80',
  'sep_conv': '#cf7d2c',
  'se_conv': '#9566bd',
  'avg_pool': '#7d8a35',
  'max_pool': '#b0577a',
  'identity': '#7d8a35',
  'none': '#888888',
  'se': '#c25450',
}
MONOSPACE = 'font-size="11.5" font-family="ui-monospace, monospace"'
BOLD = 'font-weight="600"'
OUTPUT = 'output: 1×1 of all nodes'
TITLES = {
  'down': ('Down cell', 'halves the resolution'),
  'up': ('Up cell', 'in0 at full, in1 at half resolution'),
}


@dataclass(frozen=True)
class Place:
  """Where a state stands: the middle of its shape."""

  x: float
  y: float


def draw(genotype: Genotype) -> str:
  """The down and the up cell side by side.

  Args:
    genotype: What to draw.

  Returns:
    An SVG element as text, its colours taken from CSS variables --op-<kind> where there are any.
  """
  width = max(_width(cell) for cell in (genotype.down, genotype.up))
  height = max(_output_y(cell) for cell in (genotype.down, genotype.up)) + 34
  cells = [
    f'<g transform="translate({index * (width + CELL_GAP)} 0)">'
    f'{"".join(_cell(kind, getattr(genotype, kind), width))}</g>'
    for index, kind in enumerate(('down', 'up'))
  ]
  return _svg(2 * width + CELL_GAP, height, cells, 'The searched down and up cell')


def draw_cell(kind: str, cell: tuple[Node, ...]) -> str:
  """One cell, narrow enough for a phone.

  Args:
    kind: down or up.
    cell: Its nodes, genotype.down or genotype.up.

  Returns:
    An SVG element as text.
  """
  width = _width(cell)
  return _svg(width, _output_y(cell) + 34, _cell(kind, cell, width), f'The searched {kind} cell')


def kind_of(operation: str) -> str:
  """The kind of an operation, `sep_conv` for up_sep_conv_3x3; one colour each."""
  name = operation.removeprefix('down_').removeprefix('up_').removesuffix('_3x3')
  return name if name in COLOURS else 'conv'


def _svg(width: float, height: float, parts: list[str], label: str) -> str:
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
    f'role="img" aria-label="{escape(label)}" fill="none" stroke="currentColor" '
    f'font-family="system-ui, sans-serif" font-size="12">{"".join(parts)}</svg>'
  )


def _width(cell: tuple[Node, ...]) -> float:
  across = max(2, *(len(node) for node in cell))
  return 2 * MARGIN + across * PILL_WIDTH + (across - 1) * GAP


def _node_y(node: int) -> float:
  return TITLE + ROW * (node + 1)


def _output_y(cell: tuple[Node, ...]) -> float:
  return _node_y(len(cell) - 1) + 84


def _cell(kind: str, cell: tuple[Node, ...], width: float) -> list[str]:
  """The parts of a cell, lines first so that shapes cover their ends."""
  middle = width / 2
  step = (PILL_WIDTH + GAP) / 2
  places = {0: Place(middle - step, TITLE), 1: Place(middle + step, TITLE)}
  places |= {2 + node: Place(middle, _node_y(node)) for node in range(len(cell))}
  lanes = _lanes(cell, width)
  lines, shapes = [], [_title(kind)]
  for node, edges in enumerate(cell):
    ordered = sorted(edges, key=lambda edge: _side(edge[0], node))
    pill_y = _node_y(node) - 62
    for index, (source, operation) in enumerate(ordered):
      x = middle + (index - (len(ordered) - 1) / 2) * (PILL_WIDTH + GAP)
      pill = Place(x, pill_y)
      direct = source == node + 1 or (node == 0 and source < 2)
      lines.append(_line(places[source], pill, None if direct else lanes[source]))
      lines.append(_curve(pill, places[2 + node]))
      shapes.append(_pill(pill, operation))
  output = Place(middle, _output_y(cell))
  for node in range(len(cell)):
    last = node == len(cell) - 1
    lines.append(_line(places[2 + node], output, None if last else lanes[2 + node]))
  shapes += [_state(state_name(source), place) for source, place in places.items()]
  shapes.append(_output(output))
  return [f'<g stroke-width="1.4" stroke-opacity=".55">{"".join(lines)}</g>', *shapes]


def _side(source: int, node: int) -> float:
  """Order of a node's operations from left to right, so that their lines cross least."""
  if source == 0:
    return -1.0  # its lane is at the left
  if source == node + 1:
    return 0.0  # the state right above
  return 1.0 + 1 / (1 + source) if source > 1 else 3.0  # lanes at the right, in1 the outermost


def _lanes(cell: tuple[Node, ...], width: float) -> dict[int, float]:
  """The x at which the line of a state passes rows that it has no part in."""
  lanes = {0: 14.0, 1: width - 14.0}
  for node in range(len(cell) - 1):
    lanes[2 + node] = width - 14.0 - LANE * (node + 1)
  return lanes


def _line(start: Place, end: Place, lane: float | None) -> str:
  """From a state down to an operation or to the output, straight or through a lane."""
  if lane is None:
    return _curve(start, end)
  y0, y1 = start.y + 46, end.y - 44
  return (
    f'<path d="M{start.x:g} {start.y:g}C{start.x:g} {start.y + 34:g} {lane:g} {y0 - 26:g} '
    f'{lane:g} {y0:g}V{y1:g}C{lane:g} {y1 + 26:g} {end.x:g} {end.y - 34:g} {end.x:g} {end.y:g}"/>'
  )


def _curve(start: Place, end: Place) -> str:
  bend = (end.y - start.y) * 0.5
  return (
    f'<path d="M{start.x:g} {start.y:g}C{start.x:g} {start.y + bend:g} '
    f'{end.x:g} {end.y - bend:g} {end.x:g} {end.y:g}"/>'
  )


def _title(kind: str) -> str:
  title, below = TITLES[kind]
  return (
    f'<g stroke="none" fill="currentColor"><text y="14" font-size="14" font-weight="600">{title}'
    f'<tspan dx="8" font-size="12" font-weight="400" fill-opacity=".7">{below}</tspan></text></g>'
  )


def _pill(place: Place, operation: str) -> str:
  """An operation: its name on the ground's own colour, framed in the colour of its kind."""
  kind = kind_of(operation)
  colour = f'var(--op-{kind.replace("_", "-")}, {COLOURS[kind]})'
  x, y = place.x - PILL_WIDTH / 2, place.y - PILL_HEIGHT / 2
  box = f'x="{x:g}" y="{y:g}" width="{PILL_WIDTH}" height="{PILL_HEIGHT}" rx="13"'
  return (
    f'<rect {box} stroke="none" style="fill:var(--ground, #fff)"/>'
    f'<rect {box} stroke-width="1.5" fill-opacity=".14" style="fill:{colour};stroke:{colour}"/>'
    f'{_text(place, operation, MONOSPACE)}'
  )


def _state(name: str, place: Place) -> str:
  box = f'x="{place.x - 29:g}" y="{place.y - 13:g}" width="58" height="26" rx="5"'
  return (
    f'<rect {box} stroke-width="1.4" style="fill:var(--ground, #fff)"/>{_text(place, name, BOLD)}'
  )


def _output(place: Place) -> str:
  box = f'x="{place.x - 78:g}" y="{place.y - 15:g}" width="156" height="30" rx="5"'
  return f'<rect {box} stroke-width="1.4" style="fill:var(--ground, #fff)"/>{_text(place, OUTPUT)}'


def _text(place: Place, text: str, attributes: str = '') -> str:
  return (
    f'<text x="{place.x:g}" y="{place.y + 4:g}" text-anchor="middle" stroke="none" '
    f'fill="currentColor" {attributes}>{escape(text)}</text>'
  )
