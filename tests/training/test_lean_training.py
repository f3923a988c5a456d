"""Networks with batch norms through the training: their statistics, stops, devices, model."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import interrupted
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recorded import prepare_for

from data_prep import phantom
from thrifty_jax import config as configs
from thrifty_jax import model_folder, stopping
from thrifty_jax.errors import InputError
from thrifty_jax.networks import build, genotype, grid
from thrifty_jax.networks.lean import LeanNetwork
from thrifty_jax.networks.lean_space import LeanShape, Level
from thrifty_jax.networks.model_spec import make_spec
from thrifty_jax.training import genotypes, retrain, train_step

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

SHAPE = LeanShape(
  (Level(4, 1, 1, 'plain'), Level(8, 1, 1, 'residual'), Level(8, 1, 0, 'bottleneck')),
  stem=2,
  up='transposed',
  skip='add',
  norm='batch',
)


CELLS = genotype.Genotype(
  down=(((0, 'down_sep_conv_3x3'), (1, 'down_max_pool')),),
  up=(((0, 'conv_3x3'), (1, 'up_conv_3x3')),),
)
NETWORKS = (
  LeanNetwork(SHAPE, 2),
  grid.DerivedNetwork(CELLS, 2, channels=4, depth=3, norm='batch', deep_supervision=True),
)


@pytest.fixture(scope='module')
def config(tmp_path_factory, phantom_config):
  folder = tmp_path_factory.mktemp('lean')
  config = phantom_config(folder)
  config.model.name = 'lean'
  config.genotype = str(folder / 'genotype.json')
  genotype.save(folder / 'genotype.json', SHAPE)
  config.retrain.update({'epochs': 3, 'batch_size': 4, 'warmup_epochs': 1, 'validate_every': 1})
  phantom.write_promise12(folder / 'raw', patients=6, seed=0)
  return config


def make_step(net, transformation):
  return train_step.make_train_step(
    net,
    transformation,
    augment=lambda key, batch: batch,
    average_decay=0.5,
    seed=0,
    background=(0.0,),
  )


def make_batch(size=8):
  generator = np.random.default_rng(0)
  image = generator.normal(2, 3, (size, 4, 4, 1)).repeat(4, 1).repeat(4, 2)
  label = image[..., 0] > 2
  return {'image': jnp.asarray(image, jnp.float32), 'label': jnp.asarray(label, jnp.uint8)}


def test_the_running_statistics_approach_those_of_the_batch():
  net = LeanNetwork(SHAPE, 2)
  image = jax.ShapeDtypeStruct((8, 16, 16, 1), jnp.float32)
  state, _ = train_step.init_state(net, optax.adamw(0.01), image, seed=0)
  batch, step = make_batch(), jax.jit(make_step(net, optax.adamw(0.01)))
  first = state.params['encoder_0']['conv_0']['norm']
  assert (first['mean'] == 0).all() and (first['variance'] == 1).all()
  for _ in range(80):
    state, metrics = step(state, batch)
  assert np.isfinite(metrics['loss'])
  trained, statistics = build.apply_training(
    net, state.params, batch['image'], background=np.zeros(1, np.float32)
  )
  norm = state.params['encoder_0']['conv_0']['norm']
  for name in ('mean', 'variance'):
    np.testing.assert_allclose(
      norm[name], statistics['encoder_0']['conv_0']['norm'][name], rtol=0.1, atol=0.05
    )
  # So the network predicts with them nearly what it learned with the batch's own.
  predicted = build.apply(net, state.average, batch['image'], background=np.zeros(1, np.float32))
  assert np.mean(predicted.argmax(-1) == trained.argmax(-1)) > 0.9


def test_a_stopped_run_goes_on_with_the_same_bits_and_the_model_has_the_statistics(
  config, tmp_path, stop_at
):
  for name in ('unbroken', 'stopped'):
    prepare_for(config, tmp_path / name)
  retrain.retrain(config, tmp_path / 'unbroken')
  with stop_at(4), pytest.raises(stopping.Stopped):
    retrain.retrain(config, tmp_path / 'stopped')
  retrain.retrain(config, tmp_path / 'stopped')
  found, expected = (
    interrupted.last_state(tmp_path / name / 'retrain' / 'checkpoints')
    for name in ('stopped', 'unbroken')
  )
  assert found.keys() == expected.keys()
  for name, array in found.items():
    np.testing.assert_array_equal(array, expected[name], err_msg=name)
  loaded = model_folder.load(tmp_path / 'stopped' / 'model')
  assert loaded.genotype == SHAPE
  assert (loaded.params['encoder_0']['conv_0']['norm']['mean'] != 0).any()


def test_batch_norms_refuse_microbatches(config, tmp_path):
  config = config.copy_and_resolve_references()
  config.retrain.microbatches = 2
  with pytest.raises(InputError, match=r'microbatches is 2, but .* has batch norms'):
    genotypes.require_trainable(config, tmp_path)


def test_the_cells_refuse_microbatches_and_a_lean_network_the_setting():
  config = configs.default()
  config.model.norm = 'batch'
  config.search.microbatches = 2  # the supernet keeps its own norms
  configs.validate(config)
  config.retrain.microbatches = 2
  with pytest.raises(InputError, match=r"microbatches is 2; expected 1 with model.norm 'batch'"):
    configs.validate(config)
  config.model.update({'name': 'lean', 'norm': 'none'})  # which races
  with pytest.raises(InputError, match='microbatches is 2; expected 1 with batch norms, .* batch'):
    configs.validate(config)
  for name in ('genotype', 'retrain.start_from'):  # whose norm the genotype has
    given = config.copy_and_resolve_references()
    given.update_from_flattened_dict({name: __file__})
    configs.validate(given)
  config.model.norm = 'batch'
  with pytest.raises(InputError, match=r"norm is 'batch'; expected 'none' with the model 'lean'"):
    configs.validate(config)


def test_a_shared_head_keeps_the_statistics_of_the_output_that_predicts():
  net = NETWORKS[1].copy(remat=True)
  image = make_batch(2)['image']
  params = build.initialise(build.trace_shapes(net, image), seed=0)
  found, expected = (
    jax.jit(functools.partial(build.apply_training, one, background=(0.0,)))(params, image)
    for one in (net, net.copy(remat=False, deep_supervision=False))
  )
  assert found[0].shape == (2, *expected[0].shape)
  np.testing.assert_allclose(found[0][-1], expected[0], atol=1e-5)
  assert {'mean', 'variance'} == found[1]['head']['out']['norm'].keys()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found[1], expected[1])


def test_a_genotype_of_cells_is_none_of_a_lean_network(tmp_path):
  config = configs.default()
  config.model.name = 'lean'
  spec = make_spec(config, {'mean': np.zeros(1), 'std': np.ones(1)})
  with pytest.raises(InputError, match='describes cells, .* add the variant thrifty'):
    build.build(spec, genotype.Genotype(down=(), up=()))


DEVICES = """
import sys
sys.path[:0] = ['tests', 'tests/training']
import jax, json, numpy as np, optax
import test_lean_training as test_lean
from thrifty_jax.data import mesh
from thrifty_jax.training import train_step
image = jax.ShapeDtypeStruct((8, 16, 16, 1), 'float32')

