"""The race: stopped anywhere it ends alike, tests nobody, and a diverged network has lost."""

import dataclasses
import json
from typing import Any

import fake_race
import pytest
from fake_race import PATIENTS, TEST, count_macs

from thrifty_jax import stopping
from thrifty_jax.data import splits
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype, lean_space
from thrifty_jax.racing import entrants, short_trainings
from thrifty_jax.racing.field import Field
from thrifty_jax.racing.race import Race

BUDGETS = (20.0,)


@pytest.fixture
def stands(monkeypatch):
  return fake_race.Stands(monkeypatch)


@pytest.fixture
def config():
  return fake_race.make_config()


def run(config, workdir, *, budgets=BUDGETS, families=('lean', 'unet')):
  """Runs a race in the folder search/ of a workdir."""
  found = Race(config, workdir, workdir / 'search')
  found.run(budgets, families)
  return found


def outcome(found):
  """Returns all that a race came to."""
  scores = {name: (one.rung, one.scores) for name, one in found.standings.items()}
  groups = [(group.family, group.budget, group.names) for group in found.field.groups]
  return found.field.entrants, scores, groups, found.field.ms()


def test_groups_are_within_their_budgets_and_of_their_family(config, stands, tmp_path):
  config.front.rungs = 1
  found = run(config, tmp_path, budgets=(2.0, 20.0))
  # No U-Net is as fast as 2 ms.
  assert [(group.family, group.budget, len(group.names)) for group in found.field.groups] == [
    *(('lean', 2.0, 6), ('lean', 20.0, 6), ('unet', 20.0, 3)),
  ]
  ms = found.field.ms()
  for group in found.field.groups:
    low, high = group.limits
    assert all(low < ms[name] <= high for name in group.names)
    assert all((name[:4] == 'unet') == (group.family == 'unet') for name in group.names)


def test_half_of_a_budgets_networks_are_faster_if_asked_for_and_no_smaller_budget_has_them(
  config, stands, tmp_path
):
  config.front.entrants = 7
  field = Field(config, tmp_path / 'search')
  field.fill((5.0, 10.0), ('lean', 'unet'), spread=True)
  ms = field.ms()
  shares = {
    (group.family, group.budget): [ms[name] / group.budget for name in group.names]
    for group in field.groups
  }
  assert [*map(len, shares.values())] == [7, 2, 7, 4]  # no U-Net is much faster than 5 ms
  for (family, budget), of_group in shares.items():
    near = [share for share in of_group if share > 0.6]
    faster = [share for share in of_group if share <= 0.6]
    assert len(near) == (4 if (family, budget) == ('lean', 5.0) else len(of_group))
    assert all(share > 0.3 for share in faster)


def test_each_rung_keeps_the_better_half_adds_mutants_of_its_leaders_and_trains_twice_as_long(
  config, stands, tmp_path
):
  config.front.update({'entrants': 8, 'rungs': 3, 'folds': 2})
  found = run(config, tmp_path, budgets=(20.0,), families=('lean',))
  rungs = {}
  for folder, settings in stands.trained:
    name, rung, fold = folder.split('/')
    rungs.setdefault(rung, {}).setdefault(name, []).append((fold, settings.retrain.epochs))
  assert [len(names) for names in rungs.values()] == [8, 6, 4]
  for rung, epochs in (('rung_1', 1), ('rung_2', 2), ('rung_3', 4)):
    assert all(
      sorted(one) == [('fold_0', epochs), ('fold_1', epochs)] for one in rungs[rung].values()
    )
  ms = found.field.ms()
  mutants = [one for one in found.field.entrants.values() if one.name in rungs['rung_2']]
  for one in [one for one in mutants if one.source == 'mutant']:
    assert 0.6 * ms[one.parent] < ms[one.name] <= 20
  order = sorted(rungs['rung_1'], key=lambda name: -fake_race.score(shape(found, name), 1))
  assert {name for name in rungs['rung_2'] if '_2_' not in name[5:]} == {*order[:4]}
  parents = {one.parent for one in found.field.entrants.values() if one.source == 'mutant'}
  assert parents & {*order[:2]} == {*order[:2]}
  assert {*found.finalists()} == {*rungs['rung_3']}


