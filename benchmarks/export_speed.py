"""Seconds a slice: JAX, ONNX in float32 and with 8-bit convolutions, of the same networks.

    taskset -c 1 python -m benchmarks.export_speed --threads=1
    python -m benchmarks.export_speed --threads=2 --networks=thrifty

Random weights, made-up slices, one process; the contenders take turns, so that whatever else the
machine does falls on all of them. Medians of the repeats: the time that passed and, behind the
stroke, that in which the cores worked for this process: on one core, about what passes when nothing
else runs. JAX takes as many cores as the process has.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from scipy import ndimage

import thrifty_jax
from thrifty_jax import config as configs
from thrifty_jax import genotype, model
from thrifty_jax.exporting import export_check, onnx_network, quantise
from thrifty_jax.model import LoadedModel

GENOTYPE = Path(thrifty_jax.__file__).parent / 'genotypes' / 'thrifty_0.61m.json'


def main() -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('--networks', nargs='+', default=['thrifty', 'unet', 'unet_plus_plus'])
  parser.add_argument('--batches', nargs='+', type=int, default=[1, 8])
  parser.add_argument('--size', type=int, default=256)
  parser.add_argument('--threads', type=int, default=1, help="onnxruntime's, for one operation")
  parser.add_argument('--repeats', type=int, default=20)
  asked = parser.parse_args()
  print(f'{asked.size} x {asked.size}, {asked.threads} threads, ms a slice, passed / worked')
  for name in asked.networks:
    member = random_member(name, asked.size)
    contenders = contenders_of(member, asked.threads)
    for batch in asked.batches:
      seconds = race(contenders, slices(batch, asked.size)[..., 0], asked.repeats)
      row = '  '.join(
        '{} {:.0f} / {:.0f}'.format(who, *(1e3 / batch * np.median(times, axis=0)))
        for who, times in seconds.items()
      )
      print(f'{name}, {model.count(member.params):,} parameters, batch {batch}: {row}', flush=True)


def random_member(name: str, size: int) -> LoadedModel:
  """A network of the paper's size with random weights."""
  config = configs.default()
  config.model.name = name
  config.data.update({'classes': ('background', 'organ'), 'image_size': size})
  spec = model.describe(config, {'mean': np.full(1, 0.3), 'std': np.full(1, 0.25)})
  found = genotype.load(GENOTYPE) if name == 'thrifty' else None
  module = model.build(spec, found)
  image = jax.ShapeDtypeStruct((1, size, size, 1), np.float32)
  return LoadedModel(module, model.initialise(module, image, seed=0), spec, found, '')


def contenders_of(member: LoadedModel, threads: int) -> dict[str, Callable[[np.ndarray], object]]:
  """Functions of slices [N, S, S] in [0, 1]."""
  content = onnx_network.to_onnx(member).SerializeToString()
  size = member.preprocessing['image_size']
  quantised = quantise.quantise(content, [slices(4, size).transpose(0, 3, 1, 2)])
  float_ = export_check.onnx_runner(content, threads=threads)
  int8 = export_check.onnx_runner(quantised, threads=threads)
  return {
    'JAX': lambda image: member.logits((image[..., None] - 0.3) / 0.25).block_until_ready(),
    'ONNX': lambda image: float_(image[:, None]),
    'int8': lambda image: int8(image[:, None]),
  }


def slices(count: int, size: int) -> np.ndarray:
  """Smooth noise, [count, S, S, 1], float32 in [0, 1]."""
  noise = np.random.default_rng(0).random((count, size, size, 1))
  smooth = ndimage.gaussian_filter(noise, (0, 3, 3, 0))
  return np.clip(6 * smooth - 2.5, 0, 1).astype(np.float32)


def race(
  contenders: dict[str, Callable[[np.ndarray], object]], image: np.ndarray, repeats: int
) -> dict[str, list[tuple[float, float]]]:
  """Seconds passed and worked of every call, by contender; they take turns."""
  seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
  for turn in range(repeats + 2):  # two to compile and to warm up
    for name, run in contenders.items():
      start, worked = time.perf_counter(), time.process_time()
      run(image)
      if turn > 1:
        seconds[name].append((time.perf_counter() - start, time.process_time() - worked))
  return seconds


if __name__ == '__main__':
  main()
