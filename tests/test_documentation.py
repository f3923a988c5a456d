"""The documentation: commands and options in it are the program's, and links lead somewhere.

Nothing is run: a command is parsed as the program parses it, and ended there. Those for a folder of
scans also look at one, as they do before their first stage.
"""

import argparse
import ast
import dataclasses
import importlib
import os.path
import re
import shlex
import textwrap
import tomllib
from pathlib import Path

import pytest
import yaml

from data_prep import phantom_folders
from demo import build
from thrifty_jax import __main__ as command
from thrifty_jax import config as configs
from thrifty_jax import stages
from thrifty_jax.running import command_line, folds, run_data, sequence
from thrifty_jax.settings import SETTINGS

PROJECT = Path(__file__).resolve().parents[1]
ABOUT = tomllib.loads((PROJECT / 'pyproject.toml').read_text(encoding='utf-8'))
TEXTS = {
  str(path.relative_to(PROJECT)): path.read_text(encoding='utf-8')
  for path in sorted([*PROJECT.glob('*.md'), *PROJECT.glob('docs/*.md')])
  + [PROJECT / 'benchmarks' / 'README.md']
}
# Stands for FILE, and ends of names that are no settings.
GENOTYPE = 'thrifty_jax/genotypes/thrifty_0.61m.json'
FILES = ('.csv', '.html', '.json', '.onnx', '.py', '.stablehlo')
# In inline code: programs whose options are not ours, and options of tests/interrupted.py.
OTHERS = ('dask ', 'docker ', 'gcloud ', 'mkdocs ', 'mpirun ', 'pip ', 'srun ')
OTHERS += ('mlflow ', 'tensorboard ', 'wandb ', 'XLA_', '--xla_', '--build-arg', '--gpus')
OF_TESTS = {'signal', 'count', 'epochs', 'seconds'}


class _Parsed(Exception):
  """A command was parsed."""


def code_lines(text):
  """Lines of code blocks, with a line that is continued as one."""
  lines = re.sub(r' *\\\n *', ' ', text).splitlines()
  return [line.strip() for line in lines if line.startswith('    ')]


def inline_code(text):
  """Pieces of code within the text, each in one line."""
  prose = re.sub(r'^    .*$', '', text, flags=re.MULTILINE)
  return [' '.join(code.split()) for code in re.findall(r'`([^`]+)`', prose)]


def find_commands():
  """Commands in code blocks and in the configs: (module, *arguments) -> a text that has it."""
  found: dict[tuple[str, ...], str] = {}
  trees = [
    (path.name, ast.parse(path.read_text('utf-8'))) for path in sorted(PROJECT.glob('configs/*.py'))
  ]
  about = {name: textwrap.indent(ast.get_docstring(tree) or '', '  ') for name, tree in trees}
  for name, text in {**TEXTS, **about}.items():
    for line in code_lines(text):
      for part in re.split(r'&&|[;>|]|  +', line):
        if said := re.search(r'python3? -m ([\w.]+)(.*)|(?<!\w)(thrifty-jax)( [a-z].*)', part):
          module, arguments = said[1] or 'thrifty_jax', shlex.split(said[2] or said[4] or '')
          if module.split('.')[0] in ('thrifty_jax', 'demo', 'benchmarks'):
            found[module, *arguments] = name
  return found


@pytest.mark.parametrize(
  ('module', 'arguments'),
  [
    pytest.param(module, arguments, id=f'{name}-{module}')
    for (module, *arguments), name in find_commands().items()
  ],
)
def test_a_command_is_one_that_the_program_takes(module, arguments, monkeypatch):
  if module == 'thrifty_jax':
    name, *arguments = arguments
    module = command.COMMANDS[name][0]
  if module == 'thrifty_jax.main':
    monkeypatch.chdir(PROJECT)
    arguments = [each.replace('=FILE', f'={GENOTYPE}') for each in arguments]
    # Whether the packages of trackers are installed is no matter of the documentation.
    monkeypatch.setattr(command_line.configs, 'TRACKERS', {})
    command_line.parse(arguments, stages=sequence.NAMES)
    return
  for owner, name in ((command_line, 'read'), (argparse.ArgumentParser, 'parse_args')):
    monkeypatch.setattr(owner, name, and_stop(getattr(owner, name)))
  found = importlib.import_module(module + '.__main__' * (module == 'thrifty_jax.cost'))
  monkeypatch.setattr(found, '_run', and_stop(lambda *_: None), raising=False)
  monkeypatch.setattr(command_line, 'exit_status', lambda work: work())
  with pytest.raises(_Parsed):
    (found.run if hasattr(found, 'USAGE') else found.main)(arguments)


def find_runs():
  """Arguments of the commands that run on a folder of scans and need no model."""
  found = {' '.join(arguments): arguments for _, *arguments in find_commands()}
  return [
    pytest.param(arguments, id=text)
    for text, arguments in found.items()
    if 'configs/folder.py' in text and 'data.raw_dir=' in text
    if not re.search('start_from|teacher|front.costs|unlabelled', text)
  ]


@pytest.fixture(scope='module')
def scans(tmp_path_factory):
  folder = tmp_path_factory.mktemp('documentation') / 'raw'
  phantom_folders.write_decathlon(folder, patients=10, seed=0)
  return folder


