"""Steps of the search as compiled programs: traced once for all runs, compiled beside the work.

Tracing a supernet takes seconds and compiling it up to a minute. JAX's own cache keeps what it
compiled, but finds it by the traced program. Here that is kept too, as StableHLO (jax.export), and
found by all that it is made from.
"""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax import export
from ml_collections import ConfigDict

from thrifty_jax import stopping
from thrifty_jax.training import cache, compiling

# Named tuples and arrays in, (state, metrics) out; see bilevel.
Step = Callable[..., tuple[Any, dict[str, jax.Array]]]
Check = Callable[[jax.stages.Compiled], None]
T = TypeVar('T')

_ahead: dict[Path, Future[jax.stages.Compiled]] = {}  # what load_ahead began


def load_ahead(config: ConfigDict, stage: str) -> None:
  """Begins to load the program with which this stage began last time, with these settings.

  What a step is made of is known when the data is open; that it is the same again is likely. If it
  is not, a core has worked for nothing. On a CPU only: a GPU tries a step, which takes memory.

  Args:
    config: Of the run.
    stage: The name that was given to `note`.
  """
  place = note(config, stage)
  name = cache.read(place)
  if place is None or name is None or jax.default_backend() != 'cpu':
    return
  kept = place.with_name(name.decode())
  content = cache.read(kept)
  if content is not None:
    _ahead[kept] = _in_a_thread(lambda: _load(content))


def note(config: ConfigDict, stage: str) -> Path | None:
  """The file in which a stage's first program is named for load_ahead."""
  return cache.place(config, begins=stage)


class Program:
  """A step that is compiled in a thread of its own, once it is begun; a call waits until it is."""

  def __init__(
    self,
    step: Step,
    arguments: Callable[[], tuple[Any, ...]],
    *,
    kept: Path | None = None,
    named_in: Path | None = None,
    check: Check | None = None,
  ):
    """Begins nothing yet.

    Args:
      step: (state, *batches) -> (state, metrics), the state of the same structure.
      arguments: Gives (state, *batches), arrays or shapes and types. Asked for in the thread, and
        not at all where the program is kept: that loads while the state is still being made.
      kept: The file of the traced program, which is written if it is not there; None keeps none.
      named_in: The file in which it is named, see `note`; None names it nowhere.
      check: Looks at what was compiled before it is used.
    """
    self._run: Step = self._called
    self._step, self._arguments = step, arguments
    self._kept, self._named_in, self._check = kept, named_in, check
    self._future: Future[jax.stages.Compiled] | None = None

  def __call__(self, state: Any, *batches: Any) -> tuple[Any, dict[str, jax.Array]]:
    """Runs the step."""
    return self._run(state, *batches)

  def watched(self, watch: Callable[[Step], Step]) -> 'Program':
    """The same program with something put around every call, begun."""
    self.begin()
    other = copy.copy(self)
    other._run = watch(self._called)
    return other

  def _called(self, state: Any, *batches: Any) -> tuple[Any, dict[str, jax.Array]]:
    leaves, metrics = self.wait()(*jax.tree.leaves((state, *batches)))
    return jax.tree.unflatten(jax.tree.structure(state), leaves), metrics

  def begin(self) -> Future[jax.stages.Compiled]:
    """Begins to compile it, unless it is begun."""
    if self._future is None:
      self._future = _in_a_thread(self._compile)
    return self._future

  def wait(self) -> jax.stages.Compiled:
    """What JAX made of it, once it has: a function of the leaves of its arguments."""
    return self.begin().result()

  def _compile(self) -> jax.stages.Compiled:
    if self._kept is None:
      function, shapes = self._flat()
      return compiling.compile_step(function.lower(*shapes), lean=True, check=self._check)
    ahead = _ahead.pop(self._kept, None)
    if self._named_in is not None:
      _ahead.clear()  # of another program, which nothing will ask for
    # One that could not be loaded ahead is loaded now; what is wrong with it shows then.
    if ahead is not None and ahead.exception() is None:
      compiled = ahead.result()
      if self._check is not None:
        self._check(compiled)
    else:
      compiled = _load(cache.read(self._kept) or self._traced(), check=self._check)
    if self._named_in is not None:
      cache.write(self._named_in, self._kept.name.encode())
    return compiled

  def _traced(self) -> bytes:
    """The step, traced; and kept."""
    function, shapes = self._flat()
    content = bytes(export.export(function)(*shapes).serialize())
    cache.write(self._kept, content)
    return content

  def _flat(self) -> tuple[Any, list[jax.ShapeDtypeStruct]]:
    """The step as a function of leaves, to be compiled for these."""
    leaves, tree = jax.tree.flatten(self._arguments())

    def flat(*leaves: Any) -> tuple[list[Any], dict[str, jax.Array]]:
      state, metrics = self._step(*jax.tree.unflatten(tree, leaves))
      return jax.tree.leaves(state), metrics

    return jax.jit(flat), [_shape(leaf) for leaf in leaves]


def _load(content: bytes, *, check: Check | None = None) -> jax.stages.Compiled:
  """A traced program, compiled or out of JAX's cache."""
  program = export.deserialize(bytearray(content))
  lowered = jax.jit(program.call).lower(*program.in_avals)
  return compiling.compile_step(lowered, lean=True, check=check)


def _in_a_thread(make: Callable[[], T]) -> Future[T]:
  """What a thread makes, once it has; what goes wrong is raised where that is asked for."""
  future: Future[T] = Future()

  def run() -> None:
    try:
      future.set_result(make())
    except BaseException as error:
      future.set_exception(error)

  # A daemon: a process that is told to go does not wait for the compiler, see stopping.leave.
  threading.Thread(target=run, name=stopping.COMPILER, daemon=True).start()
  return future


def _shape(x: Any) -> jax.ShapeDtypeStruct:
  """Shape and type of an argument; and where it lies, if there is a choice."""
  sharding = x.sharding if jax.device_count() > 1 else None
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
