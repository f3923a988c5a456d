"""Scores as people read them."""

from dataclasses import replace

import pytest

from thrifty_jax.run_files import Case, Evaluated, Figures, Floor, Overlap, Spread
from thrifty_jax.scores import tables


def spread(mean):
  return Spread(mean, 0.02, (mean, 1.1 * mean))


def figures(dsc, *, missed=0, invented=0):
  """Made-up figures of one class, or of the mean over classes."""
  hd95, most, assd, nsd, ravd = map(spread, (6.25, 9.0, 1.5, 0.5, 3.4))
  return Figures(spread(dsc), hd95, most, assd, nsd, ravd, missed, invented, pooled_2d_dsc=dsc)


SUMMARY = Evaluated(
  protocol='volume', split='test', nsd_tolerance_mm=2.0, held_out=True, data='', note='',
  folds=5, fold=0, model='thrifty', flips=(), patients=4, patient_names={}, slices={}, cases=(),
  parameters=1, largest_component=(), mean=figures(0.75),
  classes={'grey': figures(0.8, missed=2), 'white': figures(0.7, invented=1)},
  floor_dsc=0.5, floors={
    'mean_mask': Floor(Overlap(spread(0.5), 0.5),
                       {name: Overlap(spread(0.4), 0.4) for name in ('grey', 'white')}, '', 0.5)
  },
)  # fmt: skip


def test_fractions_are_percent_and_millimetres_stay():
  result = replace(figures(0.9), dsc=Spread(0.9012, 0.013, None))
  assert tables.format_spread(result) == '90.12 ± 1.30'
  assert tables.format_spread(result, 'hd95_mm') == '6.25 ± 0.02'
  assert tables.format_interval(result, 'nsd') == '50.00 to 55.00'


def test_a_volume_difference_has_its_sign_and_its_deviation_none():
  result = replace(figures(0.9), ravd_percent=Spread(3.4, 2.0, (-1.0, 5.5)))
  assert tables.format_spread(result, 'ravd_percent') == '+3.40 ± 2.00'
  assert tables.format_interval(result, 'ravd_percent') == '-1.00 to +5.50'


def test_what_is_not_there_is_a_dash():
  result = replace(figures(0.9), dsc=Spread(0.5, None, None), ravd_percent=None)
  assert (tables.format_spread(result), tables.format_interval(result)) == ('50.00', '')
  assert tables.format_spread(result, 'ravd_percent') == '–'
  assert tables.format_interval(result, 'ravd_percent') == ''


def test_missed_and_invented_are_told_in_words():
  words = tables.describe_flags(SUMMARY)
  assert words == 'grey was missed in 2 scans; white was invented in 1 scan'
  assert tables.describe_flags(replace(SUMMARY, classes={'grey': figures(0.8)})) == ''


@pytest.mark.parametrize(('cases', 'several'), [(4, False), (5, True)])
def test_what_is_missed_in_one_of_several_scans_of_a_patient_costs_no_whole_score(cases, several):
  text = tables.format_evaluation(
    replace(SUMMARY, cases=tuple(Case(str(i), str(i % 4)) for i in range(cases)))
  )
  assert 'in 1 scan: DSC 0, distances the diagonal of the scan' in text
  rule = '; of a patient with several scans voxels are summed and distances averaged)'
  assert (rule in text) == several


def test_the_means_are_over_others_only_if_there_are_some():
  nothing = replace(figures(0.8), dsc=None, scored=0, rightly_empty=1)
  alone = replace(SUMMARY, patients=1, mean=nothing, classes={'grey': nothing}, floors={})
  text = tables.format_evaluation(alone)
  assert '(grey is scored in 0 of 1 patient and rightly empty in 1 scan)' in text
  assert 'floors' not in text and 'floors' in tables.format_evaluation(SUMMARY)
  text = tables.format_evaluation(
    replace(SUMMARY, classes={**SUMMARY.classes, 'grey': nothing}, floors={})
  )
  assert 'grey is scored in 0 of 4 patients' in text and ': the means are over the others)' in text


def test_the_console_has_every_class_in_both_tables_and_lines_up():
  lines = tables.format_evaluation(SUMMARY).splitlines()
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
  assert ('not held out' in tables.format_evaluation(replace(SUMMARY, held_out=held_out))) == word


def test_a_single_class_needs_no_mean_and_a_single_patient_no_interval():
  dsc = Spread(0.8, None, None)
  alone = replace(figures(0.8), dsc=dsc)
  floor = replace(SUMMARY.floors['mean_mask'], classes={'organ': Overlap(dsc, 0.8)})
  text = tables.format_evaluation(
    replace(SUMMARY, patients=1, mean=alone, classes={'organ': alone}, floors={'mean_mask': floor})
  )
  assert text.startswith('1 test patient,') and '\n  mean ' not in text
  assert '  80.00   ' in text and '–' in text


def test_distances_in_pixels_are_called_so():
  text = tables.format_evaluation(replace(SUMMARY, unit='pixels'))
  assert 'HD95, pixels' in text and 'NSD at 2 pixels, %' in text
  assert ' mm' not in text and 'scan' not in text and 'training pictures' in text
  assert 'HD95, mm' in tables.format_evaluation(SUMMARY)
