"""Scores of masks that any program made, by the code that scores a run (evaluate.py)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax import logbook
from thrifty_jax.errors import InputError
from thrifty_jax.run_files import Figures, MaskPair, ScoredMasks
from thrifty_jax.scans.volumes import Volume
from thrifty_jax.scores import mask_pairs, scoring, summaries
from thrifty_jax.scores.mask_pairs import Found, Meaning
from thrifty_jax.scores.scoring import CaseCounts


def score(
  found: Found, meaning: Meaning, *, nsd_tolerance: float
) -> tuple[list[CaseCounts], list[str]]:
  """Scores all pairs, one in memory at a time.

  Args:
    found: Masks and truths.
    meaning: Their classes.
    nsd_tolerance: Largest distance of surfaces that NSD counts as agreement, in mm or pixels.

  Returns:
    Counts of the pairs and a line for each that cannot be scored. After the first such line the
    others are only read, as scores without them would be those of other patients.
  """
  counts: list[CaseCounts] = []
  problems: list[str] = []
  with logbook.progress(len(found.pairs), 'evaluate') as bar:
    for pair in found.pairs:
      try:
        volume = mask_pairs.read(pair, meaning)
        if not problems:
          counts.append(_score_volume(volume, meaning, nsd_tolerance))
          bar.set_postfix(dsc=f'{scoring.mean_dsc(counts):.3f}')
      except InputError as error:
        problems.append(' '.join(str(error).split()))
      bar.update(1)
  return counts, problems


def summarise(
  found: Found, meaning: Meaning, counts: Sequence[CaseCounts], *, nsd_tolerance: float
) -> tuple[ScoredMasks, list[Mapping[str, Any]]]:
  """Returns summary.json and the rows of scores.csv, whose columns are those of a run."""
  unit = 'pixels' if found.of_pictures else 'mm'
  mean, classes = summaries.summarise(counts, meaning.classes, Figures)
  first = found.pairs[0]
  summary = ScoredMasks(
    masks=_shorten(first.mask.parent),
    truths=_shorten(first.truth.parent),
    paired=found.rule,
    nsd_tolerance_mm=nsd_tolerance,
    unit=unit,
    patients=len({pair.patient for pair in found.pairs}),
    cases=tuple(MaskPair(p.case, p.patient, p.mask.name, p.truth.name) for p in found.pairs),
    missing=tuple(path.name for path in found.missing),
    mean=mean,
    classes=classes,
  )
  return summary, list(summaries.make_rows(counts, meaning.classes, {}, unit=unit))


def _score_volume(volume: Volume, meaning: Meaning, nsd_tolerance: float) -> CaseCounts:
  """Scores the mask, the image of a volume, by the truth, its label."""
  return scoring.score_mask(
    volume.case,
    volume.patient,
    prediction=volume.image[..., 0].astype(np.uint8),
    truth=volume.truth,
    classes=len(meaning.classes),
    spacing_mm=volume.spacing_mm,
    nsd_tolerance_mm=nsd_tolerance,
  )


def _shorten(folder: Path) -> str:
  """Returns the last two names of a folder's path."""
  return '/'.join(folder.resolve().parts[-2:])
