"""The command that times networks: its table and file, and what it refuses."""

import dataclasses
import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from thrifty_jax import config as configs
from thrifty_jax import records
from thrifty_jax.cost import __main__ as command
from thrifty_jax.cost import candidates, costs, runtimes
from thrifty_jax.errors import InputError
from thrifty_jax.model_folder import LoadedModel
from thrifty_jax.networks import genotype
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.lean_space import LeanShape, Level

PROJECT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')
TINY = {
  'plain': LeanShape((Level(8, 1, 1, 'plain'),) * 3, 1, 'nearest', 'add', 'batch'),
  'axial': LeanShape((Level(8, 1, 1, 'axial'),) * 3, 2, 'transposed', 'concat', 'batch'),
}
# Whether a machine is busy is not what these tests are about.
QUICK = ('--size=16', '--repeats=2', '--spread=1000')


@pytest.fixture(scope='module')
def genotypes(tmp_path_factory):
  """The names of two genotype files."""
  folder = tmp_path_factory.mktemp('genotypes')
  for name, shape in TINY.items():
    genotype.save(folder / f'{name}.json', shape)
  return [str(folder / f'{name}.json') for name in TINY]


def only_error(capsys):
  error = capsys.readouterr().err
  assert error.startswith('error: ') and error.count('\n') == 1, error
  return error


def onnx_or_skip():
  pytest.importorskip('onnx')
  pytest.importorskip('onnxruntime')


@pytest.mark.parametrize('there', [True, False])
def test_what_is_installed_is_onnx_runtime_and_openvino_if_it_is_there(there, monkeypatch):
  monkeypatch.setattr(runtimes.importlib.util, 'find_spec', lambda name: there or None)
  names = ['onnxruntime', 'openvino'][: 1 + there]
  expected = [(name, precision) for name in names for precision in ('float32', 'int8')]
  assert [(way.runtime, way.precision) for way in runtimes.choose('installed', 'all')] == expected
  assert [way.runtime for way in runtimes.choose('installed', 'int8')] == names


def test_two_genotypes_are_timed_in_two_precisions(genotypes, tmp_path, capsys):
  onnx_or_skip()
  output = tmp_path / 'costs.json'
  named = f'--genotypes={",".join(genotypes)}'
  assert command.main([named, '--runtime=onnxruntime', *QUICK, f'--output={output}']) == 0
  found = records.read(output, tuple[costs.Cost, ...])
  assert {(one.name, one.precision) for one in found} == {
    (name, precision) for name in genotypes for precision in ('float32', 'int8')
  }
  assert [one.ms for one in found] == sorted(one.ms for one in found)
  for one in found:
    shape = TINY['plain' if 'plain' in one.name else 'axial']
    assert (one.space, one.title) == ('lean', shape.title)
    assert (one.size, one.threads, one.runtime) == (16, 1, 'onnxruntime')
    assert one.ms > 0 and one.parameters > 0 and one.macs > one.parameters and one.file_bytes
  lines = capsys.readouterr().out.splitlines()
  rows = [line.split()[0] for line in lines if line.startswith(str(tmp_path.parent))]
  assert rows == [one.name for one in found]


def test_a_folder_stands_for_the_genotypes_in_it(genotypes, tmp_path):
  folder = str(Path(genotypes[0]).parent)
  values = command.read([f'--genotypes={folder}'])
  assert command.find_genotypes(values) == sorted(genotypes)
  with pytest.raises(InputError, match='is named twice'):
    command.read([f'--genotypes={folder},{genotypes[0]}'])
  with pytest.raises(InputError, match='has no file'):
    command.read([f'--genotypes={tmp_path}'])


def test_a_model_folder_is_timed_at_the_size_that_is_asked_for(tmp_path, random_model, capsys):
  config = configs.default()
  config.data.image_size = 32
  config.model.update({'channels': 4, 'depth': 2})
  folder = random_model(tmp_path / 'model', config)
  output = tmp_path / 'costs.json'
  more = ('--runtime=jax', f'--output={output}')
  assert command.main([f'--models={folder}', *QUICK, *more]) == 0
  (found,) = records.read(output, tuple[costs.Cost, ...])
  assert (found.name, found.space, found.size) == (str(folder), 'thrifty', 16)
  assert (found.runtime, found.precision, found.file_bytes) == ('jax', 'float32', None)
  assert found.activation_bytes


