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
from thrifty_jax.cost.costs import Cost
from thrifty_jax.errors import InputError
from thrifty_jax.exporting import quantise
from thrifty_jax.networks import genotype, lean_space
from thrifty_jax.racing import choice, front, outcome, raced, timing
from thrifty_jax.reporting import raced_time
from thrifty_jax.run_files import COSTS, InEightBits, RaceCourse, Raced, Spread

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
  monkeypatch.setattr(raced.over_folds, 'read_scored', read_scored)
  monkeypatch.setattr(raced.over_folds, 'join_seeds', join_seeds)
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
  assert (told['validation_dsc'], told['threads']) == (best.validation_dsc, best.threads)
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
    *('validation_dsc', 'test_dsc', 'chosen', 'genotype', 'folder'),
  }
  assert all(needed <= {*one} for one in found)
  assert all(one['test_dsc'] is None for one in found)
  assert {one['name'] for one in found} == {folder.split('/')[0] for folder, _ in stands.trained}
  lost = [one for one in found if one['validation_dsc'] is None]
  assert lost and not any(one['chosen'] for one in lost)
  for one in found:
    assert (tmp_path / one['genotype']).is_file() and (tmp_path / one['folder']).is_dir()
  for one in found:
    del one['test_dsc']  # as of older versions
  files.write_json(tmp_path / 'search' / front.FILE, found)
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
  for one in scored:  # the card of its model reads the time there
    timed = raced_time.read(tmp_path / 'front' / 'genotypes' / f'{one.name}.json')
    assert one.space == 'thrifty' or (timed and (timed.ms, timed.runtime) == (one.ms, one.runtime))
    assert one.space == 'lean' or timed is None  # its cells may be made of another width
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


def test_a_full_training_that_diverges_has_no_test_score_and_stops_nobody(config, stands, tmp_path):
  config.front.rungs = 1
  stands.diverges = lambda found, epochs: epochs > 9 and found.skip == 'concat'
  found = front.front(config, tmp_path)
  full = {name.split('/')[0] for name, _ in full_trainings(stands)}
  scored = {one.name for one in found if one.test_dsc is not None}
  assert scored < full
  assert {one.title.split()[-1] for one in found if one.name in full - scored} == {'concat'}


# --- 8 bits


LOSS = 0.01
RULE = 'of validation DSC in 8 bits, which it is timed in, and counts with so much less'


@pytest.fixture
def eight(config, stands, monkeypatch):
  """Networks are faster in 8 bits, and lose in them what eight.loss says of a folder; listed."""
  config.cost.update({'runtime': 'onnxruntime', 'precision': 'all'})
  stands.ways = [('onnxruntime', 'float32', 1.0), ('onnxruntime', 'int8', 0.6)]
  eight: Any = types.SimpleNamespace(loss=lambda place: 0.0, scored=[])

  def score(places, *, tests):
    eight.scored.append((places, tests))
    loss = float(np.mean([eight.loss(place) for place in places]))
    return InEightBits(0.9 - loss, 0.6 if tests else None, validation_dsc_float=0.9)

  monkeypatch.setattr(outcome.eight_bits, 'score', score)
  monkeypatch.setattr(timing.runtimes, 'require_installed', lambda ways: None)
  return eight


def lose_if_best(workdir):
  """Returns the loss by which the network that a race in a workdir chose loses too much."""
  (name,) = {one.name for one in read(workdir, 'search') if one.knee}
  return lambda place: LOSS if f'/{name}/' in place.as_posix() else 0.0


def test_a_search_takes_8_bits_where_they_cost_nothing_and_scores_nobody_else(
  config, stands, eight, tmp_path, capsys
):
  config.search.max_ms = 20.0
  best = front.search(config, tmp_path)
  assert best.precision == 'int8' and best.int8_validation_dsc == 0.9
  (one,) = eight.scored
  assert one == ([tmp_path / best.folder / 'fold_0'], False)
  assert (tmp_path / best.folder / 'fold_0' / 'model').is_dir()
  assert RULE not in capsys.readouterr().out


