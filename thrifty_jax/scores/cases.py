"""Predicts and scores the cases of a split, for validation and evaluation."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from thrifty_jax.data.batching import Prepared, PreparedCase
from thrifty_jax.networks.inference import Predict
from thrifty_jax.scans import overlays, slices
from thrifty_jax.scores import components, scoring
from thrifty_jax.scores.scoring import CaseCounts

T = TypeVar('T')
_THREADS = 4  # number of threads that score cases


class PredictedCase(NamedTuple):
  """A case with its truth and a network's prediction.

  Attributes:
    case: Description of the case.
    image: Slices at network resolution, [D, S, S, M], float16 in [0, 1].
    label: Truth of the slices, [D, S, S], uint8.
    truth: Truth on the native grid, [D, H, W], uint8.
    scores: Class scores at network resolution, [D, S, S, K], float32; the largest wins.
  """

  case: PreparedCase
  image: np.ndarray
  label: np.ndarray
  truth: np.ndarray
  scores: np.ndarray

  def score(self, *, scores: np.ndarray | None = None, **settings: Any) -> CaseCounts:
    """Scores the case, or other class scores for it; see scoring.score_case for the settings."""
    return scoring.score_case(
      self.case.case,
      self.case.patient,
      scores=self.scores if scores is None else scores,
      label=self.label,
      truth=self.truth,
      **settings,
    )

  def write(self, path: Path, *, largest: Sequence[int]) -> None:
    """Writes the slices for the report, with only the largest component of some classes."""
    shown = components.keep_largest(slices.largest_class(self.scores), largest)
    overlays.write(path, self.image[..., 0], self.label, shown)


def predict_cases(
  prepared: Prepared, cases: Iterable[PreparedCase], predict: Predict
) -> Iterator[PredictedCase]:
  """Predicts one case after the other.

  Args:
    prepared: Data set.
    cases: Cases of the data set.
    predict: Function from the slices of a case to class scores.
  """
  for case in cases:
    arrays = prepared.read(case)
    scores = predict(arrays['image'])
    yield PredictedCase(case, **arrays, truth=prepared.label_volume(case), scores=scores)


def validation_dsc(
  prepared: Prepared,
  patients: Sequence[str],
  predict: Predict,
  *,
  protocol: str = 'volume',
  largest: Sequence[int] = (),
) -> float:
  """DSC by which a checkpoint is chosen.

  Args:
    prepared: Data set.
    patients: Patients whose slices are predicted.
    predict: Function from the slices of a case to class scores.
    protocol: volume: DSC on the native grid, mean over patients and classes; pooled_2d: DSC over
      all slices at network resolution, mean over classes.
    largest: Numbers of the classes of which only the largest component counts on the native grid.
  """

  predicted = predict_cases(prepared, prepared.cases_of(patients), predict)
  counts = list(_in_threads(lambda case: case.score(largest=largest), predicted))
  return scoring.pooled_dsc(counts) if protocol == 'pooled_2d' else scoring.mean_dsc(counts)


def classes_of_one_piece(
  prepared: Prepared, patients: Sequence[str], predict: Predict, *, classes: Sequence[str]
) -> tuple[str, ...]:
  """Names of the classes that gain from keeping only their largest component.

  Args:
    prepared: Data set.
    patients: Names of the validation patients.
    predict: Function from the slices of a case to class scores.
    classes: Names of the K classes, background first.

  Returns:
    Names of the classes whose volume DSC, mean over the patients, is higher with it.
  """
  foreground = range(1, len(classes))

  def both(case: PredictedCase) -> tuple[CaseCounts, CaseCounts]:
    return case.score(), case.score(largest=foreground)

  counts = _in_threads(both, predict_cases(prepared, prepared.cases_of(patients), predict))
  whole, largest = map(scoring.mean_dsc_of_classes, zip(*counts, strict=True))
  gain = largest - whole
  return tuple(classes[index] for index in foreground if gain[index - 1] > 0)


def _in_threads(score: Callable[[PredictedCase], T], cases: Iterable[PredictedCase]) -> Iterator[T]:
  """Yields `score` of each case, in order, while the next ones are being predicted.

  An accelerator predicts a case faster than the case is scored.
  """
  with ThreadPoolExecutor(_THREADS) as pool:
    running: collections.deque[Future[T]] = collections.deque()
    for case in cases:
      if len(running) == _THREADS:  # limits the cases in memory
        yield running.popleft().result()
      running.append(pool.submit(score, case))
    yield from (one.result() for one in running)
