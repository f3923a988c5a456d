"""Compares an exported network with its model on real slices."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from thrifty_jax import labels
from thrifty_jax.errors import InputError
from thrifty_jax.exporting import runners
from thrifty_jax.exporting.onnx_graph import tool
from thrifty_jax.model_folder import LoadedModel
from thrifty_jax.networks import inference

LOGIT_LIMIT = 1e-4  # largest difference of a logit
PIXEL_LIMIT = 0.9999  # least share of pixels with the same class
BATCH_SIZE = 8  # slices
# From image [N, C, S, S], float32 in [0, 1], to logits [N, K, S, S].
Network = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Agreement:
  """Agreement of two networks."""

  slices: int  # number of slices compared
  largest_difference: float  # largest absolute difference of a logit
  equal_pixels: float  # share of pixels with the same class

  def __str__(self) -> str:
    return (
      f'{self.slices} slices: logits differ by at most {self.largest_difference:.1e}, '
      f'{100 * self.equal_pixels:.4f} % of the pixels have the same class'
    )


def make_onnx_runner(content: bytes, *, threads: int = 0) -> Network:
  """Returns the function that an ONNX file computes on the CPU; 0 threads use all cores."""
  tool('onnxruntime')  # says how to install it
  return runners.start('onnxruntime', content, threads)


def predict_with(network: Network, *, context: int) -> inference.Predict:
  """Returns the function from slices of a scan to an exported network's logits."""
  return _of_scan(lambda found: np.moveaxis(network(_channels_first(found)), 1, 3), context)


def _of_scan(network: Callable[[np.ndarray], Any], context: int) -> inference.Predict:
  """Returns the function of a scan's slices from that of slices with their neighbours."""
  return functools.partial(inference.class_scores, network, context=context, batch_size=BATCH_SIZE)


def make_inputs(image: np.ndarray, *, context: int) -> np.ndarray:
  """Input of an exported network, [D, C, S, S], float32, from consecutive slices [D, S, S, M]."""
  return _channels_first(image[inference.neighbours(len(image), context=context)])


def _channels_first(found: np.ndarray) -> np.ndarray:
  """Reshapes slices with their neighbours, [B, 2c + 1, S, S, M], to [B, C, S, S], float32."""
  found = np.moveaxis(found, -1, 2)
  return found.reshape(len(found), -1, *found.shape[3:]).astype(np.float32)


def compare(member: LoadedModel, network: Network, images: Sequence[np.ndarray]) -> Agreement:
  """Compares an exported network with its model, both on whole batches.

  `images` are consecutive slices of each scan, [d, S, S, M], float16 in [0, 1].
  """
  context = member.spec.context
  predict = _of_scan(inference.normalise_for(member.logits, member.spec), context)
  exported = predict_with(network, context=context)
  differences, equal = [], []
  for image in images:
    ours, theirs = predict(image), exported(image)
    differences.append(np.abs(ours - theirs).max())
    regions = member.spec.regions
    equal.append(labels.choose(ours, regions) == labels.choose(theirs, regions))
  same = np.concatenate(equal)  # np.max keeps a NaN, which Python's max would drop
  return Agreement(len(same), float(np.max(differences)), float(same.mean()))


def require_agreement(found: Agreement, *, what: str) -> None:
  """Refuses an export if a logit, or the classes of too many pixels, differ from its model's."""
  # A non-finite difference fails the comparison.
  if not (found.largest_difference <= LOGIT_LIMIT and found.equal_pixels >= PIXEL_LIMIT):
    raise InputError(
      f'{what} does not give what the model gives: on {found}; expected at most {LOGIT_LIMIT:g} '
      f'and at least {100 * PIXEL_LIMIT:g} %. Nothing is written; please report it'
    )
