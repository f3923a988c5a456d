"""Every operation against a slow reference in numpy, written from the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax import norm, ops, spatial

RNG = np.random.default_rng(0)
C = 16
KINDS = sorted({kind for kinds in ops.OPERATIONS.values() for kind in kinds})


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


def reference_operation(kind, x, params):
  """A derived operation, from DESIGN section 2.3."""
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
  if 'sep_conv' in kind:
    kernel = np.einsum('pqi,io->pqio', params['depthwise'][:, :, 0], params['pointwise'])
  else:
    kernel = params['kernel']
  if kind.startswith('up_'):
    dilation = 3 if 'dil' in kind else 1
    setting = {'stride': 1, 'zeros': 1, 'dilation': dilation, 'padding': (dilation, dilation + 1)}
  else:
    setting = {'stride': 2 if 'down' in kind else 1, 'dilation': 2 if 'dil' in kind else 1}
  y = reference_norm(reference_convolution(x, kernel, **setting))
  return np.maximum(y * params['norm']['scale'] + params['norm']['bias'], 0)


@pytest.mark.parametrize('kind', KINDS)
def test_every_operation_is_what_its_definition_says(kind):
  x = RNG.normal(0.2, 1, (2, 6, 8, C)).astype(np.float32)
  module = ops.operation(kind, channels=C)
  shapes = jax.eval_shape(module.init, jax.random.key(0), x).get('params', {})
  params = jax.tree.map(lambda s: RNG.normal(0.2, 0.5, s.shape).astype(np.float32), shapes)
  got = jax.jit(module.apply)({'params': params}, x)
  expected = reference_operation(kind, x.astype(float), params)
  np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)


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


@pytest.mark.parametrize('kind', ['identity', 'down_avg_pool', 'down_max_pool'])
def test_mixed_pools_and_identity_end_in_a_norm_without_parameters(kind):
  x = RNG.normal(3, 2, (2, 4, 4, C)).astype(np.float32)
  module = ops.operation(kind, channels=C, mixed=True)
  got, params = module.init_with_output(jax.random.key(0), jnp.asarray(x))
  assert not params
  np.testing.assert_allclose(
    got, reference_norm(reference_operation(kind, x, {})), atol=1e-5, rtol=1e-5
  )


@pytest.mark.parametrize('channels', [1, 8, 16, 24, 48])
def test_the_norm_takes_groups_of_sixteen_channels(channels):
  x = RNG.normal(1, 3, (2, 5, 4, channels)).astype(np.float32)
  got = norm.Norm(affine=False).apply({}, jnp.asarray(x))
  np.testing.assert_allclose(np.asarray(got), reference_norm(x), atol=1e-5)


def test_the_norm_of_a_constant_is_zero_not_nan():
  x = jnp.full((1, 4, 4, 16), 7.0)
  value, gradient = jax.value_and_grad(lambda x: norm.standardise(x, 1).sum())(x)
  assert value == 0
  assert jnp.isfinite(gradient).all()


def test_the_written_gradient_of_the_norm_is_that_of_the_formula():
  parts = tuple(jnp.asarray(RNG.normal(1, 2, (2, 3, 4, c)), jnp.float32) for c in (8, 16, 4))
  cotangents = [jnp.asarray(RNG.normal(size=x.shape), jnp.float32) for x in parts]

  def total(outputs):
    return sum((y * c).sum() for y, c in zip(outputs, cotangents, strict=True))

  def formula(x, rectified):
    batch, height, width, channels = x.shape
    grouped = x.reshape(batch, height, width, channels // 4, 4)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    variance = jnp.square(grouped - mean).mean((1, 2, 4), keepdims=True)
    y = ((grouped - mean) / jnp.sqrt(variance + 1e-5)).reshape(x.shape)
    return jax.nn.relu(y) if rectified else y

  got = jax.jit(jax.value_and_grad(lambda p: total(norm.standardise_parts(p, 4, 2))))(parts)
  expected = jax.value_and_grad(lambda p: total([formula(x, i < 2) for i, x in enumerate(p)]))(
    parts
  )
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


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
