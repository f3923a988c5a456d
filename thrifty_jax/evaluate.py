"""Scores masks: `python -m thrifty_jax.evaluate --masks=DIR --truths=DIR --output=DIR`."""

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import thrifty_jax
from thrifty_jax import allowed, files, logbook
from thrifty_jax.errors import InputError
from thrifty_jax.logbook import say
from thrifty_jax.running import command_line

if TYPE_CHECKING:
  from thrifty_jax.scores.mask_pairs import Found, Meaning

OUTPUTS = ('scores.csv', 'summary.json', 'report.html')
TOLERANCE = 2.0  # as config.evaluate.nsd_tolerance_mm
CLASSES = allowed.names("two or more different names, as in ('background','liver')", least=2)
USAGE = f"""\
usage: python -m thrifty_jax.evaluate --masks=FOLDER --truths=FOLDER --output=FOLDER [options]

Scores masks, of any program, by truths: the scores of docs/scores.md for each patient and class, on
the grid of the truth, as the stage evaluate of a run has them.

  --masks=FOLDER       masks in NIfTI, NRRD or MetaImage, or pictures in PNG, TIFF, BMP, GIF, JPEG
  --truths=FOLDER      truths of the same kind, paired with the masks by the names of their files:
                       equal ones, or such as a and a_mask, 21_training and 21_manual1
  --output=FOLDER      gets
      scores.csv           every score of every patient and class
      summary.json         means, deviations and intervals over the patients
      report.html          these, a dot for each patient, the best, median and worst masks
  --classes="('background','liver')"
                       names of the classes 0, 1, ... (default: as classes.json of predict or
                       dataset.json says, in either folder or above the truths; else class_1, ...)
  --colours="('#000000','#ff0000')"
                       colours of the classes in pictures (default: they hold class numbers; of two
                       classes 0 and 255 do as well)
  --masks_hold_numbers only the truths have these colours
  --patients=FILE.csv  lines "case,patient" after such a first line, where a patient has several
                       truths; a case has the name of its truth without the ending
  --nsd_tolerance=2    in mm, of pictures in pixels (default: {TOLERANCE:g})
  --allow_missing      score the others where truths have no mask; else that is an error
  --overwrite          replace outputs that exist; else they stop the command before any work

A mask must have the size, position and direction of its truth; axes in another order are turned.
Where a file cannot be scored, nothing is written.

Exit status: 0 done, 2 bad input or usage, 1 a fault.
{thrifty_jax.RESEARCH_USE}
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status; None uses the arguments of the process."""
  return command_line.start(argv, USAGE, run)


def run(arguments: Sequence[str]) -> int:
  """Parses the command, scores the masks and writes the files; returns the exit status."""
  values = command_line.read(
    arguments,
    USAGE,
    required={'masks': 'masks', 'truths': 'labelsTr', 'output': 'scores'},
    nsd_tolerance=command_line.Number(float, TOLERANCE, least=0),
  )
  output, truths = Path(values.output), Path(values.truths)
  classes = command_line.parse_texts('classes', values.classes, CLASSES)
  colours = command_line.parse_texts('colours', values.colours, allowed.COLOURS)
  _require_usable(values, output)
  # The readers of scans take a second to import, so mistakes in the command are reported first.
  from thrifty_jax.scores import mask_pairs

  patients = Path(values.patients) if values.patients else None
  found = mask_pairs.find(Path(values.masks), truths, patients=patients)
  if not values.allow_missing:
    mask_pairs.require_complete(found, Path(values.masks))
  _say_what_is_scored(values, found)
  meaning = mask_pairs.find_meaning(
    found, classes=classes, colours=colours, masks_hold_numbers=values.masks_hold_numbers
  )
  say('classes', ', '.join(meaning.classes))
  return _score(found, meaning, output, nsd_tolerance=values.nsd_tolerance)


def _require_usable(values: Any, output: Path) -> None:
  """Refuses options that do not fit together, and an output that cannot be written."""
  if not math.isfinite(values.nsd_tolerance):
    raise InputError(f'--nsd_tolerance={values.nsd_tolerance}: expected a number from 0')
  if values.masks_hold_numbers and not values.colours:
    raise InputError('--masks_hold_numbers is for truths in --colours; leave it out, or name these')
  if output.exists() and not output.is_dir():
    raise InputError(f'--output={output}: is no folder; name another')
  files.require_writable(output, output)
  there = [name for name in OUTPUTS if (output / name).exists()]
  if there and not values.overwrite:
    raise InputError(
      f'--output={output}: has {", ".join(there)} already; add --overwrite, or name another'
    )


def _say_what_is_scored(values: Any, found: 'Found') -> None:
  from thrifty_jax.scores import mask_pairs

  say(f'thrifty_jax {thrifty_jax.__version__}  research use only, not a medical device')
  say('masks', f'{len(found.pairs)} in {values.masks}')
  say('truths', f'{values.truths}, paired {found.rule}')
  for title, paths in (('no mask', found.missing), ('no truth', found.unused)):
    if paths:
      say(title, f'{len(paths)}, not scored: {mask_pairs.list_names(paths)}')


def _score(found: 'Found', meaning: 'Meaning', output: Path, *, nsd_tolerance: float) -> int:
  """Scores the masks, prints the table and writes the files; returns the exit status."""
  from thrifty_jax import records
  from thrifty_jax.reporting import mask_page
  from thrifty_jax.scores import mask_scores, summaries, tables

  began = time.monotonic()
  counts, problems = mask_scores.score(found, meaning, nsd_tolerance=nsd_tolerance)
  if problems:
    for line in problems:
      print(f'error: {line}', file=sys.stderr)
    return 2
  summary, rows = mask_scores.summarise(found, meaning, counts, nsd_tolerance=nsd_tolerance)
  page = mask_page.render(summary, rows, found, meaning)
  with files.report_unwritable(output.absolute(), '--output'):
    summaries.write_rows(output / 'scores.csv', rows)
    records.write(output / 'summary.json', summary)
    files.write_text(output / 'report.html', page)
  print(f'\n{tables.format_masks(summary)}\n', flush=True)
  say('done', f'{len(counts)} masks in {logbook.format_duration(time.monotonic() - began)}')
  say('written', ', '.join(str(output / name) for name in OUTPUTS))
  return 0


if __name__ == '__main__':
  sys.exit(main())
