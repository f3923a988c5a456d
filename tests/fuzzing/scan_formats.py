"""Formats of scans and masks: how each is read in what is tried, and held against other readers."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plain_png
import SimpleITK
from PIL import Image
from pydicom import uid

from data_prep import folder
from fuzzing import damage, picture_files, volume_files, volume_readers
from fuzzing.picture_files import COLOUR, DEEP, GREY, REAL
from fuzzing.volume_files import Files
from thrifty_jax.scans import pictures, sources, unreadable, volumes
from thrifty_jax.scans.volumes import Case, Volume

SECRET = 24242  # value of every voxel outside of the folder


class Format(NamedTuple):
  """What is damaged, how, and by what it is read."""

  make: Callable[[], Files]  # whole files by their names
  change: Callable[[random.Random, bytes], bytes]  # of headers, beside damage.change_bytes
  read: Callable[[Path], Any]  # the folder of these files; raises InputError
  # Raises where what was read is wrong; False where no other reader can tell.
  check: Callable[[Path, Any], bool]
  changed: tuple[str, ...] = ()  # files that may be damaged; () for all


def read_scan(where: Path, *, channels: int = 1) -> Volume:
  """Reads a scan as predict does, its header too."""
  (source,) = sources.find(where, channels=channels)
  size = None if where.is_dir() else volumes.read_header(where)[0]
  volume, _ = sources.read(source)
  assert size in (None, volume.image.shape[:3]), (size, volume.image.shape)
  return volume


def check_scan(
  where: Path, volume: Volume, read: Callable[[Path], tuple[np.ndarray, np.ndarray | None]]
) -> bool:
  """Holds a scan against what another reader finds."""
  image = volume.image[..., 0] if volume.image.shape[-1] == 1 else volume.image
  assert (image == SECRET).sum() < 2
  try:
    with unreadable.silence_libraries(), unreadable.quiet(), np.errstate(all='ignore'):
      expected, affine = read(where)
  except Exception:
    return False
  with np.errstate(over='ignore'):
    expected = expected.reshape(image.shape).astype(np.float32)
    np.testing.assert_array_equal(image.astype(np.float32), expected)
  if affine is not None:
    # SimpleITK steps along the normal where the slices of a series lie a little sideways.
    nearly = 0.06 if where.is_dir() else 1e-3
    np.testing.assert_allclose(volume.affine, affine, rtol=1e-4, atol=nearly)
  return True


def _scan(
  files: Files,
  change: Callable[[random.Random, bytes], bytes],
  read: Callable[[Path], tuple[np.ndarray, np.ndarray | None]],
  *,
  channels: int = 1,
  changed: tuple[str, ...] = (),
) -> Format:
  first = next(iter(files))

  def place(where: Path) -> Path:
    return where if first.endswith('.dcm') else where / first

  return Format(
    lambda: files,
    change,
    lambda where: read_scan(place(where), channels=channels),
    lambda where, volume: check_scan(place(where), volume, read),
    changed or (first,),
  )


def _by_itk(path: Path) -> np.ndarray:
  """Pixels of a PNG by SimpleITK."""
  return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO='PNGImageIO'))


def _by_pillow(path: Path) -> np.ndarray:
  """Pixels by Pillow, of TIFF files that tifffile reads here; SimpleITK may never end."""
  with Image.open(path) as picture:
    pixels = np.asarray(picture)
  if pixels.dtype == np.int32:
    raise ValueError('Pillow has passed over SampleFormat')
  return pixels * np.uint8(255) if pixels.dtype == bool else pixels


def _picture(
  content: bytes, ending: str, change: Any, reader: Callable[[Path], np.ndarray], channels: int = 1
) -> Format:
  def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels without alpha."""
    pixels = reader(path)
    return pixels[..., :channels] if pixels.ndim > 2 else pixels, pictures.AFFINE

  return _scan({f'scan.{ending}': content}, change, read, channels=channels)


def _by_none(path: Path) -> np.ndarray:
  """Nothing: of JPEG, BMP and GIF, which have no checksums, readers make different things."""
  raise ValueError(f'no other reader for {path}')


def read_masked(where: Path) -> Volume:
  """Reads a picture and its mask of three classes as prepare does."""
  mask = next(where.glob('mask.*'))
  return folder.read_case(Case('a', 'a', (where / 'scan.png',), (mask,), pictures.Legend((), 3)))


def check_masked(where: Path, volume: Volume) -> bool:
  """Looks at classes, which no other reader knows."""
  np.testing.assert_array_equal(volume.image[0, ..., 0], GREY)
  assert volume.truth.shape == (1, *GREY.shape) and volume.truth.dtype == np.uint8
  assert volume.truth.max() < 3
  return True


def _mask(content: bytes, ending: str, change: Any) -> Format:
  scan = plain_png.png(GREY, bits=8, kind=0)
  files = picture_files.with_mask(scan, content, ending)
  return Format(lambda: files, change, read_masked, check_masked, (f'mask.{ending}',))


