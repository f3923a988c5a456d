"""Scores of several folds: those of all patients together, whatever fold they were in."""

import csv
import dataclasses
import re

import numpy as np
import pytest

from thrifty_jax import records
from thrifty_jax.errors import InputError
from thrifty_jax.run_files import Agreement, Case, Evaluated, Figures, Floor, Overlap
from thrifty_jax.scores import metrics, over_folds, summaries, tables
from thrifty_jax.scores.scoring import CaseCounts

CLASSES = ('background', 'a', 'b')


def cases(names, seed):
  """Scored cases with made-up counts and distances."""
  generator = np.random.default_rng(seed)
  found = []
  for name in names:
    both = generator.integers(50, 90, 2)
    counts = np.stack([both, both + 10, both + generator.integers(1, 40, 2)], axis=1)
    distances = metrics.VolumeScores(
      dsc=0.5, hd95_mm=generator.uniform(1, 9), max_distance_mm=9.0, assd_mm=1.0, nsd=0.5,
      ravd_percent=0.0, missed=False, invented=False,
    )  # fmt: skip
    found.append(CaseCounts(name, name, counts, counts, (distances, distances)))
  return found


def write_fold(workdir, fold, scored, floors=('mean_mask',)):
  """A fold as evaluation leaves it."""
  folder = workdir / f'fold_{fold}' / 'evaluate'
  folder.mkdir(parents=True)
  rows = list(summaries.make_rows(scored, CLASSES, dict.fromkeys(floors, scored)))
  summaries.write_rows(folder / 'scores.csv', rows)
  mean, classes = summaries.summarise(scored, CLASSES, Figures)
  overlaps = [dataclasses.replace(case, volumes=()) for case in scored]
  floor = Floor(*summaries.summarise(overlaps, CLASSES, Overlap), 'slices', 0.5 + 0.1 * fold)
  names = tuple(case.case for case in scored)
  summary = Evaluated(
    protocol='volume', split='test', nsd_tolerance_mm=2.0, held_out=True, data='d', note='',
    folds=3, fold=fold, model='thrifty', flips=(), patients=len(names),
    patient_names={'test': names}, slices={'test': 7},
    cases=tuple(Case(name, name) for name in names), parameters=1000 + 100 * fold,
    largest_component=('b',) * (fold == 1), mean=mean, classes=classes, floor_dsc=0.5,
    floors=dict.fromkeys(floors, floor),
    weights_sha256=(f'weights of fold {fold}',),
    having={
      'train': {'a': 9, 'b': 9}, 'validation': {'a': 3, 'b': 0},
      'test': {'a': len(names), 'b': fold},
    },
    agreements=tuple(
      Agreement(name, name, 'test', 0.1 if name == names[0] else 0.9, 'mirrored', 0.9)
      for name in names
    ),
  )  # fmt: skip
  records.write(folder / 'summary.json', summary)
  return folder.parent


def healthy(name):
  """A case in which neither truth nor prediction has the class b."""
  (case,) = cases(name, 2)
  counts = np.where([[True], [False]], case.native, 0)
  values = dict.fromkeys((*metrics.DISTANCES, 'dsc', 'nsd', 'ravd_percent'), np.nan)
  empty = metrics.VolumeScores(**values, missed=False, invented=False, rightly_empty=True)
  return CaseCounts(name, name, counts, counts, (case.volumes[0], empty))


@pytest.fixture
def folds(tmp_path):
  return [write_fold(tmp_path, 0, cases('xyz', 0)), write_fold(tmp_path, 1, cases('ab', 1))]