@pytest.mark.parametrize('precision', ['all', 'int8'])
def test_a_network_counts_with_what_8_bits_leave_of_its_score(
  config, stands, eight, tmp_path, capsys, precision
):
  config.search.max_ms, config.cost.precision = 20.0, precision
  stands.ways = [way for way in stands.ways if precision in ('all', way[1])]
  first = front.search(config, tmp_path)
  eight.loss = lose_if_best(tmp_path)
  best = front.search(config, tmp_path)
  assert best.name != first.name and best.precision == 'int8' and best.ms <= 20
  assert f'{first.name} loses 1.00 points {RULE}' in capsys.readouterr().out
  (one,) = [one for one in read(tmp_path, 'search') if one.name == first.name]
  assert (one.ms, one.int8_validation_dsc) == (first.ms, 0.9 - LOSS)
  (told,) = json.loads((tmp_path / 'search' / front.COURSE).read_text())['choices']
  (one,) = [one for one in told['networks'] if one['name'] == first.name]
  assert one['dsc'] == pytest.approx((first.validation_dsc or 0) - LOSS)
  told = genotype.read_provenance(tmp_path / 'search' / 'genotype.json')
  assert (told['name'], told['ms'], told['precision']) == (best.name, best.ms, best.precision)


def test_where_8_bits_cost_all_networks_alike_the_best_stays_the_best(
  config, stands, eight, tmp_path
):
  config.search.max_ms = 20.0
  first = front.search(config, tmp_path)
  eight.loss = lambda place: LOSS
  assert front.search(config, tmp_path).name == first.name
  assert len(eight.scored) > 2  # the second one scores all that it would take


def test_a_front_counts_8_bits_before_and_after_the_full_trainings(
  config, stands, eight, tmp_path, capsys
):
  config.front.rungs = 1
  eight.loss = lambda place: LOSS if 'unet' in place.as_posix() else quantise.LOSS / 2
  found = front.front(config, tmp_path)
  full = [one for one in found if one.full]
  assert len(full) == sum(tests for _, tests in eight.scored)
  assert {one.source == 'unet' for one in full} == {True, False}
  for one in full:
    loss = LOSS if one.source == 'unet' else quantise.LOSS / 2
    assert (one.precision, one.int8_test_dsc) == ('int8', 0.6)
    assert one.int8_validation_dsc == pytest.approx(0.9 - loss)
  assert capsys.readouterr().out.count(RULE) >= sum(one.source == 'unet' for one in full)


def test_a_front_whose_full_trainings_all_diverge_chooses_by_the_race_and_its_8_bits(
  config, stands, eight, tmp_path
):
  config.front.rungs = 1
  stands.diverges = lambda found, epochs: epochs > 9
  found = front.front(config, tmp_path)
  assert any(one.chosen for one in found) and not any(one.full for one in found)
  assert all(one.int8_validation_dsc == 0.9 for one in found if one.chosen)


# --- what race.json tells


def choose_again(folder):
  """Chooses by race.json and costs.json alone, written the slow obvious way."""
  told, costs = (json.loads((folder / name).read_text()) for name in (front.COURSE, timing.COSTS))
  ms: dict[str, float] = {}
  for cost in costs:
    ms[cost['name']] = min(cost['ms'], ms.get(cost['name'], np.inf))
  started = {
    one['name']: one['dsc'] for group in told['rungs'][-1]['groups'] for one in group['started']
  }
  chosen, dsc = {}, {}
  for one in told['choices']:
    level = []
    if not told['full']:
      within = {name for name in started if ms[name] <= one['budget_ms']}
      assert within == {rival['name'] for rival in one['networks']}
    for rival in one['networks']:
      eight = told['in_8_bits'].get(rival['name'])
      loss = eight['validation_dsc_float'] - eight['validation_dsc'] if eight else 0
      if not told['full'] and rival['dsc'] is not None:
        lost = loss if loss > told['int8_dsc'] else 0
        assert rival['dsc'] == pytest.approx(started[rival['name']] - lost)
      assert rival['ms'] == ms[rival['name']] <= one['budget_ms']
      error = 0 if rival['error'] is None else rival['error']
      if rival['dsc'] is not None and rival['difference'] <= min(error, told['level_dsc']):
        level.append(rival['name'])
      dsc[rival['name']] = rival['dsc']
    if level:
      chosen[one['budget_ms']] = min(level, key=lambda name: ms[name])
    assert one['chosen'] == chosen.get(one['budget_ms'])
  least = max(dsc[name] for name in chosen.values()) - told['knee_dsc']
  return chosen, min((name for name in chosen.values() if dsc[name] >= least), key=ms.__getitem__)


