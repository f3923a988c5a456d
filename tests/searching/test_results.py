"""What a search leaves behind, with all operations or with chosen ones."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax import config as configs
from thrifty_jax import logbook
from thrifty_jax.networks import genotype, grid
from thrifty_jax.networks.space import edges_of, space_of
from thrifty_jax.searching import results
from thrifty_jax.searching.bilevel import SearchState
from thrifty_jax.searching.results import Progress

FEW = ('sep_conv_3x3', 'none', 'identity', 'down_conv_3x3', 'up_conv_3x3', 'up_sep_conv_3x3')


def test_weights_are_computed_of_copies_on_the_host(monkeypatch):
  config, seen = configs.default(), []
  whole = results.architecture_weights

  def watched(architecture, *, nodes):
    seen.extend(jax.tree.leaves(architecture))
    return whole(architecture, nodes=nodes)

  monkeypatch.setattr(results, 'architecture_weights', watched)
  results.derive(grid.init_architecture(jax.random.key(0), nodes=2, gated=()), config)
  assert seen and all(isinstance(leaf, np.ndarray) for leaf in seen)


@pytest.mark.parametrize('limit', [0, 170_000])
@pytest.mark.parametrize('chosen', [(), FEW])
def test_what_is_left_behind_has_the_chosen_operations_alone(chosen, limit, tmp_path):
  config = configs.default()
  config.search.operations, config.search.max_parameters = chosen, limit
  config.search.cell_path = True
  space = space_of(config)
  architecture = grid.init_architecture(
    jax.random.key(0), nodes=2, gated=space.skippable, operations=chosen
  )
  lists = results.weights_as_lists(architecture, config)
  assert list(lists) == ['down_alphas', 'down_betas', 'path_gates', 'up_alphas', 'up_betas']
  for kind in ('down', 'up'):
    counts = [len(space.candidates(kind, source)) for _, source in edges_of(2)]
    assert list(map(len, lists[f'{kind}_alphas'])) == counts
  log = logbook.Logbook(tmp_path)
  log.append({'epoch': 1, 'step': 3, 'architecture_dsc': 0.5, 'seconds': 2.0})
  state = SearchState(jnp.asarray(3), {}, architecture, (), ())
  progress = Progress(state, architecture, epoch=1, planned=(1,))
  saved = results.save(tmp_path, progress, config, log, seed=0)
  assert saved.genotype == results.derive(architecture, config)
  assert genotype.load(tmp_path / 'genotype.json') == saved.genotype
  assert saved.seconds == 2.0 and saved.figures.architecture_dsc == 0.5
  assert not limit or saved.figures.parameters <= limit
  names = {name for node in (*saved.genotype.down, *saved.genotype.up) for _, name in node}
  allowed = {name for kind in ('down', 'up') for s in range(3) for name in space.derivable(kind, s)}
  assert names <= allowed
  content = json.loads((tmp_path / 'genotype.json').read_text())
  assert content['provenance']['search']['operations'] == list(chosen)
  assert all(edge['score'] > 0 for node in content['down'] for edge in node)
