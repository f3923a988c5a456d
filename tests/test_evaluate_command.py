"""The command that scores a folder of masks: its files, its table, and what it refuses."""

import csv
import errno
import html.parser
import json
import os
import re

import nibabel
import numpy as np
import pytest
from scipy.spatial import distance

from thrifty_jax import evaluate, records
from thrifty_jax.run_files import ScoredMasks
from thrifty_jax.scores import tables

AFFINE = np.diag((1.5, 1.0, 2.0, 1.0))
CLASSES = "--classes=('background','liver','spleen','nobody')"


def save(path, voxels):
  path.parent.mkdir(parents=True, exist_ok=True)
  nibabel.save(nibabel.Nifti1Image(voxels.astype(np.uint8), AFFINE), path)


def make_truth(number):
  """A liver and, but for the last, a spleen, [W, H, D]."""
  truth = np.zeros((12, 11, 10), np.uint8)
  truth[2:6, 2 : 6 + number, 2:7] = 1
  if number < 2:
    truth[8:11, 3:7, 3:6] = 2
  return truth


@pytest.fixture
def place(tmp_path):
  """Three cases: nearly right, with a spleen missed, with a spleen invented."""
  masks = [np.roll(make_truth(number), 1, axis=number) for number in range(3)]
  masks[1][masks[1] == 2] = 0
  masks[2][8:11, 3:7, 3:6] = 2
  for number, mask in enumerate(masks):
    save(tmp_path / 'truths' / f'case{number}.nii.gz', make_truth(number))
    save(tmp_path / 'masks' / f'case{number}_pred.nii.gz', mask)
  return tmp_path


def run(place, *options):
  folders = [f'--{name}={place / name}' for name in ('masks', 'truths')]
  return evaluate.main([*folders, f'--output={place / "scores"}', *options])


def rows_of(place):
  with (place / 'scores' / 'scores.csv').open() as file:
    return {(row['patient'], row['class']): row for row in csv.DictReader(file)}


def read_both(place, number):
  return [
    np.asarray(nibabel.Nifti1Image.from_filename(place / name).dataobj)
    for name in (f'masks/case{number}_pred.nii.gz', f'truths/case{number}.nii.gz')
  ]


def slow_surface(mask):
  """Places in mm of the voxels of a mask with a neighbour outside of it."""
  places = {tuple(place) for place in np.argwhere(mask)}
  steps = (*np.eye(3, dtype=int), *-np.eye(3, dtype=int))
  rim = [one for one in places if any(tuple(np.add(one, step)) not in places for step in steps)]
  return np.array(rim) * (1.5, 1.0, 2.0)


def test_the_scores_are_those_of_a_slow_computation(place):
  assert run(place, CLASSES, '--nsd_tolerance=1.2') == 0
  rows = rows_of(place)
  assert len(rows) == 9
  for number in range(3):
    mask, truth = read_both(place, number)
    for k, name in enumerate(('liver', 'spleen', 'nobody'), start=1):
      row, p, t = rows[f'case{number}', name], mask == k, truth == k
      if not (p | t).any():
        assert row['dsc'] == row['hd95_mm'] == row['nsd'] == '' and row['rightly_empty'] == '1'
        continue
      assert float(row['dsc']) == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()), abs=1e-6)
      assert [int(row[f'{one}_voxels']) for one in ('predicted', 'truth')] == [p.sum(), t.sum()]
      assert [row['missed'], row['invented']] == [f'{not p.any():d}', f'{not t.any():d}']
      if p.any() and t.any():
        between = distance.cdist(slow_surface(p), slow_surface(t))
        forth, back = between.min(1), between.min(0)
        both = np.concatenate([forth, back])
        expected = max(np.percentile(forth, 95), np.percentile(back, 95))
        assert float(row['hd95_mm']) == pytest.approx(expected, abs=1e-6)
        assert float(row['assd_mm']) == pytest.approx(both.mean(), abs=1e-6)
        assert float(row['nsd']) == pytest.approx((both <= 1.2).mean(), abs=1e-6)


def test_the_summary_and_the_table_have_dashes_where_nobody_has_a_class(place, capsys):
  assert run(place, CLASSES) == 0
  found = records.read(place / 'scores' / 'summary.json', ScoredMasks)
  assert found.patients == 3 and found.unit == 'mm' and found.nsd_tolerance_mm == 2
  assert found.paired == 'by names, * with *_pred' and not found.missing
  assert found.cases[0].mask == 'case0_pred.nii.gz' and found.cases[0].truth == 'case0.nii.gz'
  assert found.classes['nobody'].dsc is None and found.classes['nobody'].scored == 0
  assert (found.mean.missed, found.mean.invented) == (1, 1)
  dsc = [float(row['dsc']) for (_, name), row in rows_of(place).items() if name == 'liver']
  assert found.classes['liver'].dsc_mean == pytest.approx(np.mean(dsc), abs=1e-6)
  assert found.mean.pooled_2d_dsc is None
  out, error = capsys.readouterr()
  lines = {line.split()[0]: line for line in out.splitlines() if line.split()}
  assert f'{100 * np.mean(dsc):.2f} ± ' in out and 'evaluate: 3 of 3' in error
  assert re.search(r'nobody +– +– +–', lines['nobody'])
  assert 'spleen was missed in 1 scan; spleen was invented in 1 scan' in out


