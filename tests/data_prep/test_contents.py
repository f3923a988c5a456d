"""What scans hold decides which data set they are; unchanged files are read once."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any, cast

import pytest

from data_prep import contents, phantom
from data_prep.contents import Contents
from thrifty_jax.scans import pictures, volumes


@pytest.fixture
def raw(tmp_path):
  phantom.write_promise12(tmp_path / 'raw', patients=3, seed=0)
  return tmp_path / 'raw'


@pytest.fixture
def hashed(monkeypatch):
  """The names of the files that are read."""
  names, hash_of = [], contents._hash_of

  def noted(path):
    names.append(path.name)
    return hash_of(path)

  monkeypatch.setattr(contents, '_hash_of', noted)
  return names


def digest(raw, kept=None, *, keep=False):
  scans = Contents(kept or raw.parent / 'none.json')
  found = scans.digest(phantom.find_cases(raw))
  if keep:
    scans.keep()
  return found


def mask(raw):
  return raw / 'TrainingData' / 'Case01_segmentation.zraw'


def test_times_and_places_do_not_count(raw, tmp_path):
  before = digest(raw)
  for path in raw.rglob('*'):
    os.utime(path, (0, 0))
  assert digest(raw) == before
  shutil.move(raw, tmp_path / 'elsewhere')
  assert digest(tmp_path / 'elsewhere') == before


def test_a_byte_a_name_and_a_patient_count(raw):
  cases = phantom.find_cases(raw)
  before = digest(raw)
  content = mask(raw).read_bytes()
  mask(raw).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  changed = digest(raw)
  mask(raw).write_bytes(content)
  scans = Contents(Path('none.json'))
  renamed = [scans.digest([case.__class__('x', case.patient, case.image)]) for case in cases[:1]]
  other = [scans.digest([case.__class__('x', 'y', case.image)]) for case in cases[:1]]
  masks = [dataclasses.replace(cases[0], segments=names) for names in (('a', 'b'), ('b', 'a'))]
  assert len({scans.digest([one]) for one in (cases[0], *masks)}) == 3
  alone = [scans.digest(cases[:1]), scans.digest(cases[:2])]
  assert len({before, changed, *renamed, *other, *alone}) == 6 and digest(raw) == before


def test_files_that_did_not_change_are_not_read_again(raw, tmp_path, hashed):
  before = digest(raw, tmp_path / 'kept.json', keep=True)
  assert len(hashed) == 12 and 'Case01.zraw' in hashed  # a header and its voxels, twice
  hashed.clear()
  assert digest(raw, tmp_path / 'kept.json', keep=True) == before and hashed == []
  os.utime(mask(raw))  # touched
  assert digest(raw, tmp_path / 'kept.json') == before
  assert {name[:6] for name in hashed} == {'Case01'}


def test_a_corrected_mask_of_the_same_size_and_date_is_noticed(raw, tmp_path):
  before = digest(raw, tmp_path / 'kept.json', keep=True)
  status = mask(raw).stat()
  mask(raw).write_bytes(mask(raw).read_bytes()[::-1])
  os.utime(mask(raw), ns=(status.st_atime_ns, status.st_mtime_ns))
  assert digest(raw, tmp_path / 'kept.json') != before


def test_a_file_that_cannot_be_read_is_left_to_the_check(raw):
  before = digest(raw)
  mask(raw).unlink()
  mask(raw).mkdir()
  assert digest(raw) != before


def test_a_pipe_beside_a_scan_is_left_to_the_check(tmp_path):
  os.mkfifo(tmp_path / 'a.nii')
  case = volumes.Case('a', 'a', (tmp_path / 'a.nii',))
  assert Contents(tmp_path / 'contents.json').digest([case])


def test_hashes_that_cannot_be_kept_are_no_error(raw, tmp_path):
  (tmp_path / 'file').write_text('')
  assert digest(raw, tmp_path / 'file' / 'kept.json', keep=True) == digest(raw)


def test_which_scans_are_checked_is_kept(raw, tmp_path):
  kept = tmp_path / 'kept.json'
  digest(raw, kept, keep=True)
  scans = Contents(kept)
  assert scans.checked == ''
  scans.checked = 'all'
  scans.keep()
  assert Contents(kept).checked == 'all'


@pytest.mark.parametrize(
  'content', [b'{', b'[]', b'{"hashes": 3}', b'{"hashes": {"a": 1}, "classes": {}}', b'\xff']
)
def test_a_damaged_file_of_hashes_is_made_anew_with_a_line(raw, tmp_path, capsys, content):
  kept = tmp_path / 'kept.json'
  kept.write_bytes(content)
  assert digest(raw, kept, keep=True) == digest(raw)
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 1 and str(kept) in lines[0] and 'read anew' in lines[0]
  assert digest(raw, kept) == digest(raw) and capsys.readouterr().out == ''


def test_what_is_kept_does_not_grow_with_every_correction(raw, tmp_path):
  cases, sizes = phantom.find_cases(raw), []
  for _ in range(3):
    os.utime(mask(raw))
    scans = Contents(tmp_path / 'kept.json')
    scans.classes_of(cases, lambda unknown: [[1] for _ in unknown])
    scans.digest(cases)
    scans.keep()
    sizes.append((tmp_path / 'kept.json').stat().st_size)
  assert len({*sizes}) == 1


MEANINGS: dict[str, dict[str, Any]] = {
  'a volume': {},
  'a picture of numbers': {'legend': pictures.Legend((), 2)},
  'a picture of colours': {'legend': pictures.Legend(('#000000', '#ff0000'), 2)},
  'DICOM': {'segments': ('liver',)},
  'BIDS': {'values': (0, 3)},
  'an ignored label': {'ignore': 3},
}


@pytest.mark.parametrize('name', MEANINGS)
def test_masks_that_did_not_change_are_not_read_again_for_their_classes(raw, tmp_path, name):
  cases, unread = phantom.find_cases(raw), cast(Any, None)
  meant = {
    kind: [dataclasses.replace(case, **more) for case in cases] for kind, more in MEANINGS.items()
  }
  for read in (lambda unknown: [[1] for _ in unknown], unread):
    scans = Contents(tmp_path / 'kept.json')
    assert scans.classes_of(meant[name], read) == [[1]] * 3
    scans.digest(meant[name])
    scans.keep()
  for kind in MEANINGS.keys() - {name}:
    scans = Contents(tmp_path / 'kept.json')
    assert scans.classes_of(meant[kind], lambda unknown: [[2] for _ in unknown]) == [[2]] * 3


NAMED = {  # header, what it says of the voxels, and the file of the last of them
  'in a folder below': ('a.mhd', 'voxels/a_data.raw', 'voxels/a_data.raw'),
  'of another name': ('a.mhd', 'other.raw', 'other.raw'),
  'letters that stand for others in patterns': ('a[1].mhd', 'a[1].raw', 'a[1].raw'),
  'a list': ('a.mhd', 'LIST\none.raw\ntwo.raw', 'two.raw'),
  'a pattern': ('a.mhd', 'slice%02d.raw 7 8 1', 'slice08.raw'),
  'behind a header that is an .mha': ('a.mha', 'other.raw', 'other.raw'),
}


@pytest.mark.parametrize('name', NAMED)
def test_voxels_count_wherever_a_metaimage_has_them(tmp_path, name):
  header, place, last = NAMED[name]
  several = place.startswith('LIST') or '%' in place
  (tmp_path / last).parent.mkdir(exist_ok=True)
  for voxels in ('one.raw', 'slice07.raw', last):
    (tmp_path / voxels).write_bytes(bytes(12 if several else 24))
  text = 'ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_UCHAR\n'
  text += f'ElementSpacing = 1 1 1\nElementDataFile = {place}\n'
  (tmp_path / header).write_text(text)
  assert not volumes.read_metaimage(tmp_path / header)[0].any()
  cases = [volumes.Case('a', 'a', (tmp_path / header,))]
  found = [Contents(tmp_path / 'none.json').digest(cases)]
  (tmp_path / last).write_bytes(bytes([1] * (12 if several else 24)))
  found.append(Contents(tmp_path / 'none.json').digest(cases))
  (tmp_path / last).unlink()  # left to the check
  found.append(Contents(tmp_path / 'none.json').digest(cases))
  (tmp_path / header).write_text('no header')
  found.append(Contents(tmp_path / 'none.json').digest(cases))
  assert len({*found}) == 4
