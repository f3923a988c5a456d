"""Prepared once, whole or not at all, and the same as what was read."""

import contextlib
import errno
import gc
import json
import os
import shutil
import subprocess
import sys
import types
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_prep import builder, phantom, prepare
from thrifty_jax import config as configs
from thrifty_jax import main
from thrifty_jax.errors import InputError
from thrifty_jax.scans import slices
from thrifty_jax.scans.preprocessing import image_settings

PROJECT = Path(__file__).resolve().parents[2]
PATIENTS = 5


@pytest.fixture
def config(tmp_path):
  """A phantom of five patients that nothing is prepared of."""
  config = configs.default()
  config.data.name = 'phantom'
  config.data.classes = ('background', 'organ')
  config.data.image_size = 32
  config.data.raw_dir = str(tmp_path / 'raw')
  config.data.data_dir = str(tmp_path / 'tfds')
  phantom.write_promise12(tmp_path / 'raw', patients=PATIENTS, seed=0)
  return config


def files_below(folder):
  return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob('*') if path.is_file())


def test_slices_and_truth_come_back_as_they_were_made(config):
  folder = prepare.prepare(config)
  prepared = tfds.builder_from_directory(str(folder))
  source: Any = prepared.as_data_source(split='slices')
  metadata = prepared.info.metadata
  assert metadata['classes'] == ['background', 'organ']
  assert metadata['note'] == phantom.ABOUT.note
  row = 0
  cases = phantom.find_cases(Path(config.data.raw_dir))
  for case, found in zip(cases, metadata['cases'], strict=True):
    volume = phantom.read_case(case)
    image, label = slices.to_slices(volume, image_settings(config.data))
    assert (found['case'], found['patient']) == (case.case, case.patient)
    assert (found['first_slice'], found['slices']) == (row, len(image))
    assert found['native_shape'] == list(volume.truth.shape)
    np.testing.assert_allclose(found['spacing_mm'], volume.spacing_mm)
    np.testing.assert_allclose(found['affine'], volume.affine)
    assert (image.dtype, source[row]['image'].dtype) == (np.float16, np.float16)
    assert 0 <= image.min() < image.max() <= 1
    for d in range(len(image)):
      example = source[row]
      np.testing.assert_array_equal(example['image'], image[d])
      np.testing.assert_array_equal(example['label'], label[d])
      np.testing.assert_array_equal(example['native_label'], volume.truth[d])
      assert (example['case'].decode(), int(example['slice'])) == (case.case, d)
      row += 1
  assert len(source) == row


def test_a_second_call_does_nothing_and_says_so(config, capsys, monkeypatch):
  folder = prepare.prepare(config)
  assert 'prepared 42 slices of 5 cases' in capsys.readouterr().out
  before = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
  monkeypatch.setattr(phantom, 'read_case', None)
  assert prepare.prepare(config) == folder == prepare.prepared_dir(config)
  assert 'prepared already' in capsys.readouterr().out
  assert before == {path: path.stat().st_mtime_ns for path in folder.rglob('*')}


@pytest.mark.parametrize(
  'changes',
  [
    {'image_size': 16},
    {'percentiles': (1.0, 99.0)},
    {'intensity': 'window', 'window': (0.0, 900.0)},
    {'clahe_clip_limit': 0.05},
    {'resize': 'nearest'},
    {'curvature_flow_iterations': 5},
    {'classes': ('background', 'prostate')},
  ],
)
def test_changed_settings_get_a_folder_of_their_own(config, changes):
  before = prepare.prepared_dir(config)
  config.data.update(changes)
  after = prepare.prepared_dir(config)
  assert (after != before, after.parent.parent) == (True, before.parent.parent)


