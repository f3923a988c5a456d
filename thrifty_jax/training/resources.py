"""Time and memory that a stage used."""

import contextlib
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from thrifty_jax import device, records
from thrifty_jax.run_files import Resources

_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def forget_peak() -> None:
  """Resets the peak of the process's memory, if the system can (Linux)."""
  with contextlib.suppress(OSError):
    _CLEAR.write_text('5', encoding='ascii')  # man 5 proc: resets the peak resident set


def peak_process_bytes() -> int:
  """Returns the peak memory of the process since `forget_peak`, without Linux since its start."""
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  most = most if sys.platform == 'darwin' else 1024 * most
  return read_kilobytes(_STATUS, 'VmHWM:', otherwise=most)


def read_kilobytes(path: Path, name: str, *, otherwise: int) -> int:
  """Returns the bytes in a line `name  N kB` of a file, or `otherwise` if there is none."""
  try:
    lines = path.read_text(encoding='ascii').splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))
  except (OSError, StopIteration):
    return otherwise


def peak_device_bytes(devices: Sequence[Any] | None = None) -> int | None:
  """Returns the largest peak memory of a device since the process began; None on a CPU."""
  peaks = [
    (one.memory_stats() or {}).get('peak_bytes_in_use')
    for one in devices or jax.local_devices()
    if one.platform != 'cpu'
  ]
  return max((peak for peak in peaks if peak is not None), default=None)


def write(folder: Path, *, seconds: float) -> None:
  """Writes the resources.json of a stage, whose epochs took `seconds`, added over all calls."""
  used = Resources(seconds, peak_process_bytes(), peak_device_bytes(), device.describe())
  records.write(folder / 'resources.json', used)
