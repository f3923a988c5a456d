"""The machine and the software of a run, so that it can be repeated."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

import thrifty_jax
from thrifty_jax import device

_PACKAGES = (
  *('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow-datasets'),
  *('array_record', 'numpy', 'nibabel', 'SimpleITK'),
)


def describe(command: str, *, seed: int = 0) -> dict[str, Any]:
  """Describes machine, software and command for environment.json, without any person's name."""
  return {
    'thrifty_jax': thrifty_jax.__version__,
    'commit': _commit(),
    'command': command,
    'seed': seed,
    'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'python': platform.python_version(),
    'packages': {name: _version(name) for name in _PACKAGES},
    'platform': platform.platform(),
    'cores': device.cores(),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'devices': [f'{each.platform} {each.device_kind}' for each in jax.devices()],
  }


def _version(package: str) -> str | None:
  """Installed version of a package, or None."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _commit() -> str | None:
  """Git commit of this code, with `-dirty` if files differ; None outside git."""
  project = Path(__file__).resolve().parents[2]
  if not (project / '.git').exists():  # installed, perhaps inside another project
    return None
  command = ['git', '-C', str(project), 'describe', '--always', '--dirty', '--abbrev=12']
  try:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip() or None
