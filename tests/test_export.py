"""The command that exports: what it writes, what it checks, what it refuses."""

import dataclasses
import hashlib
import importlib
import importlib.util
import json
import re
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import SimpleITK
from recorded import prepare_for

from data_prep import phantom
from thrifty_jax import config as configs
from thrifty_jax import export, files, model_folder, stages
from thrifty_jax.data import batching, split_file
from thrifty_jax.errors import InputError
from thrifty_jax.exporting import export_folder, export_slices
from thrifty_jax.networks import genotype

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')


@pytest.fixture(scope='module')
def scan(tmp_path_factory):
  path = tmp_path_factory.mktemp('scans') / 'Jane.nii.gz'
  made = phantom.make_scan(patient=0, seed=0)
  image = phantom.itk_image((made.image * 1000).astype(np.int16), made.affine, 'SPL')
  SimpleITK.WriteImage(image, str(path))
  return path


@pytest.fixture(scope='module')
def trained(tmp_path_factory, random_model):
  """A model folder outside of any run; nobody may change it."""
  config = configs.default()
  config.data.classes = ('background', 'liver')
  config.data.image_size = 16
  config.model.update({'channels': 4, 'depth': 2})
  return random_model(tmp_path_factory.mktemp('trained') / 'model', config)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, random_model, phantom_config):
  """A run with a model of random weights, and its prepared slices."""
  folder = tmp_path_factory.mktemp('run')
  config = phantom_config(folder)
  config.data.classes = ('background', 'organ')
  config.model.update({'channels': 4, 'depth': 2})
  prepare_for(config, folder)
  random_model(folder / 'model', config)
  files.write_json(folder / 'config.json', stages.to_json(config))
  return folder


def onnx_or_skip():
  pytest.importorskip('onnx')
  return pytest.importorskip('onnxruntime')


def command(place, output, *more):
  return export.main([f'--model={place}', f'--output={output}', *more])


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def only_error(capsys):
  """The one line that an error is."""
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert line.startswith('error: ')
  return line


def test_an_export_is_a_folder_that_says_what_it_is(trained, scan, tmp_path, capsys):
  onnx_or_skip()
  output = tmp_path / 'new' / 'exported'
  assert command(trained, output, f'--scans={scan}') == 0
  beside = ['components.py', 'errors.py', 'labels.py', 'likeness.py', 'nifti.py', 'resizing.py']
  beside += ['runners.py', 'slices.py', 'unreadable.py', 'windows.py']
  more = ['README.md', 'card.md', 'model.onnx', 'preprocessing.json', 'segment.py']
  assert names(output) == sorted(beside + more) and names(tmp_path / 'new') == ['exported']
  printed = capsys.readouterr().out
  assert 'research use only' in printed and 'logits differ by at most' in printed
  about = files.read_json(output / 'preprocessing.json')
  assert about['note'] == 'Research use only, not a medical device.'
  assert about['input']['shape'] == ['slices', 1, 16, 16]
  assert about['output']['shape'] == ['slices', 2, 16, 16]
  assert about['weights_sha256'] == model_folder.load(trained).sha256
  found = about['files']['model.onnx']
  assert found['sha256'] == hashlib.sha256((output / 'model.onnx').read_bytes()).hexdigest()
  assert found['slices'] > 4 and found['equal_pixels'] >= 0.9999
  assert 0 < found['largest_difference'] <= 1e-4
  page = (output / 'README.md').read_text(encoding='utf-8')
  for text in ('Research use only, not a medical device', 'segment.py SCAN', 'percentile 99.5'):
    assert text in page
  assert (output / 'card.md').read_bytes() == (trained / 'card.md').read_bytes()
  assert not any(b'Jane' in path.read_bytes() for path in output.iterdir())


