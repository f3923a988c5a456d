"""Lean networks: golden parameter counts, shapes, and the layers that are our own forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from thrifty_jax.networks import baselines, batch_norm, build, layers, lean, lean_space, spatial
from thrifty_jax.networks.lean_space import LeanShape, Level

pytestmark = pytest.mark.usefixtures('quick_compilation')


def shape_of(
  *widths,
  stem=2,
  encoder=2,
  decoder=2,
  block='plain',
  up='transposed',
  skip='concat',
  norm='batch',
):
  levels = tuple(Level(width, encoder, decoder, block) for width in widths)
  return LeanShape(levels, stem=stem, up=up, skip=skip, norm=norm)


HALF = shape_of(16, 32, 64, 128)
# One input channel, two classes. The U-Net of width 32 without norms is the paper's.
GOLDEN = {
  'unet 32': (lean_space.unet(32, norm='none'), 7_759_554),
  'unet 8': (lean_space.unet(8), 486_418),
  'half': (HALF, 482_994),
  'half, add, one in the decoder': (shape_of(16, 32, 64, 128, decoder=1, skip='add'), 386_002),
  'quarter, residual': (shape_of(16, 32, 64, stem=4, block='residual'), 125_138),
  'axial': (shape_of(16, 32, 64, block='axial', up='nearest'), 19_530),
  'bottleneck': (shape_of(16, 32, 64, block='bottleneck', up='bilinear'), 120_626),
}


def find_shapes(net, channels=1):
  return build.trace_shapes(net, jax.ShapeDtypeStruct((1, 1, 1, channels), jnp.float32))


def build_params(shape):
  net = lean.LeanNetwork(shape, 2)
  return net, build.initialise(find_shapes(net), seed=0)


@pytest.mark.parametrize('name', GOLDEN)
def test_a_network_has_its_golden_number_of_parameters(name):
  shape, count = GOLDEN[name]
  net, params = build_params(shape)
  assert build.count(params) == build.count_shapes(find_shapes(net)) == count
  assert layers.count(net, (64, 64, 1)).parameters == count


def test_a_unet_multiplies_as_often_as_that_of_the_baselines():
  net = lean.LeanNetwork(lean_space.unet(32, norm='none'), 2)
  baseline = baselines.UNetPlusPlus(2, nested=False)
  assert layers.macs(net, (256, 256, 1)) == layers.macs(baseline, (256, 256, 1))


def test_every_drawn_shape_gives_logits_of_an_image_of_any_size():
  generator = np.random.default_rng(5)
  image = jax.ShapeDtypeStruct((1, 37, 50, 2), jnp.float32)
  for _ in range(20):
    net = lean.LeanNetwork(lean_space.draw(generator), 3)
    predict = functools.partial(build.apply, net, background=np.zeros(2, np.float32))
    logits = jax.eval_shape(predict, shapes_as_params(net), image)
    assert logits.shape == (1, 37, 50, 3) and logits.dtype == jnp.float32


def shapes_as_params(net):
  leaves = {
    name: jax.ShapeDtypeStruct(*shape) for name, shape in find_shapes(net, channels=2).items()
  }
  return traverse_util.unflatten_dict(leaves, sep='/')


def test_rematerialisation_changes_nothing():
  net, params = build_params(HALF)
  image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 1)), jnp.float32)
  plain = build.apply_training(net, params, image, background=np.zeros(1))
  again = build.apply_training(net.copy(remat=True), params, image, background=np.zeros(1))
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), plain, again)


@pytest.mark.parametrize('side', [1, 2, 4])
def test_pixels_come_back_from_channels(side):
  x = np.random.default_rng(0).normal(size=(2, 8, 12, 3))
  there = spatial.to_channels(jnp.asarray(x, jnp.float32), side)
  assert there.shape == (2, 8 // side, 12 // side, 3 * side**2)
  np.testing.assert_array_equal(spatial.to_pixels(there, side), x.astype(np.float32))


def test_bilinear_upsampling_is_that_of_jax_with_edges_repeated():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 7, 3)), jnp.float32)
  expected = jax.image.resize(x, (2, 10, 14, 3), 'linear')
  np.testing.assert_allclose(lean.bilinear_up(x), expected, atol=1e-6)


@pytest.mark.parametrize('sides', [(3, 3), (7, 1), (1, 7)])
def test_a_filter_of_channels_is_the_grouped_convolution(sides):
  generator = np.random.default_rng(0)
  x = jnp.asarray(generator.normal(size=(2, 9, 8, 4)), jnp.float32)
  kernel = jnp.asarray(generator.normal(size=(*sides, 4)), jnp.float32)
  expected = jax.lax.conv_general_dilated(
    x,
    kernel[:, :, None],
    (1, 1),
    [(side // 2,) * 2 for side in sides],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=4,
  )
  np.testing.assert_allclose(spatial.depthwise(x, kernel, resample='normal'), expected, atol=1e-5)


def test_only_batch_norms_have_statistics():
  for norm in ('batch', 'group', 'none'):
    net, params = build_params(shape_of(8, 8, 8, norm=norm))
    image = jnp.ones((1, 16, 16, 1))
    _, statistics = build.apply_training(net, params, image, background=np.zeros(1))
    assert bool(statistics) == (norm == 'batch')
    assert batch_norm.follow(params, statistics, old=params).keys() == params.keys()
