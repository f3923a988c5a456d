"""Segments scans: `python -m thrifty_jax.predict --model=DIR --input=SCANS --output=MASKS`.

In Python: `mask = thrifty_jax.load_model(DIR).segment(volume, spacing_mm)`.
"""

import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import thrifty_jax
from thrifty_jax import config as configs
from thrifty_jax import files, logbook, stopping, words
from thrifty_jax.errors import InputError
from thrifty_jax.logbook import say
from thrifty_jax.predicting import BATCH_SIZE
from thrifty_jax.running import command_line
from thrifty_jax.settings import DEVICES

if TYPE_CHECKING:
  from thrifty_jax.predicting.outputs import Plan
  from thrifty_jax.predicting.segment import Segmenter

FORMATS = ('nifti', 'metaimage', 'nrrd', 'png', 'tiff')
USAGE = f"""\
usage: thrifty-jax predict --model=FOLDER --input=SCANS --output=MASKS [options]
   or: python -m thrifty_jax.predict, the same

Segments scans with a trained model. A mask lies on exactly the grid of its scan. Nothing but voxels
and geometry is taken from a scan: no name, date or number of its header reaches an output but a
DICOM SEG or RTSTRUCT, if asked for.

  --model=FOLDER[,FOLDER]  a model folder; a run (its model/); or a run with several folds, whose
                           models are averaged, as are several that are listed; or
                           hf://OWNER/NAME[@REVISION], a model of the Hugging Face Hub, which is
                           fetched once and needs thrifty_jax[hub]
  --input=SCANS            a NIfTI, MetaImage, NRRD or enhanced DICOM file; a folder with the slices
                           or frames of one DICOM series; or a folder of files other than DICOM, and
                           of such folders. Several channels: files CASE_0000, CASE_0001, ... or one
                           NIfTI file with them on the last axis.
                           For a model of pictures: a PNG, TIFF, JPEG, BMP or GIF file, or a folder
  --output=MASKS           for one scan a file (.nii.gz .nii .mha .nrrd; .png .tif for a picture),
                           else a folder, which gets a mask CASE.nii.gz or CASE.png for each scan,
                           and classes.json
  --format=FORMAT          {', '.join(FORMATS)}; the last two for pictures
                           (default: nifti, for pictures png, or as the output ends)
  --probabilities          also CASE_probability_1, ... for each class, float32 from 0 to 1; of
                           pictures as TIFF
  --overlays               also CASE_overlay.png: slices, or the picture, with classes outlined
  --preview                also CASE_preview.png: five slices, or a small picture, likewise
  --statistics             also statistics.csv: size, intensities, place and extent of each class
  --dicom_seg              also CASE_seg.dcm: a DICOM Segmentation that belongs to the series, and
                           names its patient and study; needs thrifty_jax[dicom]
  --rtstruct               also CASE_rtstruct.dcm: an RT Structure Set, the contours of the classes,
                           which belongs to the series and names its patient and study
  --flips                  average over the flips that the model saw in training: slower
  --nan_is_lowest          take NaN, as SPM writes it outside the head, as the lowest value
  --overwrite              replace outputs that exist; else they stop the command before any work
  --batch_size=SLICES      at a time (default {BATCH_SIZE}, as evaluation has it)
  --memory_budget_mb=MB    for the activations of the network: the batch is made to fit
  --device=DEVICE          auto (default), cpu, gpu, tpu

A scan that cannot be segmented does not stop the others; a line for each stands at the end, as for
scans that are unlike those of the training, or whose header does not say clearly where its axes
point.

Exit status: 0 all done, 2 bad input or usage, also of single scans, 1 a fault.
{thrifty_jax.RESEARCH_USE}
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status; None uses the arguments of the process."""
  return command_line.start(argv, USAGE, run)


def __getattr__(name: str) -> Any:
  """Returns load_model of `segment`, which release 0.1.0 had here; it imports JAX."""
  if name != 'load_model':
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from thrifty_jax.predicting import segment

  return segment.load_model


def run(arguments: Sequence[str]) -> int:
  """Parses the command and segments the scans; returns the exit status."""
  values = command_line.read(
    arguments,
    USAGE,
    required={'model': 'runs/brain/model', 'input': 'scan.nii.gz', 'output': 'masks'},
    choices={'format': ('', *FORMATS), 'device': DEVICES},
    batch_size=command_line.Number(int, BATCH_SIZE, least=1),
    memory_budget_mb=command_line.Number(float, None, least=1),
  )
  place, output = Path(values.input), Path(values.output)
  if not place.exists():
    raise InputError(f'--input={place}: there is no such file or folder')
  # JAX takes a second to import, so mistakes in the command are reported first.
  from thrifty_jax.predicting import dicom_seg, outputs
  from thrifty_jax.scans import sources

  outputs.require_place(output, values.format)
  if values.dicom_seg:
    dicom_seg.require_packages()
  segmenter = _load(values)
  found = sources.find(place, channels=segmenter.channels)
  sources.require_kind(found, of_pictures=segmenter.of_pictures)
  plan = outputs.plan(
    found,
    place,
    output,
    format_=values.format,
    classes=len(segmenter.classes),
    colours=segmenter.colours,
    probabilities=values.probabilities,
    overlays=values.overlays,
    previews=values.preview,
    segmentations=values.dicom_seg,
    structures=values.rtstruct,
    statistics=values.statistics,
  )
  about = {
    'note': thrifty_jax.RESEARCH_USE,
    'classes': {str(number): name for number, name in enumerate(segmenter.classes)},
    **({'regions': [*map(list, segmenter.regions)]} if segmenter.regions else {}),
    'models': [{'weights_sha256': member.sha256} for member in segmenter.members],
    'flips': segmenter.flips,
    'largest_component': list(segmenter.largest_component),
    'thrifty_jax': thrifty_jax.__version__,
    **({'nan_is_lowest': True} if values.nan_is_lowest else {}),
  }
  if values.overwrite:
    outputs.remove_other(plan, about)
  else:
    outputs.refuse_existing(plan, about)
  files.sweep(plan.about.parent.glob('.*'))
  _say_what_runs(segmenter, len(found), values, sources.find_unused(place, found))
  return _segment_all(segmenter, plan, about, nan_is_lowest=values.nan_is_lowest)


