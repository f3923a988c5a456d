"""Describes the processor that times were measured on, and holds the process on some cores."""

import contextlib
import os
import platform
import re
from collections.abc import Generator
from pathlib import Path

from thrifty_jax import device
from thrifty_jax.errors import InputError

CPUINFO = Path('/proc/cpuinfo')
_TASKS = Path('/proc/self/task')  # a folder for every thread
# Extensions that decide how fast convolutions run: vectors, 8-bit products, bfloat16.
EXTENSIONS = (
  *('avx2', 'fma', 'avx512f', 'avx_vnni', 'avx512_vnni', 'avx512_bf16'),
  *('amx_int8', 'amx_bf16', 'asimd', 'asimddp', 'i8mm', 'bf16'),
)


def describe(cpuinfo: Path = CPUINFO) -> str:
  """Describes the processor: `AMD EPYC, 2 cores, avx2 fma avx512f avx512_vnni`.

  Where there is no /proc/cpuinfo the text has Python's name of the processor and no extensions.
  """
  try:
    text = cpuinfo.read_text(encoding='utf-8', errors='replace')
  except OSError:
    text = ''
  model = _field(text, 'model name') or platform.processor() or platform.machine()
  flags = {*_field(text, 'flags|Features').split()}
  cores = os.cpu_count() or 1  # of the machine, however few this process may use
  listed = ' '.join(name for name in EXTENSIONS if name in flags)
  return ', '.join(filter(None, (model, f'{cores} core{"s" * (cores > 1)}', listed)))


def _field(text: str, name: str) -> str:
  """Value of the first line with this name; '' if there is none."""
  found = re.search(rf'^(?:{name})\s*:\s*(.+)$', text, re.MULTILINE)
  return found[1].strip() if found else ''


@contextlib.contextmanager
def hold_on_cores(count: int) -> Generator[None]:
  """Lets every thread of the process run on this many cores only, and frees them at the end.

  JAX has no number of threads for a CPU that could be set once it has started.

  Raises:
    InputError: If fewer cores are there, or this system cannot hold threads.
  """
  there = device.cores()
  if count > there:
    raise InputError(f'{count} threads were asked for, and {there} cores are there; ask for fewer')
  if count == there:
    yield
    return
  if not _TASKS.is_dir():
    raise InputError(
      f'JAX cannot be held on {count} of {there} cores on this system: time it on Linux, or with '
      f'{there} threads'
    )
  cores = os.sched_getaffinity(0)
  _hold({*sorted(cores)[-count:]})  # the first core often serves the system's interrupts
  try:
    yield
  finally:
    _hold(cores)


def _hold(cores: set[int]) -> None:
  for thread in _TASKS.iterdir():
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
      os.sched_setaffinity(int(thread.name), cores)