def test_the_figures_are_those_of_all_patients_at_once(tmp_path, folds):
  summary = over_folds.write(tmp_path, folds)
  everyone = [*cases('xyz', 0), *cases('ab', 1)]
  together, classes = summaries.summarise(everyone, CLASSES, Figures)
  for found, expected in ((summary.mean, together), (summary.classes['b'], classes['b'])):
    assert found.missed == expected.missed
    for metric in ('dsc', 'hd95_mm', 'nsd'):
      one, other = (dataclasses.astuple(getattr(each, metric)) for each in (found, expected))
      assert [*one[:2], *one[2]] == pytest.approx([*other[:2], *other[2]], abs=1e-6)
  floor = summary.floors['mean_mask']
  assert floor.mean.dsc_mean == pytest.approx(together.dsc_mean, abs=1e-6)
  assert floor.training_dsc == pytest.approx(0.55)
  assert summary.floor_dsc == floor.mean.dsc_mean


@pytest.mark.parametrize(
  ('of_folds', 'shared'),
  [
    ((('mean_mask', 'intensity_thresholds'), ('mean_mask',)), ['mean_mask']),
    ((('mean_mask',), ('mean_mask', 'intensity_thresholds')), ['mean_mask']),
    ((('mean_mask',), ('intensity_thresholds',)), []),
  ],
)
def test_floors_are_those_that_all_folds_have(tmp_path, of_folds, shared):
  folds = [
    write_fold(tmp_path, fold, cases('xyab'[2 * fold :][:2], fold), floors)
    for fold, floors in enumerate(of_folds)
  ]
  summary = over_folds.write(tmp_path, folds)
  assert [*summary.floors] == shared and (summary.floor_dsc is None) == (not shared)
  with (tmp_path / 'evaluate' / 'scores.csv').open() as file:
    rows = [*csv.DictReader(file)]
  columns = [name for name in rows[0] if name.endswith(('mask_dsc', 'thresholds_dsc'))]
  assert len(rows) == 8 and columns == [f'{name}_dsc' for name in shared]
  assert tables.format_evaluation(summary)


def test_the_summary_tells_folds_apart_where_they_differ(tmp_path, folds):
  summary = over_folds.write(tmp_path, folds)
  assert summary.fold == (0, 1) and summary.folds == 3
  assert [one.parameters for one in summary.of_folds] == [1000, 1100]
  assert summary.parameters == 1050 and summary.largest_component == ('b',)
  assert summary.patients == 5 and summary.patient_names == {'test': (*'abxyz',)}
  assert summary.slices == {'test': 14}
  assert summary.weights_sha256 == ('weights of fold 0', 'weights of fold 1')
  assert summary.cases[3] == Case('a', 'a', run='fold_1')
  pooled = [one.pooled_2d_dsc for one in summary.of_folds]
  assert summary.mean.pooled_2d_dsc == pytest.approx(np.mean(np.asarray(pooled, float)))
  assert records.read(tmp_path / 'evaluate' / 'summary.json', Evaluated) == summary


def test_the_largest_piece_counts_in_so_many_folds(tmp_path, folds):
  text = tables.format_evaluation(over_folds.write(tmp_path, folds))
  assert '(only the largest piece of b in 1 of 2 folds counts: ' in text


def test_scores_of_several_folds_are_no_fold(tmp_path, folds):
  over_folds.write(tmp_path, folds)
  with pytest.raises(InputError, match='summary.json: has the scores of several folds'):
    over_folds.write(tmp_path, [tmp_path])


def test_scores_say_of_which_fold_they_are(tmp_path, folds):
  over_folds.write(tmp_path, folds)
  with (tmp_path / 'evaluate' / 'scores.csv').open() as file:
    rows = list(csv.DictReader(file))
  found = sorted({(row['fold'], row['patient']) for row in rows})
  assert found == [('0', 'x'), ('0', 'y'), ('0', 'z'), ('1', 'a'), ('1', 'b')]
  assert len(rows) == 10


def test_who_has_a_class_is_summed_and_masks_to_look_at_are_those_no_network_saw(tmp_path, folds):
  summary = over_folds.write(tmp_path, folds)
  assert summary.having == {'test': {'a': 5, 'b': 1}}
  assert [one.case for one in summary.suspects] == ['x', 'a']
  assert len(summary.agreements) == 5


