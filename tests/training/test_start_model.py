"""A training that starts from a model: a whole run, one that was stopped, and what is refused."""

import json
import shutil
from pathlib import Path

import interrupted
import jax
import numpy as np
import pytest
import SimpleITK
import tiny_lean_runs
from flax import traverse_util

from data_prep import phantom
from thrifty_jax import config as configs
from thrifty_jax import export, model_folder, predict
from thrifty_jax.data import data_file
from thrifty_jax.errors import InputError
from thrifty_jax.networks import build, genotype
from thrifty_jax.networks.lean_space import LeanShape, Level
from thrifty_jax.networks.model_spec import make_spec
from thrifty_jax.training import start_model, train_step
from thrifty_jax.training.train_data import make_schedule, open_train_data

PROJECT = Path(__file__).resolve().parents[2]
SHAPE = LeanShape(
  (Level(4, 1, 1, 'plain'), Level(8, 1, 1, 'residual'), Level(8, 1, 0, 'plain')),
  stem=1,
  up='nearest',
  skip='add',
  norm='batch',
)
ORGANS = ('background', 'liver', 'spleen')  # neither is the organ of the phantoms
pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')


@pytest.fixture(scope='module', autouse=True)
def in_project():
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(PROJECT)
    yield


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with raw scans, and a model of other organs with no weight at zero."""
  folder = tmp_path_factory.mktemp('start')
  phantom.write_promise12(folder / 'raw', patients=6, seed=0)
  config = configs.default()
  config.model.name = 'lean'
  config.data.update({'classes': ORGANS, 'image_size': 16})
  spec = make_spec(config, {'mean': np.array([0.4]), 'std': np.array([0.3])})
  shapes = build.find_shapes(build.build(spec, SHAPE), spec.image_channels)
  generator = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: (leaf + generator.uniform(0.01, 0.02, leaf.shape)).astype(np.float32),
    build.initialise(shapes, seed=5),
  )
  genotype.save(folder / 'genotype.json', SHAPE)
  model_folder.save(
    folder / 'old' / 'model', params, spec=spec, genotype_file=folder / 'genotype.json', card='#'
  )
  return folder


def command(place, workdir, *arguments, start='old', config='configs/phantom.py:lean'):
  """Runs the command from a model in the folder."""
  start_from = f'--config.retrain.start_from={place / start}'
  every = (start_from, '--config.retrain.freeze_levels=1', *arguments)
  return tiny_lean_runs.command(place, workdir, *every, config=config)


@pytest.fixture(scope='module')
def done(place):
  """The workdir of a finished run, and the weights before its first step."""
  first, begin = [], train_step.start
  with pytest.MonkeyPatch.context() as patch:

    def watched(*arguments, **more):
      found = begin(*arguments, **more)
      first.append(traverse_util.flatten_dict(jax.tree.map(np.asarray, found[1].params), sep='/'))
      return found

    patch.setattr(train_step, 'start', watched)
    assert command(place, place / 'new') == 0
  return place / 'new', first[0]


def load(folder):
  loaded = model_folder.load(folder)
  return loaded, traverse_util.flatten_dict(loaded.params, sep='/')


def test_what_fits_is_the_models_before_the_first_step_and_frozen_levels_at_the_end(place, done):
  workdir, first = done
  (_, old), (new, trained) = load(place / 'old' / 'model'), load(workdir / 'model')
  anew = {name for name in first if name.startswith('classes')}
  frozen = {name for name in first if name.startswith('encoder_0/')}
  assert anew and any(name.endswith('variance') for name in frozen)
  for name in first.keys() - anew:
    np.testing.assert_array_equal(first[name], old[name], err_msg=name)
  for name in frozen:
    np.testing.assert_array_equal(trained[name], old[name], err_msg=name)
  for name in first.keys() - frozen:
    assert (trained[name] != first[name]).any(), name
  assert new.spec.classes == ('background', 'organ') and new.genotype == SHAPE


def test_the_run_its_report_and_its_card_say_what_was_taken(place, done):
  workdir, first = done
  sha256 = model_folder.describe(place / 'old' / 'model').sha256
  started = json.loads((workdir / 'retrain' / 'summary.json').read_text('utf-8'))['started']
  assert started['weights_sha256'] == sha256 and started['frozen'] == ['encoder_0']
  assert started['anew'] == [name for name in first if name.startswith('classes')]
  assert started['whole'] == len(first) - len(started['anew']) and started['partly'] == []
  for name in ('model/card.md', 'report.html'):
    text = (workdir / name).read_text('utf-8')
    assert 'classes/kernel' in text and 'encoder_0' in text
    assert (str(place / 'old') in text) == (name == 'report.html')  # a card goes to others
  assert sha256 in (workdir / 'model' / 'card.md').read_text('utf-8')
  assert json.loads((workdir / 'evaluate' / 'summary.json').read_text('utf-8'))['held_out']


def test_the_new_model_predicts_and_is_exported(place, done, tmp_path):
  scan = place / 'raw' / 'TrainingData' / 'Case00.mhd'
  arguments = (f'--model={done[0]}', f'--input={scan}', f'--output={tmp_path / "mask.mha"}')
  assert predict.main(arguments) == 0
  mask, image = (SimpleITK.ReadImage(str(path)) for path in (tmp_path / 'mask.mha', scan))
  assert mask.GetSize() == image.GetSize()
  assert (
    SimpleITK.GetArrayViewFromImage(mask).max() <= 1
  )  # of two classes, where the model has three
  arguments = (f'--model={done[0]}', f'--output={tmp_path / "exported"}', '--format=stablehlo')
  assert export.main(arguments) == 0


def test_a_stopped_run_goes_on_with_the_same_bits_though_the_model_is_gone(
  place, done, tmp_path, stop_at
):
  shutil.copytree(place / 'old', place / 'borrowed')
  assert command(place, tmp_path, '--stage=prepare', start='borrowed') == 0
  with stop_at(1):
    assert command(place, tmp_path, '--stage=retrain', start='borrowed') not in (0, 1, 2)
  shutil.rmtree(place / 'borrowed')
  assert command(place, tmp_path, '--stage=retrain', start='borrowed') == 0
  found, expected = (
    interrupted.last_state(folder / 'retrain' / 'checkpoints') for folder in (tmp_path, done[0])
  )
  assert found.keys() == expected.keys()
  for name, array in found.items():
    np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_the_rate_is_lower_only_where_the_training_starts_from_a_model():
  settings = configs.default().retrain
  scratch = make_schedule(settings, 10).peak
  settings.start_from = 'runs/old'
  assert settings.start_rate == 0.3
  assert make_schedule(settings, 10).peak == pytest.approx(0.3 * scratch)


# --- what is refused


def other_shape(config, place):
  genotype.save(place / 'other.json', LeanShape(SHAPE.levels, 2, 'nearest', 'add', 'batch'))
  config.genotype = str(place / 'other.json')


def damage(config, place):
  shutil.copytree(place / 'old', place / 'damaged')
  with (place / 'damaged' / 'model' / 'weights.safetensors').open('r+b') as file:
    file.seek(-1, 2)
    file.write(b'\x55')
  config.retrain.start_from = str(place / 'damaged')


REFUSED = {
  'another genotype': (other_shape, 'is a network of another genotype'),
  'damaged': (damage, 'weights.safetensors'),
  'missing': (lambda c, p: c.retrain.update({'start_from': str(p / 'none')}), 'none'),
  'another network': (lambda c, _: c.model.update({'name': 'unet'}), "is a network 'lean'"),
  'frozen': (lambda c, _: c.retrain.update({'freeze_levels': 4}), 'is 4; expected at most 3'),
  'intensities': (lambda c, _: c.data.update({'percentiles': (1.0, 99.0)}), 'data.percentiles='),
}


@pytest.mark.parametrize('name', REFUSED)
def test_a_model_that_cannot_be_started_from_is_one_line(name, place, tmp_path):
  change, message = REFUSED[name]
  config = configs.default()
  config.model.name = 'lean'
  config.retrain.start_from = str(place / 'old')
  change(config, place)
  with pytest.raises(InputError, match=message) as caught:
    start_model.fill_in(config, tmp_path)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('--stage=search',), '--stage=search: does not start from a model'),
    (('--stage=front',), '--stage=front: does not start from a model'),
    (('--stage=retrain', '--config.data.context=1'), 'freeze_levels is 1, but encoder_0'),
    (('--config.retrain.start_from=',), 'freeze_levels is 1; expected 0 without'),
  ],
)
def test_a_run_that_cannot_start_from_it_is_one_line_and_leaves_no_training(
  arguments, message, place, done, tmp_path, capfd
):
  shutil.copyfile(done[0] / data_file.FILE, tmp_path / data_file.FILE)
  assert command(place, tmp_path, *arguments) == 2
  error = capfd.readouterr().err.splitlines()
  assert len(error) == 1 and message in error[0]
  assert not (tmp_path / 'retrain' / 'start').exists()


def test_patients_of_the_model_who_would_test_are_refused_or_warned_of(
  place, done, tmp_path, capfd
):
  """In the same scans they are the same persons; in others only their names are the same."""
  more = ('--stage=retrain', '--config.data.fold=1')
  shutil.copyfile(done[0] / data_file.FILE, tmp_path / data_file.FILE)
  assert command(place, tmp_path, *more, start='new') == 2
  error = capfd.readouterr().err.splitlines()
  assert len(error) == 1 and 'was trained on these scans, and with' in error[0]
  other = place / 'elsewhere'
  shutil.copytree(done[0], other)
  record = json.loads((other / data_file.FILE).read_text('utf-8'))
  record['settings']['raw_files'] = '0' * 64
  (other / data_file.FILE).write_text(json.dumps(record))
  assert command(place, tmp_path, *more, start='elsewhere') == 0
  assert 'WARNING: it has learned from patients' in capfd.readouterr().out
  card = (tmp_path / 'model' / 'card.md').read_text('utf-8')
  summary = json.loads((tmp_path / 'retrain' / 'summary.json').read_text('utf-8'))
  assert 'WARNING: it has learned from patients with the names of ' in card
  assert not [name for name in summary['started']['shared'] if name in card]


@pytest.mark.parametrize(
  ('train', 'validation', 'shared'),
  [
    ('a', 'b', []),  # the same split
    ('b', 'a', ['b']),  # who validates has trained the model
    ('c', 'b', ['c']),
    ('a', 'c', ['c']),
  ],
)
def test_who_validates_may_have_validated_the_model_and_nothing_else(
  train, validation, shared, tmp_path, monkeypatch
):
  known = {'train': (train,), 'validation': (validation,), 'test': ()}
  monkeypatch.setattr(start_model, 'find_patients', lambda _: known)
  split = {'train': ('a',), 'validation': ('b',), 'test': ('c',)}
  assert start_model.find_shared(split, tmp_path) == shared


def test_until_a_state_is_saved_the_patients_are_looked_at_and_the_model_is_taken_anew(
  place, done, tmp_path
):
  config = configs.from_json(json.loads((done[0] / 'config.json').read_text('utf-8')))
  shutil.copyfile(done[0] / data_file.FILE, tmp_path / data_file.FILE)
  data = open_train_data(config, tmp_path)
  for name in ('old', 'new'):
    config.retrain.start_from = str(place / name)
    start_model.require_strangers(config, tmp_path)
    start_model.begin(config, tmp_path, data)
    started, model = start_model.read(tmp_path / 'retrain'), place / name / 'model'
    assert started and started.model == str(place / name)
    copied = model_folder.describe(tmp_path / 'retrain' / 'start')
    assert copied.sha256 == started.weights_sha256 == model_folder.describe(model).sha256
  trained = data.patients['train'][0]
  config.data.test_patients = data.patients['test']
  config.data.validation_patients = (trained,)
  with pytest.raises(InputError, match=f'with {trained}, who would validate or test here'):
    start_model.require_strangers(config, tmp_path)
  (tmp_path / 'retrain' / 'checkpoints' / '1').mkdir(parents=True)
  start_model.require_strangers(config, tmp_path)
  config.retrain.start_from = str(place / 'old')
  with pytest.raises(InputError, match='has other weights than those'):
    start_model.begin(config, tmp_path, data)
