"""Scores of several folds: those of all patients together, whatever fold they were in."""

import csv
import json

import numpy as np
import pytest

from thrifty_jax.scores import over_folds, summaries
from thrifty_jax.scores.scoring import CaseCounts

CLASSES = ('background', 'a', 'b')


def cases(names, seed):
  """Scored cases with made-up counts and distances."""
  generator = np.random.default_rng(seed)
  found = []
  for name in names:
    both = generator.integers(50, 90, 2)
    counts = np.stack([both, both + 10, both + generator.integers(1, 40, 2)], axis=1)
    distances = {
      'hd95_mm': generator.uniform(1, 9),
      'max_distance_mm': 9.0,
      'assd_mm': 1.0,
      'nsd': 0.5,
      'missed': False,
      'invented': False,
    }
    found.append(CaseCounts(name, name, counts, counts, (distances, distances)))
  return found


def write_fold(workdir, fold, scored):
  """A fold as evaluation leaves it."""
  folder = workdir / f'fold_{fold}' / 'evaluate'
  folder.mkdir(parents=True)
  rows = list(summaries.rows(scored, CLASSES, {'mean_mask': scored}))
  (folder / 'scores.csv').write_text(summaries.csv_text(rows))
  figures = summaries.summarise(scored, CLASSES)
  names = [case.case for case in scored]
  summary = dict.fromkeys(('protocol', 'nsd_tolerance_mm', 'held_out', 'data', 'note', 'flips'), 0)
  summary |= {'split': 'test', 'folds': 3, 'fold': fold, 'model': 'thrifty', **figures}
  summary |= {'parameters': 1000 + 100 * fold, 'largest_component': ['b'] * (fold == 1)}
  summary |= {'patients': len(names), 'patient_names': {'test': names}, 'slices': {'test': 7}}
  summary |= {'cases': [{'case': name, 'patient': name} for name in names]}
  summary |= {'floors': {'mean_mask': figures | {'training_dsc': 0.5 + 0.1 * fold}}}
  (folder / 'summary.json').write_text(json.dumps(summary))
  return folder.parent


@pytest.fixture
def folds(tmp_path):
  return [write_fold(tmp_path, 0, cases('xyz', 0)), write_fold(tmp_path, 1, cases('ab', 1))]


def test_the_figures_are_those_of_all_patients_at_once(tmp_path, folds):
  summary = over_folds.write(tmp_path, folds)
  together = summaries.summarise([*cases('xyz', 0), *cases('ab', 1)], CLASSES)
  for field in ('dsc_mean', 'dsc_std', 'dsc_ci95', 'hd95_mm_mean', 'nsd_mean', 'missed'):
    assert summary[field] == pytest.approx(together[field], abs=1e-6)
    assert summary['classes']['b'][field] == pytest.approx(
      together['classes']['b'][field], abs=1e-6
    )
  floor = summary['floors']['mean_mask']
  assert floor['dsc_mean'] == pytest.approx(together['dsc_mean'], abs=1e-6)
  assert floor['training_dsc'] == pytest.approx(0.55) and summary['floor_dsc'] == floor['dsc_mean']


def test_the_summary_tells_folds_apart_where_they_differ(tmp_path, folds):
  summary = over_folds.write(tmp_path, folds)
  assert summary['fold'] == [0, 1] and summary['folds'] == 3
  assert [one['parameters'] for one in summary['of_folds']] == [1000, 1100]
  assert summary['parameters'] == 1050 and summary['largest_component'] == ['b']
  assert summary['patients'] == 5 and summary['patient_names'] == {'test': [*'abxyz']}
  assert summary['slices'] == {'test': 14}
  assert summary['cases'][3] == {'case': 'a', 'patient': 'a', 'run': 'fold_1'}
  pooled = [json.loads((f / 'evaluate' / 'summary.json').read_text()) for f in folds]
  assert summary['pooled_2d_dsc'] == pytest.approx(np.mean([p['pooled_2d_dsc'] for p in pooled]))


def test_scores_say_of_which_fold_they_are(tmp_path, folds):
  over_folds.write(tmp_path, folds)
  with (tmp_path / 'evaluate' / 'scores.csv').open() as file:
    rows = list(csv.DictReader(file))
  found = sorted({(row['fold'], row['patient']) for row in rows})
  assert found == [('0', 'x'), ('0', 'y'), ('0', 'z'), ('1', 'a'), ('1', 'b')]
  assert len(rows) == 10
