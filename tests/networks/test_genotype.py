"""Deriving against brute force; genotype files read back, and refused when they are wrong."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax.errors import InputError
from thrifty_jax.networks import build, genotype, grid
from thrifty_jax.networks.architecture import ArchitectureWeights, CellWeights
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.space import CellKind, Space

SHIPPED = Path(genotype.__file__).parents[1] / 'genotypes' / 'thrifty_0.61m.json'

# The lists, and which stands where, once more: names and order are part of the file format.
DOWN = (
  'down_avg_pool',
  'down_max_pool',
  'down_conv_3x3',
  'down_dil_conv_3x3',
  'down_sep_conv_3x3',
  'down_se_conv_3x3',
)
UP = ('up_conv_3x3', 'up_dil_conv_3x3', 'up_sep_conv_3x3', 'up_se_conv_3x3')
NORMAL = ('identity', 'none', 'se', 'conv_3x3', 'dil_conv_3x3', 'sep_conv_3x3')
# kind -> candidates out of in0, in1, and every node
LISTS: dict[CellKind, tuple[tuple[str, ...], ...]] = {
  'down': (DOWN, DOWN, NORMAL),
  'up': (NORMAL, UP, NORMAL),
}


def candidates(kind, source):
  return LISTS[kind][min(source, 2)]


def edges_of(nodes):
  """(node, source) of every edge, in the order of the alphas: node 0 has two, node 1 three."""
  return [(node, source) for node in range(nodes) for source in range(node + 2)]


def a_space(nodes, *, edges_per_node=2, depth=5, **settings):
  return Space(1, 2, 32, depth, nodes, edges_per_node, **settings)


def draw(seed, *, nodes, ties):
  """Weights of both cells; with ties they are sixteenths and eighths, exact in a float."""
  random = np.random.default_rng(seed)

  def share(size):
    if ties:
      return random.integers(0, 4, size) / 16
    return random.dirichlet(np.ones(size))

  def cell(kind):
    alphas = [share(len(candidates(kind, source))) for _, source in edges_of(nodes)]
    return CellWeights(alphas, np.concatenate([share(node + 2) for node in range(nodes)]))

  return ArchitectureWeights(cell('down'), cell('up'))


def brute_force(kind, weights, *, nodes, edges_per_node):
  """All choices of edges, and of an operation on each: the first with the largest total."""
  index = {edge: i for i, edge in enumerate(edges_of(nodes))}
  cell = []
  for node in range(nodes):
    sources = range(node + 2)
    best, best_total = None, -1.0
    for kept in itertools.combinations(sources, min(edges_per_node, len(sources))):
      allowed = [[op for op in candidates(kind, source) if op != 'none'] for source in kept]
      for chosen in itertools.product(*allowed):
        total = 0.0
        for source, op in zip(kept, chosen, strict=True):
          names, i = candidates(kind, source), index[node, source]
          alpha = weights.alphas[i][names.index(op)]
          total += len(names) * alpha * weights.betas[i]
        if total > best_total:
          best, best_total = tuple(zip(kept, chosen, strict=True)), total
    cell.append(best)
  return tuple(cell)


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize(('nodes', 'edges_per_node'), [(1, 2), (2, 2), (2, 3), (3, 2)])
def test_deriving_finds_what_trying_everything_finds(nodes, edges_per_node, ties):
  for seed in range(60):
    weights = draw(seed, nodes=nodes, ties=ties)
    found = genotype.derive(weights, a_space(nodes, edges_per_node=edges_per_node))
    for kind in LISTS:
      part = getattr(weights, kind)
      expected = brute_force(kind, part, nodes=nodes, edges_per_node=edges_per_node)
      assert getattr(found, kind) == expected, (seed, kind)


def test_none_is_never_chosen_however_strong_it_is():
  weights = draw(0, nodes=2, ties=False)
  for kind in LISTS:
    for i, (_, source) in enumerate(edges_of(2)):
      names = candidates(kind, source)
      if 'none' in names:
        getattr(weights, kind).alphas[i] = np.eye(len(names))[names.index('none')]
  found = genotype.derive(weights, a_space(2, edges_per_node=3))
  chosen = [name for node in found.down + found.up for _, name in node]
  assert 'none' not in chosen
  # All others weigh nothing on these edges: the tie goes to the one listed first.
  assert dict(found.up[0])[0] == dict(found.up[1])[2] == dict(found.down[1])[2] == 'identity'


def test_ties_go_to_the_operation_and_the_state_that_are_listed_first():
  down, up = (
    CellWeights([np.full(len(candidates(kind, s)), 1 / 8) for _, s in edges_of(2)], np.full(5, 0.5))
    for kind in LISTS
  )
  found = genotype.derive(ArchitectureWeights(down, up), a_space(2))
  assert found.down == (((0, 'down_avg_pool'), (1, 'down_avg_pool')),) * 2
  # Of an up cell the edge from in1 has four candidates, not six: it scores less and goes.
  assert found.up[0] == ((0, 'identity'), (1, 'up_conv_3x3'))
  assert found.up[1] == ((0, 'identity'), (2, 'identity'))


def test_what_an_unfinished_search_holds_is_derived_just_as_well():
  architecture = grid.init_architecture(jax.random.key(3), nodes=2)
  weights = jax.device_get(grid.architecture_weights(architecture, nodes=2))
  found = genotype.derive(weights, a_space(2))
  for kind in LISTS:
    part = getattr(weights, kind)
    assert getattr(found, kind) == brute_force(kind, part, nodes=2, edges_per_node=2)


def test_a_score_is_the_number_of_candidates_times_both_weights_and_none_has_none():
  weights = draw(1, nodes=2, ties=False)
  for kind in LISTS:
    part = getattr(weights, kind)
    found = getattr(genotype.compute_scores(weights, a_space(2)), kind)
    assert list(found) == edges_of(2)
    for i, (node, source) in enumerate(edges_of(2)):
      names = candidates(kind, source)
      assert list(found[node, source]) == [name for name in names if name != 'none']
      for name, value in found[node, source].items():
        expected = len(names) * part.alphas[i][names.index(name)] * part.betas[i]
        assert value == pytest.approx(expected, abs=1e-12)


def test_the_operations_of_the_code_are_those_of_the_file_format():
  for kind in LISTS:
    for source in range(5):
      assert a_space(1).candidates(kind, source) == candidates(kind, source)


@pytest.mark.parametrize('nodes', [1, 2, 3])
def test_a_saved_genotype_is_read_back_the_same(tmp_path, nodes):
  for seed in range(10):
    weights = draw(seed, nodes=nodes, ties=False)
    found = genotype.derive(weights, a_space(nodes))
    scores = genotype.compute_scores(weights, a_space(nodes))
    genotype.save(tmp_path / 'g.json', found, scores=scores, provenance={'seed': seed})
    assert genotype.load(tmp_path / 'g.json') == found
    content = json.loads((tmp_path / 'g.json').read_text())
    assert content['provenance'] == {'seed': seed}
    (source, name), saved = found.down[0][0], content['down'][0][0]
    assert saved['source'] == f'in{source}' and saved['operation'] == name
    assert saved['score'] == pytest.approx(scores.down[0, source][name], abs=1e-6)


def test_the_order_of_edges_in_a_file_does_not_matter(tmp_path):
  content = json.loads(SHIPPED.read_text())
  for kind in LISTS:
    for node in content[kind]:
      node.reverse()
  (tmp_path / 'g.json').write_text(json.dumps(content))
  assert genotype.load(tmp_path / 'g.json') == genotype.load(SHIPPED)


def test_the_shipped_genotype_has_the_size_of_the_paper():
  found = genotype.load(SHIPPED)
  net = grid.DerivedNetwork(found, classes=2)
  image = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
  params = jax.eval_shape(net.init, jax.random.key(0), image)['params']
  assert build.count(params) == 605_280
  names = {kind: sorted(op for node in getattr(found, kind) for _, op in node) for kind in LISTS}
  assert sum('sep' in name for name in names['down']) == 1
  assert all(name.endswith('conv_3x3') for part in names.values() for name in part)
  assert 'not the authors' in json.loads(SHIPPED.read_text())['provenance']['source']


def with_gates(seed, *, depth, ties=False):
  """Weights with gates: keep and skip of every cell inside the grid."""
  random = np.random.default_rng(seed)
  count = (depth - 1) * (depth - 2) // 2
  gates = random.integers(1, 3, (count, 2)) / 4 if ties else random.dirichlet(np.ones(2), count)
  return draw(seed, nodes=1, ties=False)._replace(gates=gates)


@pytest.mark.parametrize('ties', [False, True])
def test_a_cell_is_skipped_where_its_gate_says_so_and_a_tie_keeps_it(ties):
  skipped = set()
  for seed in range(20):
    weights: Any = with_gates(seed, depth=5, ties=ties)
    found = genotype.derive(weights, a_space(1))
    cells = [(m, j) for m in range(1, 4) for j in range(4 - m)]
    gates = zip(cells, weights.gates, strict=True)
    assert found.skipped == tuple(cell for cell, (keep, skip) in gates if skip > keep)
    assert found.down == genotype.derive(weights._replace(gates=None), a_space(1)).down
    skipped.add(found.skipped)
  assert len(skipped) > 5


def test_gates_of_another_depth_are_no_gates_of_this_one():
  with pytest.raises(ValueError):
    genotype.derive(with_gates(0, depth=5), a_space(1, depth=4))


def test_the_path_of_cells_and_its_scores_are_kept_in_the_file(tmp_path):
  for seed in range(5):
    weights: Any = with_gates(seed, depth=4)
    found = genotype.derive(weights, a_space(1, depth=4))
    scores = genotype.compute_scores(weights, a_space(1, depth=4))
    genotype.save(tmp_path / 'g.json', found, scores=scores)
    assert genotype.load(tmp_path / 'g.json') == found
    content = json.loads((tmp_path / 'g.json').read_text())
    assert content['version'] == 2
    assert content['skipped'] == [list(cell) for cell in found.skipped]
    for entry, weight in zip(content['gates'], weights.gates, strict=True):
      assert [entry['keep'], entry['skip']] == pytest.approx(2 * weight, abs=1e-6)


def test_of_chosen_operations_the_best_is_derived_and_drawn_and_scores_count_them():
  chosen = ('sep_conv_3x3', 'none', 'conv_3x3', 'up_sep_conv_3x3', 'down_conv_3x3')
  space = a_space(2, operations=chosen)
  assert space.candidates('up', 0) == ('none', 'conv_3x3', 'sep_conv_3x3')
  assert space.derivable('up', 0) == ('conv_3x3', 'sep_conv_3x3')
  random = np.random.default_rng(0)

  def cell(kind):
    counts = [len(space.candidates(kind, source)) for _, source in edges_of(2)]
    return CellWeights([random.dirichlet(np.ones(count)) for count in counts], np.full(5, 0.5))

  for _ in range(20):
    weights = ArchitectureWeights(cell('down'), cell('up'))
    best = ('conv_3x3', 'sep_conv_3x3')[weights.up.alphas[0][1:].argmax()]
    assert genotype.derive(weights, space).up[0] == ((0, best), (1, 'up_sep_conv_3x3'))
    scores = genotype.compute_scores(weights, space)
    assert scores.up[0, 0]['conv_3x3'] == pytest.approx(3 * weights.up.alphas[0][1] * 0.5)
    assert scores.up[0, 1] == pytest.approx({'up_sep_conv_3x3': 0.5})
    drawn = genotype.draw(random, space)
    assert {name for node in (*drawn.down, *drawn.up) for _, name in node} < {*chosen}


def test_a_genotype_is_read_and_drawn_without_jax(tmp_path):
  code = (
    'import sys; from thrifty_jax import draw; from thrifty_jax.networks import genotype, space;'
    f'genotype.load({str(SHIPPED)!r});'
    f'draw.run(["--genotype={SHIPPED}", "--output={tmp_path}/picture.svg"]);'
    'sys.exit("jax" in sys.modules or "flax" in sys.modules)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'picture.svg').exists()


def test_a_file_without_a_path_keeps_every_cell_and_a_file_of_a_whole_grid_has_none(tmp_path):
  assert genotype.load(SHIPPED).skipped == ()
  genotype.save(tmp_path / 'g.json', genotype.load(SHIPPED))
  assert not {'skipped', 'gates'} & json.loads((tmp_path / 'g.json').read_text()).keys()


def test_skipped_cells_are_read_in_any_order(tmp_path):
  (tmp_path / 'g.json').write_text(json.dumps(shipped(skipped=[[2, 1], [1, 2], [2, 0]])))
  assert genotype.load(tmp_path / 'g.json').skipped == ((1, 2), (2, 0), (2, 1))


def shipped(**changes):
  return {**json.loads(SHIPPED.read_text()), **changes}


def with_edge(kind='down', node=0, index=0, **changes):
  """The shipped genotype with one edge changed; a value of None removes the entry."""
  content = shipped()
  edge = {**content[kind][node][index], **changes}
  content[kind][node][index] = {name: value for name, value in edge.items() if value is not None}
  return content


EDGE = {'source': 'in0', 'operation': 'down_conv_3x3'}
MALFORMED = {
  'an empty file': b'',
  'no JSON': b'down: in0',
  'cut off': json.dumps(shipped()).encode()[:-30],
  'binary': b'\xff\xfe\x00\x01',
  'a list': [],
  'a number': 3,
  'null': None,
  'an empty object': {},
  'another format': shipped(format='thrifty_jax.model'),
  'no format': {name: value for name, value in shipped().items() if name != 'format'},
  'a newer version': shipped(version=3),
  'a version in words': shipped(version='1'),
  'another space': shipped(space='wide'),
  'a lean network': shipped(space='lean'),
  'no version': {name: value for name, value in shipped().items() if name != 'version'},
  'no down': {name: value for name, value in shipped().items() if name != 'down'},
  'up is an object': shipped(up={}),
  'up is a text': shipped(up='up_conv_3x3'),
  'no nodes': shipped(down=[], up=[]),
  'too many nodes': shipped(down=[[EDGE]] * 17),
  'fewer nodes up than down': shipped(up=shipped()['up'][:1]),
  'a node is no list': shipped(down=[EDGE, EDGE]),
  'a node without edges': shipped(down=[[], shipped()['down'][1]]),
  'an edge is a text': shipped(down=[['in0'], shipped()['down'][1]]),
  'an edge is null': shipped(down=[[None], shipped()['down'][1]]),
  'no source': with_edge(source=None),
  'an unknown source': with_edge(source='in2'),
  'a source by number': with_edge(source=0),
  'a source that is a list': with_edge(source=['in0']),
  'a node reads itself': with_edge(node=0, source='node1', operation='conv_3x3'),
  'a node reads a later one': with_edge(node=0, source='node2', operation='conv_3x3'),
  'no operation': with_edge(operation=None),
  'an unknown operation': with_edge(operation='conv_5x5'),
  'none': with_edge(kind='up', operation='none'),
  'an operation that does not halve': with_edge(operation='conv_3x3'),
  'an operation of up cells': with_edge(operation='up_conv_3x3'),
  'an operation that doubles in0': with_edge(kind='up', index=0, operation='up_conv_3x3'),
  'an operation that keeps in1': with_edge(kind='up', index=1, operation='conv_3x3'),
  'an operation that is a list': with_edge(operation=['down_conv_3x3']),
  'an operation that is code': with_edge(operation='__import__("os").abort()'),
  'two edges from one state': with_edge(index=1, source='in0'),
  'skipped is an object': shipped(skipped={}),
  'skipped is a text': shipped(skipped='[1, 0]'),
  'a skipped cell is a number': shipped(skipped=[1, 0]),
  'a skipped cell of three numbers': shipped(skipped=[[1, 0, 0]]),
  'a skipped cell of one number': shipped(skipped=[[1]]),
  'a skipped cell of fractions': shipped(skipped=[[1.0, 0.5]]),
  'a skipped cell of truths': shipped(skipped=[[True, False]]),
  'a skipped down cell': shipped(skipped=[[0, 1]]),
  'a skipped column below 0': shipped(skipped=[[1, -1]]),
  'a skipped level beyond any grid': shipped(skipped=[[10**9, 0]]),
  'a cell that is skipped twice': shipped(skipped=[[1, 0], [1, 0]]),
}


@pytest.mark.parametrize('content', MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_file_is_refused_in_one_line_that_names_it(tmp_path, content):
  path = tmp_path / 'wrong.json'
  path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
  with pytest.raises(InputError) as caught:
    genotype.load(path)
  assert str(path) in str(caught.value)
  assert '\n' not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
  for path in (tmp_path / 'nothing.json', tmp_path):
    with pytest.raises(InputError, match='cannot read'):
      genotype.load(path)


def test_a_refusal_says_what_was_found_and_what_is_possible(tmp_path):
  path = tmp_path / 'wrong.json'
  path.write_text(json.dumps(with_edge(operation='conv_5x5')))
  with pytest.raises(
    InputError, match='down node1: operation .conv_5x5. is not possible'
  ) as caught:
    genotype.load(path)
  assert all(name in str(caught.value) for name in DOWN)


def test_a_genotype_can_be_a_static_argument():
  assert hash(genotype.load(SHIPPED)) == hash(genotype.load(SHIPPED))
  assert isinstance(genotype.load(SHIPPED), Genotype)
