"""CHAOS, MR, T1-DUAL: in and out of phase, two channels on one grid. See chaos_mr.py."""

from pathlib import Path

from data_prep import chaos_mr
from thrifty_jax.scans.volumes import Case

ABOUT = chaos_mr.about(
  'Axial slices of abdominal T1 MR, in and out of phase, four organs outlined.'
)
read_case = chaos_mr.read_case


def find_cases(raw_dir: Path) -> list[Case]:
  """Returns the labelled scans; each is a patient of its own."""
  return chaos_mr.find_cases(raw_dir, 'T1DUAL', ('InPhase', 'OutPhase'))
