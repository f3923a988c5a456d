"""The table of settings: each row is whole, and a row is all that a field needs."""

import json
from pathlib import Path

import pytest

from thrifty_jax import config as configs
from thrifty_jax import settings, stages
from thrifty_jax.allowed import BELOW_1
from thrifty_jax.errors import InputError
from thrifty_jax.settings import SETTINGS, Setting
from thrifty_jax.training import compiling

PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'settings.md'


@pytest.mark.parametrize('name', SETTINGS)
def test_each_row_explains_itself_and_allows_its_default(name):
  row = SETTINGS[name]
  assert row.about.endswith('.') and row.about[0].isupper() and '\n' not in row.about
  assert row.allowed.expected and row.allowed.holds(row.default)
  assert set(row.stages) <= {stage.name for stage in (*stages.STAGES, *stages.NAMED)}


def test_the_page_is_what_the_command_prints_today():
  assert PAGE.read_text(encoding='utf-8') == settings.write_page(), (
    'python -m thrifty_jax.settings > docs/settings.md'
  )


def test_the_page_names_every_field_once():
  lines = PAGE.read_text(encoding='utf-8').splitlines()
  named = [line.split('`')[1] for line in lines if line.startswith('| `')]
  assert sorted(named) == sorted(configs.flatten(configs.default()))


def test_a_row_is_all_that_a_new_field_needs(monkeypatch, tmp_path):
  row = Setting(0.1, BELOW_1, 'Share of channels that are dropped.', ('retrain',))
  monkeypatch.setitem(SETTINGS, 'retrain.dropout', row)
  config = configs.default()
  assert config.retrain.dropout == 0.1
  config.compilation_cache = str(tmp_path / 'cache')
  place = compiling.place(config)
  (tmp_path / 'config.json').write_text(json.dumps(stages.to_json(config)))
  config.retrain.dropout = 0.2
  configs.validate(config)
  assert stages.find_changes(stages.RETRAIN, config, tmp_path) == {
    'retrain.dropout': 'retrain.dropout 0.1 -> 0.2'
  }
  assert stages.find_changes(stages.SEARCH, config, tmp_path) == {}
  assert compiling.place(config) != place
  config.retrain.dropout = 1.0
  with pytest.raises(InputError, match='retrain.dropout is 1.0; expected from 0 to below 1'):
    configs.validate(config)


def test_what_a_row_says_decides_what_follows(monkeypatch, tmp_path):
  row = Setting(
    0, settings.COUNT, 'Hours.', ('search',), untraced=True, may_grow=True, open_value=0
  )
  monkeypatch.setitem(SETTINGS, 'search.hours', row)
  config = configs.default()
  assert configs.left_to_data(config) == ['search.hours']
  configs.validate(config)  # a value that leaves it to the data passes
  config.compilation_cache, config.search.hours = str(tmp_path / 'cache'), 2
  place = compiling.place(config)
  (tmp_path / 'config.json').write_text(json.dumps(stages.to_json(config)))
  for hours, growing in ((3, {}), (1, {'search.hours': 'search.hours 2 -> 1'})):
    config.search.hours = hours
    assert compiling.place(config) == place
    assert stages.find_changes(stages.SEARCH, config, tmp_path, may_grow=True) == growing


def test_a_field_that_is_not_in_the_table_cannot_be_set():
  with pytest.raises(AttributeError, match='epoch'):
    configs.default().search.epoch = 3