def test_a_rung_that_would_train_no_longer_than_the_one_before_is_left_out(
  config, stands, tmp_path
):
  config.front.update({'entrants': 4, 'rungs': 3, 'folds': 1, 'steps': 1})
  found = run(config, tmp_path, budgets=(20.0,), families=('lean',))
  assert {folder.split('/')[1] for folder, _ in stands.trained} == {'rung_1'}
  assert len(found.finalists()) == len(stands.trained) == 4


def shape(found, name):
  return found.field.entrants[name].genotype


def test_a_race_trains_to_a_rate_of_0_and_scores_at_the_end_alone(config, stands, tmp_path):
  config.retrain.patience = 3
  run(config, tmp_path, budgets=(20.0,))
  for _, settings in stands.trained:
    retrain = settings.retrain
    assert (retrain.validate_every, retrain.patience) == (retrain.epochs, 0)
    assert retrain.warmup_epochs < retrain.epochs


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
  """What a race came to that nothing stopped, and its trainings."""
  with pytest.MonkeyPatch.context() as patch:
    stands = fake_race.Stands(patch)
    found = run(fake_race.make_config(), tmp_path_factory.mktemp('unbroken'))
    return outcome(found), stands


@pytest.mark.parametrize('place', [0, 1, 8, 10])
def test_a_race_that_was_stopped_in_a_training_ends_alike_and_trains_nothing_twice(
  place, config, stands, tmp_path, unbroken
):
  expected, whole = unbroken
  stands.stop = lambda count: count == place
  with pytest.raises(stopping.Stopped):
    run(config, tmp_path)
  assert len(stands.trained) == place
  stands.stop = lambda count: False
  assert outcome(run(config, tmp_path)) == expected
  assert [name for name, _ in stands.trained] == [name for name, _ in whole.trained]
  assert stands.timed == whole.timed


@pytest.mark.parametrize('place', [0, 12, 20])
def test_a_race_that_was_stopped_at_the_stopwatch_times_nothing_twice(
  place, config, stands, tmp_path, unbroken
):
  expected, whole = unbroken

  def stop(names):
    if len(stands.timed) >= place:
      raise stopping.Stopped(15)

  stands.measured = stop
  with pytest.raises(stopping.Stopped):
    run(config, tmp_path)
  stands.measured = lambda names: None
  assert outcome(run(config, tmp_path)) == expected
  assert stands.timed == whole.timed


def test_another_seed_draws_others(config, stands, tmp_path):
  config.front.update({'rungs': 1, 'entrants': 30})
  raced = []
  for config.seed in (0, 1):
    raced.append(run(config, tmp_path / str(config.seed)).field.entrants)
  assert raced[0]['cone_8'] == raced[1]['cone_8']
  drawn = [{one.genotype for one in of_one.values() if one.source == 'drawn'} for of_one in raced]
  assert drawn[0] and drawn[1] and not drawn[0] & drawn[1]


def test_a_folder_of_another_draw_is_refused(config, stands, tmp_path):
  config.front.rungs = 1
  found = run(config, tmp_path)
  genotype.save(found.field.path('cone_8'), lean_space.unet(4))
  with pytest.raises(InputError, match='cone_8.json: is another network'):
    run(config, tmp_path)


@pytest.mark.parametrize(
  ('steps', 'minutes', 'epochs'),
  [
    (1, 0, (1,)),
    (9, 0, (1, 2)),
    (13, 0, (1, 3)),
    (14, 0, (2, 3)),
    (90, 0, (10, 20)),
    (999, 0, (10, 20)),
    (999, 5, (50, 100)),  # of 3 s each, as its only line says
  ],
)
def test_steps_are_whole_epochs_at_most_those_of_a_full_training(
  config, stands, tmp_path, steps, minutes, epochs
):
  config.retrain.update({'epochs': 20, 'minutes': float(minutes)})
  config.front.steps = steps
  found = run(config, tmp_path)
  rungs = [(name.split('/')[1], one) for name, one in stands.trained if '/rung_' in name]
  trained = {rung: one.retrain.epochs for rung, one in rungs}
  assert trained == {f'rung_{rung}': count for rung, count in enumerate(epochs, start=1)}
  assert {one.rung for one in found.standings.values()} == {*range(1, len(epochs) + 1)}


# --- patients


def test_test_patients_are_in_no_fold_and_all_others_judge_at_most_once(config, stands, tmp_path):
  config.front.folds = 4
  found = run(config, tmp_path, budgets=(20.0,))
  for _, settings in stands.trained:
    assert settings.data.test_patients == TEST
    assert not {*settings.data.validation_patients} & {*TEST}
  judges = next(iter(found.finalists().values()))
  assert judges
  assert {*judges} == {*PATIENTS} - {*TEST}
  folds = short_trainings.list_folds(config, tmp_path)
  assert sum(len(fold['validation_patients']) for fold in folds) == len(judges)
  assert folds[0]['validation_patients'] == PATIENTS[1::5]  # those of the run's own split


