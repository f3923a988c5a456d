"""The verdict says what was reached and what there is to look at, each with its figure."""

import dataclasses

import fabricated
import pytest

from thrifty_jax import records
from thrifty_jax.reporting import verdict
from thrifty_jax.run_files import Evaluated, Figures, Retrained, Spread

FLOOR = 'mean training mask'


def figures(dsc: float | None) -> Figures:
  spread = None if dsc is None else Spread(dsc, 0.02, (dsc - 0.02, dsc + 0.01))
  return Figures(spread, *[None] * 5, missed=0, invented=0, pooled_2d_dsc=None)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The scores of a good run of 20 patients, and its training."""
  folder = tmp_path_factory.mktemp('run')
  fabricated.fabricate(folder, stages=('retrain', 'evaluate'))
  evaluated = records.read(folder / 'evaluate' / 'summary.json', Evaluated)
  evaluated = dataclasses.replace(
    evaluated,
    patients=20,
    mean=figures(0.9),
    classes={'grey': figures(0.92), 'white': figures(0.88)},
    floor_dsc=0.45,
  )
  return evaluated, records.read(folder / 'retrain' / 'summary.json', Retrained)


def rows(*scores: float) -> list[dict[str, str]]:
  return [{'patient': f'p{i}', 'class': 'grey', 'dsc': str(dsc)} for i, dsc in enumerate(scores)]


def test_a_good_run_has_its_figures_and_nothing_to_look_at(run):
  (only,) = verdict.judge(*run, rows=rows(0.9, 0.8), floor=FLOOR)
  assert only.mark == 'good'
  for figure in ('90.0 % (95% interval 88.0 to 91.0)', '20 test patients', '45.0 points', '45.0 %'):
    assert figure in only.text
  advised = verdict.judge(*run, floor=FLOOR, advice='Take this.')
  assert advised == (only, verdict.Sentence('good', 'Take this.'))


@pytest.mark.parametrize(
  ('mark', 'scores', 'training', 'told'),
  [
    ('look', {'floor_dsc': 0.95}, {}, ['no better than the best floor', '95.0 %', 'Do not use']),
    ('look', {'held_out': False}, {}, ['which chose the network: expect less']),
    (
      'note',
      {'patients': 4},
      {},
      ['4 test patients cannot separate', '3.0 points wide', '--folds=all'],
    ),
    ('note', {'patients': 1}, {}, ['1 test patient cannot']),
    ('note', {}, {'best_epoch': 60}, ['Epoch 60 of 60', 'longer training']),
    ('look', {}, {'best_epoch': 1}, ['Epoch 1 of 60', 'retrain.learning_rate']),
    ('look', {}, {'validation_dsc': 0.96}, ['96.0 %, 6.0 points more than test']),
    (
      'look',
      {'classes': {'grey': figures(0.95), 'white': figures(0.7)}},
      {},
      ['white is far behind: 70.0 %, 25.0 points'],
    ),
    ('look', {'classes': {'grey': figures(0.9), 'white': figures(None)}}, {}, ['white: 0 of 20']),
  ],
)
def test_what_is_to_be_looked_at_is_told_with_its_figure(run, mark, scores, training, told):
  evaluated, retrained = (
    dataclasses.replace(one, **changes)
    for one, changes in zip(run, (scores, training), strict=True)
  )
  (found,) = [s for s in verdict.judge(evaluated, retrained, floor=FLOOR) if s.mark != 'good']
  assert found.mark == mark
  for text in told:
    assert text in found.text


def test_folds_are_advised_only_where_no_list_makes_the_split(run):
  few = dataclasses.replace(run[0], patients=4)
  for listed in (False, True):
    note = verdict.judge(few, run[1], floor=FLOOR, listed=listed)[-1]
    assert note.text.startswith('4 test patients cannot') and ('--folds' in note.text) != listed


def test_patients_near_zero_are_named_once_each(run):
  low = [*rows(0.9, 0.05, 0.0), {'patient': 'p2', 'class': 'white', 'dsc': '0.01'}]
  low.append({'patient': 'p3', 'class': 'white', 'dsc': ''})  # has no score
  _, look = verdict.judge(*run, rows=low, floor=FLOOR)
  assert look.text.startswith('2 of 20 patients have a DSC below 10 % in grey, white (p1, p2)')


def test_there_are_four_sentences_at_most_first_what_to_look_at_then_advice_then_notes(run):
  evaluated, retrained = run
  bad = dataclasses.replace(
    evaluated, patients=3, classes={'grey': figures(0.95), 'white': figures(None)}
  )
  worse = dataclasses.replace(retrained, best_epoch=1, validation_dsc=0.99)
  found = verdict.judge(bad, worse, rows(0.0), floor=FLOOR, advice='Take this.')
  assert [one.mark for one in found] == ['good', 'look', 'look', 'look']
  few = dataclasses.replace(evaluated, patients=3, classes={'grey': figures(None)})
  found = verdict.judge(few, retrained, floor=FLOOR, advice='Take this.')
  assert [one.mark for one in found] == ['good', 'look', 'good', 'note']


def test_without_scores_there_is_no_verdict_and_without_a_class_one_sentence(run):
  assert verdict.judge(None, run[1]) == ()
  nothing = dataclasses.replace(run[0], mean=figures(None))
  (only,) = verdict.judge(nothing, run[1], floor=FLOOR)
  assert only.mark == 'look' and 'No class has a score' in only.text
