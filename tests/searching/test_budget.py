"""The best network below a limit against all networks there are; the penalty that leads there."""

import itertools
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from thrifty_jax import config as configs
from thrifty_jax import main as main_
from thrifty_jax import stages
from thrifty_jax.errors import InputError
from thrifty_jax.networks import build, genotype, grid, parameters
from thrifty_jax.networks.architecture import ArchitectureWeights, CellWeights
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.space import CELL_KINDS, Space, cell_count, edges_of, sources_of
from thrifty_jax.running import readiness
from thrifty_jax.searching import budget

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

DEFAULT = Space(1, 2, channels=32, depth=5, nodes=2, edges_per_node=2)


def draw(seed, space, *, ties=False):
  """Softmax weights; with ties a few eighths, whose products and sums are exact."""
  random = np.random.default_rng(seed)

  def share(size):
    return random.integers(1, 4, size) / 8 if ties else random.dirichlet(np.ones(size))

  def part(kind):
    counts = [len(space.candidates(kind, source)) for _, source in edges_of(space.nodes)]
    betas = [share(len(sources_of(node))) for node in range(space.nodes)]
    return CellWeights([share(count) for count in counts], np.concatenate(betas))

  gates = np.array([share(2) for _ in space.skippable]) if space.cell_path else None
  return ArchitectureWeights(part('down'), part('up'), gates)


def all_cells(kind, weights, space):
  """Every cell in listed order: (nodes, cost of its operations, score)."""
  scores = getattr(genotype.compute_scores(weights, space), kind)

  def all_nodes(node):
    sources = sources_of(node)
    for kept in itertools.combinations(sources, min(space.edges_per_node, len(sources))):
      for chosen in itertools.product(*(space.derivable(kind, source) for source in kept)):
        score = sum(scores[node, s][name] for s, name in zip(kept, chosen, strict=True))
        cost = sum(parameters.operation_cost(name, space.channels) for name in chosen)
        yield tuple(zip(kept, chosen, strict=True)), cost, score

  for nodes in itertools.product(*(list(all_nodes(node)) for node in range(space.nodes))):
    kept, costs, values = zip(*nodes, strict=True)
    yield kept, sum(costs), sum(values)


def all_paths(weights, space):
  """Every path, cells kept first, column by column: (skipped, score)."""
  gates = dict(zip(space.skippable, weights.gates, strict=True)) if space.cell_path else {}
  ordered = sorted(gates, key=lambda cell: (cell[1], cell[0]))
  for skips in itertools.product((0, 1), repeat=len(ordered)):
    skipped = [cell for cell, skip in zip(ordered, skips, strict=True) if skip]
    yield tuple(sorted(skipped)), sum(2 * gates[c][s] for c, s in zip(ordered, skips, strict=True))


class AllNetworks:
  """Every network of a small space, in listed order, with its count and its score."""

  def __init__(self, weights, space):
    self.downs, self.ups = (list(all_cells(kind, weights, space)) for kind in CELL_KINDS)
    self.paths = list(all_paths(weights, space))
    down, up = (np.array([cell[1] for cell in cells]) for cells in (self.downs, self.ups))
    bases = []
    for skipped, _ in self.paths:
      bare = Genotype(self.downs[0][0], self.ups[0][0], skipped)
      ups = cell_count('up', depth=space.depth) - len(skipped)
      downs = space.depth - 1
      base = parameters.count(bare, space) - downs * down[0] - ups * up[0]
      bases.append(base + downs * down[:, None] + ups * up[None])
    self.counts = np.stack(bases, axis=-1)
    values = [np.array([entry[-1] for entry in part]) for part in (self.downs, self.ups)]
    path = np.array([score for _, score in self.paths])
    self.scores = values[0][:, None, None] + values[1][None, :, None] + path

  def best(self, limit):
    """The first of those with the highest score below the limit, and that score."""
    scores = np.where(self.counts <= limit, self.scores, -np.inf)
    down, up, path = np.unravel_index(scores.argmax(), scores.shape)
    found = Genotype(self.downs[down][0], self.ups[up][0], self.paths[path][0])
    return found, scores.max()

  def score(self, found):
    """Of one of them."""
    places = [
      next(i for i, entry in enumerate(part) if entry[0] == kept)
      for part, kept in (
        (self.downs, found.down), (self.ups, found.up), (self.paths, found.skipped)
      )
    ]  # fmt: skip
    return self.scores[tuple(places)]


SPACES = {
  'one node, eight paths': Space(1, 2, 16, 4, nodes=1, edges_per_node=2, cell_path=True),
  'one node, 64 paths': Space(3, 4, 8, 5, nodes=1, edges_per_node=2, cell_path=True),
  'two nodes': Space(1, 2, 32, 3, nodes=2, edges_per_node=2),
  'two nodes, two paths': Space(2, 2, 6, 3, nodes=2, edges_per_node=2, cell_path=True),
  'chosen operations': Space(
    1, 2, 32, 4, 2, 2, True,
    ('se', 'none', 'conv_3x3', 'down_conv_3x3', 'down_max_pool', 'up_conv_3x3', 'up_sep_conv_3x3'),
  ),
}  # fmt: skip


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('name', SPACES)
def test_the_best_below_a_limit_is_what_trying_everything_finds(name, ties):
  space = SPACES[name]
  for seed in range(3):
    weights = draw(seed, space, ties=ties)
    every = AllNetworks(weights, space)
    assert budget.least(space) == every.counts.min()
    lowest, highest = every.counts.min(), parameters.count(genotype.derive(weights, space), space)
    limits = {int(lowest), *np.linspace(lowest, highest, 9).astype(int).tolist(), int(highest) - 1}
    for limit in sorted(limit for limit in limits if lowest <= limit < highest):
      found = budget.derive(weights, space, limit=limit)
      expected, score = every.best(limit)
      assert parameters.count(found, space) <= limit
      assert every.score(found) == pytest.approx(score, abs=1e-12)
      assert found == expected, (seed, limit)