def test_a_run_is_checked_on_its_validation_patients_and_calibrated_on_its_training_patients(
  workdir, tmp_path, capsys, monkeypatch
):
  onnx_or_skip()
  read = []
  read_case = batching.Prepared.read
  monkeypatch.setattr(
    batching.Prepared,
    'read',
    lambda self, case: read.append(case.patient) or read_case(self, case),
  )
  calibrated = []
  of_training = export_slices.read_training

  def watched(run, count, **settings):
    before = len(read)
    yield from of_training(run, count, **settings)
    calibrated.extend(read[before:])

  monkeypatch.setattr(export_slices, 'read_training', watched)
  assert command(workdir, tmp_path / 'exported', '--int8') == 0
  patients = export_slices.open_run(workdir / 'model').patients
  assert set(calibrated) == set(patients['train'])
  assert set(read) - set(calibrated) == {*patients['validation'], *patients['test']}
  about = files.read_json(tmp_path / 'exported' / 'preprocessing.json')
  found = about['files']['model_int8.onnx']
  line = re.search(r'validation DSC (\S+) %, in float32 (\S+) %', capsys.readouterr().out)
  assert line
  for text, name in zip(line.groups(), ('validation_dsc', 'validation_dsc_float'), strict=True):
    assert float(text) == pytest.approx(100 * found[name], abs=0.006)
  assert found['equal_pixels'] > 0.9
  assert 'DSC of the validation patients' in (tmp_path / 'exported' / 'README.md').read_text()


@pytest.mark.parametrize(
  ('timed', 'after', 'line'),
  [
    ('int8', 0.8945, '8 bits lose 0.55 points .* those in 8 bits'),
    ('float32', 0.9, 'the race that timed this network counts it with 3.70 ms in OpenVINO in .*'),
    ('int8', 0.9, ''),
    ('', 0.9, ''),
  ],
)
def test_advice_is_printed_and_kept_in_a_line_of_its_own(
  workdir, tmp_path, capsys, monkeypatch, timed, after, line
):
  """The export keeps it where it has the scores."""
  from thrifty_jax.exporting import export_check, quantise

  onnx_or_skip()
  raced = {'ms': 3.704, 'runtime': 'openvino', 'precision': timed, 'size': 256, 'machine': 'it'}
  monkeypatch.setattr(genotype, 'read_provenance', lambda path: raced if timed else {})
  monkeypatch.setattr(
    quantise,
    'quantise_model',
    lambda member, content, run: quantise.Quantised(
      content, export_check.make_onnx_runner(content), 0.9, after, None
    ),
  )
  assert command(workdir, tmp_path / 'exported', '--int8') == 0
  printed = capsys.readouterr().out
  about = files.read_json(tmp_path / 'exported' / 'preprocessing.json')
  assert 'advice' not in about['files']['model.onnx']
  advice = about['files']['model_int8.onnx'].get('advice', '')
  assert re.fullmatch(line, advice)
  page = (tmp_path / 'exported' / 'README.md').read_text()
  above = r'- `model_int8\.onnx`: .*, in float32 90\.00 %'
  below = rf'\n  - {re.escape(advice)}' if advice else ''
  assert re.search(rf'^{above}{below}\n\nIn float32 at most', page, re.MULTILINE)
  assert len(re.findall(r'^ *int8 ', printed, re.MULTILINE)) == 1 + bool(advice)
  assert re.search(rf'\bint8 +{re.escape(advice)}$', printed, re.MULTILINE) or not advice


def test_int8_has_8_bit_convolutions_and_nearly_the_same_logits(workdir, tmp_path):
  from thrifty_jax.exporting import export_check, onnx_network, quantise

  onnx_or_skip()
  onnx: Any = importlib.import_module('onnx')
  member = model_folder.load(workdir / 'model')
  run = export_slices.open_run(workdir / 'model')
  content = onnx_network.to_onnx(member).SerializeToString()
  quantised = quantise.quantise(
    content, export_slices.read_training(run, 16, context=0), whole=False
  )
  made: Any = onnx.load_from_string(quantised)
  kinds = [node.op_type for node in made.graph.node]
  eight = [one.name for one in made.graph.initializer if one.data_type == onnx.TensorProto.INT8]
  assert made.doc_string == 'Research use only, not a medical device.'
  assert kinds.count('QuantizeLinear') > 2 and len(eight) > 2
  images = export_slices.read_run(run)
  found = export_check.compare(member, export_check.make_onnx_runner(quantised), images)
  assert 1e-4 < found.largest_difference < 1 and found.equal_pixels > 0.95


