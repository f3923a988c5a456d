"""The model folder read back, and refused when a file of it is damaged; fresh parameters."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from thrifty_jax import config as configs
from thrifty_jax import files, model_folder
from thrifty_jax.errors import InputError
from thrifty_jax.networks import build, genotype
from thrifty_jax.networks.model_spec import make_spec

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

FOUND = genotype.Genotype(
  down=(((0, 'down_max_pool'), (1, 'down_sep_conv_3x3')),),
  up=(((0, 'conv_3x3'), (1, 'up_se_conv_3x3')),),
)
STATISTICS = {'mean': np.asarray([0.25], np.float32), 'std': np.asarray([0.5], np.float32)}
IMAGE = jax.ShapeDtypeStruct((2, 16, 16, 1), jnp.float32)


def settings(name='thrifty'):
  config = configs.default()
  config.data.classes = ('background', 'liver', 'kidney')
  config.data.image_size = 16
  config.model.name = name
  config.model.channels = 4
  config.model.depth = 2
  return config


@pytest.fixture(scope='module')
def trained():
  """Description, network and parameters that are not the ones it starts with."""
  spec = make_spec(settings(), STATISTICS)
  net = build.build(spec, FOUND)
  params = fresh(spec, FOUND)
  random = np.random.default_rng(0)
  return (
    spec,
    net,
    jax.tree.map(lambda x: x + jnp.asarray(random.normal(size=x.shape), x.dtype), params),
  )


def fresh(spec, found):
  return build.initialise(build.trace_shapes(build.build(spec, found), IMAGE), seed=0)


def save(folder, trained, found=FOUND):
  spec, _, params = trained
  genotype_file = folder.parent / 'genotype.json' if found else None
  if genotype_file:
    genotype.save(genotype_file, found, provenance={'seed': 0})
  model_folder.save(folder, params, spec=spec, genotype_file=genotype_file, card='# A card\n')


@pytest.fixture(scope='module')
def saved(tmp_path_factory, trained):
  folder = tmp_path_factory.mktemp('saved') / 'model'
  save(folder, trained)
  return folder


@pytest.fixture
def folder(tmp_path, saved):
  """A whole model folder, to be damaged."""
  return shutil.copytree(saved, tmp_path / 'model')


def test_a_saved_model_gives_the_same_logits_bit_for_bit(saved, trained):
  spec, net, params = trained
  loaded = model_folder.load(saved)
  image = jnp.asarray(np.random.default_rng(1).normal(size=IMAGE.shape), jnp.float32)
  expected = jax.jit(net.apply)({'params': params}, image)
  np.testing.assert_array_equal(loaded.logits(image), expected)
  assert expected.shape == (2, 16, 16, 3)
  assert loaded.genotype == FOUND
  assert loaded.spec == spec
  assert loaded.module == net


def digest_of(folder, name):
  return files.read_json(folder / 'checksums.json')['sha256'][name]


def test_the_folder_holds_what_another_program_needs(saved):
  names = {path.name for path in saved.iterdir()}
  assert names == {
    *('weights.safetensors', 'genotype.json', 'preprocessing.json', 'card.md', 'checksums.json')
  }
  for name, digest in files.read_json(saved / 'checksums.json')['sha256'].items():
    assert hashlib.sha256((saved / name).read_bytes()).hexdigest() == digest
    names.remove(name)
  assert names == {'checksums.json'}
  assert model_folder.load(saved).sha256 == digest_of(saved, 'weights.safetensors')
  spec = files.read_json(saved / 'preprocessing.json')
  for field in (
    'mean',
    'std',
    'slice_axis',
    'image_size',
    'intensity',
    'percentiles',
    'context',
    'classes',
  ):
    assert field in spec
  assert spec['background'] == [-0.5]
  assert spec['classes'] == ['background', 'liver', 'kidney']


def test_preprocessing_json_is_that_of_version_7_to_the_byte(tmp_path, trained):
  scans = {'slices': (3.0, 9.0), 'slice_spacing_mm': (2.0, 4.0)}
  spec = dataclasses.replace(
    trained[0],
    padding=(4000, -1000),
    flips=('left_right',),
    largest_component=('liver',),
    training_scans=scans | {'pixel_spacing_mm': (1.0, 1.5), 'field_of_view_mm': (30.0, 40.5)},
    splits_sha256='0a' * 32,
  )
  save(tmp_path / 'model', (spec, *trained[1:]))
  found = (tmp_path / 'model' / 'preprocessing.json').read_text(encoding='utf-8')
  assert json.dumps(json.loads(found)) == (
    '{"format": "thrifty_jax.model", "version": 7, "name": "thrifty", "channels": 4, "depth": 2, '
    '"width": 32, "deep_supervision": false, "norm": "none", "classes": ["background", "liver", '
    '"kidney"], "modalities": 1, "context": 0, "slice_axis": "axial", "image_size": 16, '
    '"intensity": "percentiles", "percentiles": [0.5, 99.5], "clahe_clip_limit": 0.0, "resize": '
    '"linear", "curvature_flow_iterations": 0, "curvature_flow_time_step": 0.125, "mean": [0.25], '
    '"std": [0.5], "background": [-0.5], "padding": [4000, -1000], "flips": ["left_right"], '
    '"largest_component": ["liver"], "training_scans": {"slices": [3.0, 9.0], "slice_spacing_mm": '
    '[2.0, 4.0], "pixel_spacing_mm": [1.0, 1.5], "field_of_view_mm": [30.0, 40.5]}, '
    f'"splits_sha256": "{"0a" * 32}"}}'
  )
  assert model_folder.load(tmp_path / 'model').spec == spec


def test_a_baseline_is_saved_without_a_genotype(tmp_path):
  spec = make_spec(settings('unet'), STATISTICS)
  params = fresh(spec, None)
  save(tmp_path / 'model', (spec, None, params), found=None)
  assert not (tmp_path / 'model' / 'genotype.json').exists()
  loaded = model_folder.load(tmp_path / 'model')
  assert loaded.genotype is None
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def test_a_saved_folder_replaces_the_one_before(folder, trained):
  (folder / 'left over').write_text('from before')
  save(folder, trained)
  assert not (folder / 'left over').exists()
  assert model_folder.load(folder).genotype == FOUND
  assert {path.name for path in folder.parent.iterdir()} == {'model', 'genotype.json'}


def test_an_unfinished_folder_is_never_taken_for_a_model(tmp_path, trained, monkeypatch):
  def fail(*arguments):
    raise OSError('no space left on device')

  with monkeypatch.context() as patch, pytest.raises(OSError, match='no space'):
    patch.setattr(files, 'write_text', fail)  # the card is written last
    save(tmp_path / 'model', trained)
  assert not (tmp_path / 'model').exists()
  with pytest.raises(InputError, match='there is no model'):
    model_folder.load(tmp_path / 'model')
  save(tmp_path / 'model', trained)  # what was left is no hindrance
  assert model_folder.load(tmp_path / 'model').genotype == FOUND


def test_a_failure_while_saving_leaves_the_model_that_was_there(folder, trained, monkeypatch):
  before = {path.name: path.read_bytes() for path in folder.iterdir()}
  with monkeypatch.context() as patch, pytest.raises(OSError, match='no space'):
    patch.setattr(files, 'write_text', lambda *_: (_ for _ in ()).throw(OSError('no space')))
    save(folder, trained)
  assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_process_killed_while_a_model_is_replaced_leaves_it_there(folder, trained, monkeypatch):
  def killed(self, target):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(Path, 'rename', killed)
    save(folder, trained)
  assert model_folder.load(folder).genotype == FOUND


def rewrite(path, change):
  """Applies a function to the tensors of a weights file."""
  tensors = safetensors.numpy.load_file(path)
  change(tensors)
  path.write_bytes(safetensors.numpy.save(tensors))


def without_one(tensors):
  del tensors['classes/kernel']


def with_one_more(tensors):
  tensors['classes/bias'] = np.zeros(3, np.float32)


def of_another_shape(tensors):
  tensors['classes/kernel'] = tensors['classes/kernel'][..., :2].copy()


def of_another_name(tensors):
  tensors['classes/weight'] = tensors.pop('classes/kernel')


def of_whole_numbers(tensors):
  tensors['classes/kernel'] = np.zeros_like(tensors['classes/kernel'], np.int32)


DAMAGED_WEIGHTS = {
  'missing': lambda path: path.unlink(),
  'empty': lambda path: path.write_bytes(b''),
  'cut off': lambda path: path.write_bytes(path.read_bytes()[:-100]),
  'cut off in its header': lambda path: path.write_bytes(path.read_bytes()[:50]),
  'something else': lambda path: path.write_bytes(b'\x80\x04K\x01.' * 100),
  'a folder': lambda path: (path.unlink(), path.mkdir()),
  'a tensor is missing': lambda path: rewrite(path, without_one),
  'a tensor too many': lambda path: rewrite(path, with_one_more),
  'another shape': lambda path: rewrite(path, of_another_shape),
  'another name': lambda path: rewrite(path, of_another_name),
  'whole numbers': lambda path: rewrite(path, of_whole_numbers),
}


@pytest.mark.parametrize('damage', DAMAGED_WEIGHTS.values(), ids=DAMAGED_WEIGHTS.keys())
def test_damaged_weights_are_refused_in_one_line_that_names_the_file(folder, damage):
  damage(folder / 'weights.safetensors')
  with pytest.raises(InputError, match='weights.safetensors'):
    model_folder.load(folder)
  model_folder.sign(folder)  # as if it had been saved so
  with pytest.raises(InputError, match='weights.safetensors') as caught:
    model_folder.load(folder)
  assert '\n' not in str(caught.value)


FIELDS = (
  *('format', 'version', 'name', 'channels', 'depth', 'width', 'norm', 'classes'),
  'deep_supervision',
  *('modalities', 'context', 'image_size', 'intensity', 'percentiles', 'mean', 'std', 'background'),
  *('largest_component', 'clahe_clip_limit', 'resize', 'flips', 'padding', 'training_scans'),
  *('curvature_flow_iterations', 'curvature_flow_time_step'),
)
CHANGED = {
  'another format': {'format': 'thrifty_jax.genotype'},
  'a newer version': {'version': model_folder.VERSION + 1},
  'no hash': {'splits_sha256': 'abc'},
  'an older version': {'version': 2},
  'a version in words': {'version': 'three'},
  'an unknown flip': {'flips': ['left']},
  'half a padding': {'padding': [4000]},
  'a range of one number': {'training_scans': {'slices': [3]}},
  'no ranges': {'training_scans': {}},
  'an unknown network': {'name': 'resnet'},
  'channels in words': {'channels': 'four'},
  'no channels': {'channels': 0},
  'a broken number of channels': {'channels': 4.5},
  'a depth below nothing': {'depth': -1},
  'a depth in a list': {'depth': [2]},
  'no width': {'width': 0},
  'one class': {'classes': ['background']},
  'classes by number': {'classes': 3},
  'classes without names': {'classes': [1, 2, 3]},
  'a mean that is a number': {'mean': 0.5},
  'a mean too many': {'mean': [0.1, 0.2]},
  'a mean in words': {'mean': ['half']},
  'a deviation of zero': {'std': [0.0]},
  'a background too many': {'background': [0.0, 0.0]},
  'a negative context': {'context': -1},
  'no size': {'image_size': None},
  'deep supervision in words': {'deep_supervision': 'no'},
  'an unknown norm': {'norm': 'layer'},
  'an unknown axis': {'slice_axis': 'oblique'},
  'one piece of a class that is not there': {'largest_component': ['spleen']},
  'limits of another kind': {'intensity': 'window'},
  'one limit': {'percentiles': [0.5]},
  'limits the wrong way round': {'percentiles': [99.5, 0.5]},
  'a limit in words': {'percentiles': ['low', 99.5]},
  'a limit of limits in a list': {'intensity': ['percentiles']},
  'an unknown resize': {'resize': 'cubic'},
  'equalisation in words': {'clahe_clip_limit': 'on'},
  'too much equalisation': {'clahe_clip_limit': 2.0},
  'half an iteration': {'curvature_flow_iterations': 0.5},
  'no time step': {'curvature_flow_time_step': 0},
  'a name in a list': {'name': ['thrifty']},
  'an infinite mean': {'mean': [float('inf')]},
}


def damaged_preprocessing():
  for name, changes in CHANGED.items():
    yield pytest.param(lambda spec, changes=changes: {**spec, **changes}, id=name)
  for field in FIELDS:
    yield pytest.param(
      lambda spec, field=field: {name: value for name, value in spec.items() if name != field},
      id=f'without {field}',
    )
  yield pytest.param(lambda spec: [], id='a list')
  yield pytest.param(lambda spec: None, id='null')


@pytest.mark.parametrize('damage', list(damaged_preprocessing()))
def test_a_damaged_description_is_refused_in_one_line_that_names_the_file(folder, damage):
  path = folder / 'preprocessing.json'
  path.write_text(json.dumps(damage(files.read_json(path))))
  model_folder.sign(folder)
  with pytest.raises(InputError, match='preprocessing.json') as caught:
    model_folder.load(folder)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['preprocessing.json', 'genotype.json'])
@pytest.mark.parametrize('content', [None, b'', b'{', b'\xff\xff', b'[]'])
def test_a_missing_or_unreadable_file_is_refused(folder, name, content):
  (folder / name).unlink()
  if content is not None:
    (folder / name).write_bytes(content)
    model_folder.sign(folder)
  with pytest.raises(InputError, match=name):
    model_folder.load(folder)


def test_the_genotype_of_another_network_does_not_fit_the_weights(folder):
  other = genotype.Genotype(down=FOUND.down, up=(((0, 'identity'), (1, 'up_conv_3x3')),))
  genotype.save(folder / 'genotype.json', other)
  model_folder.sign(folder)
  with pytest.raises(InputError, match='not the weights of the network'):
    model_folder.load(folder)


@pytest.mark.parametrize(
  'name', ['weights.safetensors', 'genotype.json', 'preprocessing.json', 'card.md']
)
def test_a_file_that_was_altered_since_is_refused(folder, name):
  content = (folder / name).read_bytes()
  altered = (
    content.replace(b'\n', b' \n', 1) if name != 'weights.safetensors' else content[:-1] + b'!'
  )
  assert altered != content
  (folder / name).write_bytes(altered)
  with pytest.raises(InputError, match=rf'{name}: is not the file that was saved') as caught:
    model_folder.load(folder)
  assert '\n' not in str(caught.value)
  (folder / name).unlink()
  with pytest.raises(InputError, match=name):
    model_folder.load(folder)


@pytest.mark.parametrize('content', [None, b'', b'[]', b'{"sha256": {}}', b'{"sha256": ["a"]}'])
def test_a_folder_without_checksums_is_refused(folder, content):
  (folder / 'checksums.json').unlink()
  if content is not None:
    (folder / 'checksums.json').write_bytes(content)
  with pytest.raises(InputError, match='checksums.json'):
    model_folder.load(folder)


def test_a_newer_folder_says_to_update_and_an_older_one_to_train(folder):
  path = folder / 'preprocessing.json'
  spec = files.read_json(path)
  for version, remedy in (
    (model_folder.VERSION + 1, 'update thrifty_jax'),
    (2, 'train the model again'),
  ):
    files.write_json(path, spec | {'version': version})  # its checksums need not be ours
    with pytest.raises(InputError, match=f'version {version} of the model folder .*{remedy}'):
      model_folder.load(folder)


def test_a_folder_of_version_3_which_knew_no_splits_is_read(folder, trained):
  spec = files.read_json(folder / 'preprocessing.json')
  assert 'splits_sha256' not in spec
  del spec['width']
  files.write_json(folder / 'preprocessing.json', spec | {'version': 3})
  model_folder.sign(folder)
  jax.tree.map(np.testing.assert_array_equal, model_folder.load(folder).params, trained[2])


def test_a_baseline_is_as_wide_as_the_config_says_and_32_in_folders_of_version_4(tmp_path):
  config = settings('unet')
  config.model.width = 3
  spec = make_spec(config, STATISTICS)
  params = fresh(spec, None)
  save(tmp_path / 'narrow', (spec, None, params), found=None)
  loaded = model_folder.load(tmp_path / 'narrow')
  assert loaded.module.widths == (3, 6, 12, 24, 48)
  assert loaded.logits(jnp.zeros(IMAGE.shape)).shape == (2, 16, 16, 3)
  path = tmp_path / 'narrow' / 'preprocessing.json'
  before = files.read_json(path)
  del before['width']
  files.write_json(path, before | {'version': 4})
  model_folder.sign(tmp_path / 'narrow')
  with pytest.raises(InputError, match='not the weights of the network that its folder describes'):
    model_folder.load(tmp_path / 'narrow')  # they would be of 32 channels


SCORES = {'split': 'test', 'dsc_mean': 0.5}


def test_scores_are_added_signed_and_replaced(folder):
  for scores in (SCORES, SCORES | {'dsc_mean': 0.6}):
    model_folder.add_scores(folder, scores)
    note = {'research_use': 'Research use only, not a medical device.'}
    assert files.read_json(folder / 'scores.json') == note | scores
    assert model_folder.load(folder).genotype == FOUND
  (folder / 'scores.json').write_text('{"dsc_mean": 0.9}')
  with pytest.raises(InputError, match=r'scores.json: is not the file that was saved'):
    model_folder.load(folder)


@pytest.mark.parametrize('written', range(3))
def test_killed_while_scores_are_added_the_folder_can_be_loaded(folder, monkeypatch, written):
  model_folder.add_scores(folder, SCORES)
  write, done = files.write_json, []

  def killed(path, value):
    if len(done) == written:
      raise KeyboardInterrupt
    done.append(write(path, value))

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(files, 'write_json', killed)
    model_folder.add_scores(folder, SCORES | {'dsc_mean': 0.6})
  assert model_folder.load(folder).genotype == FOUND
  model_folder.add_scores(folder, SCORES)


def test_files_that_others_put_into_the_folder_do_not_matter(folder):
  (folder / 'model.onnx').write_bytes(b'exported')
  assert model_folder.load(folder).genotype == FOUND


def test_a_missing_folder_says_how_to_train_a_model(tmp_path):
  with pytest.raises(InputError, match='--stage=retrain'):
    model_folder.load(tmp_path / 'model')


def test_a_folder_whose_genotype_skips_what_its_depth_does_not_have_is_refused(folder):
  genotype.save(folder / 'genotype.json', genotype.Genotype(FOUND.down, FOUND.up, ((1, 0),)))
  model_folder.sign(folder)
  with pytest.raises(InputError, match=r'genotype.json skips cell \[1, 0\], .* at depth 2'):
    model_folder.load(folder)


def test_a_network_that_skips_cells_is_saved_and_loaded(tmp_path):
  config = settings()
  config.model.depth = 3
  found = genotype.Genotype(FOUND.down, FOUND.up, ((1, 0),))
  spec = make_spec(config, STATISTICS)
  net = build.build(spec, found)
  params = build.initialise(build.trace_shapes(net, IMAGE), seed=0)
  assert 'up_1_0' not in params and 'up_2_0' in params
  save(tmp_path / 'model', (spec, net, params), found=found)
  loaded = model_folder.load(tmp_path / 'model')
  assert loaded.genotype == found and loaded.module == net
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
