"""The comparison: who takes part, which learning rate is chosen, what is trained again."""

import dataclasses
import json

import pytest

from thrifty_jax import config as configs
from thrifty_jax import records
from thrifty_jax.errors import InputError, NotFinite
from thrifty_jax.networks import genotype, parameters
from thrifty_jax.networks.space import space_of
from thrifty_jax.run_files import Result, Retrained, Timed
from thrifty_jax.scores import standings
from thrifty_jax.training import compare, trainings

EXAMPLE = compare.Path(compare.__file__).parents[1] / 'genotypes' / 'thrifty_0.61m.json'


@pytest.fixture
def config():
  config = configs.default()
  config.compare.baselines = ('unet', 'unet_group')
  config.compare.random_genotypes = 2
  config.compare.learning_rates = (0.001, 0.01)
  config.retrain.epochs = 20
  return config


@pytest.fixture
def workdir(tmp_path):
  """A run whose search is done."""
  path = tmp_path / 'run' / 'search' / 'genotype.json'
  path.parent.mkdir(parents=True)
  path.write_bytes(EXAMPLE.read_bytes())
  return tmp_path / 'run'


def trained_summary(*, validation_dsc, planned_epochs=(20,)):
  return Retrained(
    model='thrifty', parameters=1, macs=1, image=(8, 8, 1), genotype=None, epochs=1,
    planned_epochs=planned_epochs, precision='float32', steps=1, best_epoch=1,
    validation_dsc=validation_dsc, largest_component=(), selection='', seconds=1,
  )  # fmt: skip


TIMED = Timed(5.0, 0.1, 'onnxruntime', 'int8', threads=1, size=256, machine='a processor')


@pytest.fixture
def timed(monkeypatch):
  """The stopwatch as a stand-in, by which a later network takes longer; who was timed together."""
  done = []

  def time_in_turns(networks):
    done.append([*networks])
    return {
      name: dataclasses.replace(TIMED, ms=float(number))
      for number, name in enumerate(networks, start=1)
    }

  monkeypatch.setattr(compare.configured, 'time_in_turns', time_in_turns)
  return done


@pytest.fixture
def trained(monkeypatch, timed):
  """Training and scoring as stand-ins; the trainings that were done, (folder, rate, epochs)."""
  done = []

  def retrain(config, folder):
    settings = config.retrain
    (folder / 'retrain' / 'checkpoints').mkdir(parents=True)
    done.append((folder.parts[folder.parts.index('compare') + 1 :], settings.learning_rate,
                 settings.epochs))  # fmt: skip
    if settings.learning_rate * (1 + config.seed) > 1:  # a higher seed diverges earlier
      raise NotFinite('the loss is not finite')
    if config.genotype:
      content = compare.Path(config.genotype).read_bytes()
      (folder / 'retrain' / 'genotype.json').write_bytes(content)
    # The U-Net does better at the low rate, the others at the high one.
    score = settings.learning_rate * (-1 if config.model.name == 'unet' else 1)
    summary = trained_summary(validation_dsc=score)
    records.write(folder / 'retrain' / 'summary.json', summary)
    (folder / 'model').mkdir()

  monkeypatch.setattr(trainings.retrain, 'retrain', retrain)
  monkeypatch.setattr(trainings.data_file, 'pass_on', lambda workdir, place, config: None)
  monkeypatch.setattr(compare.evaluate, 'evaluate', lambda config, folder: None)
  monkeypatch.setattr(standings, 'write', lambda workdir, folds: {})
  monkeypatch.setattr(compare.tables, 'format_comparison', lambda summary: '')
  return done


def drawn_at_random(config, workdir):
  rivals = compare.find_contenders(config, workdir)
  return [genotype.load(str(rival.genotype_file)) for rival in rivals if rival.kind == 'random']


def test_the_searched_network_leads_then_random_ones_then_the_baselines(config, workdir):
  names = [rival.name for rival in compare.find_contenders(config, workdir)]
  assert names == ['thrifty', 'random_1', 'random_2', 'unet', 'unet_group']


def test_a_genotype_that_was_given_is_not_called_searched(config, workdir):
  config.genotype = str(EXAMPLE)
  first, *_ = compare.find_contenders(config, workdir)
  assert (first.name, first.label, first.kind) == ('thrifty', 'Given', 'given')


def test_networks_with_one_label_are_refused(config, workdir, tmp_path):
  path = tmp_path / 'U-Net.json'
  path.write_bytes(EXAMPLE.read_bytes())
  config.compare.genotypes = (str(path),)
  with pytest.raises(InputError, match="two networks of the comparison are named 'U-Net'"):
    compare.find_contenders(config, workdir)


def test_random_genotypes_differ_match_in_parameters_and_stay(config, workdir):
  searched = genotype.load(EXAMPLE)
  first = drawn_at_random(config, workdir)
  assert len({*first, searched}) == 3
  space = space_of(config)
  for drawn in first:
    ratio = parameters.count(drawn, space) / parameters.count(searched, space)
    assert ratio == pytest.approx(1, abs=0.02)
  config.seed = 5  # drawn already
  assert first == drawn_at_random(config, workdir)


