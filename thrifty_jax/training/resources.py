"""What a stage took of time and memory."""

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
  """Begins a new peak of the process's memory, where the system can (Linux)."""
  with contextlib.suppress(OSError):
    _CLEAR.write_text('5', encoding='ascii')  # man 5 proc: resets the peak resident set


def peak_process_bytes() -> int:
  """The most memory that the process held since `forget_peak`, or elsewhere than on Linux, ever."""
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  most = most if sys.platform == 'darwin' else 1024 * most
  return read_kilobytes(_STATUS, 'VmHWM:', otherwise=most)


def read_kilobytes(path: Path, name: str, *, otherwise: int) -> int:
  """The bytes of a line `name  N kB`, where the system has such a file."""
  try:
    lines = path.read_text(encoding='ascii').splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))
  except (OSError, StopIteration):
    return otherwise


def peak_device_bytes(devices: Sequence[Any] | None = None) -> int | None:
  """The most memory that one of the devices held since the process began; None on a CPU."""
  peaks = [
    (one.memory_stats() or {}).get('peak_bytes_in_use')
    for one in devices or jax.local_devices()
    if one.platform != 'cpu'
  ]
  return max((peak for peak in peaks if peak is not None), default=None)


def write(folder: Path, *, seconds: float) -> None:
  """Writes <folder>/resources.json.

  Args:
    folder: Folder of the stage.
    seconds: Time that its epochs took, over all calls where it was stopped and went on.
  """
  used = Resources(seconds, peak_process_bytes(), peak_device_bytes(), device.describe())
  records.write(folder / 'resources.json', used)
