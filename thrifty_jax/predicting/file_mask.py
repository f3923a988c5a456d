"""The mask of a scan that lies in a file, on exactly the grid of that file."""

import dataclasses
from pathlib import Path

import numpy as np

from thrifty_jax import files, labels
from thrifty_jax.errors import InputError
from thrifty_jax.scans import masks
from thrifty_jax.scans.sources import Grid, Source


@dataclasses.dataclass(frozen=True, eq=False)
class FileMask:
  """Mask of a scan in a file, as `Segmenter.segment_file` returns it.

  Attributes:
    mask: Label of each voxel, uint8; [D, H, W] in the order of SimpleITK.GetArrayFromImage, which
      is the transpose of nibabel's array; of a picture [H, W].
    classes: Names of the classes in the order of their numbers, background first.
    warnings: Differences between the scan and those of the training, a line each.
    source: Files of the scan.
    grid: Geometry of these files; `grid.affine` maps (d, h, w, 1) to RAS millimetres.
    colours: Colour of each class in a PNG, '#rrggbb'; () are those of overlays.
    regions: Labels in the mask of each class from the first on, where classes are regions.
  """

  mask: np.ndarray = dataclasses.field(repr=False)
  classes: tuple[str, ...]
  warnings: tuple[str, ...]
  source: Source = dataclasses.field(repr=False)
  grid: Grid = dataclasses.field(repr=False)
  colours: tuple[str, ...] = dataclasses.field(default=(), repr=False)
  regions: labels.Regions = ()

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
    if path.resolve() in {channel.resolve() for channel in self.source.channels}:
      raise InputError(f'{path}: is the scan itself; name another file for its mask')
    voxels = self.mask[None] if of_picture else self.mask
    content = masks.to_bytes(voxels, self.grid, ending=ending, colours=self.colours)
    try:
      return files.write_bytes(path, content)
    except OSError as error:
      raise InputError(f'{path}: cannot be written: {error.strerror}') from error
