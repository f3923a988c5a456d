"""Scores of masks that any program made, by the code that scores a run (evaluate.py)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax import logbook
from thrifty_jax.errors import InputError
from thrifty_jax.run_files import Against, Figures, MaskPair, ScoredMasks
from thrifty_jax.scans.volumes import Volume
from thrifty_jax.scores import mask_pairs, metrics, scoring, statistics, summaries
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
          bar.set_postfix(dsc=scoring.format_dsc(counts))
      except InputError as error:
        problems.append(' '.join(str(error).split()))
      bar.update(1)
  return counts, problems


def summarise(
  sets: Sequence[Found],
  meaning: Meaning,
  counts: Sequence[Sequence[CaseCounts]],
  *,
  nsd_tolerance: float,
) -> ScoredMasks:
  """Returns the content of summary.json: of the first masks, beside the others if there are any."""
  found, first = sets[0], sets[0].pairs[0]
  figures = [summaries.summarise(of, meaning.classes, Figures) for of in counts]
  against = None
  if len(sets) > 1:
    difference, p_value = statistics.compare_paired(*map(_patients_dsc, counts))
    masks = _shorten(sets[1].pairs[0].mask.parent)
    against = Against(masks, *figures[1], difference, p_value)
  mean, classes = figures[0]
  return ScoredMasks(
    masks=_shorten(first.mask.parent),
    truths=_shorten(first.truth.parent),
    paired=found.rule,
    nsd_tolerance_mm=nsd_tolerance,
    unit=_unit(found),
    patients=len({pair.patient for pair in found.pairs}),
    cases=tuple(MaskPair(p.case, p.patient, p.mask.name, p.truth.name) for p in found.pairs),
    missing=tuple(path.name for path in found.missing),
    mean=mean,
    classes=classes,
    against=against,
  )


def make_rows(found: Found, meaning: Meaning, counts: Sequence[CaseCounts]) -> list[dict[str, Any]]:
  """Returns the rows of scores.csv, whose columns are those of a run."""
  return list(summaries.make_rows(counts, meaning.classes, {}, unit=_unit(found)))


def _patients_dsc(counts: Sequence[CaseCounts]) -> np.ndarray:
  """Returns the DSC of each patient and class, [1, patients, K - 1]; NaN where there is none."""
  return metrics.dsc(np.stack([*scoring.by_patient(counts).values()]))[None]


def _score_volume(volume: Volume, meaning: Meaning, nsd_tolerance: float) -> CaseCounts:
  """Scores the mask, the image of a volume, by the truth, its label."""
  return scoring.score_mask(
    volume.case,
    volume.patient,
    prediction=volume.image[..., 0].astype(np.uint8),
    truth=volume.truth,
    classes=len(meaning.classes),
    regions=meaning.regions,
    spacing_mm=volume.spacing_mm,
    nsd_tolerance_mm=nsd_tolerance,
  )


def _unit(found: Found) -> str:
  return 'pixels' if found.of_pictures else 'mm'


def _shorten(folder: Path) -> str:
  """Returns the last two names of a folder's path."""
  return '/'.join(folder.resolve().parts[-2:])
