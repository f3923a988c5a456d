"""The table of operations, the rules of cells and grid, and the choice of candidates."""

import pytest

from thrifty_jax import config as configs
from thrifty_jax.errors import InputError
from thrifty_jax.exporting import onnx_network
from thrifty_jax.exporting.onnx_graph import Graph, Tensor
from thrifty_jax.networks import ops, space
from thrifty_jax.networks.space import Operation, Space
from thrifty_jax.running import command_line


def add(monkeypatch, *rows):
  """Rows at the end of the table."""
  monkeypatch.setattr(space, 'OPERATIONS', (*space.OPERATIONS, *rows))


def test_targets_and_sources_name_the_same_edges():
  for nodes in range(1, 5):
    by_target = {(n, s) for n in range(nodes) for s in space.sources_of(n)}
    by_source = {(n, s) for s in range(nodes + 1) for n in space.targets_of(s, nodes=nodes)}
    assert by_target == by_source == set(space.edges_of(nodes))
    assert len(by_target) == space.edge_count(nodes)


def test_the_skippable_cells_are_those_with_neighbours_on_all_sides():
  assert space.skippable_cells(5) == ((1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0))
  for depth in range(2, 8):
    inside = {(m, j) for m in range(1, depth) for j in range(depth) if m + j < depth - 1}
    assert sorted(inside) == list(space.skippable_cells(depth))


def test_the_space_of_a_run_is_that_of_the_network_that_is_retrained():
  config = configs.default()
  config.data.modalities, config.data.context = 2, 1
  config.data.classes = ('background', 'liver', 'kidney')
  config.search.channels, config.model.channels = 8, 24
  config.search.cell_path = True
  config.search.operations = ('conv_3x3', 'up_conv_3x3', 'down_conv_3x3')
  found = space.space_of(config)
  assert found == Space(6, 3, 24, 5, 2, 2, cell_path=True, operations=config.search.operations)


def test_a_name_that_is_not_in_the_table_is_refused_with_those_that_are():
  for look_up in (
    space.operation,
    lambda name: ops.operation(name, channels=4),
    lambda name: space.candidates('normal', (name,)),
  ):
    with pytest.raises(ValueError, match="no operation 'conv_5x5'; expected one of .*sep_conv_3x3"):
      look_up('conv_5x5')


def test_an_operation_of_a_form_that_nothing_computes_is_refused_where_it_is_built(monkeypatch):
  add(monkeypatch, Operation('blur', 'normal', 'blur', space.NONE))
  with pytest.raises(ValueError, match="'blur' has the form 'blur', .* write a module for it"):
    ops.operation('blur', channels=4)
  with pytest.raises(ValueError, match="'blur' has the form 'blur', which has none in ONNX"):
    onnx_network._operation(Graph(side=8, depth=1), 'blur', Tensor('x', 4, 0), {})


@pytest.mark.parametrize(
  'settings',
  [{'resample': 'normal', 'separable': True, 'dilation': 2}, {'resample': 'up', 'dilation': 2}],
)
def test_a_convolution_that_does_not_exist_cannot_be_a_row(settings):
  with pytest.raises(ValueError, match="operation 'new'"):
    Operation(name='new', form='convolution', colour=space.CONV, **settings)


FEW = ('conv_3x3', 'sep_conv_3x3', 'down_conv_3x3', 'up_conv_3x3', 'identity')


def test_chosen_candidates_keep_the_order_of_the_table():
  config = configs.default()
  for chosen in ((), FEW, FEW[::-1], tuple(row.name for row in space.OPERATIONS)):
    config.search.operations = chosen
    configs.validate(config)
    space.require_choice(chosen)
  assert space.candidates('normal', FEW[::-1]) == ('identity', 'conv_3x3', 'sep_conv_3x3')
  assert space.candidates('up', FEW) == ('up_conv_3x3',)


@pytest.mark.parametrize(
  ('chosen', 'message'),
  [
    (('conv_7x7', *FEW), "names 'conv_7x7', which is no operation; expected .* down_avg_pool"),
    ((*FEW, 3), 'names 3, which is no operation'),
    ((*FEW, 'identity'), "names 'identity' twice; expected it once"),
    (FEW[:3], 'no operation for the edges that double them; add one of up_conv_3x3, up_dil'),
    (FEW[2:4], 'no operation for the edges that keep them; add one of identity, se, conv_3x3'),
    ((*FEW[2:4], 'none'), 'no operation for the edges that keep them'),
    (('up_conv_3x3', 'se'), 'edges that halve the sides; add one of down_avg_pool, down_max'),
  ],
)
def test_a_choice_that_no_search_can_be_made_of_is_refused(chosen, message):
  with pytest.raises(InputError, match=message) as caught:
    space.require_choice(chosen)
  assert str(caught.value).startswith('config.search.operations ')
  # Of every command: a comparison draws from them without a search.
  with pytest.raises(InputError, match=message):
    command_line.parse(['--config=configs/phantom.py', f'--config.search.operations={chosen!r}'])
