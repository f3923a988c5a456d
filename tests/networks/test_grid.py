"""Supernet and derived networks: sizes, parameters, and what sampling does."""

import functools
import itertools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few_operations import FEW

from thrifty_jax.errors import InputError
from thrifty_jax.networks import build, grid
from thrifty_jax.networks.baselines import UNetPlusPlus, widths_of
from thrifty_jax.networks.genotype import Genotype, derive
from thrifty_jax.networks.space import (
  CELL_KINDS,
  Space,
  candidates,
  cell_count,
  edge_count,
  edges_of,
  resample_of,
  skippable_cells,
  sources_of,
  targets_of,
)

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

COSTS = {'identity': 0, 'pool': 0, 'se': 162, 'se_conv_3x3': 9442, 'sep_conv_3x3': 1376}
DENSE = 9280  # conv and dil_conv


def cost(kind):
  name = kind.removeprefix('down_').removeprefix('up_')
  return (
    COSTS['pool' if name.endswith('pool') else name] if name in COSTS or 'pool' in name else DENSE
  )


def genotype(choose, nodes=2, skipped=()):
  """The first two edges of every node, with choose(candidates) on each."""
  down, up = (
    tuple(
      tuple((s, choose(candidates(resample_of(kind, s)))) for s in (0, 1)) for _ in range(nodes)
    )
    for kind in CELL_KINDS
  )
  return Genotype(down, up, skipped)


def count(module, *inputs):
  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes['params']))


def operation_cost(structure):
  down, up = (
    sum(cost(op) for node in nodes for _, op in node) for nodes in (structure.down, structure.up)
  )
  return 4 * down + 11 * up


IMAGE = jnp.zeros((1, 32, 32, 1))
BLACK = (0.0,)


def quickly(function):
  """Compiled with few optimisations: half the wait."""
  return jax.jit(function, compiler_options={'xla_backend_optimization_level': 0})


@pytest.mark.parametrize('index', range(4))
def test_a_derived_network_has_the_parameters_of_the_table(index):
  structure = genotype(lambda kinds: [k for k in kinds if k != 'none'][index])
  expected = 80_096 + operation_cost(structure)
  assert count(grid.DerivedNetwork(structure, 2), IMAGE) == expected


def test_the_paper_network_has_605280_parameters():
  sep, conv, up = 'down_sep_conv_3x3', 'down_conv_3x3', 'up_conv_3x3'
  nodes = (((0, 'conv_3x3'), (1, up)),) * 2
  structure = Genotype(down=(((0, sep), (1, conv)), ((0, conv), (1, conv))), up=nodes)
  assert count(grid.DerivedNetwork(structure, 2), IMAGE) == 605_280


@pytest.mark.parametrize('nodes,depth,base', [(3, 5, 95_456), (2, 4, 57_952)])
def test_the_base_grows_with_nodes_and_depth(nodes, depth, base):
  # Up cells have a convolution on every edge out of in1; subtract them.
  structure = genotype(lambda kinds: kinds[0], nodes=nodes)
  cells = cell_count('up', depth=depth)
  got = count(grid.DerivedNetwork(structure, 2, depth=depth), IMAGE)
  assert got - cells * nodes * DENSE == base


@pytest.mark.parametrize(
  'classes,settings,expected',
  [
    (1, {'nested': False}, 7_759_521),
    (2, {'nested': False}, 7_759_554),
    (2, {'nested': False, 'widths': widths_of(8)}, 485_682),
    (2, {'nested': False, 'widths': widths_of(9)}, 614_558),
    (1, {'nested': True}, 9_041_601),
    (2, {'nested': True}, 9_041_634),
    (1, {'nested': True, 'deep_supervision': True}, 9_041_700),
    (2, {'nested': True, 'deep_supervision': True}, 9_041_832),
  ],
)
def test_a_baseline_has_the_parameters_of_its_paper_or_its_width(classes, settings, expected):
  assert count(UNetPlusPlus(classes, **settings), IMAGE) == expected


