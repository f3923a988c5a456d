"""The pace of a race: its epochs fit into its minutes, and are the same after a stop."""

import dataclasses
import math
import time
import types

import fake_race
import pytest

from thrifty_jax import config as configs
from thrifty_jax import records
from thrifty_jax.errors import InputError
from thrifty_jax.logbook import Logbook
from thrifty_jax.racing import jobs, pace
from thrifty_jax.racing.jobs import Job
from thrifty_jax.racing.race import Race


@pytest.mark.parametrize(
  ('groups', 'expected'),
  [
    ([(8, True)], [16, 12, 8]),  # 8, 4 and 2 mutations, 3 and 1
    ([(4, False)], [8, 4, 2]),
    ([(8, True), (4, False)], [24, 16, 10]),
    ([(1, True)], [2, 2, 2]),
  ],
)
def test_the_trainings_of_each_rung_are_counted(groups, expected):
  assert pace.count_trainings(groups, rungs=3, folds=2) == expected


@pytest.fixture
def config():
  config = fake_race.make_config()
  config.front.update({'minutes': 10.0, 'workers': 2})
  return config


@pytest.fixture
def paced(monkeypatch):
  """Trainings of which an epoch takes 3 s, and all besides 5 s, of it 2 s the validation.

  The list has each measurement.
  """
  measured = []

  def measure(config, trial):
    measured.append(trial)
    return 3.0, 2.0, 5.0

  monkeypatch.setattr(pace, 'measure', measure)
  return measured


def find(config, folder, trainings=(12, 8), networks=('cone_8', 'cone_16')):
  return pace.find(
    config,
    folder,
    [],
    trainings=trainings,
    networks=networks,
    epoch_steps=9,
    began=time.monotonic() - 60,
  )


def test_the_epochs_fill_the_minutes_and_are_kept(config, paced, tmp_path):
  # Of 10 minutes one is over: 540 s, less 6 + 4 lots of two trainings and 5 s, are 163 epochs.
  found = find(config, tmp_path)
  first, second = found.epochs
  assert second in (2 * first - 1, 2 * first, 2 * first + 1)
  assert 163 - 6 - 2 * 4 < 6 * first + 4 * second <= 163
  assert find(config, tmp_path) == found
  assert len(paced) == 1


@pytest.mark.parametrize(
  ('minutes', 'trainings', 'text'),
  [
    (99.0, (12, 8), 'began for 10 minutes and 12 and 8 .*, and now it would be for 99 minutes'),
    (0.0, (12, 8), 'began for 10 minutes and 12 and 8 .*, and now it would be for 9 steps and 12'),
    (10.0, (12,), 'began for 10 minutes and 12 and 8 .*, and now it would be for 10 .* and 12 tr'),
  ],
)
def test_other_minutes_or_rungs_than_a_race_began_with_are_refused(
  config, paced, tmp_path, minutes, trainings, text
):
  find(config, tmp_path)
  config.front.minutes = minutes
  with pytest.raises(InputError, match=text):
    find(config, tmp_path, trainings)


def test_a_race_does_not_go_on_with_other_networks(config, paced, tmp_path):
  found = find(config, tmp_path)
  assert find(config, tmp_path, networks=('cone_16', 'cone_8')) == found
  with pytest.raises(InputError, match='other networks .*, which differ in cone_16, cone_24; go'):
    find(config, tmp_path, networks=('cone_8', 'cone_24'))
  path = tmp_path / pace.FILE
  records.write(path, dataclasses.replace(found, networks=()))  # by an older version
  with pytest.raises(InputError, match='other networks .*, which differ in cone_16, cone_8; go'):
    find(config, tmp_path)


def test_a_race_for_a_time_does_not_go_on_by_steps(config, paced, monkeypatch, tmp_path):
  fake_race.Stands(monkeypatch)
  config.front.workers = 1
  Race(config, tmp_path, tmp_path / 'search').run((20.0,), ('lean',))
  config.front.minutes = 0.0
  with pytest.raises(InputError, match='pace.json: this race began for a time, .* front.steps; go'):
    Race(config, tmp_path, tmp_path / 'search').run((20.0,), ('lean',))


def test_no_rung_trains_longer_than_a_full_training(config, paced, tmp_path):
  config.retrain.epochs = 10
  config.front.minutes = 60.0
  assert find(config, tmp_path / 'epochs', (12, 8, 4)).epochs == (2, 5, 10)
  config.retrain.minutes = 5.0  # 100 epochs
  assert 10 < max(find(config, tmp_path / 'minutes', (12, 8, 4)).epochs) <= 100


def test_a_training_left_over_takes_as_long_as_one_on_every_core(
  config, paced, tmp_path, monkeypatch
):
  config.retrain.minutes = 50.0
  monkeypatch.setattr(pace.executors, 'count_slots', lambda config: 12)
  first, second = find(config, tmp_path).epochs
  assert 540 - 3 * 3 <= 3 * first + 5 + 3 * second + 5 <= 540


