"""Every operation, in each of its forms, against a slow reference in numpy and float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax.networks import norm, ops, space, spatial
from thrifty_jax.networks.mixed_edges import MixedEdges
from thrifty_jax.networks.mixed_op import mix_edges

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

RNG = np.random.default_rng(0)
C = 32  # two groups in the norms, two hidden features in the gates
KINDS = sorted(row.name for row in space.OPERATIONS)


def reference_convolution(x, kernel, *, stride, dilation, zeros=0, padding=None):
  """Pixel by pixel: zeros between the input's pixels, padding, then a dilated kernel, float64."""
  batch, height, width, channels = x.shape
  apart = 1 + zeros
  stuffed = np.zeros((batch, apart * (height - 1) + 1, apart * (width - 1) + 1, channels))
  stuffed[:, ::apart, ::apart] = x
  before, after = padding or ((dilation * (kernel.shape[0] - 1) // 2,) * 2)
  padded = np.pad(stuffed, ((0, 0), (before, after), (before, after), (0, 0)))
  reach = dilation * (kernel.shape[0] - 1)
  rows = range(0, padded.shape[1] - reach, stride)
  columns = range(0, padded.shape[2] - reach, stride)
  result = np.zeros((batch, len(rows), len(columns), kernel.shape[3]))
  for i, row in enumerate(rows):
    for j, column in enumerate(columns):
      window = padded[:, row : row + reach + 1 : dilation, column : column + reach + 1 : dilation]
      result[:, i, j] = np.einsum('bpqi,pqio->bo', window, kernel)
  return result


def reference_norm(x):
  """GroupNorm over H, W and groups of 16 channels, or all where 16 does not divide C."""
  size = 16 if x.shape[-1] % 16 == 0 else x.shape[-1]
  result = np.empty(x.shape)
  for b in range(x.shape[0]):
    for start in range(0, x.shape[-1], size):
      group = np.asarray(x, float)[b, ..., start : start + size]
      deviation = np.sqrt(group.var() + 1e-5)
      result[b, ..., start : start + size] = (group - group.mean()) / deviation
  return result


def reference_gate(x, gate):
  squeezed = x.mean((1, 2)) @ gate['squeeze']['kernel'] + gate['squeeze']['bias']
  excited = np.maximum(squeezed, 0) @ gate['excite']['kernel'] + gate['excite']['bias']
  return (1 / (1 + np.exp(-excited)))[:, None, None]


def reference_separable(x, params, setting):
  """Every channel by its own kernel, then a 1x1 convolution."""
  parts = [
    reference_convolution(x[..., c : c + 1], params['depthwise'][..., c : c + 1], **setting)
    for c in range(x.shape[-1])
  ]
  return np.concatenate(parts, axis=-1) @ params['pointwise']


def reference_mixed(kind, x, params):
  """An operation as one candidate among others: a norm also behind identity and pools."""
  y = reference_operation(kind, x, params)
  return reference_norm(y) if kind == 'identity' or kind.endswith('_pool') else y


def reference_operation(kind, x, params):
  """An operation of a derived network, or a candidate where the norm has no scale and bias."""
  if kind == 'identity':
    return x
  if kind == 'none':
    return 0 * x
  if kind.endswith('_pool'):
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return blocks.max((2, 4)) if 'max' in kind else blocks.mean((2, 4))
  if kind == 'se':
    return np.maximum(x * reference_gate(x, params['gate']), 0)
  if 'se_conv' in kind:
    x = x * reference_gate(x, params['gate'])
  if kind.startswith('up_'):
    dilation = 3 if 'dil' in kind else 1
    setting = {'stride': 1, 'zeros': 1, 'dilation': dilation, 'padding': (dilation, dilation + 1)}
  else:
    setting = {'stride': 2 if 'down' in kind else 1, 'dilation': 2 if 'dil' in kind else 1}
  if 'sep_conv' in kind:
    y = reference_norm(reference_separable(x, params, setting))
  else:
    y = reference_norm(reference_convolution(x, params['kernel'], **setting))
  affine = params.get('norm', {'scale': 1, 'bias': 0})
  return np.maximum(y * affine['scale'] + affine['bias'], 0)


def drawn(shapes):
  """Parameters away from their start, biases and scales too."""
  return jax.tree.map(lambda s: RNG.normal(0.2, 0.5, s.shape).astype(np.float32), shapes)


def agrees(got, expected):
  np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_every_operation_is_what_its_definition_says(kind, mixed):
  x = RNG.normal(0.2, 1, (2, 6, 8, C)).astype(np.float32)
  module = ops.operation(kind, channels=C, mixed=mixed)
  params = drawn(jax.eval_shape(module.init, jax.random.key(0), x).get('params', {}))
  learned = {'gate', 'kernel', 'depthwise', 'pointwise'} | (set() if mixed else {'norm'})
  assert set(params) <= learned and bool(params) == ('conv' in kind or kind == 'se')
  assert space.operation(kind).parameterless == (not params)
  got = jax.jit(module.apply)({'params': params}, x)
  reference = reference_mixed if mixed else reference_operation
  agrees(got, reference(kind, x.astype(float), params))


@pytest.mark.parametrize('sides', [(1, 1), (3, 4)])
@pytest.mark.parametrize('resample', ['normal', 'down', 'up'])
def test_every_candidate_in_the_fast_form_is_what_its_definition_says(resample, sides):
  kinds = space.candidates(resample)
  if resample == 'down':
    sides = tuple(2 * side for side in sides)
  x = RNG.normal(0.2, 1, (2, *sides, 2 * C)).astype(np.float32)
  # An edge for each candidate, which has all the weight there.
  weights, ones = jnp.eye(len(kinds)), jnp.ones(len(kinds))
  edges = MixedEdges(kinds, C, edges=len(kinds), cells=1)
  params = drawn(jax.eval_shape(edges.init, jax.random.key(0), weights, ones)['params'])

  def run(params):
    mixers: Any = edges.apply({'params': params}, weights, ones)
    return mix_edges(jnp.asarray(x), mixers[0], None)

  for edge, (kind, (got, _)) in enumerate(zip(kinds, jax.jit(run)(params), strict=True)):
    own = jax.tree.map(lambda p, edge=edge: p[0, edge], params['operations'].get(kind, {}))
    agrees(got, reference_mixed(kind, x[..., :C].astype(float), own))


@pytest.mark.parametrize('dilation', [1, 3])
def test_a_transposed_convolution_is_a_convolution_of_a_stretched_input(dilation):
  x, kernel = RNG.normal(size=(1, 5, 4, 3)), RNG.normal(size=(3, 3, 3, 2))
  got = spatial.resampling_convolution(
    jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), resample='up', dilation=dilation
  )
  expected = jax.lax.conv_general_dilated(
    jnp.asarray(x, jnp.float32),
    jnp.asarray(kernel, jnp.float32),
    (1, 1),
    [(dilation, dilation + 1)] * 2,
    lhs_dilation=(2, 2),
    rhs_dilation=(dilation, dilation),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  np.testing.assert_allclose(got, expected, atol=1e-5)


# Of a normal cell; of the four phases of a transposed one: taps, padding, dilation.
@pytest.mark.parametrize(
  ('taps', 'padding', 'dilation'),
  [
    ((3, 3), ((2, 2), (2, 2)), 2),
    ((2, 2), ((1, 2), (1, 2)), 3),
    ((1, 2), ((0, 0), (1, 2)), 3),
    ((1, 1), ((0, 0), (0, 0)), 3),
  ],
)
def test_the_written_gradient_of_a_dilated_convolution_is_that_of_its_formula(
  monkeypatch, taps, padding, dilation
):
  x, kernel = (
    jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((2, 7, 9, 3), (*taps, 3, 4))
  )

  def output(x, kernel):
    return spatial.convolution(x, kernel, padding=padding, dilation=dilation)

  def gradients(x, kernel):
    return jax.grad(lambda x, kernel: (output(x, kernel) ** 3).sum(), (0, 1))(x, kernel)

  def all_three(x, kernel):
    second = jax.grad(lambda *args: sum((g**2).sum() for g in gradients(*args)), (0, 1))
    return output(x, kernel), gradients(x, kernel), second(x, kernel)

  def is_written():  # by a function of its own each time: JAX remembers what it traced
    return 'custom_vjp' in str(jax.make_jaxpr(lambda *args: output(*args))(x, kernel))

  assert not is_written()
  expected = all_three(x, kernel)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')  # where it is used
  assert is_written()
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * abs(b).max()),
    all_three(x, kernel),
    expected,
  )


