"""Draws a genotype file: `python -m thrifty_jax.draw --genotype=FILE --output=FILE.svg`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from thrifty_jax import files
from thrifty_jax.drawings import drawing, grid_drawing, lean_drawing, svg
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.running import command_line

DEPTH, DEEPEST = 5, 12  # default number of levels; most that can be drawn
USAGE = f"""\
usage: thrifty-jax draw --genotype=FILE --output=FILE.svg [--depth=LEVELS]
   or: python -m thrifty_jax.draw, the same

Draws the structure of a searched network: the down cell and the up cell with their operations and,
where the file has them, the scores of these choices; and the grid of cells that makes the network.
Of a lean network it draws the levels.

  --genotype=FILE      a genotype, for example runs/brain/search/genotype.json
  --output=FILE.svg    the picture, for light and dark screens; one that is there is replaced
  --depth=LEVELS       of the network, 2 to {DEEPEST} (default: as in the file, else {DEPTH})

Exit status: 0 done, 2 bad input or usage, 1 a fault.
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status; None uses the arguments of the process."""
  return command_line.start(argv, USAGE, run)


def run(arguments: Sequence[str]) -> None:
  """Parses the command and writes the picture."""
  values = command_line.read(
    arguments,
    USAGE,
    required={'genotype': 'genotype.json', 'output': 'genotype.svg'},
    depth=command_line.Number(int, None, least=2, most=DEEPEST),
  )
  output = Path(values.output)
  if output.suffix.lower() != '.svg':
    raise InputError(f'--output={output}: expected the name of a picture, ending in .svg')
  if not output.absolute().parent.is_dir():
    raise InputError(f'--output={output}: there is no such folder; create it or name another')
  picture = draw(Path(values.genotype), depth=values.depth)
  try:
    files.write_text(output, picture)
  except OSError as error:
    raise InputError(
      f'--output={output}: cannot be written: {error.strerror}; name another file'
    ) from error
  print(output)


def draw(path: Path, *, depth: int | None = None) -> str:
  """Draws a genotype file as the text of a standalone SVG file.

  A `depth` of None, the number of levels, is that of the file's provenance, else 5. A file that is
  no genotype, or skips cells that do not exist at this depth, is an InputError.
  """
  schemes = [
    drawing.variables(dark=dark) | grid_drawing.variables(dark=dark) for dark in (False, True)
  ]
  found = genotype.load_any(path)
  if isinstance(found, LeanShape):
    if depth:
      raise InputError(
        f'{path} describes a lean network, which has its own levels: leave out --depth'
      )
    return lean_drawing.draw_shape(found).file(*schemes)
  scores = drawing.edge_scores(path)
  depth = depth or _depth(path)
  try:
    grid = grid_drawing.draw_grid(depth, found.skipped)
  except ValueError as error:
    raise InputError(f'{path}: {error}; give the depth of its network, --depth=LEVELS') from error
  note = [svg.note(drawing.SCORES)] if any(scores.values()) else []
  pictures = [drawing.draw_cells(found, scores), *note, grid]
  return svg.below(pictures, gap=36, label=f'The network of {path.name}').file(*schemes)


def _depth(path: Path) -> int:
  """Depth in the file's provenance, of a race in what it is made for, else the default."""
  told = genotype.read_provenance(path)
  made_for = told.get(genotype.MADE_FOR)
  depth = told.get('depth', made_for.get('depth', DEPTH) if isinstance(made_for, dict) else DEPTH)
  if not isinstance(depth, int) or not 2 <= depth <= DEEPEST:
    raise InputError(
      f'{path}: its depth is {depth!r:.40}, expected a whole number from 2 to {DEEPEST}; '
      'give it by --depth=LEVELS'
    )
  return depth


if __name__ == '__main__':
  sys.exit(main())
