"""What the stages that race leave: the network for a budget, the front, and its last scores."""

import json
import types
from typing import Any

import fake_race
import numpy as np
import pytest
from fake_race import TEST

from thrifty_jax import config as configs
from thrifty_jax import files, records
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype, lean_space
from thrifty_jax.racing import front
from thrifty_jax.run_files import Raced, Spread

CELLS = genotype.Genotype(
  down=(((0, 'down_max_pool'), (1, 'down_avg_pool')),),
  up=(((0, 'identity'), (1, 'up_conv_3x3')),),
)


@pytest.fixture
def stands(monkeypatch):
  """The race's stand-ins; scores on test patients are stand-ins too, and listed."""
  stands: Any = fake_race.Stands(monkeypatch)
  stands.scored = []

  def evaluate(config, place):
    stands.scored.append(place)
    place.joinpath('evaluate').mkdir()
    place.joinpath('evaluate', 'summary.json').write_text('{}')

  def join_seeds(scored):
    found = np.array([stands.test_dsc(one.place) for (one,) in scored])
    dsc = None if np.isnan(found).all() else Spread(float(found.mean()), None, None)
    return types.SimpleNamespace(mean=types.SimpleNamespace(dsc=dsc))

  stands.test_dsc = lambda place: np.full(len(TEST), 0.7)
  monkeypatch.setattr(front.evaluate, 'evaluate', evaluate)

  def read_scored(place):
    return types.SimpleNamespace(place=place, summary=types.SimpleNamespace(split=stands.split))

  stands.split = 'test'
  monkeypatch.setattr(front.over_folds, 'read_scored', read_scored)
  monkeypatch.setattr(front.over_folds, 'join_seeds', join_seeds)
  return stands


@pytest.fixture
def config():
  config = fake_race.make_config()
  config.front.budgets_ms = (10.0, 20.0)
  return config


def read(workdir, stage):
  return records.read(workdir / stage / front.FILE, tuple[Raced, ...])


# --- the network for a budget


def test_the_search_leaves_the_genotype_for_the_budget_and_where_it_came_from(
  config, stands, tmp_path, capsys
):
  config.search.max_ms = 20.0
  best = front.search(config, tmp_path)
  path = tmp_path / 'search' / 'genotype.json'
  found = genotype.load_any(path)
  assert found == genotype.load_any(tmp_path / best.genotype)
  assert fake_race.find_ms(found) == best.ms <= 20
  told = genotype.read_provenance(path)
  assert (told['search'], told['max_ms'], told['name']) == ('race', 20.0, best.name)
  assert told['validation_dsc'] == best.validation_dsc
  assert (best.chosen, best.budgets_ms, best.knee) == (True, (20.0,), True)
  assert files.read_json(path.with_name(front.BUDGETS)) == [20.0]
  lines = capsys.readouterr().out
  assert '20 ms (knee)' in lines and f'found     {best.name}, {best.title}' in lines


def test_without_a_budget_the_knee_of_the_front_is_found(config, stands, tmp_path):
  best = front.search(config, tmp_path)
  found = read(tmp_path, 'search')
  chosen = [one for one in found if one.chosen]
  assert [one.name for one in found if one.knee] == [best.name]
  assert {budget for one in chosen for budget in one.budgets_ms} == {10.0, 20.0}
  ms = {one.ms: one.validation_dsc or 0 for one in chosen}
  assert best.ms == min(one for one, dsc in ms.items() if dsc >= max(ms.values()) - 0.005)


