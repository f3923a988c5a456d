"""Layers, parameters and multiplications of the networks, against counts by hand."""

import math
from pathlib import Path

import flax.linen as nn
import jax
import pytest

from thrifty_jax.networks import genotype, grid, layers
from thrifty_jax.networks.baselines import UNetPlusPlus
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.space import derivable, resample_of

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

SHIPPED = Path(genotype.__file__).parents[1] / 'genotypes' / 'thrifty_0.61m.json'


def structure(index, *, nodes=2):
  """Every node keeps all its edges, the index-th candidate on each (`none` is no choice)."""

  def cell(kind):
    choices = [derivable(resample_of(kind, source)) for source in range(nodes + 1)]
    return tuple(
      tuple((source, choices[source][index % len(choices[source])]) for source in range(node + 2))
      for node in range(nodes)
    )

  return Genotype(down=cell('down'), up=cell('up'))


def operation_macs(name, pixels, channels):
  """Of an operation whose output has so many pixels."""
  gate = 2 * channels * max(1, channels // 16)
  taps = pixels // 4 if name.startswith('up_') else pixels  # the pixels that all weights multiply
  name = name.removeprefix('down_').removeprefix('up_')
  if name == 'identity' or name.endswith('_pool'):
    return 0
  dense, separable = 9 * channels * channels * taps, 9 * channels * taps + channels**2 * pixels
  return {
    'conv_3x3': dense,
    'dil_conv_3x3': dense,
    'sep_conv_3x3': separable,
    'se_conv_3x3': gate + dense,
    'se': gate,
  }[name]


def derived_macs(genotype, *, side, classes=2, image_channels=1, channels=32, depth=5):
  """The grid once more, cell by cell; level 0 is full size."""
  filter_1x1 = channels * channels

  def pixels(level):
    return (side // 2**level) ** 2

  def cell(nodes, level, *, tensors, in0_level):
    total = tensors * filter_1x1 * pixels(in0_level) + len(nodes) * filter_1x1 * pixels(level)
    for node in nodes:
      for _, name in node:
        total += operation_macs(name, pixels(level), channels)
    return total

  total = 49 * image_channels * channels * pixels(0)  # stem
  total += (9 + 9 + 1) * filter_1x1 * pixels(1)  # residual block
  for j in range(1, depth):
    total += cell(genotype.down, j + 1, tensors=1, in0_level=j)
  for k in range(1, depth):
    for j in range(depth - k):
      total += cell(genotype.up, j + 1, tensors=k, in0_level=j + 1)
  total += cell(genotype.up, 0, tensors=1, in0_level=0)  # head
  return total + 9 * channels * classes * pixels(0)


def unet_macs(*, side, nested, image_channels=1, classes=2):
  """Block by block: 3x3 convolutions, 2x2 transposed ones, the 1x1 output."""
  widths = (32, 64, 128, 256, 512)

  def block(level, source):
    pixels = (side // 2**level) ** 2
    return 9 * source * widths[level] * pixels + 9 * widths[level] ** 2 * pixels

  total = sum(
    block(level, widths[level - 1] if level else image_channels) for level in range(len(widths))
  )
  for level in range(4):
    coarse = (side // 2 ** (level + 1)) ** 2
    for column in range(1, 5 - level) if nested else [4 - level]:
      total += 4 * widths[level + 1] * widths[level] * coarse
      total += block(level, ((column if nested else 1) + 1) * widths[level])
  return total + widths[0] * classes * side**2


def counted(net, *inputs):
  """Parameters by Linen's own shapes."""
  shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def test_the_networks_have_the_multiplications_that_are_known():
  shipped = genotype.load(SHIPPED)
  expected = {
    grid.DerivedNetwork(shipped, 2): (4.6, derived_macs(shipped, side=256)),
    UNetPlusPlus(2, nested=False): (12.0, unet_macs(side=256, nested=False)),
    UNetPlusPlus(2, nested=True): (29.7, unet_macs(side=256, nested=True)),
  }
  for net, (billions, exact) in expected.items():
    found = layers.macs(net, (256, 256, 1))
    assert found == exact
    assert abs(found / 1e9 - billions) < 0.06


@pytest.mark.parametrize('index', range(6))
def test_every_operation_counts_what_its_definition_multiplies(index):
  found = structure(index, nodes=2)
  sizes = {'channels': 32, 'depth': 3}
  expected = derived_macs(found, side=32, classes=3, image_channels=4, **sizes)
  assert layers.macs(grid.DerivedNetwork(found, 3, **sizes), (32, 32, 4)) == expected


def test_odd_sides_count_as_the_network_pads_them():
  net = grid.DerivedNetwork(structure(2), 2, channels=8, depth=3)
  assert layers.macs(net, (33, 20, 1)) == layers.macs(net, (40, 24, 1))
  assert layers.layers(net, (33, 20, 1))[0].output == (40, 24, 8)


def test_a_norm_adds_parameters_and_no_multiplications():
  plain, normed = (UNetPlusPlus(2, nested=False, norm=norm) for norm in ('none', 'group'))
  assert layers.macs(plain, (32, 32, 1)) == layers.macs(normed, (32, 32, 1))
  rows = [layers.layers(net, (32, 32, 1)) for net in (plain, normed)]
  assert [row.kind for row in rows[1] if row.path[-1] == 'first_norm'] == ['group norm'] * 9
  assert len(rows[1]) == len(rows[0]) + 18


@pytest.mark.parametrize('nested', [True, False])
def test_deep_supervision_has_all_its_parameters_but_is_not_run_to_predict(nested):
  if nested:
    net = UNetPlusPlus(2, nested=True, deep_supervision=True)
  else:
    net = grid.DerivedNetwork(structure(3), 2, channels=8, depth=3, deep_supervision=True)
  shape = (32, 32, 1)
  image = jax.ShapeDtypeStruct((1, *shape), 'float32')
  rows = [row for row in layers.layers(net, shape) if len(row.path) == 1]
  assert sum(row.parameters for row in rows) == counted(net, image)
  assert layers.macs(net, shape) == layers.macs(net.copy(deep_supervision=False), shape)
  idle = [row.path for row in rows if not row.macs]
  assert idle == ([('classes_1',), ('classes_2',), ('classes_3',)] if nested else [])


def test_the_parts_of_a_cell_are_named_as_in_genotypes_and_add_up_to_it():
  for index in range(6):
    found = structure(index)
    rows = layers.layers(grid.DerivedNetwork(found, 2, channels=8, depth=2), (16, 16, 1))
    for name, nodes in (('down_0_1', found.down), ('up_1_0', found.up), ('head', found.up)):
      cell, *parts = [row for row in rows if row.path[0] == name]
      assert cell.parameters == sum(part.parameters for part in parts)
      assert cell.macs == sum(part.macs for part in parts)
      kinds = {part.path[1]: part.kind for part in parts[1:-1]}
      expected = {
        f'node{node + 1}_from_{source}': operation
        for node, edges in enumerate(nodes)
        for source, operation in edges
      }
      assert kinds == expected


def test_a_parameter_that_nobody_has_counted_is_refused():
  class New(nn.Module):
    depth: int = 0

    @nn.compact
    def __call__(self, x):
      return nn.Sequential([Filter()])(x)

  class Filter(nn.Module):
    @nn.compact
    def __call__(self, x):
      return x @ self.param('mixing', nn.initializers.ones, (x.shape[-1], 3))

  with pytest.raises(ValueError, match="'mixing'"):
    layers.macs(New(), (8, 8, 1))


def test_memory_holds_a_feature_map_of_full_size_and_not_every_one_there_is():
  net = grid.DerivedNetwork(structure(2, nodes=1), 2, channels=8, depth=2)
  rows = layers.layers(net, (64, 64, 1))
  planned = layers.activation_bytes(net, (64, 64, 1))
  maps = [4 * math.prod(row.output) for row in rows]
  assert planned is not None
  assert max(maps) <= planned < 2 * sum(maps)  # convolutions and joins are inside layers
