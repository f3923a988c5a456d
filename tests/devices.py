"""A search and a retraining on 1, 2 and 8 devices, in a process of its own that has 8.

  python tests/devices.py FOLDER

FOLDER is there, and empty. The last line is JSON: by the name of each run how far its numbers are
from those of one device, see `RUNS`; the same under 'whole space' of a step with all operations,
which the runs have few of; and 'refused', what was said to commands that cannot be. The run on one
device stays in FOLDER/one.
"""

import contextlib
import functools
import io
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

PROJECT = Path(__file__).resolve().parents[1]
if __name__ == '__main__':
  os.environ['XLA_FLAGS'] = ' '.join(
    (os.environ.get('XLA_FLAGS', ''), '--xla_force_host_platform_device_count=8')
  )
  os.environ['JAX_PLATFORMS'] = 'cpu'
  os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
  sys.path.insert(0, str(PROJECT))

import interrupted  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import safetensors.numpy  # noqa: E402
from few_operations import FEW  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402
from recorded import prepare_for  # noqa: E402

from configs.phantom import get_config  # noqa: E402
from data_prep import phantom  # noqa: E402
from thrifty_jax import device, main, stopping  # noqa: E402
from thrifty_jax.data import mesh  # noqa: E402
from thrifty_jax.networks import genotype, lean  # noqa: E402
from thrifty_jax.searching import search, steps  # noqa: E402
from thrifty_jax.training import retrain, train_data  # noqa: E402
from thrifty_jax.training.compiling import Program  # noqa: E402

SETTINGS = {
  'data.image_size': 16,
  'data.folds': 3,
  'data.context': 1,
  'augment.elastic_probability': 0.0,
  'model.channels': 4,
  'model.nodes': 1,
  'search.channels': 4,
  'search.operations': FEW,
  'search.epochs': 3,
  'search.warmup_epochs': 1,
  'retrain.epochs': 3,
  'retrain.validate_every': 1,
  'evaluate.batch_size': 5,  # of which no number of devices has an even share
}
# What devices send one another, as XLA's text of a program has it.
EXCHANGE = r' (all-[a-z]+|collective-[a-z]+|reduce-scatter)(?:-start)?\('
# Devices that a search and a retraining have, and those that they go on with after a step; the runs
# without a search retrain the network that one device has found.
RUNS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
  'one': ((1,), (1,)),
  'two': ((), (2,)),
  'eight': ((8,), (8,)),
  'changed': ((8, 1, 8), (1, 8)),
}


def settings_of(place: Path) -> dict[str, Any]:
  """The fields of the config that differ from configs/phantom.py."""
  return SETTINGS | {
    'data.raw_dir': f'{place}/raw',
    'data.data_dir': f'{place}/tfds',
    'compilation_cache': f'{place}/xla',
  }


def config_of(place: Path) -> ConfigDict:
  """The config of the runs."""
  config = get_config()
  config.update_from_flattened_dict(settings_of(place))
  return config


def figures(folder: Path) -> dict[str, np.ndarray]:
  """Every number in the folder of a training: of its epochs and of its last state."""
  found = {}
  for line in (folder / 'metrics.jsonl').read_text().splitlines():
    entry = json.loads(line)
    for name in sorted({*entry} - {'seconds'}):
      if entry[name] is not None:
        found[f'{entry["epoch"]} {name}'] = np.hstack(
          [np.ravel(part) for part in entry[name]]
          if isinstance(entry[name], list)
          else [entry[name]]
        )
  return found | interrupted.last_state(folder / 'checkpoints')


def difference_of_trainings(found: Path, expected: Path) -> float:
  """Largest difference of two such folders; infinite where one has more than the other."""
  one, other = (genotype.load(folder / 'genotype.json') for folder in (found, expected))
  return _largest(figures(found), figures(expected)) if one == other else float('inf')


def largest_difference(found: Path, expected: Path) -> float:
  """Between two runs, of any number; infinite where one leaves more than the other."""
  models = [
    safetensors.numpy.load_file(run / 'model' / 'weights.safetensors') for run in (found, expected)
  ]
  stages = (
    difference_of_trainings(found / stage, expected / stage) for stage in ('search', 'retrain')
  )
  return max(_largest(*models), *stages)


