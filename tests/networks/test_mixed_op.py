"""The mixed operation: the fast form against the definition, channel by channel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax.networks import mixed_op, ops, space
from thrifty_jax.networks.mixed_edges import MixedEdges
from thrifty_jax.networks.mixed_op import MixedOperation, mix_edges

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

EDGES, CELLS, SAMPLE = 2, 3, 4


def bypass(x, resample):
  """What the other channels go through, written the slow way."""
  if resample == 'down':
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))
  return x.repeat(2, axis=1).repeat(2, axis=2) if resample == 'up' else x


def case(resample, channels, count=EDGES, sides=(4, 6), chosen=()):
  """A state, weights of candidates and of edges, and parameters away from their start."""
  rng = np.random.default_rng(0)
  names = space.candidates(resample, chosen)
  state = jnp.asarray(rng.normal(0.3, 1, (2, *sides, channels)), jnp.float32)
  weights = jnp.asarray(rng.dirichlet(np.ones(len(names)), count), jnp.float32)
  edge_weights = jnp.asarray([0.7, 0.3, 0.5, 0.2][:count])
  edges = MixedEdges(names, channels // SAMPLE, count, CELLS)
  init = jax.eval_shape(edges.init, jax.random.key(0), weights, edge_weights)
  params = init.get('params', {}).get('operations', {})  # only shapes: drawing is faster here
  params = jax.tree.map(lambda p: 0.3 * rng.normal(size=p.shape).astype(np.float32), params)
  return edges, params, state, weights, edge_weights


def fast(edges, params, state, weights, edge_weights, order=None, cell=1):
  mixers = edges.apply({'params': {'operations': params}}, weights, edge_weights)
  return mix_edges(state, mixers[cell], order)


def plain(edges, params, state, weights, edge_weights, order=None, cell=1):
  """One edge after the other, with MixedOperation."""
  operation = MixedOperation(edges.candidates, edges.channels)
  resample = space.operation(edges.candidates[0]).resample
  state = state if order is None else state[..., order]
  result = []
  for edge in range(edges.edges):
    own = jax.tree.map(lambda p, edge=edge: p[cell, edge], params)
    sampled, rest = state[..., : edges.channels], state[..., edges.channels :]
    mixed = operation.apply({'params': own}, sampled, weights[edge])
    result.append((edge_weights[edge] * mixed, edge_weights[edge] * bypass(rest, resample)))
  return result


@pytest.mark.parametrize('resample,channels', [('normal', 64), ('down', 64), ('up', 128)])
def test_the_fast_form_is_the_definition_edge_by_edge(resample, channels):
  # A sample of 16 channels has one group in its norms, one of 32 has two; 4 are tested below.
  edges, *arguments = case(resample, channels)
  results = (jax.jit(lambda *a, run=run: run(edges, *a))(*arguments) for run in (fast, plain))
  for got, expected in zip(*results, strict=True):
    for a, b in zip(got, expected, strict=True):
      np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
  'resample,count,sides', [('normal', 4, (1, 3)), ('down', 1, (2, 2)), ('up', 4, (1, 1))]
)
def test_the_fast_form_takes_any_number_of_edges_and_of_pixels_in_any_order(resample, count, sides):
  edges, *arguments = case(resample, 16, count, sides)
  order = jax.random.permutation(jax.random.key(3), 16)
  got = jax.jit(lambda *a: fast(edges, *a))(*arguments, mixed_op.random_sampling(order).order)
  expected = jax.jit(lambda *a: plain(edges, *a))(*arguments, order)
  assert len(got) == len(expected) == count
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
  'resample,sampling', [('normal', 'shuffle'), ('down', 'random'), ('up', 'shuffle')]
)
def test_the_fast_form_has_the_gradients_of_the_definition(resample, sampling):
  edges, *arguments = case(resample, 16)
  order = None if sampling == 'shuffle' else jax.random.permutation(jax.random.key(3), 16)
  matrix = None if order is None else mixed_op.random_sampling(order).order
  cotangent = jax.random.normal(jax.random.key(5), (EDGES, 16))

  def gradients(run, order):
    def total(*arguments):
      terms = run(edges, *arguments, order)
      joined = [jnp.concatenate(term, axis=-1) for term in terms]
      return sum((term**2 * c).sum() for term, c in zip(joined, cotangent, strict=True))

    return jax.jit(jax.grad(total, argnums=range(4)))(*arguments)

  got, expected = gradients(fast, matrix), gradients(plain, order)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True
  ):
    scale = 1e-5 + float(jnp.abs(b).max())
    np.testing.assert_allclose(a / scale, b / scale, atol=5e-5, err_msg=str(path))


# One list each, by the candidates that are left: all in parts, some, none, without parameters.
CHOICES = [
  ('normal', ()),
  ('normal', ('conv_3x3', 'sep_conv_3x3', 'identity')),
  ('normal', ('none', 'identity')),
  ('normal', ('new_pool',)),
  ('normal', ('dil_conv_3x3', 'new_normal', 'new_pool')),
  ('down', ('down_max_pool', 'down_se_conv_3x3', 'new_down')),
  ('up', ('up_sep_conv_3x3', 'new_up')),
  ('up', ('new_up',)),
]


@pytest.fixture
def longer_table(monkeypatch):
  """The table with operations that no part of the fast form computes."""
  monkeypatch.setitem(
    ops.PARAMETERLESS, 'smooth', lambda x: (jnp.roll(x, 1, 1) + x + jnp.roll(x, -1, 2)) / 3
  )
  monkeypatch.setitem(ops.FORMS, 'smooth', ops.Parameterless)
  new = functools.partial(space.Operation, colour=space.CONV)
  rows = (
    new('new_normal', 'normal', 'convolution', dilation=3, gated=True),
    new('new_pool', 'normal', 'smooth'),
    new('new_down', 'down', 'convolution', separable=True, gated=True),
    new('new_up', 'up', 'convolution', dilation=5),
  )
  monkeypatch.setattr(space, 'OPERATIONS', (*space.OPERATIONS, *rows))
  jax.clear_caches()  # in which a list of names stands for its rows


@pytest.mark.parametrize(('resample', 'chosen'), CHOICES)
def test_chosen_candidates_and_such_without_a_part_are_mixed_as_defined(
  resample, chosen, longer_table, quick_compilation
):
  edges, *arguments = case(resample, 16, chosen=chosen)
  assert not chosen or {*edges.candidates} == {*chosen}
  cotangent = jax.random.normal(jax.random.key(5), (EDGES, 16))

  def total(run, *arguments):
    terms = run(edges, *arguments)
    joined = [jnp.concatenate(term, axis=-1) for term in terms]
    return sum((term**2 * c).sum() for term, c in zip(joined, cotangent, strict=True)), terms

  got, expected = (
    jax.jit(jax.value_and_grad(functools.partial(total, run), range(4), has_aux=True))(*arguments)
    for run in (fast, plain)
  )
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    scale = 1e-5 + float(jnp.abs(b).max())
    np.testing.assert_allclose(a / scale, b / scale, atol=5e-5)
  not_compiled = fast(edges, *arguments)
  for a, b in zip(jax.tree.leaves(not_compiled), jax.tree.leaves(expected[0][1]), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)


def test_a_shuffle_interleaves_the_groups():
  sampling = mixed_op.shuffled_sampling(8, 4)
  assert sampling.order is None
  # Channel g * 2 + i moves to i * 4 + g.
  expected = np.zeros(8)
  for group in range(4):
    for i in range(2):
      expected[i * 4 + group] = group * 2 + i
  np.testing.assert_array_equal(jnp.arange(8.0) @ sampling.back, expected)


def test_randomly_sampled_channels_return_to_their_places():
  order = np.array([3, 0, 2, 1])
  sampling = mixed_op.random_sampling(jnp.asarray(order))
  x = np.arange(4.0)
  assert sampling.order is not None
  np.testing.assert_array_equal(x @ sampling.order, x[order])
  np.testing.assert_array_equal(x @ sampling.order @ sampling.back, x)


def test_cells_and_edges_start_with_different_weights():
  edges = MixedEdges(space.candidates('normal'), 4, EDGES, CELLS)
  init = jax.jit(edges.init)
  params = init(jax.random.key(0), jnp.ones((EDGES, 6)) / 6, jnp.ones(EDGES) / EDGES)
  kernels = params['params']['operations']['conv_3x3']['kernel'].reshape(EDGES * CELLS, -1)
  assert len(np.unique(np.asarray(kernels), axis=0)) == EDGES * CELLS
