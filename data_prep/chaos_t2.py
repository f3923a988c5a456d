"""CHAOS, MR, T2-SPIR. See chaos_mr.py."""

import functools

from data_prep import chaos_mr

ABOUT = chaos_mr.describe('Axial slices of abdominal T2 MR, fat suppressed, four organs outlined.')
find_cases = functools.partial(chaos_mr.find_cases, sequence='T2SPIR', channels=('',))
read_case = chaos_mr.read_case
