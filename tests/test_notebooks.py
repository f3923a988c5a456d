"""The notebooks, run from their first cell to their last on made-up scans."""

import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import phantom_chaos
import pytest
import SimpleITK

from data_prep import chaos as chaos_scans
from data_prep import phantom
from notebooks import cells

PROJECT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ('quickstart', 'chaos_tpu', 'bring_your_own_data')
PATIENTS, FOLDS = 6, 3
# Tiny, and alike: the notebooks get the same scans in three layouts and find the same network in
# them, so that what one compiles is in the cache for the others.
TINY = [
  f'--config.data.folds={FOLDS}',
  '--config.data.image_size=16',
  '--config.data.intensity=window',
  '--config.data.window=(-150.0, 250.0)',
  '--config.augment.rotate_degrees=0.0',
  '--config.augment.scale=(1.0, 1.0)',
  '--config.augment.translate=(0.0, 0.0)',
  '--config.augment.elastic_probability=0.0',
  '--config.augment.flip_left_right=False',
  '--config.model.depth=3',
  '--config.model.nodes=1',
  '--config.model.channels=4',
  '--config.search.channels=4',
  '--config.search.epochs=2',
  '--config.search.warmup_epochs=1',
  '--config.search.batch_size=4',
  '--config.retrain.epochs=1',
  '--config.retrain.warmup_epochs=0',
  '--config.retrain.validate_every=1',
  '--config.retrain.batch_size=4',
]


@dataclasses.dataclass(frozen=True)
class Ran:
  """What a notebook did.

  Attributes:
    status: Of its process.
    out: All that it printed.
    shown: HTML by the ids of cells.
    stopped_at: The id of the cell that raised, or ''.
  """

  status: int
  out: str
  shown: dict[str, str]
  stopped_at: str