def test_test_patients_are_those_of_the_run_where_not_everyone_has_every_class(
  config, stands, tmp_path, monkeypatch
):
  slices = short_trainings.open_slices(tmp_path, config)
  rare = {PATIENTS[number] for number in (0, 5, 10)}  # which the first fold would have by names
  cases = [
    dataclasses.replace(one, classes=(1, 2)[: 1 + (one.patient in rare)]) for one in slices.cases
  ]
  slices = dataclasses.replace(slices, cases=tuple(cases))
  monkeypatch.setattr(short_trainings, 'open_slices', lambda workdir, config: slices)
  tested = splits.assign(config, slices.classes_of_patients)['test']
  assert {*tested} != {*TEST}
  folds = short_trainings.list_folds(config, tmp_path)
  assert {fold['test_patients'] for fold in folds} == {tested}


def test_more_folds_than_the_patients_allow_are_refused_before_any_time(config, stands, tmp_path):
  config.front.folds = 5
  with pytest.raises(InputError, match='config.front.folds is 5; expected at most 4'):
    run(config, tmp_path)
  assert not stands.timed and not list(tmp_path.iterdir())
  config.front.folds = 4
  config.data.test_patients, config.data.validation_patients = PATIENTS[2:], PATIENTS[:1]
  with pytest.raises(InputError, match='1 patients train'):
    short_trainings.list_folds(config, tmp_path)


# --- trainings that diverge


def test_a_diverged_network_loses_and_costs_the_others_nothing(config, stands, tmp_path):
  stands.diverges = lambda found, epochs: len(found.levels) == 5
  found = run(config, tmp_path, budgets=(20.0,), families=('lean',))
  lost = {name for name, one in found.standings.items() if one.scores is None}
  assert lost
  assert all(
    found.standings[name].rung == 1 for name in lost if found.field.entrants[name].parent == ''
  )
  assert any(found.finalists().values())
  count = len(stands.trained)
  assert outcome(run(config, tmp_path, budgets=(20.0,), families=('lean',))) == outcome(found)
  assert len(stands.trained) == count  # also what diverged is not trained again


def test_half_of_all_go_on_even_if_the_other_half_diverged(config, stands, tmp_path):
  config.front.rungs = 2
  known = run(config, tmp_path / 'first', budgets=(20.0,), families=('lean',))
  names = [name for name, one in known.standings.items() if known.field.entrants[name].parent == '']
  worse = sorted(names, key=lambda name: fake_race.score(shape(known, name), 1))[:3]
  shapes = [shape(known, name) for name in worse]
  stands.diverges = lambda found, epochs: found in shapes
  found = run(config, tmp_path / 'second', budgets=(20.0,), families=('lean',))
  assert {*names} - {*worse} <= {*found.field.groups[0].names}


@pytest.mark.parametrize('rungs', [1, 2])
def test_all_diverged_is_one_clear_line(config, stands, tmp_path, rungs):
  config.front.rungs = rungs
  stands.diverges = lambda found, epochs: True
  with pytest.raises(InputError, match='every network diverged; lower retrain.learning_rate, .*8'):
    run(config, tmp_path)


def test_patients_without_a_class_in_any_mask_are_one_clear_line(
  config, stands, tmp_path, monkeypatch
):
  monkeypatch.setattr(short_trainings, 'read_scores', lambda places: {})
  with pytest.raises(InputError, match='no mask of a validation patient shows a class, so that'):
    run(config, tmp_path)


# --- limits


def test_limits_of_multiplications_and_parameters_hold_for_mutants_too(
  config, stands, tmp_path, capfd
):
  config.search.max_macs = 20_000_000
  found = run(config, tmp_path, budgets=(100.0,))
  assert 'config.search.max_macs: networks have at most 20,000,000;' in capfd.readouterr().out
  assert all(count_macs(shape(found, name)) <= 20_000_000 for name in found.standings)
  assert any(found.field.entrants[name].source == 'mutant' for name in found.standings)


