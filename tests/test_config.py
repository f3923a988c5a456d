"""Settings: what may be set to what, and how variants compose."""

import itertools
import runpy
from pathlib import Path

import pytest

from thrifty_jax import config as configs
from thrifty_jax.errors import InputError
from thrifty_jax.running import command_line
from thrifty_jax.scans import volumes

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


def test_a_folder_s_settings_are_left_to_the_data_until_they_are_set():
  config = _get('folder', 'small')
  assert configs.left_to_data(config) == list(configs.LEFT_TO_DATA)
  config.data.update({'classes': ('background', 'liver'), 'image_size': 64, 'window': (0.0, 1.0)})
  assert configs.left_to_data(config) == ['data.modalities', 'data.slice_axis', 'data.intensity']
  for path in FILES:
    assert path.stem == 'folder' or configs.left_to_data(_get(path.stem)) == []


def test_the_names_of_slice_axes_are_those_that_volumes_know():
  assert tuple(volumes.SLICE_AXES) == configs.SLICE_AXES


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
  ('precision', 'float16'),
  ('seed', -1),
  ('data.image_size', -1),
  ('data.max_image_size', 0),
  ('data.modalities', -1),
  ('data.slice_axis', 'D'),
  ('data.image_size', 16),  # below 2^5
  ('data.classes', ('background',)),
  ('data.classes', ('background', 'liver', 'liver')),
  ('data.classes', ('background', 3)),
  ('data.intensity', 'minmax'),
  ('data.percentiles', (99.0, 1.0)),
  ('data.percentiles', (1.0, 101.0)),
  ('data.percentiles', (1.0,)),
  ('data.window', ('low', 'high')),
  ('data.clahe_clip_limit', 1.5),
  ('data.resize', 'cubic'),
  ('data.curvature_flow_iterations', -1),
  ('data.curvature_flow_time_step', 0.0),
  ('data.folds', 2),
  ('data.fold', 5),
  ('data.fold', -1),
  ('data.test_patients', (5, 15)),
  ('augment.crop_area', (0.5, 1.1)),
  ('augment.crop_area', (0.0, 1.0)),
  ('augment.crop_aspect', (1.5, 2.0)),
  ('augment.crop_aspect', (2.0, 0.5)),
  ('augment.translate', (0.1,)),
  ('augment.translate', (0.1, 1.0)),
  ('augment.translate', (-0.1, 0.1)),
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
  ('search.max_parameters', -1),
  ('search.channels', 30),
  ('search.sample', 0),
  ('search.microbatches', 0),
  ('search.microbatches', 5),  # of 12
  ('search.sampling', 'first'),
  ('search.order', 'third'),
  ('search.architecture_betas', (0.5, 1.0)),
  ('search.weight_learning_rate', 0.0),
  ('retrain.optimizer', 'adam'),
  ('retrain.epochs', 0),
  ('retrain.microbatches', 24),
  ('retrain.warmup_epochs', 200),
  ('retrain.ema_decay', 1.0),
  ('evaluate.protocol', 'paper'),
  ('evaluate.nsd_tolerance_mm', -0.5),
]


@pytest.mark.parametrize(('name', 'value'), BAD)
def test_a_value_that_cannot_work_is_refused_in_one_line_that_names_it(name, value):
  config = configs.default()
  _set(config, name, value)
  with pytest.raises(InputError) as refused:
    configs.validate(config)
  message = str(refused.value)
  assert f'config.{name} is ' in message and 'expected' in message and '\n' not in message


@pytest.mark.parametrize(
  'parts,nearest', [(5, 'nearest are 4 and 6'), (7, 'nearest are 6 and 12'), (13, 'nearest is 12')]
)
def test_microbatches_of_different_sizes_are_refused_with_the_nearest_that_are_equal(
  parts, nearest
):
  config = configs.default()
  config.retrain.microbatches = parts
  with pytest.raises(InputError, match=f'retrain.batch_size, which is 12: the {nearest}$'):
    configs.validate(config)
  config.retrain.batch_size = 5 * 7 * 13
  configs.validate(config)


