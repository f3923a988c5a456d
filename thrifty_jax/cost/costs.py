"""What a network costs: milliseconds for a slice, and the figures beside them."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from thrifty_jax import logbook
from thrifty_jax.cost import machine, runtimes, stopwatch
from thrifty_jax.cost.runtimes import Started, Way
from thrifty_jax.errors import InputError
from thrifty_jax.model_folder import LoadedModel
from thrifty_jax.networks import build, layers
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.networks.model_spec import ModelSpec
from thrifty_jax.scores import tables

CALIBRATED = 4  # images that 8 bits are calibrated on; their scales do not change the time


@dataclasses.dataclass(frozen=True)
class Cost:
  """What one network costs in one runtime.

  Attributes:
    name: Name of the network, such as its file.
    title: Short description of the network.
    space: Space of its genotype, thrifty or lean, or baseline.
    parameters: Number of parameters.
    macs: Multiplications to predict a slice.
    activation_bytes: Temporary memory that XLA plans for a slice; None if it does not report it, or
      it was not asked for.
    size: Side of the slice in pixels.
    runtime, precision: How the network ran.
    threads: Number of threads that it ran on.
    ms: Median time of a slice in milliseconds.
    ms_spread: Interquartile range of the times over their median.
    file_bytes: Size of the exported file; None for JAX.
    machine: Processor.
  """

  name: str
  title: str
  space: str
  parameters: int
  macs: int
  activation_bytes: int | None
  size: int
  runtime: str
  precision: str
  threads: int
  ms: float
  ms_spread: float
  file_bytes: int | None
  machine: str


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A network whose cost is asked for, by its name."""

  name: str
  member: LoadedModel


def make_random(spec: ModelSpec, genotype: Genotype | LeanShape | None) -> LoadedModel:
  """Returns a network with random weights, whose cost is that of a trained one."""
  shapes = build.find_shapes(build.build(spec, genotype), spec.image_channels)
  return LoadedModel(spec, genotype, '', build.initialise(shapes, seed=0))


def resize(candidate: Candidate, size: int) -> Candidate:
  """Returns the network for slices of another side, in pixels.

  Raises:
    InputError: If a slice is too small for the network's levels.
  """
  member = candidate.member
  least = 2**member.module.depth  # pyrefly: ignore[missing-attribute]
  if size < least:
    raise InputError(
      f'{candidate.name}: a slice of {size} x {size} pixels is too small, as the network halves it '
      f'{member.module.depth} times; expected a size of {least} or more'  # pyrefly: ignore[missing-attribute]
    )
  image = dataclasses.replace(member.spec.image, image_size=size)
  spec = dataclasses.replace(member.spec, image=image)
  return Candidate(candidate.name, dataclasses.replace(member, spec=spec))


def measure(
  candidates: Sequence[Candidate],
  ways: Sequence[Way],
  *,
  threads: int = 1,
  repeats: int,
  most_spread: float,
  activations: bool = True,
) -> list[Cost]:
  """Measures what networks cost, a slice at a time, and returns the fastest first.

  Args:
    candidates: Networks with different names, for slices of the size that is asked for.
    ways: Ways to run them, see runtimes.choose.
    threads: Number of threads.
    repeats: Number of timed runs of each.
    most_spread: Largest spread, see stopwatch.time_in_turns.
    activations: Whether XLA plans the memory, which takes a second or more for each network.
  """
  runtimes.require_installed(ways)
  began: dict[str, tuple[Candidate, Started]] = {}
  inputs: dict[str, np.ndarray] = {}
  with logbook.progress(len(candidates) + stopwatch.count_turns(repeats), 'cost') as bar:
    for candidate in candidates:
      spec = candidate.member.spec
      images = make_images(CALIBRATED, spec.image_channels, spec.image.image_size)
      for one in runtimes.start(candidate.member, ways, threads=threads, images=images):
        label = f'{candidate.name} in {one.way.runtime} {one.way.precision}'
        began[label], inputs[label] = (candidate, one), images[:1]
        # OpenVINO keeps to the cores that the process has at its first run, and leaves its caller
        # on them ever after; so that is not while threads are held.
        one.run(images[:1])
      bar.update(1)
    with contextlib.ExitStack() as stack:
      if any(way.runtime == 'jax' for way in ways):
        stack.enter_context(machine.hold_on_cores(threads))
      timings = stopwatch.time_in_turns(
        {label: _call(one, inputs[label]) for label, (_, one) in began.items()},
        repeats=repeats,
        most_spread=most_spread,
        after_turn=lambda: bar.update(1),
      )
  facts = {one.name: _describe(one.member, activations=activations) for one in candidates}
  costs = [
    Cost(
      name=candidate.name,
      **facts[candidate.name],
      **dataclasses.asdict(one.way),
      threads=threads,
      ms=1e3 * timings[label].seconds,
      ms_spread=timings[label].spread,
      file_bytes=one.file_bytes,
      machine=machine.describe(),
    )
    for label, (candidate, one) in began.items()
  ]
  return sorted(costs, key=lambda cost: cost.ms)


def _call(one: Started, image: np.ndarray) -> Any:
  return lambda: one.run(image)


def _describe(member: LoadedModel, *, activations: bool) -> dict[str, Any]:
  """Returns the fields of `Cost` that do not depend on the runtime."""
  spec, genotype = member.spec, member.genotype
  size, network = spec.image.image_size, spec.network
  image = (size, size, spec.image_channels)
  match genotype:
    case LeanShape():
      title = genotype.title
    case Genotype():
      title = f'thrifty {network.channels}, depth {network.depth}'
      title += ', batch norm' if network.norm == 'batch' else ''
    case None:
      title = f'{network.name} {network.width}'
  return {
    'title': title,
    'space': network.name if genotype else 'baseline',
    'parameters': member.parameters,
    'macs': layers.macs(member.module, image),
    'activation_bytes': layers.activation_bytes(member.module, image) if activations else None,
    'size': size,
  }


def make_images(count: int, channels: int, size: int) -> np.ndarray:
  """Returns smooth noise, [N, C, S, S], float32 in [0, 1]; times do not depend on the image."""
  noise = np.random.default_rng(0).random((count, channels, size, size))
  smooth = ndimage.gaussian_filter(noise, (0, 0, 3, 3))
  return np.clip(6 * smooth - 2.5, 0, 1).astype(np.float32)


def format_table(costs: Sequence[Cost]) -> list[str]:
  """Formats a line for each cost."""
  names = ('network', 'title', 'runtime', 'precision')
  rows = [(*names, 'ms', 'spread', 'parameters', 'MACs (M)', 'file (KiB)')]
  for cost in costs:
    file = '–' if cost.file_bytes is None else f'{cost.file_bytes / 1024:,.0f}'
    figures = (f'{cost.ms:.2f}', f'{100 * cost.ms_spread:.0f} %', f'{cost.parameters:,}')
    ran = (cost.name, cost.title, cost.runtime, cost.precision)
    rows.append((*ran, *figures, f'{cost.macs / 1e6:,.1f}', file))
  return tables.align(rows, left=len(names))
