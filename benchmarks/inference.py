"""Measures seconds a slice with JAX, ONNX in float32 and ONNX with 8-bit convolutions.

    taskset -c 1 python -m benchmarks.inference --threads=1
    python -m benchmarks.inference --threads=2 --model thrifty

The same networks with random weights, on synthetic slices. Each contender runs in a process of its
own and they take turns. JAX uses all cores of the process, and on a CPU processes a batch slice by
slice, as `predict` does; ONNX processes it whole. Beside the elapsed time the processor time of the
contender is printed (on one core about the elapsed time when nothing else runs), and the share of
the speed at which the same cores multiply large matrices. Without onnx or onnxruntime ONNX is left
out with a message.
"""

import functools
import importlib.util
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import numpy as np
from scipy import ndimage

from benchmarks import contenders, measure, networks
from thrifty_jax import config as configs
from thrifty_jax import device
from thrifty_jax.exporting import export_check, onnx_network, quantise
from thrifty_jax.networks import build, inference, layers
from thrifty_jax.running import command_line

PEAK_SIDE = 2048  # of the matrices whose product measures the peak speed of the cores


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = measure.parser(__doc__)
  networks.add_options(parser)
  measure.several(parser, 'batch', 1, 8)
  measure.several(parser, 'size', 256, help='of the square slices')
  parser.add_argument('--threads', type=int, default=1, help="onnxruntime's, for one operation")
  asked = parser.parse_args(arguments)
  return command_line.exit_status(functools.partial(_run, asked))


def _run(asked: Any) -> int:
  # Mistakes are reported before any work.
  found = [networks.of(asked, name, size) for name in asked.model for size in asked.size]
  missing = [name for name in ('onnx', 'onnxruntime') if importlib.util.find_spec(name) is None]
  if missing:
    print(f'without ONNX and int8: not installed: {", ".join(missing)}')
  report = measure.Report('inference')
  peak = _peak_flops(asked.repeats)
  for network in found:
    files = {} if missing else _exported(network)
    for batch in asked.batch:
      rivals: dict[str, tuple[Any, ...]] = {'JAX': (start_jax, network, batch)}
      for kind, content in files.items():
        rivals[kind] = (start_onnx, content, asked.threads, batch, network.size)
      settings = {'model': network.name, 'size': network.size, 'batch': batch}
      raced = contenders.race(rivals, repeats=asked.repeats, turn='batch')
      for kind, figures in raced.items():
        macs = raced['JAX'].get('macs')
        figures = _per_slice(figures, batch, flops=macs and 2 * macs, peak_flops=peak)
        own = {**settings, 'runtime': kind, 'threads': asked.threads if kind != 'JAX' else None}
        report.add(own, figures, _line(figures))
  return report.end()


def _peak_flops(repeats: int) -> float:
  """Returns these cores' operations a second in a large product of matrices, float32."""
  figures = contenders.race({'peak': (start_peak,)}, repeats=repeats)['peak']
  return 2 * PEAK_SIDE**3 / figures['median_step_s']


def _per_slice(
  figures: dict[str, Any], batch: int, *, flops: int | None, peak_flops: float
) -> dict[str, Any]:
  if 'error' in figures:
    return figures
  seconds = figures['median_batch_s'] / batch
  share = flops / seconds / peak_flops if flops else None
  return {**figures, 'median_slice_ms': 1e3 * seconds, 'share_of_peak': share}


def _line(figures: dict[str, Any]) -> str:
  if 'error' in figures:
    return ''
  share = figures['median_worked_s'] / figures['median_batch_s']
  passed = figures['median_slice_ms']
  of_peak = '' if figures['share_of_peak'] is None else f'{figures["share_of_peak"]:.0%} of peak, '
  return (
    f'{passed:.0f} / {share * passed:.0f} ms a slice, passed / worked, {of_peak}first after '
    f'{figures["first_batch_s"]:.1f} s, peak {figures["peak_rss_mb"]:.0f} MiB, of which '
    f'{figures["before_mb"]:.0f} before it began'
  )


def _exported(network: networks.Network) -> dict[str, bytes]:
  """Exports a network in a process that ends, as exporting takes memory and the device."""
  with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
    return pool.submit(export, network).result()


def export(network: networks.Network) -> dict[str, bytes]:
  """Returns the content of the ONNX files of a network, 'ONNX' and 'int8'."""
  content = onnx_network.to_onnx(network.member()).SerializeToString()
  sample = slices(4, network.size).transpose(0, 3, 1, 2)
  return {'ONNX': content, 'int8': quantise.quantise(content, [sample], whole=False)}


def start_peak() -> tuple[dict[str, Any], contenders.Turn]:
  """Starts a contender, see `contenders.race`."""
  product, matrix = jax.jit(lambda x: x @ x), np.ones((PEAK_SIDE, PEAK_SIDE), np.float32)
  matrix = jax.device_put(matrix)

  def turn() -> None:
    jax.block_until_ready(product(matrix))

  return {}, turn


def start_jax(network: networks.Network, batch: int) -> tuple[dict[str, Any], contenders.Turn]:
  """Starts a contender, see `contenders.race`."""
  began = time.perf_counter()
  config = configs.default()
  config.compilation_cache = ''
  device.prepare(config)
  member, size = network.member(), network.size
  started = time.perf_counter() - began
  predict, background = (
    build.predict_logits(member.module),
    np.asarray(member.spec.background, np.float32),
  )
  image = jax.ShapeDtypeStruct((inference.split_batch(batch)[1], size, size, 1), np.float32)
  program = predict, (member.params, image, background)
  (compiled,), figures = measure.compile_all([program], jax.stages.Lowered.compile)
  content = slices(batch, size)
  run = inference.run_slice_by_slice(lambda image: compiled(member.params, image, background))
  figures |= {
    'parameters': member.parameters,
    'macs': layers.macs(member.module, (size, size, 1)),
    'start_s': started,
  }

  def turn() -> None:
    normalised = (content - networks.MEAN) / networks.STD  # the ONNX networks normalise themselves
    jax.block_until_ready(run(normalised.astype(np.float32)))

  return figures, turn


def start_onnx(
  content: bytes, threads: int, batch: int, size: int
) -> tuple[dict[str, Any], contenders.Turn]:
  """Starts a contender, see `contenders.race`."""
  began = time.perf_counter()
  network = export_check.make_onnx_runner(content, threads=threads)
  image = slices(batch, size).transpose(0, 3, 1, 2)
  started = time.perf_counter() - began

  def turn() -> None:
    network(image)

  return {'start_s': started, 'file_mb': len(content) / measure.MIB}, turn


def slices(count: int, size: int) -> np.ndarray:
  """Returns smooth noise, [count, S, S, 1], float32 in [0, 1]."""
  noise = np.random.default_rng(0).random((count, size, size, 1))
  smooth = ndimage.gaussian_filter(noise, (0, 3, 3, 0))
  return np.clip(6 * smooth - 2.5, 0, 1).astype(np.float32)


if __name__ == '__main__':
  sys.exit(main())
