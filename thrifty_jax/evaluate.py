"""Scores masks: `python -m thrifty_jax.evaluate --masks=DIR --truths=DIR --output=DIR`."""

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import thrifty_jax
from thrifty_jax import allowed, files, labels, logbook, stopping, words
from thrifty_jax.errors import InputError
from thrifty_jax.logbook import say
from thrifty_jax.running import command_line

if TYPE_CHECKING:
  from thrifty_jax.scores.mask_pairs import Found, Meaning

SCORES, AGAINST = 'scores.csv', 'scores_against.csv'
OUTPUTS = (SCORES, AGAINST, 'summary.json', 'report.html')
TOLERANCE = 2.0  # as config.evaluate.nsd_tolerance_mm
CLASSES = allowed.names("two or more different names, as in ('background','liver')", least=2)
USAGE = f"""\
usage: thrifty-jax evaluate --masks=FOLDER --truths=FOLDER --output=FOLDER [options]
   or: python -m thrifty_jax.evaluate, the same

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
  --regions="1,2,3 2,3 3"
                       labels of each of --classes but the background, where it has several, the
                       outer regions first (default: as those files say)
  --ignore=N           label of the truths, above the others, of voxels that do not count (default:
                       as dataset.json says, else none)
  --patients=FILE.csv  lines "case,patient" after such a first line, where a patient has several
                       truths; a case has the name of its truth without the ending
  --nsd_tolerance=2    in mm, of pictures in pixels (default: {TOLERANCE:g})
  --against=FOLDER     other masks for the same truths: the difference in DSC, p of the paired
                       Wilcoxon test, and their own scores in scores_against.csv
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
    ignore=command_line.Number(int, 0, least=0),
  )
  output = Path(values.output)
  classes = command_line.parse_texts('classes', values.classes, CLASSES)
  colours = command_line.parse_texts('colours', values.colours, allowed.COLOURS)
  regions = _parse_regions(values.regions, classes, colours)
  _require_usable(values, output)
  # The readers of scans take a second to import, so mistakes in the command are reported first.
  from thrifty_jax.scores import mask_pairs

  say(f'thrifty_jax {thrifty_jax.__version__}  research use only, not a medical device')
  sets = [_find(values, name) for name in ('masks', 'against') if values[name].value]
  mask_pairs.require_same(sets)
  meaning = mask_pairs.find_meaning(
    sets,
    classes=classes,
    colours=colours,
    masks_hold_numbers=values.masks_hold_numbers,
    regions=regions,
    ignore=values.ignore,
  )
  say('classes', labels.describe(meaning.classes, meaning.regions))
  if meaning.ignore:
    say('ignored', f'label {meaning.ignore} of the truths')
  try:
    return _score(sets, meaning, output, nsd_tolerance=values.nsd_tolerance)
  except KeyboardInterrupt as error:
    print('stopped; no scores are written', file=sys.stderr)
    return stopping.status(error)


def _parse_regions(text: str, classes: Sequence[str], colours: Sequence[str]) -> labels.Regions:
  """Parses --regions, which must fit the classes."""
  if not text:
    return ()
  if not allowed.REGIONS.holds(text) or not classes or colours:
    raise InputError(
      f'--regions={text}: expected labels of each of --classes but the background, as in '
      '"1,2,3 2,3 3", and no --colours'
    )
  regions = labels.parse(text)
  if fault := labels.find_fault(classes, regions):
    raise InputError(f'--regions={text}: {fault}; expected regions nested or apart, outer first')
  return regions


def _require_usable(values: Any, output: Path) -> None:
  """Refuses options that do not fit together, and an output that cannot be written."""
  if values.ignore > labels.IGNORED:
    raise InputError(f'--ignore={values.ignore}: expected a label, at most {labels.IGNORED}')
  if not math.isfinite(values.nsd_tolerance):
    raise InputError(f'--nsd_tolerance={values.nsd_tolerance}: expected a number from 0')
  if values.masks_hold_numbers and not values.colours:
    raise InputError('--masks_hold_numbers is for truths in --colours; leave it out, or name these')
  if output.exists() and not output.is_dir():
    raise InputError(f'--output={output}: is no folder; name another')
  files.require_writable(f'--output={output}', output)
  for name in OUTPUTS:
    if (output / name).is_dir():
      raise InputError(f'--output={output}: {name} there is a folder; move it, or name another')
  there = [name for name in OUTPUTS if (output / name).exists()]
  if there and not values.overwrite:
    raise InputError(
      f'--output={output}: has {", ".join(there)} already; add --overwrite, or name another'
    )


def _find(values: Any, option: str) -> 'Found':
  """Pairs the masks of an option with the truths, and prints what is left over."""
  from thrifty_jax.scores import mask_pairs

  masks, truths = Path(values[option].value), Path(values.truths)
  patients = Path(values.patients) if values.patients else None
  found = mask_pairs.find(masks, truths, patients=patients, option=f'--{option}')
  if not values.allow_missing:
    mask_pairs.require_complete(found, masks)
  say(option, f'{len(found.pairs)} in {masks}, paired {found.rule} with those in {truths}')
  for title, paths in (('no mask', found.missing), ('no truth', found.unused)):
    if paths:
      names = words.list_some([path.name for path in paths])
      say(title, f'{len(paths)}, not scored: {names}')
  return found


def _score(
  sets: Sequence['Found'], meaning: 'Meaning', output: Path, *, nsd_tolerance: float
) -> int:
  """Scores the masks, prints the table and writes the files; returns the exit status."""
  from thrifty_jax import records
  from thrifty_jax.reporting import mask_page
  from thrifty_jax.scores import mask_scores, summaries, tables

  began = time.monotonic()
  scored = [mask_scores.score(one, meaning, nsd_tolerance=nsd_tolerance) for one in sets]
  if problems := [line for _, lines in scored for line in lines]:
    for line in dict.fromkeys(problems):  # both sets have the same truths
      print(f'error: {line}', file=sys.stderr)
    return 2
  found, counts = sets[0], [of for of, _ in scored]
  summary = mask_scores.summarise(sets, meaning, counts, nsd_tolerance=nsd_tolerance)
  rows, *others = (mask_scores.make_rows(found, meaning, of) for of in counts)
  page = mask_page.render(summary, rows, found, meaning, others=others)
  with files.report_unwritable(output.absolute(), '--output'):
    tables_ = zip((SCORES, AGAINST), (rows, *others), strict=False)
    files.write_all(
      {
        **{output / name: summaries.format_rows(table) for name, table in tables_},
        output / 'summary.json': files.format_json(records.to_json(summary)),
        output / 'report.html': page,
      }
    )
    if not others:
      (output / AGAINST).unlink(missing_ok=True)  # of masks that these were held to before
  print(f'\n{tables.format_masks(summary)}\n', flush=True)
  taken = logbook.format_duration(time.monotonic() - began)
  total = sum(map(len, counts))
  say('done', f'{total} {"mask" if total == 1 else "masks"} in {taken}')
  say('written', str(output / 'report.html'))
  return 0


if __name__ == '__main__':
  sys.exit(main())