def _volumes() -> dict[str, Format]:
  nifti, text, dicom = (
    volume_files.change_nifti,
    volume_files.change_text,
    volume_files.change_dicom,
  )
  some = damage.change_bytes
  metaimage, nrrd = volume_files.whole_metaimage, volume_files.whole_nrrd
  series = volume_files.whole_dicom
  by_nibabel, by_itk = volume_readers.read_nifti, volume_readers.read_series
  by_entries, by_fields = volume_readers.read_metaimage, volume_readers.read_nrrd
  raw, packed = ('scan.mhd', 'scan.raw'), ('scan.mhd', 'scan.zraw')
  return {
    'nifti': _scan(volume_files.whole_nifti(False), nifti, by_nibabel),
    'nifti, gzip': _scan(volume_files.whole_nifti(True), nifti, by_nibabel),
    'mha': _scan(metaimage('LOCAL', False), text, by_entries),
    'mha, zlib': _scan(metaimage('LOCAL', True), text, by_entries),
    'mhd': _scan(metaimage('scan.raw', False), text, by_entries, changed=raw),
    'mhd, zlib': _scan(metaimage('scan.zraw', True), text, by_entries, changed=packed),
    'nrrd': _scan(nrrd(False), text, by_fields),
    'nrrd, gzip': _scan(nrrd(True), text, by_fields),
    'dicom': _scan(series(uid.ExplicitVRLittleEndian), dicom, by_itk),
    'dicom, implicit': _scan(series(uid.ImplicitVRLittleEndian), some, by_itk),
    'dicom, big': _scan(series(uid.ExplicitVRBigEndian), some, by_itk),
    'dicom, deflated': _scan(series(uid.DeflatedExplicitVRLittleEndian), some, by_itk),
    'dicom, rle': _scan(series(uid.RLELossless), dicom, by_itk),
    'dicom, jpeg': _scan(series('', 'JPEG'), dicom, by_itk),
    'dicom, jpeg 2000': _scan(series('', 'JPEG2000'), dicom, by_itk),
  }


def _pictures() -> dict[str, Format]:
  head, png, tiff = damage.change_numbers, picture_files.change_png, picture_files.change_tiff
  palette = plain_png.palette(*picture_files.COLOURS)
  indices = plain_png.png(picture_files.CLASSES, bits=2, kind=3, before=palette)
  grey, deep = plain_png.png(GREY, bits=8, kind=0), plain_png.png(DEEP, bits=16, kind=0)
  colour = plain_png.png(COLOUR, bits=8, kind=2)
  alpha = plain_png.png(np.dstack([COLOUR, np.full_like(GREY, 255)]), bits=8, kind=6)
  write, saved = picture_files.tiff, picture_files.saved
  deflated = write(DEEP, byteorder='>', compression='zlib', predictor=True)
  tiles = write(COLOUR, tile=(16, 16))
  lzw = saved(GREY, 'TIFF', compression='tiff_lzw')
  return {
    'png': _picture(grey, 'png', png, _by_itk),
    'png, 16 bits': _picture(deep, 'png', png, _by_itk),
    'png, colours': _picture(colour, 'png', png, _by_itk, 3),
    'png, alpha': _picture(alpha, 'png', png, _by_itk, 3),
    'png, palette': _picture(indices, 'png', png, _by_itk, 3),
    'tiff': _picture(write(REAL), 'tif', tiff, _by_pillow),
    'tiff, deflate': _picture(deflated, 'tif', tiff, _by_pillow),
    'tiff, tiles': _picture(tiles, 'tif', tiff, _by_pillow, 3),
    'tiff, lzw': _picture(lzw, 'tif', tiff, _by_none),
    'tiff, big': _picture(write(DEEP, bigtiff=True), 'tif', tiff, _by_pillow),
    'jpeg': _picture(saved(GREY, 'JPEG'), 'jpg', head, _by_none),
    'jpeg, colours': _picture(saved(COLOUR, 'JPEG', subsampling=0), 'jpg', head, _by_none, 3),
    'bmp': _picture(saved(GREY, 'BMP'), 'bmp', head, _by_none),
    'bmp, colours': _picture(saved(COLOUR, 'BMP'), 'bmp', head, _by_none, 3),
    'gif': _picture(saved(GREY, 'GIF'), 'gif', head, _by_none),
    'mask, png': _mask(plain_png.png(picture_files.CLASSES, bits=8, kind=0), 'png', png),
    'mask, png, palette': _mask(indices, 'png', png),
    'mask, tiff': _mask(write(picture_files.CLASSES), 'tif', tiff),
    'mask, gif': _mask(saved(picture_files.indexed(), 'GIF'), 'gif', head),
    'mask, bmp': _mask(saved(picture_files.indexed(), 'BMP'), 'bmp', head),
  }


FORMATS = _volumes() | _pictures()