def test_the_supernet_has_200459_parameters():
  architecture = grid.init_architecture(jax.random.key(0), nodes=2)
  assert count(grid.Supernet(2), IMAGE, architecture) == 200_459


def some_architecture(nodes):
  """Architecture variables that derive to many different operations."""
  architecture = grid.init_architecture(jax.random.key(nodes), nodes=nodes)
  return jax.tree.map(lambda leaf: 1e3 * leaf, architecture)


def derived_from(architecture, *, nodes, edges_per_node):
  weights = jax.device_get(grid.architecture_weights(architecture, nodes=nodes))
  return derive(weights, Space(1, 2, 32, 5, nodes, edges_per_node))


# By depth; the least among them.
SIDES = {3: (40, 24), 4: (16, 32), 5: (32, 96), 6: (128, 64)}


@pytest.mark.parametrize('depth', SIDES)
@pytest.mark.parametrize('nodes', [1, 2, 3, 4])
def test_logits_have_the_size_of_the_image_everywhere_in_the_space(nodes, depth):
  image = jax.ShapeDtypeStruct((2, *SIDES[depth], 3), np.float32)
  expected = (2, *SIDES[depth], 4)
  common = {'channels': 8, 'depth': depth}
  architecture, key = some_architecture(nodes), jax.random.key(0)
  supernet = grid.Supernet(4, nodes=nodes, **common)
  logits, _ = jax.eval_shape(supernet.init_with_output, key, image, architecture)
  assert logits.shape == expected
  found = set()  # with one node there is one network
  for edges_per_node in (2, 3):
    one = derived_from(architecture, nodes=nodes, edges_per_node=edges_per_node)
    for cell in (one.down, one.up):
      assert [len(kept) for kept in cell] == [min(edges_per_node, n + 2) for n in range(nodes)]
    found.add(one)
  for one in found:
    derived = grid.DerivedNetwork(one, 4, **common)
    assert jax.eval_shape(derived.init_with_output, key, image)[0].shape == expected


def test_the_largest_network_of_the_space_runs():
  found = derived_from(some_architecture(4), nodes=4, edges_per_node=3)
  net = grid.DerivedNetwork(found, 3, channels=4, depth=6)
  image = np.random.default_rng(0).normal(size=(2, 65, 20, 1)).astype(np.float32)
  params = build.initialise(build.trace_shapes(net, image), seed=0)
  apply = jax.jit(functools.partial(build.apply, net, background=BLACK))
  logits = np.asarray(apply(params, image))
  assert logits.shape == (2, 65, 20, 3)
  assert np.isfinite(logits).all() and logits.std(axis=(1, 2)).min() > 0.01


def test_all_cells_skipped_leave_50656_parameters_and_four_up_cells_and_the_head():
  structure = genotype(lambda kinds: kinds[0], skipped=skippable_cells(5))
  expected = 50_656 + 5 * 2 * DENSE  # a convolution on both edges out of in1
  assert count(grid.DerivedNetwork(structure, 2), IMAGE) == expected


ALL_PATHS = [
  tuple(cell for cell, skip in zip(skippable_cells(5), skips, strict=True) if skip)
  for skips in itertools.product((False, True), repeat=6)
]


def kept_before(m, j, skipped):
  """The level of the nearest kept cell of the column at or to the left of X[m, j]."""
  while (m, j) in skipped:
    m -= 1
  return m


