"""Draws the structure of a run's network: its cells and its grid."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from thrifty_jax import config as configs
from thrifty_jax.drawings import drawing, grid_drawing, lean_drawing
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.networks.lean_space import LeanShape

COLOURS = drawing.variables() | grid_drawing.variables()
DARK_COLOURS = drawing.variables(dark=True) | grid_drawing.variables(dark=True)


def draw(workdir: Path, depth: int | None) -> dict[str, Any]:
  """Draws the cells of the retrained structure, else of the searched one.

  The grid of cells is drawn if the depth is known.
  """
  paths = [workdir / stage / 'genotype.json' for stage in ('model', 'search')]
  path = next((path for path in paths if path.exists()), None)
  if path is None:
    nothing = dict.fromkeys(('grid', 'shape', 'scores_note', 'genotype_path'), '')
    return {**nothing, 'cells': [], 'provenance': {}}
  genotype, cells, scores = genotypes.load_any(path), [], {}
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
    'provenance': configs.flatten(genotypes.read_provenance(path)),
  }
