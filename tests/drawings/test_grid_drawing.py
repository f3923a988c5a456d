"""The picture of the grid of cells: who is there and who reads whom."""

import re
import xml.etree.ElementTree as ElementTree

import jax
import pytest

from thrifty_jax.draw import DEEPEST
from thrifty_jax.drawings import grid_drawing
from thrifty_jax.networks import genotype, grid, space

SVG = '{http://www.w3.org/2000/svg}'
CELL = re.compile(r'stem|encode|head|(down|up)_\d+_\d+')


def drawn(depth, skipped=()):
  """(texts, boxes, heads): name -> (x, y), name -> attributes of its box, tips of the arrows."""
  root = ElementTree.fromstring(grid_drawing.draw_grid(depth, skipped).inline())
  texts = {text.text or '': text for text in root.iter(f'{SVG}text')}
  places = {
    name: (float(t.attrib['x']), float(t.attrib['y']) - 4)
    for name, t in texts.items()
    if CELL.fullmatch(name)
  }
  boxes = {}
  for box in root.iter(f'{SVG}rect'):
    x, y, width, height = (float(box.attrib[name]) for name in ('x', 'y', 'width', 'height'))
    for name, place in places.items():
      if place == (x + width / 2, y + height / 2):
        boxes[name] = box.attrib
  heads = []
  for path in root.iter(f'{SVG}path'):
    if path.attrib.get('fill') == 'currentColor':
      tip = re.match(r'M([\d.]+) ([\d.]+)', path.attrib['d'])
      assert tip
      heads.append((float(tip[1]), float(tip[2])))
  return places, boxes, heads


def readers(places, heads):
  """Name -> number of arrows that end at its box."""
  half = (grid_drawing.WIDTH / 2, grid_drawing.HEIGHT / 2)
  return {
    name: sum(abs(hx - x) <= half[0] and abs(hy - y) <= half[1] for hx, hy in heads)
    for name, (x, y) in places.items()
  }


@pytest.mark.parametrize('depth', range(2, DEEPEST + 1))
def test_every_cell_is_there_once_and_reads_two(depth):
  places, boxes, heads = drawn(depth)
  kinds = [name.split('_')[0] for name in places]
  assert kinds.count('down') == space.cell_count('down', depth=depth)
  assert kinds.count('up') == space.cell_count('up', depth=depth) - 1  # the head is one
  assert len(set(places.values())) == len(places) == len(boxes)
  arrows = readers(places, heads)
  assert arrows.pop('stem') == 1 and arrows.pop('encode') == 1
  assert set(arrows.values()) == {2}


def test_the_names_are_those_of_the_modules():
  nodes = (((0, 'conv_3x3'), (1, 'up_conv_3x3')),)
  found = genotype.Genotype((((0, 'down_avg_pool'), (1, 'down_avg_pool')),), nodes)
  net = grid.DerivedNetwork(found, 2, channels=4, depth=4)
  image = jax.ShapeDtypeStruct((1, 16, 16, 1), 'float32')
  params = jax.eval_shape(net.init, jax.random.key(0), image)['params']
  assert set(drawn(4)[0]) == set(params) - {'classes'}


def test_a_skipped_cell_is_dashed_reads_nothing_and_its_left_neighbour_is_read_instead():
  skipped = ((1, 0), (2, 1), (1, 1))
  places, boxes, heads = drawn(5, skipped)
  arrows = readers(places, heads)
  dashed = {name for name, box in boxes.items() if 'stroke-dasharray' in box}
  assert dashed == {'up_1_0', 'up_2_1', 'up_1_1'}
  assert {name for name, count in arrows.items() if count == 0} == dashed
  # X[2, 0] would read X[1, 1], X[3, 0] X[2, 1]: both read X[0, 1].
  root = ElementTree.fromstring(grid_drawing.draw_grid(5, skipped).inline())
  x, y = places['down_0_1']
  top = (x + grid_drawing.WIDTH / 4, y - grid_drawing.HEIGHT / 2)
  starts = [path.attrib['d'] for path in root.iter(f'{SVG}path')]
  leave = [d for d in starts if d.startswith(f'M{top[0]:g} {top[1]:g}C')]
  ends = {tuple(map(float, d.split()[-2:])) for d in leave}
  feet = {(places[name][0], places[name][1] + 13) for name in ('up_2_0', 'up_3_0')}
  assert ends == feet


@pytest.mark.parametrize('depth', [2, 3, 5, 8])
def test_no_two_boxes_meet_and_all_lie_inside(depth):
  skipped = [(1, j) for j in range(depth - 2)]
  picture = grid_drawing.draw_grid(depth, skipped)
  root = ElementTree.fromstring(picture.inline())
  rects = {
    tuple(float(box.attrib[name]) for name in ('x', 'y', 'width', 'height'))
    for box in root.iter(f'{SVG}rect')
  }
  for x, y, width, height in rects:
    assert min(x, y) >= 0 and x + width <= picture.width and y + height <= picture.height
    for x1, y1, width1, height1 in rects - {(x, y, width, height)}:
      assert x + width <= x1 or x1 + width1 <= x or y + height <= y1 or y1 + height1 <= y


def test_the_key_explains_skipping_only_where_cells_are_skipped():
  assert 'skipped:' not in grid_drawing.draw_grid(4).inline()
  assert 'skipped:' in grid_drawing.draw_grid(4, [(1, 1)]).inline()


@pytest.mark.parametrize('cell', [(0, 1), (3, 0), (1, 2), (1, -1)])
def test_only_interior_cells_can_be_skipped(cell):
  with pytest.raises(ValueError, match='cannot be skipped at depth 4'):
    grid_drawing.draw_grid(4, [cell])