def train(net, devices):
  auto = (jax.sharding.AxisType.Auto,)
  mesh_ = jax.make_mesh((len(devices),), (mesh.AXIS,), axis_types=auto, devices=devices)
  state, _ = train_step.init_state(net, optax.sgd(0.1), image, seed=0)
  state = mesh.place(state, mesh.whole(mesh_))
  batch = mesh.place(test_lean.make_batch(), mesh.split(mesh_))
  state, _ = jax.jit(test_lean.make_step(net, optax.sgd(0.1)))(state, batch)
  return jax.tree.leaves(state.params)

for net in test_lean.NETWORKS:
  states = [train(net, devices) for devices in (jax.devices()[:1], jax.devices())]
  print(json.dumps(max(float(abs(np.array(a) - np.array(b)).max()) for a, b in zip(*states))))
"""


def test_statistics_over_eight_devices_are_those_of_one():
  project = Path(__file__).parents[2]
  flags = {
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'PYTHONPATH': str(project),
  }
  done = subprocess.run(
    [sys.executable, '-W', 'ignore', '-c', DEVICES],
    cwd=project,
    env=os.environ | flags,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  differences = [json.loads(line) for line in done.stdout.splitlines()]
  assert len(differences) == len(NETWORKS) and max(differences) < 1e-4, differences
