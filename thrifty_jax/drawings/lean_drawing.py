"""Draws a lean network: its encoder on the left, its decoder on the right, a row a resolution."""

from thrifty_jax.drawings import svg
from thrifty_jax.drawings.grid_drawing import COLOURS
from thrifty_jax.drawings.svg import Picture, Place
from thrifty_jax.networks.lean_space import LeanShape, Level

ROW = 64  # pixels from a level to the next
HEIGHT = 34  # of a level's box
LEFT, GAP, WIDTH = 84, 96, 150  # of the labels, between encoder and decoder, of a box
TOP = 84  # middle of the first row
UPS = {
  'transposed': 'transposed 2x2',
  'nearest': '1x1, nearest',
  'bilinear': '1x1, bilinear',
}
BLOCKS = {
  'plain': 'conv 3x3',
  'residual': 'conv 3x3, residual',
  'bottleneck': 'bottleneck',
  'axial': 'axial 7 + 1x1',
}


def draw_shape(shape: LeanShape) -> Picture:
  """Draws the levels of a shape, coloured by the CSS variables --cell-down and --cell-up."""
  encoder, decoder = LEFT + WIDTH / 2, LEFT + 1.5 * WIDTH + GAP
  parts, arrows = [], []
  lowest = len(shape.levels) - 1
  for row, level in enumerate(shape.levels):
    y = TOP + ROW * row
    factor = shape.stem * 2**row
    size = 'full size' if factor == 1 else f'1/{factor}'
    parts.append(svg.text(Place(0, y), size, svg.MUTED, anchor='start'))
    parts.append(_box(Place(encoder, y), 'down', level, level.encoder))
    if row:
      arrows.append(svg.arrow(Place(encoder, y - ROW + HEIGHT / 2), Place(encoder, y - HEIGHT / 2)))
    if row == lowest:
      continue
    parts.append(_box(Place(decoder, y), 'up', level, level.decoder))
    arrows.append(svg.arrow(Place(encoder + WIDTH / 2, y), Place(decoder - WIDTH / 2, y)))
    middle = Place((encoder + decoder) / 2, y - 11)
    parts.append(svg.text(middle, shape.skip, svg.MUTED))
    if row == lowest - 1:
      start = Place(encoder + WIDTH / 2, y + ROW)
      arrows.append(
        f'<path d="M{start.x:g} {start.y:g}H{decoder:g}V{y + HEIGHT / 2:g}"/>'
        + svg.arrow_head(Place(decoder, y + HEIGHT / 2), 0, -1)
      )
    else:
      below = Place(decoder, y + ROW - HEIGHT / 2)
      arrows.append(svg.arrow(below, Place(decoder, y + HEIGHT / 2)))
  top = TOP - HEIGHT / 2
  arrows.append(svg.arrow(Place(encoder, top - 20), Place(encoder, top)))
  arrows.append(svg.arrow(Place(decoder, top), Place(decoder, top - 20)))
  parts.append(svg.text(Place(encoder, top - 29), 'image', svg.MUTED))
  parts.append(svg.text(Place(decoder, top - 29), 'classes', svg.MUTED))
  after = f'{shape.norm} norm; down by max pool, up by {UPS[shape.up]}'
  parts = [svg.title('Lean network', after), svg.lines(arrows), *parts]
  height = TOP + ROW * lowest + HEIGHT / 2 + 2
  return Picture(decoder + WIDTH / 2 + 2, height, parts, f'A lean network, {shape.title}')


def _box(middle: Place, kind: str, level: Level, count: int) -> str:
  frame = svg.tinted_box(middle, WIDTH, HEIGHT, 5, f'cell-{kind}', COLOURS[kind][0])
  words = f'{count} x {BLOCKS[level.block]}' if count else 'no convolution'
  name = svg.text(Place(middle.x, middle.y - 7), f'{level.width} channels', svg.BOLD)
  return frame + name + svg.text(Place(middle.x, middle.y + 8), words, 'font-size="10.5"')
