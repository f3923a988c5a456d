"""Training in bfloat16: what is computed in it, what stays float32, and that both loops run so."""

import functools
from typing import Any

import interrupted
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from few_operations import FEW
from recorded import open_data, prepare_for

from data_prep import phantom
from thrifty_jax import logbook, model_folder, records
from thrifty_jax.networks import baselines, build, genotype, grid
from thrifty_jax.networks.losses import segmentation_loss
from thrifty_jax.run_files import Retrained
from thrifty_jax.searching import bilevel, search, steps
from thrifty_jax.training import retrain, train_step

FOUND = genotype.Genotype(
  down=(((0, 'down_sep_conv_3x3'), (1, 'down_se_conv_3x3')),),
  up=(((0, 'se'), (1, 'up_dil_conv_3x3')),),
)
NETWORKS = {
  'derived': grid.DerivedNetwork(FOUND, classes=3, channels=8, depth=2),
  'supernet': grid.Supernet(3, channels=8, depth=2, nodes=1, sample=2),
  'unet': baselines.UNetPlusPlus(3, nested=True, widths=(4, 8), norm='group'),
}


pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')


BLACK = (0.0,)


@functools.cache
def problem(name):
  """Parameters and what a network is applied to; the image in float32."""
  random = np.random.default_rng(0)
  inputs: list[Any] = [jnp.asarray(random.normal(size=(2, 16, 16, 1)), jnp.float32)]
  if name == 'supernet':
    inputs.append(grid.init_architecture(jax.random.key(0), nodes=1))
  label = jnp.asarray(random.integers(3, size=(2, 16, 16)), jnp.int32)
  return build.initialise(build.trace_shapes(NETWORKS[name], *inputs), seed=0), inputs, label


def equations(program):
  """All of a traced program, those inside others too."""
  for equation in program.eqns:
    yield equation
    for inner in jax.tree.leaves(
      equation.params, is_leaf=lambda x: hasattr(x, 'eqns') or hasattr(x, 'jaxpr')
    ):
      inner = getattr(inner, 'jaxpr', inner)
      if hasattr(inner, 'eqns'):
        yield from equations(inner)


def types_of(program, primitive):
  return [
    equation.invars[0].aval.dtype
    for equation in equations(program)
    if str(equation.primitive) == primitive
  ]


@pytest.mark.parametrize('name', NETWORKS)
def test_convolutions_follow_the_image_but_the_last_and_the_statistics_are_float32(name):
  params, (image, *more), _ = problem(name)
  apply = functools.partial(build.apply, NETWORKS[name], background=BLACK)
  inputs = (params, image.astype(jnp.bfloat16), *more)
  assert jax.eval_shape(apply, *inputs).dtype == jnp.float32
  program = jax.make_jaxpr(apply)(*inputs).jaxpr
  convolutions = types_of(program, 'conv_general_dilated')
  last = sum(kind == jnp.float32 for kind in convolutions)
  assert last == 1 and len(convolutions) > 4
  statistics = types_of(program, 'rsqrt')
  assert statistics and all(kind == jnp.float32 for kind in statistics)


@pytest.mark.parametrize('name', NETWORKS)
def test_logits_in_bfloat16_are_near_those_in_float32(name):
  params, (image, *more), _ = problem(name)
  logits_of = jax.jit(functools.partial(build.apply, NETWORKS[name], background=BLACK))
  exact, logits = (logits_of(params, x, *more) for x in (image, image.astype(jnp.bfloat16)))
  assert logits.dtype == jnp.float32 and exact.dtype == jnp.float32
  assert 1e-4 < distance(logits, exact) < 0.05


def test_gradients_through_bfloat16_are_float32_and_near_those_through_float32():
  params, (image,), label = problem('unet')

  @jax.jit
  def gradient_at(image):
    def loss(params):
      return segmentation_loss(
        build.apply(NETWORKS['unet'], params, image, background=BLACK), label
      )[0]

    return jax.tree.leaves(jax.grad(loss)(params))

  exact, found = gradient_at(image), gradient_at(image.astype(jnp.bfloat16))
  assert {leaf.dtype for leaf in found} == {np.dtype(np.float32)}
  flat, expected = (jnp.concatenate([leaf.ravel() for leaf in part]) for part in (found, exact))
  assert np.isfinite(flat).all() and 1e-4 < distance(flat, expected) < 0.1


