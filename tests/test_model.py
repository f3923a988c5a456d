"""The model folder read back, and refused when a file of it is damaged; fresh parameters."""

import hashlib
import json
import shutil
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from data_prep import phantom, prepare
from thrifty_jax import config as configs
from thrifty_jax import files, model
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype, grid
from thrifty_jax.scans import slices, volumes

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
  spec = model.describe(settings(), STATISTICS)
  net = model.build(spec, FOUND)
  params = model.initialise(net, IMAGE, seed=0)
  random = np.random.default_rng(0)
  return (
    spec,
    net,
    jax.tree.map(lambda x: x + jnp.asarray(random.normal(size=x.shape), x.dtype), params),
  )


def save(folder, trained, found=FOUND):
  spec, _, params = trained
  genotype_file = folder.parent / 'genotype.json' if found else None
  if genotype_file:
    genotype.save(genotype_file, found, provenance={'seed': 0})
  model.save(folder, params, preprocessing=spec, genotype_file=genotype_file, card='# A card\n')


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
  loaded = model.load(saved)
  image = jnp.asarray(np.random.default_rng(1).normal(size=IMAGE.shape), jnp.float32)
  expected = jax.jit(net.apply)({'params': params}, image)
  np.testing.assert_array_equal(loaded.logits(image), expected)
  assert expected.shape == (2, 16, 16, 3)
  assert loaded.genotype == FOUND
  assert loaded.preprocessing == spec
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
  assert model.load(saved).sha256 == digest_of(saved, 'weights.safetensors')
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


def test_a_description_says_how_to_prepare_an_image_again(saved):
  changed = settings()
  changed.data.update({'clahe_clip_limit': 0.05, 'resize': 'nearest'})
  changed.data.update({'curvature_flow_iterations': 5, 'curvature_flow_time_step': 0.1})
  described, recorded = model.describe(changed, STATISTICS), prepare.settings_of(changed, ())
  for field in recorded.keys() - {'name', 'raw_files', 'format'}:
    assert described[field] == recorded[field], field
  assert described['clahe_clip_limit'] == 0.05 and described['resize'] == 'nearest'
  scan = phantom.make_scan(patient=0, seed=0)
  volume = volumes.Volume(scan.image[..., None], scan.label, scan.affine, 'a', 'a')
  expected = slices.image_to_slices(volume, recorded)
  np.testing.assert_array_equal(slices.image_to_slices(volume, described), expected)
  plain = slices.image_to_slices(volume, model.load(saved).preprocessing)
  assert np.abs(plain.astype(float) - expected).max() > 0.1


def test_a_baseline_is_saved_without_a_genotype(tmp_path):
  spec = model.describe(settings('unet'), STATISTICS)
  params = model.initialise(model.build(spec, None), IMAGE, seed=0)
  save(tmp_path / 'model', (spec, None, params), found=None)
  assert not (tmp_path / 'model' / 'genotype.json').exists()
  loaded = model.load(tmp_path / 'model')
  assert loaded.genotype is None
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def test_a_saved_folder_replaces_the_one_before(folder, trained):
  (folder / 'left over').write_text('from before')
  save(folder, trained)
  assert not (folder / 'left over').exists()
  assert model.load(folder).genotype == FOUND
  assert {path.name for path in folder.parent.iterdir()} == {'model', 'genotype.json'}


def test_an_unfinished_folder_is_never_taken_for_a_model(tmp_path, trained, monkeypatch):
  def fail(*arguments):
    raise OSError('no space left on device')

  with monkeypatch.context() as patch, pytest.raises(OSError, match='no space'):
    patch.setattr(files, 'write_text', fail)  # the card is written last
    save(tmp_path / 'model', trained)
  assert not (tmp_path / 'model').exists()
  with pytest.raises(InputError, match='there is no model'):
    model.load(tmp_path / 'model')
  save(tmp_path / 'model', trained)  # what was left is no hindrance
  assert model.load(tmp_path / 'model').genotype == FOUND


def test_a_failure_while_saving_leaves_the_model_that_was_there(folder, trained, monkeypatch):
  before = {path.name: path.read_bytes() for path in folder.iterdir()}
  with monkeypatch.context() as patch, pytest.raises(OSError, match='no space'):
    patch.setattr(files, 'write_text', lambda *_: (_ for _ in ()).throw(OSError('no space')))
    save(folder, trained)
  assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


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
    model.load(folder)
  model.sign(folder)  # as if it had been saved so
  with pytest.raises(InputError, match='weights.safetensors') as caught:
    model.load(folder)
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
  'a newer version': {'version': model.VERSION + 1},
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
  'an unknown norm': {'norm': 'batch'},
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
  model.sign(folder)
  with pytest.raises(InputError, match='preprocessing.json') as caught:
    model.load(folder)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['preprocessing.json', 'genotype.json'])
@pytest.mark.parametrize('content', [None, b'', b'{', b'\xff\xff', b'[]'])
def test_a_missing_or_unreadable_file_is_refused(folder, name, content):
  (folder / name).unlink()
  if content is not None:
    (folder / name).write_bytes(content)
    model.sign(folder)
  with pytest.raises(InputError, match=name):
    model.load(folder)


