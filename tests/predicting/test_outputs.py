"""The files of a prediction are planned so that none replaces another, whatever the file system."""

import unicodedata

import pytest

from thrifty_jax import files
from thrifty_jax.errors import InputError
from thrifty_jax.predicting import outputs
from thrifty_jax.scans.sources import Source


def plan(folder, *names, output='masks', **wanted):
  sources = [Source(name, (folder / 'scans' / f'{name}.nii.gz',)) for name in names]
  return outputs.plan(sources, folder / 'scans', folder / output, classes=3, **wanted)


ONE_FILE = {  # scans, what else is written: file systems of macOS or Windows have one name for both
  'a capital': (('Case1', 'case1'), {}),
  'a capital in the middle': (('case', 'caSe'), {}),
  'a capital beyond ASCII': (('Über', 'über'), {}),
  'a capital in another form': (('É', unicodedata.normalize('NFD', 'é')), {}),
  'a composed letter': (('é', unicodedata.normalize('NFD', 'é')), {}),
  'shares of a class': (('a', 'A_probability_2'), {'probabilities': True}),
  'the same name': (('a', 'a_probability_1'), {'probabilities': True}),
}


@pytest.mark.parametrize('name', ONE_FILE)
def test_two_scans_never_have_one_file(tmp_path, name):
  names, wanted = ONE_FILE[name]
  with pytest.raises(InputError, match='would be written for two scans, as .* capital letters'):
    plan(tmp_path, *names, **wanted)


@pytest.mark.parametrize(
  ('names', 'wanted'),
  [
    (('Case1', 'Case2'), {}),
    (('a', 'A_probability_2'), {}),
    (('a', 'a_probability_3'), {'probabilities': True}),
    (('a', 'a_overlay'), {}),
    (('i', 'ı'), {}),
  ],
)
def test_other_names_are_told_apart(tmp_path, names, wanted):
  planned = plan(tmp_path, *names, **wanted)
  assert len({*planned.paths}) == len(planned.paths) >= 2


@pytest.mark.parametrize('mask', ['a', 'A', 'ä', 'Ä', unicodedata.normalize('NFD', 'Ä')])
def test_a_mask_never_has_the_file_of_a_scan(tmp_path, mask):
  scan = tmp_path / ('a' if mask in 'aA' else 'ä')
  scan = scan.with_suffix('.nii.gz')
  with pytest.raises(InputError, match='is a scan of the input; name another output'):
    outputs.plan([Source('x', (scan,))], scan, tmp_path / f'{mask}.nii.gz', classes=2)


AMONG_SCANS = {  # input, scans in it, output
  'a folder of scans': ('scans', ['scans/a.nii', 'scans/b.nii'], 'scans'),
  'the folder of a single scan': ('scans/a.nii', ['scans/a.nii'], 'scans'),
  'a series': ('scans/a', ['scans/a'], 'scans/a'),
  'a file in a series': ('scans/a', ['scans/a'], 'scans/a/mask.nii.gz'),
  'a folder of series': ('scans', ['scans/a', 'scans/b'], 'scans'),
  'one of several series': ('scans', ['scans/a', 'scans/b'], 'scans/b'),
}


@pytest.mark.parametrize('name', AMONG_SCANS)
def test_masks_never_lie_where_they_would_be_taken_for_scans(tmp_path, name):
  place, paths, output = AMONG_SCANS[name]
  for path in (tmp_path / path for path in paths):
    path.parent.mkdir(exist_ok=True)
    path.touch() if path.suffix else path.mkdir()
  found = [Source(path.stem, (path,)) for path in (tmp_path / path for path in paths)]
  with pytest.raises(InputError, match='lies in a folder of the input'):
    outputs.plan(found, tmp_path / place, tmp_path / output, classes=2)
  assert outputs.plan(found, tmp_path / place, tmp_path / 'scans' / 'masks', classes=2).paths
  (tmp_path / 'link').symlink_to(tmp_path / 'scans')
  with pytest.raises(InputError, match='lies in a folder of the input'):
    outputs.plan(found, tmp_path / place, tmp_path / output.replace('scans', 'link'), classes=2)