@pytest.mark.parametrize('arguments', find_runs())
def test_a_command_for_a_folder_of_scans_can_begin_on_one(arguments, scans, tmp_path, monkeypatch):
  monkeypatch.chdir(PROJECT)
  arguments = [each.replace('=FILE', f'={GENOTYPE}') for each in arguments]
  places = (f'--config.data.raw_dir={scans}', f'--workdir={tmp_path}')
  parsed = command_line.parse([*arguments, *places], stages=sequence.NAMES)
  each = folds.make_commands(dataclasses.replace(parsed, stage='prepare'))
  for one in run_data.fill_in(each):
    assert one.scans and not configs.left_to_data(one.config)


def and_stop(function):
  """Returns the function, which then stops what called it."""

  def stopping(*arguments, **options):
    function(*arguments, **options)
    raise _Parsed

  return stopping


def find_options():
  """Options in inline code that are ours, each with the texts that it stands in."""
  found = {}
  for name, text in TEXTS.items():
    if name != 'benchmarks/README.md':  # whose commands have others
      for code in inline_code(text):
        if '--' in code and not any(other in code for other in OTHERS):
          for option in shlex.split(code):
            if option.startswith('--'):
              found[option] = name
  return [pytest.param(option, id=f'{name}{option}') for option, name in found.items()]


@pytest.mark.parametrize('option', find_options())
def test_an_option_within_the_text_is_one_that_a_command_has(option):
  usages = [importlib.import_module(module).USAGE for module, _ in command.COMMANDS.values()]
  options = re.findall(r'^  --(\w+)', '\n'.join([*usages, build.USAGE]), re.MULTILINE)
  name, given, value = option[2:].partition('=')
  if not name.startswith('config.'):
    assert name in {*options, *OF_TESTS, 'help', 'version'}
    assert name != 'stage' or value in {'NAME', *sequence.NAMES}
    return
  row = SETTINGS[name.removeprefix('config.')]
  if given and not isinstance(row.default, str):
    assert row.allowed.holds(ast.literal_eval(value)), row.allowed.expected
  elif given and not value.isupper():  # FILE stands for any
    assert row.allowed.holds(value), row.allowed.expected


@pytest.mark.parametrize('name', [name for name in TEXTS if name != 'benchmarks/README.md'])
def test_a_setting_that_a_text_names_exists(name):
  groups = {row.partition('.')[0] for row in SETTINGS}
  for code in inline_code(TEXTS[name]):
    said = re.fullmatch(r'(config\.)?(\w+)(\.\w+)?(=.*)?', code)
    if said and not code.endswith(FILES):
      setting = said[2] + (said[3] or '')
      if said[1] or (said[3] and said[2] in groups):
        assert setting in SETTINGS or setting in groups, code


@pytest.mark.parametrize('name', TEXTS)
def test_links_lead_to_files_and_headings_that_there_are(name):
  for link in re.findall(r'(?:\]\(|src=")([^)"\s]+)', TEXTS[name]):
    if not re.match(r'\w+:', link):
      path, _, anchor = link.partition('#')
      target = os.path.normpath(Path(name).parent / path) if path else name
      assert (PROJECT / target).exists(), link
      assert not anchor or anchor in anchors(TEXTS[target]), link


def anchors(text):
  """Anchors of a text's headings, as GitHub makes them."""
  headings = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
  return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('name', TEXTS)
def test_files_of_the_project_that_a_text_names_exist(name):
  folders = 'benchmarks|configs|data_prep|demo|docs|notebooks|tests|thrifty_jax'
  named = re.findall(
    rf'(?<![\w/.])((?:{folders})/[\w./]*\.(?:ipynb|json|js|md|py|txt))', TEXTS[name]
  )
  named += re.findall(r'requirements(?:-\w+)?\.txt', TEXTS[name])
  missing = {path for path in named if not (PROJECT / path).is_file()}
  assert missing <= {'configs/own.py'}  # an example
  extras = ABOUT['tool']['setuptools']['dynamic']['optional-dependencies']
  for listed in re.findall(r'pip install "(?:\.|thrifty_jax)\[([\w,]+)\]"', TEXTS[name]):
    assert {*listed.split(',')} <= {*extras}


def test_every_stage_and_command_is_in_the_documentation():
  text = '\n'.join(TEXTS.values())
  named = [stage.name for stage in (*stages.STAGES, *stages.NAMED)]
  assert [name for name in (*named, *command.COMMANDS) if f'`{name}`' not in text] == []


def test_the_projects_address_is_that_of_pyproject_wherever_it_stands():
  address = ABOUT['project']['urls']['Repository']
  places = [*PROJECT.glob('*.*'), *PROJECT.glob('docs/*.*'), *PROJECT.glob('notebooks/*.ipynb')]
  places += PROJECT.glob('.github/**/*.yml')
  for path in places:
    if path.is_file():
      text = path.read_text('utf-8').replace('colab.research.google.com/github/', 'github.com/')
      for found in re.findall(r'https://[\w./-]*/thrifty_jax\b', text):
        assert found == address, path


@pytest.mark.parametrize('path', sorted(PROJECT.glob('.github/ISSUE_TEMPLATE/*.yml')), ids=str)
def test_a_form_is_one_that_github_shows(path):
  form = yaml.safe_load(path.read_text('utf-8'))
  if path.name == 'config.yml':
    assert form == {'blank_issues_enabled': False}
    return
  assert (
    form['name'] and form['description'] and {*form} <= {'name', 'description', 'labels', 'body'}
  )
  asked = [part for part in form['body'] if part['type'] != 'markdown']
  assert asked and {part['type'] for part in asked} <= {'textarea', 'input', 'dropdown'}
  assert len({part['id'] for part in asked}) == len(asked)
  assert all(part['attributes']['label'] for part in asked)
  assert all('options' in part['attributes'] for part in asked if part['type'] == 'dropdown')