def test_folds_and_all_else_that_slices_do_not_depend_on_keep_the_folder(config):
  before = prepare.prepared_dir(config)
  config.data.update({'folds': 3, 'fold': 2, 'window': (0.0, 1.0), 'context': 1, 'prefetch': 9})
  config.data.update({'mean': (0.5,), 'std': (0.2,), 'hold_out_test': False})
  config.seed = 7
  assert prepare.prepared_dir(config) == before


def test_the_same_scans_under_other_dates_or_in_another_folder_share_their_slices(config, tmp_path):
  folder = prepare.prepare(config)
  for path in Path(config.data.raw_dir).rglob('*'):
    os.utime(path, (0, 0))
  assert prepare.prepared_dir(config) == folder
  shutil.copytree(config.data.raw_dir, tmp_path / 'elsewhere' / 'scans')
  config.data.raw_dir = str(tmp_path / 'elsewhere' / 'scans')
  assert prepare.prepare(config) == folder


def test_a_scan_that_is_taken_away_or_changed_makes_another_data_set(config):
  before = prepare.prepared_dir(config)
  mask = Path(config.data.raw_dir, 'TrainingData', 'Case01_segmentation.zraw')
  content, status = mask.read_bytes(), mask.stat()
  mask.write_bytes(content[::-1])  # of the same size, and as if it were as old
  os.utime(mask, ns=(status.st_atime_ns, status.st_mtime_ns))
  changed = prepare.prepared_dir(config)
  mask.write_bytes(content)
  assert prepare.prepared_dir(config) == before
  for name in ('.mhd', '.zraw', '_segmentation.mhd', '_segmentation.zraw'):
    Path(f'{mask.parent}/Case04{name}').unlink()
  assert len({before, changed, prepare.prepared_dir(config)}) == 3


@pytest.mark.parametrize('fault', [RuntimeError, KeyboardInterrupt, InputError, OSError])
def test_an_interruption_leaves_no_data_set_and_the_next_call_succeeds(config, monkeypatch, fault):
  read_case = phantom.read_case

  def interrupted(case):
    if case.case == 'Case03':
      raise fault('in the middle')
    return read_case(case)

  with monkeypatch.context() as patched:
    patched.setattr(phantom, 'read_case', interrupted)
    with pytest.raises(fault, match='in the middle'):
      prepare.prepare(config)
  assert files_below(config.data.data_dir) == []
  assert not prepare.prepared_dir(config).exists()
  folder = prepare.prepare(config)
  assert len(tfds.builder_from_directory(str(folder)).info.metadata['cases']) == PATIENTS


def test_a_killed_process_leaves_nothing_that_a_second_call_takes_as_complete(config):
  script = f"""
import os
from data_prep import phantom, prepare
from thrifty_jax import config as configs
config = configs.default()
config.data.update({ {k: config.data[k] for k in ('name', 'classes', 'raw_dir', 'data_dir')} })
config.data.image_size = 32
read_case = phantom.read_case
phantom.read_case = lambda case: os._exit(9) if case.case == 'Case03' else read_case(case)
prepare.prepare(config)
"""
  done = subprocess.run(
    [sys.executable, '-c', script], cwd=PROJECT, capture_output=True, timeout=120
  )
  assert done.returncode == 9, done.stderr
  assert files_below(config.data.data_dir)  # it had begun to write
  folder = prepare.prepared_dir(config)
  assert not folder.exists()
  leftover = next(folder.parent.glob('incomplete.*'))
  assert prepare.prepare(config) == folder
  assert len(tfds.builder_from_directory(str(folder)).info.metadata['cases']) == PATIENTS
  assert not leftover.exists() and [*folder.parent.iterdir()] == [folder]


def test_what_another_process_is_writing_is_left_alone_unless_it_is_a_day_old(config):
  folder = prepare.prepare(config)
  writing, old = (folder.parent / f'incomplete.{name}_1.4.0' for name in ('ABCDEF', 'GHIJKL'))
  writing.mkdir()
  old.mkdir()
  os.utime(old, (0, 0))
  with prepare._mark(folder):
    prepare.prepare(config)
    assert writing.exists() and not old.exists()
  assert prepare.prepare(config) == folder
  assert [*folder.parent.iterdir()] == [folder]


