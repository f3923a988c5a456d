"""Plans and checks the files of a prediction before any work, and writes them atomically."""

import contextlib
import json
import unicodedata
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax import files, labels
from thrifty_jax.errors import InputError
from thrifty_jax.predicting import dicom_rtstruct, dicom_seg, sheets
from thrifty_jax.predicting.segment import Segmentation
from thrifty_jax.scans import masks, overlays, pictures, volumes
from thrifty_jax.scans.sources import Grid, Source
from thrifty_jax.scores import summaries

# Endings of formats that are not written, for which no folder may be created.
_OTHERS = (
  *('.mhd', '.nhdr', '.hdr', '.img', '.gz', '.dcm', '.ima', '.npy', '.npz', '.mgz'),
  *('.jpg', '.jpeg', '.bmp', '.gif'),
)
_ABOUT = 'classes.json'
_STATISTICS = 'statistics.csv'
_MADE_BY = dict.fromkeys(('note', 'thrifty_jax'))  # fields of it that say nothing of the masks
_PREVIEW = {'slices': 5, 'pixels': 1 << 18}  # what is drawn at most
_DECIMALS = 4  # of probabilities; more are noise that would make the files 20 times as large


@dataclass(frozen=True)
class Outputs:
  """The files of one scan: its mask and, if requested, the others."""

  mask: Path
  probabilities: tuple[Path, ...]  # of the foreground classes
  overlay: Path | None
  preview: Path | None
  segmentation: Path | None  # in DICOM
  structures: Path | None  # in DICOM


@dataclass(frozen=True)
class Plan:
  """The files of all scans."""

  scans: tuple[tuple[Source, Outputs], ...]
  about: Path  # JSON file that describes the numbers in the masks
  statistics: Path | None = None  # table of the figures of all masks
  colours: tuple[str, ...] = ()  # of the classes in a PNG; () are those of overlays

  @property
  def paths(self) -> list[Path]:
    """Paths of all files but `about`."""
    found = [
      (one.mask, *one.probabilities, one.overlay, one.preview, one.segmentation, one.structures)
      for _, one in self.scans
    ]
    return [path for paths in (*found, (self.statistics,)) for path in paths if path]


def require_place(output: Path, format_: str | None) -> None:
  """Refuses an output that is not writable or of unknown format, before anything is read."""
  found = masks.ending(output)
  if found is None and output.suffix.lower() in _OTHERS:
    raise InputError(
      f'--output={output}: expected a folder, or a file ending in '
      f'{", ".join((*masks.ENDINGS, *masks.PICTURES))}'
    )
  if found and format_ and not found.startswith(masks.FORMATS[format_].removesuffix('.gz')):
    raise InputError(
      f'--output={output} does not end as --format={format_} does, in {masks.FORMATS[format_]}; '
      'leave out one of them'
    )
  if output.is_dir() if found else output.is_file():
    kind = 'a folder' if found else 'a file'
    raise InputError(f'--output={output} is {kind} already; name another')
  files.require_writable(f'--output={output}', output)


