"""Measures slices a second from disk to augmented batches, and a search step's wait for them.

    python -m benchmarks.input_pipeline --size 256 --batch 12 --channels 32

Generated scans are prepared as TFDS slices in a temporary folder. Resident slices lie on the
device, like those of a split that fits config.data.device_budget_bytes; streamed ones are read from
disk for every batch, ahead of the device. The rate includes the default augmentation. `wait_share`
is the share of a search step's time that is due to the pipeline, measured by steps on batches that
it delivers against steps on the same repeated batches. If reading takes cores from the step, as on
a CPU, that is included.
"""

import dataclasses
import functools
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import contenders, measure
from benchmarks.search_step import COMPILE, Setting, make_learners
from data_prep import phantom, prepare
from thrifty_jax import config as configs
from thrifty_jax import device
from thrifty_jax.data import data_file
from thrifty_jax.data.batching import Batch
from thrifty_jax.running import command_line
from thrifty_jax.searching import bilevel
from thrifty_jax.training import train_data
from thrifty_jax.training.train_data import TrainData, seed_bits

PLACES = {'resident': configs.default().data.device_budget_bytes, 'streamed': 0}
PATIENTS = 12


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = measure.parser(__doc__)
  for name, default in (('channels', 32), ('batch', 4), ('size', 128), ('nodes', 2), ('depth', 5)):
    parser.add_argument(f'--{name}', type=measure.positive, default=default)
  parser.add_argument('--steps', type=measure.positive, default=10, help='of a repeat')
  parser.add_argument('--cache', default='', help="folder of compiled programs; '' is none")
  asked = parser.parse_args(arguments)
  return command_line.exit_status(functools.partial(_run, asked))


def _run(asked: Any) -> int:
  report = measure.Report('input_pipeline')
  fields = {name: getattr(asked, name) for name in Setting._fields if name != 'dtype'}
  setting = Setting(**fields, dtype='float32')
  with tempfile.TemporaryDirectory() as folder:
    config = phantom_config(Path(folder), asked.size, asked.depth)
    data_file.write(Path(folder), prepare.prepare(config), config.data)
    made = (start, setting, folder, asked.steps, asked.cache)
    found = contenders.race({'pipeline': made}, repeats=asked.repeats, turn='turn')
  figures = found['pipeline']
  common = {
    name: value for name, value in figures.items() if not name.startswith(('median_', 'relative_'))
  }
  for place in PLACES:
    own = {} if 'error' in figures else _figures(figures, place, asked)
    report.add({'slices': place, **fields}, {**common, **own}, _line(own))
  return report.end()


def phantom_config(folder: Path, size: int, depth: int) -> ConfigDict:
  """Returns the settings of a run on scans that are generated in the folder if missing."""
  config = configs.default()
  config.data.update({'name': 'phantom', 'classes': ('background', 'organ'), 'image_size': size})
  config.data.raw_dir, config.data.data_dir = str(folder / 'raw'), str(folder / 'tfds')
  config.model.depth = depth
  if not (folder / 'raw').exists():
    phantom.write_promise12(folder / 'raw', patients=PATIENTS, seed=0)
  return config


def start(
  setting: Setting, folder: str, steps: int, cache: str
) -> tuple[dict[str, Any], contenders.Turn]:
  """Starts the contender, see `contenders.race`; its parts are named <what>_<place>_s."""
  config = phantom_config(Path(folder), setting.size, setting.depth)
  config.compilation_cache = cache
  device.prepare(config)
  opened = train_data.open_train_data(config, Path(folder))
  augment = jax.jit(opened.augment)
  learners = make_learners(setting)
  state = bilevel.init_state(learners, opened.image_shape(setting.batch), seed=0)
  halves = bilevel.make_half_steps(learners, augment=lambda key, batch: batch)
  seed, shapes = seed_bits(0), opened.batch_shape(setting.batch)
  weight_half, architecture_half = map(jax.jit, halves)
  (weight_step, architecture_step), figures = measure.compile_all(
    [(weight_half, (seed, state, shapes)), (architecture_half, (seed, state, shapes, shapes))],
    COMPILE,
  )
  sources = {place: _source(opened, budget, setting.batch) for place, budget in PLACES.items()}
  repeated = next(sources['resident']), next(sources['resident'])

  def read(source: Iterator[Batch]) -> None:
    for batch in itertools.islice(source, steps):
      jax.block_until_ready(augment(jax.random.key(0), batch))

  def step(source: Iterator[Batch]) -> None:
    at, pending = state, {}
    for _ in range(steps):
      for_weights, for_architecture = next(source), next(source)
      at, _ = architecture_step(seed, at, for_weights, for_architecture)
      at, figures = weight_step(seed, at, for_weights)
      jax.device_get(pending)  # a step late, as the search reads them
      pending = figures
    jax.block_until_ready(at)

  def turn() -> dict[str, float]:
    seconds = {f'read_{place}_s': _seconds(read, one) for place, one in sources.items()}
    seconds |= {f'fed_{place}_s': _seconds(step, one) for place, one in sources.items()}
    return {**seconds, 'repeated_s': _seconds(step, itertools.cycle(repeated))}

  slices = len(opened.examples(opened.patients['train']))
  return {'training_slices': slices, **figures}, turn


def _source(opened: TrainData, budget_bytes: int, batch_size: int) -> Iterator[Batch]:
  """Yields batches of the training patients, epoch after epoch."""
  settings = opened.config.copy_and_resolve_references()
  settings.data.device_budget_bytes = budget_bytes
  own = dataclasses.replace(opened, config=settings)
  epochs = own.epochs(own.patients['train'], batch_size=batch_size, seed=0)
  for epoch in itertools.count():
    yield from epochs.batches(epoch)


def _seconds(work: Callable[[Iterator[Batch]], None], source: Iterator[Batch]) -> float:
  began = time.perf_counter()
  work(source)
  return time.perf_counter() - began


def _figures(figures: dict[str, Any], place: str, asked: Any) -> dict[str, Any]:
  """Returns the figures of one place, from the medians of the parts."""
  fed, repeated = figures[f'median_fed_{place}_s'], figures['median_repeated_s']
  return {
    'slices_per_s': asked.batch * asked.steps / figures[f'median_read_{place}_s'],
    'median_step_s': fed / asked.steps,
    'median_step_without_s': repeated / asked.steps,
    'wait_share': 1 - repeated / fed,
  }


def _line(own: dict[str, Any]) -> str:
  if not own:
    return ''
  return (
    f'{own["slices_per_s"]:.0f} slices a second, augmented; step {own["median_step_s"]:.3f} s, '
    f'{100 * own["wait_share"]:.1f} % of it for the pipeline'
  )


if __name__ == '__main__':
  sys.exit(main())
