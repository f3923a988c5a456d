"""Settings: what may be set to what, and how variants compose."""

import itertools
import runpy
from pathlib import Path

import pytest

from thrifty_jax import authors
from thrifty_jax import config as configs
from thrifty_jax.errors import InputError
from thrifty_jax.running import command_line
from thrifty_jax.scans import volumes
from thrifty_jax.settings import ALL, MODELS, SETTINGS, SLICE_AXES

PROJECT = Path(__file__).resolve().parents[1]
FILES = sorted((PROJECT / 'configs').glob('*.py'))


def _get(name: str, variants: str = ''):
  return runpy.run_path(str(PROJECT / 'configs' / f'{name}.py'))['get_config'](variants)


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
  assert config.model.name == next((m for m in MODELS if m in variants.split(',')), 'thrifty')
  if 'small' in variants:
    assert config.data.image_size < _get(name).data.image_size
  if 'paper' in variants:
    assert config.retrain.optimizer == 'sgd' and config.evaluate.protocol == 'pooled_2d'


@pytest.mark.parametrize('other', ['thrifty', 'unet', 'lean'])
def test_small_limits_the_multiplications_of_lean_networks_alone(other):
  limits = [_get('folder', both).search.max_macs for both in (f'small,{other}', f'{other},small')]
  assert limits == [10**9 if other == 'lean' else 0] * 2
  configs.validate(_get('folder', f'small,{other}'))


def test_a_folder_s_settings_are_left_to_the_data_until_they_are_set():
  config = _get('folder', 'small')
  assert configs.left_to_data(config) == [
    *('data.classes', 'data.regions', 'data.ignore', 'data.modalities', 'data.context'),
    *('data.slice_axis', 'data.image_size', 'data.reduction'),
    *('data.unit', 'data.intensity', 'data.window'),
  ]
  config.data.update({'classes': ('background', 'liver'), 'image_size': 64, 'window': (0.0, 1.0)})
  assert configs.left_to_data(config) == [
    *('data.regions', 'data.ignore', 'data.modalities', 'data.context', 'data.slice_axis'),
    *('data.reduction', 'data.unit', 'data.intensity'),
  ]
  for path in FILES:
    assert path.stem == 'folder' or configs.left_to_data(_get(path.stem)) == []


def test_the_names_of_slice_axes_are_those_that_volumes_know():
  assert tuple(volumes.SLICE_AXES) == SLICE_AXES


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('seed', 10**18),
    ('search.max_ms', 1e16),
    ('data.window', (-1e16, 1.0)),
    ('cost.spread', float('nan')),
  ],
)
def test_a_number_that_the_files_of_a_run_could_not_hold_is_refused(name, value):
  config = configs.default()
  config.seed = 10**15
  configs.validate(config)
  config.update_from_flattened_dict({name: value})
  with pytest.raises(InputError, match=f'config.{name} is .*; expected finite numbers of at most'):
    configs.validate(config)


def test_variants_are_applied_from_left_to_right():
  def change(value):
    return lambda config: config.update({'seed': value})

  for variants, seed in (('one,two', 2), ('two,one', 1), ('', 0), (' one , ', 1)):
    config = configs.apply_variants(configs.default(), variants, one=change(1), two=change(2))
    assert config.seed == seed


@pytest.mark.parametrize(
  ('variants', 'norm', 'rate'),
  [
    ('unet', 'none', 2e-3),
    ('unet,batch', 'batch', 8e-3),
    ('batch,unet', 'batch', 8e-3),
    ('lean', 'none', 8e-3),
    ('own,unet,batch', 'batch', 5e-3),  # the data set has a rate of its own
    ('batch,unet,own', 'batch', 5e-3),
  ],
)
@pytest.mark.parametrize('first', ['thrifty', 'lean'])
def test_batch_norms_bring_the_learning_rate_of_lean_networks(first, variants, norm, rate):
  config = configs.default()
  configs.set_model(config, first)
  found = configs.apply_variants(
    config, variants, own=lambda config: config.retrain.update({'learning_rate': 5e-3})
  )
  assert (found.model.norm, found.retrain.learning_rate) == (norm, rate)


