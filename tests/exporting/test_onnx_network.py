"""Our networks in ONNX against the same ones in JAX, every operation of them."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from scipy.special import softmax

from thrifty_jax import config as configs
from thrifty_jax.drawings import drawing
from thrifty_jax.exporting import onnx_graph, onnx_network, runners
from thrifty_jax.model_folder import LoadedModel
from thrifty_jax.networks import build, layers, norm, parameters, space
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.lean_space import LeanShape, Level
from thrifty_jax.networks.model_spec import make_spec

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
from thrifty_jax.exporting.export_check import compare, make_onnx_runner  # noqa: E402

pytestmark = pytest.mark.usefixtures('quick_compilation')

# Together they have every operation of every kind.
GENOTYPES = {
  'pools': Genotype(
    down=(
      ((0, 'down_avg_pool'), (1, 'down_max_pool')),
      ((1, 'down_dil_conv_3x3'), (2, 'identity')),
    ),
    up=(((0, 'conv_3x3'), (1, 'up_sep_conv_3x3')), ((0, 'se'), (2, 'dil_conv_3x3'))),
    skipped=((1, 0),),
  ),
  'convolutions': Genotype(
    down=(((0, 'down_conv_3x3'), (1, 'down_sep_conv_3x3')),),
    up=(((0, 'sep_conv_3x3'), (1, 'up_dil_conv_3x3')),),
  ),
  'gates': Genotype(
    down=(((0, 'down_se_conv_3x3'), (1, 'down_max_pool')), ((1, 'down_conv_3x3'), (2, 'se'))),
    up=(((0, 'identity'), (1, 'up_se_conv_3x3')), ((1, 'up_conv_3x3'), (2, 'sep_conv_3x3'))),
  ),
}


def member(genotype=None, *, size=16, modalities=1, context=0, **network):
  """A model with random weights, norms and biases included."""
  config = configs.default()
  config.model.update(network)
  config.data.update({'classes': ('background', *'ab'), 'image_size': size})
  config.data.update({'modalities': modalities, 'context': context})
  statistics = {'mean': np.linspace(0.3, 0.4, modalities), 'std': np.linspace(0.2, 0.3, modalities)}
  channels = modalities * (2 * context + 1)
  spec = dataclasses.replace(
    make_spec(config, statistics), background=tuple(np.linspace(-2, -1, channels).tolist())
  )
  shapes = build.find_shapes(build.build(spec, genotype), spec.image_channels)
  generator = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: leaf + generator.normal(0, 0.1, leaf.shape), build.initialise(shapes, seed=1)
  )
  return LoadedModel(spec, genotype, '', params)


def thrifty(name, *, depth=2, channels=4, **sizes):
  return member(GENOTYPES[name], name='thrifty', depth=depth, channels=channels, **sizes)


def expected(made, image):
  """What the Linen module gives of the same image, [N, C, H, W] in [0, 1]."""
  copies = 2 * made.spec.context + 1
  mean, std = (np.tile(values, copies) for values in (made.spec.mean, made.spec.std))
  logits = made.logits(((np.moveaxis(image, 1, 3) - mean) / std).astype(np.float32))
  return np.moveaxis(np.asarray(logits), 3, 1)


def image_of(made, *, slices=2, sides=(16, 16)):
  return np.random.default_rng(2).random((slices, made.spec.image_channels, *sides), np.float32)


def run(made, image, **settings):
  return make_onnx_runner(onnx_network.to_onnx(made, **settings).SerializeToString())(image)


def require_same(made, image, **settings):
  found, wanted = run(made, image, **settings), expected(made, image)
  assert wanted.std() > 0.1
  np.testing.assert_allclose(found, wanted, atol=1e-4 * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize('norm_', ['group', 'batch'])
@pytest.mark.parametrize('name', GENOTYPES)
def test_every_operation_gives_what_it_gives_in_jax(name, norm_):
  made = thrifty(name, depth=3 if GENOTYPES[name].skipped else 2, norm=norm_)
  require_same(made, image_of(made))


def test_these_genotypes_have_every_operation_that_can_be_derived():
  used = {
    kind
    for genotype in GENOTYPES.values()
    for node in (*genotype.down, *genotype.up)
    for _, kind in node
  }
  assert used == {row.name for row in space.OPERATIONS} - {'none'}


def test_a_new_row_of_the_table_is_an_operation_everywhere(monkeypatch):
  new = functools.partial(space.Operation, form='convolution', colour=space.SE_CONV)
  rows = (
    new('dil5_se_conv_3x3', 'normal', dilation=5, gated=True),
    new('down_se_sep_conv_3x3', 'down', separable=True, gated=True),
    new('up_dil5_conv_3x3', 'up', dilation=5),
  )
  monkeypatch.setattr(space, 'OPERATIONS', (*space.OPERATIONS, *rows))
  used = Genotype(
    down=(((0, rows[1].name), (1, 'down_avg_pool')), ((1, rows[1].name), (2, rows[0].name))),
    up=(((0, rows[0].name), (1, rows[2].name)), ((0, 'identity'), (2, 'se'))),
  )
  monkeypatch.setitem(GENOTYPES, 'new', used)
  made = thrifty('new')
  require_same(made, image_of(made))
  costs = [parameters.operation_cost(row.name, 4) for row in rows]
  gate = 4 * 1 + 1 + 1 * 4 + 4
  assert costs == [gate + 9 * 16 + 8, gate + 9 * 4 + 16 + 8, 9 * 16 + 8]
  kinds = {layer.kind for layer in layers.layers(made.module, (16, 16, 1))}
  assert {row.name for row in rows} <= kinds
  assert all(row.name in drawing.draw_cells(used, {}).inline() for row in rows)


@pytest.mark.parametrize(
  ('name', 'norm_'), [('unet', 'none'), ('unet', 'batch'), ('unet_plus_plus', 'group')]
)
def test_the_baselines_give_what_they_give_in_jax(name, norm_):
  made = member(name=name, norm=norm_, deep_supervision=name == 'unet_plus_plus', width=2)
  require_same(made, image_of(made))


def shape_of(*widths, block='plain', stem=2, up='transposed', skip='add', norm='batch'):
  levels = tuple(Level(width, 2, 1, block) for width in widths)
  return LeanShape(levels, stem=stem, up=up, skip=skip, norm=norm)


# Together they have every choice of the space.
LEAN = {
  'plain': shape_of(4, 8, 8, norm='batch'),
  'quarter': shape_of(8, 4, 4, stem=4, up='nearest', skip='concat', norm='group'),
  'residual': shape_of(8, 8, 16, block='residual', up='bilinear', norm='batch'),
  'bottleneck': shape_of(4, 4, 8, block='bottleneck', stem=1, skip='concat', norm='none'),
  'axial': shape_of(4, 8, 8, block='axial', stem=4, norm='batch'),
}


@pytest.mark.parametrize('name', LEAN)
def test_lean_networks_give_what_they_give_in_jax(name):
  made = member(LEAN[name], name='lean', size=18, modalities=2)
  require_same(made, image_of(made, sides=(18, 18)))
  require_same(made, image_of(made, sides=(13, 22)), dynamic_sides=True)


def with_deviation(made, wanted):
  """The model with logits of this deviation; those of random weights grow by the layer."""
  params, scale = dict(made.params), wanted / run(made, image_of(made, sides=(18, 18))).std()
  params['classes'] = jax.tree.map(lambda leaf: scale * leaf, params['classes'])
  return dataclasses.replace(made, params=params)


def start(program, content):
  if program == 'openvino':
    pytest.importorskip('openvino')
    return runners.start('openvino', content, threads=1)
  cv2 = pytest.importorskip('cv2', minversion='5')
  network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
  return lambda image: network.setInput(image) or network.forward()


# Another program, the network, and whether its sides are dynamic; OpenVINO takes long to begin.
ELSEWHERE = [
  *itertools.product(['opencv'], [*LEAN, 'group', 'batch'], [False, True]),
  *[('openvino', 'plain', False), ('openvino', 'residual', True)],
]


@pytest.mark.parametrize(('program', 'name', 'dynamic'), ELSEWHERE)
def test_another_program_gives_the_masks_of_onnx_runtime(program, name, dynamic):
  """Of lean networks, and of cells with either norm; with another number of slices each time."""
  sizes = {'size': 18, 'modalities': 2}
  lean = name in LEAN
  made = member(LEAN[name], name='lean', **sizes) if lean else thrifty('gates', norm=name, **sizes)
  made = onnx_network.to_onnx(with_deviation(made, 3.0), dynamic_sides=dynamic)
  content = made.SerializeToString()
  ours, theirs = make_onnx_runner(content), start(program, content)
  for slices, sides in ((1, (18, 18)), (3, (13, 22) if dynamic else (18, 18))):
    image = np.random.default_rng(slices).random((slices, 2, *sides), np.float32)
    found, wanted = theirs(image), ours(image)
    assert found.shape == wanted.shape and len(np.unique(wanted.argmax(1))) > 1
    np.testing.assert_array_equal(found.argmax(1), wanted.argmax(1))
    np.testing.assert_allclose(softmax(found, 1), softmax(wanted, 1), atol=1e-4)


def test_batch_norms_are_folded_into_the_convolutions():
  graph = onnx_network.to_onnx(member(LEAN['plain'], name='lean')).graph
  assert {node.op_type for node in graph.node} == {
    *('Sub', 'Div', 'Conv', 'Relu', 'MaxPool', 'ConvTranspose', 'Add', 'Identity')
  }
  graph = onnx_network.to_onnx(thrifty('convolutions', norm='batch')).graph
  assert {node.op_type for node in graph.node} == {
    *('Sub', 'Div', 'Conv', 'Relu', 'MaxPool', 'Concat', 'Reshape', 'Transpose', 'Add', 'Identity')
  }


def test_sides_that_the_depth_does_not_divide_are_filled_with_the_background():
  made = thrifty('convolutions', size=18, modalities=2, context=1)
  require_same(made, image_of(made, sides=(18, 18)))
  require_same(made, image_of(made, slices=1, sides=(18, 18)), dynamic_sides=True)


def test_dynamic_sides_take_slices_of_any_shape():
  made = thrifty('gates')
  require_same(made, image_of(made, slices=3, sides=(13, 22)), dynamic_sides=True)


def test_slices_of_a_batch_do_not_mix():
  made = thrifty('gates')
  image = image_of(made, slices=3)
  together = run(made, image)
  for one, slice_ in zip(together, image, strict=True):
    np.testing.assert_allclose(run(made, slice_[None])[0], one, atol=1e-5)


def test_a_difference_that_is_not_a_number_is_not_lost_among_others():
  made = thrifty('gates')
  network = make_onnx_runner(onnx_network.to_onnx(made).SerializeToString())
  scans = list(np.random.default_rng(3).random((2, 2, 16, 16, 1)).astype(np.float16))
  outputs = iter([0.0, np.nan])  # of a batch of each scan
  assert compare(made, network, scans).largest_difference < 1e-4
  found = compare(made, lambda image: network(image) + np.float32(next(outputs)), scans)
  assert np.isnan(found.largest_difference)


@pytest.mark.parametrize('channels', [6, 32])
def test_a_norm_over_many_pixels_far_from_zero_stays_precise(channels):
  graph = onnx_graph.Graph(side=256, depth=5)
  generator = np.random.default_rng(0)
  x = (3 + generator.normal(size=(2, channels, 256, 256))).astype(np.float32)
  scale, bias = generator.normal(size=(2, channels)).astype(np.float32)
  image = onnx_graph.Tensor(onnx_network.IMAGE, channels, 0)
  normed = onnx_graph.group_norm(graph, image, {'scale': scale, 'bias': bias})
  graph.add('Identity', normed.name, output=onnx_network.LOGITS)
  shape = ('slices', channels, 256, 256)
  made = graph.model({onnx_network.IMAGE: shape}, {onnx_network.LOGITS: shape})
  groups = x.reshape(2, -1, (16 if channels % 16 == 0 else channels) * 256**2).astype(float)
  deviation = np.sqrt(groups.var(-1, keepdims=True) + norm.EPSILON)
  wanted = ((groups - groups.mean(-1, keepdims=True)) / deviation).reshape(x.shape)
  wanted = wanted * scale[:, None, None] + bias[:, None, None]
  np.testing.assert_allclose(
    make_onnx_runner(made.SerializeToString())(x), wanted, rtol=1e-5, atol=1e-5
  )


def test_the_graph_has_plain_operations_of_an_opset_that_browsers_know():
  made = onnx_network.to_onnx(thrifty('gates'))
  assert [(one.domain, one.version) for one in made.opset_import] == [('', 17)]
  kinds = {node.op_type for node in made.graph.node}
  assert not kinds & {'Loop', 'If', 'Scan', 'ConvTranspose', 'InstanceNormalization'}
  assert {node.domain for node in made.graph.node} == {''}
  assert made.doc_string == 'Research use only, not a medical device.'
  assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_param == 'slices'


def test_a_folded_norm_is_the_norm_after_its_convolution():
  values = {'scale': 2.0, 'variance': 1e-4, 'mean': 0.3, 'bias': -1.0}
  parameters = {name: np.full(1, value) for name, value in values.items()}
  for own in (None, np.full(1, 0.7)):
    kernel, bias = onnx_graph.fold(np.full(1, 3.0), parameters, bias=own)
    before = 3.0 * 5.0 + (0 if own is None else 0.7)
    expected = 2.0 * (before - 0.3) / np.sqrt(1e-4 + norm.EPSILON) - 1.0
    np.testing.assert_allclose(kernel * 5.0 + bias, expected)
