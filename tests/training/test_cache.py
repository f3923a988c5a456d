"""What is kept from run to run: where, whole or made again, and not without end."""

import jax
import pytest

from thrifty_jax import config as configs
from thrifty_jax.networks import baselines, build
from thrifty_jax.training import cache


def test_the_place_follows_from_the_config_and_from_what_is_given(tmp_path):
  config = configs.default()
  config.compilation_cache = str(tmp_path)
  place = cache.place(config, half=0, steps=7)
  assert place is not None and tmp_path in place.parents
  assert cache.place(config, half=0, steps=7) == place
  others = {cache.place(config, half=1, steps=7), cache.place(config, half=0, steps=8)}
  config.search.channels *= 2
  others.add(cache.place(config, half=0, steps=7))
  assert len(others) == 3 and place not in others
  config.compilation_cache = ''
  assert cache.place(config, half=0, steps=7) is None


def test_the_place_follows_from_the_code_and_the_versions(tmp_path, monkeypatch):
  config = configs.default()
  config.compilation_cache = str(tmp_path)
  places = {cache.place(config)}
  with monkeypatch.context() as patch:
    patch.setattr(cache, '_code', lambda: 'changed')
    places.add(cache.place(config))
  monkeypatch.setattr(cache.importlib.metadata, 'version', lambda name: '99')
  places.add(cache.place(config))
  assert len(places) == 3


def test_the_place_does_not_depend_on_where_data_lies_or_which_seed_or_fold_it_is(tmp_path):
  config = configs.default()
  config.compilation_cache = str(tmp_path)
  place = cache.place(config)
  config.seed, config.data.data_dir, config.data.raw_dir = 7, '/elsewhere', '/scans'
  config.data.fold, config.data.folds = 3, 10
  assert cache.place(config) == place
  config.retrain.epochs += 1
  assert cache.place(config) != place


def test_settings_that_nothing_depends_on_are_settings():
  fields = configs.flatten(configs.default())
  assert set(cache._APART) <= set(fields)


def test_what_is_kept_is_read_again(tmp_path):
  path = tmp_path / 'traced' / 'one'
  assert cache.read(path) is None
  cache.write(path, b'shapes')
  assert cache.read(path) == b'shapes'


def test_a_network_whose_shapes_are_kept_is_not_traced_again(tmp_path, monkeypatch):
  config = configs.default()
  config.compilation_cache = str(tmp_path)
  net = baselines.UNetPlusPlus(2, nested=False, widths=(2, 2))
  image = jax.ShapeDtypeStruct((1, 4, 4, 1), 'float32')
  traced = build.trace_shapes(net, image)
  assert cache.shapes(config, net, image) == traced
  monkeypatch.setattr(build, 'trace_shapes', None)
  found = cache.shapes(config, net, image)
  assert {name: (tuple(shape), kind) for name, (shape, kind) in found.items()} == traced


@pytest.mark.parametrize('damage', [b'', b'short', b'\0' * 3000])
def test_what_is_damaged_is_not_there(damage, tmp_path):
  path = tmp_path / 'one'
  cache.write(path, b'shapes')
  path.write_bytes(damage)
  assert cache.read(path) is None


def test_without_a_place_nothing_is_kept(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  cache.write(None, b'shapes')
  assert cache.read(None) is None and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
  (tmp_path / 'file').write_text('not a folder')
  cache.write(tmp_path / 'file' / 'one', b'shapes')
  assert cache.read(tmp_path / 'file' / 'one') is None


def test_the_oldest_make_room(tmp_path, monkeypatch):
  monkeypatch.setattr(cache, '_MOST_KEPT', 2)
  for name in 'abc':
    cache.write(tmp_path / name, b'shapes')
  assert sorted(path.name for path in tmp_path.iterdir()) == ['b', 'c']
