"""From class scores of slices to scores per patient: pure functions over arrays, no model."""

import csv
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep import slices
from thrifty_jax import components, metrics

NATIVE_CHUNK = 16  # slices enlarged to the native grid at a time: bounds the memory

Flip = str  # left_right or up_down
FLIP_AXES = {'up_down': 1, 'left_right': 2}  # of [B, H, W, C]


@dataclass(frozen=True)
class CaseCounts:
  """Overlap of one case, by class; see metrics.overlap_counts.

  Attributes:
    case: Its name.
    patient: Whose it is.
    native: On the native grid, [K - 1, 3].
    network: Over its slices at network resolution, [K - 1, 3].
  """

  case: str
  patient: str
  native: np.ndarray
  network: np.ndarray


def average_over_flips(logits: Callable[[Any], Any], flips: Sequence[Flip]) -> Callable[[Any], Any]:
  """The function that averages logits over every combination of the flips, none included.

  Args:
    logits: [B, S, S, C] to [B, S, S, K].
    flips: Of FLIP_AXES; () gives logits itself.

  Returns:
    A function of the same shapes.
  """
  if not flips:
    return logits
  axes = [FLIP_AXES[flip] for flip in flips]
  combinations = [
    combination
    for size in range(len(axes) + 1)
    for combination in itertools.combinations(axes, size)
  ]

  def averaged(image: Any) -> Any:
    total = 0
    for combination in combinations:
      flip = tuple(slice(None, None, -1 if axis in combination else 1) for axis in range(4))
      total = total + logits(image[flip])[flip]
    return total / len(combinations)

  return averaged


def native_classes(scores: np.ndarray, native_size: tuple[int, int]) -> np.ndarray:
  """Class of each voxel of the native grid, [D, H, W], uint8: enlarged scores, then argmax.

  Args:
    scores: Class scores at network resolution, [D, S, S, K], float32; the largest wins.
    native_size: (H, W).
  """
  parts = [
    slices.to_native(scores[first : first + NATIVE_CHUNK], native_size).argmax(-1)
    for first in range(0, len(scores), NATIVE_CHUNK)
  ]
  return np.concatenate(parts).astype(np.uint8)


def score_case(
  case: str,
  patient: str,
  *,
  scores: np.ndarray,
  label: np.ndarray,
  truth: np.ndarray,
  largest: Sequence[int] = (),
) -> CaseCounts:
  """Counts of one case.

  Args:
    case: Its name.
    patient: Whose it is.
    scores: Class scores at network resolution, [D, S, S, K], float32; the largest wins.
    label: Truth at network resolution, [D, S, S].
    truth: Truth on the native grid, [D, H, W].
    largest: Classes of which only the largest component counts on the native grid.

  Returns:
    The counts on both grids.
  """
  classes = scores.shape[-1]
  native = components.keep_largest(native_classes(scores, truth.shape[1:]), largest)
  return CaseCounts(
    case=case,
    patient=patient,
    native=metrics.overlap_counts(native, truth, classes=classes),
    network=metrics.overlap_counts(scores.argmax(-1), label, classes=classes),
  )


def by_patient(cases: Iterable[CaseCounts]) -> dict[str, np.ndarray]:
  """Native counts of each patient, [K - 1, 3], summed over his cases; sorted by name."""
  counts: dict[str, np.ndarray] = {}
  for case in cases:
    counts[case.patient] = counts.get(case.patient, 0) + case.native
  return dict(sorted(counts.items()))


def mean_dsc(cases: Iterable[CaseCounts]) -> float:
  """Volume DSC, mean over patients and foreground classes."""
  return float(mean_dsc_of_classes(cases).mean())


def mean_dsc_of_classes(cases: Iterable[CaseCounts]) -> np.ndarray:
  """Volume DSC of each foreground class, mean over patients, [K - 1]."""
  return np.mean([metrics.dsc(counts) for counts in by_patient(cases).values()], axis=0)


def pooled_dsc(cases: Iterable[CaseCounts]) -> float:
  """One DSC over all slices at network resolution, mean over foreground classes."""
  return float(metrics.dsc(np.sum([case.network for case in cases], axis=0)).mean())


def summarise(cases: Sequence[CaseCounts], classes: Sequence[str]) -> dict[str, Any]:
  """The figures of one set of predictions.

  Args:
    cases: All cases of the split.
    classes: Names of the K classes, background first.

  Returns:
    'dsc_mean' over patients and classes, 'dsc_std' over patients, 'classes' (name -> 'dsc_mean',
    'dsc_std', 'pooled_2d_dsc') and 'pooled_2d_dsc', the mean over classes. Each in [0, 1]; a
    deviation of a single patient is None.
  """
  scores = np.stack([metrics.dsc(counts) for counts in by_patient(cases).values()])
  pooled = metrics.dsc(np.sum([case.network for case in cases], axis=0))
  mean, deviation = metrics.mean_and_deviation(scores.mean(axis=1))
  named = {}
  for index, name in enumerate(classes[1:]):
    class_mean, class_deviation = metrics.mean_and_deviation(scores[:, index])
    named[name] = {
      'dsc_mean': class_mean,
      'dsc_std': class_deviation,
      'pooled_2d_dsc': float(pooled[index]),
    }
  return {
    'dsc_mean': mean,
    'dsc_std': deviation,
    'pooled_2d_dsc': float(pooled.mean()),
    'classes': named,
  }


def rows(
  cases: Sequence[CaseCounts],
  classes: Sequence[str],
  floors: Mapping[str, Sequence[CaseCounts]],
) -> Iterator[dict[str, Any]]:
  """A row per patient and class, with the floors' DSC of the same patient beside."""
  floor_counts = {name: by_patient(counts) for name, counts in floors.items()}
  for patient, counts in by_patient(cases).items():
    of_patient = [case.case for case in cases if case.patient == patient]
    for index, name in enumerate(classes[1:]):
      both, predicted, true = (int(value) for value in counts[index])
      row = {
        'patient': patient,
        'cases': ' '.join(of_patient),
        'class': name,
        'dsc': f'{metrics.dsc(counts)[index]:.6f}',
        'truth_voxels': true,
        'predicted_voxels': predicted,
        'common_voxels': both,
      }
      for floor, found in floor_counts.items():
        row[f'{floor}_dsc'] = f'{metrics.dsc(found[patient])[index]:.6f}'
      yield row


def csv_text(table: Sequence[Mapping[str, Any]]) -> str:
  """The rows as CSV, the first row's keys as header."""
  text = io.StringIO()
  writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(table)
  return text.getvalue()
