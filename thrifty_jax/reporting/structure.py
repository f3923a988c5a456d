"""Draws the structure of a run's network, its cells and its grid, and says what it costs."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from markupsafe import Markup

from thrifty_jax import config as configs
from thrifty_jax import records, settings
from thrifty_jax.allowed import Allowed, one_of, within
from thrifty_jax.drawings import drawing, grid_drawing, lean_drawing
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.run_files import Count, Side

COLOURS = drawing.variables() | grid_drawing.variables()
DARK_COLOURS = drawing.variables(dark=True) | grid_drawing.variables(dark=True)


_LINE = Allowed(
  'a line of at most 200 letters', lambda text: text.isprintable() and len(text) <= 200
)


@dataclass(frozen=True)
class GenotypeFile:
  """The provenance in a genotype file."""

  provenance: dict | None = None


@dataclass(frozen=True)
class RaceTime:
  """The time of a slice in the provenance of a genotype, as the race that found it has timed it."""

  ms: Annotated[float, within(1e-6, 1e9)]
  runtime: Annotated[str, one_of(*settings.COST_RUNTIMES)]
  precision: Annotated[str, one_of(*settings.COST_PRECISIONS)]
  size: Side  # pixels on each side of the slice
  machine: Annotated[str, _LINE]
  threads: Count | None = None  # None where the file does not say it


def find_time(provenance: Mapping[str, Any]) -> RaceTime | None:
  """Returns the time that the provenance of a genotype tells; None if it tells none.

  Anybody may write a provenance: one whose values are no time tells none either.
  """
  with contextlib.suppress(InputError):
    return records.parse(dict(provenance), RaceTime, 'provenance')
  return None


def tell_time(timed: RaceTime, part: str) -> str:
  """Says a time in words; `part` is the word for what a network sees at once."""
  threads = f'{timed.threads} thread{"s" * (timed.threads > 1)} of ' if timed.threads else ''
  return (
    f'{timed.ms:.2f} ms for a {part} of {timed.size} x {timed.size} pixels in {timed.runtime} '
    f'{timed.precision} on {threads}{timed.machine}, by the race that found the network'
  )


def format_macs(macs: float) -> str:
  """Formats a number of multiplications with at least three digits: `4.57 G`, `188 M`."""
  unit, letter = find_unit(macs)
  count = macs / unit
  return f'{count:.{2 - (count >= 10) - (count >= 100)}f} {letter}'


def find_unit(count: float) -> tuple[float, str]:
  """Returns the unit, and its letter, for which a count has digits before the decimal point."""
  if count >= 1e9:
    return 1e9, 'G'
  return (1e6, 'M') if count >= 1e6 else (1e3, 'k')


def draw(workdir: Path, depth: int | None, part: str) -> dict[str, Any]:
  """Draws the cells of the retrained structure, else of the searched one, and says its time.

  The grid of cells is drawn if the depth is known; `part` is as of `tell_time`.
  """
  paths = [workdir / stage / 'genotype.json' for stage in ('model', 'search')]
  path = next((path for path in paths if path.exists()), None)
  if path is None:
    nothing = dict.fromkeys(('grid', 'shape', 'scores_note', 'genotype_path', 'time'), '')
    return {**nothing, 'cells': [], 'timed': None, 'provenance': {}}
  genotype, cells, scores = genotypes.load_any(path), [], {}
  provenance = records.read(path, GenotypeFile).provenance or {}
  timed = find_time(provenance)
  if isinstance(genotype, LeanShape):
    network = lean_drawing.draw_shape(genotype).inline()
  else:
    scores = drawing.edge_scores(path)
    if depth:
      genotypes.require_depth(genotype, depth, place=str(path))
    cells = [
      drawing.draw_cell(kind, getattr(genotype, kind), scores[kind]) for kind in drawing.TITLES
    ]
    network = grid_drawing.draw_grid(depth, genotype.skipped).inline() if depth else ''
  return {
    'cells': [Markup(cell.inline()) for cell in cells],
    'grid': Markup(network),
    'shape': genotype.title if isinstance(genotype, LeanShape) else '',
    'scores_note': drawing.SCORES if any(scores.values()) else '',
    'genotype_path': path.relative_to(workdir),
    'timed': timed,
    'time': tell_time(timed, part) if timed else '',
    'provenance': configs.flatten(provenance),
  }
