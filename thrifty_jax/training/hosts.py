"""Communication between the processes of one run: the first decides, the others follow.

Messages use JAX's coordination service, which permits waits of hours and needs no device. With one
process every function here returns at once.
"""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from thrifty_jax import jax_internals, stages, stopping
from thrifty_jax.data import data_file
from thrifty_jax.data import mesh as meshes
from thrifty_jax.errors import InputError

_LOOK_SECONDS = 0.5  # between two checks whether another process has ended
_LEAVE_SECONDS = 10.0  # time for which the first process waits for the others to leave with it
_ENDS = 'thrifty_jax/end/'

_words = 0  # number of messages so far, equal in every process


@dataclasses.dataclass(eq=False)
class Ended(Exception):
  """The first process has ended the run, with this exit status."""

  status: int


def several() -> bool:
  """Returns whether the run has several processes."""
  return jax_internals.process_count() > 1


def is_first() -> bool:
  """Returns whether this is the process that decides, writes and prints."""
  return jax_internals.process_index() == 0


def call(
  stage: str, config: ConfigDict, workdir: Path, *, genotype_file: Path | None = None
) -> None:
  """Calls the other processes (running/followers.py) to a training, with the files it needs."""
  if several() and is_first():
    sent = {data_file.FILE: workdir / data_file.FILE, 'search/genotype.json': genotype_file}
    texts = {name: path.read_text(encoding='utf-8') for name, path in sent.items() if path}
    share_first({'stage': stage, 'config': stages.to_json(config), 'texts': texts})


def share_first(value: Any = None) -> Any:
  """Returns the value of the first process, of JSON types, in all; InputError if one has failed."""
  if not several():
    return value
  key = _next_key()
  if is_first():
    jax_internals.client().key_value_set(key, json.dumps(value))
    return value
  return json.loads(_wait(key))


def share_first_arrays(tree: Any) -> Any:
  """Returns the arrays and numbers of the first process in all; shapes must be equal in all."""
  if not several():
    return tree
  leaves, structure = jax.tree.flatten(tree)
  # Numbers go as text: among arrays JAX would round them to float32.
  numbers = iter(share_first([np.asarray(leaf).item() for leaf in leaves if np.isscalar(leaf)]))
  arrays = iter(
    multihost_utils.broadcast_one_to_all([leaf for leaf in leaves if not np.isscalar(leaf)])
  )
  found = [next(numbers) if np.isscalar(leaf) else next(arrays) for leaf in leaves]
  return jax.tree.unflatten(structure, found)


def meet(brought: str) -> None:
  """Waits until all processes call this with the same text; InputError if not or one has failed."""
  if not several():
    return
  key, mine = _next_key(), jax_internals.process_index()
  jax_internals.client().key_value_set(f'{key}/{mine}', brought)
  for process in range(jax_internals.process_count()):
    found = _wait(f'{key}/{process}')
    if found != brought:
      raise InputError(
        f'process {process} has {found}, process {mine} has {brought}; give all processes the '
        'same slices and the same version of thrifty_jax'
      )


class Vote:
  """Requests of any process, which all processes receive after the same step."""

  def __init__(self):
    mesh = meshes.make_full_mesh()
    self._split = meshes.split(mesh)
    self._largest = jax.jit(lambda asked: asked.max(0), out_shardings=meshes.whole(mesh))
    self._before: Any = None

  def cast(self, asked: Sequence[int], *, now: bool) -> tuple[int, ...]:
    """Returns the largest of the numbers, from 0, that the processes ask for.

    Unless it is needed now, the result is that of the previous vote, which is known when the next
    step has started, so that no device waits for it.
    """
    mine = np.tile(np.asarray(asked, np.int32), (jax.local_device_count(), 1))
    found = self._largest(meshes.place_rows(mine, self._split))
    known, self._before = (found, None) if now else (self._before, found)
    return tuple(np.asarray(known).tolist()) if known is not None else (0,) * len(asked)


def announce_end(status: int, error: str = '') -> None:
  """Informs the other processes, at their next wait, that this one ends."""
  key = f'{_ENDS}{jax_internals.process_index()}'
  jax_internals.client().key_value_set(key, json.dumps({'status': status, 'error': error}))


def leave(status: int) -> None:
  """Ends this process together with the others, or alone if they do not respond.

  JAX would wait for minutes. Its service ends the others: at once if the first is gone, otherwise
  when this one's heartbeat has been missing for 100 seconds.
  """
  if is_first():
    announce_end(status)
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    jax_internals.client().wait_at_barrier('thrifty_jax/leave', int(1000 * _LEAVE_SECONDS))
    return
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def _next_key() -> str:
  global _words
  _words += 1
  return f'thrifty_jax/word/{_words}'


def _wait(key: str) -> str:
  """Returns the message of another process, which it waits for.

  Raises Ended or InputError if that ends or has failed, and Stopped at a signal if none arrives.
  """
  client, asked = jax_internals.client(), 0.0
  while True:
    try:
      return client.blocking_key_value_get(key, int(1000 * _LOOK_SECONDS))
    except jax.errors.JaxRuntimeError as error:
      if 'DEADLINE_EXCEEDED' not in str(error):
        raise
    for name, end in sorted(client.key_value_dir_get(_ENDS)):
      process, found = name.removeprefix(_ENDS), json.loads(end)
      if process == '0':
        raise Ended(found['status'])
      raise InputError(f'process {process} has failed: {found["error"]}')
    if number := stopping.requested():
      asked = asked or time.monotonic()
      if time.monotonic() - asked > stopping.GRACE_SECONDS:
        raise stopping.Stopped(number)
