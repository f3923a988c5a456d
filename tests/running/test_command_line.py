"""The reader of options that all commands share."""

import io
import sys
import types
from pathlib import Path

import pytest

from thrifty_jax import config as configs
from thrifty_jax.errors import InputError
from thrifty_jax.running import command_line
from thrifty_jax.running.command_line import Number

USAGE = """\
usage: python -m tool --scan=FILE [options]

  --scan=FILE[,FILE]   what it reads
      lines further in, as --this=ONE, are explanations
  --format=FORMAT      a choice
  --slices=NUMBER      a number
  --flips              a switch
"""


def read(*argv: str):
  return command_line.read(
    argv,
    USAGE,
    required={'scan': 'scan.nii.gz'},
    choices={'format': ('nifti', 'nrrd')},
    slices=Number(int, 8, least=1, most=16),
  )


def test_the_options_are_those_that_the_help_lists():
  values = read('--scan=a.nii', '--flips', '--slices=3')
  assert (values.scan, values.format, values.slices, values.flips) == ('a.nii', 'nifti', 3, True)
  values = read('--scan', 'b.nii', '--format=nrrd', '--noflips')
  assert (values.scan, values.format, values.slices, values.flips) == ('b.nii', 'nrrd', 8, False)


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    ([], '--scan is missing, for example --scan=scan.nii.gz; --help says more'),
    (['--scan='], '--scan is missing'),
    (['--scan=a', '--this=1'], "Unknown command line flag 'this'"),
    (['--scan=a', '--format=jpeg'], '--format=jpeg'),
    (['--scan=a', '--slices=17'], '--slices=17'),
    (['--scan=a', '--slices=few'], '--slices=few'),
    (['--scan=a', 'b'], "unexpected argument 'b': every option is written --name=value"),
  ],
)
def test_what_cannot_be_read_is_refused_in_one_line(argv, message):
  with pytest.raises(InputError, match=message) as refused:
    read(*argv)
  assert '\n' not in str(refused.value)


def test_help_is_printed_whatever_else_is_asked(capsys):
  assert command_line.start(['--help', '--scan'], USAGE, run=lambda arguments: 1) == 0
  assert capsys.readouterr().out == USAGE


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('~/masks', '{home}/masks'),
    ('~', '{home}'),
    ('~/a,b', '{home}/a,b'),
    ('masks/~', 'masks/~'),
    ('./~/masks', './~/masks'),
    ('~nobody_of_this_name/x', '~nobody_of_this_name/x'),
  ],
)
def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, text, expected):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert read(f'--scan={text}').scan == expected.format(home=tmp_path)
  arguments = ['--config=configs/brain.py', f'--workdir={text}']
  monkeypatch.chdir(Path(__file__).resolve().parents[2])
  assert command_line.parse(arguments).workdir == Path(expected.format(home=tmp_path))


def test_a_tilde_is_the_home_folder_in_every_field_and_for_the_config(tmp_path, monkeypatch):
  root = Path(__file__).resolve().parents[2]
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(root)
  (tmp_path / 'own.py').write_text((root / 'configs' / 'brain.py').read_text('utf-8'), 'utf-8')
  (tmp_path / 'genotype.json').write_text('{}')
  fields = ('genotype', 'front.costs', 'data.raw_dir')
  found = command_line.parse(
    ['--config=~/own.py', *(f'--config.{name}=~/genotype.json' for name in fields)]
  )
  assert found.config_file == f'{tmp_path}/own.py' and found.workdir == Path('runs', 'own')
  for name in fields:
    assert configs.flatten(found.config)[name] == f'{tmp_path}/genotype.json'


@pytest.mark.parametrize(
  ('config', 'typed', 'minutes'),
  [
    ('folder:small', 'front.steps=9', 'front.minutes'),
    ('brain', 'retrain.epochs=9', 'retrain.minutes'),
  ],
)
def test_a_number_that_minutes_take_the_place_of_is_refused(config, typed, minutes):
  arguments = [f'--config={config}', f'--config.{typed}']
  with pytest.raises(InputError, match=rf'is not read, .*; leave it out, or add .*{minutes}=0$'):
    command_line.parse([*arguments, f'--config.{minutes}=12'])
  fields = configs.flatten(command_line.parse([*arguments, f'--config.{minutes}=0']).config)
  assert fields[typed.removesuffix('=9')] == 9