def test_a_limit_that_is_kept_anyway_changes_nothing():
  for seed, ties in itertools.product(range(40), (False, True)):
    space = DEFAULT._replace(nodes=1 + seed % 3, cell_path=bool(seed % 2))
    weights = draw(seed, space, ties=ties)
    found = genotype.derive(weights, space)
    count = parameters.count(found, space)
    assert budget.derive(weights, space, limit=count) == found
    assert budget.derive(weights, space, limit=10**9) == found


def test_a_large_space_is_searched_for_every_limit_and_none_is_passed():
  space = Space(3, 2, 32, depth=6, nodes=4, edges_per_node=2, cell_path=True)
  for seed in range(3):
    weights = draw(seed, space)
    highest = parameters.count(genotype.derive(weights, space), space)
    counts = []
    for limit in np.linspace(budget.least(space), highest, 12).astype(int).tolist():
      found = budget.derive(weights, space, limit=limit)
      counts.append(parameters.count(found, space))
      assert counts[-1] <= limit
    assert len(set(counts)) == 12 and counts[-1] == highest


def test_the_smallest_network_of_the_default_space_has_95232_parameters():
  assert budget.least(DEFAULT) == 95_232
  assert budget.least(DEFAULT._replace(cell_path=True)) == 50_656 + 5 * 1_376
  found = budget.derive(draw(0, DEFAULT), DEFAULT, limit=95_232)
  net = grid.DerivedNetwork(found, 2)
  image = jax.ShapeDtypeStruct((1, 32, 32, 1), 'float32')
  assert build.count(jax.eval_shape(net.init, jax.random.key(0), image)['params']) == 95_232


def test_a_limit_that_no_network_keeps_is_refused_with_the_least_number():
  def require(config):
    readiness.require(stages.SEARCH, config, Path('none'))

  config = configs.default()
  for value, cell_path in ((0, False), (95_232, False), (57_536, True), (10**9, False)):
    config.search.max_parameters, config.search.cell_path = value, cell_path
    require(config)
  config.search.max_parameters, config.search.cell_path = 95_231, False
  with pytest.raises(InputError, match='max_parameters is 95231; .* or 95232 or more'):
    require(config)
  config.model.channels = 16  # of the network that is retrained, not of the supernet
  require(config)
  config.model.channels, config.data.context = 32, 1
  config.search.max_parameters = 95_232 + 2 * 49 * 32
  require(config)
  config.search.max_parameters -= 1
  with pytest.raises(InputError, match=str(95_232 + 2 * 49 * 32)):
    require(config)
  config.model.name = 'unet'  # nothing is searched
  require(config)


def test_the_command_with_such_a_limit_stops_before_any_scan_is_read(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(Path(__file__).resolve().parents[2])
  arguments = ['--config=configs/phantom.py', '--config.search.max_parameters=2']
  arguments += [f'--config.data.raw_dir={tmp_path}/none', f'--workdir={tmp_path}/run']
  assert main_.main(arguments) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: config.search.max_parameters is 2; expected')
  assert error.count('\n') == 1 and not list(tmp_path.iterdir())


def start(space):
  return grid.init_architecture(jax.random.key(0), nodes=space.nodes, gated=space.skippable)


def test_the_penalty_is_nothing_below_the_limit_and_the_log_of_the_excess_above():
  architecture = start(DEFAULT)
  expected = float(parameters.expected(architecture, DEFAULT))
  for share in (1.0, 1.5, 10):
    limit = math.ceil(share * expected)
    value, gradient = jax.value_and_grad(budget.penalty)(architecture, DEFAULT, limit=limit)
    assert float(value) == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))
  for share in (0.9, 0.5):
    value = budget.penalty(architecture, DEFAULT, limit=round(share * expected))
    excess = budget.PENALTY_WEIGHT * math.log(1 / share)
    assert float(value) == pytest.approx(excess, rel=1e-4)


@pytest.mark.parametrize('cell_path', [False, True])
def test_steps_on_the_penalty_alone_bring_the_expectation_below_the_limit(cell_path):
  space = DEFAULT._replace(cell_path=cell_path)
  optimizer = optax.adam(0.05, b1=0.5, b2=0.999)

  @jax.jit
  def step(architecture, state, limit):
    gradient = jax.grad(budget.penalty)(architecture, space, limit=limit)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(architecture, updates), state

  least, before = budget.least(space), float(parameters.expected(start(space), space))
  for share in (0.02, 0.3, 0.9):
    limit = round(least + share * (before - least))
    architecture: Any = start(space)
    state = optimizer.init(architecture)
    for _ in range(300):
      architecture, state = step(architecture, state, limit)
    after = float(parameters.expected(architecture, space))
    assert before > limit >= after > 0.9 * limit  # and no further than it has to
    weights = jax.device_get(grid.architecture_weights(architecture, nodes=space.nodes))
    assert parameters.count(budget.derive(weights, space, limit=limit), space) <= limit
