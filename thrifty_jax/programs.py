"""Training steps as compiled programs: traced once for all runs, compiled beside the work.

Tracing a supernet takes seconds and compiling it up to a minute. JAX's own cache keeps what it
compiled, but finds it by the traced program. Here that is kept too, as StableHLO (jax.export), and
found by all that it is made from.
"""

import contextlib
import copy
import functools
import hashlib
import importlib.metadata
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import jax
from jax import export
from ml_collections import ConfigDict

from thrifty_jax import cuda_graph, device, files, packing
from thrifty_jax.running import stopping

# Named tuples and arrays in, (state, metrics) out; see bilevel.
Step = Callable[..., tuple[Any, dict[str, jax.Array]]]
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
_MOST_KEPT = 64  # of about a megabyte each; the oldest go first
_DIGEST_BYTES = 32


def place(config: ConfigDict, **given: Any) -> Path | None:
  """The file in which a traced program is kept.

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
  made_from = {
    'config': config.to_dict() | {'seed': None},  # which a program is told
    'given': given,
    'code': _code(),
    'versions': {name: importlib.metadata.version(name) for name in _PACKAGES},
    'device': (jax.default_backend(), jax.devices()[0].device_kind),
    'packed': packing.pays(),
    'settings': {name: str(value) for name, value in sorted(jax.config.values.items())},
  }
  text = json.dumps(made_from, sort_keys=True, default=str)
  return folder / 'traced' / hashlib.sha256(text.encode()).hexdigest()


class Program:
  """A step that is compiled in a thread of its own; the first call waits until it is."""

  def __init__(
    self,
    step: Step,
    arguments: Callable[[], tuple[Any, ...]],
    *,
    kept: Path | None = None,
    after: 'Program | None' = None,
    check: Callable[[jax.stages.Compiled], None] | None = None,
  ):
    """Begins.

    Args:
      step: (state, *batches) -> (state, metrics), the state of the same structure.
      arguments: Gives (state, *batches), arrays or shapes and types. Asked for in the thread, and
        not at all where the program is kept: that loads while the state is still being made.
      kept: The file of the traced program, which is written if it is not there; None keeps none.
      after: Another program, to be waited for: two at once would share the cores.
      check: Looks at what was compiled before it is used.
    """
    self._run: Step = self._called
    self._step, self._arguments = step, arguments
    self._kept, self._after, self._check = kept, after, check
    self._future: Future[jax.stages.Compiled] = Future()
    # A daemon: a process that is told to go does not wait for the compiler, see stopping.leave.
    threading.Thread(target=self._compile, name=stopping.COMPILER, daemon=True).start()

  def __call__(self, state: Any, *batches: Any) -> tuple[Any, dict[str, jax.Array]]:
    """Runs the step."""
    return self._run(state, *batches)

  def watched(self, watch: Callable[[Step], Step]) -> 'Program':
    """The same program with something put around every call."""
    other = copy.copy(self)
    other._run = watch(self._called)
    return other

  def _called(self, state: Any, *batches: Any) -> tuple[Any, dict[str, jax.Array]]:
    leaves, metrics = self.wait()(*jax.tree.leaves((state, *batches)))
    return jax.tree.unflatten(jax.tree.structure(state), leaves), metrics

  def wait(self) -> jax.stages.Compiled:
    """What JAX made of it, once it has: a function of the leaves of its arguments."""
    return self._future.result()

  def _compile(self) -> None:
    try:
      if self._after is not None:
        self._after._future.exception()  # waits
      program = _read(self._kept) if self._kept else None
      compiled = self._compiled() if program is None else self._loaded(program)
      device.give_back_memory()
      self._future.set_result(compiled)
    except BaseException as error:  # raised again where the program is called
      self._future.set_exception(error)

  def _compiled(self) -> jax.stages.Compiled:
    """The step as a function of leaves, traced and compiled; and kept, if it is to be."""
    leaves, tree = jax.tree.flatten(self._arguments())
    shapes = [_shape(x) for x in leaves]

    def flat(*leaves: Any) -> tuple[list[Any], dict[str, jax.Array]]:
      state, metrics = self._step(*jax.tree.unflatten(tree, leaves))
      return jax.tree.leaves(state), metrics

    if self._kept is None:
      return cuda_graph.compile_step(jax.jit(flat).lower(*shapes), check=self._check)
    program = export.export(jax.jit(flat))(*shapes)
    _write(self._kept, program)
    return self._loaded(program)

  def _loaded(self, program: export.Exported) -> jax.stages.Compiled:
    """A traced program, compiled or out of JAX's cache."""
    lowered = jax.jit(program.call).lower(*program.in_avals)
    return cuda_graph.compile_step(lowered, check=self._check)


def _shape(x: Any) -> jax.ShapeDtypeStruct:
  """Shape and type of an argument; and where it lies, if there is a choice."""
  sharding = x.sharding if jax.device_count() > 1 else None
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _read(path: Path) -> export.Exported | None:
  """A kept program; None where there is none, or it is damaged: it is made again."""
  try:
    content = path.read_bytes()
  except OSError:
    return None
  digest, program = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
  if hashlib.sha256(program).digest() != digest:
    return None
  with contextlib.suppress(OSError):
    os.utime(path)  # the latest used are kept
  return export.deserialize(bytearray(program))


def _write(path: Path, program: export.Exported) -> None:
  """Keeps a program; a folder that cannot be written costs time, not the run."""
  content = bytes(program.serialize())
  with contextlib.suppress(OSError):
    files.write_bytes(path, hashlib.sha256(content).digest() + content)
    kept = sorted(path.parent.iterdir(), key=lambda one: one.stat().st_mtime)
    for one in kept[:-_MOST_KEPT]:
      one.unlink(missing_ok=True)


@functools.cache
def _code() -> str:
  """Digest of this package's sources."""
  package, digest = Path(__file__).parent, hashlib.sha256()
  for path in sorted(package.rglob('*.py')):
    digest.update(f'{path.relative_to(package)}\0'.encode() + path.read_bytes())
  return digest.hexdigest()
