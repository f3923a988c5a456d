"""Quantises an ONNX network to 8-bit convolutions, calibrated on training slices; scores it."""

import contextlib
import dataclasses
import logging
import shutil
import tempfile
import types
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from thrifty_jax import logbook
from thrifty_jax.errors import InputError
from thrifty_jax.exporting import export_slices, onnx_network
from thrifty_jax.exporting.export_check import Network, make_onnx_runner, predict_with
from thrifty_jax.exporting.export_slices import RunData
from thrifty_jax.exporting.onnx_graph import CONVOLUTION, tool
from thrifty_jax.exporting.onnx_network import IMAGE
from thrifty_jax.model_folder import LoadedModel
from thrifty_jax.networks.model_spec import ModelSpec
from thrifty_jax.reporting.raced_time import RacedTime
from thrifty_jax.scores import cases

SLICES = 64  # number of slices to calibrate on
COPIES = 3  # of the network in temporary files; two and a bit were measured
# Most validation DSC that 8 bits may lose before an export advises against them, and a race counts
# what they lose.
LOSS = 0.002


def quantise(content: bytes, inputs: Iterable[np.ndarray], *, whole: bool) -> bytes:
  """Quantises a network to 8 bits by onnxruntime's static quantisation.

  Weights have a scale per output channel and 7 bits, as 8 would overflow on processors without
  VNNI.

  Args:
    content: Content of the float32 file, from `onnx_network.to_onnx`.
    inputs: Inputs of the network from training scans, [d, C, S, S] each.
    whole: Whether all layers are quantised, so that values stay in 8 bits from one to the next, a
      fifth faster. Else only convolutions are, but none whose name begins with
      onnx_network.FLOAT: norms that are computed from the image need float32.

  Raises:
    InputError: If the disk of temporary files has no space for COPIES of the network.
  """
  onnx, quantization = tool('onnx'), tool('onnxruntime.quantization')
  feeds = ({IMAGE: one} for one in inputs)
  reader = types.SimpleNamespace(get_next=lambda: next(feeds, None))  # as onnxruntime expects
  names = [node.name for node in onnx.load_from_string(content).graph.node]
  convolutions = {
    'op_types_to_quantize': ['Conv'],
    'nodes_to_quantize': [name for name in names if name.startswith(CONVOLUTION)],
  }
  _require_space(COPIES * len(content))
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    # onnxruntime's advice on preparing the model does not apply to this one.
    stack.callback(logging.root.setLevel, logging.root.level)
    logging.root.setLevel(logging.ERROR)
    before, after = Path(folder, 'float.onnx'), Path(folder, 'int8.onnx')
    before.write_bytes(content)
    quantization.quantize_static(
      before,
      after,
      reader,
      **({} if whole else convolutions),
      per_channel=True,
      reduce_range=True,
      activation_type=quantization.QuantType.QUInt8,
      weight_type=quantization.QuantType.QInt8,
    )
    return after.read_bytes()


def _require_space(needed_bytes: int) -> None:
  """Refuses a disk of temporary files that is too full, as onnxruntime would not notice it."""
  place = tempfile.gettempdir()
  if (free := shutil.disk_usage(place).free) < needed_bytes:
    raise InputError(
      f'{place}: has {free / 2**20:.1f} MiB left, and int8 needs {needed_bytes / 2**20:.1f} MiB '
      'for temporary files; make space there, or name another folder in TMPDIR'
    )


@dataclasses.dataclass(frozen=True)
class Quantised:
  """A network in 8 bits beside the float one.

  Attributes:
    content: Content of the ONNX file.
    network: What it computes.
    validation_dsc_float, validation_dsc: Mean volume DSC of the validation patients in [0, 1], of
      the float network and of this one; None if there is no score.
    test_dsc: The same of the test patients by this one; None if there are none, or no score.
  """

  content: bytes
  network: Network
  validation_dsc_float: float | None
  validation_dsc: float | None
  test_dsc: float | None

  def advise(self, timed: RacedTime | None) -> str:
    """Says in a line why this file may not be the one to take; '' where nothing speaks against it.

    Nothing is timed here.

    Args:
      timed: Time of the network by a race, None without one.
    """
    before, after = self.validation_dsc_float, self.validation_dsc
    if before is not None and after is not None and before - after > LOSS:
      line = (
        f'8 bits lose {100 * (before - after):.2f} points of the validation DSC: take model.onnx, '
        'the float32 file'
      )
      is_raced = timed is not None and timed.precision == 'int8'
      return line + '; the milliseconds of the race are those in 8 bits' * is_raced
    if timed and timed.precision == 'float32':
      return (
        f'the race that timed this network counts it with {timed.ms:.2f} ms in {timed.way}; time '
        'model_int8.onnx by thrifty_jax.cost before you take it'
      )
    return ''

  def __str__(self) -> str:
    before, after, parts = self.validation_dsc_float, self.validation_dsc, []
    if before is not None and after is not None:
      change = f'{100 * (after - before):+.2f}'
      parts.append(f'validation DSC {100 * after:.2f} %, in float32 {100 * before:.2f} %: {change}')
    if self.test_dsc is not None:
      parts.append(f'test DSC {100 * self.test_dsc:.2f} %')
    return '; '.join(parts) or 'no validation or test patient has a score'


def quantise_model(member: LoadedModel, content: bytes, run: RunData) -> Quantised:
  """Quantises the float32 ONNX file of a model by its run's training slices, and scores it."""
  spec = member.spec
  training = export_slices.read_training(run, SLICES, context=spec.context)
  eight = quantise(content, training, whole=onnx_network.folds(member))
  network, tested = make_onnx_runner(eight), np.nan
  validated = [
    measure_dsc(run, one, spec, title=title)
    for one, title in ((make_onnx_runner(content), 'score float32'), (network, 'score int8'))
  ]
  if run.cases('test'):
    tested = measure_dsc(run, network, spec, title='test int8', split='test')
  scores = [None if np.isnan(score) else float(score) for score in (*validated, tested)]
  return Quantised(eight, network, *scores)


def measure_dsc(
  run: RunData, network: Network, spec: ModelSpec, *, title: str, split: str = 'validation'
) -> float:
  """Volume DSC of a split's patients on the native grid, mean over patients and classes, or NaN."""
  predict = predict_with(network, context=spec.context)
  with logbook.progress(len(run.cases(split)), title) as bar:

    def counted(image: np.ndarray) -> np.ndarray:
      scores = predict(image)
      bar.update(1)
      return scores

    return cases.validation_dsc(run.prepared, run.patients[split], counted, largest=spec.largest)