def distance(found, exact):
  """Of two arrays, relative to the norm of the second."""
  return float(jnp.linalg.norm((found - exact).ravel()) / jnp.linalg.norm(exact.ravel()))


# --- both loops, with everything on that saves memory


@pytest.fixture(scope='module')
def config(tmp_path_factory, phantom_config):
  folder = tmp_path_factory.mktemp('precision')
  config = phantom_config(folder)
  config.precision = 'bfloat16'
  config.model.channels, config.model.depth, config.model.nodes = 4, 2, 1
  for settings in (config.search, config.retrain):
    settings.epochs, settings.warmup_epochs = 2, 1
    settings.batch_size, settings.microbatches, settings.remat = 4, 2, True
  config.search.channels, config.search.operations = 4, FEW
  phantom.write_promise12(folder / 'raw', patients=7, seed=0)
  return config


@pytest.fixture(autouse=True)
def slices(config, tmp_path):
  """The run of each test has the prepared slices."""
  prepare_for(config, tmp_path)


class _Seen(Exception):
  """Ends a search before it compiles."""


def test_a_search_hands_its_settings_for_memory_to_its_steps(config, tmp_path, monkeypatch):
  seen: dict[str, Any] = {}

  def record(learners, **settings):
    seen.update(settings, remat=learners.net.remat)
    raise _Seen

  monkeypatch.setattr(bilevel, 'make_half_steps', record)
  with pytest.raises(_Seen):
    search.search(config, tmp_path)
  assert seen['parts'] == 2 and seen['remat'] is True


def test_a_search_in_bfloat16_keeps_its_state_in_float32(config, tmp_path, capsys):
  config = config.copy_and_resolve_references()
  config.search.microbatches, config.search.remat = 1, False  # half the time to compile
  opened = open_data(config)
  found = search.search(config, tmp_path)
  assert genotype.load(tmp_path / 'search' / 'genotype.json') == found
  assert 'a step needs' in capsys.readouterr().out
  state = interrupted.last_state(tmp_path / 'search' / 'checkpoints')
  start, _ = steps.start(config, steps.divide(config, opened, seed=0))
  assert len(state) == len(jax.tree.leaves((start._asdict(), start.architecture)))
  assert float_types(state) == {np.dtype(np.float32)}
  assert opened.augment(jax.random.key(0), batch_of(opened))['image'].dtype == jnp.bfloat16


def test_a_retraining_in_bfloat16_and_parts_leaves_a_model_in_float32(config, tmp_path):
  config = config.copy_and_resolve_references()
  config.genotype = str(tmp_path / 'genotype.json')
  genotype.save(tmp_path / 'genotype.json', FOUND)
  summary = retrain.retrain(config, tmp_path)
  assert summary.precision == 'bfloat16'
  assert records.read(tmp_path / 'retrain' / 'summary.json', Retrained) == summary
  assert float_types(model_folder.load(tmp_path / 'model').params) == {np.dtype(np.float32)}
  losses = [entry['loss'] for entry in logbook.Logbook(tmp_path / 'retrain').entries()]
  assert len(losses) == 2 and losses[1] < losses[0]


def test_metrics_and_optimiser_of_a_step_in_bfloat16_are_float32(config):
  opened = open_data(config)
  transformation = optax.adamw(1e-3)
  net = NETWORKS['unet'].copy(classes=2)
  state, _ = train_step.init_state(net, transformation, opened.image_shape(4), seed=0)
  step = train_step.make_train_step(
    net, transformation, augment=opened.augment, average_decay=0.9, seed=0, background=BLACK
  )
  moved, metrics = jax.eval_shape(step, state, opened.batch_shape(4))
  assert float_types((moved._asdict(), metrics)) == {np.dtype(np.float32)}


def batch_of(opened):
  return next(opened.epochs(opened.patients['train'], batch_size=4, seed=0).batches(0))


def float_types(tree):
  """Types of the arrays that hold no whole numbers."""
  kinds = {np.dtype(leaf.dtype) for leaf in jax.tree.leaves(tree)}
  return {kind for kind in kinds if jax.dtypes.issubdtype(kind, np.inexact)}