def test_the_genotype_of_another_network_does_not_fit_the_weights(folder):
  other = genotype.Genotype(down=FOUND.down, up=(((0, 'identity'), (1, 'up_conv_3x3')),))
  genotype.save(folder / 'genotype.json', other)
  model.sign(folder)
  with pytest.raises(InputError, match='not the weights of the network'):
    model.load(folder)


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
    model.load(folder)
  assert '\n' not in str(caught.value)
  (folder / name).unlink()
  with pytest.raises(InputError, match=name):
    model.load(folder)


@pytest.mark.parametrize('content', [None, b'', b'[]', b'{"sha256": {}}', b'{"sha256": ["a"]}'])
def test_a_folder_without_checksums_is_refused(folder, content):
  (folder / 'checksums.json').unlink()
  if content is not None:
    (folder / 'checksums.json').write_bytes(content)
  with pytest.raises(InputError, match='checksums.json'):
    model.load(folder)


def test_a_newer_folder_says_to_update_and_an_older_one_to_train(folder):
  path = folder / 'preprocessing.json'
  spec = files.read_json(path)
  for version, remedy in ((model.VERSION + 1, 'update thrifty_jax'), (2, 'train the model again')):
    files.write_json(path, spec | {'version': version})  # its checksums need not be ours
    with pytest.raises(InputError, match=f'version {version} of the model folder .*{remedy}'):
      model.load(folder)


def test_a_folder_of_version_3_which_knew_no_splits_is_read(folder, trained):
  spec = files.read_json(folder / 'preprocessing.json')
  del spec['splits_sha256'], spec['width']
  files.write_json(folder / 'preprocessing.json', spec | {'version': 3})
  model.sign(folder)
  jax.tree.map(np.testing.assert_array_equal, model.load(folder).params, trained[2])


def test_a_baseline_is_as_wide_as_the_config_says_and_32_in_folders_of_version_4(tmp_path):
  config = settings('unet')
  config.model.width = 3
  spec = model.describe(config, STATISTICS)
  params = model.initialise(model.build(spec, None), IMAGE, seed=0)
  save(tmp_path / 'narrow', (spec, None, params), found=None)
  loaded = model.load(tmp_path / 'narrow')
  assert loaded.module.widths == (3, 6, 12, 24, 48)
  assert loaded.logits(jnp.zeros(IMAGE.shape)).shape == (2, 16, 16, 3)
  del spec['width']
  save(tmp_path / 'before', (spec | {'version': 4}, None, params), found=None)
  with pytest.raises(InputError, match='not the weights of the network that its folder describes'):
    model.load(tmp_path / 'before')  # they would be of 32 channels


SCORES = {'split': 'test', 'dsc_mean': 0.5}


def test_scores_are_added_signed_and_replaced(folder):
  for scores in (SCORES, SCORES | {'dsc_mean': 0.6}):
    model.add_scores(folder, scores)
    assert files.read_json(folder / 'scores.json') == scores
    assert model.load(folder).genotype == FOUND
  (folder / 'scores.json').write_text('{"dsc_mean": 0.9}')
  with pytest.raises(InputError, match=r'scores.json: is not the file that was saved'):
    model.load(folder)


@pytest.mark.parametrize('written', range(3))
def test_killed_while_scores_are_added_the_folder_can_be_loaded(folder, monkeypatch, written):
  model.add_scores(folder, SCORES)
  write, done = files.write_json, []

  def killed(path, value):
    if len(done) == written:
      raise KeyboardInterrupt
    done.append(write(path, value))

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(files, 'write_json', killed)
    model.add_scores(folder, SCORES | {'dsc_mean': 0.6})
  assert model.load(folder).genotype == FOUND
  model.add_scores(folder, SCORES)


def test_files_that_others_put_into_the_folder_do_not_matter(folder):
  (folder / 'model.onnx').write_bytes(b'exported')
  assert model.load(folder).genotype == FOUND


def test_a_missing_folder_says_how_to_train_a_model(tmp_path):
  with pytest.raises(InputError, match='--stage=retrain'):
    model.load(tmp_path / 'model')


def networks():
  """A derived network, a supernet with its inputs, and a baseline: all kinds of layers."""
  every = genotype.Genotype(
    down=(
      ((0, 'down_conv_3x3'), (1, 'down_sep_conv_3x3')),
      ((1, 'down_se_conv_3x3'), (2, 'dil_conv_3x3')),
    ),
    up=(((0, 'se'), (1, 'up_dil_conv_3x3')), ((1, 'up_sep_conv_3x3'), (2, 'sep_conv_3x3'))),
  )
  architecture = grid.init_architecture(jax.random.key(0), nodes=2)
  spec = model.describe(settings('unet'), STATISTICS)
  return {
    'derived': (grid.DerivedNetwork(every, classes=2, depth=3), IMAGE),
    'supernet': (grid.Supernet(classes=2, channels=32, depth=3), IMAGE, architecture),
    'unet': (model.build(spec, None), IMAGE),
  }