def test_the_page_has_the_scores_the_dots_and_the_worst_case_and_needs_no_other_file(place):
  assert run(place, CLASSES) == 0
  page = (place / 'scores' / 'report.html').read_text(encoding='utf-8')
  addresses: list[str] = []

  class Reader(html.parser.HTMLParser):
    def handle_starttag(self, tag, attrs):
      addresses.extend(value or '' for name, value in attrs if name in ('src', 'href'))

  Reader().feed(page)
  assert addresses and all(address.startswith(('data:', '#')) for address in addresses)
  for text in (
    'Best: scan case0',
    'Worst: scan case2',
    'these masks',
    'nobody',
    'by names, * with *_pred',
  ):
    assert text in page
  assert 'not a medical device' in page and str(place) not in page
  frames = [json.loads(text) for text in re.findall(r'id="frames-\d">(.*?)</script>', page)]
  assert len(frames) == 3 and frames[0]['total'] == 10


def test_a_full_disk_is_one_line_and_leaves_the_scores_that_were_there(place, capsys, monkeypatch):
  assert run(place, CLASSES) == 0
  before = {path.name: path.read_bytes() for path in (place / 'scores').iterdir()}
  save(place / 'masks' / 'case0_pred.nii.gz', make_truth(1))
  capsys.readouterr()
  room, synchronise = iter(range(2)), os.fsync  # for two files of three

  def fill_up(descriptor):
    if next(room, None) is None:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    synchronise(descriptor)

  monkeypatch.setattr(os, 'fsync', fill_up)
  assert run(place, CLASSES, '--overwrite') == 2
  errors = [line for line in capsys.readouterr().err.splitlines() if 'error' in line]
  assert len(errors) == 1 and 'scores: cannot be written (no space left on device)' in errors[0]
  assert {path.name: path.read_bytes() for path in (place / 'scores').iterdir()} == before


def test_where_nobody_has_any_class_there_is_nothing_to_score(tmp_path, capsys):
  for name in ('masks', 'truths'):
    save(tmp_path / name / 'a.nii.gz', np.zeros((3, 4, 5)))
  assert run(tmp_path, CLASSES) == 0
  assert re.search(r'mean +– +–\n', capsys.readouterr().out)
  page = (tmp_path / 'scores' / 'report.html').read_text(encoding='utf-8')
  assert 'there is nothing to score' in page and 'Best' not in page
  assert {row['dsc'] for row in rows_of(tmp_path).values()} == {''}


def test_scans_of_one_patient_are_scored_as_one(place):
  (place / 'p.csv').write_text('case,patient\ncase0,one\ncase1,one\ncase2,two\n')
  assert run(place, CLASSES, f'--patients={place / "p.csv"}') == 0
  row = rows_of(place)['one', 'liver']
  assert row['cases'] == 'case0 case1'
  (p, t), (q, u) = (read_both(place, number) for number in (0, 1))
  common = ((p == 1) & (t == 1)).sum() + ((q == 1) & (u == 1)).sum()
  size = sum((one == 1).sum() for one in (p, t, q, u))
  assert float(row['dsc']) == pytest.approx(2 * common / size, abs=1e-6)


def test_a_missing_mask_is_an_error_unless_it_is_allowed_and_then_it_is_named(place, capsys):
  save(place / 'truths' / 'case3.nii.gz', make_truth(0))
  assert run(place, CLASSES) == 2
  assert '1 of 4 truths have no mask there (case3.nii.gz)' in capsys.readouterr().err
  assert not (place / 'scores').exists()
  assert run(place, CLASSES, '--allow_missing') == 0
  out = capsys.readouterr().out
  assert 'no mask   1, not scored: case3.nii.gz' in out and '1 truth has no mask' in out
  found = records.read(place / 'scores' / 'summary.json', ScoredMasks)
  assert found.missing == ('case3.nii.gz',) and found.patients == 3
  page = (place / 'scores' / 'report.html').read_text(encoding='utf-8')
  assert '1 truth has no mask and is not counted: case3.nii.gz' in page


