"""Training steps compiled: beside the work, with what XLA does not choose by itself, and kept.

Tracing a supernet takes seconds and compiling it up to a minute. JAX's own cache keeps what it
compiled, but finds it by the traced program. Here that is kept too, as StableHLO (jax.export), and
found by all that it is made from.

On an NVIDIA GPU a step becomes one CUDA graph, where cuDNN lets it. XLA records what lies between
two convolutions as a graph, and a small network's step is a hundred of them: the GPU waits for each
to be launched, half of the time. With the convolutions recorded as well the step is one. XLA leaves
them out by itself, as not every kernel of cuDNN can be recorded, which shows when it is run
(github.com/openxla/xla/pull/34572). On a CPU steps are compiled with less effort: LLVM's first
level of optimisation makes steps that are as fast as those of its third.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import device, files, logbook, stopping
from thrifty_jax.settings import SETTINGS
from thrifty_jax.training import hosts

# A pytree and batches in, (the pytree, metrics) out.
Step = Callable[..., tuple[Any, dict[str, jax.Array]]]
Check = Callable[[jax.stages.Compiled], None]

_RECORDED = 'xla_gpu_enable_command_buffer'
Options = dict[str, Any]
_ONE_GRAPH: Options = {  # what XLA records by itself, and convolutions
  _RECORDED: 'FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONVOLUTION'
}
_QUICKLY: Options = {
  'xla_backend_optimization_level': 1,
  # YNNPACK, there since JAX 0.10, for sums alone: its convolutions take up to two thirds longer,
  # and each of them, and of its many small matrix products, is built anew in every process.
  'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE',
}
# Kernels straight to LLVM and not through MLIR. XLA has no other way any more since JAX 0.11.
_LEAN: Options = {'xla_cpu_use_fusion_emitters': False}

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
_MOST_KEPT = 256  # of up to a megabyte each; the oldest go first
_DIGEST_BYTES = 32


class Program:
  """A step that is compiled in a thread of its own, once it is begun; a call waits until it is."""

  def __init__(
    self,
    step: Step,
    arguments: Callable[[], tuple[Any, ...]],
    *,
    place: Path | None = None,
    donate: bool = False,
    lean: bool = False,
    check: Check | None = None,
  ):
    """Begins nothing yet.

    Args:
      step: (state, *batches) -> (state, metrics), the state of the same structure.
      arguments: Gives (state, *batches), arrays or shapes and types. It is called in the thread,
        and not at all where the program is kept.
      place: File of the traced program, see `place`; None keeps none.
      donate: Whether a call may use the memory of the state that it is given.
      lean: Whether a CPU's compiler takes much less memory. It takes a sixth to a third less time
        for a step of the search, and two thirds more for a network's training.
      check: Looks at what was compiled before it is used.
    """
    self._step, self._arguments, self._place = step, arguments, place
    self._donate, self._lean, self._check = donate, lean, check
    self._future: Future[jax.stages.Compiled] | None = None

  def __call__(self, state: Any, *batches: Any) -> tuple[Any, dict[str, jax.Array]]:
    """Runs the step."""
    leaves, metrics = self.wait()(*jax.tree.leaves((state, *batches)))
    return jax.tree.unflatten(jax.tree.structure(state), leaves), metrics

  def begin(self) -> Future[jax.stages.Compiled]:
    """Begins to compile it, unless it is begun."""
    if self._future is None:
      self._future = Future()
      # A daemon: a process that is told to go does not wait for the compiler, see stopping.leave.
      threading.Thread(target=self._run, name=stopping.COMPILER, daemon=True).start()
    return self._future

  def wait(self) -> jax.stages.Compiled:
    """Returns what JAX made of it, once it has: a function of the leaves of its arguments."""
    return self.begin().result()

  def _run(self) -> None:
    """Compiles it; what goes wrong is raised where the program is used."""
    future = self.begin()
    try:
      future.set_result(compile_step(self._lowered(), lean=self._lean, check=self._check))
    except BaseException as error:
      future.set_exception(error)

  def _lowered(self) -> jax.stages.Lowered:
    if self._place is None:
      function, shapes = self._flat()
      return function.lower(*shapes)
    program = export.deserialize(bytearray(kept(self._place, self._traced)))
    return jax.jit(program.call).lower(*program.in_avals)

  def _traced(self) -> bytes:
    function, shapes = self._flat()
    return bytes(export.export(function)(*shapes).serialize())

  def _flat(self) -> tuple[Any, list[jax.ShapeDtypeStruct]]:
    """The step as a function of leaves, to be compiled for these."""
    arguments = self._arguments()
    leaves, tree = jax.tree.flatten(arguments)

    def flat(*leaves: Any) -> tuple[list[Any], dict[str, jax.Array]]:
      state, metrics = self._step(*jax.tree.unflatten(tree, leaves))
      return jax.tree.leaves(state), metrics

    donated = range(len(jax.tree.leaves(arguments[0]))) if self._donate else ()
    return jax.jit(flat, donate_argnums=tuple(donated)), [_shape(leaf) for leaf in leaves]


def wait(programs: Sequence[Program]) -> None:
  """Waits until the first program is compiled, in every process, and prints how long that took.

  On a GPU until all are: XLA tries kernels as it compiles, which steps beside it would slow down.
  And where several processes train: on a CPU no device waits for another longer than 30 s.
  """
  began = time.monotonic()
  logbook.say_compiling()
  needs_all = hosts.several() or jax.default_backend() == 'gpu'
  for program in programs if needs_all else programs[:1]:
    program.wait()
  hosts.meet('compiled')
  logbook.say('compiled', f'in {logbook.duration(time.monotonic() - began)}')


def _shape(x: Any) -> jax.ShapeDtypeStruct:
  """Shape and type of an argument; and where it lies, if there is a choice."""
  sharding = x.sharding if jax.device_count() > 1 else None
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def compile_step(
  lowered: jax.stages.Lowered, *, lean: bool = False, check: Check | None = None
) -> jax.stages.Compiled:
  """Compiles a step; on an NVIDIA GPU as one graph if it runs so, tried once with zeros.

  Args:
    lowered: The step.
    lean: See Program.
    check: See Program.
  """
  compiled, options = _compile_with_known(_options(lean), lowered)
  device.give_back_memory()
  if check is not None:
    check(compiled)
  if _RECORDED not in options or _runs(compiled):
    return compiled
  logbook.say('slower', 'cuDNN cannot record a convolution of this step; compiling it without')
  return lowered.compile()


def _options(lean: bool) -> Options:
  """What XLA is told here; nothing that XLA_FLAGS or JAX's own settings say already."""
  if _can_be_one_graph():
    return _ONE_GRAPH
  if jax.default_backend() != 'cpu' or jax.config.values['jax_disable_most_optimizations']:
    return {}
  flags = os.environ.get('XLA_FLAGS', '')
  options = _QUICKLY | _LEAN if lean else _QUICKLY
  return {name: value for name, value in options.items() if name not in flags}


