"""Where trainings run: in processes of this machine, or by the workers of a Dask cluster.

Both take jobs by the interface of concurrent.futures. On a CPU every process is held on a core of
its own, so that side by side they do not take each other's.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import jax
from ml_collections import ConfigDict

from thrifty_jax import device, extras, stopping
from thrifty_jax.errors import InputError

_TICK = 0.2  # seconds between two looks at whether to stop
_PATIENCE = 20  # seconds in which a scheduler must answer
_stop: Any = None  # shared byte by which the first process asks this one to stop


@contextlib.contextmanager
def start(config: ConfigDict, count: int) -> Generator[Executor]:
  """Yields an executor for so many trainings at a time, or that of config.front.cluster.

  If an error or a request to stop leaves the body, the trainings under way in processes of this
  machine save their states and end first; those of a cluster go on to their ends.
  """
  if config.front.cluster:
    with _start_dask(config.front.cluster) as executor:
      yield executor
    return
  context = multiprocessing.get_context('spawn')  # a copy of a process that has started JAX hangs
  # No event: to set one waits for ever if a process was killed while it looked at it.
  stop, slots = context.RawValue('b', 0), context.SimpleQueue()
  for slot in range(count):
    slots.put(slot)
  gpus = jax.local_device_count() if jax.default_backend() == 'gpu' else 0
  executor = ProcessPoolExecutor(
    count, mp_context=context, initializer=_begin, initargs=(slots, stop, gpus)
  )
  try:
    yield executor
  except BaseException:
    stop.value = 1
    raise
  finally:
    executor.shutdown(wait=True, cancel_futures=True)


def count_slots(config: ConfigDict) -> int:
  """Returns how many trainings run at a time on this machine; a TPU belongs to one process."""
  if config.front.workers:
    return config.front.workers
  match jax.default_backend():
    case 'cpu':
      return device.cores()
    case 'gpu':
      return jax.local_device_count()
  return 1


def _begin(slots: Any, stop: Any, gpus: int) -> None:
  """Holds a new process on its core, or one of the GPUs, before JAX starts; listens for its end."""
  global _stop
  slot, _stop = slots.get(), stop
  for number in stopping.SIGNALS:  # between jobs; Ctrl-C reaches all processes
    signal.signal(number, signal.SIG_IGN)
  if gpus:
    listed = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = listed.split(',') if listed else [str(number) for number in range(gpus)]
    os.environ['CUDA_VISIBLE_DEVICES'] = names[slot % len(names)]
    # The first process holds three quarters of the memory of every GPU, as JAX does by default.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  elif hasattr(os, 'sched_setaffinity'):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[slot % len(cores)]})
  threading.Thread(target=_listen, args=(stop,), name='racing', daemon=True).start()


def _listen(stop: Any) -> None:
  """Asks the job to stop once the first process says so, and ends this process with that one."""
  first, asked = multiprocessing.parent_process(), False
  while first and first.is_alive():
    time.sleep(_TICK)
    if stop.value and not asked:
      asked = True
      # Ctrl-C reaches this process too, and a second signal would end it before the job has saved.
      if not stopping.requested():
        os.kill(os.getpid(), signal.SIGTERM)
  os._exit(1)


def refuse_to_begin() -> None:
  """Raises Stopped in a job that begins, with its handlers set, after the request to stop."""
  if _stop and _stop.value:
    raise stopping.Stopped(signal.SIGTERM)


def is_lost(error: Exception) -> bool:
  """Returns whether the process or the worker that ran a job was ended from outside."""
  distributed = sys.modules.get('distributed')
  killed = (distributed.KilledWorker,) if distributed else ()
  return isinstance(error, (BrokenProcessPool, CancelledError, *killed))


@contextlib.contextmanager
def _start_dask(address: str) -> Generator[Executor]:
  """Yields the executor of a Dask cluster, whose workers have one thread each."""
  try:
    from distributed import Client
  except ImportError as error:
    raise InputError(
      'config.front.cluster needs the package distributed, not installed here: '
      f'{extras.how_to_install("cluster")}'
    ) from error
  try:
    client = Client(address, timeout=_PATIENCE)
  except (OSError, TimeoutError, ValueError) as error:
    raise InputError(
      f'config.front.cluster: no Dask scheduler answers at {address}; start one by `dask '
      'scheduler`, and workers by `dask worker ADDRESS --nthreads=1`'
    ) from error
  with client:
    threads = client.nthreads()  # of each worker
    wrong = [name for name, count in threads.items() if count != 1]
    if wrong or not threads:
      what = f'{wrong[0]} has several threads' if wrong else 'it has no worker'
      raise InputError(
        f'config.front.cluster={address}: {what}, and a process trains one network at a time; '
        'start workers by `dask worker ADDRESS --nthreads=1`'
      )
    yield client.get_executor(pure=False)
