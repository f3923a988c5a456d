"""The picture of the cells of a genotype."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from thrifty_jax.drawings import drawing, svg
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype, space
from thrifty_jax.networks.genotype import Genotype, Scores
from thrifty_jax.networks.space import CELL_KINDS

SVG = '{http://www.w3.org/2000/svg}'
GENOTYPE = Genotype(
  down=(
    ((0, 'down_sep_conv_3x3'), (1, 'down_conv_3x3')),
    ((0, 'down_dil_conv_3x3'), (2, 'se')),
    ((1, 'down_avg_pool'), (2, 'identity'), (3, 'conv_3x3')),
  ),
  up=(((0, 'conv_3x3'), (1, 'up_dil_conv_3x3')), ((1, 'up_sep_conv_3x3'), (2, 'identity'))),
)


def parts(svg):
  """(texts, lines) of a picture, which must be well-formed."""
  root = ElementTree.fromstring(svg)
  texts = [''.join(text.itertext()) for text in root.iter(f'{SVG}text')]
  return texts, list(root.iter(f'{SVG}path'))


@pytest.mark.parametrize('kind', ['down', 'up'])
def test_every_state_and_operation_is_named_as_often_as_it_is_there(kind):
  cell = getattr(GENOTYPE, kind)
  texts, _ = parts(drawing.draw_cell(kind, cell).inline())
  states = ['in0', 'in1', *(f'node{i + 1}' for i in range(len(cell)))]
  operations = [operation for node in cell for _, operation in node]
  for name in (*states, *operations):
    assert texts.count(name) == [*states, *operations].count(name)
  assert any(text.startswith('output') for text in texts)


@pytest.mark.parametrize('kind', ['down', 'up'])
def test_each_edge_is_two_lines_and_each_node_leads_to_the_output(kind):
  cell = getattr(GENOTYPE, kind)
  _, lines = parts(drawing.draw_cell(kind, cell).inline())
  assert len(lines) == 2 * sum(map(len, cell)) + len(cell)


def boxes(svg, **wanted):
  """(x, y, width, height) of the boxes in a picture that have these attributes."""
  found = []
  for box in ElementTree.fromstring(svg).iter(f'{SVG}rect'):
    if all(box.attrib.get(name) == value for name, value in wanted.items()):
      found.append(tuple(float(box.attrib[name]) for name in ('x', 'y', 'width', 'height')))
  return found


def test_no_two_operations_overlap():
  places = {
    (x, y) for x, y, _, _ in boxes(drawing.draw_cell('down', GENOTYPE.down).inline(), rx='13')
  }
  assert len(places) == 7
  for x, y in places:
    beside = [other for other, row in places if row == y and other != x]
    assert all(abs(other - x) > drawing.PILL_WIDTH for other in beside)


def test_everything_lies_inside_the_picture():
  svg = drawing.draw_cell('down', GENOTYPE.down).inline()
  *_, width, height = map(float, ElementTree.fromstring(svg).attrib['viewBox'].split())
  for x, y, across, down in boxes(svg):
    assert 0 <= x <= width - across
    assert 0 <= y <= height - down


def test_both_cells_stand_in_one_picture():
  texts, lines = parts(drawing.draw_cells(GENOTYPE, {}).inline())
  assert any('Down cell' in text for text in texts) and any('Up cell' in text for text in texts)
  assert len(lines) == 2 * (7 + 4) + 5


def test_each_score_stands_below_its_operation_and_unknown_ones_nowhere():
  scores = {(0, 0): 0.25, (0, 1): 1.5, (1, 2): 0.125}
  svg = drawing.draw_cell('up', GENOTYPE.up, scores).inline()
  places = {text.text or '': text for text in ElementTree.fromstring(svg).iter(f'{SVG}text')}
  named = {'0.25': 'conv_3x3', '1.50': 'up_dil_conv_3x3', '0.12': 'identity'}
  assert [text for text in places if re.fullmatch(r'[\d.]+', text)] == list(named)
  for score, operation in named.items():
    assert places[score].attrib['x'] == places[operation].attrib['x']
    below = float(places[score].attrib['y']) - float(places[operation].attrib['y'])
    assert drawing.PILL_HEIGHT / 2 < below < drawing.ABOVE - drawing.PILL_HEIGHT / 2
  without, _ = parts(drawing.draw_cell('up', GENOTYPE.up).inline())
  assert not any(re.fullmatch(r'[\d.]+', text) for text in without)


def test_scores_are_read_from_the_file_where_it_has_them(tmp_path):
  nodes = len(GENOTYPE.up)
  found = Genotype(GENOTYPE.down[:nodes], GENOTYPE.up)
  rng = np.random.default_rng(0)
  down, up = (
    {
      (node, s): {name: rng.random() for name in space.derivable(space.resample_of(kind, s))}
      for node, s in space.edges_of(nodes)
    }
    for kind in CELL_KINDS
  )
  table = Scores(down, up)
  genotype.save(tmp_path / 'scored.json', found, scores=table)
  scores = drawing.edge_scores(tmp_path / 'scored.json')
  for kind in CELL_KINDS:
    kept = {
      (node, source): getattr(table, kind)[node, source][name]
      for node, edges in enumerate(getattr(found, kind))
      for source, name in edges
    }
    assert scores[kind] == pytest.approx(kept, abs=1e-6)
  genotype.save(tmp_path / 'plain.json', found)
  assert drawing.edge_scores(tmp_path / 'plain.json') == {'down': {}, 'up': {}}


@pytest.mark.parametrize('score', ['"high"', '[1]', 'true', '{}'])
def test_a_score_that_is_no_number_is_refused(tmp_path, score):
  path = tmp_path / 'genotype.json'
  genotype.save(path, Genotype(GENOTYPE.down[:1], GENOTYPE.up[:1]))
  edge = '"operation": "down_conv_3x3"'
  path.write_text(path.read_text().replace(edge, f'{edge}, "score": {score}'))
  with pytest.raises(InputError, match=r'down\[0\]\[1\].score is .*, expected a number'):
    drawing.edge_scores(path)


def test_every_operation_has_a_colour_on_light_and_dark_screens():
  light, dark = drawing.variables(), drawing.variables(dark=True)
  assert light.keys() == dark.keys()
  colours = {row.colour for row in space.OPERATIONS}
  assert {f'--op-{colour.name}' for colour in colours} == light.keys()
  assert len(light) == len(colours)  # two of one name would be one variable


def test_an_operation_that_is_not_in_the_table_cannot_be_drawn():
  with pytest.raises(ValueError, match="no operation '<b>'"):
    drawing.draw_cell('down', (((0, '<b>'), (1, 'down_conv_3x3')),))


def test_texts_are_escaped():
  texts, _ = parts(svg.note('<b>&"').inline())
  assert texts == ['<b>&"']


def test_no_two_operations_have_colours_that_are_close():
  for colours in (drawing.variables(), drawing.variables(dark=True)):
    values = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours.values()]
    assert len(values) == 9
    apart = [np.abs(np.subtract(a, b)).max() for a, b in itertools.combinations(values, 2)]
    assert min(apart) >= 40
