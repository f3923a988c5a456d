"""data.json: the slices of a run are found where they are, and no others are taken."""

import json
import shutil

import pytest
from recorded import prepare_for

from data_prep import phantom
from thrifty_jax.data import data_file
from thrifty_jax.errors import InputError


@pytest.fixture(scope='module')
def settings(tmp_path_factory, phantom_config):
  folder = tmp_path_factory.mktemp('data_file')
  config = phantom_config(folder)
  config.model.depth = 3
  phantom.write_promise12(folder / 'raw', patients=3, seed=0)
  prepare_for(config)
  return config


@pytest.fixture
def config(settings, tmp_path, monkeypatch):
  """Settings of a run that lies beside its slices, and of which no raw scan is there."""
  config = settings.copy_and_resolve_references()
  shutil.copytree(config.data.data_dir, tmp_path / 'tfds')
  config.data.data_dir = str(tmp_path / 'tfds')
  prepare_for(config, tmp_path / 'run')
  monkeypatch.delenv('TFDS_DATA_DIR')
  return config


def find(workdir, config):
  folder, patients = data_file.find(workdir, data_file.require(workdir), config)
  assert list(patients) == ['Case00', 'Case01', 'Case02']
  return folder


def test_the_slices_are_found_with_their_patients(config, tmp_path):
  assert find(tmp_path / 'run', config).is_relative_to(tmp_path / 'tfds')


def test_a_run_that_is_moved_with_its_slices_finds_them(config, tmp_path):
  (tmp_path / 'new').mkdir()
  for name in ('run', 'tfds'):
    shutil.move(tmp_path / name, tmp_path / 'new' / name)
  assert find(tmp_path / 'new' / 'run', config).is_relative_to(tmp_path / 'new' / 'tfds')


def test_a_run_that_is_moved_alone_finds_its_slices_where_they_were(config, tmp_path):
  shutil.copytree(tmp_path / 'run', tmp_path / 'far' / 'away' / 'run')
  found = find(tmp_path / 'far' / 'away' / 'run', config)
  assert found.is_relative_to(tmp_path / 'tfds')


@pytest.mark.parametrize('how', ['config', 'environment'])
def test_slices_in_another_folder_of_tfds_are_found_by_their_name(
  config, tmp_path, monkeypatch, how
):
  shutil.move(tmp_path / 'tfds', tmp_path / 'other')
  if how == 'config':
    config.data.data_dir = str(tmp_path / 'other')
  else:
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'other'))
  assert find(tmp_path / 'run', config).is_relative_to(tmp_path / 'other')


def test_slices_of_other_scans_in_their_place_are_not_taken(config, tmp_path):
  path = find(tmp_path / 'run', config) / 'metadata.json'
  metadata = json.loads(path.read_text())
  metadata['settings']['raw_files'] = 'others'
  del metadata['sha256']
  path.write_text(json.dumps(metadata))
  with pytest.raises(
    InputError, match=r'its slices are no longer in .*--config\.data\.data_dir or'
  ):
    find(tmp_path / 'run', config)


@pytest.mark.parametrize('name', ['x' * 5000, 'a\nb', 'a\0b'])
def test_a_folder_that_no_folder_can_be_named_is_one_line(config, tmp_path, name):
  path = tmp_path / 'run' / data_file.FILE
  fields = ('folder', 'from_run', 'name')
  path.write_text(json.dumps(json.loads(path.read_text()) | dict.fromkeys(fields, name)))
  with pytest.raises(InputError, match='its slices are no longer in') as caught:
    find(tmp_path / 'run', config)
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 1500


def test_slices_that_are_gone_are_one_line_that_says_what_to_do(config, tmp_path):
  shutil.rmtree(tmp_path / 'tfds')
  with pytest.raises(
    InputError, match=r'put the folder phantom/16px_.* or prepare the scans again'
  ):
    find(tmp_path / 'run', config)


def test_a_training_in_a_folder_of_its_own_has_the_slices_of_its_run(config, tmp_path):
  place = tmp_path / 'run' / 'compare' / 'unet' / 'trial'
  data_file.pass_on(tmp_path / 'run', place, config)
  assert find(place, config) == find(tmp_path / 'run', config)
  (tmp_path / 'new').mkdir()
  for name in ('run', 'tfds'):
    shutil.move(tmp_path / name, tmp_path / 'new' / name)
  moved = tmp_path / 'new' / place.relative_to(tmp_path)
  assert find(moved, config).is_relative_to(tmp_path / 'new' / 'tfds')


@pytest.mark.parametrize(
  ('field', 'value', 'told'),
  [
    ('image_size', 32, ['image_size 16 -> 32']),
    ('classes', ('background', 'organ'), ["classes ['background', 'foreground'] -> ['background"]),
    ('name', 'promise12', ["name 'phantom' -> 'promise12'"]),
    ('raw_dir', '/elsewhere', ["raw_dir '"]),
    ('raw_dir', '', []),
    ('fold', 1, []),
    ('context', 1, []),
  ],
)
def test_what_the_slices_depend_on_is_told_if_it_differs(config, tmp_path, field, value, told):
  record = data_file.require(tmp_path / 'run')
  assert data_file.find_differences(config, record, tmp_path / 'run') == []
  config.data[field] = value
  found = data_file.find_differences(config, record, tmp_path / 'run')
  assert len(found) == len(told)
  assert all(text.startswith(start) for text, start in zip(found, told, strict=True))


def test_what_is_left_to_the_data_is_what_it_was_as_long_as_the_same_decides_it(config, tmp_path):
  record = data_file.require(tmp_path / 'run')
  config.data.image_size, config.data.window, config.data.slice_axis = 0, (), 'auto'
  assert data_file.find_differences(config, record, tmp_path / 'run') == []
  config.data.fold = 1  # others train: a window may be another
  assert data_file.find_differences(config, record, tmp_path / 'run') == ['fold 0 -> 1']
  data_file.fill_in(config, record, tmp_path / 'run')
  assert (config.data.image_size, config.data.slice_axis) == (16, 'axial')
  assert config.data.window == (-150.0, 250.0)  # not used, and so the default


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{', 'is not valid JSON'),
    ('[]', r'all of it is \[\], expected an object'),
    ('{"folder": 3}', 'folder is 3, expected text'),
    (
      '{"folder": "x", "from_run": "y", "name": "z", "raw_dir": ""}',
      'settings is missing, expected an object; .*--stage=prepare again',
    ),
  ],
)
def test_a_damaged_file_is_one_line(config, tmp_path, content, message):
  (tmp_path / 'run' / 'data.json').write_text(content)
  with pytest.raises(InputError, match=message) as caught:
    data_file.read(tmp_path / 'run')
  assert '\n' not in str(caught.value)


def test_a_run_that_nothing_was_prepared_for_has_none(config, tmp_path):
  assert data_file.read(tmp_path / 'other') is None
  with pytest.raises(
    InputError, match=r'other/data\.json: there is no such file.*--stage=prepare first'
  ):
    data_file.require(tmp_path / 'other')
