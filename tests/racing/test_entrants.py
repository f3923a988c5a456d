"""The networks that may race: all different, all buildable, and found again by their files."""

import itertools
from typing import Any

import numpy as np
import pytest

from thrifty_jax import config as configs
from thrifty_jax.cost import candidates
from thrifty_jax.cost.candidates import MadeFor
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype, lean_space
from thrifty_jax.racing import entrants
from thrifty_jax.racing.entrants import Entrant

CELLS = genotype.Genotype(
  down=(((0, 'down_max_pool'), (1, 'down_avg_pool')),),
  up=(((0, 'identity'), (1, 'up_conv_3x3')),),
)
SKIPPING = genotype.Genotype(CELLS.down, CELLS.up, skipped=((3, 1),))


@pytest.fixture
def config():
  config = configs.default()
  configs.set_model(config, 'lean')
  return config


def take(pool, count):
  return [*itertools.islice(pool, count)]


def shapes(found) -> Any:
  return [one.genotype for one in found]


def test_names_and_shapes_of_all_that_start_are_different():
  found = [*entrants.list_known(), *entrants.list_unets()]
  assert len({one.name for one in found}) == len(found) == 8 * 6 + 7 * 16
  assert len({shape.effective for shape in shapes(found)}) == len(found)
  assert {one.source for one in found} == {'known', 'unet'}


def test_the_usual_unets_come_first():
  first = entrants.list_unets()[:7]
  assert [one.genotype for one in first] == [lean_space.unet(w) for w in (4, 6, 8, 12, 16, 24, 32)]


def test_draws_repeat_with_the_seed_and_none_is_known_or_drawn_twice():
  def draw(known):
    return take(entrants.draw(np.random.default_rng(3), known), 300)

  found = draw([])
  assert found == draw([])
  assert len({shape.effective for shape in shapes(found)}) == 300
  assert [one.name for one in found[:2]] == ['drawn_1', 'drawn_2']
  known = shapes(found[:5])
  assert not {*known} & {*shapes(draw(known))}


def test_mutants_know_their_parent_differ_from_all_known_ones_and_repeat():
  parent = entrants.list_known()[1]
  known = [parent.genotype]

  def mutate():
    return take(entrants.mutate(parent, 'cone_16_2', np.random.default_rng(1), known), 30)

  found = mutate()
  assert found == mutate()
  assert len({shape.effective for shape in shapes([*found, parent])}) == 31
  assert {(one.source, one.parent) for one in found} == {('mutant', 'cone_16')}
  assert found[0].name == 'cone_16_2_1'


def test_what_is_known_changes_no_name():
  parent = entrants.list_known()[1]
  for draw in (entrants.draw, lambda *more: entrants.mutate(parent, 'cone_16_2', *more)):
    found = take(draw(np.random.default_rng(1), [parent.genotype]), 30)
    known = shapes([parent, *found[3:12:2]])
    left = take(draw(np.random.default_rng(1), known), 25)
    assert left == [one for one in found if one.genotype not in known]


def test_a_given_lean_network_takes_part_once_and_cells_for_each_number_of_channels(
  config, tmp_path
):
  genotype.save(tmp_path / 'mine.json', lean_space.unet(4))
  genotype.save(tmp_path / 'cells.json', CELLS)
  config.front.genotypes = (str(tmp_path / 'mine.json'), str(tmp_path / 'cells.json'))
  assert entrants.list_given(config) == [
    Entrant('mine', 'genotype', lean_space.unet(4)),
    Entrant('cells_8', 'genotype', CELLS, 8),
    Entrant('cells_16', 'genotype', CELLS, 16),
  ]
  assert entrants.list_given(config)[1].title == 'cells, 8 channels'


def test_given_cells_that_need_a_deeper_grid_are_refused(config, tmp_path):
  genotype.save(tmp_path / 'deep.json', SKIPPING)
  config.front.genotypes, config.model.depth = (str(tmp_path / 'deep.json'),), 3
  with pytest.raises(InputError, match=r'deep.json skips cell \[3, 1\]'):
    entrants.list_given(config)


@pytest.mark.parametrize('name', ['cone_8', 'twice'])
def test_a_given_network_with_the_name_of_another_is_refused(config, tmp_path, name):
  for folder in ('a', 'b'):
    genotype.save(tmp_path / folder / f'{name}.json', lean_space.unet(4))
  paths = [str(tmp_path / folder / f'{name}.json') for folder in ('a', 'b')]
  config.front.genotypes = tuple(paths[name == 'cone_8' :])
  with pytest.raises(InputError, match=f"named '{name}', or may be; rename the file"):
    entrants.list_given(config)


