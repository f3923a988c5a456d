"""Scores of several folds: those of all patients together, whatever fold they were in."""

import csv
import dataclasses

import numpy as np
import pytest

from thrifty_jax import records
from thrifty_jax.errors import InputError
from thrifty_jax.run_files import Agreement, Case, Evaluated, Figures, Floor, Overlap
from thrifty_jax.scores import metrics, over_folds, summaries
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


def write_fold(workdir, fold, scored):
  """A fold as evaluation leaves it."""
  folder = workdir / f'fold_{fold}' / 'evaluate'
  folder.mkdir(parents=True)
  rows = list(summaries.make_rows(scored, CLASSES, {'mean_mask': scored}))
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
    floors={'mean_mask': floor},
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


def test_the_summary_tells_folds_apart_where_they_differ(tmp_path, folds):
  summary = over_folds.write(tmp_path, folds)
  assert summary.fold == (0, 1) and summary.folds == 3
  assert [one.parameters for one in summary.of_folds] == [1000, 1100]
  assert summary.parameters == 1050 and summary.largest_component == ('b',)
  assert summary.patients == 5 and summary.patient_names == {'test': (*'abxyz',)}
  assert summary.slices == {'test': 14}
  assert summary.cases[3] == Case('a', 'a', run='fold_1')
  pooled = [one.pooled_2d_dsc for one in summary.of_folds]
  assert summary.mean.pooled_2d_dsc == pytest.approx(np.mean(np.asarray(pooled, float)))
  assert records.read(tmp_path / 'evaluate' / 'summary.json', Evaluated) == summary


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