@pytest.mark.parametrize('unknown', [0, 1])
def test_folds_of_an_older_version_do_not_know_who_has_a_class(tmp_path, folds, unknown):
  path = folds[unknown] / 'evaluate' / 'summary.json'
  records.write(path, dataclasses.replace(records.read(path, Evaluated), having={}))
  assert over_folds.write(tmp_path, folds).having == {}


def test_scans_with_nothing_to_find_are_counted_over_folds_and_over_seeds(tmp_path):
  folds = [
    write_fold(tmp_path, fold, [*cases(names, fold), *map(healthy, well)])
    for fold, (names, well) in enumerate((('xy', 'z'), ('a', 'bc')))
  ]
  summary = over_folds.write(tmp_path, folds)
  found = summary.classes['b']
  assert (found.scored, found.rightly_empty, summary.mean.rightly_empty) == (3, 3, 3)
  assert summary.classes['a'].rightly_empty == 0
  scored = [over_folds.read_scored(run / 'evaluate') for run in folds]
  assert over_folds.join_seeds([scored, scored]).classes['b'].rightly_empty == 6


def alter(path, change):
  """Rewrites scores.csv with other rows."""
  with path.open() as file:
    rows = list(csv.DictReader(file))
  summaries.write_rows(path, change(rows))


def without(column):
  return lambda rows: [{k: v for k, v in row.items() if k != column} for row in rows]


def test_a_table_of_an_older_version_counts_no_scans_with_nothing_to_find(tmp_path, folds):
  alter(folds[1] / 'evaluate' / 'scores.csv', without('rightly_empty'))
  assert over_folds.write(tmp_path, folds).mean.rightly_empty == 0


DAMAGED = {  # what is done to the rows of x, y, z, two classes each, and the error
  'a word': (
    lambda rows: [{**rows[0], 'hd95_mm': 'x1'}, *rows[1:]],
    "line 2 has 'x1' under hd95_mm; expected a number, or nothing where there is none",
  ),
  'no count': (
    lambda rows: [rows[0], {**rows[1], 'missed': ''}, *rows[2:]],
    "line 3 has '' under missed; expected a number of scans",
  ),
  'a floor that is none': (
    lambda rows: [{**rows[0], 'mean_mask_dsc': '7'}, *rows[1:]],
    "line 2 has '7' under 'mean_mask_dsc'",
  ),
  'no floor': (without('mean_mask_dsc'), 'has the columns'),
  'a row is gone': (lambda rows: rows[:-1], 'the classes a of patient z; expected a, b, in this'),
  'another order': (
    lambda rows: [*rows[:2], rows[3], rows[2], *rows[4:]],
    'the classes b, a of patient y; expected a, b, in this',
  ),
  'a row twice': (lambda rows: [*rows, rows[0]], 'the classes a, b, a of patient x'),
  'a patient is gone': (lambda rows: rows[2:], 'has 2 patients; expected 3'),
}


@pytest.mark.parametrize('name', DAMAGED)
def test_a_damaged_table_is_one_line(tmp_path, folds, name):
  change, message = DAMAGED[name]
  path = folds[0] / 'evaluate' / 'scores.csv'
  alter(path, change)
  with pytest.raises(InputError, match=re.escape(message)) as caught:
    over_folds.write(tmp_path, folds)
  assert str(caught.value).startswith(f'{path}: ') and '\n' not in str(caught.value)
  if 'columns' not in message and 'mean_mask' not in message:
    assert str(caught.value).endswith('remove its folder and run --stage=evaluate.')


def test_infinite_and_negative_differences_of_volumes_are_no_damage(tmp_path, folds):
  def change(rows):
    return [
      {**row, 'ravd_percent': text} for row, text in zip(rows, ['inf', '-3.5'] * 3, strict=True)
    ]

  alter(folds[0] / 'evaluate' / 'scores.csv', change)
  summary = over_folds.write(tmp_path, folds)
  assert summary.classes['a'].ravd_percent and summary.patients == 5
