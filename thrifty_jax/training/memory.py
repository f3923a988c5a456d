"""Checks before the first step of a stage that it fits in memory, and suggests what would fit."""

import contextlib
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import logbook
from thrifty_jax.data.batching import Examples
from thrifty_jax.device import give_back_memory
from thrifty_jax.errors import InputError
from thrifty_jax.training.resources import read_kilobytes

_MEMINFO, _STATUS = Path('/proc/meminfo'), Path('/proc/self/status')
_WIDTH = {'search': 'config.search.channels', 'retrain': 'network'}  # what else to make smaller
_TRAINING = ('search', 'retrain', 'compare', 'front', 'planes', 'sizes')  # stages that train
_CGROUPS, _OWN_CGROUP = Path('/sys/fs/cgroup'), Path('/proc/self/cgroup')


class Need(NamedTuple):
  """Memory that a step needs, in bytes."""

  fixed: int  # state, batch and results, counted once if they share memory
  temporary: int  # planned by XLA; nearly all of it grows with the examples in a microbatch
  resident: int  # slices kept on the device


class Room(NamedTuple):
  """Memory that a stage may use, in bytes."""

  most: int  # total of the device, the machine or the control groups of the process
  now: int  # currently not used by other processes
  where: str  # name of the memory, for messages


def require_fit(
  step: Any,
  config: ConfigDict,
  stage: str,
  *,
  examples: Sequence[Examples] = (),
  room: Room | None = None,
  quiet: bool = False,
) -> None:
  """Checks that a compiled step can fit in memory; prints a warning if it does not fit at present.

  `examples` are the slices of the batches, which are kept on the devices if they fit. Without
  `room` the devices of the step are asked. If the step fits, `quiet` prints nothing.

  Raises:
    InputError: If it cannot fit; the message has the memory needed and the least change that fits.
  """
  devices = _devices_of(step)
  on_cpu = devices[0].platform == 'cpu'
  need = _need(step, examples, copies=len(devices) if on_cpu else 1)
  room = room or (cpu_room() if on_cpu else accelerator_room(devices))
  if need is None or room is None:  # XLA or the device does not report it
    return
  text = f'a step needs {_in_words(sum(need))} of {room.where}, which has'
  if sum(need) > room.most:
    remedy = _remedy(config, stage, need, room.most, on_cpu=on_cpu)
    raise InputError(f'{stage}: {text} {_in_words(room.most)}; {remedy}')
  if sum(need) > room.now:
    remedy = _remedy(config, stage, need, room.now, on_cpu=on_cpu)
    logbook.say('memory', f'{text} {_in_words(room.now)} left now; {remedy}')
  elif not quiet:
    logbook.say('memory', f'{text} {_in_words(room.most)}')


@contextlib.contextmanager
def explain_exhaustion(config: ConfigDict, stage: str) -> Generator[None]:
  """Raises InputError with what to change if JAX raises RESOURCE_EXHAUSTED in the body."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    reason = str(error)
    if 'RESOURCE_EXHAUSTED' not in reason:
      raise
    reason = ' '.join(reason.removeprefix('RESOURCE_EXHAUSTED:').split())
    raise InputError(f'{stage}: out of memory ({reason:.160}); {_advice(config, stage)}') from error


def accelerator_room(devices: Sequence[Any]) -> Room | None:
  """Returns JAX's share of the smallest device, by default 75 % of a GPU; None if it is unknown."""
  limits: list[Any] = [(device.memory_stats() or {}).get('bytes_limit') for device in devices]
  if not all(limits):
    return None
  return Room(min(limits), min(limits), f"JAX's share of {devices[0].device_kind}")


def cpu_room() -> Room:
  """Returns the memory of this machine, or of the control groups of the process if it is less.

  Memory that the process already holds counts as free: its allocator reuses it.
  """
  most = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  now = read_kilobytes(_MEMINFO, 'MemAvailable:', otherwise=most)
  for limit, used in _control_groups():
    most, now = min(most, limit), min(now, limit - used)
  now = max(0, now) + read_kilobytes(_STATUS, 'VmRSS:', otherwise=0)
  return Room(most, min(most, now), 'the memory here')


def _need(step: Any, examples: Sequence[Examples], *, copies: int) -> Need | None:
  """Returns the memory of a step if XLA reports it; `copies` devices share one memory."""
  plan = step.memory_analysis()
  give_back_memory()  # the analysis describes every buffer: 80 MiB for a search's program
  if not plan:
    return None
  return Need(
    copies * (plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes),
    copies * plan.temp_size_in_bytes,
    copies * sum(each.bytes for each in examples if each.bytes <= each.budget_bytes),
  )