def test_all_that_cannot_be_scored_is_named_and_nothing_is_written(place, capsys):
  save(place / 'masks' / 'case0_pred.nii.gz', make_truth(0)[:5])
  save(place / 'masks' / 'case2_pred.nii.gz', 7 * make_truth(2))
  assert run(place, CLASSES) == 2
  errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
  assert len(errors) == 2 and 'case0_pred.nii.gz: has' in errors[0]
  assert 'case2_pred.nii.gz: holds class 7; expected 0 to 3' in errors[1]
  assert not (place / 'scores').exists()


def test_scores_that_are_there_stay_unless_they_may_be_replaced(place, capsys):
  assert run(place, CLASSES) == 0
  before = {path: path.read_bytes() for path in (place / 'scores').iterdir()}
  save(place / 'masks' / 'case1_pred.nii.gz', make_truth(1))
  assert run(place, CLASSES) == 2
  assert 'has scores.csv, summary.json, report.html already' in capsys.readouterr().err
  assert before == {path: path.read_bytes() for path in (place / 'scores').iterdir()}
  assert run(place, CLASSES, '--overwrite') == 0
  assert all(path.read_bytes() != content for path, content in before.items())


BAD_OPTIONS = {
  '--classes=liver': r"--classes=liver: expected two or more different names, as in \('backg",
  "--classes=('background',)": 'expected two or more different names',
  "--classes=('a','a')": 'expected two or more different names',
  '--colours=red': '--colours=red: expected',
  '--masks_hold_numbers': '--masks_hold_numbers is for truths in --colours',
  '--nsd_tolerance=-1': 'nsd_tolerance',
  '--nsd_tolerance=nan': '--nsd_tolerance=nan: expected a number from 0',
  '--output=truths/case0.nii.gz': 'case0.nii.gz: is no folder; name another',
  '--output=/proc/x': '/proc/x: /.* cannot be written',
  '--masks=': '--masks is missing, for example',
  '--patients=none.csv': '--patients=none.csv: there is no such file',
}


@pytest.mark.parametrize('name', evaluate.OUTPUTS)
def test_a_folder_in_place_of_an_output_is_one_line_before_any_work(place, capsys, name):
  (place / 'scores' / name).mkdir(parents=True)
  assert run(place, CLASSES, '--overwrite') == 2
  out, error = capsys.readouterr()
  assert out == '' and error.count('\n') == 1 and f'{name} there is a folder; move it' in error
  assert [path.name for path in (place / 'scores').iterdir()] == [name]


def test_one_mask_is_one(tmp_path, capsys):
  for name in ('masks', 'truths'):
    save(tmp_path / name / 'a.nii.gz', make_truth(0))
  assert run(tmp_path) == 0
  assert re.search(r'done +1 mask in', capsys.readouterr().out)


@pytest.mark.parametrize(('option', 'message'), BAD_OPTIONS.items())
def test_a_mistake_in_the_command_is_one_line_before_any_work(
  place, monkeypatch, capsys, option, message
):
  monkeypatch.chdir(place)
  assert run(place, option) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and error.count('\n') == 1 and re.search(message, error)
  assert not (place / 'scores').exists()


def test_help_lists_the_options(capsys):
  assert evaluate.main(['--help']) == 0
  text = capsys.readouterr().out
  for part in ('or: python -m thrifty_jax.evaluate', '--allow_missing', 'Exit status'):
    assert part in text
  assert max(map(len, text.splitlines())) <= 100


@pytest.fixture
def rivals(tmp_path):
  """Six cases, of which the masks miss more and more, and other masks that are right."""
  for number in range(6):
    truth = np.zeros((10, 10, 4), np.uint8)
    truth[2:8, 1:9] = 1
    mask = truth.copy()
    mask[2 : 3 + number % 5, 1 : 2 + number] = 0
    save(tmp_path / 'truths' / f'case{number}.nii.gz', truth)
    save(tmp_path / 'masks' / f'case{number}.nii.gz', mask)
    save(tmp_path / 'right' / f'case{number}_seg.nii.gz', truth)
  return tmp_path


def test_other_masks_are_scored_too_and_both_are_compared_by_patient(rivals, capsys):
  assert run(rivals, f'--against={rivals / "right"}') == 0
  found = records.read(rivals / 'scores' / 'summary.json', ScoredMasks)
  dsc = [float(row['dsc']) for row in rows_of(rivals).values()]
  assert found.against and found.against.difference == pytest.approx(np.mean(dsc) - 1, abs=1e-6)
  assert found.against.p_value == pytest.approx(2 / 64)
  assert found.against.classes['class_1'].dsc_mean == 1
  text = (rivals / 'scores' / 'scores_against.csv').read_text()
  assert text.count(',1.000000,') == 2 * 6  # DSC and NSD
  assert f'difference {100 * (np.mean(dsc) - 1):.2f}, p = 0.031 by' in capsys.readouterr().out
  page = (rivals / 'scores' / 'report.html').read_text(encoding='utf-8')
  assert '>these masks<' in page and '>other masks<' in page and 'p = 0.031' in page
  assert run(rivals, '--overwrite') == 0
  assert not (rivals / 'scores' / 'scores_against.csv').exists()  # it was of another comparison


