"""Counts of derived networks against the networks themselves; their expectation against a sum."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax.networks import build, grid, parameters
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.grid import DerivedNetwork
from thrifty_jax.networks.space import CELL_KINDS, Space, edge_count, skippable_cells, sources_of

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

DEFAULT = Space(1, 2, channels=32, depth=5, nodes=2, edges_per_node=2)


def random_genotype(random, space):
  """Any genotype of the space."""

  def node(kind, index):
    sources = sources_of(index)
    size = min(space.edges_per_node, len(sources))
    kept = sorted(random.choice(len(sources), size, replace=False).tolist())
    return tuple((source, str(random.choice(space.derivable(kind, source)))) for source in kept)

  down, up = (tuple(node(kind, i) for i in range(space.nodes)) for kind in CELL_KINDS)
  return Genotype(down, up, tuple(cell for cell in space.skippable if random.random() < 0.5))


def built(found, space, **settings):
  """Parameters of the network as it is built."""
  net = DerivedNetwork(
    found,
    space.classes,
    channels=space.channels,
    depth=space.depth,
    **settings,
  )
  image = jax.ShapeDtypeStruct((1, 2**space.depth, 2**space.depth, space.image_channels), 'float32')
  return build.count(jax.eval_shape(net.init, jax.random.key(0), image)['params'])


@pytest.mark.parametrize('seed', range(16))
def test_the_count_is_that_of_the_network_that_is_built(seed):
  random = np.random.default_rng(seed)
  space = Space(
    image_channels=int(random.integers(1, 7)),
    classes=int(random.integers(2, 6)),
    channels=int(random.choice([3, 8, 16, 20, 32, 48])),
    depth=3 + seed % 4,
    nodes=1 + seed // 4,
    edges_per_node=2 + seed % 3 % 2,
    cell_path=bool(seed % 5),
  )
  found = random_genotype(random, space)
  # Heads share their parameters; to trace them all takes long where the grid is deep.
  heads = space.depth < 5
  assert parameters.count(found, space) == built(found, space, deep_supervision=heads)


def test_the_count_reaches_the_extremes_of_the_space():
  def everywhere(pick):
    down, up = (
      tuple(tuple((s, pick(DEFAULT.derivable(kind, s))) for s in (0, 1)) for _ in range(2))
      for kind in CELL_KINDS
    )
    return Genotype(down, up)

  costs = functools.partial(parameters.operation_cost, channels=32)
  largest = everywhere(lambda names: max(names, key=costs))
  assert parameters.count(largest, DEFAULT) == 643_052
  cheapest = everywhere(lambda names: min(names, key=costs))
  # Of the five operations of an up cell only the one on in1 has parameters at all.
  assert parameters.count(cheapest, DEFAULT) == 80_096 + 11 * 2 * 1_376
  skipping = Genotype(cheapest.down, cheapest.up, skippable_cells(5))
  assert parameters.count(skipping, DEFAULT) == 50_656 + 5 * 2 * 1_376


@pytest.mark.parametrize(
  ('name', 'cost'),
  [('identity', 0), ('down_avg_pool', 0), ('se', 162), ('sep_conv_3x3', 1_376),
   ('up_sep_conv_3x3', 1_376), ('down_dil_conv_3x3', 9_280), ('down_se_conv_3x3', 9_442)],
)  # fmt: skip
def test_an_operation_costs_what_it_has_in_a_derived_network(name, cost):
  assert parameters.operation_cost(name, 32) == cost


def variables(space, seed, spread=1.5):
  """Architecture variables far from even."""
  start = grid.init_architecture(
    jax.random.key(0), nodes=space.nodes, gated=space.skippable, operations=space.operations
  )
  random = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(random.normal(0, spread, x.shape), 'float32'), start)


def softmax(x):
  return np.exp(np.asarray(x, float)) / np.exp(np.asarray(x, float)).sum()


def cells_drawn(kind, architecture, space):
  """Every cell that the draws may give, as (probability, cost of its operations)."""
  part, edges = getattr(architecture, kind), edge_count
  betas = np.asarray(part.betas)

  def draws(node, source):
    names = space.candidates(kind, source)
    logits = np.asarray(part.alphas[edges(node) + source], float)
    some = [i for i, name in enumerate(names) if name != 'none']
    chances = softmax(logits[some])
    return [(p, parameters.operation_cost(names[i], space.channels))
            for p, i in zip(chances, some, strict=True)]  # fmt: skip

  def node_draws(node):
    sources = sources_of(node)
    if len(sources) <= space.edges_per_node:
      yield from ((1.0, drawn) for drawn in [sources])
      return
    chances = softmax(betas[edges(node) : edges(node + 1)])
    for drawn in itertools.product(sources, repeat=space.edges_per_node):
      yield math.prod(chances[source] for source in drawn), drawn

  def outcomes(node):
    for chance, drawn in node_draws(node):
      for chosen in itertools.product(*(draws(node, source) for source in drawn)):
        yield chance * math.prod(p for p, _ in chosen), sum(cost for _, cost in chosen)

  for nodes in itertools.product(*(list(outcomes(node)) for node in range(space.nodes))):
    yield math.prod(p for p, _ in nodes), sum(cost for _, cost in nodes)


def paths_drawn(architecture, space):
  """Every path of cells, as (probability, skipped)."""
  cells = skippable_cells(space.depth)
  gammas = architecture.gammas if space.cell_path else np.zeros((0, 2))
  chances = [softmax(gamma) for gamma in gammas]
  for skips in itertools.product((0, 1), repeat=len(chances)):
    skipped = [cell for cell, skip in zip(cells, skips, strict=False) if skip]
    yield math.prod(c[skip] for c, skip in zip(chances, skips, strict=True)), tuple(skipped)


FEW = ('none', 'conv_3x3', 'identity', 'down_se_conv_3x3', 'up_conv_3x3', 'up_sep_conv_3x3')


@pytest.mark.parametrize('chosen', [(), FEW])
@pytest.mark.parametrize('cell_path', [False, True])
@pytest.mark.parametrize(('nodes', 'edges_per_node'), [(1, 2), (2, 2), (2, 3)])
def test_the_expectation_is_the_mean_over_all_that_may_be_drawn(
  nodes, edges_per_node, cell_path, chosen
):
  space = Space(2, 3, 5, 5, nodes, edges_per_node, cell_path, chosen)
  architecture = variables(space, seed=nodes)
  bare = random_genotype(np.random.default_rng(0), space._replace(cell_path=False))
  operations_of_bare = [
    sum(parameters.operation_cost(name, space.channels) for node in cell for _, name in node)
    for cell in (bare.down, bare.up)
  ]
  means = []
  for kind in CELL_KINDS:
    drawn = list(cells_drawn(kind, architecture, space))
    assert sum(p for p, _ in drawn) == pytest.approx(1)
    means.append(sum(p * cost for p, cost in drawn))
  expected = 0.0
  for chance, skipped in paths_drawn(architecture, space):
    # What a network has with these operations instead of its own; the mean cost of independent
    # parts may be put in for each path.
    count = parameters.count(Genotype(bare.down, bare.up, skipped), space)
    ups = 11 - len(skipped)
    count += 4 * (means[0] - operations_of_bare[0]) + ups * (means[1] - operations_of_bare[1])
    expected += chance * count
  assert float(parameters.expected(architecture, space)) == pytest.approx(expected, rel=1e-6)


def test_the_expectation_of_certain_choices_is_the_count_of_their_network():
  for seed in range(3):
    random = np.random.default_rng(seed)
    # With all edges kept no node draws the same edge twice.
    space = Space(1, 2, 16, depth=4, nodes=2, edges_per_node=3, cell_path=True)
    found = random_genotype(random, space)
    architecture = variables(space, seed, spread=0.0)
    for kind in CELL_KINDS:
      alphas = [np.zeros(a.shape, np.float32) for a in getattr(architecture, kind).alphas]
      for node, edges in enumerate(getattr(found, kind)):
        for source, name in edges:
          names = space.candidates(kind, source)
          alphas[edge_count(node) + source][names.index(name)] = 60
          if 'none' in names:
            alphas[edge_count(node) + source][names.index('none')] = 200  # never derived
      part = getattr(architecture, kind)._replace(alphas=tuple(map(jnp.asarray, alphas)))
      architecture = architecture._replace(**{kind: part})
    gammas = [(-30.0, 30.0) if c in found.skipped else (30.0, -30.0) for c in skippable_cells(4)]
    architecture = architecture._replace(gammas=jnp.asarray(gammas))
    expected = float(parameters.expected(architecture, space))
    assert expected == pytest.approx(built(found, space), abs=0.5)


def test_the_expectation_is_differentiated_as_finite_differences_have_it():
  space = DEFAULT._replace(cell_path=True)
  architecture = variables(space, seed=0)
  gradient = jax.grad(parameters.expected)(architecture, space)
  for seed in range(4):
    direction = variables(space, seed=1 + seed, spread=0.01)
    ahead, behind = (
      float(parameters.expected(jax.tree.map(move, architecture, direction), space))
      for move in (jnp.add, jnp.subtract)
    )
    slope = sum(map(jnp.vdot, *map(jax.tree.leaves, (gradient, direction))))
    assert float(slope) == pytest.approx((ahead - behind) / 2, rel=1e-2, abs=5)
  for leaf in jax.tree.leaves(gradient):
    assert np.abs(leaf).max() > 100  # every edge and every gate matters
