"""A training with a teacher and scans without masks: whole, stopped, and what is refused."""

import json
import shutil
from pathlib import Path

import interrupted
import jax
import numpy as np
import pytest
import tiny_lean_runs

from data_prep import phantom
from thrifty_jax import config as configs
from thrifty_jax import model_folder, predict
from thrifty_jax.data import batching, data_file, prepared
from thrifty_jax.errors import InputError
from thrifty_jax.networks import baselines, genotype
from thrifty_jax.networks.lean_space import LeanShape, Level
from thrifty_jax.predicting import segment
from thrifty_jax.training import named_teacher, start_model, teacher, trainings, unlabelled
from thrifty_jax.training.train_data import open_train_data

PROJECT = Path(__file__).resolve().parents[2]
SHAPE = LeanShape(
  (Level(4, 1, 1, 'plain'), Level(8, 1, 1, 'plain'), Level(8, 1, 0, 'plain')),
  stem=1,
  up='nearest',
  skip='add',
  norm='batch',
)
pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')


@pytest.fixture(scope='module', autouse=True)
def in_project():
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(PROJECT)
    yield


def command(place, name, *arguments):
  """Runs the command in <place>/<name>."""
  genotype_file = f'--config.genotype={place / "genotype.json"}'
  return tiny_lean_runs.command(place, place / name, genotype_file, *arguments)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with raw scans, two of which have no mask, and two teachers, of two seeds."""
  folder = tmp_path_factory.mktemp('teacher')
  phantom.write_promise12(folder / 'raw', patients=6, seed=0)
  genotype.save(folder / 'genotype.json', SHAPE)
  (folder / 'unlabelled').mkdir()
  for path in (folder / 'raw' / 'TestData').iterdir():
    shutil.copyfile(path, folder / 'unlabelled' / path.name)
  for seed in (1, 2):
    more = (f'--config.seed={seed}', '--config.retrain.learning_rate=0.02')
    for stage in ('prepare', 'retrain'):
      assert command(folder, f'teacher_{seed}', *more, f'--stage={stage}') == 0
  return folder


def taught_by(place, *names):
  return f'--config.retrain.teacher={",".join(str(place / name) for name in names)}'


@pytest.fixture(scope='module')
def done(place):
  """A finished run with both teachers and the scans without masks."""
  more = (taught_by(place, 'teacher_1', 'teacher_2'), learned_from(place))
  assert command(place, 'pupil', *more) == 0
  return place / 'pupil'


def unmasked(place):
  return str(place / 'unlabelled')


def learned_from(place):
  return f'--config.data.unlabelled={unmasked(place)}'


def weights_of(folder):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(model_folder.load(folder / 'model').params)]


def test_the_run_its_report_and_its_card_say_who_taught(place, done):
  taught = json.loads((done / 'retrain' / 'summary.json').read_text('utf-8'))['taught']
  sums = [model_folder.describe(place / f'teacher_{seed}' / 'model').sha256 for seed in (1, 2)]
  assert taught['weights_sha256'] == sums and taught['unlabelled'] == 1 and taught['patients_known']
  card = (done / 'model' / 'card.md').read_text('utf-8')
  assert all(one in card for one in sums)
  for text in (card, (done / 'report.html').read_text('utf-8')):
    assert '50 %, the probabilities of 2 models' in text and '1 scans without masks' in text
  assert json.loads((done / 'evaluate' / 'summary.json').read_text('utf-8'))['held_out']


def test_what_is_learned_depends_on_the_teacher_its_share_and_the_scans(place, done):
  alone = (taught_by(place, 'teacher_1'),)
  more = {'one': alone, 'less': (*alone, '--config.retrain.teacher_share=0.1')}
  for name, options in more.items():
    assert command(place, name, '--stage=prepare') == 0
    assert command(place, name, '--stage=retrain', *options) == 0
  assert command(place, 'none', '--stage=prepare') == 0
  assert command(place, 'none', '--stage=retrain') == 0
  found = [weights_of(place / name) for name in ('pupil', 'one', 'less', 'none')]
  for index, one in enumerate(found):
    for other in found[index + 1 :]:
      assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_the_teacher_says_the_mean_of_what_its_models_predict(place, done):
  """On slices normalised for the pupil by other statistics than the models know."""
  config = configs.from_json(json.loads((done / 'config.json').read_text('utf-8')))
  data = open_train_data(config, done)
  slices = prepared.open_slices(done, config)
  image = slices.read(slices.cases[0])['image'][:3]
  models = [model_folder.load(place / f'teacher_{seed}' / 'model') for seed in (1, 2)]
  shares = [jax.nn.softmax(model.predict_with(batch_size=3)(image)) for model in models]
  own = {'mean': np.array([0.9], np.float32), 'std': np.array([0.2], np.float32)}
  seen = batching.normalise(image[:, None], **own)
  lessons = teacher.begin(config, done, data)
  assert lessons.teacher
  found = lessons.teacher.teach(lessons.weights, seen, own, regions=False)
  np.testing.assert_allclose(found.probability, np.mean(shares, axis=0), atol=2e-6)
  assert found.share == 0.5


def test_scans_without_masks_are_drawn_with_images_as_prediction_has_them(place, done):
  config = configs.from_json(json.loads((done / 'config.json').read_text('utf-8')))
  data = open_train_data(config, done)
  joined, names = unlabelled.add(config, done, data)
  assert names == ('unlabelled Case06',) and joined.patients == data.patients
  (case,) = joined.prepared.cases_of(names)
  found = joined.prepared.read(case)
  assert (found['label'] == 255).all() and len(found['image']) == case.slices
  drawn = joined.epochs((*data.patients['train'], *names), batch_size=4, seed=0).examples
  assert len(drawn.drawn) == len(data.examples(data.patients['train'])) + case.slices
  segmenter = predict.load_model(done)
  scan = next((place / 'unlabelled').glob('Case*.mhd'))
  seen = []
  inner = segmenter.members[0].predict_with(batch_size=16)
  object.__setattr__(segmenter, '_predictions', (lambda image: seen.append(image) or inner(image),))
  segmenter.segment_file(scan)
  np.testing.assert_array_equal(found['image'], seen[0])


def test_a_stopped_run_goes_on_with_the_same_bits_though_the_scans_are_gone(place, done, stop_at):
  scans = place / 'borrowed'
  shutil.copytree(unmasked(place), scans)
  more = (
    taught_by(place, 'teacher_1', 'teacher_2'),
    f'--config.data.unlabelled={scans}',
    '--stage=retrain',
  )
  assert command(place, 'stopped', '--stage=prepare') == 0
  with stop_at(1):
    assert command(place, 'stopped', *more) not in (0, 1, 2)
  shutil.rmtree(scans)
  assert command(place, 'stopped', *more) == 0
  found, expected = (
    interrupted.last_state(folder / 'retrain' / 'checkpoints')
    for folder in (place / 'stopped', done)
  )
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_run_that_is_done_needs_its_teacher_no_more(place, done):
  shutil.copytree(done, place / 'left')
  shutil.rmtree(place / 'left' / 'evaluate')
  (place / 'teacher_1').rename(place / 'away')
  try:
    assert (
      command(place, 'left', taught_by(place, 'teacher_1', 'teacher_2'), learned_from(place)) == 0
    )
  finally:
    (place / 'away').rename(place / 'teacher_1')
  assert (place / 'left' / 'evaluate' / 'summary.json').exists()


def test_a_baseline_is_trained_first_and_only_once(place, monkeypatch, capfd):
  monkeypatch.setattr(baselines, 'WIDTH', 2)
  more = ('--stage=retrain', '--config.retrain.teacher=unet', '--config.retrain.epochs=3')
  assert command(place, 'named', '--stage=prepare') == 0
  assert command(place, 'named', *more) == 0
  model = model_folder.describe(place / 'named' / 'teacher' / 'model')
  assert (model.spec.network.name, model.spec.network.norm) == ('unet', 'group')
  taught = json.loads((place / 'named' / 'retrain' / 'summary.json').read_text('utf-8'))['taught']
  assert taught['weights_sha256'] == [model.sha256] and taught['patients_known']
  before = (place / 'named' / 'teacher' / 'model' / 'weights.safetensors').stat().st_mtime_ns
  config = configs.from_json(json.loads((place / 'named' / 'config.json').read_text('utf-8')))
  named_teacher.train(config, place / 'named')
  after = (place / 'named' / 'teacher' / 'model' / 'weights.safetensors').stat().st_mtime_ns
  assert before == after


@pytest.fixture(scope='module')
def of_folds(place):
  """A run whose teacher is three networks, each without a fold of its four training patients."""
  lists = (
    "--config.data.validation_patients=('Case00',)",
    "--config.data.test_patients=('Case01',)",
  )
  assert command(place, 'folds', *lists, '--config.retrain.teacher=folds') == 0
  return place / 'folds'


def test_networks_that_each_leave_out_a_fold_are_trained_first(place, of_folds):
  networks = [of_folds / 'teacher' / f'fold_{fold}' for fold in range(3)]
  assert segment.find_models(of_folds / 'teacher') == [one / 'model' for one in networks]
  left_out = []
  for network in networks:
    patients = start_model.find_patients(network / 'model')
    assert patients and {*patients['test']} == {'Case00', 'Case01'}
    assert len(patients['train']) + len(patients['validation']) == 4
    assert genotype.load_any(network / 'retrain' / 'genotype.json') == SHAPE
    left_out += patients['validation']
  assert sorted(left_out) == ['Case02', 'Case03', 'Case04', 'Case05']
  digests = [model_folder.describe(network / 'model').sha256 for network in networks]
  summary = json.loads((of_folds / 'retrain' / 'summary.json').read_text('utf-8'))
  assert summary['taught']['weights_sha256'] == digests and len({*digests}) == 3
  assert summary['taught']['patients_known'] and 'shared' not in summary['taught']


def test_folds_of_another_run_teach_nobody_whom_they_know(place, of_folds, capfd):
  assert command(place, 'spoilt', f'--config.retrain.teacher={of_folds / "teacher"}') == 2
  assert 'has learned from' in capfd.readouterr().err


def test_folds_that_teach_need_a_training_patient_each(place, capfd):
  assert command(place, 'few', '--config.retrain.teacher=folds') == 2
  assert 'deals the 2 training patients to 3 folds' in capfd.readouterr().err
  assert not (place / 'few' / 'data.json').exists()


def test_a_teacher_that_is_gone_or_another_one_is_refused(of_folds, tmp_path):
  shutil.copytree(of_folds, tmp_path / 'run')
  config = configs.from_json(json.loads((of_folds / 'config.json').read_text('utf-8')))
  config.retrain.epochs = 3
  config.data.folds = 4
  (tmp_path / 'run' / 'teacher' / 'fold_2').rename(tmp_path / 'run' / 'teacher' / 'fold_4')
  with pytest.raises(InputError, match='fold_4/model: is a model of another teacher'):
    named_teacher.train(config, tmp_path / 'run')
  config.data.folds = 3
  shutil.rmtree(tmp_path / 'run' / 'teacher' / 'fold_4')
  with pytest.raises(InputError, match='fold_2: there is no trained network any more'):
    named_teacher.train(config, tmp_path / 'run')


@pytest.fixture
def named(tmp_path, monkeypatch):
  """The settings of a run with a named teacher, and those that the teacher is trained with."""
  config, trained = configs.default(), []
  configs.set_model(config, 'lean')
  config.retrain.update({'teacher': 'unet', 'epochs': 60})
  monkeypatch.setattr(trainings.retrain, 'retrain', lambda settings, _: trained.append(settings))
  monkeypatch.setattr(trainings.data_file, 'pass_on', lambda *_: None)
  monkeypatch.setattr(trainings, 'read', lambda _: True)
  patients = {f'p{number}': {1} for number in range(9)}
  monkeypatch.setattr(named_teacher, '_find_patients', lambda *_: patients)
  return config, trained


def test_what_is_meant_for_the_pupil_is_not_for_its_named_teacher(named, tmp_path):
  config, trained = named
  config.retrain.update({'start_from': 'old', 'freeze_levels': 1, 'teacher_share': 0.1})
  named_teacher.train(config, tmp_path)
  settings = trained[0].retrain
  assert (settings.start_from, settings.freeze_levels, settings.teacher) == ('', 0, '')
  assert settings.epochs == 60 and settings.teacher_share == configs.default().retrain.teacher_share


def test_a_named_teacher_that_is_done_serves_a_longer_run_and_another_share(named, tmp_path):
  config, trained = named
  named_teacher.train(config, tmp_path)
  for name in ('retrain/summary.json', 'model/weights.safetensors'):
    (tmp_path / 'teacher' / name).parent.mkdir()
    (tmp_path / 'teacher' / name).write_text('{"planned_epochs": [60]}')
  config.retrain.update({'epochs': 80, 'teacher_share': 0.1})
  named_teacher.train(config, tmp_path)
  assert len(trained) == 1
  config.seed = 5
  with pytest.raises(InputError, match='seed 0 -> 5'):
    named_teacher.train(config, tmp_path)
  (tmp_path / 'teacher' / 'config.json').write_text('[]')
  with pytest.raises(InputError, match='teacher/config.json holds no settings'):
    named_teacher.train(config, tmp_path)


# --- what is refused


def test_names_that_a_teacher_of_other_scans_knows_are_a_warning(place, done, tmp_path, capfd):
  other = place / 'elsewhere'
  shutil.copytree(place / 'teacher_1', other)
  record = json.loads((other / data_file.FILE).read_text('utf-8'))
  record['settings']['raw_files'] = '0' * 64
  (other / data_file.FILE).write_text(json.dumps(record))
  more = ('--stage=retrain', '--config.data.fold=1', taught_by(place, 'elsewhere'))
  assert command(place, 'warned', '--stage=prepare') == 0
  assert command(place, 'warned', *more) == 0
  assert 'WARNING: the models have learned from patients' in capfd.readouterr().out
  assert 'WARNING' in (place / 'warned' / 'model' / 'card.md').read_text('utf-8')


def test_scans_of_the_external_test_set_are_refused(place, done, tmp_path):
  config = configs.from_json(json.loads((done / 'config.json').read_text('utf-8')))
  shutil.copytree(unmasked(place), tmp_path / 'raw' / 'imagesTs')
  (tmp_path / 'raw' / 'labelsTs').mkdir()
  config.data.unlabelled = str(tmp_path / 'raw' / 'imagesTs')
  with pytest.raises(InputError, match='is a scan of the external test set'):
    unlabelled.add(config, tmp_path, open_train_data(config, done))
  assert not (tmp_path / 'retrain' / 'unlabelled' / 'scans.json').exists()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('--config.retrain.teacher={0}/teacher_1,{0}/teacher_1/model',), 'twice'),
    (('--config.retrain.teacher={0}/nowhere',), 'nowhere'),
    (('{1}', '--config.data.classes=("background","liver")'), 'its "classes" is'),
    (('{1}', '--config.data.percentiles=(1.0,99.0)'), 'its "percentiles" is'),
    (('{1}', '--config.data.fold=1'), 'has learned from'),
    (('{1}', '--config.retrain.teacher_share=1.5'), 'teacher_share is 1.5'),
    (('--config.data.unlabelled={0}/unlabelled',), 'unlabelled is'),
    (('{1}', '--config.data.unlabelled={0}/nowhere'), 'nowhere: no such file or folder'),
    (('{1}', '--config.data.unlabelled={0}/raw/TrainingData'), 'patient of this run; remove it'),
  ],
)
def test_a_teacher_or_scans_that_do_not_fit_are_one_line(place, done, arguments, message, capfd):
  texts = [one.format(place, taught_by(place, 'teacher_1')) for one in arguments]
  workdir = place / 'refused'
  shutil.rmtree(workdir, ignore_errors=True)
  workdir.mkdir()
  shutil.copyfile(done / data_file.FILE, workdir / data_file.FILE)
  capfd.readouterr()
  assert command(place, 'refused', '--stage=retrain', *texts) == 2
  error = capfd.readouterr().err.splitlines()
  assert len(error) == 1 and message in error[0]
  assert not (workdir / 'model').exists()


def test_networks_that_are_compared_have_one_teacher_that_is_there(place, capfd):
  assert command(place, 'compared', '--stage=front', '--config.retrain.teacher=unet') == 2
  assert 'all networks have one teacher' in capfd.readouterr().err


def test_another_teacher_in_mid_training_is_refused(place, done, tmp_path):
  config = configs.from_json(json.loads((done / 'config.json').read_text('utf-8')))
  data = open_train_data(config, done)
  config.retrain.teacher = str(place / 'teacher_2')
  with pytest.raises(InputError, match='began with another teacher'):
    teacher.begin(config, done, data)


def test_slices_without_masks_that_were_damaged_are_refused(place, done, tmp_path):
  config = configs.from_json(json.loads((done / 'config.json').read_text('utf-8')))
  data = open_train_data(config, done)
  shutil.copytree(done / 'retrain' / 'unlabelled', tmp_path / 'retrain' / 'unlabelled')
  (tmp_path / 'retrain' / 'checkpoints' / '1').mkdir(parents=True)
  path = next((tmp_path / 'retrain' / 'unlabelled').glob('*.npy'))
  for damage in (lambda content: content[:-9], lambda content: content[:-1] + b'\x55'):
    content = path.read_bytes()
    path.write_bytes(damage(content))
    with pytest.raises(InputError, match='train anew'):
      unlabelled.add(config, tmp_path, data)
    path.write_bytes(content)


def test_before_a_state_is_saved_the_teacher_and_the_scans_may_change_and_are_looked_at_anew(
  place, done, tmp_path
):
  config = configs.from_json(json.loads((done / 'config.json').read_text('utf-8')))
  data, record = open_train_data(config, done), tmp_path / 'retrain' / 'teacher.json'
  models = [place / f'teacher_{seed}' for seed in (1, 2)]
  for model in models:
    config.retrain.teacher = str(model)
    teacher.begin(config, tmp_path, data)
    assert json.loads(record.read_text('utf-8'))['models'] == [str(model / 'model')]
  before = config.data.unlabelled
  config.data.unlabelled = str(place / 'raw' / 'TrainingData')
  with pytest.raises(InputError, match='patient of this run; remove it'):
    unlabelled.add(config, tmp_path, data)
  config.data.unlabelled = before
  unlabelled.add(config, tmp_path, data)
  (tmp_path / 'retrain' / 'checkpoints' / '1').mkdir(parents=True)
  config.data.unlabelled = 'gone'
  assert unlabelled.add(config, tmp_path, data)[1] == ('unlabelled Case06',)


def test_a_scan_that_has_a_mask_is_left_out_or_refused(place, done, tmp_path, capfd):
  config = configs.from_json(json.loads((done / 'config.json').read_text('utf-8')))
  data = open_train_data(config, done)
  scans = tmp_path / 'scans'
  shutil.copytree(unmasked(place), scans)
  for name in data.patients['train'][:1]:
    for path in (place / 'raw' / 'TrainingData').glob(f'{name}.*'):
      shutil.copyfile(path, scans / path.name)
  config.data.unlabelled = str(scans)
  _, names = unlabelled.add(config, tmp_path, data)
  assert names == ('unlabelled Case06',)
  assert f'is left out: it is {data.patients["train"][0]}' in capfd.readouterr().out
