"""Settings: what may be set to what, and how variants compose."""

import itertools
import runpy
from pathlib import Path

import pytest

from thrifty_jax import config as configs
from thrifty_jax.errors import InputError

PROJECT = Path(__file__).resolve().parents[1]
FILES = sorted((PROJECT / 'configs').glob('*.py'))


def _get(name: str, variants: str = ''):
  return runpy.run_path(str(PROJECT / 'configs' / f'{name}.py'))['get_config'](variants)


def _set(config, name: str, value) -> None:
  group, _, field = name.rpartition('.')
  (config[group] if group else config)[field] = value


def test_flatten_names_every_field_and_keeps_tuples_whole():
  fields = configs.flatten(configs.default())
  assert fields['seed'] == 0
  assert fields['data.classes'] == ('background', 'foreground')
  assert 'data' not in fields


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_every_config_is_valid_and_has_exactly_the_default_fields(path):
  config = _get(path.stem)
  configs.validate(config)
  assert configs.flatten(config).keys() == configs.flatten(configs.default()).keys()
  assert config.data.name == path.stem


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_every_docstring_has_the_command_and_names_the_variants(path):
  text = runpy.run_path(str(path))['__doc__']
  assert f'--config=configs/{path.stem}.py' in text
  with pytest.raises(InputError) as refused:
    _get(path.stem, 'no_such_variant')
  for variant in str(refused.value).split('the variants are ')[1].split(', '):
    assert variant in text or variant == 'thrifty'


@pytest.mark.parametrize('name', ['chaos', 'promise12'])
@pytest.mark.parametrize('variants', ['small', 'paper', 'small,unet', 'paper,unet_plus_plus'])
def test_variants_compose(name, variants):
  config = _get(name, variants)
  configs.validate(config)
  assert config.model.name == next(
    (m for m in configs.MODELS if m in variants.split(',')), 'thrifty'
  )
  if 'small' in variants:
    assert config.data.image_size < _get(name).data.image_size
  if 'paper' in variants:
    assert config.retrain.optimizer == 'sgd' and config.evaluate.protocol == 'pooled_2d'


def test_variants_are_applied_from_left_to_right():
  def change(value):
    return lambda config: _set(config, 'seed', value)

  for variants, seed in (('one,two', 2), ('two,one', 1), ('', 0), (' one , ', 1)):
    config = configs.apply_variants(configs.default(), variants, one=change(1), two=change(2))
    assert config.seed == seed


@pytest.mark.parametrize(
  ('variants', 'message'),
  [
    ('smal', "'smal'; the variants are small, "),
    ('small,small', 'given twice'),
    ('unet,unet_plus_plus', 'two models'),
  ],
)
def test_variants_that_make_no_sense_are_refused(variants, message):
  with pytest.raises(InputError, match=message):
    configs.apply_variants(configs.default(), variants, small=lambda config: None)


def test_a_baseline_and_a_given_genotype_need_no_search(tmp_path):
  config = configs.default()
  assert configs.searches(config)
  configs.apply_model_variant(config, 'unet')
  assert not configs.searches(config)
  config.model.name = 'thrifty'
  config.genotype = str(tmp_path / 'genotype.json')
  assert not configs.searches(config)
  with pytest.raises(InputError, match='not a file'):
    configs.validate(config)
  Path(config.genotype).write_text('{}')
  configs.validate(config)
  config.model.name = 'unet'
  with pytest.raises(InputError, match='only thrifty networks have a genotype'):
    configs.validate(config)


BAD = [
  ('device', 'cuda'),
  ('seed', -1),
  ('data.image_size', 0),
  ('data.image_size', 16),  # below 2^5
  ('data.classes', ('background',)),
  ('data.classes', ('background', 'liver', 'liver')),
  ('data.classes', ('background', 3)),
  ('data.intensity', 'minmax'),
  ('data.percentiles', (99.0, 1.0)),
  ('data.percentiles', (1.0, 101.0)),
  ('data.percentiles', (1.0,)),
  ('data.window', ('low', 'high')),
  ('data.folds', 2),
  ('data.fold', 5),
  ('data.fold', -1),
  ('data.test_patients', (5, 15)),
  ('augment.scale', (0.0, 1.0)),
  ('augment.gamma', (1.2, 0.8)),
  ('augment.elastic_probability', 1.5),
  ('augment.noise', -0.1),
  ('model.name', 'unett'),
  ('model.depth', 2),
  ('model.depth', 7),
  ('model.nodes', 0),
  ('model.nodes', 5),
  ('model.edges_per_node', 1),
  ('search.warmup_epochs', 50),
  ('search.channels', 30),
  ('search.sample', 0),
  ('search.sampling', 'first'),
  ('search.order', 'third'),
  ('search.architecture_betas', (0.5, 1.0)),
  ('search.weight_learning_rate', 0.0),
  ('retrain.optimizer', 'adam'),
  ('retrain.epochs', 0),
  ('retrain.warmup_epochs', 200),
  ('retrain.ema_decay', 1.0),
  ('evaluate.protocol', 'paper'),
]


@pytest.mark.parametrize(('name', 'value'), BAD)
def test_a_value_that_cannot_work_is_refused_in_one_line_that_names_it(name, value):
  config = configs.default()
  _set(config, name, value)
  with pytest.raises(InputError) as refused:
    configs.validate(config)
  message = str(refused.value)
  assert f'config.{name} is ' in message and 'expected' in message and '\n' not in message


def test_every_size_of_the_space_is_accepted():
  config = configs.default()
  for depth, nodes, edges in itertools.product((3, 4, 5, 6), (1, 2, 3, 4), (2, 3)):
    config.model.update(depth=depth, nodes=nodes, edges_per_node=edges)
    for channels, sample in ((4, 4), (24, 8), (5, 1)):
      config.search.update(channels=channels, sample=sample)
      configs.validate(config)


def test_a_patient_in_two_lists_is_refused():
  config = configs.default()
  config.data.validation_patients = config.data.test_patients = ('a', 'b')
  with pytest.raises(InputError, match='a is a validation and a test patient'):
    configs.validate(config)


def test_the_search_is_not_checked_where_there_is_none():
  config = configs.default()
  config.search.channels = 30
  with pytest.raises(InputError):
    configs.validate(config)
  config.model.name = 'unet'
  assert configs.validate(config) is None


@pytest.mark.parametrize('value', [float('inf'), float('nan')])
def test_a_number_that_is_not_finite_is_refused(value):
  config = configs.default()
  config.retrain.learning_rate = value
  with pytest.raises(InputError, match='config.retrain.learning_rate'):
    configs.validate(config)


def test_augmentation_can_be_turned_off():
  config = configs.default()
  config.augment.scale = config.augment.gamma = (1.0, 1.0)
  config.augment.noise = config.augment.rotate_degrees = 0.0
  assert configs.validate(config) is None