@pytest.mark.parametrize('channels', [1, 8, 16, 24, 48])
def test_the_norm_takes_groups_of_sixteen_channels(channels):
  x = RNG.normal(1, 3, (2, 5, 4, channels)).astype(np.float32)
  got = norm.Norm(affine=False).apply({}, jnp.asarray(x))
  np.testing.assert_allclose(np.asarray(got), reference_norm(x), atol=1e-5)


def test_the_norm_of_a_constant_is_zero_to_rounding_not_nan():
  x = jnp.full((1, 4, 4, 16), 7.0)
  # Rounding of x * scale + shift, where scale is 1 / sqrt(EPSILON), is all that may be left.
  rounding = 7.0 / norm.EPSILON**0.5 * jnp.finfo(jnp.float32).eps
  assert jnp.abs(norm.standardise(x, 16)).max() <= rounding
  assert jnp.isfinite(jax.grad(lambda x: norm.standardise(x, 16).sum())(x)).all()


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
@pytest.mark.parametrize('with_affine', [False, True])
def test_the_written_gradient_of_the_norm_is_that_of_the_formula(with_affine, backend, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)  # a GPU takes sums in two stages
  widths = (8, 16, 4)
  parts = tuple(jnp.asarray(RNG.normal(1, 2, (2, 36, 32, c)), jnp.float32) for c in widths)
  cotangents = [jnp.asarray(RNG.normal(size=x.shape), jnp.float32) for x in parts]
  affine = None
  if with_affine:
    affine = norm.Affine(*jnp.asarray(RNG.normal(size=(2, sum(widths))), jnp.float32))

  def total(outputs):
    return sum((y * c).sum() for y, c in zip(outputs, cotangents, strict=True))

  def formula(x, factor, rectified):
    batch, height, width, channels = x.shape
    grouped = x.reshape(batch, height, width, channels // 4, 4)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    variance = jnp.square(grouped - mean).mean((1, 2, 4), keepdims=True)
    y = ((grouped - mean) / jnp.sqrt(variance + 1e-5)).reshape(x.shape)
    y = y * factor.scale + factor.bias
    return jax.nn.relu(y) if rectified else y

  def by_formula(parts, affine):
    factors = affine or norm.Affine(jnp.ones(sum(widths)), jnp.zeros(sum(widths)))
    pieces = zip(*(jnp.split(each, np.cumsum(widths)[:-1]) for each in factors), strict=True)
    return total(
      formula(x, norm.Affine(*piece), i < 2)
      for i, (x, piece) in enumerate(zip(parts, pieces, strict=True))
    )

  def written(parts, affine):
    return total(norm.standardise_parts(parts, affine, 4, 2))

  wanted = (0, 1) if with_affine else 0
  got = jax.jit(jax.value_and_grad(written, wanted))(parts, affine)
  expected = jax.value_and_grad(by_formula, wanted)(parts, affine)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
def test_the_second_derivative_of_the_norm_is_that_of_finite_differences(
  backend, double_precision, monkeypatch
):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  parts = tuple(RNG.normal(1, 2, (2, 2, 3, c)) for c in (4, 8, 4))
  affine = norm.Affine(*RNG.normal(1, 0.5, (2, 16)))
  cotangents, directions = ([RNG.normal(size=x.shape) for x in parts] for _ in range(2))

  def total(outputs, factors):
    return sum((y * f).sum() for y, f in zip(outputs, factors, strict=True))

  def slope(parts):
    """Of a total along the directions; squares, so that its derivative depends on the outputs."""
    gradient = jax.grad(
      lambda p: total([y**2 for y in norm.standardise_parts(p, affine, 4, 2)], cotangents)
    )(parts)
    return total(gradient, directions)

  found = jax.jit(jax.grad(slope))(parts)
  value = jax.jit(slope)
  for index, part in enumerate(parts):
    expected = np.zeros(part.shape)
    for place in np.ndindex(part.shape):
      ahead, behind = ([np.array(x) for x in parts] for _ in range(2))
      ahead[index][place] += 1e-5
      behind[index][place] -= 1e-5
      expected[place] = (value(tuple(ahead)) - value(tuple(behind))) / 2e-5
    np.testing.assert_allclose(found[index], expected, rtol=1e-6, atol=1e-7)


def test_the_second_derivative_of_the_norm_of_a_constant_is_finite():
  slope = jax.grad(lambda x: (norm.standardise(x, 16) ** 2 * x).sum())
  assert jnp.isfinite(jax.grad(lambda x: (slope(x) * x).sum())(jnp.full((1, 2, 2, 16), 7.0))).all()


@pytest.mark.parametrize('size', [1, 3, 5])
def test_the_convolution_to_few_outputs_that_suits_gpus_is_a_convolution(size, monkeypatch):
  x = jnp.asarray(RNG.normal(size=(2, 6, 9, 4)), jnp.float32)
  kernel = jnp.asarray(RNG.normal(size=(size, size, 4, 3)), jnp.float32)
  expected, pull = jax.vjp(spatial.convolve, x, kernel)
  cotangent = jnp.asarray(RNG.normal(size=expected.shape), jnp.float32)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  got, pull_on_gpu = jax.vjp(spatial.convolve_to_few, x, kernel)
  for a, b in zip((got, *pull_on_gpu(cotangent)), (expected, *pull(cotangent)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
@pytest.mark.parametrize('sides', [(6, 10), (40, 32)])  # a GPU sums many pixels in two stages
def test_a_factor_of_bfloat16_images_has_its_gradient_in_float32(sides, backend, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  x, cotangent = (jnp.asarray(RNG.uniform(1, 2, (2, *sides, 5)), jnp.bfloat16) for _ in range(2))
  factor = jnp.asarray(RNG.normal(size=(2, 5)), jnp.float32)
  y, pull = jax.vjp(spatial.scale, x, factor)
  of_x, of_factor = pull(cotangent)
  assert y.dtype == of_x.dtype == jnp.bfloat16
  exact = [np.asarray(a, np.float64) for a in (x, cotangent, factor)]
  wide = exact[2][:, None, None]
  np.testing.assert_allclose(np.asarray(y, np.float64), exact[0] * wide, rtol=2**-8)
  np.testing.assert_allclose(np.asarray(of_x, np.float64), exact[1] * wide, rtol=2**-8)
  np.testing.assert_allclose(of_factor, (exact[0] * exact[1]).sum((1, 2)), rtol=1e-6)
  np.testing.assert_allclose(spatial.global_average(x), exact[0].mean((1, 2)), rtol=1e-6)


@pytest.mark.parametrize('resample', ['normal', 'down', 'up'])
def test_a_depthwise_kernel_has_its_gradient_in_float32(resample):
  x = jnp.asarray(RNG.uniform(1, 2, (2, 16, 32, 3)), jnp.bfloat16)
  kernel = jnp.asarray(RNG.normal(size=(3, 3, 3)), jnp.float32)

  def total(x, kernel):
    y = spatial.depthwise(x, kernel, resample=resample)
    assert y.dtype == x.dtype
    return y.astype(jnp.float32).sum()

  got = jax.grad(total, 1)(x, kernel)
  np.testing.assert_allclose(got, jax.grad(total, 1)(x.astype(jnp.float32), kernel), rtol=1e-6)


def test_a_stem_pool_takes_the_largest_of_nine():
  x = RNG.normal(size=(1, 6, 8, 2)).astype(np.float32)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
  got = spatial.max_pool_3x3(jnp.asarray(x))
  for row in range(3):
    for column in range(4):
      window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
      np.testing.assert_array_equal(got[:, row, column], window.max((1, 2)))


def test_depth_and_space_are_inverse():
  x = jnp.asarray(RNG.normal(size=(2, 4, 6, 3)), jnp.float32)
  blocks = spatial.space_to_depth(x)
  assert blocks.shape == (2, 2, 3, 12)
  np.testing.assert_array_equal(blocks[0, 1, 2, 3:6], x[0, 2, 5])  # phase (0, 1) of block (1, 2)
  np.testing.assert_array_equal(spatial.depth_to_space(blocks), x)


def test_nearest_up_doubles_every_pixel():
  x = RNG.normal(size=(1, 3, 2, 4)).astype(np.float32)
  np.testing.assert_array_equal(spatial.nearest_up(jnp.asarray(x)), x.repeat(2, 1).repeat(2, 2))
