"""The device a run uses, made ready before JAX starts it."""

import ctypes
import importlib.metadata
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from thrifty_jax import jax_internals
from thrifty_jax.errors import InputError

DETERMINISTIC = '--xla_gpu_deterministic_ops=true'
# Matrix products by cuBLAS. XLA's own kernels for them, written in Triton, end the process on those
# of the search (`triton_tiling_propagation.cc: Check failed`, github.com/openxla/xla/issues/47381;
# seen with JAX 0.11.2), and took a third longer to compile in a network that was no faster by them.
_CUBLAS = '--xla_gpu_enable_triton_gemm=false'
# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def prepare(config: ConfigDict) -> None:
  """Chooses the platform, turns on the compilation cache and keeps freed memory.

  On an accelerator float32 then means float32: JAX would multiply it in TensorFloat-32 on a GPU (10
  bits) and in bfloat16 on a TPU (7 bits). What is to be fast asks for bfloat16 by its name.

  Args:
    config: Reads `device`, `deterministic` and `compilation_cache`.

  Raises:
    InputError: If config.device asks for a device that this machine does not have.
  """
  if config.device == 'cpu':
    jax.config.update('jax_platforms', 'cpu')
  if config.deterministic:
    _use_deterministic_operations()
  if config.device in ('auto', 'gpu') and _has_cuda_plugin():
    _multiply_matrices_by_cublas()
  _use_compilation_cache(config.compilation_cache)
  # An accelerator's plugin present means that the large buffers will not be malloc's.
  if config.device == 'cpu' or not _has_accelerator_plugin():
    keep_freed_memory()
  backend = jax.default_backend()
  if config.device not in ('auto', backend):
    raise InputError(
      f'config.device is {config.device!r}, but JAX finds only {describe()} here; '
      f'install JAX for {config.device.upper()} or leave out --config.device'
    )
  if backend != 'cpu':
    jax.config.update('jax_default_matmul_precision', 'highest')


def describe() -> str:
  """What runs the work, for a person: `1 x NVIDIA H200`, `CPU with 2 cores`."""
  devices = jax.devices()
  if devices[0].platform == 'cpu':
    several = f', as {len(devices)} devices' if len(devices) > 1 else ''
    return f'CPU with {cores()} cores{several}'
  return f'{len(devices)} x {devices[0].device_kind}'


def precision(setting: str, device: Any = None) -> str:
  """What networks compute in while they are trained: 'float32' or 'bfloat16'.

  Args:
    setting: config.precision. 'auto' is bfloat16 where the hardware multiplies in it: on TPUs, and
      on NVIDIA's GPUs from compute capability 8 (Ampere).
    device: That they run on, None for the first one.
  """
  if setting != 'auto':
    return setting
  device = device or jax.devices()[0]
  capability = str(getattr(device, 'compute_capability', ''))  # '7.5'; 'gfx942' of AMD's GPUs
  older = re.fullmatch(r'\d+\.\d+', capability) and float(capability) < 8
  return 'float32' if device.platform == 'cpu' or older else 'bfloat16'


def cores() -> int:
  """Processor cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def cache_folder(setting: str) -> Path | None:
  """Where compiled programs are kept between runs.

  Args:
    setting: config.compilation_cache: 'auto', a folder, or '' for no cache.

  Returns:
    The folder, or None without a cache.
  """
  if not setting:
    return None
  if setting != 'auto':
    return Path(setting).expanduser()
  base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return Path(base).expanduser() / 'thrifty_jax' / 'xla'


def keep_freed_memory() -> bool:
  """Lets malloc keep freed memory instead of handing it back to the system.

  XLA's CPU runtime allocates the large temporary buffers of a program anew at each call. glibc gets
  blocks of that size from mmap and returns them at once, so each step touched fresh pages: the page
  faults took three quarters of the time of some operations (enlarging a 16 x 64 x 64 x 32 batch
  took 40 ms and takes 10 ms so).

  Only the main thread's arena of memory keeps such blocks, so programs run in the thread that calls
  them, not in one of JAX's own. The compiler's threads have arenas of theirs: what it leaves behind
  is in pieces, and looking for room among them made every step a third slower.

  Returns:
    Whether it was done; there is no mallopt outside glibc (macOS, musl, Windows).
  """
  if not sys.platform.startswith('linux'):
    return False
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:
    return False
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1))
  return all([mallopt(parameter, value) for parameter, value in settings])


def give_back_memory() -> None:
  """Hands freed memory back to the system after all: what compiling took is not needed again."""
  if sys.platform.startswith('linux'):
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)  # glibc's
    if trim is not None:
      trim(0)


def _use_deterministic_operations() -> None:
  """Makes a GPU give the same bits each time; a CPU and a TPU do so by themselves.

  XLA then neither measures which kernel is the fastest, as the winner may change from run to run,
  nor adds numbers in the order in which threads happen to finish.
  """
  if DETERMINISTIC in os.environ.get('XLA_FLAGS', '').split():
    return
  if jax_internals.has_started() and jax.default_backend() == 'gpu':
    raise InputError(
      'config.deterministic is True, but JAX has started here already and reads the flag no '
      f'more; start a new process, or set XLA_FLAGS={DETERMINISTIC} before JAX is used'
    )
  _add_xla_flag(DETERMINISTIC)


def _multiply_matrices_by_cublas() -> None:
  """Keeps XLA from writing kernels of its own for matrix products on an NVIDIA GPU, see _CUBLAS.

  Where XLA_FLAGS says something about it already, that stays.
  """
  if _CUBLAS.partition('=')[0] not in os.environ.get('XLA_FLAGS', ''):
    _add_xla_flag(_CUBLAS)


def _add_xla_flag(flag: str) -> None:
  """Gives a flag to XLA, which reads them once, when it starts."""
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flag}'.strip()


def _use_compilation_cache(setting: str) -> None:
  """Keeps programs that took a tenth of a second or more to compile, for the next run."""
  folder = cache_folder(setting)
  if folder is None:
    jax.config.update('jax_enable_compilation_cache', False)
    return
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    if setting != 'auto':
      raise InputError(
        f'config.compilation_cache is {setting!r}, which cannot be made: {error.strerror}'
      ) from error
    return  # a home that cannot be written to costs compile time, not the run
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)


def _has_cuda_plugin() -> bool:
  """Whether JAX is installed for NVIDIA's GPUs."""
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  return any('cuda' in plugin.name for plugin in plugins)


def _has_accelerator_plugin() -> bool:
  """Whether JAX could start on something else than the CPU; answers without starting it."""
  if (jax.config.values.get('jax_platforms') or '').split(',')[0] == 'cpu':
    return False
  if importlib.metadata.entry_points(group='jax_plugins'):
    return True
  return any(importlib.util.find_spec(name) for name in ('jax_plugins', 'libtpu'))
