"""Where the masks of a prediction go, refused before any work, and written whole or not at all."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax import files
from thrifty_jax.errors import InputError
from thrifty_jax.predicting import dicom_seg, sheets
from thrifty_jax.predicting.segment import Segmentation
from thrifty_jax.scans import masks
from thrifty_jax.scans.sources import Grid, Source

# Names of volumes in formats that are not written, lest a folder is made of that name.
_OTHERS = ('.mhd', '.nhdr', '.hdr', '.img', '.gz', '.dcm', '.ima', '.npy', '.npz', '.mgz')

_DECIMALS = 4  # of probabilities: the rest is noise that would make the files 20 times as large


@dataclass(frozen=True)
class Outputs:
  """The files of one scan.

  Attributes:
    mask: Its mask.
    probabilities: A file for each foreground class, if asked for.
    overlay: A picture, if asked for.
    segmentation: A DICOM Segmentation, if asked for.
  """

  mask: Path
  probabilities: tuple[Path, ...] = ()
  overlay: Path | None = None
  segmentation: Path | None = None

  @property
  def paths(self) -> tuple[Path, ...]:
    """All of them."""
    more = (self.overlay, self.segmentation)
    return (self.mask, *self.probabilities, *(path for path in more if path))


@dataclass(frozen=True)
class Plan:
  """The files of all scans.

  Attributes:
    scans: Each with its files.
    ending: Of masks and probabilities.
    about: A JSON file that says what the numbers in the masks mean.
  """

  scans: tuple[tuple[Source, Outputs], ...]
  ending: str
  about: Path


def require_place(output: Path, format_: str | None) -> None:
  """Refuses an output that cannot be written or is of no known format, before anything is read."""
  found = masks.ending(output)
  if found is None and output.suffix.lower() in _OTHERS:
    raise InputError(
      f'--output={output}: expected a folder, or a file ending in {", ".join(masks.ENDINGS)}'
    )
  if found and format_ and not found.startswith(masks.FORMATS[format_].removesuffix('.gz')):
    raise InputError(
      f'--output={output} does not end as --format={format_} does, in {masks.FORMATS[format_]}; '
      'leave out one of them'
    )
  if found and output.is_dir() or found is None and output.is_file():
    kind = 'a folder' if output.is_dir() else 'a file'
    raise InputError(f'--output={output} is {kind} already; name another')
  there = next(path for path in (output, *output.absolute().parents) if path.is_dir())
  if not os.access(there, os.W_OK):
    raise InputError(f'--output={output}: {there} cannot be written; name another folder')


def plan(
  sources: Sequence[Source],
  place: Path,
  output: Path,
  *,
  format_: str | None = None,
  classes: int,
  probabilities: bool = False,
  overlays: bool = False,
  segmentations: bool = False,
) -> Plan:
  """Which files will be written.

  Args:
    sources: The scans, found in `place`.
    place: What was given as input.
    output: A folder, or for a single scan a file.
    format_: Of masks.FORMATS; None takes that of the output's ending, else NIfTI.
    classes: K.
    probabilities: Whether they are written.
    overlays: Likewise.
    segmentations: Likewise; scans must then be DICOM series.

  Raises:
    InputError: If a file was meant where a folder is needed, an input would be overwritten, or a
      DICOM SEG is asked for of another file.
  """
  ending = masks.ending(output)
  if ending and place.is_dir() and sources[0].channels != (place,):
    raise InputError(
      f'--output={output}: {place} is a folder of scans; name a folder for the masks'
    )
  if not ending and output.resolve() == place.resolve():
    raise InputError(f'--output={output}: is the input too; masks would be taken for scans there')
  if segmentations and (other := [one for one in sources if not one.channels[0].is_dir()]):
    raise InputError(
      f'{other[0].channels[0]}: is no DICOM series, to which a DICOM SEG could belong; leave out '
      '--dicom_seg'
    )
  folder, named = (output.parent, output.name[: -len(ending)]) if ending else (output, '')
  ending = ending or masks.FORMATS[format_ or 'nifti']
  found = []
  for source in sources:
    stem = named or source.name
    numbers = range(1, classes) if probabilities else ()
    shares = tuple(folder / f'{stem}_probability_{number}{ending}' for number in numbers)
    picture = folder / f'{stem}_overlay.png' if overlays else None
    segmentation = folder / f'{stem}{dicom_seg.ENDING}' if segmentations else None
    mask = folder / f'{stem}{ending}'
    found.append((source, Outputs(mask, shares, picture, segmentation)))
  whole = Plan(tuple(found), ending, folder / (f'{named}.json' if named else 'classes.json'))
  paths = [path for _, outputs in whole.scans for path in outputs.paths]
  if twice := sorted({path for path in paths if paths.count(path) > 1}):
    raise InputError(f'{twice[0]}: would be written for two scans; rename one of them')
  inputs = {path.resolve() for source in sources for path in source.channels}
  if own := [path for path in paths if path.resolve() in inputs]:
    raise InputError(f'{own[0]}: is a scan of the input; name another output')
  return whole


def refuse_existing(whole: Plan, about: Mapping[str, Any]) -> None:
  """Refuses to overwrite anything.

  Args:
    whole: What will be written.
    about: The content of `whole.about`: the same one may be there.
  """
  there = [path for _, outputs in whole.scans for path in outputs.paths if path.exists()]
  if whole.about.exists() and files.read_json(whole.about) != about:
    there.append(whole.about)
  if there:
    raise InputError(
      f'{len(there)} of the files to be written exist already, for example {there[0]}; add '
      '--overwrite, or name another --output'
    )


def write(
  found: Segmentation, grid: Grid, outputs: Outputs, whole: Plan, about: Mapping[str, Any]
) -> None:
  """Writes the files of one scan, its mask last, and what they mean.

  Args:
    found: In the scan.
    grid: Of the scan.
    outputs: Its files.
    whole: To which they belong.
    about: The content of `whole.about`, with the names under 'classes'.

  Raises:
    InputError: If a file cannot be written.
  """
  contents = {whole.about: json.dumps(about, indent=2, ensure_ascii=False).encode() + b'\n'}
  shares = () if found.probabilities is None else found.probabilities
  for path, share in zip(outputs.probabilities, shares, strict=True):
    turned = found.turned(np.round(share, _DECIMALS), grid.affine)
    contents[path] = masks.to_bytes(turned, grid, ending=whole.ending)
  if outputs.overlay:
    contents[outputs.overlay] = sheets.png(
      found.volume.image[..., 0],
      found.mask,
      spacing_mm=found.volume.spacing_mm,
      classes=list(about['classes'].values()),
    )
  turned = found.turned(found.mask, grid.affine)
  if outputs.segmentation and grid.series:
    contents[outputs.segmentation] = dicom_seg.to_bytes(
      turned, affine=grid.affine, series=grid.series, about=about
    )
  contents[outputs.mask] = masks.to_bytes(turned, grid, ending=whole.ending)
  for path, content in contents.items():
    try:
      files.write_bytes(path, content)
    except OSError as error:
      raise InputError(f'{path}: cannot be written: {error.strerror}') from error