def test_one_number_is_no_translation_across_and_down():
  with pytest.raises(TypeError):
    configs.default().augment.translate = 0.1
  for value in ('0.1', '(0.1,)'):
    with pytest.raises(InputError, match='augment.translate') as refused:
      command_line.parse([f'--config={FILES[0]}', f'--config.augment.translate={value}'])
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize(
  ('mean', 'std', 'message'),
  [
    ((0.2,), (), 'expected both'),
    ((0.2, 0.3), (0.1, 0.1), r'config.data.mean is \(0.2, 0.3\); expected \(\) or 1'),
    ((0.2,), (0.0,), r'config.data.std is \(0.0,\); expected above 0'),
    (('a',), (0.1,), 'config.data.mean'),
  ],
)
def test_a_fixed_mean_and_deviation_belong_to_every_modality(mean, std, message):
  config = configs.default()
  config.data.mean, config.data.std = mean, std
  with pytest.raises(InputError, match=message):
    configs.validate(config)
  config.data.mean, config.data.std = (0.2,), (0.1,)
  assert configs.validate(config) is None


def test_only_the_protocol_that_reports_on_validation_does_without_test_patients():
  config = configs.default()
  config.data.hold_out_test = False
  with pytest.raises(InputError, match='only pooled_2d does without test patients'):
    configs.validate(config)
  config.evaluate.protocol = 'pooled_2d'
  assert configs.validate(config) is None


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