def slow_count(structure, *, channels, classes):
  """Parameters of a network of depth 5, layer by layer: kernels and two of each norm's channels."""
  C, nodes = channels, len(structure.down)

  def filtered(inputs, outputs, side=1):
    return inputs * outputs * side**2 + 2 * outputs

  def cell(tensors, kept):
    total = filtered(tensors * C, C) + filtered(nodes * C, C)
    return total + sum(filtered(C, C, 3) for node in kept for _, op in node if 'conv' in op)

  total = filtered(1, C, 7) + 2 * filtered(C, C, 3) + filtered(C, C)  # stem, residual block
  total += 4 * cell(1, structure.down)
  for k in range(1, 5):
    for j in range(5 - k):
      if (k, j) not in structure.skipped:
        read = {kept_before(m, j, structure.skipped) for m in range(k)}
        total += cell(len(read), structure.up)
  return total + cell(1, structure.up) + C * classes * 9


def test_each_of_the_64_paths_is_a_network_and_every_ninth_runs():
  image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 32, 1)), jnp.float32)
  built = set()
  for number, skipped in enumerate(ALL_PATHS):
    structure = genotype(lambda kinds: kinds[0], nodes=1, skipped=skipped)
    net = grid.DerivedNetwork(structure, 2, channels=4)
    logits, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), image)
    params = variables['params']
    assert build.count(params) == slow_count(structure, channels=4, classes=2)
    assert logits.shape == (1, 32, 32, 2)
    built.add(frozenset(params))
    if number % 9 == 0:  # with values, not compiled, as each is another program
      logits, _ = net.init_with_output(jax.random.key(0), image)
      assert jnp.isfinite(logits).all() and jnp.std(logits) > 0
  assert len(built) == len(ALL_PATHS) == 64


def test_whoever_would_read_a_skipped_cell_reads_the_nearest_kept_one_once():
  place = {(m, j): 1 + 10 * m + j for m in range(5) for j in range(5 - m)}  # told by their value
  for skipped in ALL_PATHS:
    read = {}

    def cell(kind, name, in0, in1, read=read):
      read[name] = [int(value) for value in in0[0, 0, 0]], int(in1[0, 0, 0, 0])
      if name == 'head':
        return in0
      m, j = map(int, name.split('_')[1:])
      side = in1.shape[1] // 2 if kind == 'down' else 2 * in1.shape[1]
      return jnp.full((1, side, side, 1), place[m, j], in1.dtype)

    class Grid(nn.Module):
      cell: Callable
      skipped: tuple
      classes, channels, depth = 2, 1, 5

      @nn.compact
      def __call__(self, image):
        return grid.run_grid(self, image, self.cell, skipped=self.skipped, deep_supervision=True)

    net = Grid(cell, skipped)
    logits, _ = net.init_with_output(jax.random.key(0), jnp.ones((1, 32, 32, 1)))
    assert logits.shape[0] == sum((k, 0) not in skipped for k in range(1, 5))
    ups = [(k, j) for k in range(1, 5) for j in range(5 - k) if (k, j) not in skipped]
    assert len(read) == 4 + len(ups) + 1
    for k, j in ups:
      left = sorted({kept_before(m, j, skipped) for m in range(k)})
      below = kept_before(k - 1, j + 1, skipped), j + 1
      expected = [place[m, j] for m in left], place[below]
      found = read[f'up_{k}_{j}']
      if j == 0:  # X[0, 0] is the residual block, not a cell
        expected, found = (expected[0][1:], expected[1]), (found[0][1:], found[1])
      assert found == expected, (skipped, k, j)


@pytest.mark.parametrize(('cell', 'depth'), [((1, 2), 4), ((2, 1), 4), ((3, 0), 4), ((1, 0), 2)])
def test_a_skipped_cell_that_the_depth_does_not_have_inside_is_refused(cell, depth):
  structure = genotype(lambda kinds: kinds[0], skipped=(cell,))
  message = rf'skips cell \[{cell[0]}, {cell[1]}\], .* at depth {depth}; expected a depth of'
  with pytest.raises(InputError, match=message):
    count(grid.DerivedNetwork(structure, 2, depth=depth), IMAGE)
  assert count(grid.DerivedNetwork(structure, 2, channels=4, depth=sum(cell) + 2), IMAGE)


