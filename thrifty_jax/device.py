"""Preparation of the device before JAX starts it."""

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from thrifty_jax import files, jax_internals
from thrifty_jax.errors import InputError, first_line

DETERMINISTIC = '--xla_gpu_deterministic_ops=true'  # the bits of a GPU; others always repeat theirs
# Makes cuBLAS compute matrix products. XLA's own Triton kernels abort the process in the search
# (`triton_tiling_propagation.cc: Check failed`, github.com/openxla/xla/issues/47381; seen with JAX
# 0.11.2), and took a third longer to compile in a network that ran no faster with them.
_CUBLAS = '--xla_gpu_enable_triton_gemm=false'
TRACED = 'traced'  # folder of traced programs within that of compiled ones
_MOST_BYTES = 4 << 30  # of compiled programs; those of a search and its training have some 20 MB
# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def prepare(config: ConfigDict) -> None:
  """Chooses the platform, turns on the compilation cache and keeps freed memory.

  float32 products are then computed in full float32 on an accelerator too; JAX's default is
  TensorFloat-32 on a GPU (10 bits) and bfloat16 on a TPU (7 bits). Fast code requests bfloat16.

  Raises:
    InputError: If this machine lacks config.device, or JAX cannot start its devices.
  """
  if config.device == 'cpu':
    jax.config.update('jax_platforms', 'cpu')
  _set_xla_flags(config)
  _use_compilation_cache(config.compilation_cache)
  # If an accelerator's plugin is installed, malloc will not hold the large buffers.
  if config.device == 'cpu' or not _has_accelerator_plugin():
    keep_freed_memory()
  try:
    backend = jax.default_backend()
  except RuntimeError as error:
    raise InputError(
      f'JAX cannot start its devices ({first_line(error)}); free or repair the device, '
      'correct JAX_PLATFORMS, or add --config.device=cpu'
    ) from error
  if config.device not in ('auto', backend):
    raise InputError(
      f'config.device is {config.device!r}, but JAX finds only {describe()} here; '
      f'install JAX for {config.device.upper()} or leave out --config.device'
    )
  if backend != 'cpu':
    jax.config.update('jax_default_matmul_precision', 'highest')


def describe() -> str:
  """Describes the devices for a person: `1 x NVIDIA H200`, `CPU with 2 cores`."""
  devices = jax.devices()
  if devices[0].platform == 'cpu':
    several = f', as {len(devices)} devices' if len(devices) > 1 else ''
    return f'CPU with {cores()} cores{several}'
  return f'{len(devices)} x {devices[0].device_kind}'


def precision(setting: str, device: Any = None) -> str:
  """Number type that networks compute in during training: 'float32' or 'bfloat16'.

  The setting 'auto' is bfloat16 where the hardware supports it: on TPUs, and on NVIDIA GPUs from
  compute capability 8 (Ampere). A device of None is the first one.
  """
  if setting != 'auto':
    return setting
  device = device or jax.devices()[0]
  capability = str(getattr(device, 'compute_capability', ''))  # '7.5'; on AMD's GPUs 'gfx942'
  older = re.fullmatch(r'\d+\.\d+', capability) and float(capability) < 8
  return 'float32' if device.platform == 'cpu' or older else 'bfloat16'