@pytest.mark.parametrize(
  ('variants', 'message'),
  [
    ('smal', "'smal'; the variants are small, "),
    ('small,small', 'given twice'),
    ('unet,unet_plus_plus', 'two models'),
    ('batch,lean', "'batch': a lean network has the norm of its genotype"),
  ],
)
def test_variants_that_make_no_sense_are_refused(variants, message):
  with pytest.raises(InputError, match=message):
    configs.apply_variants(configs.default(), variants, small=lambda config: None)


def test_a_baseline_and_a_given_genotype_need_no_search(tmp_path):
  config = configs.default()
  assert configs.searches(config)
  config.model.name = 'unet'
  assert not configs.searches(config)
  config.model.name = 'thrifty'
  config.genotype = str(tmp_path / 'genotype.json')
  assert not configs.searches(config)
  with pytest.raises(InputError, match='expected a file that exists'):
    configs.validate(config)
  Path(config.genotype).write_text('{}')
  configs.validate(config)
  config.model.name = 'unet'
  with pytest.raises(InputError, match='only thrifty and lean networks have a genotype'):
    configs.validate(config)


BAD = [
  ('device', 'cuda'),
  ('data.image_size', -1),
  ('data.image_size', 16),  # below 2^5
  ('data.classes', ('background',)),
  ('data.classes', ('background', 'liver', 'liver')),
  ('data.classes', ('background', 3)),
  ('data.classes', tuple(f'class {number}' for number in range(256))),  # 255 is an ignored voxel
  ('data.percentiles', (99.0, 1.0)),
  ('data.percentiles', (1.0, 101.0)),
  ('data.percentiles', (1.0,)),
  ('data.window', ('low', 'high')),
  ('data.clahe_clip_limit', 1.5),
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
  ('augment.elastic_probability', 1.5),
  ('augment.blur_sigma', (0.0, 1.0)),
  ('augment.coarse_scale', (0.5, 1.1)),
  ('augment.hue_degrees', 181.0),
  ('augment.hue_degrees', 10.0),  # of scans in grey
  ('augment.saturation', 0.2),
  ('augment.gamma_inverted', -0.1),
  ('model.name', 'unett'),
  ('model.depth', 7),
  ('model.edges_per_node', 1),
  ('search.warmup_epochs', 50),
  ('search.channels', 30),
  ('search.microbatches', 5),  # of 12
  ('search.architecture_betas', (0.5, 1.0)),
  ('search.weight_learning_rate', 0.0),
  ('search.max_ms', -1.0),
  ('front.budgets_ms', (0.0, 5.0)),
  ('front.budgets_ms', (5.0, 2.0)),
  ('retrain.microbatches', 24),
  ('retrain.warmup_epochs', 200),
  ('retrain.ema_decay', 1.0),
]


@pytest.mark.parametrize(('name', 'value'), BAD)
def test_a_value_that_cannot_work_is_refused_in_one_line_that_names_it(name, value):
  config = configs.default()
  config.update_from_flattened_dict({name: value})
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


def test_an_epoch_cannot_have_fewer_steps_at_most_than_at_least():
  config = configs.default()
  config.data.name = 'phantom'
  config.retrain.update({'least_steps': 50, 'most_steps': 50})
  configs.validate(config)
  config.retrain.most_steps = 49
  with pytest.raises(InputError, match='most_steps is 49; expected 0 or at least .*, 50'):
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
    ((0.2,), (), r'config.data.std is \(\); expected as many as config.data.mean'),
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


def test_hues_are_those_of_pictures_in_colour_or_are_left_to_the_data():
  config = configs.default()
  config.augment.saturation, config.augment.hue_degrees = 0.3, 20.0
  for modalities, unit in ((3, 'pixels'), (0, 'auto'), (0, 'pixels'), (3, 'auto')):
    config.data.update(modalities=modalities, unit=unit)
    configs.validate(config)
  for modalities, unit in ((1, 'pixels'), (3, 'mm'), (0, 'mm')):
    config.data.update(modalities=modalities, unit=unit)
    with pytest.raises(InputError, match='augment.saturation is 0.3; expected 0 but for pictures'):
      configs.validate(config)