BESIDE = """
import json, sys, time
from pathlib import Path
from data_prep import phantom, prepare
from thrifty_jax import config as configs
config, beside = configs.default(), Path(sys.argv[2])
config.data.update(json.loads(sys.argv[1]))
read_case = phantom.read_case
def wait_for_the_other(case):
  if case.case == 'Case01':  # both are writing
    (beside / sys.argv[3]).write_text('')
    while len(list(beside.iterdir())) < 2: time.sleep(0.01)
  if case.case == 'Case04' and sys.argv[3] == 'second':
    while not prepare.prepared_dir(config).exists(): time.sleep(0.01)
  return read_case(case)
phantom.read_case = wait_for_the_other
print(prepare.prepare(config))
"""


def test_two_processes_that_prepare_the_same_data_at_once_both_find_it_whole(config, tmp_path):
  settings = {k: config.data[k] for k in ('name', 'classes', 'raw_dir', 'data_dir', 'image_size')}
  (tmp_path / 'beside').mkdir()
  arguments = [json.dumps(settings | {'workers': 1}), str(tmp_path / 'beside')]
  both = [
    subprocess.Popen(
      [sys.executable, '-c', BESIDE, *arguments, name],
      cwd=PROJECT,
      stdout=subprocess.PIPE,
      text=True,
    )
    for name in ('first', 'second')
  ]
  told = [process.communicate(timeout=120)[0].splitlines() for process in both]
  folder = prepare.prepared_dir(config)
  assert [process.returncode for process in both] == [0, 0]
  assert all('prepared 42 slices of 5 cases' in first for first, _ in told)
  assert [last for _, last in told] == [str(folder)] * 2
  assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing unfinished
  found, metadata = _content(folder)
  shutil.rmtree(folder)
  expected, expected_metadata = _content(prepare.prepare(config))
  assert metadata == expected_metadata and len(found) == len(expected) == 42
  for one, other in zip(found, expected, strict=True):
    assert one.keys() == other.keys()
    for name, value in one.items():
      np.testing.assert_array_equal(value, other[name])


def _content(folder):
  """All slices, as the order of the fields in a file differs from process to process."""
  builder = tfds.builder_from_directory(str(folder))
  source: Any = builder.as_data_source(split='slices')
  return list(source), dict(builder.info.metadata)


def test_tfds_opens_the_slices_by_the_name_of_the_data_set(config):
  for size in (16, 32):
    config.data.image_size = size
    folder = prepare.prepare(config)
    found = tfds.builder('phantom', data_dir=config.data.data_dir)
    assert Path(found.data_path) == folder
    assert found.info.features['image'].shape == (size, size, 1)


@pytest.mark.parametrize('workers', [1, 2])
def test_one_bad_scan_stops_everything_in_one_line(config, workers):
  config.data.workers = workers
  scan = Path(config.data.raw_dir, 'TrainingData', 'Case02.zraw')
  scan.write_bytes(scan.read_bytes()[:100])
  with pytest.raises(InputError, match=r'Case02\.mhd: its voxels, Case02\.zraw, are damaged'):
    prepare.prepare(config)
  assert files_below(config.data.data_dir) == []


def test_a_scan_leaves_the_memory_before_the_next_is_read(config, monkeypatch):
  read_case, read, still_there = phantom.read_case, [], []

  def counting(case):
    gc.collect()
    still_there.append(sum(array() is not None for array in read))
    volume = read_case(case)
    read.extend([weakref.ref(volume.image), weakref.ref(volume.truth)])
    return volume

  monkeypatch.setattr(phantom, 'read_case', counting)
  config.data.workers = 1  # in this process, however slow it is
  prepare.prepare(config)
  assert still_there == [0] * PATIENTS