def test_every_way_gives_the_same_logits(tmp_path):
  onnx_or_skip()
  pytest.importorskip('openvino')
  config = configs.default()
  config.model.name, config.cost.size = 'lean', 16
  config.data.update({'classes': ('background', *'ab'), 'modalities': 2})
  member = candidates.of_config('lean', config, TINY['plain']).member
  images = costs.make_images(2, 2, 16)
  ways = runtimes.choose('all', 'all')
  started = runtimes.start(member, ways, threads=1, images=images)
  assert [(one.way.runtime, one.way.precision) for one in started] == [
    *(('onnxruntime', 'float32'), ('onnxruntime', 'int8')),
    *(('openvino', 'float32'), ('openvino', 'int8')),
    ('jax', 'float32'),
  ]
  wanted = started[-1].run(images[:1])
  assert wanted.shape == (1, 3, 16, 16) and wanted.std() > 0.01
  for one in started:
    tolerance = 1e-4 if one.way.precision == 'float32' else 0.2
    np.testing.assert_allclose(one.run(images[:1]), wanted, atol=tolerance * np.abs(wanted).max())


def test_a_genotype_of_cells_is_timed_with_every_number_of_channels_and_norm(tmp_path, monkeypatch):
  bare = functools.partial(LoadedModel, params={}, sha256='')
  monkeypatch.setattr(costs, 'make_random', bare)
  path = str(tmp_path / 'cells.json')
  node = ((0, 'conv_3x3'), (1, 'up_conv_3x3'))
  genotype.save(
    Path(path), Genotype(down=(((0, 'down_conv_3x3'), (1, 'down_max_pool')),), up=(node,))
  )
  found = candidates.load([], [path], size=32, cells=[(4, 'group'), (2, 'batch')])
  assert [one.name for one in found] == [f'{path} 4:group', f'{path} 2:batch']
  modules = [one.member.module for one in found]
  assert [(one.channels, one.norm) for one in modules] == [(4, 'group'), (2, 'batch')]


def test_a_baseline_of_a_config_is_a_candidate():
  config = configs.default()
  config.model.update({'name': 'unet', 'width': 4})
  config.data.image_size = 32
  candidate = candidates.of_config('mine', config, None)
  assert candidate.name == 'mine' and candidate.member.spec.image.image_size == 32
  (found,) = costs.measure(
    [candidate], runtimes.choose('jax', 'all'), repeats=1, most_spread=9, activations=False
  )
  assert (found.space, found.title, found.activation_bytes) == ('baseline', 'unet 4', None)


def test_a_cost_is_read_back_as_it_was_written(tmp_path):
  one = costs.Cost('a', 'A', 'lean', 1, 2, None, 16, 'jax', 'float32', 1, 1.5, 0.1, None, 'CPU')
  several = (one, dataclasses.replace(one, activation_bytes=3, file_bytes=4))
  records.write(tmp_path / 'costs.json', several)
  assert records.read(tmp_path / 'costs.json', tuple[costs.Cost, ...]) == several


# --- what is refused


@pytest.mark.parametrize(
  ('flags', 'text'),
  [
    ([], '--models or --genotypes is missing'),
    (['--genotypes=FILE', '--size=0'], 'size'),
    (['--genotypes=FILE', '--size=3'], 'expected a size of 4 or more'),
    (['--genotypes=FILE', '--size=100000'], 'size'),
    (['--genotypes=FILE', '--threads=0'], 'threads'),
    (['--genotypes=FILE', '--runtime=tflite'], 'tflite'),
    (
      ['--genotypes=FILE', '--runtime=jax', '--precision=int8'],
      'jax does not run networks in int8',
    ),
    (['--genotypes=FILE,FILE'], 'is named twice'),
    (['--genotypes=FILE', '--cells=32'], '--cells=32: expected channels and norm'),
    (['--genotypes=FILE', '--cells=16:layer'], '--cells=16:layer: expected channels and norm'),
    (['--genotypes=FILE', '--cells=16:batch,16:batch'], 'is named twice'),
    (['--genotypes=FOLDER/none.json'], 'none.json'),
    (['--models=FOLDER/none'], 'there is no model'),
    (['--genotypes=FILE', '--output=FOLDER/none/costs.json'], 'in a folder that exists'),
    (['--genotypes=FILE', '--output=FOLDER'], 'expected a file'),
    (['--genotypes=FILE', 'surprise'], "unexpected argument 'surprise'"),
  ],
)
def test_bad_usage_is_one_line_and_leaves_nothing(
  genotypes, tmp_path, capsys, monkeypatch, flags, text
):
  monkeypatch.setattr(runtimes, 'require_installed', lambda ways: None)
  flags = [one.replace('FILE', genotypes[0]).replace('FOLDER', str(tmp_path)) for one in flags]
  assert command.main(flags) == 2
  assert text in only_error(capsys)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('runtime', 'absent', 'text'),
  [
    ('openvino', 'openvino', 'pip install -r requirements-openvino.txt'),
    ('onnxruntime', 'onnxruntime', 'pip install -r requirements-export.txt'),
  ],
)
def test_a_runtime_that_is_not_installed_is_named(
  genotypes, capsys, monkeypatch, runtime, absent, text
):
  find = importlib.util.find_spec

  def found(name, *more):
    if name == absent:
      return None
    return find('jax') if name in ('onnx', 'onnxruntime', 'openvino') else find(name, *more)

  monkeypatch.setattr(importlib.util, 'find_spec', found)
  assert command.main([f'--genotypes={genotypes[0]}', f'--runtime={runtime}']) == 2
  line = only_error(capsys)
  assert f'needs {absent}, not installed' in line and text in line