def cores() -> int:
  """Number of processor cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def cache_folder(setting: str) -> Path | None:
  """Folder of compiled programs by config.compilation_cache: 'auto', a folder, or '' for none.

  There is none either where another user can write into the folder: programs of others run here.
  """
  base = os.environ.get('XDG_CACHE_HOME')
  folder = (Path(base) if base else files.in_home('.cache')) / 'thrifty_jax' / 'xla'
  if setting != 'auto':
    folder = Path(os.path.expanduser(setting))
  return folder if setting and _is_ours(folder) else None


@functools.cache
def _is_ours(folder: Path) -> bool:
  """Returns whether only this user can have put programs into a folder; else says so, once."""
  unsafe = [place for place in (folder, folder / TRACED) if files.others_can_write(place)]
  if unsafe:
    print(
      f'compiled programs are not kept: other users can write into {unsafe[0]}; correct its rights '
      '(chmod 700, chown), or name another folder by --config.compilation_cache',
      file=sys.stderr,
    )
  return not unsafe


def keep_freed_memory() -> None:
  """Lets glibc's malloc keep freed memory instead of returning it to the system.

  XLA's CPU runtime allocates a program's large temporary buffers at every call. glibc gets blocks
  of that size from mmap and returns them at once, so every step touches fresh pages. The page
  faults took three quarters of the time of some operations (enlarging a 16 x 64 x 64 x 32 batch
  took 40 ms, and takes 10 ms with this setting).

  Only the arena of the main thread keeps such blocks, so programs run in the calling thread, not in
  one of JAX's. The compiler's threads keep arenas of their own: its freed memory is fragmented, and
  searching it for free blocks made every step a third slower.
  """
  if mallopt := _find_in_glibc('mallopt'):
    jax.config.update('jax_cpu_enable_async_dispatch', False)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_memory() -> None:
  """Returns freed memory to the system, for use after compilation, which needs it only once."""
  if malloc_trim := _find_in_glibc('malloc_trim'):
    malloc_trim(0)


def _find_in_glibc(name: str) -> Any:
  """Function of glibc; None on macOS, Windows and with musl."""
  return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith('linux') else None


def _set_xla_flags(config: ConfigDict) -> None:
  """Sets flags of XLA, which reads them once, when it starts.

  With DETERMINISTIC it neither chooses kernels by measured time, which may vary between runs, nor
  adds numbers in the order in which a GPU's threads happen to finish.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  if config.deterministic and DETERMINISTIC not in flags.split():
    if jax_internals.has_started() and jax.default_backend() == 'gpu':
      raise InputError(
        'config.deterministic is True, but JAX has already started here and no longer reads the '
        f'flag; start a new process, or set XLA_FLAGS={DETERMINISTIC} before JAX is used'
      )
    flags = f'{flags} {DETERMINISTIC}'
  is_set = _CUBLAS.partition('=')[0] in flags
  if config.device in ('auto', 'gpu') and _has_cuda_plugin() and not is_set:
    flags = f'{flags} {_CUBLAS}'
  if flags:
    os.environ['XLA_FLAGS'] = flags.strip()


def _use_compilation_cache(setting: str) -> None:
  """Caches programs that took at least 0.1 s to compile, for the next run."""
  folder = cache_folder(setting)
  if folder is None:
    jax.config.update('jax_enable_compilation_cache', False)
    return
  try:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
  except OSError as error:
    if setting == 'auto':
      return  # without a writable home the run only loses compile time
    raise InputError(
      f'config.compilation_cache is {setting!r}, a folder that cannot be created: '
      f'{error.strerror}; name another folder'
    ) from error
  _bound_cache(folder)
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)


def _bound_cache(folder: Path) -> None:
  """Removes the programs whose last use is longest ago, as far as they are too many.

  JAX's own bound writes two files for each program, and fails on folders that lack one of them.
  """
  with contextlib.suppress(OSError):  # another process removes them too, or may alone
    programs = [(path, path.stat()) for path in folder.glob('*-cache')]
    total = 0
    for path, status in sorted(programs, key=lambda one: one[1].st_atime, reverse=True):
      total += status.st_size
      if total > _MOST_BYTES:
        path.unlink()


def _has_cuda_plugin() -> bool:
  """Whether JAX is installed for NVIDIA's GPUs."""
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  return any('cuda' in plugin.name for plugin in plugins)


def _has_accelerator_plugin() -> bool:
  """Whether JAX could use a device other than the CPU; does not start JAX."""
  if (jax.config.values.get('jax_platforms') or '').split(',')[0] == 'cpu':
    return False
  modules = any(importlib.util.find_spec(name) for name in ('jax_plugins', 'libtpu'))
  return modules or bool(importlib.metadata.entry_points(group='jax_plugins'))
