"""CHAOS, MR, T2-SPIR. See chaos_mr.py."""

from pathlib import Path

from data_prep import chaos_mr
from thrifty_jax.scans.volumes import Case

ABOUT = chaos_mr.about('Axial slices of abdominal T2 MR, fat suppressed, four organs outlined.')
read_case = chaos_mr.read_case


def find_cases(raw_dir: Path) -> list[Case]:
  """Returns the labelled scans; each is a patient of its own."""
  return chaos_mr.find_cases(raw_dir, 'T2SPIR', ('',))