def test_the_dsc_of_the_float_network_is_that_of_validation(workdir):
  from thrifty_jax.exporting import export_check, onnx_network, quantise
  from thrifty_jax.scores import cases

  onnx_or_skip()
  member, run = model_folder.load(workdir / 'model'), export_slices.open_run(workdir / 'model')
  network = export_check.make_onnx_runner(onnx_network.to_onnx(member).SerializeToString())
  predict = member.predict_with(batch_size=8)
  wanted = cases.validation_dsc(run.prepared, run.patients['validation'], predict)
  assert quantise.measure_dsc(run, network, member.spec, title='score') == pytest.approx(
    wanted, abs=1e-4
  )


def test_stablehlo_runs_without_the_program_that_made_it(trained, scan, tmp_path):
  output = tmp_path / 'exported'
  assert command(trained, output, '--format=stablehlo', f'--scans={scan}') == 0
  assert names(output) == ['README.md', 'card.md', 'model.stablehlo', 'preprocessing.json']
  exported = jax.export.deserialize(bytearray((output / 'model.stablehlo').read_bytes()))
  assert set(exported.platforms) == {'cpu', 'cuda', 'tpu'}
  image = np.random.default_rng(0).random((3, 1, 16, 16), np.float32)
  member = model_folder.load(trained)
  mean, std = member.spec.statistics.values()
  normalised = (np.moveaxis(image, 1, 3) - mean) / std
  np.testing.assert_allclose(
    np.moveaxis(np.asarray(exported.call(image)), 1, 3),
    member.logits(jnp.asarray(normalised)),
    atol=1e-4,
  )
  assert 'jax.export.deserialize' in (output / 'README.md').read_text()


# --- what is refused


def test_a_network_that_gives_something_else_is_not_written(
  trained, scan, tmp_path, capsys, monkeypatch
):
  onnx_or_skip()
  from thrifty_jax.exporting import onnx_network

  to_onnx = onnx_network.to_onnx

  def another(member, **settings):
    params = jax.tree.map(lambda leaf: 1.1 * leaf, member.params)
    return to_onnx(dataclasses.replace(member, params=params), **settings)

  monkeypatch.setattr(onnx_network, 'to_onnx', another)
  assert command(trained, tmp_path / 'exported', f'--scans={scan}') == 2
  line = only_error(capsys)
  assert 'model.onnx does not give what the model gives' in line and 'Nothing is written' in line
  assert not list(tmp_path.iterdir())


def test_not_a_number_does_not_agree():
  from thrifty_jax.exporting import export_check

  for difference, pixels in ((float('nan'), 1.0), (1e-5, 0.9998), (2e-4, 1.0)):
    with pytest.raises(InputError, match='does not give'):
      export_check.require_agreement(export_check.Agreement(1, difference, pixels), what='it')
  export_check.require_agreement(export_check.Agreement(1, 1e-5, 1.0), what='it')


def test_packages_that_are_missing_are_told_before_any_work(trained, tmp_path, capsys, monkeypatch):
  find = importlib.util.find_spec
  absent = ('onnx', 'onnxruntime')
  monkeypatch.setattr(
    importlib.util, 'find_spec', lambda name, *a: None if name in absent else find(name, *a)
  )
  assert command(trained, tmp_path / 'exported') == 2
  line = only_error(capsys)
  assert 'pip install -r requirements-export.txt' in line and 'not installed' in line


def a_file(place):
  place.write_text('mine')


def a_folder_of_something_else(place):
  place.mkdir()
  (place / 'mine.txt').write_text('mine')


def a_link(place):
  an_export(place.with_name('elsewhere'))
  place.symlink_to(place.with_name('elsewhere'))


def an_export(place):
  place.mkdir()
  about = {'format': export_folder.FORMAT, 'files': {'model.onnx': {}}}
  files.write_json(place / 'preprocessing.json', about)


def an_export_with_a_mask(place):
  an_export(place)
  (place / 'MASK.nii.gz').write_bytes(b'mine')


def an_export_with_a_script(place):
  an_export(place)
  (place / 'mine.py').write_text('mine')


def an_export_without_networks(place):
  place.mkdir()
  files.write_json(place / 'preprocessing.json', {'format': export_folder.FORMAT, 'files': 1})


