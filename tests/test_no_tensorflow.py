"""TensorFlow is 1.4 GB and missing where we want to run: nothing may import it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
FOLDERS = ('thrifty_jax', 'data_prep', 'configs', 'benchmarks')

_IMPORT_ALL = """
import importlib, sys

class Refuse:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('tensorflow', 'tf_keras', 'keras'):
      raise ModuleNotFoundError(f'{name} is refused', name=name)

sys.meta_path.insert(0, Refuse())
for name in sys.argv[1:]:
  importlib.import_module(name)
assert 'tensorflow' not in sys.modules, 'tensorflow was imported'
print(len(sys.argv) - 1)
"""


def _sources() -> list[Path]:
  return sorted(path for folder in FOLDERS for path in (PROJECT / folder).rglob('*.py'))


def _modules() -> list[str]:
  paths = [path.relative_to(PROJECT).with_suffix('') for path in _sources()]
  return ['.'.join(path.parts) for path in paths if path.parts[0] != 'benchmarks']


def test_every_module_imports_while_tensorflow_is_refused():
  done = subprocess.run(
    [sys.executable, '-c', _IMPORT_ALL, *_modules()],
    capture_output=True,
    text=True,
    cwd=PROJECT,
    timeout=240,
  )
  assert done.returncode == 0, done.stderr
  assert int(done.stdout.split()[-1]) >= 20


@pytest.mark.parametrize('path', _sources(), ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_line_imports_tensorflow_not_even_inside_a_function(path):
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [node.module or '']
    else:
      continue
    for name in names:
      assert name.split('.')[0] not in ('tensorflow', 'clu', 'tf_keras'), f'line {node.lineno}'


def test_the_requirements_do_not_ask_for_tensorflow():
  for path in PROJECT.glob('requirements*.txt'):
    for line in path.read_text(encoding='utf-8').splitlines():
      name = line.partition('#')[0].split('=')[0].split('>')[0].split('<')[0].split('[')[0].strip()
      assert name.lower().replace('_', '-') not in ('tensorflow', 'tensorflow-cpu', 'clu')
