"""Pure functions from class scores of slices to scores of patients."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from thrifty_jax import labels
from thrifty_jax.scans import slices
from thrifty_jax.scores import components, metrics


@dataclass(frozen=True)
class CaseCounts:
  """Overlap counts of one case by class, [K - 1, 3] each; see metrics.overlap_counts."""

  case: str
  patient: str
  native: np.ndarray  # on the native grid
  network: np.ndarray  # over its slices at network resolution; zeros where there is no network
  volumes: tuple[metrics.VolumeScores, ...] = ()  # of each class, if distances were requested


def score_case(
  case: str,
  patient: str,
  *,
  scores: np.ndarray,
  label: np.ndarray,
  truth: np.ndarray,
  reduction: float = 0.0,
  regions: labels.Regions = (),
  largest: Sequence[int] = (),
  spacing_mm: Sequence[float] | None = None,
  nsd_tolerance_mm: float = 2.0,
) -> CaseCounts:
  """Counts of one case on both grids and, given a spacing, the scores of each class.

  Args:
    case: Name of the case.
    patient: Name of its patient.
    scores: Class scores at network resolution, [D, S, S, K], float32, see labels.choose.
    label: Truth at network resolution, [D, S, S].
    truth: Truth on the native grid, [D, H, W].
    reduction: Reduction of slices that were cut into windows; 0 where they are drawn whole.
    regions: Regions that the classes are, see labels.py.
    largest: Numbers of the classes of which only the largest component counts on the native grid.
    spacing_mm: Distances between the voxels of the native grid along D, H and W; None omits surface
      distances, which training does not use.
    nsd_tolerance_mm: Tolerance, see metrics.score_volume.
  """
  classes = scores.shape[-1]
  native, _ = slices.native_classes(
    [scores], truth.shape[1:], reductions=[reduction], regions=regions
  )
  found = score_mask(
    case,
    patient,
    prediction=components.keep_largest(native, largest, regions),
    truth=truth,
    classes=classes,
    regions=regions,
    spacing_mm=spacing_mm,
    nsd_tolerance_mm=nsd_tolerance_mm,
  )
  chosen = labels.choose(scores, regions)
  network = metrics.overlap_counts(chosen, label, classes=classes, regions=regions)
  return replace(found, network=network)


def score_mask(
  case: str,
  patient: str,
  *,
  prediction: np.ndarray,
  truth: np.ndarray,
  classes: int,
  spacing_mm: Sequence[float] | None,
  nsd_tolerance_mm: float,
  regions: labels.Regions = (),
) -> CaseCounts:
  """Counts of one case on the native grid and, given a spacing, the scores of each class.

  Prediction and truth are the label of each voxel, [D, H, W]; where the truth is ignored both count
  as background. The rest is as of `score_case`.
  """
  prediction, truth = labels.leave_out_ignored(prediction, truth)
  volumes = [
    metrics.score_volume(
      labels.belongs(prediction, k, regions),
      labels.belongs(truth, k, regions),
      spacing_mm=spacing_mm,
      nsd_tolerance_mm=nsd_tolerance_mm,
    )
    for k in range(1, classes)
    if spacing_mm is not None
  ]
  native = metrics.overlap_counts(prediction, truth, classes=classes, regions=regions)
  return CaseCounts(case, patient, native, np.zeros_like(native), tuple(volumes))


def by_patient(cases: Iterable[CaseCounts]) -> dict[str, np.ndarray]:
  """Native counts of each patient, [K - 1, 3], summed over the patient's cases; sorted by name."""
  counts: dict[str, np.ndarray] = {}
  for case in cases:
    counts[case.patient] = counts.get(case.patient, 0) + case.native
  return dict(sorted(counts.items()))


def mean_dsc(cases: Iterable[CaseCounts]) -> float:
  """Volume DSC, mean over patients of the mean over the foreground classes; NaN without a score.

  A class that neither truth nor prediction of a patient has enters no mean, here and below.
  """
  scores = metrics.dsc(np.stack(list(by_patient(cases).values())))
  return float(metrics.mean_of_scored(metrics.mean_of_scored(scores, axis=1)))


def format_dsc(cases: Iterable[CaseCounts]) -> str:
  """Formats `mean_dsc` for a progress bar, `82.5 %`; `–` without a score."""
  dsc = mean_dsc(cases)
  return '–' if np.isnan(dsc) else f'{100 * dsc:.1f} %'


def mean_dsc_of_classes(cases: Iterable[CaseCounts]) -> np.ndarray:
  """Volume DSC of each foreground class, mean over patients, [K - 1]; NaN where nobody has one."""
  scores = metrics.dsc(np.stack(list(by_patient(cases).values())))
  return metrics.mean_of_scored(scores, axis=0)


def pooled_dsc(cases: Iterable[CaseCounts]) -> float:
  """One DSC over all slices at network resolution, mean over foreground classes."""
  scores = metrics.dsc(np.sum([case.network for case in cases], axis=0))
  return float(metrics.mean_of_scored(scores))