def test_deep_supervision_stacks_all_levels():
  structure = genotype(lambda kinds: kinds[0])
  net = grid.DerivedNetwork(structure, 2, channels=4, depth=3, deep_supervision=True)
  logits, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), IMAGE)
  assert logits.shape == (2, 1, 32, 32, 2)


def test_deep_supervision_leaves_out_what_is_skipped():
  structure = genotype(lambda kinds: kinds[0], skipped=((1, 0), (1, 1)))
  settings = {'channels': 4, 'depth': 4, 'deep_supervision': True}
  net = grid.DerivedNetwork(structure, 2, **settings)
  logits, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), IMAGE)
  assert logits.shape == (2, 1, 32, 32, 2)  # X[2, 0] and X[3, 0]


def test_gates_are_drawn_by_name_and_only_where_there_are_some():
  without = grid.init_architecture(jax.random.key(0), nodes=2)
  assert without.gammas is None
  few, many = (
    grid.init_architecture(jax.random.key(0), nodes=2, gated=skippable_cells(depth))
    for depth in (3, 5)
  )
  jax.tree.map(np.testing.assert_array_equal, without, many._replace(gammas=None))
  gammas = np.asarray(many.gammas)
  assert gammas.shape == (6, 2)
  np.testing.assert_array_equal(few.gammas, gammas[:1])
  assert len(np.unique(gammas)) == 12 and 1e-4 < gammas.std() < 5e-3
  gates = grid.architecture_weights(many, nodes=2).gates
  np.testing.assert_allclose(jnp.sum(jnp.asarray(gates), -1), 1, rtol=1e-6)


def test_the_variables_of_a_candidate_do_not_depend_on_the_others():
  chosen = ('sep_conv_3x3', 'down_avg_pool', 'identity', 'up_se_conv_3x3', 'up_conv_3x3')
  every = grid.init_architecture(jax.random.key(0), nodes=2)
  few = grid.init_architecture(jax.random.key(0), nodes=2, operations=chosen)
  np.testing.assert_array_equal(few.down.betas, every.down.betas)
  np.testing.assert_array_equal(few.down.alphas[0], every.down.alphas[0][:1])
  np.testing.assert_array_equal(few.up.alphas[0], every.up.alphas[0][np.array([0, 5])])
  np.testing.assert_array_equal(few.up.alphas[1], every.up.alphas[1][np.array([0, 3])])


def test_gates_weigh_each_cell_against_the_one_to_its_left():
  net = grid.Supernet(2, channels=4, depth=4, nodes=1, cell_path=True, operations=FEW)
  cells = skippable_cells(4)
  key = jax.random.key(0)
  architecture = grid.init_architecture(key, nodes=1, gated=cells, operations=FEW)
  image = jax.random.normal(jax.random.key(1), (1, 16, 16, 1))
  params = build.initialise(build.trace_shapes(net, image, architecture), seed=0)
  plain = net.copy(cell_path=False)
  variables = architecture._replace(gammas=None)
  assert count(plain, image, variables) == build.count(params)

  @quickly
  def gated(gammas):
    return build.apply(net, params, image, architecture._replace(gammas=gammas), background=BLACK)

  @quickly
  def expected(keep):
    """The network without gates; a cell's output is mixed where it leaves the cell."""
    share = {f'up_{m}_{j}': keep[i] for i, (m, j) in enumerate(cells)}

    def mix(next_, arguments, keywords, context):
      out, name = next_(*arguments, **keywords), context.module.name
      if context.method_name != '__call__' or name not in share:
        return out
      left = arguments[0][..., -4:]  # in0 ends with the column's last cell
      return share[name] * out + (1 - share[name]) * left

    with nn.intercept_methods(mix):
      return build.apply(plain, params, image, variables, background=BLACK)

  whole = quickly(functools.partial(build.apply, plain, background=BLACK))(params, image, variables)
  np.testing.assert_allclose(gated(jnp.tile(jnp.array([60.0, -60]), (3, 1))), whole, atol=1e-5)
  outputs = [whole]
  for skips in [(0, 0, 1), (0, 1, 0), (1, 0, 1), (1, 1, 1)]:
    gammas = jnp.array([(-60.0, 60) if skip else (60.0, -60) for skip in skips])
    outputs.append(gated(gammas))
    np.testing.assert_allclose(outputs[-1], expected(1.0 - jnp.array(skips)), atol=1e-5)
  for one, other in itertools.combinations(outputs, 2):
    assert jnp.abs(one - other).max() > 1e-2
  gammas = jnp.array([(0.3, -0.5), (0.0, 1.0), (2.0, 1.0)])
  found = gated(gammas)
  np.testing.assert_allclose(found, expected(jax.nn.softmax(gammas)[:, 0]), atol=1e-5)


