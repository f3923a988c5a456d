"""Timing in turns: the order, the figures, and a machine that is too busy."""

import itertools

import pytest

from thrifty_jax.cost import stopwatch
from thrifty_jax.errors import InputError


class Bench:
  """A clock that only contenders move, and the order in which they ran."""

  def __init__(self):
    self.now, self.order = 0.0, []

  def contender(self, name, *seconds):
    durations = itertools.cycle(seconds)

    def run():
      self.order.append(name)
      self.now += next(durations)

    return run

  def time(self, contenders, *, most_spread=0.25, **settings):
    return stopwatch.time_in_turns(
      contenders, most_spread=most_spread, clock=lambda: self.now, **settings
    )


def test_contenders_take_turns_of_some_runs_and_warm_up_in_each():
  bench = Bench()
  contenders = {name: bench.contender(name, 1.0) for name in 'ABC'}
  bench.time(contenders, repeats=4, warm_up=1, after_turn=lambda: bench.order.append('|'))
  assert ''.join(bench.order) == 'AAAABBBBCCCC|AABBCC|'


def test_what_runs_before_does_not_count():
  bench, before = Bench(), []

  def cold(name):
    def run():
      bench.now += 1.0 if before[-1:] == [name] else 9.0
      before.append(name)

    return run

  found = bench.time({'A': cold('A'), 'B': cold('B')}, repeats=9)
  assert {timing.seconds for timing in found.values()} == {1.0}


def test_the_median_is_of_the_timed_runs_alone():
  bench = Bench()
  found = bench.time(
    {'slow at first': bench.contender('A', 100.0, 1.0, 3.0, 2.0), 'B': bench.contender('B', 7.0)},
    repeats=3,
    warm_up=1,
    most_spread=1.0,
  )
  assert found['slow at first'] == stopwatch.Timing(2.0, 0.5)  # quartiles 1.5 and 2.5
  assert found['B'] == stopwatch.Timing(7.0, 0.0)


def test_what_is_done_after_a_turn_is_not_timed():
  bench = Bench()

  def draw():
    bench.now += 50

  found = bench.time({'A': bench.contender('A', 1.0)}, repeats=4, warm_up=0, after_turn=draw)
  assert found['A'].seconds == 1.0


def test_a_busy_machine_is_an_error_that_names_the_worst_and_what_to_do():
  bench = Bench()
  contenders = {'calm': bench.contender('A', 0.01), 'B in jax': bench.contender('B', 0.01, 0.03)}
  with pytest.raises(InputError, match='B in jax: .* too busy .* 20.00 ms .* 1.00 ') as error:
    bench.time(contenders, repeats=4, warm_up=0, most_spread=0.25)
  assert 'at most 0.25' in str(error.value) and 'a larger one' in str(error.value)
  assert bench.time(contenders, repeats=4, warm_up=0, most_spread=1.0)


def test_what_was_disturbed_is_timed_again_and_only_that():
  bench = Bench()
  disturbed = bench.contender('B', 1.0, 9.0, 1.0, 9.0, 2.0, 2.0, 2.0, 2.0)
  found = bench.time({'A': bench.contender('A', 1.0), 'B': disturbed}, repeats=4, warm_up=0)
  assert found == {'A': stopwatch.Timing(1.0, 0.0), 'B': stopwatch.Timing(2.0, 0.0)}
  assert ''.join(bench.order) == 'AAABBBABBBBB'
