"""The table of layers, and the stage that prints it."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from data_prep import phantom_folders
from thrifty_jax import main
from thrifty_jax.networks import genotype, grid, layers
from thrifty_jax.reporting import describe

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = PROJECT / 'thrifty_jax' / 'genotypes' / 'thrifty_0.61m.json'
pytestmark = pytest.mark.usefixtures('quick_compilation')
# Parameters of the published baselines for two classes; each further class has 33.
PUBLISHED = {'brain.py:unet': 7_759_554, 'brain.py:unet_plus_plus': 9_041_634}
CONFIGS = sorted(path.name for path in (PROJECT / 'configs').glob('*.py'))


def test_the_table_lists_every_layer_and_ends_with_the_totals():
  net = grid.DerivedNetwork(genotype.load(SHIPPED), 2, channels=8, depth=2)
  rows = layers.layers(net, (16, 16, 1))
  lines = describe.format_table(rows)
  names = [line.split()[0] for line in lines]
  assert names[2:-2] == [row.path[-1] for row in rows]
  assert [line.startswith('  ') for line in lines[2:-2]] == [len(row.path) == 2 for row in rows]
  assert max(map(len, lines)) < 100
  total = sum(row.parameters for row in rows if len(row.path) == 1)
  assert lines[-1].split()[:2] == ['total', f'{total:,}']
  shares = [float(line.split()[-2]) for line in lines[2:-2] if line.endswith('%')]
  assert len(shares) == sum(len(row.path) == 1 for row in rows)
  assert abs(sum(shares) - 100) < 0.1 * len(shares)


def run(*arguments):
  return main.main(['--stage=describe', *map(str, arguments)])


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
  monkeypatch.chdir(PROJECT)


def test_the_stage_needs_no_data_writes_nothing_and_ends_with_json(tmp_path, capsys):
  workdir = tmp_path / 'run'
  config = ['--config=configs/phantom.py', f'--config.genotype={SHIPPED}', '--config.model.depth=3']
  data = [f'--config.data.raw_dir={tmp_path}/none', f'--config.data.data_dir={tmp_path}/none']
  assert run(*config, *data, f'--workdir={workdir}', '--config.data.context=1') == 0
  lines = capsys.readouterr().out.splitlines()
  found = json.loads(lines[-1])
  net = grid.DerivedNetwork(genotype.load(SHIPPED), 2, channels=8, depth=3)
  rows = [row for row in layers.layers(net, (32, 32, 3)) if len(row.path) == 1]
  assert found['model'] == 'thrifty' and found['genotype'] == str(SHIPPED)
  assert found['image'] == [32, 32, 3] and found['classes'] == 2
  assert found['parameters'] == sum(row.parameters for row in rows)
  assert found['macs'] == sum(row.macs for row in rows)
  assert found['activation_bytes'] > 32 * 32 * 8 * 4
  assert any('peak temporary memory of the compiled forward pass' in line for line in lines)
  assert list(tmp_path.iterdir()) == []


def test_the_genotype_of_the_run_is_described_whatever_its_settings_were(tmp_path, capsys):
  (tmp_path / 'search').mkdir()
  (tmp_path / 'search' / 'genotype.json').write_text(SHIPPED.read_text())
  (tmp_path / 'config.json').write_text('{"model": {"channels": 64}}')
  size = ['--config.model.depth=3', '--config.model.channels=4']
  assert run('--config=configs/phantom.py', f'--workdir={tmp_path}', *size) == 0
  found = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert found['genotype'] == f'{tmp_path}/search/genotype.json'


def test_without_a_genotype_one_line_says_to_name_one(tmp_path, capsys):
  assert run('--config=configs/brain.py', f'--workdir={tmp_path}/run') == 2
  out, error = capsys.readouterr()
  assert out == '' and error.count('\n') == 1
  assert Path(error.split('--config.genotype=')[1].strip()).samefile(SHIPPED)
  assert list(tmp_path.iterdir()) == []


def test_a_supervised_unet_is_refused(tmp_path, capsys):
  assert run('--config=configs/brain.py:unet', '--config.model.deep_supervision') == 2
  assert 'unet has one output only' in capsys.readouterr().err


@pytest.mark.parametrize('name', [*CONFIGS, *PUBLISHED])
def test_every_config_can_be_described(name, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(describe, 'activation_bytes', lambda net, image_shape: None)
  variant = ':thrifty' * (name == 'folder.py')  # the genotype is of cells
  given = [
    f'--config=configs/{name}{variant}',
    f'--workdir={tmp_path}/run',
    '--config.data.image_size=32',
    '--config.cost.precision=float32',
  ]
  given += [] if ':' in name else [f'--config.genotype={SHIPPED}']
  if name == 'folder.py':  # its classes and channels are the folder's
    phantom_folders.write_decathlon(tmp_path / 'raw', patients=5, seed=0)
    given += [f'--config.data.raw_dir={tmp_path}/raw', f'--config.data.data_dir={tmp_path}']
    assert run(*given) == 2
    assert 'run --stage=prepare first' in capsys.readouterr().err
    assert main.main([*given, '--stage=prepare']) == 0
    shutil.rmtree(tmp_path / 'raw')
  assert run(*given) == 0
  lines = capsys.readouterr().out.splitlines()
  found = json.loads(lines[-1])
  assert found['parameters'] > 0 and found['macs'] > found['parameters']
  if name in PUBLISHED:
    assert found['parameters'] == PUBLISHED[name] + 33 * (found['classes'] - 2)
  assert found['activation_bytes'] is None and any('not known on this' in line for line in lines)


def test_the_time_is_measured_as_the_config_says(tmp_path, capsys):
  pytest.importorskip('onnx')
  pytest.importorskip('onnxruntime')
  size = ['--config.model.depth=3', '--config.model.channels=4', '--config.cost.size=16']
  given = ['--config=configs/phantom.py', f'--config.genotype={SHIPPED}', f'--workdir={tmp_path}']
  way = ['--config.cost.runtime=onnxruntime', '--config.cost.precision=float32']
  assert run(*given, *size, *way) == 0
  lines = capsys.readouterr().out.splitlines()
  (cost,) = json.loads(lines[-1])['costs']
  assert (cost['runtime'], cost['precision'], cost['size']) == ('onnxruntime', 'float32', 16)
  assert any(f'{cost["ms"]:.2f} ms in onnxruntime float32' in line for line in lines)


def test_a_runtime_that_is_not_installed_is_a_line(tmp_path, capsys, monkeypatch):
  find = importlib.util.find_spec
  absent = ('onnx', 'onnxruntime')
  monkeypatch.setattr(
    importlib.util, 'find_spec', lambda name, *a: None if name in absent else find(name, *a)
  )
  size = ['--config.model.depth=3', '--config.model.channels=4']
  given = ['--config=configs/phantom.py', f'--config.genotype={SHIPPED}', f'--workdir={tmp_path}']
  assert run(*given, *size) == 0
  out = capsys.readouterr().out
  assert 'not measured in onnxruntime: not installed: onnx, onnxruntime' in out
  assert json.loads(out.splitlines()[-1])['costs'] == []
