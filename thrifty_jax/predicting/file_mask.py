"""The mask of a scan that lies in a file, on exactly the grid of that file."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thrifty_jax import files, labels
from thrifty_jax.errors import InputError
from thrifty_jax.predicting import sheets
from thrifty_jax.scans import masks, missing, overlays, sources, volumes
from thrifty_jax.scans.sources import Grid, Source


@dataclasses.dataclass(frozen=True, eq=False)
class FileMask:
  """Mask of a scan in a file, as `Segmenter.segment_file` returns it.

  Attributes:
    mask: Label of each voxel, uint8; [D, H, W] in the order of SimpleITK.GetArrayFromImage, which
      is the transpose of nibabel's array; of a picture [H, W].
    classes: Names of the classes in the order of their numbers, background first.
    warnings: Differences between the scan and those of the training, a line each, before them how
      its axes are taken if its header does not say clearly where they point.
    source: Files of the scan.
    grid: Geometry of these files; `grid.affine` maps (d, h, w, 1) to RAS millimetres.
    colours: Colour of each class in a PNG, '#rrggbb'; () are those of overlays.
    regions: Labels in the mask of each class from the first on, where classes are regions.
    slice_axis: Axis along which the model sees the scan, and `draw` draws it.
  """

  mask: np.ndarray = dataclasses.field(repr=False)
  classes: tuple[str, ...]
  warnings: tuple[str, ...]
  source: Source = dataclasses.field(repr=False)
  grid: Grid = dataclasses.field(repr=False)
  colours: tuple[str, ...] = dataclasses.field(default=(), repr=False)
  regions: labels.Regions = ()
  slice_axis: str = dataclasses.field(default='axial', repr=False)

  def save(self, path: Path | str) -> Path:
    """Writes the mask with the geometry of the scan; a file that is there is replaced.

    Args:
      path: File .nii.gz, .nii, .mha or .nrrd; of a picture .png or .tif.

    Returns:
      The path.

    Raises:
      InputError: If the mask has no such form, the path is that of the scan, or cannot be written.
    """
    path = Path(path).expanduser()
    of_picture = self.grid.picture is not None
    ending, fitting = masks.ending(path) or '', masks.PICTURES if of_picture else masks.ENDINGS
    if ending not in fitting:
      kind = 'picture' if of_picture else 'volume'
      raise InputError(f'{path}: the mask of a {kind} is a file ending in {", ".join(fitting)}')
    voxels = self.mask[None] if of_picture else self.mask
    return self._write(path, masks.to_bytes(voxels, self.grid, ending=ending, colours=self.colours))

  def draw(self, path: Path | str, *, slices: int = overlays.SLICES) -> Path:
    """Draws the scan, which is read again, with the classes outlined; see `predict --overlays`.

    Args:
      path: File .png; one that is there is replaced.
      slices: Slices at most, evenly spaced over those with a class; of a picture there is one.

    Returns:
      The path.

    Raises:
      InputError: If the path is no .png or that of the scan, or cannot be written, or if the scan
        has changed.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != '.png':
      raise InputError(f'{path}: the picture of a mask is a file ending in .png')
    if not isinstance(slices, int) or slices < 1:
      raise InputError(f'slices is {slices!r}; expected a whole number from 1')
    drawn = labels.innermost(self.mask, self.regions)
    if self.grid.picture is not None:
      picture, _ = sources.open_picture(self.source)
      self._require_same(picture.shape[:2])
      colours = overlays.line_colours(self.colours)
      return self._write(path, sheets.draw_picture(picture, drawn, colours=colours))
    stored, _ = sources.read(self.source)
    self._require_same(stored.image.shape[:3])
    volume = volumes.along(volumes.along(missing.fill(stored), 'axial'), self.slice_axis)
    content = sheets.draw_sheet(
      volume.image[..., 0],
      volumes.turn_like(drawn, self.grid.affine, volume.affine),
      spacing_mm=volume.spacing_mm,
      classes=self.classes,
      sides=volumes.find_sides(volume.affine),
      most=slices,
    )
    return self._write(path, content)

  def _require_same(self, shape: Sequence[int]) -> None:
    """Refuses a scan that has another shape than its mask."""
    if tuple(shape) != self.mask.shape:
      raise InputError(
        f'{self.source.channels[0]}: has {tuple(shape)} voxels, and its mask {self.mask.shape}; '
        'the file has changed: segment it again'
      )

  def _write(self, path: Path, content: bytes) -> Path:
    """Writes a file that is not the scan."""
    if path.resolve() in {channel.resolve() for channel in self.source.channels}:
      raise InputError(f'{path}: is the scan itself; name another file')
    try:
      return files.write_bytes(path, content)
    except OSError as error:
      raise InputError(f'{path}: cannot be written: {error.strerror}') from error