@pytest.mark.parametrize(
  ('make', 'flags', 'text'),
  [
    (a_file, ['--overwrite'], 'is no export'),
    (a_folder_of_something_else, ['--overwrite'], 'is no export'),
    (an_export, [], 'add --overwrite'),
    (an_export_with_a_mask, ['--overwrite'], 'holds MASK.nii.gz, which is no file of an export; m'),
    (an_export_with_a_script, ['--overwrite'], 'holds mine.py, which is no file of an export; mo'),
    (an_export_without_networks, ['--overwrite'], 'is no export'),
    (a_link, ['--overwrite'], 'is a link, or has no name of its own'),
  ],
)
def test_what_is_there_is_not_replaced(trained, tmp_path, capsys, monkeypatch, make, flags, text):
  monkeypatch.setattr(export, '_require_packages', lambda format_: None)
  make(tmp_path / 'there')
  before = sorted(path.name for path in tmp_path.rglob('*'))
  assert command(trained, tmp_path / 'there', *flags) == 2
  assert text in only_error(capsys)
  assert sorted(path.name for path in tmp_path.rglob('*')) == before


def test_an_export_is_replaced_when_that_is_asked_for(tmp_path):
  an_export(tmp_path / 'there')
  systems = ('.DS_Store', 'Thumbs.db', 'desktop.ini')
  for name in ('model.onnx', 'README.md', 'labels.py', *systems):
    (tmp_path / 'there' / name).write_text('old')
  (tmp_path / 'there' / '__pycache__').mkdir()
  export_folder.require_place(tmp_path / 'there', overwrite=True)
  export_folder.write(tmp_path / 'there', {'new': b'new'})
  assert names(tmp_path / 'there') == ['new'] and names(tmp_path) == ['there']


@pytest.mark.parametrize('place', ['.', 'sub/..'])
def test_an_empty_folder_without_a_name_is_refused_before_any_work(
  trained, tmp_path, capsys, monkeypatch, place
):
  monkeypatch.setattr(export, '_require_packages', lambda format_: None)
  monkeypatch.chdir(tmp_path)
  assert command(trained, place) == 2
  assert f'--output={place} is a link, or has no name of its own' in only_error(capsys)


def test_an_error_without_a_reason_of_the_system_is_told(tmp_path, monkeypatch):
  def fail(*_):
    raise OSError('a reason')

  monkeypatch.setattr(files, 'write_bytes', fail)
  with pytest.raises(InputError, match='cannot be written: a reason'):
    export_folder.write(tmp_path / 'there', {'new': b'new'})
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('more', [[], ['--int8']])
def test_a_model_in_the_run_of_other_patients_is_refused(
  workdir, random_model, tmp_path, capsys, monkeypatch, more
):
  monkeypatch.setattr(export, '_require_packages', lambda format_: None)
  for name in ('config.json', 'data.json'):
    shutil.copy(workdir / name, tmp_path / name)
  config = configs.from_json(files.read_json(workdir / 'config.json'))
  random_model(tmp_path / 'model', config, splits_sha256='0a' * 32)
  assert command(tmp_path, tmp_path / 'out', *more) == 2
  line = only_error(capsys)
  assert 'with other patients than the run around it' in line
  assert line.endswith('--int8 needs the run' if more else 'on scans, by --scans=SCANS')
  patients = export_slices.open_run(tmp_path / 'model').patients
  found = dataclasses.replace(
    model_folder.load(tmp_path / 'model').spec, splits_sha256=split_file.digest(patients)
  )
  assert export._open_run(tmp_path / 'model', None, found).patients == patients


@pytest.mark.parametrize(
  ('flags', 'text'),
  [
    (['--model=MODEL'], '--output is missing'),
    (['--output=OUT'], '--model is missing'),
    (['--model=MODEL', '--output=OUT', '--format=pdf'], 'pdf'),
    (['--model=MODEL', '--output=OUT', 'surprise'], "unexpected argument 'surprise'"),
    (['--model=MODEL', '--output=OUT', '--int8', '--format=stablehlo'], '--int8 is for'),
    (['--model=MODEL/none', '--output=OUT', '--scans=SCAN'], 'there is no model'),
    (['--model=MODEL', '--output=OUT'], '--scans=SCANS'),
    (['--model=MODEL', '--output=OUT', '--scans=OUT/none'], 'no such file or folder'),
    (['--model=MODEL', '--output=OUT', '--scans=SCAN', '--int8'], '--int8 needs the run'),
  ],
)
def test_bad_usage_is_one_line_and_leaves_nothing(
  trained, scan, tmp_path, capsys, monkeypatch, flags, text
):
  monkeypatch.setattr(export, '_require_packages', lambda format_: None)
  places = {'MODEL': str(trained), 'OUT': str(tmp_path / 'out'), 'SCAN': str(scan)}
  for name, place in places.items():
    flags = [flag.replace(name, place) for flag in flags]
  assert export.main(flags) == 2
  assert text in only_error(capsys)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('more', [[], ['--int8']])
