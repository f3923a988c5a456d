"""The times of a race: taken once, estimated for the rest, or read from another machine's file."""

import dataclasses
import importlib.util
import math

import fake_race
import numpy as np
import pytest
from fake_race import count_macs, find_ms, make_cost

from thrifty_jax import records
from thrifty_jax.cost import __main__ as command
from thrifty_jax.cost import costs, machine, stopwatch
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype, lean_space
from thrifty_jax.racing import entrants, timing
from thrifty_jax.racing.entrants import Entrant
from thrifty_jax.racing.race import Race
from thrifty_jax.racing.timing import Stopwatch

KNOWN = entrants.list_known()


@pytest.fixture
def stands(monkeypatch):
  return fake_race.Stands(monkeypatch)


@pytest.fixture
def config():
  return fake_race.make_config()


def write(path, found):
  records.write(path, found)
  return path


# --- this machine's stopwatch


def test_each_network_is_timed_once_and_found_again(config, stands, tmp_path):
  watch = Stopwatch(config, tmp_path)
  watch.time(KNOWN[:3])
  watch.time(KNOWN[:5])
  assert stands.timed == [one.name for one in KNOWN[:5]]
  again = Stopwatch(config, tmp_path)
  again.time(KNOWN[:5])
  assert len(stands.timed) == 5
  assert (
    again.best(KNOWN[4].name)
    == watch.best(KNOWN[4].name)
    == make_cost(KNOWN[4].name, KNOWN[4].genotype)
  )


def test_the_best_way_counts(config, stands, tmp_path):
  config.cost.update({'runtime': 'onnxruntime', 'precision': 'all'})
  ways = [('float32', 4.0), ('int8', 3.0)]
  found = [
    make_cost('a', KNOWN[0].genotype, runtime='onnxruntime', precision=name, ms=ms)
    for name, ms in ways
  ]
  write(tmp_path / timing.COSTS, found)
  stands_in = pytest.MonkeyPatch()
  stands_in.setattr(timing.runtimes, 'require_installed', lambda ways: None)
  assert Stopwatch(config, tmp_path).best('a').precision == 'int8'
  write(tmp_path / timing.COSTS, found[:1])  # the settings changed meanwhile
  with pytest.raises(
    InputError, match='float32 and onnxruntime int8 of a, each once; set cost.run'
  ):
    Stopwatch(config, tmp_path)
  stands_in.undo()


def test_an_estimate_is_on_a_line_through_the_logarithms(config, stands, tmp_path):
  watch = Stopwatch(config, tmp_path)
  watch.time(KNOWN)
  other = Entrant('other', 'drawn', lean_space.unet(6))
  names = [one.name for one in KNOWN]
  # The stand-in's times are exactly on one: ms = (macs / 10^6) ^ 0.8.
  assert watch.estimate(other, names) == pytest.approx(find_ms(other.genotype))
  macs = [math.log(count_macs(one.genotype)) for one in KNOWN]
  assert np.polyfit(macs, [math.log(watch.best(name).ms) for name in names], 1)[0] > 0


def test_a_machine_that_is_too_busy_keeps_what_was_timed(config, stands, tmp_path):
  unets = entrants.list_unets()[:20]

  def measured(names):
    if stands.timed:
      clock = iter([0, 1, 1, 4] * 99)
      stopwatch.time_in_turns(
        {names[0]: lambda: None}, repeats=4, warm_up=0, most_spread=config.cost.spread,
        clock=lambda: next(clock),
      )  # fmt: skip

  stands.measured = measured
  with pytest.raises(InputError, match=r'too busy to time.*at most 0.25.*config.cost.spread'):
    Stopwatch(config, tmp_path).time(unets)
  assert len(records.read(tmp_path / timing.COSTS, tuple[costs.Cost, ...])) == timing.AT_ONCE
  stands.measured = lambda names: None
  Stopwatch(config, tmp_path).time(unets)
  assert stands.timed == [one.name for one in unets]


def test_a_name_with_a_dot_is_found_again(config, stands, tmp_path):
  given = [Entrant(name, 'genotype', lean_space.unet(4)) for name in ('lean_0.42m', 'lean_0.48m')]
  Stopwatch(config, tmp_path).time(given)
  for _ in range(2):
    Stopwatch(config, tmp_path).time(given)
  assert stands.timed == ['lean_0.42m', 'lean_0.48m']


def test_the_settings_of_the_stopwatch_are_those_of_the_config(
  config, stands, tmp_path, monkeypatch
):
  config.cost.update({'threads': 2, 'spread': 0.5, 'size': 128})
  asked = {}

  def measure(candidates, ways, **settings):
    asked.update(settings, ways=[(way.runtime, way.precision) for way in ways])
    return [make_cost(one.name, one.member) for one in candidates]

  monkeypatch.setattr(timing.costs, 'measure', measure)
  watch = Stopwatch(config, tmp_path)
  watch.time(KNOWN[:1])
  assert watch.size == 128
  assert (asked['threads'], asked['most_spread']) == (2, 0.5)
  assert asked['ways'] == [('jax', 'float32')]