def test_augmentation_can_be_turned_off():
  config = configs.default()
  config.augment.scale = config.augment.gamma = (1.0, 1.0)
  config.augment.noise = config.augment.rotate_degrees = 0.0
  assert configs.validate(config) is None


# What the variant `paper` sets of each data set, beside the authors' recipe, and where it is from.
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
# All else that shapes a result, and that the authors' settings say nothing about.
NOT_OF_THE_PAPER = {
  *('data.name', 'data.classes', 'data.modalities', 'data.slice_axis'),
  *('data.folds', 'data.fold', 'data.test_patients', 'model.name', 'search.seeds'),
  *('evaluate.batch_size', 'evaluate.threshold_floor', 'evaluate.nsd_tolerance_mm'),
  *('cost.size', 'cost.runtime', 'cost.precision', 'cost.threads'),
  *(
    'seed',
    'precision',
    'search.max_ms',
    'search.max_macs',
    'retrain.minutes',
    'retrain.least_steps',
    'retrain.most_steps',
    'retrain.start_from',
    'retrain.start_rate',
    'retrain.freeze_levels',
    'retrain.teacher',
    'retrain.teacher_share',
    'data.unlabelled',
  ),
  *('data.exclude', 'data.nan_is_lowest', 'data.colours', 'data.reduction', 'data.unit'),
  *('data.regions', 'data.ignore'),
  'evaluate.list_suspects',
  *('augment.blur_sigma', 'augment.coarse_scale'),  # read with a probability above 0
  *(field for field, row in SETTINGS.items() if field.startswith('front.') and row.stages),
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
  expected = {field: (value, 'authors.py') for field, value in authors.RECIPE.items()}
  expected |= PAPER_OF[name]
  for field, (value, source) in expected.items():
    assert fields[field] == value, f'{field}: {source}'
  shaping = {field for field in fields if {*ALL} & {*SETTINGS[field].stages}}
  assert shaping - expected.keys() == NOT_OF_THE_PAPER | UNREAD[name]
  assert config.data.test_patients == () and config.model.name == 'thrifty'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'regions': '2 1,2'}, 'core would be written over whole, which lies in it; name core first'),
    ({'regions': '1,2'}, 'there are 1 regions for 2 classes'),
    ({'regions': '1,2 2,1'}, 'whole and core have the same labels'),
    ({'regions': '1,2 4'}, 'label 3 is in no region'),
    ({'regions': '2,1 2'}, 'whole would be written as label 2'),
    ({'regions': '1,2;2'}, 'labels by commas'),
    ({'regions': '0,1 2'}, 'whole has the labels'),
    ({'ignore': 2}, 'expected 0, or a label above the others, 3 or more'),
    ({'regions': '1,2,3 2', 'ignore': 3}, 'a label above the others, 4 or more'),
    ({'ignore': 256}, 'from 0 to 255'),
    ({'colours': ('#000000', '#ff0000', '#00ff00', '#0000ff')}, 'or 3 colours'),
    ({'colours': ('#000000', '#ff0000', '#00ff00'), 'ignore': 3}, 'or 4 colours'),
    ({'regions': '1,2 2', 'colours': ('#000000', '#ff0000', '#00ff00')}, 'with data.colours'),
  ],
)
def test_regions_and_an_ignored_label_that_cannot_be_are_refused_in_a_line(changes, message):
  config = configs.default()
  config.data.classes = ('background', 'whole', 'core')
  config.data.update(changes)
  with pytest.raises(InputError) as refused:
    configs.validate(config)
  assert message in str(refused.value) and '\n' not in str(refused.value)


@pytest.mark.parametrize(
  'changes',
  [
    {'regions': '1,2 2', 'ignore': 3},
    {'regions': '1,3,2 2', 'ignore': 255},
    {'regions': '1 2'},
    {'ignore': 255},
    {'ignore': 3, 'colours': ('#000000', '#ff0000', '#00ff00', '#0000ff')},
  ],
)
def test_regions_and_an_ignored_label_above_the_others_are_accepted(changes):
  config = configs.default()
  config.data.classes = ('background', 'whole', 'core')
  config.data.update(changes)
  assert configs.validate(config) is None
