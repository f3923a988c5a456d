"""Networks are built, start with fresh parameters, and take images of any size."""

import functools
import json
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few_operations import FEW
from flax import traverse_util

from thrifty_jax import config as configs
from thrifty_jax.networks import build, genotype, grid
from thrifty_jax.networks.model_spec import background, make_spec

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

FOUND = genotype.Genotype(
  down=(((0, 'down_max_pool'), (1, 'down_sep_conv_3x3')),),
  up=(((0, 'conv_3x3'), (1, 'up_se_conv_3x3')),),
)
STATISTICS = {'mean': np.asarray([0.25], np.float32), 'std': np.asarray([0.5], np.float32)}
IMAGE = jax.ShapeDtypeStruct((2, 16, 16, 1), jnp.float32)


def settings(name='thrifty'):
  config = configs.default()
  config.data.classes = ('background', 'liver', 'kidney')
  config.model.update({'name': name, 'channels': 4, 'depth': 2})
  return config


def networks():
  """A derived network, a supernet with its inputs, and a baseline: all kinds of layers."""
  every = genotype.Genotype(
    down=(
      ((0, 'down_conv_3x3'), (1, 'down_sep_conv_3x3')),
      ((1, 'down_se_conv_3x3'), (2, 'dil_conv_3x3')),
    ),
    up=(((0, 'se'), (1, 'up_dil_conv_3x3')), ((1, 'up_sep_conv_3x3'), (2, 'sep_conv_3x3'))),
  )
  architecture = grid.init_architecture(jax.random.key(0), nodes=2)
  spec = make_spec(settings('unet'), STATISTICS)
  return {
    'derived': (grid.DerivedNetwork(every, classes=2, depth=3), IMAGE),
    'supernet': (grid.Supernet(classes=2, channels=32, depth=3), IMAGE, architecture),
    'unet': (build.build(spec, None), IMAGE),
  }


def by_name(params) -> dict[str, Any]:
  return traverse_util.flatten_dict(params, sep='/')


@pytest.mark.parametrize('name', ['derived', 'supernet', 'unet'])
def test_fresh_kernels_are_he_normal_and_scales_one_and_biases_zero(name):
  net, *inputs = networks()[name]
  drawn = by_name(build.initialise(build.trace_shapes(net, *inputs), seed=0))
  pooled = []
  for path, leaf in drawn.items():
    kind, leaf = path.split('/')[-1], np.asarray(leaf, float)
    if kind in ('scale', 'bias'):
      np.testing.assert_array_equal(leaf, 1.0 if kind == 'scale' else 0.0, err_msg=path)
      continue
    # One output sees a window of every input channel; a depthwise one of its own channel only.
    # Whatever stands before these axes is a stack of kernels.
    dense = kind == 'pointwise' or path.split('/')[-2] in ('squeeze', 'excite')
    fan_in = 9 if kind == 'depthwise' else np.prod(leaf.shape[-2 if dense else -4 : -1])
    unit = leaf.ravel() / np.sqrt(2 / fan_in)
    assert abs(unit.mean()) < 5 / np.sqrt(unit.size), path
    assert abs(unit.std() - 1) < 5 / np.sqrt(2 * unit.size), path
    pooled.append(unit)
  pooled = np.concatenate(pooled)
  assert pooled.size > 10_000
  assert abs(pooled.std() - 1) < 5 / np.sqrt(2 * pooled.size)
  assert abs((pooled**4).mean() - 3) < 0.2  # normal, not uniform


def test_fresh_parameters_are_those_the_network_asks_for():
  for net, *inputs in networks().values():
    drawn = build.initialise(build.trace_shapes(net, *inputs), seed=0)
    expected = jax.eval_shape(net.init, jax.random.key(0), *inputs)['params']
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), drawn, expected)
    assert all(jax.tree.leaves(same))


def test_fresh_parameters_follow_from_the_seed_and_differ_from_one_another():
  net, image = networks()['derived']
  first, again, other = (
    by_name(build.initialise(build.trace_shapes(net, image), seed=seed)) for seed in (0, 0, 1)
  )
  kernels = [path for path in first if path.split('/')[-1] not in ('scale', 'bias')]
  for path in first:
    np.testing.assert_array_equal(first[path], again[path])
  for path in kernels:
    assert not np.array_equal(first[path], other[path]), path
  seen = {np.asarray(first[path]).tobytes() for path in kernels}
  assert len(seen) == len(kernels)