# What the variant `paper` must set, and where each value is from. paper: Thrifty NAS (AAAI 2022).
# code: the first author's public development code, RayburnChen/NasUnet at 6468752. ours: they have
# no such step, or it follows from the paper's numbers.
PAPER = {
  'data.context': (0, 'code'),
  'data.image_size': (256, 'code'),
  'data.hold_out_test': (False, 'code'),
  'data.test_patients': ((), 'code'),
  'augment.flip_left_right': (True, 'code'),
  'augment.flip_up_down': (True, 'code'),
  'augment.rotate_degrees': (0.0, 'ours: off'),
  'augment.scale': ((1.0, 1.0), 'ours: off'),
  'augment.elastic_probability': (0.5, 'code'),
  'augment.elastic_alpha': (384.0, 'code'),
  'augment.elastic_sigma': (17.9, 'code'),
  'augment.gamma': ((1.0, 1.0), 'ours: off'),
  'augment.gain': (0.0, 'ours: off'),
  'augment.bias_field': (0.0, 'ours: off'),
  'augment.offset': (0.0, 'ours: off'),
  'augment.noise': (0.0, 'ours: off'),
  'model.name': ('thrifty', 'paper'),
  'model.channels': (32, 'code'),
  'model.depth': (5, 'paper, figure 1'),
  'model.nodes': (2, 'paper, figure 1'),
  'model.edges_per_node': (2, "code, the paper's K"),
  'model.deep_supervision': (False, 'code'),
  'model.width': (32, 'ours: 7.76M and 9.04M parameters'),
  'model.norm': ('none', 'ours: 7.76M and 9.04M parameters'),
  'search.epochs': (1000, 'code'),
  'search.warmup_epochs': (15, 'code'),
  'search.patience': (50, 'code'),
  'search.batch_size': (12, 'code'),
  'search.channels': (32, 'code'),
  'search.sample': (4, 'code'),
  'search.sampling': ('shuffle', 'code'),
  'search.weight_learning_rate': (0.025, 'code'),
  'search.weight_learning_rate_end': (1e-3, 'code'),
  'search.weight_momentum': (0.9, 'code'),
  'search.weight_decay': (3e-4, 'code'),
  'search.clip_norm': (5.0, 'code'),
  'search.architecture_learning_rate': (1e-4, 'code'),
  'search.architecture_betas': ((0.5, 0.999), 'code'),
  'search.architecture_decay': (1e-3, 'code'),
  'search.order': ('first', 'code'),
  'search.operations': ((), 'code: all'),
  'search.cell_path': (False, 'ours: the paper names it and reports none'),
  'search.max_parameters': (0, 'ours: off'),
  'retrain.epochs': (3600, 'code'),
  'retrain.batch_size': (12, 'code'),
  'retrain.optimizer': ('sgd', 'code'),
  'retrain.learning_rate': (6e-3, 'code'),
  'retrain.warmup_epochs': (0, 'ours: off'),
  'retrain.momentum': (0.9, 'code'),
  'retrain.weight_decay': (5e-4, 'code'),
  'retrain.ema_decay': (0.0, 'ours: off'),
  'retrain.validate_every': (1, 'code'),
  'evaluate.protocol': ('pooled_2d', 'code'),
  'evaluate.flips': (False, 'ours: off'),
}
PAPER_OF = {
  'chaos': {
    'data.intensity': ('window', 'code'),
    'data.window': ((0.0, 255.0), 'code'),
    'data.mean': ((0.2389,), 'code'),
    'data.std': ((0.2801,), 'code'),
    'data.clahe_clip_limit': (0.0, 'ours: off'),
    'data.resize': ('linear', 'code'),
    'data.curvature_flow_iterations': (0, 'ours: off'),
    'data.validation_patients': ((), 'ours: theirs are slices'),
    'augment.crop_area': ((0.45, 1.0), 'code'),
    'augment.crop_aspect': ((0.5, 2.0), 'code'),
    'augment.translate': ((0.3, 0.3), 'code'),
    'retrain.clip_norm': (5.0, 'code'),
    'retrain.patience': (200, 'code'),
  },
  'promise12': {
    'data.intensity': ('percentiles', 'ours'),
    'data.percentiles': ((0.0, 100.0), 'ours: no limits, as CLAHE stretches each slice'),
    'data.mean': ((), 'code: z-score'),
    'data.std': ((), 'code: z-score'),
    'data.clahe_clip_limit': (0.05, 'code'),
    'data.resize': ('nearest', 'code'),
    'data.curvature_flow_iterations': (5, 'code'),
    'data.curvature_flow_time_step': (0.125, 'code'),
    'data.validation_patients': (('Case05', 'Case15', 'Case25', 'Case35', 'Case45'), 'code'),
    'augment.crop_area': ((1.0, 1.0), 'code'),
    'augment.crop_aspect': ((1.0, 1.0), 'code'),
    'augment.translate': ((0.2, 0.1), 'code'),
    'retrain.clip_norm': (3.0, 'code'),
    'retrain.patience': (300, 'code'),
  },
}
# Of the groups below, all that the authors' settings say nothing about.
NOT_OF_THE_PAPER = {
  *('data.name', 'data.raw_dir', 'data.data_dir', 'data.classes', 'data.modalities'),
  *('data.folds', 'data.fold', 'data.device_budget_bytes', 'data.prefetch'),
  *('data.download', 'data.workers'),
  *('search.microbatches', 'search.remat', 'retrain.microbatches', 'retrain.remat', 'search.seeds'),
  *('data.slice_axis', 'data.max_image_size'),
  *('evaluate.batch_size', 'evaluate.threshold_floor', 'evaluate.nsd_tolerance_mm'),
}
# Limits and steps that are not read where another field is off.
UNREAD = {
  'chaos': {'data.percentiles', 'data.curvature_flow_time_step'},
  'promise12': {'data.window'},
}


@pytest.mark.parametrize('variants', ['paper', 'small,paper'])
@pytest.mark.parametrize('name', ['chaos', 'promise12'])
def test_the_variant_paper_is_what_the_authors_have_field_by_field(name, variants):
  config = _get(name, variants)
  configs.validate(config)
  fields = configs.flatten(config)
  expected = PAPER | PAPER_OF[name]
  for field, (value, source) in expected.items():
    assert fields[field] == value, f'{field}: {source}'
  groups = ('data.', 'augment.', 'model.', 'search.', 'retrain.', 'evaluate.')
  of_recipe = {field for field in fields if field.startswith(groups)}
  assert of_recipe - expected.keys() == NOT_OF_THE_PAPER | UNREAD[name]