def _can_be_one_graph() -> bool:
  """Whether to try it here.

  On one device only: of several, those where a step fails would leave the others waiting. Not with
  deterministic operations: kernels that XLA takes untried, as it then does, ended the step of an
  H200 with a status of cuDNN. And not where XLA_FLAGS says already what is to be recorded.
  """
  if jax.device_count() > 1:
    return False
  flags = os.environ.get('XLA_FLAGS', '')
  on_cuda = 'cuda' in jax.devices()[0].client.platform_version
  return on_cuda and _RECORDED not in flags and device.DETERMINISTIC not in flags


def _compile_with_known(
  options: Options, lowered: jax.stages.Lowered
) -> tuple[jax.stages.Compiled, Options]:
  """Compiles a step with those options that this XLA knows, and says which they are."""
  try:
    return lowered.compile(compiler_options=options or None), options
  except jax.errors.JaxRuntimeError as error:
    known = {name: value for name, value in options.items() if name not in str(error)}
    if known == options:
      raise
  return _compile_with_known(known, lowered)


def _runs(compiled: jax.stages.Compiled) -> bool:
  """Whether a step can be run; memory that runs out is raised."""
  zeros = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), compiled.args_info)
  arguments, names = zeros
  try:
    jax.block_until_ready(compiled(*arguments, **names))
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' in str(error):
      raise
    return False
  return True


def place(config: ConfigDict, **origin: Any) -> Path | None:
  """The file in which something that earlier runs worked out is kept.

  Args:
    config: Settings of the run.
    **origin: Its name, and whatever it depends on besides, as JSON has it.

  Returns:
    The file; None without a compilation cache, and with several devices, as a program that is kept
    does not say how they share it.
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
  text = json.dumps(made_from, sort_keys=True, default=str)
  return folder / 'traced' / hashlib.sha256(text.encode()).hexdigest()


def keeper(config: ConfigDict, **origin: Any) -> Callable[[Callable[[], bytes]], bytes]:
  """The function that keeps what it is given a maker of, in the file of this origin, see `kept`."""
  return functools.partial(kept, place(config, **origin))


def kept(path: Path | None, make: Callable[[], bytes]) -> bytes:
  """Returns what is kept; where nothing is, or it is damaged, makes it and keeps it.

  A folder that cannot be written costs time, not the run.
  """
  content = _read(path) if path else None
  if content is not None:
    return content
  content = make()
  if path:
    with contextlib.suppress(OSError):
      files.write_bytes(path, hashlib.sha256(content).digest() + content)
      everything = sorted(path.parent.iterdir(), key=lambda one: one.stat().st_mtime)
      for one in everything[:-_MOST_KEPT]:
        one.unlink(missing_ok=True)
  return content


def _read(path: Path) -> bytes | None:
  try:
    found = path.read_bytes()
  except OSError:
    return None
  digest, content = found[:_DIGEST_BYTES], found[_DIGEST_BYTES:]
  if hashlib.sha256(content).digest() != digest:
    return None
  with contextlib.suppress(OSError):
    os.utime(path)  # the latest used are kept
  return content


@functools.cache
def _code() -> str:
  """Digest of this package's sources."""
  package, digest = Path(__file__).parents[1], hashlib.sha256()
  for path in sorted(package.rglob('*.py')):
    digest.update(f'{path.relative_to(package)}\0'.encode() + path.read_bytes())
  return digest.hexdigest()
