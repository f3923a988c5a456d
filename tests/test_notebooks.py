"""The notebooks, run from their first cell to their last on made-up scans."""

import base64
import dataclasses
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import phantom_chaos
import pytest
import SimpleITK
from few_operations import FEW
from PIL import Image

import thrifty_jax
from data_prep import chaos as chaos_scans
from data_prep import phantom, phantom_folders
from notebooks import address, cells, execute

PROJECT = Path(__file__).resolve().parents[1]
STORED = ('quickstart', 'bring_your_own_data', 'budget')  # with outputs
NOTEBOOKS = (*STORED, 'chaos_tpu')
PATIENTS, FOLDS = 6, 3
# Tiny, and alike: the notebooks get the same scans in three layouts and find the same network in
# them, so that what one compiles is in the cache for the others.
TINY = {
  'data.folds': FOLDS,
  'data.image_size': 16,
  'data.intensity': 'window',
  'data.window': (-150.0, 250.0),
  'augment.rotate_degrees': 0.0,
  'augment.scale': (1.0, 1.0),
  'augment.translate': (0.0, 0.0),
  'augment.elastic_probability': 0.0,
  'augment.flip_left_right': False,
  'model.depth': 3,
  'model.nodes': 1,
  'model.channels': 4,
  'search.channels': 4,
  'search.operations': FEW,
  'search.epochs': 2,
  'search.warmup_epochs': 1,
  'search.batch_size': 4,
  'retrain.epochs': 1,
  'retrain.warmup_epochs': 0,
  'retrain.validate_every': 1,
  'retrain.batch_size': 4,
}


@dataclasses.dataclass(frozen=True)
class Ran:
  """What a notebook did.

  Attributes:
    status: Of its process.
    out: All that it printed.
    shown: What cells showed, by their ids and its MIME type.
    stopped_at: The id of the cell that raised, or ''.
    folder: Where it ended.
  """

  status: int
  out: str
  shown: dict[str, dict[str, str]]
  stopped_at: str
  folder: str


