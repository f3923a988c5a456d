"""Runs a network in the runtimes that its users have: ONNX Runtime, OpenVINO and JAX."""

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thrifty_jax import extras
from thrifty_jax.errors import InputError
from thrifty_jax.exporting import onnx_network, quantise, runners
from thrifty_jax.model_folder import LoadedModel
from thrifty_jax.networks import build
from thrifty_jax.settings import COST_PRECISIONS

ALL, INSTALLED = 'all', 'installed'
_EXPORT, _OPENVINO = 'export', 'openvino'
# Packages of a runtime, each with the extra that has it, and the runtime's precisions.
_NEEDS = {
  'onnxruntime': ((('onnx', _EXPORT), ('onnxruntime', _EXPORT)), ('float32', 'int8')),
  # onnxruntime quantises for OpenVINO too.
  'openvino': (
    (('onnx', _EXPORT), ('onnxruntime', _EXPORT), ('openvino', _OPENVINO)),
    ('float32', 'int8'),
  ),
  'jax': ((), ('float32',)),
}


@dataclasses.dataclass(frozen=True)
class Way:
  """A way to run networks; the names are those of the settings, but for 'all'."""

  runtime: str
  precision: str

  @property
  def missing(self) -> list[tuple[str, str]]:
    """Packages that it needs and that are not installed, each with the extra that has it."""
    needed, _ = _NEEDS[self.runtime]
    return [row for row in needed if importlib.util.find_spec(row[0]) is None]


IN_8_BITS = Way('onnxruntime', 'int8')  # needs what a network is quantised and scored with


@dataclasses.dataclass(frozen=True)
class Started:
  """A network that is ready to run.

  Attributes:
    way: Runtime and precision in which it runs.
    run: Function from image [1, C, S, S], float32 in [0, 1], to logits [1, K, S, S].
    file_bytes: Size of the exported file; None for JAX, which has none.
  """

  way: Way
  run: Callable[[np.ndarray], np.ndarray]
  file_bytes: int | None


def choose(runtime: str, precision: str) -> tuple[Way, ...]:
  """Returns the ways with a runtime and a precision, each a name or 'all'.

  The runtime 'installed' is ONNX Runtime, and OpenVINO if it is installed here.

  Raises:
    InputError: If the runtime does not have the precision.
  """
  precisions = COST_PRECISIONS[:-1] if precision == ALL else (precision,)
  if runtime == INSTALLED:
    found = tuple(Way(r, p) for r in ('onnxruntime', 'openvino') for p in precisions)
    return tuple(way for way in found if way.runtime == 'onnxruntime' or not way.missing)
  runtimes = tuple(_NEEDS) if runtime == ALL else (runtime,)
  found = tuple(Way(r, p) for r in runtimes for p in precisions if p in _NEEDS[r][1])
  if not found:
    raise InputError(
      f'{runtime} does not run networks in {precision}; expected {" or ".join(_NEEDS[runtime][1])}'
    )
  return found


def require_installed(ways: Sequence[Way]) -> None:
  """Refuses ways whose packages are not installed."""
  for way in ways:
    if way.missing:
      names, needed = zip(*way.missing, strict=True)
      raise InputError(
        f'the runtime {way.runtime} needs {" and ".join(names)}, not installed here: '
        f'{extras.how_to_install(*dict.fromkeys(needed))}'
      )


def start(
  member: LoadedModel, ways: Sequence[Way], *, threads: int, images: np.ndarray
) -> list[Started]:
  """Exports a network once, quantises it if asked, and prepares every way to run it.

  Args:
    member: Network.
    ways: Ways to run it, whose packages are installed.
    threads: Number of threads of ONNX Runtime and OpenVINO. JAX takes all cores of the process,
      see machine.hold_on_cores.
    images: Images to calibrate 8 bits on, [N, C, S, S], float32 in [0, 1].
  """
  contents: dict[str, bytes] = {}
  if any(way.runtime != 'jax' for way in ways):
    contents['float32'] = onnx_network.to_onnx(member).SerializeToString()
  if any(way.precision == 'int8' for way in ways):
    whole = onnx_network.folds(member)
    contents['int8'] = quantise.quantise(
      contents['float32'], np.split(images, len(images)), whole=whole
    )
  started = []
  for way in ways:
    if way.runtime == 'jax':
      started.append(Started(way, _run_jax(member), None))
      continue
    content = contents[way.precision]
    started.append(Started(way, runners.start(way.runtime, content, threads), len(content)))
  return started


def _run_jax(member: LoadedModel) -> Any:
  spec, cpu = member.spec, jax.devices('cpu')[0]
  copies = 2 * spec.context + 1
  mean, std = (np.tile(values, copies) for values in spec.statistics.values())
  predict = build.predict_logits(member.module)
  background = np.asarray(spec.background, np.float32)

  @jax.jit
  def network(params: Any, image: jax.Array) -> jax.Array:
    normalised = (jnp.moveaxis(image, 1, 3) - mean) / std
    return jnp.moveaxis(predict(params, normalised, background), 3, 1)

  params = jax.device_put(member.params, cpu)
  return lambda image: np.asarray(network(params, image))