def test_other_masks_that_invent_an_organ_in_the_healthy_do_not_win_by_it(rivals, capsys):
  for number in (6, 7):
    for folder, organ, ending in (('truths', 0, ''), ('masks', 0, ''), ('right', 1, '_seg')):
      voxels = np.zeros((10, 10, 4), np.uint8)
      voxels[2:8, 1:9] = organ
      save(rivals / folder / f'case{number}{ending}.nii.gz', voxels)
  assert run(rivals, f'--against={rivals / "right"}') == 0
  found = records.read(rivals / 'scores' / 'summary.json', ScoredMasks)
  dsc = [float(row['dsc']) for row in rows_of(rivals).values() if row['dsc']]
  assert found.against and found.against.difference == pytest.approx(
    (sum(dsc) - 6 + 2) / 8, abs=1e-6
  )
  page = (rivals / 'scores' / 'report.html').read_text(encoding='utf-8')
  assert tables.INVENTED in page and tables.INVENTED in capsys.readouterr().out


def test_other_masks_must_be_of_the_same_truths(rivals, capsys):
  (rivals / 'right' / 'case3_seg.nii.gz').unlink()
  assert run(rivals, f'--against={rivals / "right"}', '--allow_missing') == 2
  error = capsys.readouterr().err
  assert re.search(r'right: has no mask for case3, but .*masks has; expected masks for the', error)
  assert run(rivals, f'--against={rivals / "none"}') == 2
  assert '--against=' in capsys.readouterr().err


def test_regions_are_scored_over_their_labels_and_ignored_voxels_nowhere(place, capsys):
  for number in range(3):
    truth = make_truth(number)
    truth[:, 4] = 7
    save(place / 'truths' / f'case{number}.nii.gz', truth)
  classes = ["--classes=('background','abdomen','spleen')", '--regions=1,2 2', '--ignore=7']
  assert run(place, *classes) == 0
  out = capsys.readouterr().out
  assert 'background, abdomen (1, 2), spleen (2)' in out and 'label 7 of the truths' in out
  rows = rows_of(place)
  for number in range(3):
    mask, truth = read_both(place, number)
    mask = np.where(truth == 7, 0, mask)
    for name, own in (('abdomen', (1, 2)), ('spleen', (2,))):
      p, t, row = np.isin(mask, own), np.isin(truth, own), rows[f'case{number}', name]
      assert [int(row[f'{one}_voxels']) for one in ('predicted', 'truth')] == [p.sum(), t.sum()]
      assert float(row['dsc']) == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()), abs=1e-6)


def test_regions_and_the_ignored_label_are_those_of_dataset_json(place, capsys):
  described = {
    'channel_names': {'0': 'CT'},
    'labels': {'background': 0, 'abdomen': [1, 2], 'spleen': 2, 'ignore': 3},
    'regions_class_order': [1, 2],
    'file_ending': '.nii.gz',
  }
  (place / 'dataset.json').write_text(json.dumps(described))
  truths = place / 'labelsTr'
  (place / 'truths').rename(truths)
  command = [f'--masks={place / "masks"}', f'--truths={truths}', f'--output={place / "scores"}']
  assert evaluate.main(command) == 0
  out = capsys.readouterr().out
  assert 'abdomen (1, 2), spleen (2)' in out and 'label 3 of the truths' in out
  assert {name for _, name in rows_of(place)} == {'abdomen', 'spleen'}
  # Names alone would make other classes of the same numbers.
  classes = "--classes=('background','abdomen','spleen')"
  assert evaluate.main([*command, classes, '--overwrite']) == 2
  assert 'has regions, background, abdomen (1, 2), spleen (2)' in capsys.readouterr().err
  assert evaluate.main([*command, classes, '--regions=1,2 2', '--overwrite']) == 0
  assert 'label 3 of the truths' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (['--ignore=2'], '--ignore=2: is the label of a class'),
    (['--ignore=256'], '--ignore=256: expected a label, at most 255'),
    (['--ignore=-1'], '--ignore=-1'),
    (['--regions=1,2'], '1 regions for 3 classes'),
    (['--regions=1,2 2 3 4'], '4 regions for 3 classes'),
    (['--regions=2 1,2 3'], 'spleen would be written over liver'),
    (['--regions=1;2'], 'expected labels of each of --classes'),
  ],
)
def test_regions_and_ignored_labels_that_cannot_be_are_refused(place, capsys, options, message):
  assert run(place, CLASSES, *options) == 2
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert message in line and not (place / 'scores').exists()


def test_regions_without_classes_are_refused(place, capsys):
  assert run(place, '--regions=1,2 2') == 2
  assert 'expected labels of each of --classes' in capsys.readouterr().err
