"""What cannot be trained on is told before anything is computed."""

import dataclasses
import shlex
from pathlib import Path

import numpy as np
import pytest
import recorded

from data_prep import checks, contents, data_sets, phantom
from thrifty_jax import config as configs
from thrifty_jax.errors import InputError
from thrifty_jax.running import command_line
from thrifty_jax.scans.volumes import Case, Volume

SOURCE = Case(case='a', patient='a', image=(Path('scan.mhd'),), label=(Path('mask.mhd'),))
CLASSES = ('background', 'liver')


def good():
  image = np.random.default_rng(0).random((2, 3, 4, 1)).astype(np.float32)
  label = np.zeros((2, 3, 4), np.uint8)
  label[0, 1, 1] = 1
  return Volume(image=image, label=label, affine=np.eye(4), case='a', patient='a')


def image_with(value):
  image = good().image.copy()
  image[1, 2, 3] = value
  return image


def problems_of(**changes):
  volume = dataclasses.replace(good(), **changes)
  return checks.find_problems(volume, classes=CLASSES, modalities=1, source=SOURCE)


def test_a_good_scan_passes_and_so_does_one_without_the_organ():
  assert problems_of() == problems_of(label=np.zeros((2, 3, 4), np.uint8)) == []


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'image': image_with(np.nan)}, 'scan.mhd: 1 voxels of the scan are NaN or infinite'),
    ({'image': image_with(-np.inf)}, 'scan.mhd: 1 voxels of the scan are NaN or infinite'),
    ({'image': np.full((2, 3, 4, 1), 7, np.float32)}, 'scan.mhd: every voxel of the scan is 7'),
    ({'image': np.ones((2, 3, 4, 2), np.float32)}, 'scan.mhd: the scan has 2 channels'),
    ({'label': np.full((2, 3, 4), 2, np.uint8)}, 'mask.mhd: the truth holds class 2'),
  ],
)
def test_a_problem_of_a_scan_is_one_line_that_names_its_file(changes, message):
  line, *_ = problems_of(**changes)
  assert line.startswith(message) and '\n' not in line


def test_a_scan_without_truth_is_refused():
  with pytest.raises(InputError, match='a: the scan has no truth'):
    problems_of(label=None)


@pytest.fixture
def config(tmp_path):
  config = configs.default()
  config.data.name = 'phantom'
  config.data.raw_dir = str(tmp_path / 'raw')
  config.data.data_dir = str(tmp_path / 'tfds')
  phantom.write_promise12(tmp_path / 'raw', patients=6, seed=0)
  return config


def raw_file(config, name):
  return Path(config.data.raw_dir) / 'TrainingData' / name


def test_the_stage_prints_a_line_for_each_case_and_writes_a_page_and_nothing_else(
  config, tmp_path, capsys
):
  recorded.check(config, tmp_path / 'run')
  lines = capsys.readouterr().out.splitlines()
  rows = [line[3:].split() for line in lines[1:7]]
  assert [row[0] for row in rows] == [f'Case{number:02d}' for number in range(6)]
  case, split, shape, *spacing = rows[0][:6]
  assert (case, split, shape) == ('Case00', 'test', '8x40x48')
  made = np.linalg.norm(phantom.make_scan(patient=0, seed=0).affine[:3, :3], axis=0)
  assert spacing == [f'{step:.2f}' for step in made]
  assert lines[-1] == 'phantom: 6 cases are usable; patients: 3 train, 1 validation, 2 test.'
  assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*.html')] == [
    'run/check.html'
  ]
  assert {path.name for path in tmp_path.iterdir()} == {'raw', 'run'}


def test_every_scan_is_read_before_the_stage_stops_and_every_error_is_listed(
  config, tmp_path, capsys, monkeypatch
):
  read = []

  def spied(case, original=phantom.read_case):
    read.append(case.case)
    return original(case)

  monkeypatch.setattr(phantom, 'read_case', spied)
  raw_file(config, 'Case01.mhd').write_bytes(b'')
  raw_file(config, 'Case04.zraw').write_bytes(b'cut off')
  config.data.folds = 3
  config.data.workers = 1  # this process, where the spy is
  with pytest.raises(InputError) as caught:
    recorded.check(config, tmp_path / 'run')
  assert read == [f'Case{number:02d}' for number in range(6)]
  message, shown = str(caught.value), capsys.readouterr().out
  assert message.startswith('2 errors in 6 scans, all listed above; correct or remove what they')
  assert 'The first: ' in message and 'Case01.mhd: cannot be read' in message
  assert '\n' not in message
  marked = [line.split()[1] for line in shown.splitlines() if line.startswith('E  Case')]
  assert marked == ['Case01', 'Case04']
  page = (tmp_path / 'run' / 'check.html').read_text(encoding='utf-8')
  for text in (shown, page):
    words = ' '.join(text.split())
    assert 'Case01.mhd: cannot' in words and 'Case04.mhd: its voxels' in words
  assert list((tmp_path / 'run').iterdir()) == [tmp_path / 'run' / 'check.html']


def test_a_check_reads_no_scan_a_second_time_to_hash_it(config, tmp_path, monkeypatch):
  monkeypatch.setattr(contents, '_hash_of', None)
  scans = data_sets.find(config)
  checks.check(config, scans, {}, tmp_path / 'run')
  assert scans.contents.is_sound


