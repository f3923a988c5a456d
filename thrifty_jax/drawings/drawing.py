"""Draws both kinds of cell of a genotype as one SVG, without an external program.

A cell is read from top to bottom. Each node is below the operations of its edges; a line leads from
the state that an operation reads to the operation, and from there to the node, with the score of
the choice if it is known. Lines that pass a row of operations run in lanes at the margins.
"""

from collections.abc import Mapping
from pathlib import Path

from thrifty_jax.drawings import svg
from thrifty_jax.drawings.svg import Picture, Place
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.networks import space
from thrifty_jax.networks.genotype import Genotype, Node
from thrifty_jax.networks.space import CELL_KINDS, sources_of, state_name

# (node, source) -> score of the operation kept on the edge
EdgeScores = Mapping[tuple[int, int], float]

PILL_WIDTH, PILL_HEIGHT = 136, 26  # pixels; fits the longest names, such as up_dil_conv_3x3
GAP = 14  # between the operations of a node
MARGIN = 58  # on each side, for the lanes
LANE = 11  # between lanes
ROW = 170  # from a node to the next
ABOVE = 82  # from the operations of a node to the node
STRAIGHT = 34  # straight part of ABOVE, beside which the score is written
TITLE = 54  # above the inputs
CELL_GAP = 40  # between the two cells

SCORES = (
  'Below an operation its score: weight of the operation × its candidates × weight of the edge.'
)
OUTPUT = 'output: 1×1 of all nodes'
TITLES = {
  'down': ('Down cell', 'halves the resolution'),
  'up': ('Up cell', 'in0 at full, in1 at half resolution'),
}


def draw_cells(genotype: Genotype, scores: Mapping[str, EdgeScores]) -> Picture:
  """Draws the down and the up cell side by side, with the scores of each kind that are known."""
  cells = [draw_cell(kind, getattr(genotype, kind), scores.get(kind)) for kind in TITLES]
  return svg.beside(cells, gap=CELL_GAP, label='The searched down and up cell')


def draw_cell(kind: str, cell: tuple[Node, ...], scores: EdgeScores | None = None) -> Picture:
  """Draws one cell, narrow enough for a phone; its colours are the CSS variables --op-<name>."""
  across, step = max(2, *(len(node) for node in cell)), PILL_WIDTH + GAP
  width = 2 * MARGIN + across * step - GAP
  middle, right = width / 2, width - 14
  states = [Place(middle - step / 2, TITLE), Place(middle + step / 2, TITLE)]
  states += [Place(middle, TITLE + ROW * (node + 1)) for node in range(len(cell))]
  output = Place(middle, states[-1].y + 84)
  lanes = [14, *(right - LANE * index for index in range(len(cell))), None]  # of the states
  lines, shapes = [], [svg.title(*TITLES[kind])]  # lines first: shapes cover their ends
  for node, edges in enumerate(cell):
    ordered = sorted(edges, key=lambda edge: _side(edge[0], node))
    for index, (source, operation) in enumerate(ordered):
      x = middle + (index - (len(ordered) - 1) / 2) * step
      pill = Place(x, states[2 + node].y - ABOVE)
      direct = source == node + 1 or (node == 0 and source < 2)
      lines.append(_line(states[source], pill, None if direct else lanes[source]))
      lines.append(svg.curve(pill, states[2 + node], straight=STRAIGHT))
      shapes.append(_pill(pill, operation))
      if scores and (node, source) in scores:
        shapes.append(_score(pill, scores[node, source]))
  pairs = zip(states[2:], lanes[2:], strict=True)
  lines += [_line(state, output, lane) for state, lane in pairs]
  shapes += [
    svg.plain_box(place, 58, 26, state_name(source), svg.BOLD)
    for source, place in enumerate(states)
  ]
  shapes.append(svg.plain_box(output, 156, 30, OUTPUT))
  return Picture(width, output.y + 34, [svg.lines(lines), *shapes], f'The searched {kind} cell')


def edge_scores(path: Path | str) -> dict[str, dict[tuple[int, int], float]]:
  """Returns the scores in a file that genotype.load accepts, kind -> (node, source) -> score."""
  file = genotypes.read(path)
  return {
    kind: {
      (node, source): float(edge.score)
      for node, edges in enumerate(getattr(file, kind))
      for source in sources_of(node)
      for edge in edges
      if edge.source == state_name(source) and edge.score is not None
    }
    for kind in CELL_KINDS
  }


def variables(*, dark: bool = False) -> dict[str, str]:
  """Colours of operations as CSS variables such as '--op-sep-conv'; the report sets its own."""
  colours = [row.colour for row in space.OPERATIONS]
  return {f'--op-{colour.name}': colour.dark if dark else colour.light for colour in colours}


def _side(source: int, node: int) -> float:
  """Sort key of a node's operations from left to right, for the fewest crossing lines."""
  if source == 0:
    return -1.0  # its lane is on the left
  if source == node + 1:
    return 0.0  # the state right above
  return 1.0 + 1 / (1 + source) if source > 1 else 3.0  # lanes on the right, in1 outermost


def _line(start: Place, end: Place, lane: float | None) -> str:
  """Line from a state down to an operation or the output, straight or through a lane at x."""
  if lane is None:
    return svg.curve(start, end)
  y0, y1 = start.y + 46, end.y - 44
  return (
    f'<path d="M{start.x:g} {start.y:g}C{start.x:g} {start.y + 34:g} {lane:g} {y0 - 26:g} '
    f'{lane:g} {y0:g}V{y1:g}C{lane:g} {y1 + 26:g} {end.x:g} {end.y - 34:g} {end.x:g} {end.y:g}"/>'
  )


def _pill(place: Place, operation: str) -> str:
  """Box of an operation: its name on the background, framed in the operation's colour."""
  name, light, _ = space.operation(operation).colour
  frame = svg.tinted_box(place, PILL_WIDTH, PILL_HEIGHT, 13, f'op-{name}', light)
  return frame + svg.text(place, operation, svg.MONOSPACE)


def _score(pill: Place, score: float) -> str:
  """Text of a score on the line below an operation."""
  place = Place(pill.x, pill.y + PILL_HEIGHT / 2 + 13)
  ground = svg.box(place, 34, 15, 3, f'stroke="none" {svg.fill("ground")}')
  return ground + svg.text(place, f'{score:.2f}', f'font-size="11" {svg.MUTED}')