def test_times_of_two_machines_are_not_mixed(config, stands, tmp_path, monkeypatch):
  Stopwatch(config, tmp_path).time(KNOWN[:2])
  monkeypatch.setattr(machine, 'describe', lambda: 'Another, 1 core')
  watch = Stopwatch(config, tmp_path)
  watch.time(KNOWN[:2])  # only trains here
  with pytest.raises(InputError, match='this machine is Another, 1 core; go on there, or remove'):
    watch.time(KNOWN[:3])


@pytest.mark.parametrize(
  ('content', 'text'),
  [
    ('{', 'costs.json is not valid JSON'),
    ('{}', 'costs.json: all of it is {}, expected a list'),
    ('[{"name": "a"}]', r'costs.json: \[0\].title is missing'),
  ],
)
def test_a_damaged_file_is_one_clear_line(config, stands, tmp_path, content, text):
  (tmp_path / timing.COSTS).write_text(content)
  with pytest.raises(InputError, match=text):
    Stopwatch(config, tmp_path)
  assert (tmp_path / timing.COSTS).read_text() == content


def test_a_missing_runtime_is_named_before_anything_is_timed(config, stands, tmp_path, monkeypatch):
  config.cost.runtime = 'onnxruntime'
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *more: None)
  with pytest.raises(InputError, match='needs onnx and onnxruntime.*requirements-export.txt'):
    Stopwatch(config, tmp_path)


@pytest.mark.parametrize(
  ('limits', 'allowed'),
  [
    ({}, True),
    ({'max_macs': 10}, True),
    ({'max_macs': 9}, False),
    ({'max_parameters': 999}, False),
  ],
)
def test_limits_are_inclusive_and_0_is_none(config, stands, tmp_path, limits, allowed):
  config.search.update(limits)
  cost = make_cost('a', KNOWN[0].genotype, macs=10)
  assert Stopwatch(config, tmp_path).allows(cost) == allowed


def test_networks_larger_than_unet_race_only_if_they_are_asked_for(config, stands, tmp_path):
  large = make_cost('a', KNOWN[0].genotype, parameters=timing.LARGEST + 1)
  assert not Stopwatch(config, tmp_path).allows(large)
  assert Stopwatch(config, tmp_path).allows(large, given=True)
  config.search.max_parameters = 2 * timing.LARGEST
  assert Stopwatch(config, tmp_path).allows(large)


def test_a_time_is_within_limits_up_to_the_second():
  cost = make_cost('a', KNOWN[0].genotype, ms=2.0)
  assert timing.within(cost, (1.0, 2.0)) and not timing.within(cost, (2.0, 3.0))


# --- another machine's times


@pytest.fixture
def elsewhere(config, stands, tmp_path):
  """A race by a file that is not there yet; the times that another machine finds; the file."""
  config.front.costs = str(tmp_path / 'phone.json')
  folder = tmp_path / 'run' / 'search'

  def race():
    found = Race(config, tmp_path / 'run', folder)
    found.run((20.0,), ('lean', 'unet'))
    return found

  def time_all(**changes):
    return [
      make_cost(str(path), genotype.load_any(path), machine='Phone', **changes)
      for path in sorted((folder / 'genotypes').glob('*.json'))
    ]

  return race, time_all, tmp_path / 'phone.json'


def test_a_file_that_is_not_there_yet_leaves_the_genotypes_and_the_command(elsewhere, tmp_path):
  race, time_all, path = elsewhere
  with pytest.raises(InputError) as error:
    race()
  line = str(error.value)
  assert '\n' not in line and 'start again with the same command' in line
  found = [one.stem for one in (tmp_path / 'run' / 'search' / 'genotypes').iterdir()]
  names = [*('cone_8', 'drawn_1', 'drawn_40', 'unet_4_5_2_concat_transposed')]
  assert {*names} <= {*found} and len(found) == 48 + 40 + 38 == len(time_all())
  assert f'search/genotypes has {len(found)} networks, and {path} is not there yet' in line
  # The command is one that thrifty_jax.cost takes.
  words = line.partition('python -m thrifty_jax.cost ')[2].partition(';')[0].split()
  values = command.read(words)
  assert (values.size, values.threads, values.runtime) == (64, 1, 'jax')
  assert (values.genotypes, values.output) == ('genotypes', 'phone.json')


def test_the_race_goes_by_the_times_of_the_other_machine_alone(elsewhere, stands, config):
  race, time_all, path = elsewhere
  with pytest.raises(InputError):
    race()
  slower = [dataclasses.replace(cost, ms=3 * cost.ms) for cost in time_all()]
  write(path, slower)
  found = race()
  assert not stands.timed
  assert all(found.field.watch.best(name).machine == 'Phone' for name in found.field.entrants)
  for group in found.field.groups:
    assert all(8 < 3 * find_ms(found.field.entrants[name].genotype) <= 20 for name in group.names)
  assert {one.source for one in found.field.entrants.values()} == {'known', 'drawn', 'unet'}
  count = len(stands.trained)
  race()
  assert len(stands.trained) == count


