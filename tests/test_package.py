"""The package: what a wheel and an image contain, the extras, the one command, configs by name."""

import importlib
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import thrifty_jax
from thrifty_jax import __main__ as command
from thrifty_jax import config as configs
from thrifty_jax import extras
from thrifty_jax.errors import InputError
from thrifty_jax.running import command_line

PROJECT = Path(__file__).resolve().parents[1]
ABOUT = tomllib.loads((PROJECT / 'pyproject.toml').read_text(encoding='utf-8'))
TOOL = ABOUT['tool']['setuptools']
EXTRAS = TOOL['dynamic']['optional-dependencies']
WORDS = ('COPY', 'ENTRYPOINT', 'FROM', 'USER')  # of the Dockerfile


def test_a_wheel_has_every_file_of_the_package():
  places = {name: name.replace('.', '/') for name in TOOL['packages']} | TOOL['package-dir']
  patterns = ['*.py', *TOOL['package-data']['*']]
  packed = {
    path
    for place in places.values()
    for path in (PROJECT / place).iterdir()
    if any(fnmatch(path.name, pattern) for pattern in patterns)
  }
  there = {
    path
    for top in ('thrifty_jax', 'data_prep', 'configs')
    for path in (PROJECT / top).rglob('*')
    if path.is_file() and '__pycache__' not in path.parts
  }
  assert there <= packed, sorted(map(str, there - packed))
  assert places['thrifty_jax.configs'] == 'configs'


def test_every_file_of_requirements_is_an_extra_of_its_name():
  names = {path.name for path in PROJECT.glob('requirements-*.txt')}
  assert names == {f'requirements-{extra}.txt' for extra in EXTRAS}
  for extra, source in EXTRAS.items():
    assert f'requirements-{extra}.txt' in source['file'] and {*source['file']} <= names


@pytest.mark.parametrize('path', sorted(PROJECT.glob('requirements*.txt')), ids=lambda p: p.name)
def test_every_line_of_requirements_is_one_that_a_wheel_may_name(path):
  lines = [line.partition('#')[0].strip() for line in path.read_text('utf-8').splitlines()]
  assert [Requirement(line) for line in lines if line]  # no -r, which no wheel can follow


def test_what_is_missing_is_installed_from_a_checkouts_files_or_by_the_name_of_the_extra(
  tmp_path, monkeypatch
):
  files = 'pip install -r requirements-export.txt -r requirements-openvino.txt'
  assert extras.how_to_install('export', 'openvino') == files
  monkeypatch.setattr(extras, '__file__', str(tmp_path / 'thrifty_jax' / 'extras.py'))
  named = 'pip install "thrifty_jax[export,openvino]"'
  assert extras.how_to_install('export', 'openvino') == named


def test_the_image_is_made_of_files_that_there_are_and_starts_the_script():
  lines = (PROJECT / 'Dockerfile').read_text('utf-8').replace('\\\n', ' ').splitlines()
  of = {word: [line.split()[1:] for line in lines if line.startswith(f'{word} ')] for word in WORDS}
  ignored = (PROJECT / '.dockerignore').read_text('utf-8').splitlines()
  copied = {source for *sources, _ in of['COPY'] for source in sources}
  assert copied == {line[1:] for line in ignored if line.startswith('!')} and '*' in ignored
  assert all([*PROJECT.glob(source)] for source in copied)
  packed = {name.split('.')[0] for name in TOOL['packages']} | {*TOOL['package-dir'].values()}
  assert packed | {*ABOUT['project']['license-files'], ABOUT['project']['readme']} <= copied
  extras = re.findall(r'EXTRAS="([^"]+)"', '\n'.join(lines))
  assert len(extras) == 2 and {name for names in extras for name in names.split()} <= {*EXTRAS}
  version = SpecifierSet(ABOUT['project']['requires-python'])
  assert all(image.split(':')[1].removesuffix('-slim') in version for image, *_ in of['FROM'])
  (script,) = ABOUT['project']['scripts']
  assert of['ENTRYPOINT'] == [[f'["{script}"]']] and of['USER'] == [['1000']]


def test_the_script_starts_the_commands():
  module, _, name = ABOUT['project']['scripts']['thrifty-jax'].partition(':')
  assert getattr(importlib.import_module(module), name) is command.start


@pytest.mark.parametrize('name', command.COMMANDS)
def test_each_command_has_its_help(name, capsys):
  assert command.main([name, '--help']) == 0
  text = capsys.readouterr().out
  module = command.COMMANDS[name][0].removesuffix('.__main__')
  assert text.startswith(f'usage: thrifty-jax {name} --')
  assert f'   or: python -m {module}, the same' in text.splitlines()[1]


@pytest.mark.parametrize('arguments', [[], ['--help'], ['-h']])
def test_help_lists_the_commands(arguments, capsys):
  assert command.main(arguments) == 0
  text = capsys.readouterr().out
  assert all(re.search(rf'^  {name} ', text, re.MULTILINE) for name in command.COMMANDS)


def test_the_version_is_that_of_the_package(capsys):
  assert command.main(['--version']) == 0
  assert capsys.readouterr().out == f'{thrifty_jax.__version__}\n'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['rum'], 'did you mean run?'),
    (['--config=brain'], "'--config=brain' is no command"),
    (['--version', 'now'], '--version takes no options'),
    (['completion', 'zsh'], 'completion takes no options'),
    (['draw', '--genotyp=x'], "Unknown command line flag 'genotyp'"),
  ],
)
def test_what_is_no_command_is_one_line_and_status_2(arguments, message, capsys):
  assert command.main(arguments) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and message in error and error.count('\n') == 1


def test_the_shell_completes_the_options_that_the_help_lists(capsys):
  assert command.main(['completion']) == 0
  text = capsys.readouterr().out
  assert 'words="run predict evaluate' in text
  assert '    draw) words="--genotype= --output= --depth= --help" ;;' in text
  assert '--overlays --preview --statistics' in text  # switches take no =


@pytest.mark.parametrize('name', configs.NAMES)
def test_a_config_is_found_by_its_name_from_any_folder(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  found = command_line.parse(['--config', f'{name}:unet', '--config.seed=3'])
  assert (found.config_file, found.workdir) == (f'{name}:unet', Path('runs', name))
  assert (found.config.model.name, found.config.seed) == ('unet', 3)


def test_a_file_that_is_named_as_a_file_comes_before_the_config_of_its_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  text = (configs.FOLDER / 'phantom.py').read_text('utf-8')
  Path('brain.py').write_text(text.replace('image_size = 32', 'image_size = 64'), 'utf-8')
  assert command_line.parse(['--config=brain.py']).config.data.image_size == 64
  assert command_line.parse(['--config=brain']).config.data.name == 'brain'
  with pytest.raises(InputError, match='there is no file configs/brain.py; expected one, or a'):
    command_line.parse(['--config=configs/brain.py'])
