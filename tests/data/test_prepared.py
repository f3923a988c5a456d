"""Slices are opened whole or not at all."""

import json
import shutil

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
  del metadata['cases'][-1]
  (folder / 'metadata.json').write_text(json.dumps(metadata))
  with pytest.raises(InputError, match=r'holds 25 slices, but metadata\.json lists 18'):
    prepared.open_folder(folder)
