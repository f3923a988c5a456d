"""The package in Python: what it offers, light to import, described by a page that is current."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import thrifty_jax as tj
from thrifty_jax import library
from thrifty_jax.running import sequence
from thrifty_jax.scores.metrics import score_volume

PACKAGE = Path(tj.__file__).parent
CLASSES = ('background', 'organ', 'tumour')


def test_importing_the_package_imports_nothing_else():
  tree = ast.parse((PACKAGE / '__init__.py').read_text('utf-8'))
  found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
  assert [ast.unparse(node) for node in found] == ['import importlib', 'from typing import Any']


def test_the_types_are_those_of_what_is_offered():
  tree = ast.parse((PACKAGE / '__init__.pyi').read_text('utf-8'))
  found = {
    alias.name: node.module
    for node in tree.body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
  }
  assert found == {name: f'thrifty_jax.{module}' for name, module in tj.API.items()}
  assert {*tj.API} <= {*dir(tj)}
  with pytest.raises(AttributeError, match='no attribute'):
    getattr(tj, 'train')  # noqa: B009


def test_the_page_is_what_the_command_prints_today():
  page = PACKAGE.parent / 'docs' / 'api.md'
  assert page.read_text('utf-8') == library.write_page(), (
    'python -m thrifty_jax.library > docs/api.md'
  )


@pytest.fixture
def commands(monkeypatch):
  """The commands that would have run."""
  found = []
  monkeypatch.setattr(sequence, 'run', lambda command, typed: found.append((command, typed)))
  return found


def test_a_run_gets_the_settings_as_they_were_when_it_started(commands, tmp_path):
  config = tj.load_config('phantom:unet')
  config.seed = 4
  assert tj.run(config, tmp_path / 'run', stage='search', folds='1,0') == tmp_path / 'run'
  config.seed = 5
  command, typed = commands.pop()
  assert (command.config.seed, command.config.model.name) == (4, 'unet')
  assert (command.workdir, command.stage, command.folds) == (tmp_path / 'run', 'search', (1, 0))
  assert typed.startswith('thrifty_jax.run(') and "stage='search', folds='1,0'" in typed
  assert command.config.is_locked


def test_a_run_takes_the_name_of_a_config(commands):
  assert tj.run('phantom', 'there') == Path('there')
  assert commands[0][0].config == tj.load_config('phantom')
  assert commands[0][1] == "thrifty_jax.run('phantom', 'there')"


@pytest.mark.parametrize(
  ('changes', 'options', 'message'),
  [
    ({'seed': -1}, {}, 'config.seed is -1; expected'),
    ({'distributed': True}, {}, 'distributed'),
    ({}, {'stage': 'serach'}, 'did you mean search?'),
    ({}, {'folds': '9'}, '--folds=9: expected'),
    ({}, {'folds': 0}, 'folds is 0; expected'),
    ({}, {'workdir': ''}, "workdir is ''; expected"),
  ],
)
def test_a_run_that_cannot_be_is_refused(commands, changes, options, message):
  config = tj.load_config('phantom')
  config.update_from_flattened_dict(changes)
  with pytest.raises(tj.InputError, match=message):
    tj.run(config, **{'workdir': 'there', **options})
  assert commands == []


@pytest.mark.parametrize('config', [None, {}, 'fantom', tj.load_config('phantom').data])
def test_what_is_no_config_is_refused(commands, config):
  with pytest.raises(tj.InputError, match='config'):
    tj.run(config, 'there')


def masks():
  """Two masks of three classes, [6, 8, 7], which differ in both."""
  truth = np.zeros((6, 8, 7), np.uint8)
  truth[1:4, 2:6, 2:5], truth[4:, 1:3, 1:3] = 1, 2
  return np.roll(truth, 1, axis=1), truth


def test_the_scores_are_those_of_each_class():
  mask, truth = masks()
  found = tj.score(mask.astype(int), truth, (3, 1, 2), classes=CLASSES)
  expected = {
    name: score_volume(mask == k, truth == k, spacing_mm=(3, 1, 2))
    for k, name in ((1, 'organ'), (2, 'tumour'))
  }
  assert found == expected and 0 < found['organ'].dsc < 1


def test_a_picture_is_scored_in_its_plane():
  mask, truth = (each[2] for each in masks())
  found = tj.score(mask, truth, (1, 1), classes=CLASSES[:2])['organ']
  assert found == score_volume(mask[None] == 1, truth[None] == 1, spacing_mm=(1, 1, 1))


MASK = np.zeros((2, 3, 4), int)


@pytest.mark.parametrize(
  ('mask', 'spacing', 'classes', 'message'),
  [
    (MASK + 0.5, (1, 1, 1), CLASSES, 'mask is an array .* of float64; expected integers'),
    (MASK[0, 0], (1,), CLASSES, r'expected integers, \[D, H, W\]'),
    (MASK[:1], (1, 1, 1), CLASSES, 'differ in shape'),
    (MASK[0], (1, 1), CLASSES, 'differ in shape'),
    (MASK + 3, (1, 1, 1), CLASSES, 'class 3 is not one of 3'),
    (MASK - 1, (1, 1, 1), CLASSES, 'class -1 is not one of 3'),
    (MASK, (1, 1), CLASSES, r'spacing_mm is \(1, 1\)'),
    (MASK, ('a', 'b', 'c'), CLASSES, 'expected 3 distances above 0'),
    (MASK, (1, [1, 2], 1), CLASSES, 'expected 3 distances above 0'),
    (MASK, 1.0, CLASSES, 'spacing_mm is 1.0'),
    (MASK, (1, 0, 1), CLASSES, 'expected 3 distances above 0'),
    (MASK, (1, 1, 1), ('background', 'organ', 'organ'), 'different names'),
    (MASK, (1, 1, 1), 'organ', "classes is 'organ'"),
    (MASK, (1, 1, 1), ('background',), 'background first'),
  ],
)
def test_what_are_no_masks_of_these_classes_is_refused(mask, spacing, classes, message):
  with pytest.raises(tj.InputError, match=message):
    tj.score(mask, MASK, spacing, classes=classes)


@pytest.mark.parametrize(
  'options',
  [
    *({'batch_size': size} for size in (0, -3, 2.5, np.nan)),
    *({'memory_budget_mb': most} for most in (0, -1, np.nan, np.inf)),
  ],
)
def test_a_model_is_not_loaded_with_numbers_that_cannot_be(options):
  ((name, value),) = options.items()
  with pytest.raises(tj.InputError, match=f'^{name} is {value}; expected'):
    tj.load_model('nowhere', **options)


def test_a_model_is_named_and_may_lie_in_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  with pytest.raises(tj.InputError, match=f'^{tmp_path}/mine: there is no model'):
    tj.load_model('~/mine')
  with pytest.raises(tj.InputError, match='no model is named'):
    tj.load_model([])


def test_masks_of_true_and_false_are_those_of_1_and_0():
  mask, truth = np.zeros((2, 4, 4, 4), bool)
  mask[1:3], truth[2:] = True, True
  names = ('background', 'organ')
  for regions in ([], [[1]]):
    found = tj.score(mask, truth, (1, 1, 1), classes=names, regions=regions)
    assert found['organ'].dsc == 0.5


def test_regions_are_scored_over_their_labels_and_an_ignored_label_nowhere():
  random = np.random.default_rng(0)
  mask, truth = (random.integers(0, 4, (4, 6, 7)) for _ in range(2))
  ignored = random.random(truth.shape) < 0.3
  truth[ignored] = 4
  regions = [[1, 2, 3], [2, 3], [3]]
  names = ('background', 'whole', 'core', 'inner')
  found = tj.score(mask, truth, (1, 1, 1), classes=names, regions=regions, ignore=4)
  for name, own in zip(names[1:], regions, strict=True):
    p, t = np.isin(mask, own) & ~ignored, np.isin(truth, own)
    assert found[name] == score_volume(p, t, spacing_mm=(1, 1, 1), nsd_tolerance_mm=2)
  for changes, message in (
    ({'ignore': 3}, 'ignore is 3'),
    ({'ignore': 0}, 'class 4 is not one of 4'),
    ({'regions': [[3], [2, 3], [1]]}, 'core would be written over whole'),
  ):
    settings: Any = {'regions': regions, 'ignore': 4} | changes
    with pytest.raises(tj.InputError, match=message):
      tj.score(mask, truth, (1, 1, 1), classes=names, **settings)