@pytest.mark.parametrize(
  ('minutes', 'epochs'),
  [
    (2.0, (1,)),  # 60 s and 48 s; a second rung takes 44 s more
    (2.2, (2,)),  # 66 s
    (2.6, (1, 2)),
    (3.5, (2, 5)),  # 66 s and 80 s
  ],
)
def test_a_rung_trains_twice_as_long_as_the_one_before_or_there_is_none(
  minutes, epochs, config, paced, tmp_path, capfd
):
  config.front.minutes = minutes
  found = find(config, tmp_path)
  assert found.epochs == epochs
  assert ('1 rung, not 2' in capfd.readouterr().out) == (len(epochs) == 1)


def test_minutes_that_are_far_too_few_are_refused_with_what_is_needed(config, paced, tmp_path):
  config.front.minutes = 0.8
  with pytest.raises(
    InputError, match='12 trainings, of one epoch each, take about 2 minutes here'
  ):
    find(config, tmp_path)
  assert not [*tmp_path.iterdir()]
  config.front.minutes = 3.0
  assert find(config, tmp_path).epochs


def test_a_race_that_takes_somewhat_longer_goes_on_and_says_so(config, paced, tmp_path, capfd):
  config.front.minutes = 1.5
  assert find(config, tmp_path).epochs == (1,)
  assert '1.5 minutes are too few: it will take about 2' in capfd.readouterr().out


def test_a_race_trains_as_long_as_its_minutes_allow(config, paced, monkeypatch, tmp_path):
  stands = fake_race.Stands(monkeypatch)
  found = Race(config, tmp_path, tmp_path / 'search')
  monkeypatch.setattr(pace.executors, 'count_slots', lambda config: 1)
  found.run((20.0,), ('lean', 'unet'))
  trainings = [name for name, _ in stands.trained]
  counted = [sum(f'rung_{rung}' in name for name in trainings) for rung in (1, 2)]
  (trial,) = paced
  assert counted == pace.count_trainings([(6, True), (3, False)], rungs=2, folds=1)
  epochs = [settings.retrain.epochs for _, settings in stands.trained]
  whole = 3 * sum(epochs) + 5 * len(epochs)
  assert 10 * 60 - 3 * counted[0] - 5 < whole <= 10 * 60
  assert [job.config['retrain']['epochs'] for job in trial] == [pace.EPOCHS]


@pytest.mark.parametrize(
  ('full', 'seconds'),  # two epochs of 3 s and then four, each with a validation of 2 s
  [(5.0, [8, 14]), (0.2, [8, 12]), (0.05, [3])],
)
def test_before_full_trainings_for_a_time_those_of_a_rung_take_equally_long(
  config, paced, monkeypatch, tmp_path, capfd, full, seconds
):
  stands = fake_race.Stands(monkeypatch)
  config.front.update({'minutes': 0.0, 'workers': 1, 'steps': 18})
  config.retrain.minutes = full
  found = Race(config, tmp_path, tmp_path / 'search')
  found.run((20.0,), ('lean', 'unet'))
  assert [60 * rung.minutes for rung in found.rungs] == pytest.approx(seconds)
  for place, settings in stands.trained:
    assert settings.retrain.minutes == found.rungs['/rung_2/' in place].minutes
    assert settings.retrain.validate_every > 10_000
    assert settings.retrain.warmup_epochs == config.retrain.warmup_epochs
  lean = next(group for group in found.rungs[0].groups if group.family == 'lean')
  ms = [found.field.watch.best(one.name).ms for one in lean.started]
  assert sum(6 < one <= 12 for one in ms) == 3  # and as many are near the budget
  last = [one.length.minutes for one in found.standings.values() if one.rung == len(seconds)]
  assert {*last} == {found.rungs[-1].minutes}
  each = ' and '.join(f'{one} s' for one in seconds)
  told = capfd.readouterr().out
  assert f's for the race, {len(seconds)} rung' in told and f'of {each}\n' in told
  count = len(stands.trained)
  Race(config, tmp_path, tmp_path / 'search').run((20.0,), ('lean', 'unet'))
  assert (len(stands.trained), len(paced)) == (count, 1)


@pytest.mark.parametrize(
  ('name', 'value', 'text'),
  [
    ('front.steps', 9, 'began for 18 steps and .*, before full ones of 5 minutes, .* for 9 steps'),
    ('retrain.minutes', 7.0, 'full ones of 5 minutes, and now .*, before full ones of 7 minutes'),
  ],
)
def test_another_length_than_a_race_for_a_time_began_with_is_refused(
  config, paced, tmp_path, name, value, text
):
  config.front.update({'minutes': 0.0, 'steps': 18})
  config.retrain.minutes = 5.0
  find(config, tmp_path)
  config.update_from_flattened_dict({name: value})
  with pytest.raises(InputError, match=text):
    find(config, tmp_path)