def test_several_processes_find_the_same_and_start_no_jax(config, tmp_path, monkeypatch, capsys):
  raw_file(config, 'Case04.zraw').write_bytes(b'cut off')
  found = []
  for workers in (1, 2):
    config.data.workers = workers
    if workers == 2:
      monkeypatch.setenv('JAX_PLATFORMS', 'none')  # whoever starts a backend now fails
      monkeypatch.setattr(phantom, 'read_case', None)  # here; they have their own
    with pytest.raises(InputError) as caught:
      recorded.check(config, tmp_path)
    page = (tmp_path / 'check.html').read_text(encoding='utf-8')
    found.append((str(caught.value), capsys.readouterr().out, page))
  assert found[0] == found[1] and '1 error in 6 scans' in found[0][0]


def test_one_scan_under_two_names_is_an_error(config, tmp_path):
  for ending in ('.mhd', '.zraw', '_segmentation.mhd', '_segmentation.zraw'):
    content = raw_file(config, f'Case00{ending}').read_bytes()
    raw_file(config, f'Case05{ending}').write_bytes(content.replace(b'Case00', b'Case05'))
  with pytest.raises(InputError, match='1 error in 6 scans: Case05: every voxel is that of Case00'):
    recorded.check(config, tmp_path)


def test_files_without_their_partner_are_listed_and_the_others_read(config, tmp_path, monkeypatch):
  cases = phantom.find_cases(Path(config.data.raw_dir))
  lines = ['lost.mhd: its mask is missing; add it.', 'other.mhd: its scan is missing; add it.']
  problems = [data_sets.Problem(line.split('.')[0], line) for line in lines]

  def find_cases(raw_dir):
    raise data_sets.Unpaired(problems, cases[::-1])

  monkeypatch.setattr(phantom, 'find_cases', find_cases)
  with pytest.raises(InputError, match='2 errors in 8 scans') as caught:
    recorded.check(config, tmp_path / 'run')
  assert f"{lines[0]} To go on without: --config.data.exclude=\"('lost', 'other',)\"." in str(
    caught.value
  )
  page = (tmp_path / 'run' / 'check.html').read_text(encoding='utf-8')
  assert lines[1] in page and page.count('<figure>') == 6


def test_files_without_their_partner_are_listed_where_too_few_patients_are_left(
  config, tmp_path, capsys
):
  for number in range(1, 5):
    raw_file(config, f'Case0{number}_segmentation.mhd').unlink()
  with pytest.raises(InputError, match='4 errors in 6 scans.*Case01.mhd: its mask'):
    recorded.check(config, tmp_path / 'run')
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[:2] for line in lines[1:3]] == [['Case00', '-'], ['Case05', '-']]
  assert sum(line.split()[:1] == ['error'] for line in lines) == 4
  page = (tmp_path / 'run' / 'check.html').read_text(encoding='utf-8')
  assert page.count('<figure>') == 2


def test_the_stage_stops_at_a_class_that_no_scan_has(config, tmp_path):
  config.data.classes = (*config.data.classes, 'nowhere')
  with pytest.raises(InputError, match='no scan has a voxel of nowhere'):
    recorded.check(config, tmp_path)


def test_the_stage_stops_at_a_class_without_a_name(config, tmp_path):
  config.data.classes = ('background',)
  with pytest.raises(InputError, match=r'Case00_segmentation\.mhd: the truth holds class 1'):
    recorded.check(config, tmp_path)


@pytest.mark.parametrize(
  ('names', 'told'),
  [
    (('a', 'a'), 'a'),
    (('Case1', 'b', 'case1'), 'Case1, case1'),
    (('liver_A', 'liver_a'), 'liver_A, liver_a'),
    (('Ärzte', 'ärzte'), 'Ärzte, ärzte'),
    (('A', 'a', 'B', 'b', 'c'), 'A, B, a, b'),
  ],
)
def test_scans_whose_files_may_have_one_name_are_refused(
  config, tmp_path, monkeypatch, names, told
):
  """File systems of macOS and Windows take capitals for small letters."""
  cases = [dataclasses.replace(SOURCE, case=name) for name in names]
  monkeypatch.setattr(phantom, 'find_cases', lambda raw_dir: cases)
  with pytest.raises(InputError, match=f'more than one scan is called {told}; expected names'):
    recorded.check(config, tmp_path)


def test_an_unknown_data_set_is_refused(config, tmp_path):
  config.data.name = 'chaso'
  with pytest.raises(InputError, match="data.name is 'chaso'; expected one of brain, chaos"):
    recorded.check(config, tmp_path)


@pytest.mark.parametrize(
  'names', [['a'], ['b', 'a'], ["it's"], ['a"b'], ['$HOME', '`x`'], ['a\\b!']], ids=str
)
def test_the_way_to_go_on_without_scans_can_be_pasted(names):
  told = data_sets.name_exclusion(names)
  (word,) = shlex.split(told.removeprefix('To go on without: ').removesuffix('.'))
  command = command_line.parse(['--config=configs/folder.py', word])
  assert sorted(command.config.data.exclude) == sorted(names)


def test_labels_of_regions_are_known_and_a_mask_without_any_label_is_named():
  source = dataclasses.replace(SOURCE, ignore=4, regions=((1, 2, 3), (2, 3)))
  names = ('background', 'whole', 'core')

  def problems(label):
    volume = dataclasses.replace(good(), label=np.asarray(label, np.uint8))
    return checks.find_problems(volume, classes=names, modalities=1, source=source)

  label = np.arange(24).reshape(2, 3, 4) % 4
  label[0, 0] = 255
  assert problems(label) == []
  (line,) = problems(label.clip(max=4) + (label == 3))
  assert 'mask.mhd: the truth holds class 4' in line and 'whole (1, 2, 3), core (2, 3)' in line
  (line,) = problems(np.full((2, 3, 4), 255))
  assert line.startswith('mask.mhd: every voxel of the truth has the ignored label 4')