@pytest.mark.parametrize('name', ['drawn_7', 'cone_16_2_1', 'drawn_7_2_1', 'cone_16_2_1_3_1'])
def test_a_given_network_with_a_name_that_a_race_gives_is_refused(config, tmp_path, name):
  genotype.save(tmp_path / f'{name}.json', lean_space.unet(4))
  config.front.genotypes = (str(tmp_path / f'{name}.json'),)
  with pytest.raises(InputError, match=f"named '{name}', or may be; rename the file"):
    entrants.list_given(config)


def test_mutations_end_where_a_small_network_has_no_other(monkeypatch):
  parent = entrants.list_known()[0]
  monkeypatch.setattr(entrants.lean_space, 'mutate', lambda shape, generator: lean_space.unet(4))
  found = [*entrants.mutate(parent, 'few', np.random.default_rng(0), [parent.genotype])]
  assert shapes(found) == [lean_space.unet(4)]


def test_the_settings_of_an_entrant_are_those_of_its_network(config, tmp_path):
  config.search.update({'max_ms': 5.0, 'max_macs': 7})
  before = config.copy_and_resolve_references()
  for name in ('a', 'b'):
    (tmp_path / f'{name}.json').touch()
  lean = entrants.configure(config, entrants.list_known()[0], tmp_path / 'a.json')
  cells = entrants.configure(config, Entrant('c_8', 'genotype', CELLS, 8), tmp_path / 'b.json')
  assert (lean.model.name, lean.genotype) == ('lean', str(tmp_path / 'a.json'))
  assert (cells.model.name, cells.model.channels) == ('thrifty', 8)
  assert (lean.search.max_ms, lean.search.max_macs) == (0.0, 0)
  # The usual rate of each space; a rate that the data set has of its own stays.
  assert (lean.retrain.learning_rate, cells.retrain.learning_rate) == (8e-3, 2e-3)
  assert config == before
  configs.validate(lean)
  configs.validate(cells)


def test_cells_race_with_the_norm_and_rate_of_the_config_and_lean_networks_with_their_own(
  config, tmp_path
):
  config = configs.apply_variants(config, 'thrifty,batch')
  (tmp_path / 'a.json').touch()
  lean = entrants.configure(config, entrants.list_known()[0], tmp_path / 'a.json')
  cells = entrants.configure(config, Entrant('c_8', 'genotype', CELLS, 8), tmp_path / 'a.json')
  assert (lean.model.norm, cells.model.norm) == ('none', 'batch')
  assert lean.retrain.learning_rate == cells.retrain.learning_rate == 8e-3
  configs.validate(lean)


@pytest.mark.parametrize(('norm', 'told'), [('none', {}), ('batch', {'norm': 'batch'})])
def test_a_file_says_where_a_network_came_from_and_what_it_is_made_for(
  norm, told, config, tmp_path
):
  config.data.update({'modalities': 2, 'context': 1, 'classes': ('background', 'a', 'b')})
  config.model.update({'depth': 4, 'norm': norm})
  path = tmp_path / 'cells_8.json'
  entrants.save(path, Entrant('cells_8', 'genotype', CELLS, 8), config)
  assert genotype.load_any(path) == CELLS
  provenance = genotype.read_provenance(path)
  assert provenance == {
    'source': 'genotype',
    genotype.MADE_FOR: {'modalities': 6, 'classes': 3, 'channels': 8, 'depth': 4} | told,
  }
  # Another machine times the very network that is trained here.
  (found,) = candidates.load([], [str(path)], size=32)
  settings = entrants.configure(config, Entrant('cells_8', 'genotype', CELLS, 8), path)
  assert MadeFor.of_config(settings) == MadeFor(6, 3, 8, 4, **told)
  own = candidates.of_config('cells_8', settings, CELLS).member
  assert found.member.module.norm == own.module.norm == told.get('norm', 'group')
  assert found.member.parameters == own.parameters
  assert found.member.spec.image_channels == own.spec.image_channels == 6


def test_a_file_that_is_made_for_nonsense_is_one_clear_line(config, tmp_path):
  path = tmp_path / 'a.json'
  genotype.save(path, lean_space.unet(4), provenance={genotype.MADE_FOR: {'classes': 0}})
  with pytest.raises(InputError, match='a.json: classes is 0, expected a whole number from 2'):
    candidates.load([], [str(path)], size=32)
