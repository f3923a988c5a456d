"""Whether an exported network gives what the model gives, on real slices."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from thrifty_jax.errors import InputError
from thrifty_jax.exporting.onnx_graph import tool
from thrifty_jax.exporting.onnx_network import IMAGE, LOGITS
from thrifty_jax.exporting.segment_onnx import stack
from thrifty_jax.model import LoadedModel
from thrifty_jax.predicting import inference

LOGIT_LIMIT = 1e-4  # largest difference of a logit
PIXEL_LIMIT = 0.9999  # least share of pixels with the same class
BATCH_SIZE = 8  # slices
# From image [N, C, S, S], float32 in [0, 1], to logits [N, K, S, S].
Network = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Agreement:
  """How near two networks are.

  Attributes:
    slices: On so many slices.
    largest_difference: Of a logit.
    equal_pixels: Share of pixels with the same class.
  """

  slices: int
  largest_difference: float
  equal_pixels: float

  def __str__(self) -> str:
    return (
      f'{self.slices} slices: logits differ by at most {self.largest_difference:.1e}, '
      f'{100 * self.equal_pixels:.4f} % of the pixels have the same class'
    )


def onnx_runner(content: bytes, *, threads: int = 0) -> Network:
  """The function that an ONNX file's content is, on the CPU.

  Args:
    content: Of the file.
    threads: For one operation; 0: as many as there are cores.
  """
  onnxruntime = tool('onnxruntime')
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  options.log_severity_level = 3  # errors
  session = onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
  return lambda image: session.run([LOGITS], {IMAGE: image})[0]


def scores_of(network: Network, image: np.ndarray, *, context: int) -> np.ndarray:
  """Logits [D, S, S, K] of neighbouring slices [D, S, S, M] with intensities in [0, 1]."""
  inputs = stack(image, context)
  parts = range(0, len(inputs), BATCH_SIZE)
  found = [network(inputs[first : first + BATCH_SIZE]) for first in parts]
  return np.moveaxis(np.concatenate(found), 1, 3)


def compare(member: LoadedModel, network: Network, images: Sequence[np.ndarray]) -> Agreement:
  """An exported network beside the model, which runs as predicting and evaluation run it.

  Args:
    member: The model.
    network: The export of it.
    images: Neighbouring slices of a scan each, [d, S, S, M], float16 in [0, 1].
  """
  spec = member.preprocessing
  largest, equal, pixels, count = 0.0, 0, 0, 0
  for image in images:
    ours = inference.class_scores(member.logits, image, spec, batch_size=BATCH_SIZE)
    theirs = scores_of(network, image, context=spec['context'])
    largest = max(largest, float(np.abs(ours - theirs).max()))
    same = ours.argmax(-1) == theirs.argmax(-1)
    equal, pixels, count = equal + int(same.sum()), pixels + same.size, count + len(image)
  return Agreement(count, largest, equal / pixels)


def require_agreement(found: Agreement, *, what: str) -> None:
  """Refuses an export that gives something else than its model.

  Raises:
    InputError: If a logit or too many classes differ.
  """
  # Not finite counts as different.
  if not (found.largest_difference <= LOGIT_LIMIT and found.equal_pixels >= PIXEL_LIMIT):
    raise InputError(
      f'the {what} does not give what the model gives, on {found}; expected at most '
      f'{LOGIT_LIMIT:g} and at least {100 * PIXEL_LIMIT:g} %. Nothing is written; please report it'
    )