def _load(values: Any) -> 'Segmenter':
  """Loads the models on the requested device."""
  from thrifty_jax import device
  from thrifty_jax.predicting import segment

  config = configs.default()
  config.device = values.device
  try:
    device.prepare(config)
  except InputError as error:
    text = str(error).replace('config.device is', '--device is').replace('--config.', '--')
    raise InputError(text) from error
  folders, budget = command_line.split_paths(values.model), values.memory_budget_mb
  return segment.load_model(
    folders, flips=values.flips, batch_size=values.batch_size, memory_budget_mb=budget
  )


def _say_what_runs(segmenter: 'Segmenter', count: int, values: Any, unused: Sequence[str]) -> None:
  from thrifty_jax import device

  members, first = segmenter.members, segmenter.members[0]
  several = f'{len(members)} models averaged: ' if len(members) > 1 else ''
  network = f'{first.spec.network.name}, {first.parameters:,} parameters'
  say(f'thrifty_jax {thrifty_jax.__version__}  research use only, not a medical device')
  say('model', f'{several}{network}; {", ".join(segmenter.classes[1:])}')
  say('device', device.describe())
  scan = words.choose(first.spec.unit).scan
  say('input', f'{count} {scan}{"s" if count > 1 else ""} in {values.input}')
  if unused:
    say('not used', f'{len(unused)} files or folders there: {words.list_some(unused)}')
  say('output', values.output)
  if values.nan_is_lowest:
    say('NaN', 'is the lowest value of its scan, by --nan_is_lowest')
  if values.flips:
    allowed = [' and '.join(member.spec.flips) or 'none' for member in members]
    say('flips', ', '.join(dict.fromkeys(allowed)) + ': those that the training saw')


def _segment_all(
  segmenter: 'Segmenter', plan: 'Plan', about: dict[str, Any], *, nan_is_lowest: bool
) -> int:
  """Segments the scans in turn, prints what went wrong and returns the exit status."""
  from thrifty_jax.predicting import measurements, outputs

  began, done, faults = time.monotonic(), 0, 0
  stopped: KeyboardInterrupt | None = None
  failed: list[str] = []
  unlike: list[tuple[str, str]] = []
  unsure: list[tuple[str, str]] = []
  rows: list[dict[str, str]] = []
  scan = words.choose(segmenter.members[0].spec.unit).scan
  say('batch', f'{segmenter.fitting_batch} slices')
  with logbook.progress(len(plan.scans), 'predict') as bar:
    for source, paths in plan.scans:
      try:
        image, grid, found = segmenter.find_source(
          source, probabilities=bool(paths.probabilities), nan_is_lowest=nan_is_lowest
        )
        unlike += [(source.name, line) for line in found.unlike]
        unsure += [(source.name, grid.unsure)] if grid.unsure else []
        if problem := outputs.write(found, grid, paths, plan, about):
          failed.append(f'{source.name}: {problem}')
        done += 1
        if plan.statistics:
          mask = found.turned(found.mask, grid.affine)
          mask = mask[0] if segmenter.of_pictures else mask
          rows += measurements.measure(
            image,
            mask,
            scan=source.name,
            classes=segmenter.classes,
            affine=grid.affine,
            regions=segmenter.regions,
          )
      except InputError as error:
        failed.append(f'{source.name}: {" ".join(str(error).split())}')
      except KeyboardInterrupt as error:
        stopped = error
        break
      except Exception as error:
        traceback.print_exc()
        failed.append(f'{source.name}: {type(error).__name__}, a fault, see above')
        faults += 1
      bar.update(1)
  try:
    outputs.write_statistics(plan.statistics, rows)
  except InputError as error:  # what else went wrong is told too
    failed.append(str(error))
  for line in logbook.fold(unsure, unit=scan):
    say('unsure', line)
  for line in logbook.fold(unlike, unit=scan):
    say('unlike', line)
  if unlike:
    say('', f'{scan}s unlike those of the training may be segmented badly: check these masks')
  say('done', f'{done} of {len(plan.scans)} in {logbook.format_duration(time.monotonic() - began)}')
  for line in failed:
    print(f'error: {line}', file=sys.stderr)
  if stopped:
    print(f'stopped; {done} of {len(plan.scans)} scans are done', file=sys.stderr)
    return stopping.status(stopped)
  return 1 if faults else 2 if failed else 0


if __name__ == '__main__':
  sys.exit(main())
