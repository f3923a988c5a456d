"""Measures the bilevel step of the search: seconds, memory, and the wait before the first one.

    python -m benchmarks.search_step --channels 32 --batch 4 --size 128 --against=plain
    python -m benchmarks.search_step --channels 8 16 32 64 --nodes 1 2 --size 64 128 256
    python -m benchmarks.search_step --channels 8 --size 64 --batch 8 --devices 1 2 4 8

A step is both halves, that of the architecture and that of the weights, first order, on synthetic
slices, without augmentation. Every combination of the options is a measurement. Each contender runs
in a process of its own; they take turns. --against=plain adds the supernet written with flax's own
layers, one module a candidate (benchmarks/plain_supernet.py), with JAX's defaults; plain_prepared
is the same after device.prepare, which changes the allocation of memory. --devices has one
contender for each number of devices that share the batch; a CPU simulates them on its cores, which
shows the cost of sharing and not its gain.
"""

import functools
import itertools
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import contenders, measure
from benchmarks.plain_supernet import PlainSupernet
from thrifty_jax import config as configs
from thrifty_jax import device
from thrifty_jax.data import mesh
from thrifty_jax.networks import build
from thrifty_jax.networks.grid import Supernet
from thrifty_jax.searching import bilevel
from thrifty_jax.training import compiling
from thrifty_jax.training.train_data import seed_bits

OURS = 'supernet'
COMPILE = functools.partial(compiling.compile_step, lean=True)  # as the search does
RIVALS = ('plain', 'plain_prepared')


class Contender(NamedTuple):
  """A supernet and the number of devices it is measured on."""

  contender: str
  devices: int = 1  # number that share a batch


class Setting(NamedTuple):
  """Settings of a measurement."""

  channels: int
  batch: int
  size: int
  nodes: int
  depth: int
  dtype: str


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = measure.parser(__doc__)
  measure.several(parser, 'channels', 32)
  measure.several(parser, 'batch', 4)
  measure.several(parser, 'size', 128, help='of the square slices; a multiple of 2^depth')
  measure.several(parser, 'nodes', 2)
  measure.several(parser, 'depth', 5)
  measure.dtypes(parser)
  parser.add_argument('--against', nargs='+', choices=RIVALS, default=[])
  measure.several(parser, 'devices', 1, help='that share the batch')
  parser.add_argument('--cache', default='', help="folder of compiled programs; '' is none")
  asked = parser.parse_args(arguments)
  for size, depth in itertools.product(asked.size, asked.depth):
    if size % 2**depth:
      parser.error(f'--size {size} is not a multiple of {2**depth}, as --depth {depth} needs')
  for channels in asked.channels:
    if channels % 4:
      parser.error(f'--channels {channels} is not a multiple of 4: one in 4 is sampled')
  for batch, devices in itertools.product(asked.batch, asked.devices):
    if batch % devices:
      parser.error(f'--batch {batch} is not a multiple of --devices {devices}, which share it')
  report = measure.Report('search_step')
  for values in itertools.product(*(getattr(asked, name) for name in Setting._fields)):
    setting = Setting(*values)
    who = [Contender(OURS, count) for count in dict.fromkeys(asked.devices)]
    who += [Contender(name) for name in dict.fromkeys(asked.against)]
    starts = {one: (start, setting, one, asked.cache) for one in who}
    for one, figures in contenders.race(starts, repeats=asked.repeats).items():
      report.add({**one._asdict(), **setting._asdict()}, figures, measure.step_line(figures))
  return report.end()


def start(setting: Setting, who: Contender, cache: str) -> tuple[dict[str, Any], contenders.Turn]:
  """Starts a contender, see `contenders.race`."""
  if who.devices > 1:
    jax.config.update('jax_num_cpu_devices', who.devices)
  if who.contender == 'plain':
    jax.config.update('jax_compilation_cache_dir', cache or None)
  else:
    config = configs.default()
    config.compilation_cache = cache
    device.prepare(config)
  return compiled_step(setting, who)


def compiled_step(setting: Setting, who: Contender) -> tuple[dict[str, Any], contenders.Turn]:
  """Returns the figures of the start, and a turn that steps and changes its state."""
  began = time.perf_counter()
  config = configs.default()
  config.devices = who.devices
  shared = mesh.make_mesh(config)
  learners = make_learners(setting, plain=who.contender != OURS)
  batch = mesh.place(made_up_batch(setting), mesh.split(shared))
  shapes = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), batch
  )
  image = jax.ShapeDtypeStruct(batch['image'].shape, batch['image'].dtype)
  state = bilevel.init_state(learners, image, seed=0)
  state, seed = mesh.place((state, seed_bits(0)), mesh.whole(shared))
  state = jax.block_until_ready(state)
  started = time.perf_counter() - began
  weight_half, architecture_half = (
    jax.jit(mesh.replicate(half, shared))
    for half in bilevel.make_half_steps(learners, augment=lambda key, batch: batch)
  )
  (weight_step, architecture_step), figures = measure.compile_all(
    [(weight_half, (seed, state, shapes)), (architecture_half, (seed, state, shapes, shapes))],
    jax.stages.Lowered.compile if who.contender == 'plain' else COMPILE,
  )

  weight_step, architecture_step = (
    functools.partial(step, seed) for step in (weight_step, architecture_step)
  )

  def turn() -> dict[str, float]:
    nonlocal state
    architecture, state = measure.timed(architecture_step, state, batch, batch)
    weights, state = measure.timed(weight_step, state, batch)
    return {'step_s': architecture + weights, 'architecture_s': architecture, 'weights_s': weights}

  return {'parameters': build.count(state.params), 'start_s': started, **figures}, turn


def make_learners(setting: Setting, *, plain: bool = False) -> bilevel.Learners:
  """Returns the supernet, ours or the plain one, with the optimisers of the default config."""
  settings = configs.default().search
  sizes = {'channels': setting.channels, 'depth': setting.depth, 'nodes': setting.nodes}
  if plain:
    net = PlainSupernet(classes=2, sample=settings.sample, dtype=jnp.dtype(setting.dtype), **sizes)
  else:
    net = Supernet(classes=2, sample=settings.sample, **sizes)
  return bilevel.Learners(
    cast(Supernet, net),
    np.zeros(1, np.float32),
    bilevel.weight_optimizer(settings, steps=1000),
    bilevel.architecture_optimizer(settings),
  )


def made_up_batch(setting: Setting) -> dict[str, jax.Array]:
  """Returns noise in place of slices and masks, on the device."""
  rng = np.random.default_rng(0)
  shape = (setting.batch, setting.size, setting.size)
  return {
    'image': jnp.asarray(rng.normal(size=(*shape, 1)), setting.dtype),
    'label': jnp.asarray(rng.integers(0, 2, shape), jnp.int32),
  }


if __name__ == '__main__':
  sys.exit(main())