def by_name(params) -> dict[str, Any]:
  return traverse_util.flatten_dict(params, sep='/')


@pytest.mark.parametrize('name', ['derived', 'supernet', 'unet'])
def test_fresh_kernels_are_he_normal_and_scales_one_and_biases_zero(name):
  net, *inputs = networks()[name]
  drawn = by_name(model.initialise(net, *inputs, seed=0))
  pooled = []
  for path, leaf in drawn.items():
    kind, leaf = path.split('/')[-1], np.asarray(leaf, float)
    if kind in ('scale', 'bias'):
      np.testing.assert_array_equal(leaf, 1.0 if kind == 'scale' else 0.0, err_msg=path)
      continue
    # One output sees a window of every input channel; a depthwise one of its own channel only.
    # Whatever stands before these axes is a stack of kernels.
    dense = kind == 'pointwise' or path.split('/')[-2] in ('squeeze', 'excite')
    fan_in = 9 if kind == 'depthwise' else np.prod(leaf.shape[-2 if dense else -4 : -1])
    unit = leaf.ravel() / np.sqrt(2 / fan_in)
    assert abs(unit.mean()) < 5 / np.sqrt(unit.size), path
    assert abs(unit.std() - 1) < 5 / np.sqrt(2 * unit.size), path
    pooled.append(unit)
  pooled = np.concatenate(pooled)
  assert pooled.size > 10_000
  assert abs(pooled.std() - 1) < 5 / np.sqrt(2 * pooled.size)
  assert abs((pooled**4).mean() - 3) < 0.2  # normal, not uniform


def test_fresh_parameters_are_those_the_network_asks_for():
  for net, *inputs in networks().values():
    drawn = model.initialise(net, *inputs, seed=0)
    expected = jax.eval_shape(net.init, jax.random.key(0), *inputs)['params']
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), drawn, expected)
    assert all(jax.tree.leaves(same))


def test_fresh_parameters_follow_from_the_seed_and_differ_from_one_another():
  net, image = networks()['derived']
  first, again, other = (by_name(model.initialise(net, image, seed=seed)) for seed in (0, 0, 1))
  kernels = [path for path in first if path.split('/')[-1] not in ('scale', 'bias')]
  for path in first:
    np.testing.assert_array_equal(first[path], again[path])
  for path in kernels:
    assert not np.array_equal(first[path], other[path]), path
  seen = {np.asarray(first[path]).tobytes() for path in kernels}
  assert len(seen) == len(kernels)


@pytest.mark.parametrize('name', ['derived', 'supernet', 'unet'])
def test_with_its_shapes_kept_a_network_is_not_traced_and_starts_the_same(name):
  net, *inputs = networks()[name]
  kept = []

  def keep(trace):
    kept.append(trace())
    return kept[0]

  first = model.initialise(net, *inputs, seed=3, keep=keep)
  again = model.initialise(net, *inputs, seed=3, keep=lambda trace: kept[0])
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert jax.tree.structure(first) == jax.tree.structure(again)


def test_a_parameter_starts_the_same_in_a_deeper_network():
  shallow, deep = (
    by_name(model.initialise(grid.DerivedNetwork(FOUND, classes=2, depth=depth), IMAGE, seed=0))
    for depth in (2, 3)
  )
  assert shallow.keys() < deep.keys()
  for path, leaf in shallow.items():
    np.testing.assert_array_equal(leaf, deep[path], err_msg=path)


def test_parameters_are_counted_one_by_one():
  params = nn.Dense(3).init(jax.random.key(0), jnp.zeros((1, 5)))['params']
  assert model.count(params) == 5 * 3 + 3


def test_a_folder_whose_genotype_skips_what_its_depth_does_not_have_is_refused(folder):
  genotype.save(folder / 'genotype.json', genotype.Genotype(FOUND.down, FOUND.up, ((1, 0),)))
  model.sign(folder)
  with pytest.raises(InputError, match=r'genotype.json skips cell \[1, 0\], .* at depth 2'):
    model.load(folder)


def test_a_network_that_skips_cells_is_saved_and_loaded(tmp_path):
  config = settings()
  config.model.depth = 3
  found = genotype.Genotype(FOUND.down, FOUND.up, ((1, 0),))
  spec = model.describe(config, STATISTICS)
  net = model.build(spec, found)
  params = model.initialise(net, IMAGE, seed=0)
  assert 'up_1_0' not in params and 'up_2_0' in params
  save(tmp_path / 'model', (spec, net, params), found=found)
  loaded = model.load(tmp_path / 'model')
  assert loaded.genotype == found and loaded.module == net
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def test_a_thrifty_network_needs_a_genotype():
  with pytest.raises(ValueError, match='needs a genotype'):
    model.build(model.describe(settings(), STATISTICS), None)


def test_background_is_the_normalised_zero_of_every_modality_and_neighbour():
  statistics = {'mean': np.asarray([0.2, 0.6]), 'std': np.asarray([0.1, 0.3])}
  shades = model.background(statistics, context=1)
  np.testing.assert_allclose(shades, [-2, -2] * 3)
