"""Finds and reads scans in files of any format, one file or DICOM folder a channel.

Only voxels and their geometry are read. The tags of a DICOM series do not leave this module; for a
DICOM SEG or RTSTRUCT its slices are read again. Its scan is named after its folder.
"""

import contextlib
import dataclasses
import re
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax.errors import InputError
from thrifty_jax.scans import dicom, dicom_file, named_files, nifti, pictures, unreadable, volumes
from thrifty_jax.scans.volumes import Volume

_CHANNEL = re.compile(r'(.+)_(\d{4})', re.DOTALL)  # nnU-Net's names: CASE_0000, CASE_0001
_DICOM_ENDINGS = ('.dcm', '.ima')
_DICOM_HEAD = 132  # bytes, the last four of which say that it is DICOM
# How one begins that lacks this head: a tag of the first groups, then its type or a short length.
_DICOM_BARE = re.compile(rb'[\x02\x08]\0.\0([A-Z]{2}|..\0\0)', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Source:
  """Files of one scan."""

  name: str  # that of its file without ending and channel, or of its DICOM folder
  channels: tuple[Path, ...]  # a file or DICOM folder each; a single one may contain all
  problem: str = ''  # reason why the files cannot be read, if it is known before reading


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
  """Geometry of a scan as in its file, which a mask of it must repeat."""

  affine: np.ndarray  # of the stored (d, h, w, 1) to RAS millimetres, [4, 4]
  nifti: Any = None  # header of a NIfTI file
  # Spacing, direction and origin that SimpleITK read from another file.
  itk: tuple[Sequence[float], Sequence[float], Sequence[float]] | None = None
  series: Path | None = None  # folder of a DICOM series
  picture: Path | None = None  # file of a picture, whose affine is none of a patient
  # What `volumes.find_unsure` returns of the first channel whose header is unclear on its axes.
  unsure: str = ''


@contextlib.contextmanager
def report_closed() -> Generator[None]:
  """Refuses a file or folder that must not be opened, as it could belong to a scan."""
  try:
    yield
  except PermissionError as error:
    raise InputError(
      f'{error.filename}: must not be read ({error.strerror}), but may belong to a scan; expected '
      'the right to read it. Give it to this user, or move the file or folder away.'
    ) from error


@report_closed()
def find(place: Path, *, channels: int) -> list[Source]:
  """Finds one or more scans at a path, sorted by name, of which no two have one name.

  Args:
    place: File; folder with the slices of a DICOM series; or folder of files and of such folders.
      Hidden files, DICOM objects without an image of a scan and other formats are left out (see
      `find_unused`), further folders are not searched. Enhanced DICOM may be a file by itself.
      Pictures are scans where there is no volume and no series; beside these they are previews.
    channels: Number of channels of a scan. With more than one, CASE_0000, CASE_0001, ... are one
      scan; a NIfTI file with four axes or a picture in colours is a scan by itself. The ending
      _0000 is left out of the names of scans in one file if all have it.
  """
  if place.is_file():
    return [_of_file(place, channels)]
  if not place.is_dir():
    raise InputError(f'{place}: no such file or folder; expected a scan or a folder of scans.')
  found = named_files.list_files(place.iterdir(), named_files.VOLUMES)
  if any(map(_is_slice, place.iterdir())):
    if found:
      raise InputError(
        f'{place}: holds DICOM slices and {next(iter(found.values())).name}; expected one or the '
        'other. Move the one away that is not meant.'
      )
    return [Source(place.resolve().name, (place,))]
  for folder in sorted(path for path in place.iterdir() if path.is_dir()):
    if not folder.name.startswith('.') and any(map(_is_slice, folder.iterdir())):
      named_files.add(found, folder.name, folder)
  found = found or named_files.list_files(place.iterdir(), pictures.ENDINGS)
  if not found:
    raise InputError(
      f'{place}: holds no scan; expected volumes ({", ".join(named_files.VOLUMES)}), '
      f'pictures ({", ".join(pictures.ENDINGS)}), the slices of a DICOM series, or folders with '
      'one series each.'
    )
  return _grouped(found, channels)


def require_kind(found: Sequence[Source], *, of_pictures: bool) -> None:
  """Refuses pictures for a model of volumes, whose lengths are in mm, and the other way round."""
  for path in (source.channels[0] for source in found):
    if (not path.is_dir() and pictures.is_picture(path)) != of_pictures:
      kinds = ('a volume', 'pictures') if of_pictures else ('a picture', 'volumes')
      raise InputError(
        f'{path}: is {kinds[0]}, but the model was trained on {kinds[1]}; name {kinds[1]}, or '
        'another model.'
      )


def read(source: Source) -> tuple[Volume, Grid]:
  """Reads a scan, its axes as stored, and its grid."""
  if source.problem:
    raise InputError(source.problem)
  image, affine = read_channels(source.channels)
  volumes.require_affine(source.channels[0], affine)
  image = image[..., None] if image.ndim == 3 else image
  volume = Volume(image, None, affine, source.name, source.name)
  return volume, _grid_of(source.channels, affine)


def open_picture(source: Source) -> tuple[pictures.Rows, Grid]:
  """Opens a picture, of which rows are read when they are needed, and returns its grid too."""
  if source.problem:
    raise InputError(source.problem)
  return pictures.Rows(source.channels), Grid(pictures.AFFINE, picture=source.channels[0])


def read_channels(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
  """Reads voxels and affine of one scan from a file for each channel; all must lie on one grid."""
  (first, affine), *others = map(read_voxels, paths)
  turned = [
    volumes.on_grid(path, channel, other, paths[0], first.shape, affine)
    for path, (channel, other) in zip(paths[1:], others, strict=True)
  ]
  _require_equally_sure(paths, [affine, *(other for _, other in others)])
  return np.stack([first, *turned], axis=-1) if others else first, affine


def _require_equally_sure(paths: Sequence[Path], affines: Sequence[np.ndarray]) -> None:
  """Refuses channels of which only some say clearly where their axes point: others may be mirrored.

  With one affine, [4, 4], as stored, they are made of one another, and lie voxel on voxel.
  """
  if np.allclose(affines, affines[0]):
    return
  unsure = {bool(volumes.find_unsure(path)): path for path in paths}
  if len(unsure) > 1:
    volumes.require_sure(unsure[True], unsure[False])


def read_voxels(path: Path) -> tuple[np.ndarray, np.ndarray]:
  """Reads voxels and affine, as `read_nifti`, of a file of any format or a DICOM folder."""
  if path.is_dir() or named_files.name_of(path) is None:
    series = dicom.read_series(slices_of(path) if path.is_dir() else [path])
    return series.voxels, series.affine
  if pictures.is_picture(path):
    return pictures.read(path), pictures.AFFINE
  return volumes.read_nifti(path) if volumes.is_nifti(path) else volumes.read_metaimage(path)


def _grid_of(paths: Sequence[Path], affine: np.ndarray) -> Grid:
  """Returns the geometry of a scan, of the file of each channel."""
  path, unsure = paths[0], next(filter(None, map(volumes.find_unsure, paths)), '')
  if path.is_dir() or named_files.name_of(path) is None:
    return Grid(affine, series=path if path.is_dir() else None, unsure=unsure)
  if pictures.is_picture(path):
    return Grid(affine, picture=path)
  if volumes.is_nifti(path):
    return Grid(affine, nifti=nifti.read_header(path).header, unsure=unsure)
  header = volumes.itk_header(path)
  geometry = header.GetSpacing(), header.GetDirection(), header.GetOrigin()
  # A mask has no further axis of length 1.
  return Grid(affine, itk=geometry if len(geometry[0]) == 3 else None, unsure=unsure)


def _of_file(path: Path, channels: int) -> Source:
  """Returns the scan of a file; with several channels, the files of the others belong to it."""
  name = named_files.name_of(path)
  if name is None and is_dicom(path) and dicom_file.has_frames(path):
    return Source(path.stem, (path,))
  if name is None:
    raise InputError(
      f'{path}: is no volume ({", ".join(named_files.VOLUMES)}) and no picture '
      f'({", ".join(pictures.ENDINGS)}); name one, or the folder of a DICOM series.'
    )
  parts = _CHANNEL.fullmatch(name)
  if channels == 1 or not parts or _has_channels(path):
    return _grouped({name: path}, channels)[0]
  endings = pictures.ENDINGS if pictures.is_picture(path) else named_files.VOLUMES
  files = named_files.list_files(path.parent.iterdir(), endings)
  beside = {name: file for name, file in files.items() if name.startswith(f'{parts[1]}_')}
  return next(one for one in _grouped(beside, channels) if path in one.channels)


def _grouped(found: Mapping[str, Path], channels: int) -> list[Source]:
  """Returns the scans, sorted by name, from files by name."""
  whole, groups = {}, {}
  for name, path in found.items():
    parts = _CHANNEL.fullmatch(name)
    if channels == 1 or not parts or _has_channels(path):
      whole[name] = path
    else:
      groups.setdefault(parts[1], {})[parts[2]] = path
  numbered = all(_CHANNEL.fullmatch(name) and name.endswith('_0000') for name in whole)
  names = {name: name.removesuffix('_0000') if numbered else name for name in whole}
  sources = {own: Source(own, (whole[name],)) for name, own in names.items()}
  expected = ', '.join(f'{number:04d}' for number in range(channels))
  for name, group in groups.items():
    if name in sources:
      raise InputError(
        f'{sources[name].channels[0]}: {name} also has a file for each channel; remove one of both.'
      )
    found_there = ', '.join(sorted(group))
    problem = (
      f'{group[min(group)]}: {name} has the channels {found_there}; the model expects {expected}. '
      'Add or remove files.'
    )
    paths = tuple(group[number] for number in sorted(group))
    sources[name] = Source(name, paths, '' if found_there == expected else problem)
  return [sources[name] for name in sorted(sources)]


def _has_channels(path: Path) -> bool:
  """Returns whether one file has several channels, in NIfTI or a picture; not if unreadable."""
  try:
    if pictures.is_picture(path):
      return pictures.read_size(path)[2] > 1
    with unreadable.report_unreadable(path):
      return volumes.is_nifti(path) and len(nifti.read_header(path).header.get_data_shape()) == 4
  except InputError:
    return False


@report_closed()
def is_dicom(path: Path) -> bool:
  """Returns whether a file is DICOM, by its ending or how it begins."""
  if path.name.startswith('.') or path.is_dir():
    return False
  named = path.suffix.lower() in _DICOM_ENDINGS
  if named or named_files.name_of(path) is not None:
    return named
  # Any voxels may begin as a bare one does, but these have a name with an ending.
  may_be_bare = not path.suffix or path.suffix[1:].isdigit()
  if not path.is_file():  # a link to a file that was not fetched may be a slice
    return may_be_bare and any(map(str.isdigit, path.name)) and not path.exists()
  with path.open('rb') as file:
    head = file.read(_DICOM_HEAD)
  return head[128:] == b'DICM' or (may_be_bare and _DICOM_BARE.match(head) is not None)


def _is_slice(path: Path) -> bool:
  """Returns whether a file is a slice of a series, or should be one: masks and reports are none."""
  return is_dicom(path) and dicom_file.holds_image(path)


@report_closed()
def slices_of(folder: Path) -> list[Path]:
  """Returns the files of a folder's series, in any order."""
  return sorted(path for path in folder.iterdir() if _is_slice(path))


@report_closed()
def find_unused(place: Path, found: Sequence[Source]) -> list[str]:
  """Returns the names of what lies in a folder, not hidden, but belongs to none of its scans."""
  used = {path for source in found for path in source.channels}
  series = [path for path in used if path.is_dir()]
  unused = []
  for folder in dict.fromkeys([*([place] if place.is_dir() else []), *sorted(series)]):
    for path in sorted(folder.iterdir()):
      is_slice = folder in used and _is_slice(path)
      header = path.with_suffix('.mhd') if path.suffix in ('.raw', '.zraw') else None
      if not path.name.startswith('.') and not is_slice and not {path, header} & used:
        unused.append(str(path.relative_to(place)))
  return unused
