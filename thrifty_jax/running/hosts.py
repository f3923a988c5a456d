"""Several processes, one run: the first one decides, writes and speaks, the others train with it.

The first process runs the command as if it were alone. Where it trains it calls the others, which
do the same steps and write what a stage writes to a folder that nobody keeps. Between trainings
they wait. Words travel through the service by which JAX's processes find each other: it can be
waited on for hours, and needs no device.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # what JAX's own processes talk through has no public name
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import device, files, logbook, stages, stopping
from thrifty_jax.data import mesh as meshes
from thrifty_jax.errors import InputError, NotFinite
from thrifty_jax.running import command_line
from thrifty_jax.settings import SETTINGS

_LOOK_SECONDS = 0.5  # between two looks whether another process has ended
_LEAVE_SECONDS = 10.0  # that the first process waits for the others to leave with it
_ENDS = 'thrifty_jax/end/'

_words = 0  # so far; every process counts alike


class _Ended(Exception):
  """The first process has ended the run.

  Attributes:
    status: Its exit status.
  """

  def __init__(self, status: int):
    super().__init__(status)
    self.status = status


def several() -> bool:
  """Whether the run has several processes."""
  return distributed.global_state.num_processes > 1


def is_first() -> bool:
  """Whether this is the process that decides, writes and speaks."""
  return distributed.global_state.process_id == 0


def run(config: ConfigDict, lead: Callable[[], None]) -> int:
  """Joins the other processes and runs the command with them.

  Args:
    config: Of the command, the same in every process but for `process_id`.
    lead: What the first process does.

  Returns:
    The exit status, the same in every process if they end together.
  """
  meshes.start(config)

  def work() -> int | None:
    device.prepare(config)
    return lead() if is_first() else _follow(config)

  status = command_line.exit_status(work)  # JAX took SIGTERM for itself, here it is taken back
  _leave(status)
  return status


def call(stage: str, config: ConfigDict, *, genotype_file: Path | None = None) -> None:
  """Calls the other processes to a training; nothing where there are none.

  Args:
    stage: search or retrain.
    config: Of the training.
    genotype_file: Of the network that is retrained.
  """
  if several() and is_first():
    text = genotype_file.read_text(encoding='utf-8') if genotype_file else None
    of_first({'stage': stage, 'config': stages.as_json(config), 'genotype': text})


def of_first(value: Any = None) -> Any:
  """What the first process gives here, in every process.

  Args:
    value: Of the first process, what JSON can hold; that of the others does not matter.

  Raises:
    InputError: If another process has failed.
  """
  if not several():
    return value
  key = _next_key()
  if is_first():
    _client().key_value_set(key, json.dumps(value))
    return value
  return json.loads(_wait(key))


def arrays_of_first(tree: Any) -> Any:
  """The arrays and numbers that the first process gives, of the same shapes everywhere."""
  if not several():
    return tree
  found = multihost_utils.broadcast_one_to_all(tree)

  def like(new: Any, old: Any) -> Any:
    kind: Any = type(old)  # of numbers; arrays are as they came
    return kind(new) if np.isscalar(old) else new

  return jax.tree.map(like, found, tree)


def meet(brought: str) -> None:
  """Waits until every process is here.

  Args:
    brought: What must be the same in all of them, in words.

  Raises:
    InputError: If it is not, or another process has failed.
  """
  if not several():
    return
  key, mine = _next_key(), distributed.global_state.process_id
  _client().key_value_set(f'{key}/{mine}', brought)
  for process in range(distributed.global_state.num_processes):
    found = _wait(f'{key}/{process}')
    if found != brought:
      raise InputError(
        f'process {process} has {found}, process {mine} {brought}; give all processes the same '
        'slices and the same version'
      )


class Vote:
  """What any process asks for, known to all of them after the same step."""

  def __init__(self):
    mesh = meshes.everyone()
    self._split = meshes.split(mesh)
    self._largest = jax.jit(lambda asked: asked.max(0), out_shardings=meshes.whole(mesh))
    self._before: Any = None

  def cast(self, asked: Sequence[int], *, now: bool) -> tuple[int, ...]:
    """The largest of what the processes ask for.

    Args:
      asked: Numbers from 0.
      now: Wait for the answer. Without it the answer is that of the vote before, which is known by
        the time that the next step is on its way: no device waits for it.
    """
    mine = np.tile(np.asarray(asked, np.int32), (jax.local_device_count(), 1))
    found = self._largest(meshes.place_rows(mine, self._split))
    known, self._before = (found, None) if now else (self._before, found)
    return tuple(np.asarray(known).tolist()) if known is not None else (0,) * len(asked)


def _follow(config: ConfigDict) -> int:
  """Trains with the first process whatever it trains, until it ends the run: its exit status."""
  logbook.say(f'process {distributed.global_state.process_id} trains with process 0, which speaks')
  try:
    with stopping.deferred():
      while True:
        told = of_first()
        # What all meet together, a loss that is not finite or a signal, is the first one's to tell.
        with contextlib.suppress(NotFinite, stopping.Stopped):
          _train(config, **told)
  except _Ended as ended:
    return ended.status
  except BaseException as error:
    _end(2, str(error) or type(error).__name__)
    raise


def _train(own: ConfigDict, *, stage: str, config: dict[str, Any], genotype: str | None) -> None:
  """A training that the first process has called to."""
  from thrifty_jax.searching import search  # which use this module
  from thrifty_jax.training import retrain

  settings = _as_told(own, config)
  with tempfile.TemporaryDirectory() as name, open(os.devnull, 'w') as nowhere:
    folder = Path(name)
    if genotype is not None:
      files.write_text(folder / 'search' / 'genotype.json', genotype)
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
      {'search': search.search, 'retrain': retrain.retrain}[stage](settings, folder)


def _as_told(own: ConfigDict, told: dict[str, Any]) -> ConfigDict:
  """The config of the first process; its genotype file comes by itself."""
  config = own.copy_and_resolve_references()
  for name, value in configs.flatten(told).items():
    if not SETTINGS[name].own:
      group, _, field = name.rpartition('.')
      section = config[group] if group else config
      section[field] = tuple(value) if isinstance(value, list) else value
  config.genotype = ''
  return config


def _next_key() -> str:
  global _words
  _words += 1
  return f'thrifty_jax/word/{_words}'


def _wait(key: str) -> str:
  """A word that another process says, as soon as it does.

  Raises:
    _Ended: If the first process ends the run.
    InputError: If another one has failed.
    Stopped: If asked to stop while nothing comes.
  """
  asked = 0.0
  while True:
    try:
      return _client().blocking_key_value_get(key, int(1000 * _LOOK_SECONDS))
    except jax.errors.JaxRuntimeError as error:
      if 'DEADLINE_EXCEEDED' not in str(error):
        raise
    for name, end in sorted(_client().key_value_dir_get(_ENDS)):
      process, found = name.removeprefix(_ENDS), json.loads(end)
      if process == '0':
        raise _Ended(found['status'])
      raise InputError(f'process {process} has failed: {found["error"]}')
    if number := stopping.requested():
      asked = asked or time.monotonic()
      if time.monotonic() - asked > stopping.GRACE_SECONDS:
        raise stopping.Stopped(number)


def _end(status: int, error: str = '') -> None:
  """Lets the others know, at their next wait, that this process ends."""
  key = f'{_ENDS}{distributed.global_state.process_id}'
  _client().key_value_set(key, json.dumps({'status': status, 'error': error}))


def _leave(status: int) -> None:
  """Ends this process together with the others; or at once, if they do not come along.

  JAX would wait for them for minutes. Its service ends them: at once if the first process is gone,
  and else as soon as a heartbeat of this one has been missing for 100 seconds.
  """
  if is_first():
    _end(status)
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    _client().wait_at_barrier('thrifty_jax/leave', int(1000 * _LEAVE_SECONDS))
    return
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def _client() -> Any:
  return distributed.global_state.client