def test_gates_without_variables_for_them_are_refused_and_the_reverse():
  gated = grid.init_architecture(jax.random.key(0), nodes=2, gated=skippable_cells(3))
  plain = gated._replace(gammas=None)
  for cell_path, architecture in ((True, plain), (False, gated)):
    net = grid.Supernet(2, channels=8, depth=3, cell_path=cell_path)
    with pytest.raises(ValueError, match='cell_path=.*, but there are (no|some) gammas'):
      jax.eval_shape(net.init, jax.random.key(0), IMAGE, architecture)


def test_sides_that_the_depth_does_not_divide_are_refused():
  for net, inputs in (
    (grid.Supernet(2, channels=4, depth=3), (grid.init_architecture(jax.random.key(0), nodes=2),)),
    (UNetPlusPlus(2, nested=False, widths=(2, 2, 2, 2)), ()),
  ):
    with pytest.raises(ValueError, match=r'\(1, 8, 12, 1\); expected .* multiples of 8'):
      jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 12, 1)), *inputs)


def test_weights_of_candidates_and_of_incoming_edges_sum_to_one():
  architecture = grid.init_architecture(jax.random.key(0), nodes=3)
  weights = grid.architecture_weights(architecture, nodes=3)
  for part in (weights.down, weights.up):
    assert len(part.alphas) == edge_count(3) == 9
    for alpha in part.alphas:
      np.testing.assert_allclose(jnp.sum(alpha), 1, rtol=1e-6)
    for start, end in ((0, 2), (2, 5), (5, 9)):
      np.testing.assert_allclose(jnp.sum(part.betas[start:end]), 1, rtol=1e-6)


def test_every_derivable_edge_is_in_the_supernet():
  architecture = grid.init_architecture(jax.random.key(0), nodes=2)
  net = grid.Supernet(2, channels=8, depth=3)
  shapes = jax.eval_shape(net.init, jax.random.key(0), IMAGE, architecture)['params']
  for kind, node in itertools.product(CELL_KINDS, range(2)):
    for source in sources_of(node):
      stacked = shapes[f'{kind}_from_{source}']['operations']
      edges = len(targets_of(source, nodes=2))
      names = candidates(resample_of(kind, source))
      assert len(getattr(architecture, kind).alphas[edge_count(node) + source]) == len(names)
      for name in names:
        parameters = jax.tree.leaves(stacked.get(name, {}))
        assert bool(parameters) == ('conv' in name or name == 'se')
        for leaf in parameters:
          assert leaf.shape[:2] == (cell_count(kind, depth=3), edges)


