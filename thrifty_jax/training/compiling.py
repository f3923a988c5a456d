"""Compiles training steps in the background, with chosen XLA options, and caches their traces.

Tracing a supernet takes seconds and compiling it up to a minute. JAX's own cache keeps compiled
programs but looks them up by the traced program. Here the traced program is cached too, as
StableHLO (jax.export), under a digest of everything that it depends on.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import export
from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import device, files, logbook, stopping
from thrifty_jax.networks import build
from thrifty_jax.settings import SETTINGS
from thrifty_jax.training import hosts

T = TypeVar('T')
Check = Callable[[jax.stages.Compiled], None]

# On an NVIDIA GPU a step becomes one CUDA graph if cuDNN permits: of what XLA records by default,
# the operations between two convolutions, and of the convolutions. A small network has a hundred of
# them, and half of the time would go into their launch. XLA leaves them out, as some kernels of
# cuDNN cannot be recorded, which shows only at run time (github.com/openxla/xla/pull/34572).
_RECORDED = 'xla_gpu_enable_command_buffer'
_ONE_GRAPH: dict[str, Any] = {
  _RECORDED: 'FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONVOLUTION'
}
_QUICKLY: dict[str, Any] = {
  'xla_backend_optimization_level': 1,  # of LLVM on a CPU; steps are as fast as with level 3
  # YNNPACK, part of XLA since JAX 0.10, only for sums: its convolutions take up to two thirds
  # longer, and every process builds them and its many small matrix products anew.
  'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE',
}
# Kernels are compiled directly to LLVM, not through MLIR; JAX 0.11 dropped this option.
_LEAN: dict[str, Any] = {'xla_cpu_use_fusion_emitters': False}

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
_MOST_KEPT = 256  # files, up to a megabyte each; the oldest are removed first
_DIGEST_BYTES = 32


@dataclasses.dataclass(eq=False)
class Program:
  """Step that is compiled in its own thread once it is begun; a call waits for the compilation."""

  step: Callable[..., tuple[Any, dict[str, jax.Array]]]  # (state, *batches) -> (state, metrics)
  # Returns (state, *batches), arrays or shapes and types; called in the thread, and only if the
  # program is not cached.
  arguments: Callable[[], tuple[Any, ...]]
  _: dataclasses.KW_ONLY
  place: Path | None = None  # file of the traced program, see `place`; None disables the cache
  donate: bool = False  # whether a call may reuse the memory of its state
  # Whether a CPU's compiler takes much less memory. It then takes a sixth to a third less time for
  # a step of the search, and two thirds more for the training of a network.
  lean: bool = False
  check: Check | None = None  # called with the compiled step before its use

  def __post_init__(self):
    self._future: Future[jax.stages.Compiled] | None = None

  def __call__(self, state: Any, *batches: Any) -> tuple[Any, dict[str, jax.Array]]:
    leaves, metrics = self.wait()(*jax.tree.leaves((state, *batches)))
    return jax.tree.unflatten(jax.tree.structure(state), leaves), metrics

  def begin(self) -> Future[jax.stages.Compiled]:
    """Starts the compilation unless it has started."""
    if self._future is None:
      self._future = Future()
      # A daemon: a process asked to stop does not wait for the compiler, see stopping.leave.
      threading.Thread(target=self._run, name=stopping.COMPILER, daemon=True).start()
    return self._future

  def wait(self) -> jax.stages.Compiled:
    """Waits for the compiled step and returns it, a function of the leaves of its arguments."""
    return self.begin().result()

  def _run(self) -> None:
    """Compiles the step; errors are raised where the program is used."""
    future = self.begin()

    def trace() -> bytes:
      function, shapes = self._flat()
      return bytes(export.export(function)(*shapes).serialize())

    try:
      if self.place is None:
        function, shapes = self._flat()
        lowered = function.lower(*shapes)
      else:
        lowered = keep(self.place, trace, _lower)
      future.set_result(compile_step(lowered, lean=self.lean, check=self.check))
    except BaseException as error:
      future.set_exception(error)

  def _flat(self) -> tuple[Any, list[jax.ShapeDtypeStruct]]:
    """Returns the step as a function of leaves, and the shapes to compile it for."""
    arguments = self.arguments()
    leaves, tree = jax.tree.flatten(arguments)
    several = jax.device_count() > 1  # only then do shardings matter
    shapes = [
      jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding if several else None)
      for leaf in leaves
    ]

    def flat(*leaves: Any) -> tuple[list[Any], dict[str, jax.Array]]:
      state, metrics = self.step(*jax.tree.unflatten(tree, leaves))
      return jax.tree.leaves(state), metrics

    donated = range(len(jax.tree.leaves(arguments[0]))) if self.donate else ()
    return jax.jit(flat, donate_argnums=tuple(donated)), shapes


def _lower(traced: bytes) -> jax.stages.Lowered:
  program = export.deserialize(bytearray(traced))
  return jax.jit(program.call).lower(*program.in_avals)


def wait(programs: Sequence[Program]) -> None:
  """Waits until the first program is compiled, in every process, and prints how long that took.

  It waits for all on a GPU, where XLA measures kernels while it compiles and concurrent steps would
  be slower, and with several processes, as CPU devices wait for each other for at most 30 s.
  """
  needs_all = hosts.several() or jax.default_backend() == 'gpu'
  text = 'the step: up to minutes, or seconds if it was compiled before'
  with logbook.waiting('compiling', text, done='compiled'):
    for program in programs if needs_all else programs[:1]:
      program.wait()
    hosts.meet('compiled')


def wait_within(program: Program, name: str) -> float:
  """Waits for a program in a loop, says so if it is not compiled yet, and returns the seconds."""
  if program.begin().done():
    program.wait()
    return 0.0
  began = time.monotonic()
  with logbook.waiting('compiling', name, done='compiled'):
    program.wait()
  return time.monotonic() - began


def compile_step(
  lowered: jax.stages.Lowered, *, lean: bool = False, check: Check | None = None
) -> jax.stages.Compiled:
  """Compiles a step, see Program; on an NVIDIA GPU as one graph if that runs on zeros."""
  options, compiled = _options(lean), None  # those that this XLA does not know are left out
  while compiled is None:
    try:
      compiled = lowered.compile(compiler_options=options or None)
    except jax.errors.JaxRuntimeError as error:
      known = {name: value for name, value in options.items() if name not in str(error)}
      if known == options:
        raise
      options = known
  device.give_back_memory()
  if check is not None:
    check(compiled)
  if _RECORDED not in options or _runs(compiled):
    return compiled
  logbook.say(
    'slower', 'cuDNN cannot record a convolution of this step as a graph; compiling without it'
  )
  return lowered.compile()


def _options(lean: bool) -> dict[str, Any]:
  """Returns XLA's options on this backend, without those set by XLA_FLAGS or JAX's settings."""
  if _can_be_one_graph():
    return _ONE_GRAPH
  if jax.default_backend() != 'cpu' or jax.config.values['jax_disable_most_optimizations']:
    return {}
  flags = os.environ.get('XLA_FLAGS', '')
  options = _QUICKLY | _LEAN if lean else _QUICKLY
  return {name: value for name, value in options.items() if name not in flags}


def _can_be_one_graph() -> bool:
  """Returns whether to try to compile a step as one graph here.

  Only on one device: of several devices, those where a step fails would leave the others waiting.
  Not with deterministic operations, for which XLA takes kernels untried: one of them ended the step
  on an H200 with a cuDNN error. Not if XLA_FLAGS already says what is recorded.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  if jax.device_count() > 1 or _RECORDED in flags or device.DETERMINISTIC in flags:
    return False
  return 'cuda' in jax.devices()[0].client.platform_version