def run(name, place, *arguments, **values):
  """Runs a notebook, in a folder from which it does not see the project but for its address."""
  result = place / 'result.json'
  values = json.dumps({'PROJECT': str(PROJECT)} | values)
  done = subprocess.run(
    [sys.executable, '-W', 'error', str(PROJECT / 'tests' / 'run_notebook.py')]
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


def json_of(path):
  return json.loads(path.read_text(encoding='utf-8'))


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_a_notebook_is_committed_as_format_4_5_without_outputs(name):
  notebook = json_of(PROJECT / 'notebooks' / f'{name}.ipynb')
  assert (notebook['nbformat'], notebook['nbformat_minor']) == (4, 5)
  ids = [cell['id'] for cell in notebook['cells']]
  assert len({*ids}) == len(ids) and all(id_.replace('-', '').isalnum() for id_ in ids)
  keys = {'cell_type', 'id', 'metadata', 'source'}
  for cell in notebook['cells']:
    code = cell['cell_type'] == 'code'
    assert cell.keys() == (keys | {'execution_count', 'outputs'} if code else keys)
    assert not code or (cell['execution_count'], cell['outputs']) == (None, [])
    assert len(cell['source']) <= 32
  tagged = [cell for cell in notebook['cells'] if 'parameters' in cell['metadata'].get('tags', [])]
  assert len(tagged) == 1 and "PROJECT = ''" in ''.join(tagged[0]['source'])


def test_the_first_cells_find_the_project_alike_in_all():
  sources = set()
  for name in NOTEBOOKS:
    notebook = json_of(PROJECT / 'notebooks' / f'{name}.ipynb')
    (found,) = (cell for cell in notebook['cells'] if cell['id'] == 'project')
    sources.add(''.join(found['source']))
  assert len(sources) == 1


def test_without_the_project_the_notebook_stops_with_what_to_do(tmp_path):
  ran = run('quickstart', tmp_path, PROJECT='')
  assert (ran.status, ran.stopped_at, ran.shown) == (1, 'project', {})
  assert 'ValueError: there is no project here: set PROJECT, in the first cell' in ran.out


@pytest.mark.parametrize('way', ['a file beside it', 'a file elsewhere', 'an address'])
def test_a_zip_file_of_the_project_is_enough(tmp_path, way):
  for name in ('thrifty_jax/main.py', 'notebooks/cells.py'):
    path = tmp_path / 'made' / 'thrifty_jax-main' / name  # as web pages of repositories name it
    path.parent.mkdir(parents=True)
    shutil.copy(PROJECT / name, path)
  place = tmp_path / 'work'
  place.mkdir()
  beside = way == 'a file beside it'
  packed = (place if beside else tmp_path) / 'thrifty_jax-main'
  file = shutil.make_archive(str(packed), 'zip', tmp_path / 'made')
  given = {'a file beside it': '', 'an address': Path(file).as_uri()}.get(way, file)
  ran = run('quickstart', place, '--until=project', PROJECT=given)
  assert (ran.status, ran.stopped_at) == (0, ''), ran.out
  assert f'project: {place}/thrifty_jax/thrifty_jax-main' in ran.out


def test_a_zip_file_of_something_else_is_told(tmp_path):
  (tmp_path / 'made').mkdir()
  (tmp_path / 'made' / 'letter.txt').write_text('Dear Jane')
  shutil.make_archive(str(tmp_path / 'thrifty_jax'), 'zip', tmp_path / 'made')
  ran = run('quickstart', tmp_path, PROJECT='')
  assert (ran.status, ran.stopped_at) == (1, 'project')
  assert 'thrifty_jax.zip: this is not thrifty_jax' in ran.out


def chaos(place, **values):
  """chaos_tpu on made-up scans, which nothing downloads as they are there."""
  folders = {name: str(place / name.lower()) for name in ('RUN', 'SCANS', 'SLICES')}
  return run('chaos_tpu', place, **folders | values, SETTINGS=TINY)


@pytest.fixture(scope='module')
def chaos_done(tmp_path_factory):
  """The folder of a finished run of chaos_tpu, and what it did."""
  place = tmp_path_factory.mktemp('chaos')
  phantom_chaos.write(place / 'scans', patients=PATIENTS, seed=0)
  return place, chaos(place, DEVICE='cpu')


def found(done):
  """The tiny settings, with the network that chaos_tpu has found: to search once is enough."""
  return [*TINY, f'--config.genotype={done[0]}/run/search/genotype.json']


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
  assert 'ct06' in ran.shown['check']
  summary = json_of(place / 'run' / 'evaluate' / 'summary.json')
  assert list(summary['classes']) == ['liver'] and summary['patients'] == PATIENTS // FOLDS
  assert f'{100 * summary["dsc_mean"]:.2f}' in ran.shown['report']
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
  ran = chaos(tmp_path, DEVICE='cpu', SCANS=str(chaos_done[0] / 'scans'))
  assert (ran.status, ran.stopped_at) == (0, ''), ran.out
  assert 'search: done' in ran.out and 'retrain: done' not in ran.out
  for name in ('model/weights.safetensors', 'evaluate/scores.csv'):
    assert (workdir / name).read_bytes() == (before / name).read_bytes()


def test_chaos_stops_at_once_where_a_tpu_is_expected_and_none_is_there(tmp_path):
  ran = chaos(tmp_path)
  assert (ran.status, ran.stopped_at, ran.shown) == (1, 'device', {})
  assert "error: config.device is 'tpu', but JAX finds only" in ran.out
  assert 'RuntimeError: notebooks.device ended with status 2' in ran.out
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
    CONFIG='configs/phantom.py',
    RUN=str(workdir),
    SCAN=str(raw / 'TrainingData' / 'Case00.mhd'),
    SETTINGS=[
      *found(chaos_done),
      f'--config.data.raw_dir={raw}',
      f'--config.data.data_dir={tmp_path}/tfds',
    ],
  )
  assert (ran.status, ran.stopped_at) == (0, ''), ran.out
  score = json_of(workdir / 'evaluate' / 'summary.json')['dsc_mean']
  assert f'{100 * score:.2f}' in ran.shown['report'] and 'srcdoc="' in ran.shown['report']
  assert 'data:image/svg+xml;base64,' in ran.shown['genotype']
  assert 'data:image/png;base64,' in ran.shown['predict']
  assert (workdir / 'masks' / 'mask.nii.gz').stat().st_size > 0


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
    CONFIG='configs/folder.py:thrifty',
    RUN=str(workdir),
    SETTINGS=[
      *found(chaos_done),
      *('--config.retrain.least_steps=0', f'--config.data.data_dir={tmp_path}/tfds'),
    ],
  )
  assert (ran.status, ran.stopped_at) == (0, ''), ran.out
  assert 'scan_5' in ran.shown['check'] and 'liver' in ran.shown['report']
  assert 'data:image/png;base64,' in ran.shown['predict']
  masks = {path.name for path in (workdir / 'masks').iterdir()}
  assert {'classes.json', 'scan_0.nii.gz', 'scan_0_overlay.png'} == masks
  assert (workdir / 'onnx' / 'model.onnx').is_file() == exports


def test_without_scans_of_your_own_a_folder_is_made_up(tmp_path):
  folder = tmp_path / 'made_up'
  ran = run('bring_your_own_data', tmp_path, '--until=made-up', FOLDER=str(folder))
  assert (ran.status, ran.stopped_at) == (0, ''), ran.out
  assert len(list((folder / 'labelsTr').iterdir())) == 9
  assert len(list((folder / 'imagesTs').iterdir())) == 2  # a scan with two channels


def test_two_folders_take_the_place_of_the_folder():
  ran, notebook = [], json.loads((PROJECT / 'notebooks/bring_your_own_data.ipynb').read_text())
  sources = {cell['id']: ''.join(cell['source']) for cell in notebook['cells']}
  names = {'run': lambda *arguments: ran.append(arguments), 'show': str}
  exec(sources['parameters'], names)
  exec(sources['check'], names)
  names |= {'IMAGES': 'a', 'MASKS': 'b', 'CLASSES': ('no', 'yes')}
  exec(sources['check'], names)
  folder, two = ([one for one in call if '.data.' in one] for call in ran)
  assert folder == ['--config.data.raw_dir=data/made_up']
  classes = "--config.data.classes=('no', 'yes')"
  assert two == ['--config.data.images=a', '--config.data.masks=b', classes]


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
