"""What earlier runs worked out, kept beside the programs that JAX keeps and found by its origin."""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import device, files
from thrifty_jax.networks import build
from thrifty_jax.training import packing

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
# What nothing that is kept depends on: a step is told its seed and what of the data it needs to
# know, see train_data.Facts; shapes are given beside the config.
_APART = (
  'seed',
  'compilation_cache',
  'save_seconds',
  'tensorboard',
  'data.raw_dir',
  'data.data_dir',
  'data.download',
  'data.workers',
  *configs.SPLIT,
  'retrain.learning_rate',
)
_MOST_KEPT = 256  # of up to a megabyte each; the oldest go first
_DIGEST_BYTES = 32


def place(config: ConfigDict, **given: Any) -> Path | None:
  """The file in which something is kept.

  Args:
    config: Of the run.
    **given: Its name, and whatever it depends on besides, as JSON has it.

  Returns:
    The file; None without a compilation cache, and with several devices, as a program that is kept
    does not say how they share it.
  """
  folder = device.cache_folder(config.compilation_cache)
  if folder is None or jax.device_count() > 1:
    return None
  settings = configs.flatten(config)
  made_from = {
    'config': {name: value for name, value in settings.items() if name not in _APART},
    'given': given,
    'code': _code(),
    'versions': {name: importlib.metadata.version(name) for name in _PACKAGES},
    'device': (jax.default_backend(), jax.devices()[0].device_kind),
    'packed': packing.pays('search'),
    'settings': {name: str(value) for name, value in sorted(jax.config.values.items())},
  }
  text = json.dumps(made_from, sort_keys=True, default=str)
  return folder / 'traced' / hashlib.sha256(text.encode()).hexdigest()


def shapes(config: ConfigDict, net: nn.Module, *inputs: Any) -> build.Shapes:
  """What `build.trace_shapes` finds, which takes a second or two of a supernet, or what is kept."""
  kept = place(config, weights_of=str(net), image=inputs[0].shape)
  content = read(kept)
  if content is not None:
    return json.loads(content)
  traced = build.trace_shapes(net, *inputs)
  write(kept, json.dumps(traced).encode())
  return traced


def read(path: Path | None) -> bytes | None:
  """What is kept; None where nothing is, or it is damaged: it is made again."""
  if path is None:
    return None
  try:
    kept = path.read_bytes()
  except OSError:
    return None
  digest, content = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
  if hashlib.sha256(content).digest() != digest:
    return None
  with contextlib.suppress(OSError):
    os.utime(path)  # the latest used are kept
  return content


def write(path: Path | None, content: bytes) -> None:
  """Keeps something; a folder that cannot be written costs time, not the run."""
  if path is None:
    return
  with contextlib.suppress(OSError):
    files.write_bytes(path, hashlib.sha256(content).digest() + content)
    kept = sorted(path.parent.iterdir(), key=lambda one: one.stat().st_mtime)
    for one in kept[:-_MOST_KEPT]:
      one.unlink(missing_ok=True)


@functools.cache
def _code() -> str:
  """Digest of this package's sources."""
  package, digest = Path(__file__).parents[1], hashlib.sha256()
  for path in sorted(package.rglob('*.py')):
    digest.update(f'{path.relative_to(package)}\0'.encode() + path.read_bytes())
  return digest.hexdigest()