@pytest.mark.parametrize(
  ('name', 'norm'), [('unet_matched', 'none'), ('unet_matched_group', 'group')]
)
def test_a_matched_unet_is_the_widest_one_no_larger_than_the_searched_network(
  config, workdir, name, norm
):
  config.compare.baselines = ('unet', name)
  unet, matched = compare.find_contenders(config, workdir)[-2:]
  # The searched network has 605,280 parameters, U-Net 485,682 with 8 channels and 614,558 with 9.
  assert (unet.model['width'], matched.model['width']) == (32, 8)
  assert (matched.model['name'], matched.model['norm']) == ('unet', norm)
  config.model.channels = 1  # a network that is smaller than any U-Net
  assert compare.find_contenders(config, workdir)[-1].model['width'] == 1


def test_given_genotypes_take_part_under_the_names_of_their_files(config, workdir, tmp_path):
  (tmp_path / 'mine.json').write_bytes(EXAMPLE.read_bytes())
  config.compare.genotypes = (str(tmp_path / 'mine.json'),)
  assert [rival.name for rival in compare.find_contenders(config, workdir)][:2] == [
    'thrifty',
    'mine',
  ]
  (tmp_path / 'unet.json').write_bytes(EXAMPLE.read_bytes())
  config.compare.genotypes = (str(tmp_path / 'unet.json'),)
  with pytest.raises(InputError, match="two networks of the comparison are named 'unet'"):
    compare.find_contenders(config, workdir)


def test_each_rival_has_the_rate_that_did_best_on_validation_patients(config, workdir, trained):
  results = compare.compare(config, workdir)
  rates = {result.name: result.learning_rate for result in results}
  assert rates == {
    'thrifty': 0.01,
    'random_1': 0.01,
    'random_2': 0.01,
    'unet': 0.001,
    'unet_group': 0.001,
  }
  assert results[3].folder == 'compare/unet/trials/0.001'
  assert len(trained) == 10 and {epochs for _, _, epochs in trained} == {20}


def test_all_networks_have_the_same_teacher(config, workdir, trained, monkeypatch):
  config.retrain.teacher = 'runs/a,runs/b'
  learn, taught = trainings.retrain.retrain, {}

  def retrain(settings, folder):
    taught[folder] = settings.retrain.teacher
    learn(settings, folder)

  monkeypatch.setattr(trainings.retrain, 'retrain', retrain)
  compare.compare(config, workdir)
  assert len(taught) == len(trained) == 10 and {*taught.values()} == {'runs/a,runs/b'}


def test_short_trials_choose_the_rate_of_a_whole_training(config, workdir, trained):
  config.compare.trial_epochs = 5
  results = compare.compare(config, workdir)
  assert trained[:3] == [
    (('thrifty', 'trials', '0.001'), 0.001, 5),
    (('thrifty', 'trials', '0.01'), 0.01, 5),
    (('thrifty', 'run_0.01'), 0.01, 20),
  ]
  assert results[0].folder == 'compare/thrifty/run_0.01'


def test_what_is_trained_is_not_trained_again_and_more_can_be_added(config, workdir, trained):
  compare.compare(config, workdir)
  before = list(trained)
  compare.compare(config, workdir)
  assert trained == before
  config.compare.baselines = ('unet', 'unet_group', 'unet_plus_plus')
  compare.compare(config, workdir)
  assert [folder[0] for folder, _, _ in trained[len(before) :]] == ['unet_plus_plus'] * 2


def test_checkpoints_of_a_finished_training_are_not_kept(config, workdir, trained):
  compare.compare(config, workdir)
  assert not list((workdir / 'compare').rglob('checkpoints'))
  (place, *_) = (path.parent for path in (workdir / 'compare').rglob('retrain'))
  (place / 'retrain' / 'checkpoints' / '7').mkdir(parents=True)  # it was killed while it removed it
  compare.compare(config, workdir)
  assert not list((workdir / 'compare').rglob('checkpoints'))


def test_a_rate_that_diverges_is_noted_and_not_tried_again(config, workdir, trained):
  config.compare.learning_rates = (0.001, 10.0)
  results = compare.compare(config, workdir)
  assert results[0].learning_rate == 0.001
  assert results[0].trials[1].validation_dsc is None
  count = len(trained)
  compare.compare(config, workdir)
  assert len(trained) == count


def test_no_rate_that_works_is_one_clear_line(config, workdir, trained):
  config.compare.learning_rates = (10.0, 20.0)
  with pytest.raises(InputError, match=r'Searched: .*learning_rates=\(10.0, 20.0\); add a lower'):
    compare.compare(config, workdir)


def test_settings_that_changed_are_refused_with_the_difference(config, workdir, trained):
  compare.compare(config, workdir)
  config.retrain.epochs = 30
  with pytest.raises(InputError, match='retrain.epochs 20 -> 30'):
    compare.compare(config, workdir)