@pytest.mark.parametrize(
  ('budget', 'limits', 'text'),
  [
    (0.001, {}, 'within 0.001 ms for a slice of 64 x 64 pixels in jax float32; the nearest'),
    (20.0, {'max_parameters': 10}, 'within 20 ms and max_parameters 10'),
    (20.0, {'max_macs': 99, 'max_parameters': 9}, 'and max_parameters 9 and max_macs 99'),
  ],
)
def test_a_budget_that_nothing_meets_is_refused_with_the_nearest(
  config, stands, tmp_path, budget, limits, text
):
  config.search.update(limits)
  with pytest.raises(InputError, match=text) as error:
    run(config, tmp_path, budgets=(budget,))
  timed = json.loads((tmp_path / 'search' / 'costs.json').read_text())
  nearest = min(timed, key=lambda one: one['ms'])
  assert f'{nearest["title"]}, takes {nearest["ms"]:.2f} ms, 1,000 param' in str(error.value)
  assert not stands.trained


def test_a_budget_below_every_network_beside_one_that_is_met_is_told(
  config, stands, tmp_path, capfd
):
  run(config, tmp_path, budgets=(0.001, 20.0))
  assert '0.001 ms: no network is as fast; the fastest takes' in capfd.readouterr().out


def test_a_given_network_races_once_though_it_has_a_known_form(config, stands, tmp_path):
  (known,) = (one for one in entrants.list_known() if one.name == 'cone_16')
  genotype.save(tmp_path / 'mine.json', known.genotype)
  config.front.genotypes = (str(tmp_path / 'mine.json'),)
  found = run(config, tmp_path, budgets=(20.0,), families=('lean', 'unet', 'genotype'))
  alike = [name for name in found.standings if shape(found, name) == known.genotype]
  assert alike == ['mine']


def test_all_given_networks_within_a_budget_race(config, stands, tmp_path):
  config.front.entrants = 2
  forms = {one.name: one.genotype for one in entrants.list_known()}
  given = {f'mine_{name}': forms[name] for name in ('cone_8', 'cone_16', 'wedge_8')}
  for name, shape in given.items():
    genotype.save(tmp_path / f'{name}.json', shape)
  config.front.genotypes = tuple(str(tmp_path / f'{name}.json') for name in given)
  found = run(config, tmp_path, budgets=(20.0,), families=('genotype',))
  assert {*given} <= {*found.standings}


def test_given_networks_within_no_budget_or_limit_are_named(config, stands, tmp_path, capfd):
  forms = {one.name: one.genotype for one in entrants.list_known()}
  given = {tmp_path / f'mine_{name}.json': forms[name] for name in ('cone_8', 'cone_64')}
  for path, shape in given.items():
    genotype.save(path, shape)
  config.front.genotypes = tuple(map(str, given))
  found = run(config, tmp_path, budgets=(20.0,), families=('genotype',))
  assert {*found.standings} == {'mine_cone_8'}
  (told,) = [line for line in capfd.readouterr().out.splitlines() if 'left out' in line]
  assert 'mine_cone_64, of ' in told and 'is not within a budget and the limits' in told


def test_every_narrow_unet_is_looked_at(config, stands, tmp_path):
  config.front.rungs = 1
  found = run(config, tmp_path, budgets=(5.0,), families=('unet',))
  (group,) = found.field.groups
  # The two lightest of all: they add, and have one convolution in the decoder and four levels.
  assert {*group.names} == {'unet_4_4_1_add_transposed', 'unet_4_4_1_add_nearest'}


def test_known_forms_far_below_a_budget_race_where_there_is_room(config, stands, tmp_path):
  config.front.update({'rungs': 1, 'entrants': 40})
  found = run(config, tmp_path, budgets=(6.0,), families=('lean',))
  (group,) = found.field.groups
  known = [name for name in found.field.entrants if found.field.entrants[name].source == 'known']
  low = [name for name in known if found.field.ms()[name] <= 3.6]
  assert low and {*low} <= {*group.names}


def test_a_budget_that_everything_meets_takes_what_there_is(config, stands, tmp_path):
  config.front.rungs = 1
  found = run(config, tmp_path, budgets=(1e6,))
  assert [len(group.names) for group in found.field.groups] == [6, 3]


def test_networks_that_halve_slices_too_often_take_no_part(config, stands, tmp_path):
  config.data.image_size = 16
  found = run(config, tmp_path, budgets=(20.0,))
  shapes: list[Any] = [one.genotype for one in found.field.entrants.values()]
  assert max(one.halvings for one in shapes) == 4
