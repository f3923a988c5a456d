"""Scores as people read them."""

from typing import Any

import pytest

from thrifty_jax.scores import tables


def figures(dsc, **changes):
  """Made-up figures of one class, or of the mean over classes."""
  result: dict[str, Any] = {'missed': 0, 'invented': 0, 'pooled_2d_dsc': dsc}
  for name, mean in (('dsc', dsc), ('nsd', 0.5), ('hd95_mm', 6.25), ('assd_mm', 1.5)):
    result |= {f'{name}_mean': mean, f'{name}_std': 0.02, f'{name}_ci95': [mean, 1.1 * mean]}
  return result | changes


SUMMARY = figures(0.75) | {
  'classes': {'grey': figures(0.8, missed=2), 'white': figures(0.7, invented=1)},
  'floors': {'mean_mask': figures(0.5) | {'classes': {k: figures(0.4) for k in ('grey', 'white')}}},
  'model': 'thrifty', 'split': 'test', 'patients': 4, 'protocol': 'volume', 'held_out': True,
  'nsd_tolerance_mm': 2.0, 'largest_component': [], 'note': '',
}  # fmt: skip


def test_fractions_are_percent_and_millimetres_stay():
  result = figures(0.9012, dsc_std=0.013)
  assert tables.spread(result) == '90.12 ± 1.30'
  assert tables.spread(result, 'hd95_mm') == '6.25 ± 0.02'
  assert tables.interval(result, 'nsd') == '50.00 to 55.00'


def test_a_volume_difference_has_its_sign_and_its_deviation_none():
  result = {'ravd_percent_mean': 3.4, 'ravd_percent_std': 2.0, 'ravd_percent_ci95': [-1.0, 5.5]}
  assert tables.spread(result, 'ravd_percent') == '+3.40 ± 2.00'
  assert tables.interval(result, 'ravd_percent') == '-1.00 to +5.50'


def test_what_is_not_there_is_a_dash():
  result = {'dsc_mean': 0.5, 'dsc_std': None, 'dsc_ci95': None}
  assert (tables.spread(result), tables.interval(result)) == ('50.00', '')
  nothing = {'ravd_percent_mean': None, 'ravd_percent_std': None, 'ravd_percent_ci95': None}
  assert tables.spread(nothing, 'ravd_percent') == '–'


def test_missed_and_invented_are_told_in_words():
  assert tables.flagged(SUMMARY) == 'grey was missed in 2 scans; white was invented in 1 scan'
  calm = {'classes': {'grey': figures(0.8)}}
  assert tables.flagged(calm) == ''


def test_the_console_has_every_class_in_both_tables_and_lines_up():
  lines = tables.evaluation(SUMMARY).splitlines()
  assert lines[0].startswith('4 test patients') and 'not held out' not in lines[0]
  assert [line.split()[0] for line in lines[1:6]] == ['DSC,', 'grey', 'white', 'mean', 'pooled']
  assert ' '.join(lines[2].split()) == 'grey 80.00 ± 2.00 80.00 to 88.00 40.00 ± 2.00'
  assert [line.split()[0] for line in lines[7:11]] == ['thrifty', 'grey', 'white', 'mean']
  assert 'NSD at 2 mm, %' in lines[7] and '6.25 ± 0.02' in lines[8]
  start = lines[1].index('mean mask')
  assert all(line[start - 1] == ' ' != line[start] for line in lines[1:6])
  assert 'grey was missed in 2 scans' in lines[-1]
  assert max(map(len, lines[:11])) < 80


@pytest.mark.parametrize(('held_out', 'word'), [(True, False), (False, True)])
def test_scores_that_are_not_held_out_say_so(held_out, word):
  assert ('not held out' in tables.evaluation(SUMMARY | {'held_out': held_out})) == word


def test_a_single_class_needs_no_mean_and_a_single_patient_no_interval():
  alone = figures(0.8, dsc_std=None, dsc_ci95=None)
  floor = alone | {'classes': {'organ': alone}}
  text = tables.evaluation(
    SUMMARY | alone | {'patients': 1, 'classes': {'organ': alone}, 'floors': {'mean_mask': floor}}
  )
  assert text.startswith('1 test patient,') and '\n  mean ' not in text
  assert '  80.00   ' in text and '–' in text