def test_a_race_for_minutes_before_full_trainings_for_a_time_fits_into_them(
  config, paced, tmp_path
):
  config.retrain.minutes = 5.0
  found = find(config, tmp_path)
  first, second = (60 * found.find_length(one).minutes for one in found.epochs)
  # 6 and 4 lots of two trainings, each 3 s besides; a minute is over.
  assert 540 - 6 * 3 - 4 * 6 < 6 * (first + 3) + 4 * (second + 3) <= 540


def test_trainings_that_differ_in_their_pace_on_a_cluster_have_equally_many_epochs(
  config, paced, monkeypatch, tmp_path
):
  stands = fake_race.Stands(monkeypatch)
  config.front.update({'minutes': 0.0, 'cluster': 'host:8786'})
  config.retrain.minutes = 5.0
  monkeypatch.setattr(
    pace.jobs, 'run_all', lambda config, found, title, **more: [pace.jobs.run(job) for job in found]
  )
  found = Race(config, tmp_path, tmp_path / 'search')
  found.run((20.0,), ('lean', 'unet'))
  assert [rung.minutes for rung in found.rungs] == [0, 0] and not paced
  started = [one.name for group in found.rungs[0].groups for one in group.started]
  assert all(found.field.watch.best(name).ms > 12 for name in started)  # near the budget
  assert {settings.retrain.minutes for _, settings in stands.trained} == {0}


# --- without minutes


def test_what_is_left_takes_its_epochs_and_what_each_training_takes_besides(tmp_path, capsys):
  Logbook(tmp_path / 'retrain').append({'epoch': 1, 'step': 9, 'seconds': 3.0})
  job = Job({'retrain': {'epochs': 2}}, '', str(tmp_path))
  pace.foretell(job, 11.0, [(3, 2), (5, 4), (0, 200)], at_a_time=2)  # 5 s besides
  told = capsys.readouterr().out
  assert 'about 1 min 13 s more for 8 trainings, 2 at a time' in told  # 2 x 11 s and 3 x 17 s
  assert 'an epoch takes 3.0 s, and a training 5.0 s besides' in told
  pace.foretell(job, 11.0, [(0, 2)], at_a_time=2)  # none is left
  pace.foretell(Job(job.config, '', str(tmp_path / 'lost')), 11.0, [(3, 2)], at_a_time=2)
  assert capsys.readouterr().out == ''


def race_through(config, monkeypatch, folder, **more):
  """What a race prints of its pace, in which an epoch takes 3 s and nothing else time."""
  stands = fake_race.Stands(monkeypatch)
  monkeypatch.setattr(jobs, 'time', types.SimpleNamespace(monotonic=lambda: 0.0))
  printed = []
  monkeypatch.setattr(pace.logbook, 'say', lambda title, text='': printed.append((title, text)))
  found = Race(config, folder, folder / 'search')
  found.run((20.0,), ('lean', 'unet'), **more)
  told = [text.partition(',')[0] for title, text in printed if title in ('race', 'pace')]
  return told, found, stands


def test_the_first_training_of_each_rung_tells_how_long_the_rest_takes(
  config, monkeypatch, tmp_path
):
  config.front.update({'minutes': 0.0, 'workers': 1})
  told, found, stands = race_through(config, monkeypatch, tmp_path)
  # 6 lean networks and 3 U-Nets; then 3, a mutation, and 2, with twice as many epochs.
  assert told == [
    '15 trainings; the first one tells how long they take',
    'about 1 min 00 s more for 14 trainings',
    'about 30 s more for 5 trainings',
  ]
  first = stands.trained[0][0].partition('/')[0]
  started = {place.partition('/')[0] for place, _ in stands.trained if '/rung_1' in place}
  ms = {name: found.field.watch.best(name).ms for name in started}
  middle = math.sqrt(sum(one**2 for one in ms.values()) / len(ms))
  assert first == min(ms, key=lambda name: abs(ms[name] - middle))
  again, *_ = race_through(config, monkeypatch, tmp_path)
  assert again == told[:1]  # all is done


def test_full_trainings_that_follow_are_foretold_too(config, monkeypatch, tmp_path):
  config.front.update({'minutes': 0.0, 'workers': 1})
  config.retrain.epochs = 20
  told, *_ = race_through(config, monkeypatch, tmp_path, full=2)
  assert told[1] == 'about 5 min 00 s more for 18 trainings'  # 60 s, and 4 x 20 epochs


def test_a_race_for_minutes_foretells_nothing(config, paced, monkeypatch, tmp_path):
  config.front.workers = 1
  told, *_ = race_through(config, monkeypatch, tmp_path)
  assert [text for text in told if 'more' in text or 'first one' in text] == []


def test_the_pace_of_a_cluster_is_not_known(config):
  config.data.name = 'phantom'
  config.front.cluster = 'host:8786'
  with pytest.raises(InputError, match='front.minutes is 10.0; expected 0 with front.cluster'):
    configs.validate(config)