def plan(
  sources: Sequence[Source],
  place: Path,
  output: Path,
  *,
  format_: str | None = None,
  classes: int,
  colours: tuple[str, ...] = (),
  probabilities: bool = False,
  overlays: bool = False,
  previews: bool = False,
  segmentations: bool = False,
  structures: bool = False,
  statistics: bool = False,
) -> Plan:
  """Plans the files to write: masks and, if wanted, probabilities, overlays and DICOM SEGs.

  Args:
    sources: Scans found in `place`, all volumes or all pictures.
    place: Input given by the user.
    output: Output folder, or for a single scan a file.
    format_: Format from masks.FORMATS; None uses that of the output's ending, else NIfTI, and for
      pictures PNG.
    classes: Number of classes K.
    colours: Colour of each class in masks that are PNG; () are those of overlays.
    probabilities: Whether a file is written for each foreground class.
    overlays: Whether the classes are drawn over the scans.
    previews: Whether they are drawn over a few slices, or a small picture, too.
    segmentations: Whether DICOM SEGs are written, for which the scans must be DICOM series.
    structures: Whether RTSTRUCTs are written, likewise.
    statistics: Whether a table of the figures of all masks is written.
  """
  ending = masks.ending(output)
  of_pictures = pictures.is_picture(sources[0].channels[0]) and not sources[0].channels[0].is_dir()
  _require_fitting(sources[0].channels[0], output, format_, of_pictures=of_pictures)
  if ending and place.is_dir() and sources[0].channels != (place,):
    raise InputError(
      f'--output={output}: {place} is a folder of scans; name a folder for the masks'
    )
  folder, named = (output.parent, output.name[: -len(ending)]) if ending else (output, '')
  channels = [path for source in sources for path in source.channels]
  # A file that is named by the user may lie beside its scan in a file, not within a series.
  searched = [place, *(path if ending or path.is_dir() else path.parent for path in channels)]
  if folder.resolve() in {path.resolve() for path in searched}:
    raise InputError(
      f'--output={output}: lies in a folder of the input, where masks would be taken for scans; '
      'name another'
    )
  for is_wanted, kind, option in (
    (segmentations, 'a DICOM SEG', '--dicom_seg'),
    (structures, 'an RTSTRUCT', '--rtstruct'),
  ):
    if is_wanted and (other := [one for one in sources if not one.channels[0].is_dir()]):
      raise InputError(
        f'{other[0].channels[0]}: is no DICOM series, to which {kind} could belong; leave out '
        f'{option}'
      )
  ending = ending or masks.FORMATS[format_ or ('png' if of_pictures else 'nifti')]
  of_shares = '.tif' if ending == '.png' else ending  # PNG has no float32
  found = []
  for source in sources:
    stem = folder / (named or source.name)
    numbers = range(1, classes) if probabilities else ()
    outputs = Outputs(
      mask=Path(f'{stem}{ending}'),
      probabilities=tuple(Path(f'{stem}_probability_{number}{of_shares}') for number in numbers),
      overlay=Path(f'{stem}_overlay.png') if overlays else None,
      preview=Path(f'{stem}_preview.png') if previews else None,
      segmentation=Path(f'{stem}{dicom_seg.ENDING}') if segmentations else None,
      structures=Path(f'{stem}{dicom_rtstruct.ENDING}') if structures else None,
    )
    found.append((source, outputs))
  whole = Plan(
    tuple(found),
    folder / (f'{named}.json' if named else _ABOUT),
    folder / (f'{named}_{_STATISTICS}' if named else _STATISTICS) if statistics else None,
    colours,
  )
  inputs = {_fold(path.resolve()) for path in channels}
  paths: dict[str, Path] = {}
  for path in whole.paths:
    first = paths.setdefault(_fold(path), path)
    if first is not path:
      raise InputError(
        f'{path}: would be written for two scans, as {first.name} differs in no more than capital '
        'letters; rename one of them'
      )
    if _fold(path.resolve()) in inputs:
      raise InputError(f'{path}: is a scan of the input; name another output')
  return whole


def _fold(path: Path) -> str:
  """Returns what is equal for two names of one file on file systems of macOS or Windows."""
  return unicodedata.normalize('NFC', str(path)).casefold()


def _require_fitting(scan: Path, output: Path, format_: str | None, *, of_pictures: bool) -> None:
  """Refuses the format of a volume for the mask of a picture, and the other way round."""
  ending = masks.FORMATS[format_] if format_ else masks.ending(output)
  fitting = masks.PICTURES if of_pictures else masks.ENDINGS
  if ending and ending not in fitting:
    option = f'--format={format_}' if format_ else f'--output={output}'
    kind = 'picture' if of_pictures else 'volume'
    raise InputError(
      f'{option}: {scan} is a {kind}, whose mask is a file ending in {", ".join(fitting)}; name '
      'one of these, or a folder'
    )


def refuse_existing(whole: Plan, about: Mapping[str, Any]) -> None:
  """Refuses to overwrite anything; `whole.about` may exist with the same content."""
  there = [path for path in whole.paths if path.exists()]
  if whole.about.exists() and files.read_json(whole.about) != about:
    there.append(whole.about)
  if there:
    raise InputError(
      f'{len(there)} of the files to be written exist already, for example {there[0]}; add '
      '--overwrite, or name another --output'
    )


def remove_other(whole: Plan, about: Mapping[str, Any]) -> None:
  """Removes what is to be overwritten in a folder whose `whole.about` is of another model.

  So no mask of that model, or of other options, stays for a scan that fails. If files of other
  scans, or further ones of these, would stay, nothing is removed and it is refused.
  """
  if whole.about.name != _ABOUT or not whole.about.exists() or _is_alike(whole.about, about):
    return
  folder, planned = whole.about.parent, {_fold(path) for path in whole.paths}
  there = [path for path in sorted(folder.glob('[!.]*')) if _is_output(path)]
  if others := [path for path in there if _fold(path) not in planned]:
    raise InputError(
      f'--output={folder}: holds {len(others)} files of another model, or made with other options, '
      f'that would not be replaced, for example {others[0].name}; name another folder, or move '
      'them away'
    )
  for path in (*whole.paths, whole.about):
    with _report_unwritable(path):
      path.unlink(missing_ok=True)