def test_a_race_by_given_times_names_their_machine_first(elsewhere, capsys):
  race, time_all, path = elsewhere
  with pytest.raises(InputError):
    race()
  assert 'times' not in capsys.readouterr().out
  write(path, time_all())
  race()
  assert capsys.readouterr().out.startswith(f'  times     of Phone, in {path}\n')


@pytest.mark.parametrize(
  ('runtime', 'precision', 'timed', 'needs'),
  [
    ('onnxruntime', 'all', ('float32', 'int8'), True),
    ('openvino', 'int8', ('int8',), True),
    ('installed', 'all', (), True),  # the file is not there yet
    ('installed', 'all', ('float32',), False),
    ('onnxruntime', 'float32', ('float32',), False),
    ('jax', 'all', ('float32',), False),
  ],
)
def test_given_times_need_what_scores_8_bits_here_before_anything_is_trained(
  config, stands, tmp_path, monkeypatch, runtime, precision, timed, needs
):
  config.cost.update({'runtime': runtime, 'precision': precision})
  config.front.costs = str(tmp_path / 'phone.json')
  ran = 'onnxruntime' if runtime == 'installed' else runtime
  found = [make_cost('a', KNOWN[0].genotype, runtime=ran, precision=name) for name in timed]
  if found:
    write(tmp_path / 'phone.json', found)
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *more: None)
  if not needs:
    Stopwatch(config, tmp_path)
    return
  with pytest.raises(InputError, match='onnxruntime needs onnx and onnxruntime.*requirements-exp'):
    Race(config, tmp_path, tmp_path / 'search')


def test_paths_of_windows_name_the_same_networks(elsewhere):
  race, time_all, path = elsewhere
  with pytest.raises(InputError):
    race()
  windows = [cost.name.replace('/', '\\') for cost in time_all()]
  pairs = zip(time_all(), windows, strict=True)
  write(path, [dataclasses.replace(cost, name=f'C:{name}') for cost, name in pairs])
  assert len(race().field.entrants) == 126


def test_a_network_without_a_time_takes_no_part_and_a_line_says_so(elsewhere, capsys):
  race, time_all, path = elsewhere
  with pytest.raises(InputError):
    race()
  write(path, [cost for cost in time_all() if 'drawn_1.json' not in cost.name])
  assert 'drawn_1' not in race().field.entrants
  assert 'not timed 1 of 126, which take no part' in capsys.readouterr().out


def test_what_is_installed_on_the_other_machine_counts(elsewhere, config):
  race, time_all, path = elsewhere
  config.cost.update({'runtime': 'installed', 'precision': 'float32'})
  with pytest.raises(InputError, match='--runtime=installed --precision=float32'):
    race()
  write(path, time_all(runtime='openvino'))
  found = race()
  assert {found.field.watch.best(name).runtime for name in found.field.entrants} == {'openvino'}


@pytest.mark.parametrize('timed', ['onnxruntime', 'openvino'])
def test_a_race_goes_on_in_what_was_installed_when_it_began(config, monkeypatch, tmp_path, timed):
  monkeypatch.setattr(timing.runtimes, 'require_installed', lambda ways: None)
  config.cost.update({'runtime': 'installed', 'precision': 'float32'})
  write(tmp_path / timing.COSTS, [make_cost('a', KNOWN[0].genotype, runtime=timed)])
  watch = Stopwatch(config, tmp_path)
  assert [way.runtime for way in watch.ways] == [watch.best('a').runtime] == [timed]


@pytest.mark.parametrize(
  ('changes', 'text'),
  [
    ({'size': 256}, 'on slices of 256 x 256 pixels and 1 threads, and .* asks for 64 x 64 and 1'),
    ({'threads': 4}, 'pixels and 4 threads, and .* asks for 64 x 64 and 1'),
    ({'runtime': 'openvino'}, 'expected jax float32 of .*, each once; set cost.runtime'),
    ({'ms': 0.0}, 'has 0 ms and .* expected more than 0'),
  ],
)
def test_times_of_other_settings_are_refused(elsewhere, stands, changes, text):
  race, time_all, path = elsewhere
  with pytest.raises(InputError):
    race()
  write(path, time_all(**changes))
  with pytest.raises(InputError, match=text):
    race()
  assert not stands.trained


def test_times_of_several_machines_are_refused(elsewhere):
  race, time_all, path = elsewhere
  with pytest.raises(InputError):
    race()
  first, *others = time_all()
  write(path, [dataclasses.replace(first, machine='Tablet'), *others])
  with pytest.raises(InputError, match='times of several machines: Phone; Tablet; expected'):
    race()


def test_the_time_of_another_network_under_the_same_name_is_refused(elsewhere, config):
  race, time_all, path = elsewhere
  with pytest.raises(InputError):
    race()
  first, *others = time_all()
  write(path, [dataclasses.replace(first, macs=first.macs + 1), *others])
  with pytest.raises(InputError, match='was timed with .* multiplications, and has .* here; time'):
    race()


def test_a_file_of_other_networks_is_refused_with_the_command(elsewhere):
  race, _, path = elsewhere
  write(path, [make_cost('mine.json', lean_space.unet(4))])
  with pytest.raises(InputError, match='has no time of them: copy the folder.*--genotypes=genoty'):
    race()
