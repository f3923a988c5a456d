"""CHAOS, MR, T1-DUAL: in and out of phase, two channels on one grid. See chaos_mr.py."""

import functools

from data_prep import chaos_mr

ABOUT = chaos_mr.describe(
  'Axial slices of abdominal T1 MR, in and out of phase, four organs outlined.'
)
find_cases = functools.partial(
  chaos_mr.find_cases, sequence='T1DUAL', channels=('InPhase', 'OutPhase')
)
read_case = chaos_mr.read_case
