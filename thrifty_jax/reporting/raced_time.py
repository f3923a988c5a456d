"""The time of a network by a race, as the genotype tells it."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from thrifty_jax import records, settings
from thrifty_jax.allowed import Allowed, one_of, within
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype
from thrifty_jax.run_files import Side

TITLES = {'onnxruntime': 'ONNX Runtime', 'openvino': 'OpenVINO', 'jax': 'JAX'}  # of runtimes
_PRECISIONS = {'int8': '8 bits'}  # others are called by their names
# The settings also have names that stand for several.
_RUNTIMES = tuple(name for name in settings.COST_RUNTIMES if name not in ('installed', 'all'))
_LINE = Allowed(
  'a line of 1 to 200 letters',
  lambda text: text.isprintable() and text.strip() and len(text) <= 200,
)


@dataclass(frozen=True)
class RacedTime:
  """The time of a slice in the provenance of a genotype.

  Anybody may write a provenance, and it has no spread: else it would be a run_files.Timed.
  """

  ms: Annotated[float, within(1e-6, 1e9)]
  runtime: Annotated[str, one_of(*_RUNTIMES)]
  precision: Annotated[str, one_of('float32', 'int8')]
  size: Side  # pixels on each side of the slice
  machine: Annotated[str, _LINE]
  threads: Annotated[int, within(1, 1 << 16)] | None = None  # None where the file does not say it

  @property
  def way(self) -> str:
    """The runtime and the precision in words."""
    return describe_way(self.runtime, self.precision)


def describe_way(runtime: str, precision: str) -> str:
  """Describes how a network runs, by the names of both: `OpenVINO in 8 bits`."""
  return f'{TITLES.get(runtime, runtime)} in {_PRECISIONS.get(precision, precision)}'


def find(provenance: Mapping[str, Any]) -> RacedTime | None:
  """Returns the time that the provenance of a genotype tells; None if it tells none.

  One whose values are no time tells none either.
  """
  with contextlib.suppress(InputError):
    return records.parse(dict(provenance), RacedTime, 'provenance')
  return None


def read(path: Path) -> RacedTime | None:
  """Reads the time that a genotype file tells; None if it tells none or there is no such file.

  A baseline has no genotype file. InputError is raised if the file is no genotype.
  """
  return find(genotype.read_provenance(path)) if path.is_file() else None


def describe(timed: RacedTime, part: str, *, cross: str = 'x') -> str:
  """Describes a time in a line without a full stop.

  Args:
    timed: The time.
    part: Word for what a network sees at once.
    cross: Sign between height and width.
  """
  threads = f'{timed.threads} thread{"s" * (timed.threads > 1)} of ' if timed.threads else ''
  return (
    f'{timed.ms:.2f} ms for a {part} of {timed.size} {cross} {timed.size} pixels in {timed.way} on '
    f'{threads}{timed.machine}, by a race that timed it'
  )