def _runs(compiled: jax.stages.Compiled) -> bool:
  """Returns whether a step runs; raises if memory runs out."""
  arguments, names = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), compiled.args_info)
  try:
    jax.block_until_ready(compiled(*arguments, **names))
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' in str(error):
      raise
    return False
  return True


def place(config: ConfigDict, **origin: Any) -> Path | None:
  """Returns the file that caches a result of earlier runs, for `kept`.

  It follows from the config, the code, and `origin`: everything else that the result depends on, in
  JSON types. None is no cache, or several devices, whose sharding a cached program does not have.
  """
  folder = device.cache_folder(config.compilation_cache)
  if folder is None or jax.device_count() > 1:
    return None
  fields = configs.flatten(config)
  made_from = {
    'config': {name: value for name, value in fields.items() if not SETTINGS[name].untraced},
    'origin': origin,
    'code': _code(),
    'versions': {name: importlib.metadata.version(name) for name in _PACKAGES},
    'device': (jax.default_backend(), jax.devices()[0].device_kind),
    'settings': {name: str(value) for name, value in sorted(jax.config.values.items())},
  }
  return folder / device.TRACED / files.digest_json(made_from)


def make_shapes_finder(
  config: ConfigDict, net: Any, image: jax.ShapeDtypeStruct
) -> Callable[..., build.Shapes]:
  """Returns build.trace_shapes for a network and batches of images, cached from run to run."""
  path = place(config, weights_of=str(net), image=image.shape)
  return functools.partial(build.keep_shapes, functools.partial(keep, path))


def keep(path: Path | None, make: Callable[[], bytes], read: Callable[[bytes], T]) -> T:
  """Returns what is read from the cached content; if there is none, makes and caches it.

  Content that is damaged, or that cannot be read for whatever reason, is as good as none. If the
  folder cannot be written to, nothing is cached and the run continues.
  """
  if path is None:
    return read(make())
  found = b''
  with contextlib.suppress(OSError):
    found = path.read_bytes()
    os.utime(path)  # marks it as recently used
  digest, content = found[:_DIGEST_BYTES], found[_DIGEST_BYTES:]
  if found:
    try:
      if digest != hashlib.sha256(content).digest():
        raise ValueError('its checksum is another')
      return read(content)
    except Exception as error:  # a cache is never a reason to fail
      reason = ' '.join(f'{type(error).__name__}: {error}'.split())
      logbook.say('cache', f'{path} cannot be used ({reason:.160}); making it anew')
  content = make()
  with contextlib.suppress(OSError):
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write_bytes(path, hashlib.sha256(content).digest() + content)
    everything = sorted(path.parent.iterdir(), key=lambda one: one.stat().st_mtime)
    for one in everything[:-_MOST_KEPT]:
      one.unlink(missing_ok=True)
  return read(content)


@functools.cache
def _code() -> str:
  """Returns the digest of this package's sources."""
  package, digest = Path(__file__).parents[1], hashlib.sha256()
  for path in sorted(package.rglob('*.py')):
    digest.update(f'{path.relative_to(package)}\0'.encode() + path.read_bytes())
  return digest.hexdigest()