def run(name, place, *arguments, before='', **values):
  """Runs a notebook, in a folder from which it does not see the project but for its address.

  `before` is code that its process runs first.
  """
  result = place / 'result.json'
  values = {'PROJECT': str(PROJECT)} | values
  # A cell may warn of a scan that is unlike those of the training.
  strict = ['-W', 'error', '-W', 'default::UserWarning:__main__']
  program = str(PROJECT / 'notebooks' / 'execute.py')
  starts = f'import runpy\nrunpy.run_path({program!r}, run_name="__main__")'
  done = subprocess.run(
    [sys.executable, *strict, *(['-c', f'{before}\n{starts}'] if before else [program])]
    + [str(PROJECT / 'notebooks' / f'{name}.ipynb'), f'--result={result}', f'--values={values}']
    + [*arguments],
    cwd=place,
    # pip finds all that is required here, or it fails: a test changes no environment.
    env=os.environ
    | {'PIP_NO_INDEX': '1', 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1', 'PYTHONUTF8': '1'},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    encoding='utf-8',
  )
  assert result.is_file(), done.stdout
  return Ran(done.returncode, done.stdout, **json_of(result))


# The installation without pip, which takes seconds to find all that is required here.
NO_PIP = f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
from notebooks import cells
cells.install = lambda *arguments: None
del sys.path[0]
"""


def json_of(path):
  return json.loads(path.read_text(encoding='utf-8'))


def read(name):
  """The content of a notebook."""
  return json_of(PROJECT / 'notebooks' / f'{name}.ipynb')


def code_of(notebook):
  return [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_a_notebook_is_committed_as_format_4_5(name):
  notebook = read(name)
  assert (notebook['nbformat'], notebook['nbformat_minor']) == (4, 5)
  ids = [cell['id'] for cell in notebook['cells']]
  assert len({*ids}) == len(ids) and all(id_.replace('-', '').isalnum() for id_ in ids)
  keys = {'cell_type', 'id', 'metadata', 'source'}
  for cell in notebook['cells']:
    code = cell['cell_type'] == 'code'
    assert cell.keys() == (keys | {'execution_count', 'outputs'} if code else keys)
    assert len(cell['source']) <= 42
  tagged = [cell for cell in notebook['cells'] if 'parameters' in cell['metadata'].get('tags', [])]
  assert len(tagged) == 1 and "PROJECT = ''" in ''.join(tagged[0]['source'])


@pytest.mark.parametrize('name', STORED)
def test_stored_outputs_are_of_these_cells_small_and_name_no_machine(name):
  notebook = read(name)
  assert notebook['metadata'].get('stored_of') == execute.digest(notebook), (
    f'python notebooks/execute.py notebooks/{name}.ipynb --store'
  )
  counts = [cell['execution_count'] for cell in code_of(notebook)]
  assert counts == [*range(1, len(counts) + 1)]
  outputs = [output for cell in code_of(notebook) for output in cell['outputs']]
  assert {one['output_type'] for one in outputs} == {'stream', 'execute_result'}
  kinds = {kind for one in outputs for kind in one.get('data', {})}
  assert kinds & {'image/png', 'image/svg+xml'}
  text = json.dumps([one for one in outputs if 'image/png' not in one.get('data', {})])
  assert len(json.dumps(outputs)) < 200_000
  for pattern in MACHINE:
    assert not re.search(pattern, text), pattern


# Absolute folders of Linux, macOS and Windows, dates, times of day, and addresses in a network.
MACHINE = (
  *(r'(?<![\w.~])/(?:home|root|tmp|work|Users|usr|var|content|opt)/', r'[A-Z]:\\\\'),
  *(r'\b20\d\d-\d\d-\d\d\b', r'\b\d\d:\d\d\b', r'\b\d+\.\d+\.\d+\.\d+\b'),
)


def test_a_notebook_that_was_not_run_says_that_it_has_no_outputs():
  notebook = read('chaos_tpu')
  assert all(cell['outputs'] == [] for cell in code_of(notebook))
  assert 'the cells have no stored outputs' in ' '.join(notebook['cells'][0]['source'])


def test_what_is_stored_is_small_and_has_no_folder_of_this_machine(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
  Image.fromarray(noise).save(tmp_path / 'noise.png')
  (tmp_path / 'page.html').write_text('x' * execute.LARGEST)
  sources = {
    'prints': f"print('{tmp_path}/a', '{Path.home()}/b', 'done in 8 s, at 18:11')",
    'picture': "from notebooks import cells\ncells.show('noise.png')",
    'page': "cells.show('page.html')",
    'nothing': 'a = 1',
  }
  made = [
    {'cell_type': 'code', 'id': id_, 'metadata': {}, 'source': source.splitlines(keepends=True)}
    for id_, source in sources.items()
  ]
  notebook: Any = {'cells': made, 'metadata': {}}
  outputs, stopped_at = execute.run_all(made, {})
  assert stopped_at == ''
  execute.store(notebook, outputs)
  prints, picture, page, nothing = (cell['outputs'] for cell in notebook['cells'])
  assert prints == [{'name': 'stdout', 'output_type': 'stream', 'text': ['./a ~/b done in 8 s\n']}]
  content = base64.b64decode(picture[0]['data']['image/png'])
  assert len(content) < 0.5 * (tmp_path / 'noise.png').stat().st_size
  assert page[0]['data'] == {'text/plain': ['(a page of 0.2 MB: run the cell to see it)']}
  assert nothing == []
  assert notebook['metadata']['stored_of'] == execute.digest(notebook)
  made[0]['source'] = ['print(2)']
  assert notebook['metadata']['stored_of'] != execute.digest(notebook)


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_the_address_is_that_of_pyproject_in_the_badge_and_in_the_cell(name):
  notebook, place = read(name), address.find()
  badge = ''.join(notebook['cells'][0]['source'])
  of_colab = place.replace('https://github.com/', 'https://colab.research.google.com/github/')
  assert badge.startswith('[![Open in Colab](')
  assert f']({of_colab}/blob/main/notebooks/{name}.ipynb)\n' in badge
  assert f"ADDRESS = '{place}'" in json.dumps(notebook)
  written = read(name)
  address.insert(written, f'{name}.ipynb', place)
  assert written == notebook, 'python -m notebooks.address'
  address.insert(written, f'{name}.ipynb', 'https://github.com/else/there')
  assert place not in json.dumps(written)
  assert json.dumps(written).count('/else/there') == 2
  with pytest.raises(ValueError, match='Colab opens notebooks of https://github.com/ alone'):
    address.insert(written, f'{name}.ipynb', 'https://example.org/thrifty_jax')


def test_the_first_lines_of_the_installation_are_alike_in_all():
  sources = set()
  for name in NOTEBOOKS:
    (found,) = (cell for cell in read(name)['cells'] if cell['id'] == 'install')
    sources.add(''.join(found['source']).partition('from notebooks.cells')[0])
  assert len(sources) == 1


def test_without_the_project_the_notebook_stops_with_what_to_do(tmp_path):
  ran = run('quickstart', tmp_path, PROJECT=str(tmp_path / 'gone'))
  assert (ran.status, ran.stopped_at, ran.shown) == (1, 'install', {})
  assert 'gone: cannot be cloned: set PROJECT, in the first cell, to the project' in ran.out


@pytest.mark.parametrize('way', ['a file beside it', 'a file elsewhere', 'an address', 'it itself'])
def test_a_zip_file_or_folder_of_the_project_is_enough(tmp_path, way):
  for name in ('requirements.txt', 'notebooks/cells.py', 'thrifty_jax/main.py'):
    path = tmp_path / 'made' / 'thrifty_jax-main' / name  # as web pages of repositories name it
    path.parent.mkdir(parents=True)
    shutil.copy(PROJECT / name, path)
  (path.parents[1] / 'requirements.txt').write_text('numpy')  # which is soon found
  if way == 'it itself':
    place = tmp_path / 'made' / 'thrifty_jax-main'
    ran = run('quickstart', place, '--until=install', PROJECT='', CONFIG='phantom')
    assert (ran.status, ran.folder) == (0, str(place)), ran.out
    return
  place = tmp_path / 'work'
  place.mkdir()
  beside = way == 'a file beside it'
  packed = (place if beside else tmp_path) / 'thrifty_jax-main'
  file = shutil.make_archive(str(packed), 'zip', tmp_path / 'made')
  given = {'a file beside it': '', 'an address': Path(file).as_uri()}.get(way, file)
  ran = run('quickstart', place, '--until=install', PROJECT=given, CONFIG='phantom')
  assert (ran.status, ran.stopped_at) == (0, ''), ran.out
  assert ran.folder == f'{place}/thrifty_jax/thrifty_jax-main'


def test_a_zip_file_of_something_else_is_told(tmp_path):
  (tmp_path / 'made').mkdir()
  (tmp_path / 'made' / 'letter.txt').write_text('Dear Jane')
  shutil.make_archive(str(tmp_path / 'thrifty_jax'), 'zip', tmp_path / 'made')
  ran = run('quickstart', tmp_path, PROJECT='')
  assert (ran.status, ran.stopped_at) == (1, 'install')
  assert 'thrifty_jax.zip: this is not thrifty_jax' in ran.out


def chaos(place, before='', **values):
  """chaos_tpu on made-up scans, which nothing downloads as they are there."""
  folders = {name: str(place / name.lower()) for name in ('RUN', 'SCANS', 'SLICES')}
  return run('chaos_tpu', place, before=before, **folders | values, CHANGES=TINY)


@pytest.fixture(scope='module')
def chaos_done(tmp_path_factory):
  """The folder of a finished run of chaos_tpu, and what it did."""
  place = tmp_path_factory.mktemp('chaos')
  phantom_chaos.write(place / 'scans', patients=PATIENTS, seed=0)
  return place, chaos(place, DEVICE='cpu')


def found(done):
  """The tiny settings, with the network that chaos_tpu has found: to search once is enough."""
  return TINY | {'genotype': f'{done[0]}/run/search/genotype.json'}


def volumes(place):
  """The scans of chaos_tpu, as the other notebooks get them."""
  return [chaos_scans.read_case(case) for case in chaos_scans.find_cases(place / 'scans')]


def write_nnunet(folder, scans):
  """A folder of CT scans in the layout of nnU-Net, without patients.csv."""
  for name in ('imagesTr', 'labelsTr'):
    (folder / name).mkdir(parents=True)
  for number, scan in enumerate(scans):
    image = phantom.itk_image(scan.image[..., 0], scan.affine, 'SPL')
    SimpleITK.WriteImage(image, str(folder / 'imagesTr' / f'scan_{number}_0000.nii.gz'))
    label = phantom.itk_image(scan.truth, scan.affine, 'SPL')
    SimpleITK.WriteImage(label, str(folder / 'labelsTr' / f'scan_{number}.nii.gz'))
  description = {'channel_names': {'0': 'CT'}, 'labels': {'background': 0, 'liver': 1}}
  description |= {'numTraining': len(scans), 'file_ending': '.nii.gz'}
  (folder / 'dataset.json').write_text(json.dumps(description))


def test_chaos_goes_from_scans_to_a_report(chaos_done):
  place, ran = chaos_done
  assert (ran.status, ran.stopped_at) == (0, ''), ran.out
  assert 'ct06' in ran.shown['check']['text/html']
  summary = json_of(place / 'run' / 'evaluate' / 'summary.json')
  assert list(summary['classes']) == ['liver'] and summary['patients'] == PATIENTS // FOLDS
  assert f'{100 * summary["dsc_mean"]:.2f}' in ran.shown['report']['text/html']
  assert json_of(place / 'run' / 'config.json')['device'] == 'cpu'
  listed = [line for line in ran.out.splitlines() if line.endswith('model/weights.safetensors')]
  assert len(listed) == 1


def test_after_a_disconnect_all_cells_again_go_on_to_the_same_model(chaos_done, tmp_path):
  before = chaos_done[0] / 'run'
  workdir = shutil.copytree(before, tmp_path / 'run')  # and no slices: that disk is gone
  for name in ('evaluate', 'model'):
    shutil.rmtree(workdir / name)
  for name in ('retrain/summary.json', 'report.html'):
    (workdir / name).unlink()
  ran = chaos(tmp_path, NO_PIP, DEVICE='cpu', SCANS=str(chaos_done[0] / 'scans'))
  assert (ran.status, ran.stopped_at) == (0, ''), ran.out
  assert 'search: done' in ran.out and 'retrain: done' not in ran.out
  for name in ('model/weights.safetensors', 'evaluate/scores.csv'):
    assert (workdir / name).read_bytes() == (before / name).read_bytes()


def test_chaos_stops_at_once_where_a_tpu_is_expected_and_none_is_there(
  tmp_path, monkeypatch, capsys, quick_compilation
):
  monkeypatch.chdir(tmp_path)  # the notebook changes it
  monkeypatch.setattr(sys, 'path', [*sys.path])
  monkeypatch.setattr(cells, 'install', lambda *arguments: None)
  folders = {name: str(tmp_path / name.lower()) for name in ('RUN', 'SCANS', 'SLICES')}
  values = {'PROJECT': str(PROJECT)} | folders
  arguments = [str(PROJECT / 'notebooks' / 'chaos_tpu.ipynb'), '--result=result.json']
  monkeypatch.setattr(sys, 'argv', ['execute.py', *arguments, f'--values={values}'])
  assert execute.main() == 1
  ran = json_of(tmp_path / 'result.json')
  assert (ran['stopped_at'], ran['shown']) == ('device', {})
  assert "InputError: config.device is 'tpu', but JAX finds only" in capsys.readouterr().err
  assert [path.name for path in tmp_path.iterdir()] == ['result.json']


def test_quickstart_goes_from_scans_to_a_mask(chaos_done, tmp_path):
  raw, workdir = tmp_path / 'raw', tmp_path / 'run'
  (raw / 'TrainingData').mkdir(parents=True)
  for number, volume in enumerate(volumes(chaos_done[0])):
    for part, voxels in (('', volume.image[..., 0]), ('_segmentation', volume.truth)):
      image = phantom.itk_image(voxels, volume.affine, 'SPL')
      SimpleITK.WriteImage(image, str(raw / 'TrainingData' / f'Case{number:02d}{part}.mhd'))
  ran = run(
    'quickstart',
    tmp_path,
    before=NO_PIP,
    CONFIG='phantom',
    RUN=str(workdir),
    SCAN=str(raw / 'TrainingData' / 'Case00.mhd'),
    CHANGES={
      **found(chaos_done),
      'data.raw_dir': str(raw),
      'data.data_dir': str(tmp_path / 'tfds'),
    },
  )
  assert (ran.status, ran.stopped_at) == (0, ''), ran.out
  score = json_of(workdir / 'evaluate' / 'summary.json')['dsc_mean']
  page = ran.shown['report']['text/html']
  assert f'{100 * score:.2f}' in page and 'srcdoc="' in page
  assert ran.shown['genotype']['image/svg+xml'].startswith('<svg')
  assert ran.shown['predict'].keys() == {'image/png'}
  assert (workdir / 'mask.nii.gz').stat().st_size > 0
  assert re.search(r'^organ: \d+ ml$', ran.out, re.MULTILINE)


def test_your_own_scans_go_from_a_folder_to_masks_and_an_export(chaos_done, tmp_path):
  exports = all(importlib.util.find_spec(name) for name in ('onnx', 'onnxruntime'))
  workdir, folder = tmp_path / 'run', tmp_path / 'scans'
  write_nnunet(folder, volumes(chaos_done[0]))
  ran = run(
    'bring_your_own_data',
    tmp_path,
    *([] if exports else ['--without=export']),
    MADE_UP=False,
    FOLDER=str(folder),
    NEW_SCANS=str(folder / 'imagesTr' / 'scan_0_0000.nii.gz'),
    CONFIG='folder:thrifty',
    RUN=str(workdir),
    CHANGES={
      **found(chaos_done),
      'retrain.least_steps': 0,
      'data.data_dir': str(tmp_path / 'tfds'),
    },
  )
  assert (ran.status, ran.stopped_at) == (0, ''), ran.out
  assert 'scan_5' in ran.shown['check']['text/html']
  assert 'liver' in ran.shown['report']['text/html']
  assert ran.shown['predict'].keys() == {'image/png'}
  masks = {path.name for path in (workdir / 'masks').iterdir()}
  assert masks == {'scan_0.nii.gz', 'scan_0_overlay.png'}
  assert (workdir / 'onnx' / 'model.onnx').is_file() == exports


def test_without_scans_of_your_own_a_folder_is_made_up(tmp_path):
  folder = tmp_path / 'made_up'
  until = '--until=made-up'
  ran = run('bring_your_own_data', tmp_path, until, before=NO_PIP, FOLDER=str(folder))
  assert (ran.status, ran.stopped_at) == (0, ''), ran.out
  assert len(list((folder / 'labelsTr').iterdir())) == 9
  assert len(list((folder / 'imagesTs').iterdir())) == 2  # a scan with two channels


@pytest.mark.parametrize('name', ['bring_your_own_data', 'budget'])
def test_two_folders_take_the_place_of_the_folder(name):
  ran, sources = [], {cell['id']: ''.join(cell['source']) for cell in read(name)['cells']}
  tj = types.SimpleNamespace(
    load_config=thrifty_jax.load_config,
    run=lambda config, *run, **stage: ran.append(config.copy_and_resolve_references()),
  )
  names = {'tj': tj, 'show': str}
  exec(sources['parameters'], names)
  exec(sources['check'], names)
  names |= {'IMAGES': 'a', 'MASKS': 'b', 'CLASSES': ('no', 'yes')}
  exec(sources['check'], names)
  folder, two = (config.data for config in ran)
  assert (folder.raw_dir, folder.images) == ('data/made_up', '')
  assert (two.raw_dir, two.images, two.masks, two.classes) == ('', 'a', 'b', ('no', 'yes'))


# A race of one lean network and one U-Net, of three levels: these are soon compiled.
FEW_ENTRANTS = f"""
import dataclasses, sys
sys.path.insert(0, {str(PROJECT)!r})
from thrifty_jax.networks import lean_space
from thrifty_jax.racing import entrants
known, unets = (
  [dataclasses.replace(listed[0], genotype=lean_space.unet(4, levels=3, skip=skip))]
  for listed, skip in ((entrants.list_known(), 'add'), (entrants.list_unets(), 'concat'))
)
entrants.list_known, entrants.list_unets = lambda: known, lambda: unets
entrants.draw = lambda *_: iter(())
"""


def test_a_budget_leads_from_a_folder_to_the_front_a_choice_an_export_and_a_score(tmp_path):
  pytest.importorskip('onnxruntime')
  workdir, folder = tmp_path / 'run', tmp_path / 'scans'
  phantom_folders.write_nnunet(folder, patients=4, seed=0)
  ran = run(
    'budget',
    tmp_path,
    before=NO_PIP + FEW_ENTRANTS,
    FOLDER=str(folder),
    RUN=str(workdir),
    SCAN=str(folder / 'imagesTr' / 'scan_004_0000.nii.gz'),
    TRUTH=str(folder / 'labelsTr' / 'scan_004.nii.gz'),
    BUDGETS_MS=(1e6,),
    SIZE=32,
    MINUTES=0.0,
    DEVICE='cpu',
    CHANGES={
      **{name: value for name, value in TINY.items() if name.startswith(('augment.', 'retrain.'))},
      **{'data.data_dir': str(tmp_path / 'tfds'), 'data.image_size': 32, 'data.folds': FOLDS},
      **{'front.entrants': 2, 'front.rungs': 1, 'front.folds': 1, 'front.steps': 1},
      **{'front.workers': 1, 'cost.spread': 1e9, 'cost.precision': 'int8'},
      'retrain.least_steps': 0,
    },
  )
  assert (ran.status, ran.stopped_at) == (0, ''), ran.out
  raced = json_of(workdir / 'front' / 'front.json')
  assert sum(bool(one.get('full')) for one in raced) == 2  # a lean network and a U-Net
  picture = ran.shown['look']['image/svg+xml']
  assert picture.startswith('<svg style="') and 'var(--ink)' in picture and '--ink: #' in picture
  (best,) = (one for one in raced if one.get('budgets_ms'))
  assert f'1e+06 ms: {best["name"]} (' in ran.out
  assert f'test DSC {100 * best["test_dsc"]:.1f} %' in ran.out
  assert re.search(r'^left part: DSC [\d.]+ %, HD95 [\d.]+ mm$', ran.out, re.MULTILINE)
  assert (workdir / 'onnx' / 'model_int8.onnx').is_file()


def test_a_command_that_fails_stops_the_notebook_after_its_last_words(capsys):
  with pytest.raises(RuntimeError, match='thrifty_jax.main ended with status 2'):
    cells.run('thrifty_jax.main', '--config=configs/nothing.py')
  out = capsys.readouterr().out.splitlines()
  assert out[0] == '$ python -m thrifty_jax.main --config=configs/nothing.py'
  assert out[1].startswith('error: --config: there is no file')


def test_another_jax_than_before_is_refused_and_a_new_one_is_not():
  cells.require_same_jax({'jax': '0.7.2'}, {'jax': '0.7.2', 'jaxlib': '0.7.2', 'flax': '0.11.2'})
  cells.require_same_jax({'flax': '0.10.0'}, {'jax': '0.7.2', 'jaxlib': '0.7.2'})
  with pytest.raises(RuntimeError, match='pip replaced jax and jaxlib'):
    cells.require_same_jax({'jax': '0.7.2', 'jaxlib': '0.7.2'}, {'jax': '0.9.0', 'jaxlib': '0.9.0'})


SAVES = """
import signal, sys, time
asked = []
signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
ends = time.monotonic() + 30
while not asked and time.monotonic() < ends:
  print('at work', flush=True)
  time.sleep(0.05)
print('saved' if asked == [signal.SIGINT] else asked, flush=True)
sys.exit(130)
"""


def test_the_button_that_stops_a_cell_lets_the_command_save(tmp_path):
  (tmp_path / 'saves.py').write_text(SAVES)
  # Where the tests run in a shell's background, processes begin with the signal ignored.
  heard = 'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)'
  process = subprocess.Popen(
    [sys.executable, '-c', f"{heard}; from notebooks import cells; cells.run('saves')"],
    cwd=PROJECT,
    env=os.environ | {'PYTHONPATH': str(tmp_path)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout and process.stdout.readline() == '$ python -m saves\n'
  assert process.stdout.readline() == 'at work\n'
  process.send_signal(signal.SIGINT)
  out, err = process.communicate(timeout=30)
  assert (out.splitlines()[-1], process.returncode) == ('saved', -signal.SIGINT)
  assert err.splitlines()[-1] == 'KeyboardInterrupt'