@pytest.mark.parametrize('value', ['0', '0.0'])
def test_a_budget_of_0_that_was_typed_is_refused_as_it_would_be_no_limit(value):
  arguments = ['--config=brain:lean']
  assert command_line.parse(arguments).config.search.max_ms == 0
  with pytest.raises(InputError, match='max_ms=0: no network takes 0 ms; .*leave it out for no li'):
    command_line.parse([*arguments, f'--config.search.max_ms={value}'])
  assert command_line.parse([*arguments, '--config.search.max_ms=0.1']).config.search.max_ms == 0.1


@pytest.mark.parametrize(
  ('model', 'expected'),
  [
    ('{place}/a,b', ['{place}/a,b']),
    ('{place}/plain', ['{place}/plain']),
    ('{place}/one,{place}/two', ['{place}/one', '{place}/two']),
    ('~/one,~/two', ['{place}/one', '{place}/two']),
    ('{place}/one,', ['{place}/one']),
    ('{place}/one, ~/two', ['{place}/one', '{place}/two']),
  ],
)
def test_a_model_may_have_a_comma_in_its_path(tmp_path, monkeypatch, model, expected):
  from thrifty_jax import device, predict
  from thrifty_jax.predicting import segment

  for name in ('a,b', 'plain', 'one', 'two'):
    (tmp_path / name).mkdir()
  loaded = []
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setattr(device, 'prepare', lambda config: None)
  monkeypatch.setattr(segment, 'load_model', lambda folders, **more: loaded.extend(folders))
  values = types.SimpleNamespace(
    model=read(f'--scan={model.format(place=tmp_path)}').scan,
    **{'device': 'cpu', 'flips': False, 'batch_size': 1, 'memory_budget_mb': None},
  )
  predict._load(values)
  assert loaded == [path.format(place=tmp_path) for path in expected]
  from thrifty_jax.cost import __main__ as cost

  found = cost.read([f'--models={model.format(place=tmp_path)}'])
  assert cost.split(found, 'models') == loaded


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'cp1252', 'cp437', 'utf-8', 'utf-16'])
@pytest.mark.parametrize('name', ['Müller', '肝臓', 'M\udcfcller', 'e\u0301', '🫀_0000'])
def test_a_name_that_the_terminal_cannot_show_is_no_fault(monkeypatch, encoding, name):
  streams = {
    one: io.TextIOWrapper(io.BytesIO(), encoding, newline='\n') for one in ('stdout', 'stderr')
  }
  for one, stream in streams.items():
    monkeypatch.setattr(sys, one, stream)

  def work():
    print(f'scan      {name}')
    raise InputError(f'{name}.nii.gz: no such file; expected a scan.')

  assert command_line.exit_status(work) == 2
  for stream in streams.values():
    stream.flush()
  out, err = (stream.detach().getvalue().decode(encoding) for stream in streams.values())
  assert out.startswith('scan      ') and out.count('\n') == 1
  assert err.startswith('error: ') and err.endswith('expected a scan.\n') and err.count('\n') == 1
  try:
    name.encode(encoding)
  except UnicodeEncodeError:
    assert '\\' in out and '\\' in err
  else:
    assert name in out and name in err


NO_CONFIGS = {  # name and content of a file, and what is said of it
  'config.json': ('{"seed": null}', 'expected a file .py with a function get_config'),
  'broken.py': ('x = 1\ndef get_config(:\n', 'cannot be read as Python: line 2: invalid syntax'),
  'nul.py': ('x = 1\0', 'cannot be read as Python: .*null byte'),
  'bytes.py': (b"x = '\xff'", 'cannot be read as Python: '),
  'none.py': ('x = 1', 'expected a file .py with a function get_config'),
  'three.py': (
    'get_config = lambda variants="": 3',
    'get_config returned 3; expected the settings',
  ),
  'key.py': ('def get_config(of=""):\n  return {}["x"]', "line 2: KeyError: 'x'"),
  'misspelled.py': (
    'from thrifty_jax import config\ndef get_config():\n  config.default().serch.epochs = 3',
    'line 3: AttributeError: .*Did you mean "search"',
  ),
  'part.py': (
    'from thrifty_jax import config\nget_config = lambda: config.default().search',
    'get_config returned .*; expected the settings',
  ),
}


@pytest.mark.parametrize('name', NO_CONFIGS)
def test_what_is_no_config_is_refused_in_one_line_that_names_the_file(tmp_path, name):
  content, message = NO_CONFIGS[name]
  (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(InputError, match=message) as refused:
    command_line.parse([f'--config={tmp_path / name}', '--config.seed=1'])
  assert str(refused.value).startswith(f'--config={tmp_path / name}: ')
  assert '\n' not in str(refused.value)