def _is_alike(path: Path, about: Mapping[str, Any]) -> bool:
  """Returns whether a file describes masks of this model and these options; not if unreadable."""
  try:
    found = files.read_json(path)
  except InputError:
    return False
  return isinstance(found, dict) and found | _MADE_BY == {**about, **_MADE_BY}


def _is_output(path: Path) -> bool:
  """Returns whether a file may have been written by a prediction into a folder."""
  objects = path.name.endswith((dicom_seg.ENDING, dicom_rtstruct.ENDING))
  return bool(masks.ending(path)) or objects or path.name == _STATISTICS


def write(
  found: Segmentation, grid: Grid, outputs: Outputs, whole: Plan, about: Mapping[str, Any]
) -> str:
  """Writes the files of one scan, all or none, and `whole.about`, with the names of the classes.

  The mask comes last. What cannot be written is an InputError. A DICOM SEG or RTSTRUCT that cannot
  be made leaves no earlier one in its place.

  Returns:
    Why there is no DICOM SEG or RTSTRUCT, whose tags the other files do not repeat; '' if all is
    written.
  """
  contents = {whole.about: json.dumps(about, indent=2, ensure_ascii=False).encode() + b'\n'}
  shares = () if found.probabilities is None else found.probabilities
  for path, share in zip(outputs.probabilities, shares, strict=True):
    turned = found.turned(np.round(share, _DECIMALS), grid.affine)
    contents[path] = _to_bytes(path, turned, grid)
  if outputs.overlay or outputs.preview:
    classes = list(about['classes'].values())
    drawn = replace(found, mask=labels.innermost(found.mask, about.get('regions', ())))
    colours = overlays.line_colours(whole.colours)
    for path, limits in ((outputs.overlay, {}), (outputs.preview, _PREVIEW)):
      if path:
        contents[path] = _draw(drawn, classes, colours, **limits)
  turned = found.turned(found.mask, grid.affine)
  problems: dict[Path, tuple[str, InputError]] = {}
  for path, kind, to_bytes in (
    (outputs.segmentation, 'DICOM SEG', dicom_seg.to_bytes),
    (outputs.structures, 'RTSTRUCT', dicom_rtstruct.to_bytes),
  ):
    if path and grid.series:
      try:
        contents[path] = to_bytes(turned, affine=grid.affine, series=grid.series, about=about)
      except InputError as error:
        problems[path] = kind, error
  contents[outputs.mask] = _to_bytes(outputs.mask, turned, grid, whole.colours)
  with _report_unwritable(outputs.mask):
    files.write_all(contents)
    for path in problems:
      path.unlink(missing_ok=True)
  if not problems:
    return ''
  kinds, errors = zip(*problems.values(), strict=True)
  return f'{outputs.mask} is written, but no {" and no ".join(kinds)}: {errors[0]}'


def write_statistics(path: Path | None, rows: Sequence[Mapping[str, str]]) -> None:
  """Writes the table of the figures of all masks, rows of `measure`, if it is wanted."""
  if not path or not rows:
    return
  with _report_unwritable(path):
    summaries.write_rows(path, rows)


def _to_bytes(path: Path, voxels: np.ndarray, grid: Grid, colours: Sequence[str] = ()) -> bytes:
  """Returns the content of a mask or of probabilities in the format of the path."""
  return masks.to_bytes(voxels, grid, ending=masks.ending(path) or '', colours=colours)


def _draw(
  found: Segmentation,
  classes: Sequence[str],
  colours: Sequence[str],
  *,
  slices: int = overlays.SLICES,
  pixels: int = sheets.MOST_PIXELS,
) -> bytes:
  """Draws the classes over a picture of so many pixels at most, or so many slices of a volume."""
  if found.unit == 'pixels':
    return sheets.draw_picture(found.image, found.mask[0], colours=colours, most_pixels=pixels)
  volume: Any = found.image
  spacing_mm = np.linalg.norm(found.affine[:3, :3], axis=0)
  return sheets.draw_sheet(
    volume[..., 0],
    found.mask,
    spacing_mm=spacing_mm,
    classes=classes,
    sides=volumes.find_sides(found.affine),
    most=slices,
  )


@contextlib.contextmanager
def _report_unwritable(path: Path) -> Generator[None]:
  """Makes an InputError of a file that cannot be written."""
  try:
    yield
  except OSError as error:
    raise InputError(f'{path}: cannot be written: {error.strerror}') from error