def test_front_json_lists_all_that_raced_the_fastest_first_with_all_that_a_reader_needs(
  config, stands, tmp_path
):
  config.search.max_ms = 20.0
  stands.diverges = lambda found, epochs: len(found.levels) == 5
  front.search(config, tmp_path)
  found = json.loads((tmp_path / 'search' / front.FILE).read_text())
  assert [one['ms'] for one in found] == sorted(one['ms'] for one in found)
  needed = {
    *('name', 'space', 'parameters', 'macs', 'ms', 'runtime', 'precision', 'size'),
    *('validation_dsc', 'chosen', 'genotype', 'folder'),
  }
  assert all(needed <= {*one} for one in found)
  assert {one['name'] for one in found} == {folder.split('/')[0] for folder, _ in stands.trained}
  lost = [one for one in found if one['validation_dsc'] is None]
  assert lost and not any(one['chosen'] for one in lost)
  for one in found:
    assert (tmp_path / one['genotype']).is_file() and (tmp_path / one['folder']).is_dir()
  assert all(one.test_dsc is None for one in read(tmp_path, 'search'))


def test_a_damaged_or_removed_front_json_is_written_anew_and_nothing_trained(
  config, stands, tmp_path
):
  config.search.max_ms = 20.0
  first = front.search(config, tmp_path)
  content = (tmp_path / 'search' / front.FILE).read_bytes()
  count = len(stands.trained), len(stands.timed)
  (tmp_path / 'search' / front.FILE).write_text('{')
  assert front.search(config, tmp_path) == first
  assert (tmp_path / 'search' / front.FILE).read_bytes() == content
  assert count == (len(stands.trained), len(stands.timed))


@pytest.mark.parametrize('rungs', [1, 2])
def test_all_diverged_leaves_no_genotype(config, stands, tmp_path, rungs):
  config.front.rungs = rungs
  stands.diverges = lambda found, epochs: True
  with pytest.raises(InputError, match='every network diverged'):
    front.search(config, tmp_path)
  assert not (tmp_path / 'search' / 'genotype.json').exists()


# --- the whole front


def full_trainings(stands):
  return [(name, one) for name, one in stands.trained if '/full/' in name]


def test_the_best_of_each_budget_and_family_are_trained_in_full_and_scored_once(
  config, stands, tmp_path
):
  for name in ('mine', 'cells'):
    genotype.save(tmp_path / f'{name}.json', CELLS if name == 'cells' else lean_space.unet(4))
  config.front.genotypes = tuple(str(tmp_path / f'{name}.json') for name in ('mine', 'cells'))
  config.front.update({'seeds': 2, 'rungs': 1, 'channels': (8,)})
  config.evaluate.flips = True
  found = front.front(config, tmp_path)
  assert found == [*read(tmp_path, 'front')]
  assert files.read_json(tmp_path / 'front' / front.BUDGETS) == [10.0, 20.0]
  full = full_trainings(stands)
  names = {name.split('/')[0] for name, _ in full}
  assert {one.name for one in found if one.full} == names
  assert {one.name for one in found if one.chosen} <= names
  # Each family has its best within each budget, though slower ones of others are better.
  assert {one.source for one in found if one.name in names} >= {'unet', 'genotype'}
  assert len(full) == 2 * len(names) == len(stands.scored)
  assert {settings.seed for _, settings in full} == {0, 1}
  whole = configs.default().retrain
  assert {settings.retrain.epochs for _, settings in full} == {whole.epochs}
  assert {settings.data.test_patients for _, settings in full} == {()}  # the run's own split
  assert {settings.evaluate.flips for _, settings in full} == {False}  # as of the milliseconds
  scored = [one for one in found if one.test_dsc is not None]
  assert {one.name for one in scored} == names
  assert all(one.test_dsc == pytest.approx(0.7) for one in scored)
  count = len(stands.trained)
  assert front.front(config, tmp_path) == found
  assert (len(stands.trained), len(stands.scored)) == (count, len(full))  # nothing twice


