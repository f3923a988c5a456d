"""CHAOS, MR, T2-SPIR. See chaos_mr.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_prep import builder, chaos_mr
from thrifty_jax.scans.volumes import Case, Volume

NOTE = ''


def find_cases(raw_dir: Path) -> list[Case]:
  """The labelled scans; each is a patient of its own."""
  return chaos_mr.find_cases(raw_dir, 'T2SPIR', ('',))


def read_case(case: Case) -> Volume:
  """Reads a scan and its masks."""
  return chaos_mr.read_case(case)


class ChaosT2(tfds.core.ShardBasedBuilder, skip_registration=True):
  """Slices of liver, kidneys and spleen."""

  VERSION = builder.VERSION
  name = 'chaos_t2'

  def _info(self) -> tfds.core.DatasetInfo:
    return builder.info(
      self,
      description='Axial slices of abdominal T2 MR, fat suppressed, four organs outlined.',
      homepage='https://chaos.grand-challenge.org',
      citation='Kavur et al. 2021, Medical Image Analysis 69, doi:10.1016/j.media.2020.101950',
    )

  def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[..., Any]]]:
    return builder.shards(self, read_case)


BUILDER = ChaosT2
