"""Nothing but whole folders of plain files comes out of an archive, and nothing outside."""

import os
import shutil
import stat
import zipfile
from collections import namedtuple

import pytest

from data_prep import unpack
from thrifty_jax.errors import InputError

HOLDS = 'Case*.mhd'


def archive_of(folder, entries, name='a.zip'):
  """A ZIP file of names or ZipInfos, and contents."""
  path = folder / name
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    for entry, content in entries:
      archive.writestr(entry, content)
  return path


def special(name, kind, *, content='/etc/passwd'):
  info = zipfile.ZipInfo(name)
  info.create_system = 3  # Unix: the kind stands in the upper half
  info.external_attr = (kind | 0o777) << 16
  return info, content


def left(folder):
  return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


@pytest.mark.parametrize('above', ['', 'training_data/', 'a/TrainingData/'])
def test_the_folder_with_the_cases_is_found_wherever_it_is(tmp_path, above):
  entries = [(f'{above}Case00.mhd', 'x'), (f'{above}Case00.raw', 'y' * 999)]
  entries.append((f'__MACOSX/{above}Case00.mhd', 'not this one'))
  path = archive_of(tmp_path, entries)
  unpack.unpack(path, tmp_path / 'TrainingData', holds=HOLDS)
  assert left(tmp_path) == ['TrainingData', *left_in('TrainingData'), 'a.zip']
  assert (tmp_path / 'TrainingData' / 'Case00.raw').read_text() == 'y' * 999


def left_in(folder):
  return [f'{folder}/Case00.mhd', f'{folder}/Case00.raw']


@pytest.mark.parametrize(
  ('entry', 'message'),
  [
    (('../Case00.mhd', 'x'), 'leads out of it'),
    (('a/../../Case00.mhd', 'x'), 'leads out of it'),
    (('/tmp/Case00.mhd', 'x'), 'leads out of it'),
    (('C:/Case00.mhd', 'x'), 'leads out of it'),
    (('a\\..\\..\\Case00.mhd', 'x'), 'leads out of it'),
    (special('a/link', stat.S_IFLNK), 'a link, a device or encrypted'),
    (special('a/link/', stat.S_IFLNK), 'a link, a device or encrypted'),
    (special('a/pipe', stat.S_IFIFO), 'a link, a device or encrypted'),
    (('a/Case00.mhd/inside', 'x'), 'a file and a folder of one name'),
    (('b/Case01.mhd', 'x'), 'has 2 folders'),
    (('a/zeros', bytes(1 << 20)), 'would unpack to 1 MB, 50 times its size'),
  ],
)
def test_one_bad_entry_refuses_all_and_leaves_nothing(tmp_path, entry, message):
  path = archive_of(tmp_path, [('a/Case00.mhd', 'x'), entry])
  (tmp_path / 'raw').mkdir()
  with pytest.raises(InputError, match=message):
    unpack.unpack(path, tmp_path / 'raw' / 'TrainingData', holds=HOLDS)
  assert left(tmp_path) == ['a.zip', 'raw']


@pytest.mark.parametrize('kept', [0, 10, 150, -30])
def test_a_truncated_archive_is_refused(tmp_path, kept):
  path = archive_of(tmp_path, [('a/Case00.mhd', os.urandom(200))])
  path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(InputError, match='cannot be unpacked'):
    unpack.unpack(path, tmp_path / 'TrainingData', holds=HOLDS)
  assert left(tmp_path) == ['a.zip']


def test_a_changed_byte_inside_is_noticed(tmp_path):
  path = archive_of(tmp_path, [('a/Case00.mhd', os.urandom(200))])
  content = bytearray(path.read_bytes())
  content[100] ^= 1
  path.write_bytes(content)
  with pytest.raises(InputError, match='cannot be unpacked'):
    unpack.unpack(path, tmp_path / 'TrainingData', holds=HOLDS)
  assert left(tmp_path) == ['a.zip']


def test_an_archive_without_the_folder_says_what_was_looked_for(tmp_path):
  path = archive_of(tmp_path, [('a/b/c/Case00.mhd', 'x'), ('readme', 'x')])
  with pytest.raises(InputError, match=r'has 0 folders with Case\*.mhd in it'):
    unpack.unpack(path, tmp_path / 'TrainingData', holds=HOLDS)
  assert left(tmp_path) == ['a.zip']


@pytest.mark.parametrize('fault', [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_nothing_and_so_does_a_killed_process_in_the_end(
  tmp_path, monkeypatch, fault
):
  path = archive_of(tmp_path, [('Case00.mhd', 'x'), ('Case00.raw', 'y')])
  leftover = tmp_path / '.TrainingData.unpacking' / 'Case07.mhd'
  leftover.parent.mkdir()
  leftover.write_text('of a process that was killed')
  opened = zipfile.ZipFile.open

  def interrupted(self, entry, *arguments):
    if entry.filename == 'Case00.raw':
      raise fault('in the middle')
    return opened(self, entry, *arguments)

  with monkeypatch.context() as patched:
    patched.setattr(zipfile.ZipFile, 'open', interrupted)
    with pytest.raises(fault, match='in the middle'):
      unpack.unpack(path, tmp_path / 'TrainingData', holds=HOLDS)
  assert left(tmp_path) == ['a.zip']
  unpack.unpack(path, tmp_path / 'TrainingData', holds=HOLDS)
  assert left(tmp_path / 'TrainingData') == ['Case00.mhd', 'Case00.raw']


def test_too_little_space_is_told_before_anything_is_written(tmp_path, monkeypatch):
  path = archive_of(tmp_path, [('Case00.mhd', bytes(range(256)) * 40)])
  usage = namedtuple('usage', 'total used free')
  monkeypatch.setattr(shutil, 'disk_usage', lambda folder: usage(10**6, 10**6, 0))
  with pytest.raises(InputError, match=r'what a.zip holds takes 0 MB, but only 0 MB are free'):
    unpack.unpack(path, tmp_path / 'TrainingData', holds=HOLDS)
  assert left(tmp_path) == ['a.zip']
