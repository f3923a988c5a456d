"""The standings of a comparison against sums by hand, over one fold and over two."""

import csv
import dataclasses
import os

import numpy as np
import pytest
from scipy import stats

from thrifty_jax import config as configs
from thrifty_jax import files, records
from thrifty_jax.errors import InputError
from thrifty_jax.run_files import Compared, Evaluated, Figures, Result, Spread, Timed, Trial
from thrifty_jax.scores import standings, tables
from thrifty_jax.training import compare

SCORES = {
  'thrifty': [0.90, 0.80, 0.70, 0.85, 0.75, 0.95],
  'unet': [0.91, 0.78, 0.66, 0.80, 0.74, 0.90],
}


METRICS = ('dsc', 'hd95_mm', 'max_distance_mm', 'assd_mm', 'nsd', 'ravd_percent', 'missed',
           'invented')  # fmt: skip


def write_fold(workdir, fold, *of_seeds, parameters=1000, rate=0.002, timed=None):
  """A fold's comparison as compare.compare leaves it, two classes a patient.

  `of_seeds` are the scores of the patients, by network, with each seed.
  """
  results = []
  trained = [(name, seed) for name in of_seeds[0] for seed in range(len(of_seeds))]
  for name, seed in trained:
    values = of_seeds[seed][name]
    folder = workdir / 'compare' / name / f'run_{seed}'
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
      folds=3, fold=fold, model='thrifty', flips=(), patients=len(values), patient_names={},
      slices={}, cases=(), parameters=1, largest_component=(), mean=figures,
      classes={'a': figures, 'b': figures}, floor_dsc=0.5, floors={},
    )  # fmt: skip
    records.write(folder / 'evaluate' / 'summary.json', summary)
    results.append(
      Result(
        name, name.title(), 'searched', parameters=parameters, macs=2e9, image=(8, 8, 1),
        epochs=4 + seed, steps=40, best_epoch=3, validation_dsc=0.8, seconds=60.0,
        learning_rate=rate, trials=(),
        folder=f'compare/{name}/run_{seed}', seed=seed, timed=timed,
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


def test_a_network_that_was_trained_anew_since_is_not_compared_with_the_others(tmp_path):
  folds = [write_fold(tmp_path / name, fold, SCORES) for fold, name in enumerate('ab')]
  path = folds[1] / 'compare' / 'results.json'
  first, *others = records.read(path, tuple[Result, ...])
  compared = dataclasses.replace(first, weights_sha256=('one',))
  records.write(path, [compared, *others])
  scores = folds[1] / first.folder / 'evaluate' / 'summary.json'
  summary = records.read(scores, Evaluated)
  records.write(scores, dataclasses.replace(summary, weights_sha256=('one',)))
  standings.write(tmp_path, folds)
  records.write(scores, dataclasses.replace(summary, weights_sha256=('longer',)))
  with pytest.raises(standings.TrainedAnew) as caught:
    standings.write(tmp_path, folds)
  assert 'thrifty/run_0: Thrifty was trained anew since it was compared' in str(caught.value)
  remedy = f'; remove {folds[1] / "compare"} and run --stage=compare'
  assert str(caught.value).endswith(remedy)


def test_a_run_that_an_older_version_scored_is_compared(tmp_path, monkeypatch):
  write_fold(tmp_path, 0, SCORES)
  path = tmp_path / 'compare' / 'results.json'
  first, *others = records.read(path, tuple[Result, ...])
  place, config = tmp_path / first.folder, configs.default()
  files.write_json(place / 'retrain' / 'summary.json', {})
  os.utime(place / 'retrain' / 'summary.json', (0, 0))
  files.write_json(place / 'model' / 'checksums.json', {'sha256': {'weights.safetensors': 'one'}})
  monkeypatch.setattr(compare, '_try_rates', lambda *_: [Trial(0.002, 0.8, first.folder)])
  monkeypatch.setattr(compare, '_train_seeds', lambda *_: [(config, place, first)])
  contender = compare.Contender('thrifty', 'Thrifty', 'searched', {})
  scores = place / 'evaluate' / 'summary.json'
  summary = dataclasses.replace(records.read(scores, Evaluated), weights_sha256=('one',))

  def score(*_):
    records.write(scores, summary)
    files.write_json(place / 'model' / 'scores.json', {})

  monkeypatch.setattr(compare.evaluate, 'evaluate', score)
  for before in ((), ('one',), ('one',)):  # scored by an older version, then by this one
    (found,) = compare._train_and_score(contender, config, tmp_path, None)
    assert found.weights_sha256 == before
    records.write(path, [found, *others])
    standings.write(tmp_path, [tmp_path])
    os.utime(place / 'retrain' / 'summary.json')


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


OTHERS = {  # the scores with another seed
  name: [value - 0.03 * (place % 2) for place, value in enumerate(values)]
  for name, values in {**SCORES, 'unet': SCORES['unet'][::-1]}.items()
}


def test_of_several_seeds_a_patient_has_the_mean_and_the_means_have_a_deviation(tmp_path):
  write_fold(tmp_path, 0, SCORES, OTHERS)
  summary = standings.write(tmp_path, [tmp_path])
  first, second = summary.rivals
  of_seeds = [[np.array(scores[name]) for scores in (SCORES, OTHERS)] for name in SCORES]
  ours, theirs = (np.mean(values, axis=0) for values in of_seeds)
  for rival, patients, seeds in zip((first, second), (ours, theirs), of_seeds, strict=True):
    assert rival.mean.dsc and rival.mean.dsc.std == pytest.approx(patients.std(ddof=1))
    assert rival.mean.dsc_mean == pytest.approx(patients.mean())
    assert rival.seeds_dsc == pytest.approx([values.mean() for values in seeds])
  assert second.difference == pytest.approx((theirs - ours).mean())
  assert second.p_value == pytest.approx(stats.wilcoxon(theirs - ours).pvalue)
  assert summary.patients == 6 and second.epochs == 4.5
  assert second.mean.pooled_2d_dsc == pytest.approx((0.91 + OTHERS['unet'][0]) / 2)
  with (tmp_path / 'compare' / 'scores.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 2 * 2 * 6 * 2 and {row['seed'] for row in rows} == {'0', '1'}
  assert records.read(tmp_path / 'compare' / 'summary.json', Compared) == summary
  lines = tables.format_comparison(summary).splitlines()
  deviation = 100 * np.std([values.mean() for values in of_seeds[1]], ddof=1)
  assert '2 seeds' in lines[1] and f'{100 * theirs.mean():.2f} ± {deviation:.2f}' in lines[3]


def test_several_seeds_of_several_folds_are_one_set_of_patients(tmp_path):
  folds = [
    write_fold(tmp_path / 'a', 0, SCORES, OTHERS),
    write_fold(tmp_path / 'b', 1, OTHERS, OTHERS),
  ]
  summary = standings.write(tmp_path, folds)
  ours = summary.rivals[0]
  means = [np.mean(scores['thrifty']) for scores in (SCORES, OTHERS)]
  assert summary.patients == 12 and summary.folds == (0, 1)
  assert ours.seeds_dsc == pytest.approx([np.mean(means), means[1]])
  assert ours.mean.dsc_mean == pytest.approx(np.mean([np.mean(means), means[1]]))
  assert ours.learning_rates == (0.002, 0.002)


def test_folds_with_other_numbers_of_seeds_are_refused(tmp_path):
  folds = [
    write_fold(tmp_path / 'a', 0, SCORES, OTHERS),
    write_fold(tmp_path / 'b', 1, SCORES),
  ]
  with pytest.raises(InputError, match=r'compares thrifty, unet, but .* thrifty \(2 seeds\), unet'):
    standings.write(tmp_path, folds)


def test_a_missed_organ_counts_with_every_seed_and_an_absent_one_scores_where_it_is(tmp_path):
  write_fold(tmp_path, 0, {'thrifty': [0.9, 0.8]}, {'thrifty': [0.7, 0.6]})
  path = tmp_path / 'compare' / 'thrifty' / 'run_1' / 'evaluate' / 'scores.csv'
  lines = path.read_text().splitlines()
  lines[1] = 'f0p0,a,,,,,,,1,0'  # no score, and missed
  path.write_text('\n'.join(lines))
  (ours,) = standings.write(tmp_path, [tmp_path]).rivals
  assert ours.classes['a'].dsc_mean == pytest.approx((0.95 + (0.85 + 0.65) / 2) / 2)
  assert ours.classes['a'].missed == 1 and ours.classes['a'].scored == 2


def test_a_seed_that_invents_an_organ_counts_against_one_that_leaves_it_empty(tmp_path):
  scores = {'thrifty': [0.9, 0.8], 'unet': [0.9, 0.8]}
  write_fold(tmp_path, 0, scores, scores)
  for path in tmp_path.glob('compare/*/*/evaluate/scores.csv'):
    cells = '0,9,9,9,0,inf,0,1' if 'unet/run_1' in path.as_posix() else ',,,,,,0,0'
    lines = path.read_text().splitlines()
    lines[1] = f'f0p0,a,{cells}'
    path.write_text('\n'.join(lines))
  summary = standings.write(tmp_path, [tmp_path])
  assert summary.rivals[1].difference == pytest.approx(-(1 - 1 / 2) / 2 / 2)
  assert tables.INVENTED in tables.format_comparison(summary)


def test_times_are_in_the_table_where_every_fold_has_them(tmp_path):
  timed = Timed(5.0, 0.1, 'onnxruntime', 'int8', threads=1, size=256, machine='a processor')
  folds = [
    write_fold(tmp_path / 'a', 0, SCORES, timed=timed),
    write_fold(tmp_path / 'b', 1, SCORES, timed=dataclasses.replace(timed, ms=8.0)),
  ]
  summary = standings.write(tmp_path / 'all', folds)
  assert [rival.ms for rival in summary.rivals] == [6.5, 6.5]
  lines = tables.format_comparison(summary).splitlines()
  assert lines[1].split()[:3] == ['parameters', 'GMAC', 'ms'] and ' 6.50 ' in lines[2]
  folds[1] = write_fold(tmp_path / 'c', 1, SCORES)
  summary = standings.write(tmp_path / 'all', folds)
  assert summary.rivals[0].ms is None and ' ms ' not in tables.format_comparison(summary)


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