def test_a_file_may_lie_beside_its_scan(tmp_path):
  scan = tmp_path / 'a.nii.gz'
  planned = outputs.plan([Source('a', (scan,))], scan, tmp_path / 'a_mask.nii.gz', classes=2)
  assert planned.paths == [tmp_path / 'a_mask.nii.gz']


def put(folder, *names):
  folder.mkdir()
  for name in names:
    (folder / name).touch()


def list_names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_masks_of_another_model_are_removed_before_they_are_overwritten(tmp_path):
  put(tmp_path / 'masks', 'a.nii.gz', 'a_overlay.png', 'notes.txt', '.b.nii.gz')
  planned = plan(tmp_path, 'a', 'c', overlays=True)
  files.write_json(planned.about, {'models': 'one'})
  outputs.remove_other(planned, {'models': 'one'})
  assert len(list_names(tmp_path / 'masks')) == 5
  outputs.remove_other(planned, {'models': 'other'})
  assert list_names(tmp_path / 'masks') == ['.b.nii.gz', 'notes.txt']
  for path in (planned.paths[0], planned.about):
    path.write_text('not JSON')
  outputs.remove_other(planned, {'models': 'one'})
  assert list_names(tmp_path / 'masks') == ['.b.nii.gz', 'notes.txt']
  put(tmp_path / 'more', 'a.nii.gz')
  outputs.remove_other(plan(tmp_path, 'a', output='more'), {})  # nothing says of which model it is
  assert list_names(tmp_path / 'more') == ['a.nii.gz']


def test_masks_of_another_release_are_of_the_same_model(tmp_path):
  put(tmp_path / 'masks', 'a.nii.gz', 'b.nii.gz')
  planned = plan(tmp_path, 'a')
  files.write_json(planned.about, {'models': 'one', 'note': 'old', 'thrifty_jax': '0.1.0'})
  outputs.remove_other(planned, {'models': 'one', 'note': 'new', 'thrifty_jax': '0.2.0'})
  assert list_names(tmp_path / 'masks') == ['a.nii.gz', 'b.nii.gz', 'classes.json']


@pytest.mark.parametrize(
  'other', ['b.nii.gz', 'a_overlay.png', 'a_seg.dcm', 'b_rtstruct.dcm', 'statistics.csv']
)
def test_files_of_another_model_that_would_stay_are_refused(tmp_path, other):
  put(tmp_path / 'masks', 'a.nii.gz', other)
  planned = plan(tmp_path, 'a')
  files.write_json(planned.about, {'models': 'one'})
  message = f'holds 1 files of another model, or made with other options, .* example {other};'
  with pytest.raises(InputError, match=message):
    outputs.remove_other(planned, {'models': 'other'})
  assert list_names(tmp_path / 'masks') == sorted(['a.nii.gz', other, 'classes.json'])


def test_a_table_that_is_planned_anew_is_removed(tmp_path):
  put(tmp_path / 'masks', 'a.nii.gz', 'statistics.csv')
  planned = plan(tmp_path, 'a', statistics=True)
  files.write_json(planned.about, {'models': 'one'})
  outputs.remove_other(planned, {'models': 'other'})
  assert list_names(tmp_path / 'masks') == []


def test_a_single_file_of_another_model_stays_until_it_is_replaced(tmp_path):
  put(tmp_path / 'masks', 'm.nii.gz', 'b.nii.gz')
  scan = tmp_path / 'a.nii.gz'
  planned = outputs.plan([Source('a', (scan,))], scan, tmp_path / 'masks/m.nii.gz', classes=2)
  files.write_json(planned.about, {'models': 'one'})
  outputs.remove_other(planned, {'models': 'other'})
  assert list_names(tmp_path / 'masks') == ['b.nii.gz', 'm.json', 'm.nii.gz']
