"""Writes masks, and other volumes made from a scan, on exactly the grid of that scan.

The mask of a picture is a picture: a PNG whose palette shows the classes in colours, and whose
indices are the classes, as in Pascal VOC; or a TIFF of these numbers.

Such a file has the voxels and the geometry, and nothing else of the scan's header, as its text
fields and extensions may name a patient.
"""

import gzip
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image, ImageColor, PngImagePlugin

from thrifty_jax import RESEARCH_USE
from thrifty_jax.errors import InputError
from thrifty_jax.scans import nifti, overlays
from thrifty_jax.scans.sources import Grid

FORMATS = {'nifti': '.nii.gz', 'metaimage': '.mha', 'nrrd': '.nrrd', 'png': '.png', 'tiff': '.tif'}
ENDINGS = ('.nii.gz', '.nii', '.mha', '.nrrd')
PICTURES = ('.png', '.tif', '.tiff')
_SCANNER = 1  # NIfTI's code of the scanner's own coordinates
_SHEAR = 1e-4  # cosine between axes above which they are not orthogonal; float32 rounding is below


def ending(path: Path) -> str | None:
  """Returns the one of ENDINGS or PICTURES that a file's name has, or None."""
  return next((one for one in (*ENDINGS, *PICTURES) if path.name.lower().endswith(one)), None)


def to_bytes(voxels: np.ndarray, grid: Grid, *, ending: str, colours: Sequence[str] = ()) -> bytes:
  """Returns the content of a file of one ending, always the same for one mask and grid.

  The voxels, [D, H, W], uint8 or float32, are in the order of the scan's file. `colours` are those
  of the classes in a PNG, as '#rrggbb', background first; those of overlays if there are none.
  """
  if ending in PICTURES:
    return _picture_bytes(voxels[0], ending, colours)
  if ending not in ('.nii', '.nii.gz'):
    return _itk_bytes(voxels, grid, ending)
  content = _nifti(voxels, grid).to_bytes()
  return gzip.compress(content, compresslevel=6, mtime=0) if ending == '.nii.gz' else content


def _picture_bytes(pixels: np.ndarray, ending: str, colours: Sequence[str]) -> bytes:
  """Returns the content of a PNG of classes, or of a TIFF of classes or of float32."""
  picture, content = Image.fromarray(pixels), io.BytesIO()
  if ending != '.png':
    picture.save(content, format='TIFF', compression='tiff_deflate', description=RESEARCH_USE)
    return content.getvalue()
  shown = colours or ('#000000', *map(overlays.class_colour, range(1, 256)))
  picture.putpalette([part for colour in shown for part in ImageColor.getrgb(colour)])
  text = PngImagePlugin.PngInfo()
  text.add_text('Description', RESEARCH_USE)
  picture.save(content, format='PNG', bits=8, pnginfo=text)
  return content.getvalue()


def _nifti(voxels: np.ndarray, grid: Grid) -> nibabel.Nifti1Image:
  """Returns a NIfTI image, whose axes are stored as W, H, D."""
  stored = np.ascontiguousarray(voxels.transpose())
  if grid.nifti is None:
    affine = grid.affine[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(stored, affine)
    image.header.set_xyzt_units('mm')
    image.set_sform(affine, code=_SCANNER)
    # A quaternion cannot represent sheared axes, as of a tilted gantry.
    image.set_qform(affine, code=0 if _leans(affine) else _SCANNER)
  else:
    image = nifti.image_like(stored, grid.nifti)
  image.header['descrip'] = RESEARCH_USE.encode()
  return image


def _itk_bytes(voxels: np.ndarray, grid: Grid, ending: str) -> bytes:
  """Returns the content of a MetaImage or NRRD file, written by SimpleITK."""
  import SimpleITK

  image = SimpleITK.GetImageFromArray(voxels)
  spacing, direction, origin = grid.itk or _itk_geometry(grid.affine)
  image.SetSpacing(spacing)
  image.SetDirection(direction)
  image.SetOrigin(origin)
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, f'volume{ending}')
    SimpleITK.WriteImage(image, str(path), useCompression=True)
    return path.read_bytes()


def _itk_geometry(affine: np.ndarray) -> tuple[list[float], list[float], list[float]]:
  """Returns spacing, direction and origin for SimpleITK, whose world is LPS."""
  if _leans(affine):
    raise InputError(
      'the slices of the scan are sheared, which MetaImage and NRRD cannot store; choose '
      '--format=nifti'
    )
  lps = np.diag((-1.0, -1.0, 1.0, 1.0)) @ affine[:, [2, 1, 0, 3]]
  spacing = np.linalg.norm(lps[:3, :3], axis=0)
  return spacing.tolist(), (lps[:3, :3] / spacing).ravel().tolist(), lps[:3, 3].tolist()


def _leans(affine: np.ndarray) -> bool:
  """Returns whether the axes are not orthogonal."""
  axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
  return bool(np.abs(axes.T @ axes - np.eye(3)).max() > _SHEAR)