def _remedy(config: ConfigDict, stage: str, need: Need, room: int, *, on_cpu: bool) -> str:
  """Returns the least change that fits: temporary memory falls with the size of a microbatch."""
  settings, whole = config[stage], _is_whole(config, stage)
  streaming = ' --config.data.device_budget_bytes=0' if need.resident else ''
  changes = [(settings.microbatches, 0, streaming)] if streaming else []
  for resident, flag in ((need.resident, ''), (0, streaming)):
    changes += [(parts, resident, flag) for parts in _finer(settings, whole=whole)]
  for parts, resident, flag in changes:
    about = need.fixed + resident + need.temporary * settings.microbatches // parts
    if about <= room:
      finer = f' --config.{stage}.microbatches={parts}' if parts > settings.microbatches else ''
      return f'set{finer}{flag}, which needs about {_in_words(about)}'
  finest = f'microbatches of one slice are too large; set{streaming}'
  if whole:
    finest = f'set --config.retrain.batch_size={max(1, settings.batch_size // 2)}, or{streaming}'
  if not (on_cpu or settings.remat):  # XLA for the CPU undoes it
    finest += f' --config.{stage}.remat=True, or'
  smaller = f'a smaller config.data.image_size or {_WIDTH[stage]}'
  # A training that has a checkpoint refuses these, see stages.refuse_changes.
  return f'{finest} {smaller}, in another --workdir if {stage} is half done'


def _advice(config: ConfigDict, stage: str) -> str:
  """Returns the changes to try if it is only known that memory ran out."""
  smaller = f'set --config.evaluate.batch_size={max(1, config.evaluate.batch_size // 2)}'
  if stage not in _TRAINING:
    return smaller
  section = 'search' if stage == 'search' and configs.searches_cells(config) else 'retrain'
  settings, whole = config[section], stage == 'front' or _is_whole(config, section)
  finer = _finer(settings, whole=whole)[:1]
  going_on = [f'set --config.{section}.microbatches={parts}' for parts in finer]
  if not settings.remat and jax.default_backend() != 'cpu':
    going_on.append(f'set --config.{section}.remat=True')
  if section == 'retrain':
    going_on.append(f'{smaller} if it was validating')
  anew = []  # a training that has a checkpoint refuses these, see stages.refuse_changes
  if whole:
    anew.append(f'set --config.retrain.batch_size={max(1, settings.batch_size // 2)}')
  anew.append(f'take a smaller config.data.image_size or {_WIDTH[section]}')
  ways = [f'in another --workdir {", or ".join(anew)}']
  if going_on:
    ways.insert(0, f'{", or ".join(going_on)}: the same command then goes on')
  return '; or '.join(ways)


def _is_whole(config: ConfigDict, stage: str) -> bool:
  """Returns whether a batch may not be divided, as its batch norms take statistics of it."""
  return stage == 'retrain' and (config.model.norm == 'batch' or config.model.name == 'lean')


def _finer(settings: ConfigDict, *, whole: bool) -> list[int]:
  """Returns the numbers of microbatches above the present one that divide the batch, if any may."""
  size = 0 if whole else settings.batch_size
  return [parts for parts in range(settings.microbatches + 1, size + 1) if size % parts == 0]


def _devices_of(step: Any) -> list[Any]:
  """Returns the devices of this process on which a compiled step runs."""
  shardings = jax.tree.leaves(step.input_shardings)
  return [device for device in jax.local_devices() if device in shardings[0].device_set]


def _control_groups() -> Iterator[tuple[int, int]]:
  """Returns limit and use, bytes, of each limited control group of the process (cgroup v2, Linux).

  Use excludes the file cache, which the kernel can free.
  """
  try:
    lines = _OWN_CGROUP.read_text(encoding='utf-8').splitlines()
  except OSError:
    return
  for own in (line.removeprefix('0::/') for line in lines if line.startswith('0::/')):
    for group in (Path(own), *Path(own).parents):  # the last is the root, '.'
      with contextlib.suppress(OSError, ValueError, StopIteration):  # 'max' is no limit
        limit = int((_CGROUPS / group / 'memory.max').read_text(encoding='ascii'))
        stat = (_CGROUPS / group / 'memory.stat').read_text(encoding='ascii').splitlines()
        cache = next(int(line.split()[1]) for line in stat if line.startswith('inactive_file '))
        used = int((_CGROUPS / group / 'memory.current').read_text(encoding='ascii'))
        yield limit, used - cache


def _in_words(size: int) -> str:
  return f'{size / 2**30:.2f} GiB' if size >= 2**30 else f'{size / 2**20:.1f} MiB'