@pytest.mark.parametrize('stage', ['search', 'front'])
@pytest.mark.parametrize('precision', ['all', 'int8'])
def test_the_choice_can_be_made_again_from_the_files_of_the_race(
  config, stands, eight, tmp_path, stage, precision
):
  config.front.update({'entrants': 8, 'folds': 2, 'budgets_ms': (0.01, 5.0, 10.0, 20.0)})
  config.cost.precision = precision
  stands.ways = [way for way in stands.ways if precision in ('all', way[1])]
  stands.diverges = lambda found, epochs: len(found.levels) == 5
  eight.loss = lambda place: LOSS * (len(place.relative_to(tmp_path).parts[1]) % 3 == 0)
  getattr(front, stage)(config, tmp_path)
  found = read(tmp_path, stage)
  chosen, knee = choose_again(tmp_path / stage)
  assert chosen == {budget: one.name for one in found for budget in one.budgets_ms}
  assert [knee] == [one.name for one in found if one.knee]
  assert 0.01 not in chosen and len({*chosen.values()}) > 1


def test_race_json_tells_who_started_each_rung_and_who_went_on(config, stands, tmp_path):
  config.front.update({'entrants': 8, 'rungs': 3, 'folds': 2, 'budgets_ms': (5.0, 20.0)})
  front.search(config, tmp_path)
  told = records.read(tmp_path / 'search' / front.COURSE, RaceCourse)
  costs = records.read(tmp_path / 'search' / COSTS, tuple[Cost, ...])
  ms = {cost.name: cost.ms for cost in costs}
  assert [rung.epochs for rung in told.rungs] == [1, 2, 4]
  trained = {tuple(folder.split('/')[:2]) for folder, _ in stands.trained}
  for number, rung in enumerate(told.rungs, start=1):
    started = [one for group in rung.groups for one in group.started]
    assert {(one.name, f'rung_{number}') for one in started} == {
      each for each in trained if each[1] == f'rung_{number}'
    }
    for group in rung.groups:
      names = [one.name for one in group.started]
      assert [one.dsc for one in group.started] == sorted(
        (one.dsc for one in group.started), key=lambda dsc: -(dsc or 0)
      )
      going = [] if number == 3 else names[: (len(names) + 1) // 2]
      assert list(group.kept) == going
      assert {*group.mutants.values()} <= {*going} and not {*group.mutants} & {*names}
      low, high = group.limits_ms
      assert all(low < ms[name] <= high == group.budget_ms for name in names)
      assert group.family in ('lean', 'unet')
  after = [{one.name for one in group.started} for group in told.rungs[1].groups]
  assert after == [{*group.kept, *group.mutants} for group in told.rungs[0].groups]
  assert any(group.mutants for group in told.rungs[0].groups)
  trained = {settings.data.validation_patients for _, settings in stands.trained}
  assert {fold.validation_patients for fold in told.folds} == trained
  assert [fold.test_patients for fold in told.folds] == [TEST, TEST] and not told.full
  assert (told.level_dsc, told.knee_dsc) == (choice.LEVEL, choice.KNEE)
