"""The health of a search: its figures by hand, its warnings where they belong."""

import math
from typing import Any

import pytest

from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.reporting import health, inputs

CONVS = Genotype(
  down=(((0, 'down_conv_3x3'), (1, 'down_conv_3x3')),),
  up=(((0, 'conv_3x3'), (1, 'up_conv_3x3')),),
)
POOLS = Genotype(
  down=(((0, 'down_avg_pool'), (1, 'down_max_pool')),),
  up=(((0, 'identity'), (1, 'up_conv_3x3')),),
)


def line(epoch, *, favour, unchanged=0, **changes):
  """One node a cell; every choice gives its first option a share of favour."""

  def choice(size):
    return [favour, *[(1 - favour) / (size - 1)] * (size - 1)]

  weights: dict[str, Any] = {
    'down_alphas': [choice(6), choice(6)],
    'up_alphas': [choice(6), choice(4)],
    'down_betas': [favour, 1 - favour],
    'up_betas': [favour, 1 - favour],
  }
  return inputs.SearchLine(epoch, unchanged, None, None, None, **(weights | changes))


def judge(lines, genotype):
  found = health.judge(lines, genotype)
  assert found is not None
  return found


def test_entropy_falls_from_one_to_nought_as_choices_are_made():
  even = line(
    1,
    favour=0.5,  # of two edges
    down_alphas=[[1 / 6] * 6] * 2,
    up_alphas=[[1 / 6] * 6, [1 / 4] * 4],
  )
  found = judge([even, line(10, favour=1.0, unchanged=8)], CONVS)
  assert found.operations == pytest.approx([1, 0])
  assert found.edges == pytest.approx([1, 0])


def test_entropy_of_a_choice_by_hand():
  found = judge([line(1, favour=0.5)], CONVS)
  two = -2 * 0.5 * math.log(0.5) / math.log(2)
  six = -(0.5 * math.log(0.5) + 5 * 0.1 * math.log(0.1)) / math.log(6)
  four = -(0.5 * math.log(0.5) + 3 / 6 * math.log(1 / 6)) / math.log(4)
  assert found.edges[1] == pytest.approx(two)
  assert found.operations[1] == pytest.approx((3 * six + four) / 4)


def test_edges_are_grouped_by_their_node():
  betas = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0, 0, 0]
  found = judge([line(1, favour=0.5, down_betas=betas, up_betas=[1.0, 0.0])], CONVS)
  assert found.edges[1] == 0


def test_a_decided_and_settled_search_has_no_warnings():
  found = judge([line(1, favour=0.3), line(20, favour=0.8, unchanged=10)], CONVS)
  assert found.warnings() == []
  assert found.last_change == 10 and found.parameterless == 0


def test_an_undecided_search_is_told():
  (warning,) = judge([line(20, favour=0.2, unchanged=10)], CONVS).warnings()
  assert 'hardly left even shares' in warning


def test_a_collapse_to_pools_and_identities_is_told():
  found = judge([line(20, favour=0.8, unchanged=10)], POOLS)
  assert found.parameterless == 0.75
  (warning,) = found.warnings()
  assert '75% of the kept edges are pools or identities' in warning


@pytest.mark.parametrize('unchanged,warned', [(0, True), (1, True), (2, False)])
def test_a_genotype_that_changed_at_the_end_is_told(unchanged, warned):
  found = judge([line(20, favour=0.8, unchanged=unchanged)], CONVS)
  assert any('epoch 20 of 20' in text or 'epoch 19 of 20' in text for text in found.warnings()) == (
    warned
  )