def test_a_run_whose_slices_are_gone_says_what_does_without_them(
  trained, tmp_path, capsys, monkeypatch, more
):
  monkeypatch.setattr(export, '_require_packages', lambda format_: None)
  shutil.copytree(trained, tmp_path / 'run' / 'model')
  (tmp_path / 'run' / 'config.json').write_text('{}')
  assert export.main([f'--model={tmp_path / "run"}', f'--output={tmp_path / "out"}', *more]) == 2
  line = only_error(capsys)
  assert 'data.json: there is no such file' in line
  assert line.endswith('--int8 needs the run' if more else 'on scans, by --scans=SCANS')


def test_a_run_with_several_folds_is_not_one_network(trained, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(export, '_require_packages', lambda format_: None)
  for fold in range(2):
    folder = tmp_path / 'run' / f'fold_{fold}' / 'model'
    folder.mkdir(parents=True)
    (folder / 'preprocessing.json').write_text('{}')
  assert command(tmp_path / 'run', tmp_path / 'out') == 2
  assert 'fold_0' in only_error(capsys)


def test_help_has_every_option(capsys):
  assert export.main(['--help']) == 0
  text = capsys.readouterr().out
  for name in ('model', 'output', 'format', 'scans', 'int8', 'dynamic_sides', 'overwrite'):
    assert f'--{name}' in text
  assert 'not a medical device' in text


# By name: the reduction, what else changes in a description, and what the steps to a mask say.
MASKS: dict[str, tuple[float, dict[str, Any], list[str]]] = {
  'plain': (0, {}, ['square around the slice', 'largest logit', 'turn the mask']),
  'windows': (1.5, {}, ['average each class where windows', 'largest logit', 'turn the mask']),
  'the largest piece': (
    0,
    {'largest_component': ('liver',)},
    ['square', 'largest logit', 'of liver keep .* connected by faces .* becomes 0$', 'turn'],
  ),
  'a region': (
    0,
    {'largest_component': ('liver',), 'regions': ((1,),)},
    ['square', 'each of `regions`', 'becomes the first label of the smallest region', 'turn'],
  ),
  'pictures': (0, {'unit': 'pixels'}, ['square around the slice', 'largest logit']),
}


@pytest.mark.parametrize('name', MASKS)
def test_an_export_says_how_the_mask_is_made(trained, name):
  member, (reduction, changes, texts) = model_folder.load(trained), MASKS[name]
  image = dataclasses.replace(member.spec.image, reduction=reduction)
  spec = dataclasses.replace(member.spec, image=image, **changes)
  about = export_folder.describe(
    dataclasses.replace(member, spec=spec), {'m': b''}, {'m': {}}, sides=None
  )
  steps = about['output']['steps']
  assert len(steps) == len(texts) and all(map(re.search, texts, steps))
  assert any(
    'percentile 99.5 of each channel of the scan' in one for one in about['input']['steps']
  )


def test_a_score_that_is_none_is_left_out_of_the_page(trained):
  member = model_folder.load(trained)
  checked = {'slices': 4, 'equal_pixels': 1.0, 'largest_difference': 0.0}
  for score, is_there in ((None, False), (0.5, True)):
    results = {'m': checked | {'validation_dsc': score, 'validation_dsc_float': 0.6}}
    page = export_folder.make_contents(member, {'m': b''}, results, card=b'', sides=None)[
      'README.md'
    ]
    assert (b'DSC of the validation patients' in page) == is_there


def test_the_settings_are_json_that_any_program_reads(trained):
  member = model_folder.load(trained)
  about = export_folder.describe(member, {'m': b''}, {'m': {}}, sides=None)
  assert json.loads(json.dumps(about, allow_nan=False)) == about
  assert about['input']['shape'][2:] == ['height', 'width']
