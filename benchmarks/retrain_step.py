"""Compares training steps of networks: seconds, memory, parameters, multiplications.

    python -m benchmarks.retrain_step --model thrifty unet unet_plus_plus --size 256
    python -m benchmarks.retrain_step --model runs/brain/search/genotype.json unet --norm none group
    python -m benchmarks.retrain_step --model LEAN.json --size 64 --batch 16 --augment

A step is that of retraining with the default optimiser and average of the weights, on synthetic
slices; with --augment also with the default augmentation. Each network runs in a process of its
own; they take turns, and times are also given relative to those of the first network.
"""

import functools
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import contenders, measure, networks
from thrifty_jax import config as configs
from thrifty_jax import device
from thrifty_jax.data import augment as augmentation
from thrifty_jax.networks import build, layers
from thrifty_jax.running import command_line
from thrifty_jax.training import train_step
from thrifty_jax.training.train_data import Facts, make_schedule, seed_bits


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = measure.parser(__doc__)
  networks.add_options(parser)
  measure.several(
    parser, 'norm', 'none', type=str, choices=['none', 'group'], help='of the baselines'
  )
  measure.several(parser, 'batch', 4)
  measure.several(parser, 'size', 128, help='of the square slices')
  measure.dtypes(parser)
  parser.add_argument('--augment', action='store_true', help='slices, by the default settings')
  parser.add_argument('--cache', default='', help="folder of compiled programs; '' is none")
  asked = parser.parse_args(arguments)
  return command_line.exit_status(functools.partial(_run, asked))


def _run(asked: Any) -> int:
  # Mistakes are reported before any work.
  rounds = [(batch, _networks(asked, size)) for batch in asked.batch for size in asked.size]
  report = measure.Report('retrain_step')
  for batch, found in rounds:
    rivals = {
      (network, dtype): (start, network, batch, dtype, asked.cache, asked.augment)
      for network in found
      for dtype in asked.dtype
    }
    for (network, dtype), figures in contenders.race(rivals, repeats=asked.repeats).items():
      line = measure.step_line(figures)
      if 'error' not in figures:
        count, macs = figures['parameters'], figures['macs'] / 1e9
        line = f'{count:,} parameters, {macs:.2f} G MACs a slice, {line}'
      settings = {**network.describe(), 'batch': batch, 'dtype': dtype}
      settings['augment'] = asked.augment
      report.add(settings, figures, line)
  return report.end()


def _networks(asked: Any, size: int) -> list[networks.Network]:
  """Returns the networks of the options; one of a genotype always has norms and appears once."""
  return [
    networks.of(asked, name, size, norm)
    for name in asked.model
    for norm in (asked.norm if name in networks.BASELINES else ['group'])
  ]


def start(
  network: networks.Network, batch: int, dtype: str, cache: str, augmented: bool = False
) -> tuple[dict[str, Any], contenders.Turn]:
  """Starts a contender, see `contenders.race`."""
  began = time.perf_counter()
  config = configs.default()
  config.compilation_cache = cache
  device.prepare(config)
  member, size = network.member(), network.size
  net = member.module
  facts = Facts(seed_bits(0), {}, 100, make_schedule(config.retrain, config.retrain.epochs))
  transformation, _ = train_step.optimizer(config.retrain, facts)
  image = jax.ShapeDtypeStruct((batch, size, size, 1), np.float32)
  state, _ = train_step.init_state(net, transformation, image, seed=0)
  state = jax.block_until_ready(state)
  started = time.perf_counter() - began

  def augment(key: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    if not augmented:
      return batch
    mean, std = (jnp.full(1, value) for value in (networks.MEAN, networks.STD))
    image, label = augmentation.augment(
      key, batch['image'], batch['label'], settings=config.augment, mean=mean, std=std
    )
    return {'image': image, 'label': label}

  step = train_step.make_train_step(
    net,
    transformation,
    augment=augment,
    average_decay=config.retrain.ema_decay,
    seed=0,
    background=member.spec.background,
  )
  image = jax.ShapeDtypeStruct(image.shape, jnp.dtype(dtype))  # layers follow it
  label = jax.ShapeDtypeStruct(image.shape[:3], np.int32)
  program = jax.jit(step, donate_argnums=0), (state, {'image': image, 'label': label})
  (compiled,), figures = measure.compile_all([program])
  rng = np.random.default_rng(0)
  slices = {
    'image': jnp.asarray(rng.normal(size=image.shape), image.dtype),
    'label': jnp.asarray(rng.integers(0, 2, label.shape), jnp.int32),
  }

  def turn() -> dict[str, float]:
    nonlocal state
    seconds, state = measure.timed(compiled, state, slices)
    return {'step_s': seconds}

  figures |= {
    'parameters': build.count(state.params),
    'macs': layers.macs(net, (size, size, 1)),
    'start_s': started,
  }
  return figures, turn


if __name__ == '__main__':
  sys.exit(main())
