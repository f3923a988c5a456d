"""Which module may import which: down only, in no circle, and few by either loop."""

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ('thrifty_jax', 'data_prep')
# From the top: a module imports what stands in its own line or below. A folder, or a file in
# thrifty_jax itself; files that are not named are the last line.
LAYERS = (
  ('main', 'predict', 'evaluate', 'export', 'push', 'draw', 'library'),
  ('running',),
  ('racing',),
  ('searching',),
  ('training',),
  ('cost',),
  ('exporting', 'predicting', 'sharing'),
  ('reporting', 'drawings', 'scores'),
  ('model_folder', 'hub'),
  ('networks',),
  ('data',),
  ('scans',),
)
COMMANDS, ROOT = 0, len(LAYERS)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}
DATA_PREP = 'data_prep'  # imports scans, the last line and itself; is imported by the first two
LOOPS = ('thrifty_jax.searching.search', 'thrifty_jax.training.retrain')
EVALUATE = 'thrifty_jax.evaluate'
IMPORTS = (ast.Import, ast.ImportFrom)
MOST = 12  # modules that a loop imports


def sources():
  """The text of every module of the project, by its name."""
  paths = [path for package in PACKAGES for path in sorted((PROJECT / package).rglob('*.py'))]
  names = ['.'.join(path.relative_to(PROJECT).with_suffix('').parts) for path in paths]
  return {
    name.removesuffix('.__init__'): path.read_text(encoding='utf-8')
    for name, path in zip(names, paths, strict=True)
  }


def imports_of(modules):
  """The modules of the project that each of them imports, wherever in its text; by its name."""
  found = {}
  for module, text in modules.items():
    names = set()
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.Import):
        names |= {alias.name for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        assert node.module and not node.level, f'{module}: an import that is relative'
        wholes = {f'{node.module}.{alias.name}' for alias in node.names}
        names |= wholes & modules.keys() or {node.module}
    found[module] = (names & modules.keys()) - {module}
  return found


def rank(module):
  """The line that a module stands in, from the top; data_prep stands in none."""
  top, *parts = module.split('.')
  if parts[-1:] == ['__main__']:  # a folder's command
    return COMMANDS
  return None if top == DATA_PREP else RANKS.get(parts[0] if parts else '', ROOT)


def may_import(module, other):
  """Whether a module may import the other."""
  own, its = rank(module), rank(other)
  if its == COMMANDS:
    return False
  if own is None:
    return its is None or its >= RANKS['scans']
  return own <= RANKS['running'] if its is None else own <= its


def offences(imports):
  """The imports that lead up, in words."""
  return {
    f'{module} imports {other}'
    for module, others in imports.items()
    for other in others
    if not may_import(module, other)
  }


def circle(imports):
  """The modules of a circle of imports, the first one again at its end; () where there is none."""
  done = set()

  def walk(path):
    for other in sorted(imports[path[-1]]):
      if other in path:
        return (*path[path.index(other) :], other)
      if other not in done and (found := walk((*path, other))):
        return found
    done.add(path[-1])
    return ()

  return next(
    (found for module in imports if module not in done and (found := walk((module,)))), ()
  )


@pytest.fixture(scope='module')
def imports():
  return imports_of(sources())


def test_imports_lead_down(imports):
  up = '; '.join(sorted(offences(imports)))
  assert not up, f'{up}: that leads up; LAYERS says which way is down'


def test_imports_make_no_circle(imports):
  assert circle(imports) == ()


@pytest.mark.parametrize('loop', LOOPS)
def test_a_loop_imports_few_modules(loop, imports):
  assert len(imports[loop]) <= MOST, sorted(imports[loop])


def test_scoring_a_folder_of_masks_needs_no_jax(imports):
  modules, reached, packages = sources(), set(), set()
  waiting = {EVALUATE, *imports[EVALUATE]}  # which it imports in functions, once it is used
  while waiting:
    module = waiting.pop()
    reached.add(module)
    # What stands in a function, or under TYPE_CHECKING, is not imported at the start.
    top = [node for node in ast.parse(modules[module]).body if isinstance(node, IMPORTS)]
    text = '\n'.join(map(ast.unparse, top))
    packages |= {line.split()[1].split('.')[0] for line in text.splitlines()}
    waiting |= imports_of(dict.fromkeys(modules, '') | {module: text})[module] - reached
  assert {'thrifty_jax.scores.metrics', 'thrifty_jax.reporting.plots'} <= reached
  assert 'numpy' in packages and not packages & {'jax', 'flax', 'optax'}


def test_every_line_has_modules(imports):
  ranks = {rank(module) for module in imports}
  assert ranks == {None, *range(ROOT + 1)}


# --- that the above can fail


MADE_UP = {
  'thrifty_jax.files': 'import os',
  'thrifty_jax.model_folder': 'from thrifty_jax import files',
  'thrifty_jax.main': 'from thrifty_jax.running import verbs',
  'thrifty_jax.running.verbs': 'from data_prep import prepare',
  'thrifty_jax.scores.tables': 'from thrifty_jax.reporting.page import line\nimport jax',
  'thrifty_jax.reporting.page': 'line = 1',
  'data_prep.prepare': 'from thrifty_jax.scans.volumes import read',
  'thrifty_jax.scans.volumes': 'def read():\n  from thrifty_jax.files import write',
}


@pytest.mark.parametrize(
  ('module', 'text', 'expected'),
  [
    ('model_folder', 'from thrifty_jax.scores import tables', 'thrifty_jax.scores.tables'),
    ('model_folder', 'from thrifty_jax.scores.tables import best', 'thrifty_jax.scores.tables'),
    ('model_folder', 'import thrifty_jax.running.verbs', 'thrifty_jax.running.verbs'),
    ('files', 'def read():\n  from thrifty_jax import model_folder', 'thrifty_jax.model_folder'),
    ('scores.tables', 'from data_prep import prepare', 'data_prep.prepare'),
    ('running.verbs', 'from thrifty_jax import main', 'thrifty_jax.main'),
  ],
)
def test_an_import_that_leads_up_is_named(module, text, expected):
  name = f'thrifty_jax.{module}'
  assert offences(imports_of(MADE_UP)) == set()
  assert offences(imports_of(MADE_UP | {name: text})) == {f'{name} imports {expected}'}


def test_data_prep_imports_nothing_of_the_networks():
  text = 'from thrifty_jax import model_folder, files'
  found = offences(imports_of(MADE_UP | {'data_prep.prepare': text}))
  assert found == {'data_prep.prepare imports thrifty_jax.model_folder'}


def test_a_circle_is_named():
  assert circle(imports_of(MADE_UP)) == ()
  found = circle(
    imports_of(MADE_UP | {'thrifty_jax.reporting.page': 'from thrifty_jax.scores import tables'})
  )
  assert found == (
    'thrifty_jax.scores.tables',
    'thrifty_jax.reporting.page',
    'thrifty_jax.scores.tables',
  )