def test_only_the_bar_and_one_line_are_printed(config, capfd):
  prepare.prepare(config)
  out, err = capfd.readouterr()
  assert len(out.splitlines()) == 1
  lines = [line for line in err.replace('\r', '\n').splitlines() if line]
  assert lines
  assert all(line.startswith('prepare phantom:') for line in lines), err


def test_the_version_of_the_format_is_part_of_the_settings(config, monkeypatch):
  before = prepare.prepared_dir(config)
  monkeypatch.setattr(builder, 'VERSION', tfds.core.Version('1.0.1'))
  assert prepare.prepared_dir(config).parent != before.parent


def test_several_processes_write_the_same_bytes_and_start_no_jax(config, monkeypatch):
  config.data.workers = 1
  folder = prepare.prepare(config)
  expected = {name: (folder / name).read_bytes() for name in files_below(folder)}
  assert sum('array_record' in name for name in expected) == PATIENTS
  shutil.rmtree(folder)
  config.data.workers = 2
  monkeypatch.setenv('JAX_PLATFORMS', 'none')  # whoever starts a backend now fails
  assert prepare.prepare(config) == folder
  assert {name: (folder / name).read_bytes() for name in files_below(folder)} == expected


def test_ctrl_c_with_several_processes_leaves_no_data_set(config, monkeypatch):
  updates = []

  def update():
    updates.append(1)
    if len(updates) == 3:
      raise KeyboardInterrupt

  def progress(*arguments):
    return contextlib.nullcontext(types.SimpleNamespace(update=update))

  config.data.workers = 2
  monkeypatch.setattr(prepare.workers.logbook, 'progress', progress)
  with pytest.raises(KeyboardInterrupt):
    prepare.prepare(config)
  assert files_below(config.data.data_dir) == []
  assert not prepare.prepared_dir(config).exists()


class _Disk:
  """A writer of ArrayRecord files on a disk that takes a few records, then none."""

  def __init__(self, fault):
    self.fault, self.left = fault, 20

  def write(self, record):
    self.left -= 1
    if self.left < 0:
      raise self.fault

  def close(self):
    pass


@pytest.mark.parametrize(
  ('workers', 'fault'),
  [
    (1, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'x')),
    (2, RuntimeError(f'write() failed: {os.strerror(errno.ENOSPC)}; writing x; at byte 65536')),
  ],
)
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(
  config, monkeypatch, capsys, tmp_path, fault, workers
):
  from array_record.python import array_record_module

  disk = _Disk(fault)
  arguments = ['--config=configs/phantom.py', f'--config.data.data_dir={config.data.data_dir}']
  arguments += [f'--config.data.raw_dir={config.data.raw_dir}', f'--config.data.workers={workers}']
  arguments += ['--stage=prepare', f'--workdir={tmp_path / "run"}']
  monkeypatch.chdir(PROJECT)
  with monkeypatch.context() as patched:
    patched.setattr(array_record_module, 'ArrayRecordWriter', lambda *arguments: disk)
    assert main.main(arguments) == 2
  errors = [line for line in capsys.readouterr().err.splitlines() if 'error' in line]
  assert len(errors) == 1
  assert 'tfds: cannot be written (no space left on device); make space there' in errors[0]
  assert files_below(config.data.data_dir) == []
  assert main.main(arguments) == 0


@pytest.mark.parametrize('code', [errno.EROFS, errno.EACCES])
def test_a_folder_that_must_not_be_written_is_one_line(config, monkeypatch, code):
  make = os.mkdir

  def refuse(path, *arguments, **more):
    if config.data.data_dir in str(path):
      raise OSError(code, os.strerror(code), str(path))
    make(path, *arguments, **more)

  monkeypatch.setattr(os, 'mkdir', refuse)
  with pytest.raises(InputError, match=r'tfds: cannot be written .* --config\.data\.data_dir'):
    prepare.prepare(config)
  assert not Path(config.data.data_dir).exists()
