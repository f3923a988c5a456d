"""A NaN or an infinity is put somewhere, and found there: in inputs, weights, layers, gradients."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from thrifty_jax.errors import NotFinite
from thrifty_jax.networks import baselines, build, genotype, grid
from thrifty_jax.networks.losses import segmentation_loss
from thrifty_jax.training import not_finite

FOUND = genotype.Genotype(
  down=(((0, 'down_max_pool'), (1, 'down_sep_conv_3x3')),),
  up=(((0, 'conv_3x3'), (1, 'up_se_conv_3x3')),),
)
NETWORKS = {
  'unet': baselines.UNetPlusPlus(classes=2, nested=False, widths=(2, 2), norm='group'),
  'derived': grid.DerivedNetwork(FOUND, classes=2, channels=2, depth=2),
  'supernet': grid.Supernet(classes=2, channels=4, depth=2, nodes=1, sample=2, sampling='random'),
}
KEY = jax.random.key(3)


pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')


def made(name, side=8):
  """The network, its parameters, a batch, and the inputs of a supernet."""
  net = NETWORKS[name]
  random = np.random.default_rng(0)
  batch = {
    'image': jnp.asarray(random.normal(size=(2, side, side, 1)), jnp.float32),
    'label': jnp.asarray(random.integers(2, size=(2, side, side)), jnp.int32),
  }
  more: tuple[Any, ...] = ()
  if name == 'supernet':
    more = grid.init_architecture(jax.random.key(0), nodes=1), KEY
  params = build.initialise(build.trace_shapes(net, batch['image'], *more), seed=0)
  return functools.partial(build.apply, net, background=(0.0,)), params, batch, more


def source(network, params, batch, more, loss=segmentation_loss) -> str:
  found = not_finite.first_source(network, params, batch, *more, loss=loss)
  assert found and '\n' not in found
  return found


def changed(params, name, value, *, index=()):
  """The parameters with one value of an array, or all, replaced."""
  flat: Any = traverse_util.flatten_dict(params, sep='/')
  at = flat[name].at[index] if index else flat[name].at[...]
  return traverse_util.unflatten_dict(flat | {name: at.set(value)}, sep='/')


def test_nothing_is_found_where_all_is_finite():
  network, params, batch, _ = made('unet')  # the gradient of the others takes long to compile
  assert not_finite.first_source(network, params, batch, loss=segmentation_loss) == ''


@pytest.mark.parametrize('name', NETWORKS)
def test_no_layer_is_named_where_all_values_are_finite(name):
  def reached(logits, label):
    raise RuntimeError('all layers have run')

  network, params, batch, more = made(name)
  with pytest.raises(RuntimeError, match='all layers have run'):
    source(network, params, batch, more, reached)


@pytest.mark.parametrize(('value', 'kind'), [(np.nan, 'nan'), (np.inf, 'inf')])
def test_a_pixel_is_found_with_its_place(value, kind):
  network, params, batch, more = made('unet')
  batch['image'] = batch['image'].at[1, 2, 3, 0].set(value)
  found = source(network, params, batch, more)
  assert (
    found == f'the image batch: 1 of 128 values are non-finite, the first is {kind} at [1, 2, 3, 0]'
  )


@pytest.mark.parametrize(
  ('name', 'parameter', 'index'),
  [
    ('unet', 'up_0_1/kernel', (0, 0, 1, 2)),
    ('derived', 'stem/norm/scale', (1,)),
    ('supernet', 'up_from_1/operations/up_se_conv_3x3/gate/squeeze/bias', (1, 0, 0)),
  ],
)
def test_a_weight_is_found_by_its_name(name, parameter, index):
  network, params, batch, more = made(name)
  found = source(network, changed(params, parameter, -np.inf, index=index), batch, more)
  assert found.startswith(f'the parameter {parameter}: 1 of ')
  assert found.endswith(f' values are non-finite, the first is -inf at {list(index)}')


def test_of_several_weights_one_is_named_and_all_are_counted():
  network, params, batch, more = made('derived')
  for parameter in ('classes/kernel', 'head/in0/kernel', 'up_1_0/in0/norm/bias'):
    params = changed(params, parameter, np.nan)
  found = source(network, params, batch, more)
  assert found.startswith('the parameter classes/kernel: 36 of 36 values are non-finite')
  assert found.endswith(' (3 arrays have such values)')


def test_an_architecture_variable_is_found():
  network, params, batch, more = made('supernet')
  architecture, key = more
  up = architecture.up
  alphas = (up.alphas[0], up.alphas[1].at[2].set(np.nan), *up.alphas[2:])
  bad = architecture._replace(up=up._replace(alphas=alphas))
  found = source(network, params, batch, (bad, key))
  assert found.startswith('the architecture variable up/alphas/1: 1 of 4 values are non-finite')


ORDER = ('block_0_0/first', 'block_0_0/second', 'block_1_0/first', 'block_1_0/second', 'up_0_1',
         'block_0_1/first', 'block_0_1/second', 'classes_1')  # fmt: skip


@pytest.mark.parametrize('overflowing', ORDER)
def test_the_layer_that_overflows_is_named_and_all_before_it_are_finite(overflowing):
  network, params, batch, more = made('unet')
  params = changed(params, f'{overflowing}/kernel', 3e38)
  batch['image'] += 100.0 * (overflowing == 'block_0_0/first')
  found = source(network, params, batch, more)
  title = f'{overflowing} ({"Transposed" if overflowing == "up_0_1" else "Conv"})'
  assert found.startswith(f'the output of {title}: ')
  _, kept = NETWORKS['unet'].apply({'params': params}, batch['image'], capture_intermediates=True)
  outputs: Any = traverse_util.flatten_dict(kept['intermediates'], sep='/')
  finite = [bool(np.isfinite(outputs[f'{name}/__call__'][0]).all()) for name in ORDER]
  assert finite[: ORDER.index(overflowing) + 1] == [True] * ORDER.index(overflowing) + [False]


def test_what_overflows_between_two_modules_is_an_input_of_the_second():
  network, params, batch, more = made('derived')
  found = source(network, changed(params, 'stem/kernel', 3e38), batch, more)
  assert found.startswith('an input of stem/norm (Norm): ')
  found = source(network, changed(params, 'up_1_0/node1_from_0/kernel', 3e38), batch, more)
  assert found.startswith('an input of up_1_0/node1_from_0/norm (Norm): ')


def test_an_edge_of_the_supernet_is_told_by_its_state_and_a_cell_by_its_name():
  network, params, batch, more = made('supernet')
  operation = 'down_from_1/operations/down_sep_conv_3x3'
  large = changed(params, f'{operation}/depthwise', 1e30)
  found = source(network, changed(large, f'{operation}/pointwise', 1e30), batch, more)
  assert found.startswith('the output of down_from_1 (MixedEdges): ')
  found = source(network, changed(params, 'down_0_1/in0/kernel', 3e38), batch, more)
  assert found.startswith('an input of down_0_1/in0/norm (Norm): ')
  large = changed(params, 'up_from_1/operations/up_conv_3x3/kernel', 3e38)
  found = source(network, large, batch, more)
  assert found.startswith('an input of up_1_0/out (ConvNorm): ')


class Steep(nn.Module):
  """Two layers with a root between them, whose slope at 0 is infinite."""

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(3, name='before')(x)
    x = jnp.sqrt(x * 0) + nn.Dense(3, name='beside')(x)
    return nn.Dense(2, name='after')(x)


def plain(net):
  """A module that is none of ours as a function of parameters and inputs."""
  return lambda params, *inputs: net.apply({'params': params}, *inputs)


def mean(logits, label):
  return logits.mean(), None


def steep_loss(logits, label):
  return jnp.sqrt(0 * logits.sum()), None


def no_loss(logits, label):
  return jnp.log(0 * logits.sum()), None


def test_a_gradient_is_named_from_the_loss_backwards():
  network, batch = (
    plain(Steep()),
    {'image': jnp.ones((1, 4, 4, 1)), 'label': jnp.zeros((1, 4, 4), int)},
  )
  params = Steep().init(jax.random.key(0), batch['image'])['params']
  found = source(network, params, batch, (), mean)
  assert found.startswith('the gradient of the parameter before/')
  assert found.endswith(' (2 arrays have such values)')
  found = source(network, params, batch, (), steep_loss)
  assert found.startswith('the gradient of the parameter after/bias: ')
  assert source(network, params, batch, (), no_loss) == 'the loss: it is -inf'


class Mixed(nn.Module):
  """A layer and a variable that is no parameter, as a supernet has them."""

  @nn.compact
  def __call__(self, x, architecture, key):
    return nn.Dense(2, name='only')(x + jax.random.uniform(key)) + jnp.sqrt(architecture['gate'])


def test_a_gradient_of_the_architecture_is_found_too():
  network, batch = (
    plain(Mixed()),
    {'image': jnp.ones((1, 4, 4, 1)), 'label': jnp.zeros((1, 4, 4), int)},
  )
  more = {'gate': jnp.array([1.0, 0.0])}, KEY
  params = Mixed().init(jax.random.key(0), batch['image'], *more)['params']
  found = source(network, params, batch, more, mean)
  assert found == (
    'the gradient of the architecture variable gate: 1 of 2 values are non-finite, the first is '
    'inf at [1]'
  )


def test_the_state_of_an_optimiser_is_looked_through():
  state = optax.adam(1e-3).init({'kernel': jnp.ones((2, 2))})
  assert not_finite.in_tree(state, 'the optimiser') == ''
  bad = jax.tree.map(lambda x: x * jnp.nan if x.ndim else x, state)
  found = not_finite.in_tree(bad, 'the optimiser')
  assert found == (
    'the optimiser 0/mu/kernel: 4 of 4 values are non-finite, the first is nan at [0, 0] '
    '(2 arrays have such values)'
  )
  half = {'a': jnp.array([1, jnp.inf, jnp.nan], jnp.bfloat16), 'step': jnp.zeros((), int)}
  assert not_finite.in_tree(half, 'x') == (
    'x a: 2 of 3 values are non-finite, the first is inf at [1]'
  )


class State(NamedTuple):
  step: jax.Array
  params: jax.Array


def divide(state, batch):
  """A step that divides by the batch."""
  params = state.params / batch
  return State(state.step + 1, params), {'loss': params.sum(), 'of_ones': jnp.ones(2)}


STATE = State(jnp.asarray(6), jnp.ones(3))


def test_a_step_that_is_watched_does_what_it_does_where_all_is_finite():
  watched = not_finite.watch(divide, lambda *arguments: 'nothing is looked for', stage='search')
  jax.tree.map(np.testing.assert_array_equal, watched(STATE, 2.0), divide(STATE, 2.0))


@pytest.mark.parametrize(
  ('source', 'told'),
  [
    (lambda state, batch: f'a batch of {batch:.0f} at {state.step}', 'a batch of 0 at 6'),
    (lambda state, batch: '', 'after the step, the state params: 3 of 3 values are non-finite'),
  ],
)
def test_a_step_that_is_watched_stops_with_its_number_and_what_was_first(source, told):
  watched = not_finite.watch(divide, source, stage='search')
  start = f'search, step 7: loss is non-finite; the first non-finite value is {told}'
  with pytest.raises(NotFinite) as caught:
    watched(STATE, 0.0)
  assert str(caught.value).startswith(start) and caught.value.step == 7