def test_the_full_trainings_choose_for_each_budget(config, stands, tmp_path, monkeypatch):
  config.front.rungs = 1
  usual = fake_race.score

  def score(found, epochs):  # of full trainings the one of a faster network is better
    return usual(found, epochs) if epochs < 9 else 0.9 - usual(found, epochs) / 2

  monkeypatch.setattr(fake_race, 'score', score)
  found = front.front(config, tmp_path)
  full = {one.name: one for one in found if one.full}
  for budget in config.front.budgets_ms:
    (taken,) = (one for one in found if budget in one.budgets_ms)
    rivals = [one for one in full.values() if one.ms <= budget]
    assert taken.full_validation_dsc == max(one.full_validation_dsc or 0 for one in rivals)
  assert sum(one.knee for one in found) == 1 and all(one.full for one in found if one.chosen)


def test_test_scores_choose_nothing(config, stands, tmp_path):
  config.front.rungs = 1
  first = front.front(config, tmp_path / 'a')
  stands.test_dsc = lambda place: np.full(len(TEST), 0.99 if 'unet' in str(place) else 0.1)
  second = front.front(config, tmp_path / 'b')
  assert [one.test_dsc for one in first] != [one.test_dsc for one in second]
  picked = [(one.name, one.chosen, one.budgets_ms, one.knee) for one in first]
  assert picked == [(one.name, one.chosen, one.budgets_ms, one.knee) for one in second]


def test_scores_of_validation_patients_are_no_test_scores(config, stands, tmp_path):
  config.front.rungs = 1
  stands.split = 'validation'
  found = front.front(config, tmp_path)
  assert any(one.full for one in found) and all(one.test_dsc is None for one in found)


def test_given_networks_are_refused_by_the_search_which_cannot_choose_them(
  config, stands, tmp_path
):
  config.front.genotypes = ('mine.json',)
  with pytest.raises(InputError, match=r'front.genotypes is .*expected \(\) for the search,'):
    front.search(config, tmp_path)
  assert not stands.timed


def test_test_patients_of_whom_none_has_a_score_stop_nobody(config, stands, tmp_path):
  config.front.rungs = 1
  stands.test_dsc = lambda place: np.full(len(TEST), np.nan)
  found = front.front(config, tmp_path)
  assert any(one.full for one in found) and all(one.test_dsc is None for one in found)
  assert found == [*read(tmp_path, 'front')]


def test_scores_in_8_bits_are_those_of_the_weights(monkeypatch, tmp_path):
  models = []
  monkeypatch.setattr(front.model_folder, 'load', models.append)
  content = types.SimpleNamespace(SerializeToString=lambda: b'')
  monkeypatch.setattr(front.onnx_network, 'to_onnx', lambda member: content)
  monkeypatch.setattr(front.export_slices, 'open_run', lambda folder: None)
  quantised = types.SimpleNamespace(validation_dsc=0.7, test_dsc=0.6)
  monkeypatch.setattr(front.quantise, 'quantise_model', lambda *_: quantised)
  expected = {'int8_validation_dsc': 0.7, 'int8_test_dsc': 0.6}
  for count, weights in ((1, 'one'), (1, 'one'), (2, 'other')):
    checksums = {'sha256': {'weights.safetensors': weights}}
    files.write_json(tmp_path / 'model' / 'checksums.json', checksums)
    assert front._score_in_8_bits([tmp_path]) == pytest.approx(expected)
    assert len(models) == count
  records.write(tmp_path / front.EIGHT_BITS, front.InEightBits(0.7, 0.6))  # of an older version
  assert front._score_in_8_bits([tmp_path]) == pytest.approx(expected) and len(models) == 2


def test_a_full_training_that_diverges_has_no_test_score_and_stops_nobody(config, stands, tmp_path):
  config.front.rungs = 1
  stands.diverges = lambda found, epochs: epochs > 9 and found.skip == 'concat'
  found = front.front(config, tmp_path)
  full = {name.split('/')[0] for name, _ in full_trainings(stands)}
  scored = {one.name for one in found if one.test_dsc is not None}
  assert scored < full
  assert {one.title.split()[-1] for one in found if one.name in full - scored} == {'concat'}
