"""The command that draws a genotype file."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from thrifty_jax import draw
from thrifty_jax.networks import genotype, space
from thrifty_jax.networks.genotype import Genotype

PROJECT = Path(__file__).resolve().parents[1]
SHIPPED = PROJECT / 'thrifty_jax' / 'genotypes' / 'thrifty_0.61m.json'
LEAN = SHIPPED.with_name('lean_0.48m.json')


def content(**changes):
  return json.dumps(json.loads(SHIPPED.read_text(encoding='utf-8')) | changes)


def test_the_shipped_genotype_becomes_one_well_formed_picture(tmp_path, capsys):
  output = tmp_path / 'genotype.svg'
  assert draw.main([f'--genotype={SHIPPED}', f'--output={output}']) == 0
  assert capsys.readouterr().out == f'{output}\n'
  assert [path.name for path in tmp_path.iterdir()] == ['genotype.svg']
  texts = [''.join(text.itertext()) for text in ElementTree.parse(output).iter() if text.text]
  for text in ('in0', 'node2', 'down_sep_conv_3x3', 'up_conv_3x3', 'encode', 'up_4_0', 'head'):
    assert text in texts
  assert 'up_5_0' not in texts
  assert not any('score' in text for text in texts)  # this file has none


def test_the_picture_of_the_readme_is_what_the_command_draws_today():
  picture = (PROJECT / 'docs' / 'network.svg').read_text(encoding='utf-8')
  assert picture == draw.draw(SHIPPED)
  assert 'docs/network.svg' in (PROJECT / 'README.md').read_text(encoding='utf-8')


def test_a_picture_that_is_there_is_replaced(tmp_path):
  output = tmp_path / 'genotype.svg'
  output.write_text('old')
  assert draw.main(['--genotype', str(SHIPPED), '--output', str(output)]) == 0
  assert output.read_text(encoding='utf-8').startswith('<svg')


def test_a_lean_network_is_drawn_level_by_level_without_a_depth(tmp_path, capsys):
  output = tmp_path / 'lean.svg'
  arguments = ['--genotype', str(LEAN), '--output', str(output)]
  assert draw.main(arguments) == 0
  text = output.read_text(encoding='utf-8')
  ElementTree.fromstring(text)
  assert [text.count(f'>{width} channels<') for width in (16, 32, 64, 128)] == [2, 2, 2, 1]
  assert text.count('2 x conv 3x3') == 7 and '1/16' in text
  assert draw.main([*arguments, '--depth=4']) == 2
  assert 'has its own levels: leave out --depth' in capsys.readouterr().err


def test_the_picture_sets_each_colour_that_it_uses_for_light_and_dark_screens(tmp_path):
  nodes = tuple(
    tuple((source, name) for source, name in zip((0, 1, 2), names, strict=False))
    for names in (
      ('down_avg_pool', 'down_max_pool'),
      ('down_sep_conv_3x3', 'down_se_conv_3x3', 'se'),
      ('down_dil_conv_3x3', 'down_conv_3x3', 'identity'),
    )
  )
  ups = tuple(((0, 'conv_3x3'), (1, name)) for name in space.candidates('up')[:3])
  path = tmp_path / 'genotype.json'
  genotype.save(path, Genotype(nodes, ups))
  text = draw.draw(path)
  light, dark = re.findall(r'svg\{(.*?)\}', text)
  used = set(re.findall(r'var\((--[\w-]+)', text))
  assert {'--ground', '--op-avg-pool', '--op-se', '--cell-up'} <= used
  for scheme in (light, dark):
    assert used <= set(re.findall(r'(--[\w-]+):', scheme)) and 'color:#' in scheme
  assert '@media(prefers-color-scheme:dark){svg{' + dark in text


def test_depth_is_the_one_asked_for_else_the_one_in_the_file(tmp_path):
  path = tmp_path / 'genotype.json'
  path.write_text(content(provenance={'depth': 3}))
  assert 'up_2_0' in draw.draw(path) and 'up_3_0' not in draw.draw(path)
  assert 'up_3_0' in draw.draw(path, depth=4)
  path.write_text(content(provenance={'made_for': {'channels': 8, 'depth': 3}}))  # by a race
  assert 'up_2_0' in draw.draw(path) and 'up_3_0' not in draw.draw(path)


def test_scores_are_explained_where_they_are(tmp_path):
  path = tmp_path / 'genotype.json'
  edge = '"operation": "down_sep_conv_3x3"'
  path.write_text(content().replace(edge, f'{edge}, "score": 0.875'))
  assert '>0.88<' in draw.draw(path) and 'its score' in draw.draw(path)


def test_a_skipped_cell_that_the_depth_does_not_have_is_refused(tmp_path, capsys, monkeypatch):
  found = genotype.load(SHIPPED)
  skipping = Genotype(found.down, found.up, skipped=((2, 1),))
  monkeypatch.setattr(genotype, 'load_any', lambda path: skipping)
  command = [f'--genotype={SHIPPED}', f'--output={tmp_path}/genotype.svg']
  assert draw.main([*command, '--depth=4']) == 2
  error = capsys.readouterr().err
  assert 'cell (2, 1) cannot be skipped at depth 4' in error and '--depth=LEVELS' in error
  assert list(tmp_path.iterdir()) == []
  assert draw.main(command) == 0


BAD = [
  ([], '--genotype is missing'),
  (['--genotype=x.json'], '--output is missing'),
  (['--genotype=x.json', '--output=a.svg'], 'cannot read x.json'),
  (['--genotype=list.json', '--output=a.svg'], 'list.json is no genotype'),
  (['--genotype=text.json', '--output=a.svg'], 'text.json is not valid JSON'),
  (['--genotype=deep.json', '--output=a.svg'], "its depth is 'five', expected a whole number"),
  (['--genotype=good.json', '--output=a.png'], 'ending in .svg'),
  (['--genotype=good.json', '--output=folder.svg'], 'cannot be written: Is a directory'),
  (['--genotype=good.json', '--output=none/a.svg'], 'there is no such folder'),
  (['--genotype=good.json', '--output=a.svg', '--depth=1'], '--depth=1'),
  (['--genotype=good.json', '--output=a.svg', '--depth=two'], '--depth=two'),
  (['--genotyp=good.json'], "'genotyp'"),
  (['good.json'], "unexpected argument 'good.json'"),
]


@pytest.mark.parametrize(('arguments', 'message'), BAD)
def test_bad_input_is_one_clear_line_status_2_and_no_picture(
  tmp_path, monkeypatch, capsys, arguments, message
):
  monkeypatch.chdir(tmp_path)
  for name, text in (('list', '[]'), ('text', 'hello'), ('good', content())):
    Path(f'{name}.json').write_text(text)
  Path('deep.json').write_text(content(provenance={'depth': 'five'}))
  Path('folder.svg').mkdir()
  before = sorted(tmp_path.rglob('*'))
  assert draw.main(arguments) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and error.count('\n') == 1 and message in error
  assert sorted(tmp_path.rglob('*')) == before


def test_a_folder_that_refuses_the_file_is_one_line_too(tmp_path, monkeypatch, capsys):
  def refuse(path, text):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(draw.files, 'write_text', refuse)
  assert draw.main([f'--genotype={SHIPPED}', f'--output={tmp_path}/a.svg']) == 2
  assert 'cannot be written: Permission denied' in capsys.readouterr().err


def test_help_is_shown_without_starting_jax():
  code = (
    'import sys; from thrifty_jax.draw import main; status = main(["--help"]);'
    'assert "jax" not in sys.modules; sys.exit(status)'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=PROJECT)
  assert done.returncode == 0, done.stderr
  for text in ('or: python -m thrifty_jax.draw', '--genotype', '--depth', 'Exit status'):
    assert text in done.stdout
