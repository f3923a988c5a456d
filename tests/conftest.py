"""Before any test: the CPU, and folders of their own instead of the user's."""

import atexit
import contextlib
import importlib.metadata
import os
import shutil
import signal
import sys
import tempfile

_PLACE = tempfile.mkdtemp(prefix='thrifty_jax_tests_')
atexit.register(shutil.rmtree, _PLACE, ignore_errors=True)

# JAX and TFDS read these when they are imported.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['TFDS_DATA_DIR'] = os.path.join(_PLACE, 'tensorflow_datasets')
os.environ['XDG_CACHE_HOME'] = os.path.join(_PLACE, 'cache')

# XLA reads this when it starts, here and in the processes of tests: it compiles to LLVM without
# MLIR, in half the time. JAX 0.11 has no such flag, and XLA ends a process whose flags it does not
# know.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  _FLAGS_OF_XLA = os.environ.get('XLA_FLAGS', ''), '--xla_cpu_use_fusion_emitters=false'
  os.environ['XLA_FLAGS'] = ' '.join(_FLAGS_OF_XLA).strip()

# No test cuts the power, and to wait for the disk takes most of the time of many small files.
os.fsync = lambda fd: None

# OpenVINO reports to its makers from a fork of whatever process imports it first.
sys.modules.setdefault('openvino_telemetry', None)  # pyrefly: ignore[no-matching-overload]

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from thrifty_jax import config as configs  # noqa: E402
from thrifty_jax import model_folder, records, stopping  # noqa: E402
from thrifty_jax.networks import build, genotype  # noqa: E402
from thrifty_jax.networks.model_spec import ModelSpec, make_spec  # noqa: E402
from thrifty_jax.training import train_data  # noqa: E402

# Of JAX; the commands change the last two.
_FLAGS = (
  'jax_disable_most_optimizations',
  'jax_enable_compilation_cache',
  'jax_compilation_cache_dir',
)

# Files of half a minute to two. Begun last, one of them would leave the other cores idle.
_LONGEST = {
  *('test_benchmarks', 'test_broken_raw', 'test_describe', 'test_grid', 'test_interrupted'),
  *('test_lean_training', 'test_mesh', 'test_notebooks', 'test_pictures_run', 'test_pipeline'),
  *('test_planes', 'test_precision', 'test_race_run', 'test_regions_run', 'test_retrain'),
  *('test_search', 'test_seeds', 'test_start_model', 'test_teacher'),
}


def pytest_collection_modifyitems(items):
  """Puts the longest files first."""
  items.sort(key=lambda item: item.path.stem not in _LONGEST)


def _quick_compilation():
  """Half the time to compile, on which nothing depends; then JAX as before, whatever ran."""
  before = {name: jax.config.values[name] for name in _FLAGS}
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  for name, value in before.items():
    jax.config.update(name, value)


quick_compilation = pytest.fixture(_quick_compilation)
# Module fixtures compile too.
quick_compilation_of_module = pytest.fixture(_quick_compilation, scope='module')


@pytest.fixture
def double_precision():
  """Float64 wherever the code does not ask for less."""
  jax.config.update('jax_enable_x64', True)
  yield
  jax.config.update('jax_enable_x64', False)


@pytest.fixture(scope='session')
def phantom_config():
  """The function from a folder to the settings of a tiny run on phantoms inside it.

  Augmentation draws random numbers, but does not warp: that takes long to compile.
  """

  def settings(folder):
    config = configs.default()
    config.data.name = 'phantom'
    config.data.image_size = 16
    config.data.folds = 3
    config.data.raw_dir = str(folder / 'raw')
    config.data.data_dir = str(folder / 'tfds')
    augment = config.augment
    augment.rotate_degrees = augment.elastic_probability = 0.0
    augment.translate = (0.0, 0.0)
    augment.scale = augment.gamma = (1.0, 1.0)
    return config

  return settings


@pytest.fixture(scope='session')
def random_model():
  """The function that writes a model folder with random weights, which look at every channel.

  It takes the folder, a config with a thrifty network of two levels, a seed, and fields of
  preprocessing.json to change; and returns the folder.
  """
  found = genotype.Genotype(
    down=(((0, 'down_max_pool'), (1, 'down_sep_conv_3x3')),),
    up=(((0, 'conv_3x3'), (1, 'up_se_conv_3x3')),),
  )

  def write(folder, config, *, seed=0, **changes):
    values = np.full(config.data.modalities, 0.3, np.float32)
    described = records.to_json(make_spec(config, {'mean': values, 'std': values}))
    spec = records.parse(described | changes, ModelSpec, folder)
    shapes = build.find_shapes(build.build(spec, found), spec.image_channels)
    params = build.initialise(shapes, seed=seed)
    genotype_file = folder.parent / f'{folder.name}_genotype.json'
    genotype.save(genotype_file, found)
    model_folder.save(folder, params, spec=spec, genotype_file=genotype_file, card='# Made up')
    return folder

  return write


@pytest.fixture
def stop_at(monkeypatch):
  """The function from a step to a context in which a signal to stop arrives during that step."""

  @contextlib.contextmanager
  def at(step):
    add, last = train_data.Figures.add, []

    def watched(figures, number, metrics):
      last.append(number)
      add(figures, number, metrics)

    def requested():
      return signal.SIGTERM if last and last[-1] >= step else 0

    with monkeypatch.context() as patch:
      patch.setattr(train_data.Figures, 'add', watched)
      patch.setattr(stopping, 'requested', requested)
      yield

  return at
