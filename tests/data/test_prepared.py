"""Slices are opened whole or not at all."""

import json
import shutil

import numpy as np
import pytest
from recorded import prepare_for

from data_prep import phantom
from thrifty_jax.data import prepared
from thrifty_jax.errors import InputError


@pytest.fixture(scope='module')
def config(tmp_path_factory, phantom_config):
  folder = tmp_path_factory.mktemp('prepared')
  config = phantom_config(folder)
  phantom.write_promise12(folder / 'raw', patients=3, seed=0)
  return config


@pytest.fixture
def folder(config, tmp_path):
  """A copy of the slices."""
  return shutil.copytree(prepare_for(config), tmp_path / 'phantom' / '16px' / '1.2.0')


def test_what_is_recorded_with_the_slices_comes_back(config, tmp_path):
  prepare_for(config, tmp_path)
  found = prepared.open_slices(tmp_path, config)
  assert found.slice_shape == (16, 16, 1) and found.classes == ('background', 'foreground')
  assert (found.note, found.citation, found.padding) == (phantom.ABOUT.note, '', None)
  assert [case.patient for case in found.cases] == ['Case00', 'Case01', 'Case02']
  assert len(found.slices) == sum(case.slices for case in found.cases)


def test_a_folder_without_slices_is_refused(tmp_path):
  with pytest.raises(InputError, match='no prepared data set'):
    prepared.open_folder(tmp_path / 'absent')


def test_a_copy_that_lacks_a_file_is_refused(folder):
  lost = sorted(folder.glob('*array_record*'))[1]
  lost.unlink()
  with pytest.raises(InputError, match=f'lacks {lost.name}, .*copy the folder again'):
    prepared.open_folder(folder)


def test_metadata_of_fewer_slices_are_refused(folder):
  metadata = json.loads((folder / 'metadata.json').read_text())
  del metadata['cases'][-1], metadata['sha256']
  (folder / 'metadata.json').write_text(json.dumps(metadata))
  with pytest.raises(InputError, match=r'holds 25 slices, but metadata\.json lists 18'):
    prepared.open_folder(folder)


@pytest.mark.parametrize(
  ('old', 'new'),
  [
    ('"8",', '"9",'),
    ('"8",\n        "10"', '"10",\n        "8"'),  # all together as many as before
    ('"{DATASET}-', '"../other/{DATASET}-'),
  ],
)
def test_slices_that_are_divided_otherwise_or_lie_elsewhere_are_refused(folder, old, new):
  shutil.copytree(folder, folder.parent / 'other')
  path = folder / 'dataset_info.json'
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))
  with pytest.raises(InputError, match=r'(holds|lacks) .*copy the folder again'):
    prepared.open_folder(folder)


@pytest.mark.parametrize('name', ['dataset_info.json', 'features.json', 'metadata.json'])
@pytest.mark.parametrize('content', [b'', b'{', b'\xff', b'[' * 100_000])
def test_damaged_descriptions_are_one_line_that_names_the_file(folder, name, content):
  (folder / name).write_bytes(content)
  with pytest.raises(InputError, match=rf'{folder}/{name}.*remove {folder} and prepare') as caught:
    prepared.open_folder(folder)
  assert '\n' not in str(caught.value)


def test_metadata_that_were_changed_are_refused_whatever_was_changed(folder):
  """A digit of a name would move a patient into another split, one of an affine the scores."""
  path = folder / 'metadata.json'
  content = path.read_bytes()
  for old, new in ((b'Case01', b'Case02'), (b'"slices": ', b'"slices": 1'), (b'note', b'nose')):
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(InputError, match=r'metadata\.json: its checksum is another.*remove'):
      prepared.open_folder(folder)


@pytest.mark.parametrize(
  ('old', 'new', 'name'),
  [
    ('"float16"', '"int16"', 'image'),
    ('"float16"', '"bfloat16"', 'image'),
    ('"uint8"', '"int8"', 'label'),
    ('"16"', '"61"', 'image'),
    ('"native_label"', '"native"', 'native_label'),
  ],
)
def test_features_of_other_numbers_are_refused(folder, old, new, name):
  path = folder / 'features.json'
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))
  with pytest.raises(InputError, match=rf'features\.json: does not describe {name} .*remove'):
    prepared.open_folder(folder)


def test_a_wrong_bit_of_a_slice_is_noticed_wherever_it_is(folder):
  path = sorted(folder.glob('*array_record*'))[0]
  content = path.read_bytes()
  whole = prepared.open_folder(folder)
  case = whole.cases[0]
  expected, truth = whole.read(case), whole.label_volume(case)
  noticed = 0
  for at in np.random.default_rng(0).integers(0, len(content.rstrip(b'\0')), 40):
    path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    try:
      damaged = prepared.open_folder(folder)
      found = damaged.read(case)
      np.testing.assert_array_equal(damaged.label_volume(case), truth)
      for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    except InputError as error:
      assert str(folder) in str(error) and 'prepare again' in str(error)
      noticed += 1
  assert noticed > 5