@pytest.mark.parametrize('name', ['derived', 'supernet', 'unet'])
def test_shapes_are_json_from_which_a_network_starts_the_same(name):
  net, *inputs = networks()[name]
  shapes = build.trace_shapes(net, *inputs)
  first = build.initialise(shapes, seed=3)
  again = build.initialise(json.loads(json.dumps(shapes)), seed=3)
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert jax.tree.structure(first) == jax.tree.structure(again)
  assert build.count_shapes(shapes) == build.count(first)


def test_a_parameter_starts_the_same_in_a_deeper_network():
  shallow, deep = (
    by_name(
      build.initialise(
        build.trace_shapes(grid.DerivedNetwork(FOUND, classes=2, depth=depth), IMAGE), seed=0
      )
    )
    for depth in (2, 3)
  )
  assert shallow.keys() < deep.keys()
  for path, leaf in shallow.items():
    np.testing.assert_array_equal(leaf, deep[path], err_msg=path)


def test_parameters_are_counted_one_by_one():
  params = nn.Dense(3).init(jax.random.key(0), jnp.zeros((1, 5)))['params']
  assert build.count(params) == 5 * 3 + 3


def test_a_thrifty_network_needs_a_genotype():
  with pytest.raises(ValueError, match='needs a genotype'):
    build.build(make_spec(settings(), STATISTICS), None)


def test_sides_are_filled_with_the_background():
  net, image = grid.DerivedNetwork(FOUND, classes=2, depth=2), jnp.ones((1, 3, 5, 2))
  padded = build.pad(net, image, (-2.0, 3.0))
  assert padded.shape == (1, 4, 8, 2) == build.padded_shape(net, image.shape)
  np.testing.assert_array_equal(padded[:, :3, :5], image)
  np.testing.assert_allclose(padded[0, 3, 0], [-2, 3])
  np.testing.assert_allclose(padded[0, 0, 7], [-2, 3])
  assert build.pad(net, padded, (-2.0, 3.0)) is padded


@pytest.mark.parametrize('name', ['derived', 'supernet', 'unet'])
def test_logits_have_the_size_of_the_image_and_are_those_of_the_image_filled_up(name):
  net, _, *more = networks()[name]
  if name == 'supernet':  # the least one, which is soon compiled
    net = net.copy(channels=4, depth=2, nodes=1, operations=FEW)
    more = [grid.init_architecture(jax.random.key(0), nodes=1, operations=FEW)]
  image = np.random.default_rng(0).normal(size=(2, 13, 18, 1)).astype(np.float32)
  params = build.initialise(build.trace_shapes(net, image, *more), seed=0)
  filled = np.full((2, *build.padded_shape(net, (13, 18, 1))), -0.5, np.float32)
  filled[:, :13, :18] = image
  apply = jax.jit(functools.partial(build.apply, net, background=(-0.5,)))
  expected: Any = net.apply({'params': params}, filled, *more)
  np.testing.assert_allclose(
    apply(params, image, *more), expected[:, :13, :18], rtol=1e-3, atol=1e-4
  )


@pytest.mark.parametrize('remat', [False, True])
def test_the_background_may_be_an_argument_of_what_is_traced(remat):
  net = grid.DerivedNetwork(FOUND, classes=2, channels=4, depth=2, remat=remat)
  image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 6, 6)), jnp.float32)
  params = build.initialise(build.trace_shapes(net, image), seed=0)

  def logits(statistics):
    return build.apply(net, params, image, background=background(statistics, context=1))

  statistics = {'mean': np.asarray([1, 2], np.float32), 'std': np.asarray([2, 0.5], np.float32)}
  expected = jax.jit(functools.partial(build.apply, net, background=(-0.5, -4.0) * 3))
  np.testing.assert_allclose(
    jax.jit(logits)(statistics), expected(params, image), rtol=1e-5, atol=1e-6
  )


def test_models_of_one_architecture_share_a_program():
  nets: list[Any] = [grid.DerivedNetwork(FOUND, classes=2, depth=2) for _ in range(2)]
  image, predict = jnp.ones((1, 6, 6, 1)), build.predict_logits(nets[0])
  for seed, net in enumerate(nets):
    params = build.initialise(build.find_shapes(net, 1), seed=seed)
    logits = build.predict_logits(net)(params, image, np.full(1, -seed, np.float32))
    assert logits.shape == (1, 6, 6, 2)
  assert predict._cache_size() == 1


def test_predictions_are_in_full_float32_however_jax_was_started():
  net, image = networks()['unet']
  params = build.initialise(build.trace_shapes(net, image), seed=0)
  text = build.predict_logits(net).lower(params, image, np.zeros(1)).as_text()
  products = re.findall('.*stablehlo.(?:convolution|dot_general).*', text)
  assert len(products) > 18 and all('HIGHEST' in product for product in products)