def test_a_busy_machine_leaves_no_file(genotypes, tmp_path, capsys):
  output = tmp_path / 'costs.json'
  more = ('--runtime=jax', '--size=16', '--repeats=3', '--spread=0', f'--output={output}')
  assert command.main([f'--genotypes={genotypes[0]}', *more]) == 2
  assert 'too busy to time' in capsys.readouterr().err
  assert not output.exists()


def test_a_config_may_not_ask_jax_for_8_bits():
  config = configs.default()
  config.cost.update({'runtime': 'jax', 'precision': 'int8'})
  with pytest.raises(InputError, match='config.cost.precision'):
    configs.validate(config)


def test_help_has_every_option(capsys):
  assert command.main(['--help']) == 0
  text = capsys.readouterr().out
  names = ('models', 'genotypes', 'size', 'runtime', 'precision', 'threads', 'repeats', 'spread')
  for name in (*names, 'cells', 'output'):
    assert f'--{name}=' in text
  assert 'not a medical device' in text


SIGNALLED = """
import gc, signal
import numpy as np
from thrifty_jax.cost import costs, runtimes
from thrifty_jax.networks import lean_space
from benchmarks.lean_space import describe_slices
spec = describe_slices(32)
member = costs.make_random(spec, lean_space.unet(8, levels=3))
ways, image = runtimes.choose('openvino', 'float32'), np.zeros((1, 1, 32, 32), np.float32)
started = [runtimes.start(member, ways, threads=1, images=image)[0] for _ in range(3)]
for one in started:
  one.run(image)
del one
while started:
  del started[0]
  gc.collect()
signal.signal(signal.SIGTERM, lambda number, frame: print('handled', flush=True))
signal.raise_signal(signal.SIGTERM)
"""


def test_a_signal_after_openvino_has_run_is_handled():
  pytest.importorskip('openvino')
  done = subprocess.run(
    [sys.executable, '-c', SIGNALLED], cwd=PROJECT, capture_output=True, text=True, timeout=200
  )
  assert (done.returncode, done.stdout) == (0, 'handled\n'), done.stderr


FREED = """
import os
from thrifty_jax.cost import costs, runtimes
from thrifty_jax.networks import lean_space
from benchmarks.lean_space import describe_slices
before = os.sched_getaffinity(0)
member = costs.make_random(describe_slices(32), lean_space.unet(8, levels=3))
for runtime in ('all', 'openvino'):
  ways = runtimes.choose(runtime, 'float32')
  costs.measure([costs.Candidate('unet', member)], ways, repeats=2, most_spread=1000)
  print(runtime, os.sched_getaffinity(0) == before)
"""


@pytest.mark.skipif(not hasattr(os, 'sched_getaffinity'), reason='only Linux holds threads')
def test_openvino_leaves_all_cores_to_the_process_after_jax_was_held_on_one():
  pytest.importorskip('openvino')
  done = subprocess.run(
    [sys.executable, '-c', FREED], cwd=PROJECT, capture_output=True, text=True, timeout=200
  )
  assert (done.returncode, done.stdout) == (0, 'all True\nopenvino True\n'), done.stderr
