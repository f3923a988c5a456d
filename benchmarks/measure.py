"""Shared by the benchmarks: options, compiling, printed lines, and the JSON object at the end."""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax

from thrifty_jax import device
from thrifty_jax.training import compiling

MIB = 1 << 20
T = TypeVar('T')
PACKAGES = ('jax', 'jaxlib', 'flax')


def parser(doc: str | None) -> argparse.ArgumentParser:
  """Returns a parser with a module's description and the options of every benchmark."""
  described = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  described.add_argument('--repeats', type=positive, default=10, help='of which medians are taken')
  return described


def positive(text: str) -> int:
  """Parses a whole number from 1, for argparse."""
  number = int(text)
  if number < 1:
    raise ValueError(text)
  return number


def several(one: argparse.ArgumentParser, name: str, *default: Any, **options: Any) -> None:
  """Adds an option that takes one value or more: each is measured with each of the others."""
  options.setdefault('type', positive)
  one.add_argument(f'--{name}', nargs='+', default=list(default), **options)


def dtypes(one: argparse.ArgumentParser) -> None:
  """Adds --dtype."""
  text = 'of slices and activations; parameters stay float32'
  several(one, 'dtype', 'float32', type=str, choices=['float32', 'bfloat16'], help=text)


def compile_all(
  programs: Sequence[tuple[Any, tuple[Any, ...]]],
  compiler: Callable[[Any], Any] = compiling.compile_step,
) -> tuple[list[Callable[..., Any]], dict[str, Any]]:
  """Compiles programs one after the other, as the search does, and measures the cost.

  Args:
    programs: Jitted functions, each with arguments or their shapes.
    compiler: Function that compiles one; the default is that of training steps.

  Returns:
    Compiled programs; `trace_s`, `compile_s`, and `temp_mb`, the temporary memory that XLA plans
    for the one that needs the most, None if it is unknown.
  """
  began = time.perf_counter()
  lowered = [function.lower(*arguments) for function, arguments in programs]
  traced = time.perf_counter()
  compiled, planned = [], []
  for one in lowered:
    compiled.append(compiler(one))
    planned.append(compiled[-1].memory_analysis())
    device.give_back_memory()
  ended = time.perf_counter()
  most = None if None in planned else max(one.temp_size_in_bytes for one in planned) / MIB
  return compiled, {'trace_s': traced - began, 'compile_s': ended - traced, 'temp_mb': most}


def timed(step: Callable[..., tuple[T, Any]], state: T, *batches: Any) -> tuple[float, T]:
  """Returns the seconds of a step and the new state.

  On an accelerator this is the mean of ten steps that are launched in a row, as in training.

  Args:
    step: Function (state, *batches) -> (state, metrics).
    state: State of the training, which may be donated.
    batches: Batches of every step.
  """
  steps = 1 if jax.default_backend() == 'cpu' else 10
  began = time.perf_counter()
  for _ in range(steps):
    state, _ = step(state, *batches)
  jax.block_until_ready(state)
  return (time.perf_counter() - began) / steps, state


def medians(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """Returns the median of each figure over the turns, as median_<figure>."""
  return {f'median_{name}': statistics.median(one[name] for one in turns) for name in turns[0]}


def environment() -> dict[str, Any]:
  """Returns versions and device. Starts JAX: to be called after all contenders have ended."""
  from thrifty_jax.running import environment

  found = environment.describe('')
  return {
    'python': found['python'],
    **{name: found['packages'][name] for name in PACKAGES},
    'thrifty_jax': found['thrifty_jax'],
    'commit': found['commit'],
    'device': device.describe(),
    'cores': found['cores'],
  }


def load() -> float | None:
  """Returns the load average of the last minute, None if it is unknown."""
  return os.getloadavg()[0] if hasattr(os, 'getloadavg') else None


class Report:
  """Prints a line for each measurement, and all of them as JSON in the last line."""

  def __init__(self, benchmark: str):
    """Records the machine's load before any work."""
    self._benchmark, self._load = benchmark, load()
    self._measurements: list[dict[str, Any]] = []
    if self._load is not None:
      print(f'{benchmark}: load of the machine before {self._load:.1f}', flush=True)

  def add(self, settings: dict[str, Any], figures: dict[str, Any], line: str) -> None:
    """Adds a measurement and prints its line."""
    self._measurements.append({**settings, **figures})
    what = ', '.join(f'{name} {value}' for name, value in settings.items())
    print(f'{what}: {figures.get("error") or line}', flush=True)

  def end(self) -> int:
    """Prints the last line; returns the exit status, 1 if a contender ended with an error."""
    found = environment()
    result = {
      'benchmark': self._benchmark,
      **found,
      'load_before': self._load,
      'measurements': [{**one, 'device': found['device']} for one in self._measurements],
    }
    print(json.dumps(result), flush=True)
    return int(any('error' in one for one in self._measurements))


def step_line(figures: dict[str, Any]) -> str:
  """Returns the figures of a training step as text; '' if there are none."""
  return ', '.join(_parts(figures))


def _parts(figures: dict[str, Any]) -> Iterator[str]:
  if 'median_step_s' in figures:
    yield f'step {figures["median_step_s"]:.3f} s'
    if figures.get('relative_step', 1) != 1:  # missing if the first has ended
      yield f'{figures["relative_step"]:.2f} times the first'
    yield f'first step after {figures["first_step_s"]:.1f} s'
    yield f'trace {figures["trace_s"]:.1f} s, compile {figures["compile_s"]:.1f} s'
    yield f'peak {figures["peak_rss_mb"]:.0f} MiB'
    if figures['peak_device_mb'] is not None:
      yield f'on the device {figures["peak_device_mb"]:.0f} MiB'
    if figures['temp_mb'] is not None:
      yield f'planned {figures["temp_mb"]:.0f} MiB'