@pytest.mark.parametrize(
  'chosen',
  [
    ('identity', 'down_avg_pool', 'up_sep_conv_3x3'),  # alone on their edges; some have no weights
    (
      'sep_conv_3x3',
      'none',
      'se',
      'down_conv_3x3',
      'down_max_pool',
      'up_conv_3x3',
      'up_se_conv_3x3',
    ),
  ],
)
def test_a_supernet_of_chosen_operations_is_the_whole_one_where_the_others_weigh_nothing(chosen):
  few = grid.Supernet(2, channels=8, depth=2, nodes=2, operations=chosen)
  whole = few.copy(operations=())
  image = jax.random.normal(jax.random.key(1), (1, 16, 16, 1))
  start = grid.init_architecture(jax.random.key(0), nodes=2, operations=chosen)
  architecture = jax.tree.map(lambda leaf: 1e3 * leaf, start)

  def spread(kind):
    part = getattr(architecture, kind)
    alphas = []
    for (_, source), own in zip(edges_of(2), part.alphas, strict=True):
      names, kept = (
        candidates(resample_of(kind, source)),
        candidates(resample_of(kind, source), chosen),
      )
      places = np.array([names.index(name) for name in kept])
      alphas.append(jnp.full(len(names), -1e9).at[places].set(own))
    return part._replace(alphas=tuple(alphas))

  same = architecture._replace(down=spread('down'), up=spread('up'))
  params = build.initialise(build.trace_shapes(whole, image, same), seed=0)
  own = build.initialise(build.trace_shapes(few, image, architecture), seed=0)
  for name, part in own.items():
    if '_from_' in name:  # nothing else, and alone those that have weights
      assert {*part['operations']} == {*params[name]['operations']} & {*chosen}
  assert {name for name in params if name not in own} == {
    name for name in params if '_from_' in name and not {*params[name]['operations']} & {*chosen}
  }
  found, expected = (
    quickly(functools.partial(build.apply, net, background=BLACK))(weights, image, variables)
    for net, weights, variables in ((few, own, architecture), (whole, params, same))
  )
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_channels_must_be_a_multiple_of_sample():
  architecture = grid.init_architecture(jax.random.key(0), nodes=2)
  net = grid.Supernet(2, channels=10, sample=4)
  with pytest.raises(ValueError, match='channels=10 is not a multiple of sample=4'):
    jax.eval_shape(net.init, jax.random.key(0), IMAGE, architecture)


def test_a_key_without_random_sampling_is_refused():
  architecture = grid.init_architecture(jax.random.key(0), nodes=2)
  net = grid.Supernet(2, channels=8, depth=3)
  with pytest.raises(ValueError, match="sampling='random'"):
    jax.eval_shape(net.init, jax.random.key(0), IMAGE, architecture, jax.random.key(1))


def random_with_first_channels(net, params, image, architecture):
  """What the definition gives without a key: no channel changes its place."""
  params = jax.tree.map(jnp.asarray, params)
  channels, sampled = net.channels, net.channels // net.sample
  # The shuffle of the default sampling, undone in the rows of every filter behind a node.
  place = [(q % sampled) * net.sample + q // sampled for q in range(channels)]
  undo = np.argsort(place)

  def permuted(path, leaf):
    names = [part.key for part in path]
    return leaf[:, :, undo] if names[-2:] == ['out', 'kernel'] else leaf

  moved = jax.tree_util.tree_map_with_path(permuted, params)
  return jax.jit(net.copy(sampling='shuffle').apply)(moved, image, architecture)


def test_random_sampling_depends_on_the_key_and_without_one_takes_the_first():
  net = grid.Supernet(2, channels=8, depth=2, nodes=1, sampling='random', operations=FEW)
  architecture = grid.init_architecture(jax.random.key(0), nodes=1, operations=FEW)
  image = jax.random.normal(jax.random.key(1), (1, 8, 8, 1))
  shapes = jax.eval_shape(net.init, jax.random.key(2), image, architecture)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)
  drawn = jax.jit(net.apply)
  first, second, again = (drawn(params, image, architecture, jax.random.key(i)) for i in (0, 1, 0))
  assert jnp.abs(first - second).max() > 1e-4
  np.testing.assert_array_equal(first, again)
  without = jax.jit(net.apply)(params, image, architecture)
  np.testing.assert_allclose(
    without, random_with_first_channels(net, params, image, architecture), atol=1e-5
  )