def _largest(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
  if one.keys() != other.keys():
    return float('inf')
  return max(float(np.max(np.abs(one[name] - other[name]), initial=0.0)) for name in one)


@contextlib.contextmanager
def stopped_after(steps: int):
  """A signal to stop arrives after so many steps of the body, which saves and stops."""
  add, taken = train_data.Figures.add, set()

  def counted(figures, number, metrics):
    taken.add(number)
    add(figures, number, metrics)

  def requested():
    return signal.SIGTERM if len(taken) >= steps else 0

  with (
    mock.patch.object(train_data.Figures, 'add', counted),
    mock.patch.object(stopping, 'requested', requested),
    contextlib.suppress(stopping.Stopped),
  ):
    yield
    raise AssertionError('was not stopped')


def run(place: Path, name: str) -> None:
  """A search and a retraining on the devices of a run."""
  config, workdir = config_of(place), place / name
  if not RUNS[name][0]:
    shutil.copytree(place / 'one' / 'search', workdir / 'search')
  for train, devices in zip((search_once_compiled, retrain.retrain), RUNS[name], strict=True):
    for number, config.devices in enumerate(devices, start=1):
      with stopped_after(1) if number < len(devices) else contextlib.nullcontext():
        train(config, workdir)


def search_once_compiled(config: ConfigDict, workdir: Path) -> None:
  """A search with the steps of the others on as many devices."""
  search.search(config, workdir, programs=programs_on(workdir.parent, config.devices))


@functools.cache
def programs_on(place: Path, devices: int) -> list[Program]:
  """The half steps of the search on so many devices, compiled once: no run changes them."""
  config = config_of(place)
  config.devices = devices
  halves = steps.divide(config, train_data.open_train_data(config, place / 'one'), seed=config.seed)
  return steps.compile_steps(config, halves, *steps.start(config, halves))


def is_same_streamed(place: Path) -> bool:
  """Whether batches that are read as they are needed are those of slices on all devices."""
  config, found = config_of(place), []
  for config.data.device_budget_bytes in (1 << 30, 0):
    opened = train_data.open_train_data(config, place / 'one')
    epochs = opened.epochs(opened.patients['train'], batch_size=8, seed=0)
    found.append(list(epochs.batches(1)))
  batches, shape = [jax.device_get(one) for one in found], opened.batch_shape(8)
  assert all(batch[name].sharding == shape[name].sharding for batch in found[1] for name in batch)
  assert len(shape['image'].sharding.device_set) == 8
  return all(
    np.array_equal(one[name], other[name])
    for one, other in zip(*batches, strict=True)
    for name in one
  )


def step_in_whole_space(place: Path) -> tuple[float, list[str]]:
  """A step of both halves of a search with all operations, on 1 device and on 8.

  Returns:
    How far the states after it are from each other, and the programs of 8 devices.
  """
  config, states, texts = config_of(place), [], []
  config.search.operations, config.model.depth = (), 2
  for config.devices in (1, 8):
    opened = train_data.open_train_data(config, place / 'one')
    halves = steps.divide(config, opened, seed=config.seed)
    state, facts = steps.start(config, halves)
    weights, architecture = steps.compile_steps(config, halves, state, facts)
    batches = next(halves.batches(0, first=0))
    state, _ = architecture(state, facts, *batches)
    state, _ = weights(state, facts, batches[0])
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(state))
    states.append({jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})
    texts = [step.wait().as_text() or '' for step in (weights, architecture)]
  return _largest(*states), texts


def gradient_of_upsampling() -> str:
  """The program of the gradient through a bilinear upsampling of a batch on all devices."""
  x = jax.ShapeDtypeStruct((8, 4, 4, 2), np.float32, sharding=mesh.split(mesh.make_full_mesh()))
  program = jax.jit(jax.grad(lambda x: (lean.bilinear_up(x) ** 2).sum())).lower(x).compile()
  return program.as_text() or ''


def refused(place: Path, *arguments: str) -> list[Any]:
  """The status of a command, and what it says."""
  said = io.StringIO()
  fields = [f'--config.{name}={value}' for name, value in settings_of(place).items()]
  with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
    status = main.main(
      [
        f'--config={PROJECT}/configs/phantom.py',
        f'--workdir={place}/refused',
        *fields,
        *arguments,
      ]
    )
  return [status, said.getvalue(), (place / 'refused').exists()]


def main_(place: Path) -> None:
  """Prepares, runs, compares."""
  phantom.write_promise12(place / 'raw', patients=12, seed=0)
  prepare_for(config_of(place), *(place / name for name in RUNS))
  device.prepare(config_of(place))
  found: dict[str, Any] = {'streamed as resident': is_same_streamed(place)}
  for name in RUNS:
    run(place, name)
    found[name] = largest_difference(place / name, place / 'one')
  found['whole space'], texts = step_in_whole_space(place)
  texts += [step.wait().as_text() or '' for step in programs_on(place, 8)]
  found['exchanges'] = [re.findall(EXCHANGE, text) for text in texts]
  found['upsampling'] = re.findall(EXCHANGE, gradient_of_upsampling())
  found['refused'] = [
    refused(place, '--config.search.batch_size=12'),
    refused(place, '--config.retrain.batch_size=5'),
    refused(place, '--config.devices=9'),
    # A race trains with the slices a step of a retraining, and not with those of a search.
    refused(
      place,
      '--config.model.name=lean',
      '--config.search.batch_size=12',
      '--config.retrain.batch_size=5',
    ),
  ]
  print(json.dumps(found))


if __name__ == '__main__':
  main_(Path(sys.argv[1]))
