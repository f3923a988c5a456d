"""The standings of a comparison against sums by hand, over one fold and over two."""

import csv

import numpy as np
import pytest
from scipy import stats

from thrifty_jax import records
from thrifty_jax.errors import InputError
from thrifty_jax.run_files import Compared, Evaluated, Figures, Result, Spread
from thrifty_jax.scores import standings, tables

SCORES = {
  'thrifty': [0.90, 0.80, 0.70, 0.85, 0.75, 0.95],
  'unet': [0.91, 0.78, 0.66, 0.80, 0.74, 0.90],
}


METRICS = ('dsc', 'hd95_mm', 'max_distance_mm', 'assd_mm', 'nsd', 'ravd_percent', 'missed',
           'invented')  # fmt: skip


def write_fold(workdir, fold, scores, *, parameters=1000, rate=0.002):
  """A fold's comparison as compare.compare leaves it, two classes a patient."""
  results = []
  for name, values in scores.items():
    folder = workdir / 'compare' / name / 'run'
    (folder / 'evaluate').mkdir(parents=True)
    with (folder / 'evaluate' / 'scores.csv').open('w', newline='') as file:
      writer = csv.writer(file)
      writer.writerow(['patient', 'class', *METRICS])
      for patient, value in enumerate(values):
        for organ, dsc in (('a', value + 0.05), ('b', value - 0.05)):
          writer.writerow([f'f{fold}p{patient}', organ, dsc, *[10 * dsc] * 5, 0, 0])
    figures = Figures(*[Spread(0.5, None, None)] * 6, missed=0, invented=0, pooled_2d_dsc=values[0])
    summary = Evaluated(
      protocol='volume', split='test', nsd_tolerance_mm=2.0, held_out=True, data='d', note='',
      folds=3, fold=fold, model='thrifty', flips=(), patients=1, patient_names={}, slices={},
      cases=(), parameters=1, largest_component=(), mean=figures,
      classes={'a': figures, 'b': figures}, floor_dsc=0.5, floors={},
    )  # fmt: skip
    records.write(folder / 'evaluate' / 'summary.json', summary)
    results.append(
      Result(
        name, name.title(), 'searched', parameters=parameters, macs=2e9, image=(8, 8, 1), epochs=4,
        steps=40, best_epoch=3, validation_dsc=0.8, seconds=60.0, learning_rate=rate, trials=(),
        folder=f'compare/{name}/run',
      )
    )  # fmt: skip
  records.write(workdir / 'compare' / 'results.json', results)
  return workdir


def test_a_rival_has_the_mean_of_its_patients_and_a_paired_test_against_the_first(tmp_path):
  write_fold(tmp_path, 0, SCORES)
  summary = standings.write(tmp_path, [tmp_path])
  first, second = summary.rivals
  ours, theirs = np.array(SCORES['thrifty']), np.array(SCORES['unet'])
  assert first.mean.dsc_mean == pytest.approx(ours.mean())
  assert second.mean.dsc and second.mean.hd95_mm
  assert second.mean.dsc.std == pytest.approx(theirs.std(ddof=1))
  assert second.mean.hd95_mm.mean == pytest.approx(10 * theirs.mean())
  assert second.classes['a'].dsc_mean == pytest.approx(theirs.mean() + 0.05)
  assert second.mean.dsc.ci95
  low, high = second.mean.dsc.ci95
  assert low < theirs.mean() < high
  assert first.difference is None and first.p_value is None
  assert second.difference == pytest.approx((theirs - ours).mean())
  assert second.p_value == pytest.approx(stats.wilcoxon(theirs - ours).pvalue)
  assert summary.patients == 6 and summary.reference == 'thrifty'
  assert records.read(tmp_path / 'compare' / 'summary.json', Compared) == summary


def test_folds_are_one_set_of_patients(tmp_path):
  folds = [
    write_fold(tmp_path / 'a', 0, SCORES, parameters=1000, rate=0.002),
    write_fold(tmp_path / 'b', 2, {k: v[::-1] for k, v in SCORES.items()}, parameters=2000),
  ]
  summary = standings.write(tmp_path, folds)
  assert summary.folds == (0, 2) and summary.patients == 12
  ours = summary.rivals[0]
  assert ours.parameters == 1500 and ours.learning_rates == (0.002, 0.002)
  assert ours.mean.dsc_mean == pytest.approx(np.mean(SCORES['thrifty']))
  assert ours.mean.pooled_2d_dsc == pytest.approx((0.90 + 0.95) / 2)
  with (tmp_path / 'compare' / 'scores.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 2 * 12 * 2
  assert {(row['rival'], row['fold']) for row in rows} == {
    ('thrifty', '0'),
    ('thrifty', '2'),
    ('unet', '0'),
    ('unet', '2'),
  }


def test_few_patients_have_no_test(tmp_path):
  write_fold(tmp_path, 0, {name: values[:5] for name, values in SCORES.items()})
  assert standings.write(tmp_path, [tmp_path]).rivals[1].p_value is None


def test_folds_that_compare_others_are_refused(tmp_path):
  folds = [
    write_fold(tmp_path / 'a', 0, SCORES),
    write_fold(tmp_path / 'b', 1, {'thrifty': SCORES['thrifty']}),
  ]
  with pytest.raises(InputError, match='compares thrifty, but .* thrifty, unet'):
    standings.write(tmp_path, folds)


def test_the_text_has_a_line_for_every_rival(tmp_path):
  write_fold(tmp_path, 0, SCORES)
  lines = tables.format_comparison(standings.write(tmp_path, [tmp_path])).splitlines()
  assert lines[0].startswith('6 test patients of fold 0, native grid')
  assert lines[2].split()[:4] == ['Thrifty', '1,000', '2.00', '82.50']
  assert '-2.67' in lines[3] and 'not held out' not in lines[0]