@pytest.mark.parametrize('planned', [(20,), (10, 20)])
def test_the_run_of_the_workdir_is_taken_up_where_it_is_the_same_training(
  planned, config, workdir, trained
):
  config.retrain.learning_rate = 0.01
  (workdir / 'config.json').write_text(json.dumps(compare.stages.to_json(config)))
  (workdir / 'retrain').mkdir()
  (workdir / 'retrain' / 'genotype.json').write_bytes(EXAMPLE.read_bytes())
  summary = trained_summary(validation_dsc=0.5, planned_epochs=planned)
  records.write(workdir / 'retrain' / 'summary.json', summary)
  (workdir / 'model').mkdir()
  results = compare.compare(config, workdir)
  rates = [folder[-1] for folder, _, _ in trained if folder[0] == 'thrifty']
  same = len(planned) == 1  # extended, it had another schedule than the others
  assert rates == (['0.001'] if same else ['0.001', '0.01'])
  assert (results[0].folder == '.') == same and results[0].learning_rate == 0.01


# --- seeds


def folders(trained):
  """The trainings by the folders of networks and of theirs."""
  return ['/'.join(folder) for folder, _, _ in trained]


@pytest.mark.parametrize('trial_epochs', [0, 5])
def test_each_seed_trains_at_the_rate_that_the_first_has_chosen(
  config, workdir, trained, trial_epochs
):
  config.compare.update({'seeds': 3, 'trial_epochs': trial_epochs, 'random_genotypes': 0})
  results = compare.compare(config, workdir)
  first = ['run_0.01'] if trial_epochs else []
  assert [folder for folder in folders(trained) if folder.startswith('thrifty')] == [
    f'thrifty/{name}'
    for name in ('trials/0.001', 'trials/0.01', *first, 'run_0.01_seed_1', 'run_0.01_seed_2')
  ]
  ours = [result for result in results if result.name == 'thrifty']
  assert [result.seed for result in ours] == [0, 1, 2]
  assert {result.learning_rate for result in ours} == {0.01}
  assert ours[2].folder == 'compare/thrifty/run_0.01_seed_2'
  assert [result.name for result in results] == [
    name for name in ('thrifty', 'unet', 'unet_group') for _ in range(3)
  ]
  seeds = [json.loads((workdir / one.folder / 'config.json').read_text())['seed'] for one in ours]
  assert seeds == [0, 1, 2]


def test_more_seeds_later_train_what_is_missing_and_nothing_twice(config, workdir, trained):
  config.compare.random_genotypes = 0
  before = compare.compare(config, workdir)
  count = len(trained)
  config.compare.seeds = 2
  after = compare.compare(config, workdir)
  assert folders(trained[count:]) == [
    'thrifty/run_0.01_seed_1',
    'unet/run_0.001_seed_1',
    'unet_group/run_0.001_seed_1',
  ]
  assert after[::2] == before
  config.compare.seeds = 1
  assert compare.compare(config, workdir) == before
  assert len(trained) == count + 3


def test_a_rate_at_which_a_further_seed_diverges_gives_way_to_the_next(config, workdir, trained):
  config.compare.update({'learning_rates': (0.2, 0.4), 'baselines': (), 'random_genotypes': 0})
  config.compare.seeds = 3  # with seed 2 the loss is non-finite at 0.4
  results = compare.compare(config, workdir)
  assert [(one.seed, one.learning_rate) for one in results] == [(0, 0.2), (1, 0.2), (2, 0.2)]
  count = len(trained)
  compare.compare(config, workdir)
  assert len(trained) == count == 6
  config.compare.seeds = 6
  with pytest.raises(InputError, match=r'rates=\(0.2, 0.4\), with one seed or another; add a low'):
    compare.compare(config, workdir)


# --- times


def test_all_networks_are_timed_together_once_and_again_where_one_joins(
  config, workdir, trained, timed
):
  config.compare.random_genotypes = 0
  results = compare.compare(config, workdir)
  assert [one.timed and one.timed.ms for one in results] == [1.0, 2.0, 3.0]
  compare.compare(config, workdir)
  assert timed == [['thrifty', 'unet', 'unet_group']]
  config.compare.baselines = ('unet_group', 'unet')
  compare.compare(config, workdir)
  assert len(timed) == 1
  config.compare.random_genotypes = 1
  compare.compare(config, workdir)
  assert timed[1:] == [['thrifty', 'random_1', 'unet_group', 'unet']]


@pytest.mark.parametrize('changes', [{'size': 128}, {'threads': 2}, {'precision': 'float32'}])
def test_another_way_to_time_is_measured_anew(config, workdir, trained, timed, changes):
  compare.compare(config, workdir)
  config.cost.update(changes)
  compare.compare(config, workdir)
  assert len(timed) == 2


def test_results_of_an_older_version_have_no_times_and_get_them(config, workdir, trained, timed):
  compare.compare(config, workdir)
  path = workdir / 'compare' / 'results.json'
  old = [dataclasses.replace(one, timed=None, seed=None) for one in records.read(
    path, tuple[Result, ...])]  # fmt: skip
  records.write(path, old)
  assert all(one.timed for one in compare.compare(config, workdir)) and len(timed) == 2
