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
from thrifty_jax.racing import choice, front, timing
from thrifty_jax.run_files import InEightBits, RaceCourse, Raced, Spread

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
RULE = f'in 8 bits, more than {100 * quantise.LOSS:g}: it counts with'


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

  monkeypatch.setattr(front.eight_bits, 'score', score)
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


def test_a_network_that_8_bits_cost_too_much_is_not_found_by_its_time_in_them(
  config, stands, eight, tmp_path, capsys
):
  config.search.max_ms = 20.0
  first = front.search(config, tmp_path)
  eight.loss = lose_if_best(tmp_path)
  best = front.search(config, tmp_path)
  (one,) = [one for one in read(tmp_path, 'search') if one.name == first.name]
  assert (one.runtime, one.precision) == ('onnxruntime', 'float32')
  assert one.ms == pytest.approx(first.ms / 0.6) and one.int8_validation_dsc == 0.9 - LOSS
  line = f'{first.name} loses 1.00 points of validation DSC {RULE} {one.ms:.2f} ms in onnxruntime '
  assert f'{line}float32, not {first.ms:.2f} ms in 8 bits' in capsys.readouterr().out
  assert best.ms <= 20 and best.chosen
  assert best.name != first.name if one.ms > 20 else best.precision == 'float32'
  told = genotype.read_provenance(tmp_path / 'search' / 'genotype.json')
  assert (told['name'], told['ms'], told['precision']) == (best.name, best.ms, best.precision)


def test_no_network_within_a_budget_but_for_8_bits_that_cost_too_much_is_one_clear_line(
  config, stands, eight, tmp_path
):
  config.search.max_ms = 2.0
  stands.ways[1] = ('onnxruntime', 'int8', 0.1)
  eight.loss = lambda place: LOSS
  with pytest.raises(InputError, match=r'no network is within 2 ms in float32, and 8 bits cost'):
    front.search(config, tmp_path)
  assert not (tmp_path / 'search' / 'genotype.json').exists()
  count = len(stands.trained), len(stands.timed)
  config.cost.precision = 'int8'
  best = front.search(config, tmp_path)
  assert (best.precision, best.int8_validation_dsc) == ('int8', 0.9 - LOSS)
  assert count == (len(stands.trained), len(stands.timed))


def test_what_was_timed_in_8_bits_alone_counts_with_what_it_loses(config, stands, eight, tmp_path):
  config.search.max_ms, config.cost.precision = 20.0, 'int8'
  stands.ways = stands.ways[1:]
  first = front.search(config, tmp_path)
  eight.loss = lose_if_best(tmp_path)
  best = front.search(config, tmp_path)
  assert best.name != first.name and best.precision == 'int8'
  (told,) = json.loads((tmp_path / 'search' / front.COURSE).read_text())['choices']
  (one,) = [one for one in told['networks'] if one['name'] == first.name]
  assert one['dsc'] == pytest.approx((first.validation_dsc or 0) - LOSS)


def test_a_front_counts_8_bits_by_the_full_trainings_before_it_chooses(
  config, stands, eight, tmp_path, capsys
):
  config.front.rungs = 1
  eight.loss = lambda place: LOSS if 'unet' in place.as_posix() else quantise.LOSS / 2
  found = front.front(config, tmp_path)
  full = [one for one in found if one.full]
  assert len(full) == len(eight.scored) and all(tests for _, tests in eight.scored)
  for one in full:
    assert one.precision == ('float32' if one.source == 'unet' else 'int8')
    assert one.int8_validation_dsc == pytest.approx(
      0.9 - (LOSS if one.source == 'unet' else quantise.LOSS / 2)
    )
    assert one.int8_test_dsc == 0.6 and all(one.ms <= budget for budget in one.budgets_ms)
  assert {one.source == 'unet' for one in full} == {True, False}
  lost = [one.name for one in full if one.source == 'unet']
  assert capsys.readouterr().out.count(RULE) == len(lost)
  costs = records.read(tmp_path / 'front' / timing.COSTS, tuple[Cost, ...])
  for one in found:
    own = {cost.precision: cost.ms for cost in costs if cost.name == one.name}
    assert one.ms == own['float32' if one.name in lost else 'int8']


def test_a_budget_that_8_bits_alone_met_has_no_network_after_the_full_trainings(
  config, stands, eight, tmp_path, capsys
):
  config.front.update({'rungs': 1, 'budgets_ms': (2.0,)})
  stands.ways[1] = ('onnxruntime', 'int8', 0.1)
  eight.loss = lambda place: LOSS
  found = front.front(config, tmp_path)
  assert any(one.full for one in found) and not any(one.chosen for one in found)
  assert '2 ms: no network that was trained in full is within it' in capsys.readouterr().out
  told = records.read(tmp_path / 'front' / front.COURSE, RaceCourse)
  assert told.full and [one.chosen for one in told.choices] == [None]


# --- what race.json tells


def choose_again(folder):
  """Chooses by race.json and costs.json alone, written the slow obvious way."""
  told, costs = (json.loads((folder / name).read_text()) for name in (front.COURSE, timing.COSTS))
  ms: dict[str, float] = {}
  for cost in costs:
    eight = told['in_8_bits'].get(cost['name'])
    loses = eight and eight['validation_dsc_float'] - eight['validation_dsc'] > told['int8_dsc']
    ways = {one['precision'] for one in costs if one['name'] == cost['name']}
    if not (cost['precision'] == 'int8' and loses and 'float32' in ways):
      ms[cost['name']] = min(cost['ms'], ms.get(cost['name'], np.inf))
  chosen, dsc = {}, {}
  for one in told['choices']:
    level = []
    for rival in one['networks']:
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
      assert low < high == group.budget_ms and group.family in ('lean', 'unet')
  after = [{one.name for one in group.started} for group in told.rungs[1].groups]
  assert after == [{*group.kept, *group.mutants} for group in told.rungs[0].groups]
  assert any(group.mutants for group in told.rungs[0].groups)
  trained = {settings.data.validation_patients for _, settings in stands.trained}
  assert {fold.validation_patients for fold in told.folds} == trained
  assert [fold.test_patients for fold in told.folds] == [TEST, TEST] and not told.full
  assert (told.level_dsc, told.knee_dsc) == (choice.LEVEL, choice.KNEE)
