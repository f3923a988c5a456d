"""Predicts and scores the cases of a split, for validation and evaluation."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from thrifty_jax import labels
from thrifty_jax.data.batching import Prepared, PreparedCase
from thrifty_jax.networks.inference import Predict
from thrifty_jax.scans import slices
from thrifty_jax.scores import scoring
from thrifty_jax.scores.scoring import CaseCounts

T = TypeVar('T')
_THREADS = 4  # number of threads that score cases


class PredictedCase(NamedTuple):
  """A case with its truth and a network's prediction."""

  case: PreparedCase
  image: np.ndarray  # slices at network resolution, [D, S, S, M], float16 in [0, 1]
  label: np.ndarray  # truth of the slices, [D, S, S], uint8
  truth: np.ndarray  # truth on the native grid, [D, H, W], uint8
  scores: np.ndarray  # of the classes of the slices, [D, S, S, K], float32, see labels.choose
  reduction: float = 0.0  # of slices that were cut into windows; 0 where they are drawn whole
  regions: labels.Regions = ()  # that the classes are

  def joined(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns image [D, H, W, M], truth and predicted labels [D, H, W] of whole slices.

    They have network resolution: windows are joined, whole slices are as they are.
    """
    if not self.reduction:
      return self.image, self.label, labels.choose(self.scores, self.regions)
    size, reduction = self.case.native_shape[1:], self.reduction
    image, label, scores = (
      slices.join(parts, size, reduction=reduction)
      for parts in (self.image, self.label[..., None], self.scores)
    )
    chosen = labels.choose(scores, self.regions)
    return image, np.rint(label[..., 0]).astype(np.uint8), chosen

  def score(self, *, scores: np.ndarray | None = None, **settings: Any) -> CaseCounts:
    """Scores the case, or other class scores of it, with the settings of scoring.score_case."""
    return scoring.score_case(
      self.case.case,
      self.case.patient,
      scores=self.scores if scores is None else scores,
      label=self.label,
      truth=self.truth,
      reduction=self.reduction,
      regions=self.regions,
      **settings,
    )


def predict_cases(
  prepared: Prepared, cases: Iterable[PreparedCase], predict: Predict
) -> Iterator[PredictedCase]:
  """Yields the cases with what `predict` makes of their slices, one in memory at a time."""
  for case in cases:
    arrays = prepared.read(case)
    scores = predict(arrays['image'])
    truth = prepared.label_volume(case)
    how = prepared.reduction, prepared.regions
    yield PredictedCase(case, arrays['image'], arrays['label'], truth, scores, *how)


def validation_dsc(
  prepared: Prepared,
  patients: Sequence[str],
  predict: Predict,
  *,
  protocol: str = 'volume',
  largest: Sequence[int] = (),
) -> float:
  """DSC by which a checkpoint is chosen; NaN where no class has a score.

  Args:
    prepared: Data set.
    patients: Names of the patients.
    predict: Function from the slices of a case to class scores.
    protocol: volume: DSC on the native grid, mean over patients and classes; pooled_2d: DSC over
      all slices at network resolution, mean over classes.
    largest: Numbers of the classes of which only the largest component counts on the native grid.
  """
  predicted = predict_cases(prepared, prepared.cases_of(patients), predict)
  counts = list(_in_threads(lambda case: case.score(largest=largest), predicted))
  return scoring.pooled_dsc(counts) if protocol == 'pooled_2d' else scoring.mean_dsc(counts)


def judge(
  prepared: Prepared, patients: Sequence[str], predict: Predict, *, classes: Sequence[str]
) -> tuple[dict[str, float], tuple[str, ...]]:
  """Returns the volume DSC of each patient, and the classes of which the largest piece counts.

  These are the ones whose DSC is higher if only their largest component is kept. A patient of whom
  neither truth nor prediction shows a class has no score and is left out. `patients` are those of
  the validation; `classes` begin with the background.
  """
  foreground = range(1, len(classes))
  predicted = predict_cases(prepared, prepared.cases_of(patients), predict)
  counts = _in_threads(lambda case: (case.score(), case.score(largest=foreground)), predicted)
  wholes, largests = zip(*counts, strict=True)
  whole, largest = map(scoring.mean_dsc_of_classes, (wholes, largests))
  means = {
    name: scoring.mean_dsc([one for one in wholes if one.patient == name])
    for name in scoring.by_patient(wholes)
  }
  scores = {name: dsc for name, dsc in means.items() if not np.isnan(dsc)}
  return scores, tuple(classes[k] for k in foreground if largest[k - 1] > whole[k - 1])


def _in_threads(score: Callable[[PredictedCase], T], cases: Iterable[PredictedCase]) -> Iterator[T]:
  """Yields `score` of each case in order; an accelerator meanwhile predicts the next ones."""
  with ThreadPoolExecutor(_THREADS) as pool:
    running: collections.deque[Future[T]] = collections.deque()
    for case in cases:
      if len(running) == _THREADS:  # limits the cases in memory
        yield running.popleft().result()
      running.append(pool.submit(score, case))
    yield from (one.result() for one in running)
