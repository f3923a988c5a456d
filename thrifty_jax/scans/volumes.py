"""Volumes of scans, read from their file formats, and their orientation."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from thrifty_jax import labels
from thrifty_jax.errors import InputError
from thrifty_jax.scans import metaimage, nifti, nrrd, pictures
from thrifty_jax.scans.unreadable import report_unreadable, silence_libraries

# Directions of the axes D, H, W of a volume for each slice axis: S head, I feet, P back, L left.
# Every volume is read as axial: that is the order in which a scanner writes axial slices (and
# SimpleITK's identity direction), so most scans are not reoriented at all.
SLICE_AXES = {'axial': ('S', 'P', 'L'), 'coronal': ('P', 'I', 'L'), 'sagittal': ('L', 'I', 'P')}
_UNTURNED = ((0, 1), (1, 1), (2, 1))  # each axis where it was, in the same direction
_OPPOSITE = {'R': 'L', 'L': 'R', 'A': 'P', 'P': 'A', 'S': 'I', 'I': 'S'}
_ROUNDING = 1e-3  # of a class number, as 255 x float32(1 / 255) is 1.0000000591


class UnsureError(InputError):
  """A file may be a mirror image of its scan, as a header is unclear on its axes."""


@dataclasses.dataclass(frozen=True)
class Case:
  """Names and files of one scan."""

  case: str  # name of the scan, unique in its data set; it appears in tables and file names
  patient: str  # scans of one patient are always in the same split
  # One file a modality, or the slices of DICOM series in the order of the masks, one modality after
  # the other.
  image: tuple[Path, ...]
  label: tuple[Path, ...] = ()  # files of the truth; none for a scan without truth
  legend: pictures.Legend | None = None  # of a truth that is a picture; None if it is a volume
  # Number of each class in a file of the truth, of which there may be one a class; () where one
  # file has 0, 1, 2, ...
  values: tuple[int, ...] = ()
  # Names of the foreground classes in a DICOM truth; () of any other truth, which holds numbers.
  segments: tuple[str, ...] = ()
  ignore: int = 0  # label in the truth of voxels without a class; 0 is none
  regions: labels.Regions = ()  # that the classes are


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
  """One scan in memory, on its native grid, with axes as in SLICE_AXES; it is read as axial."""

  image: np.ndarray  # intensities as stored, [D, H, W, M], float32
  label: np.ndarray | None  # of each voxel, [D, H, W], uint8; labels.IGNORED where it has none
  affine: np.ndarray  # of voxel indices (d, h, w, 1) to millimetres in the RAS world, [4, 4]
  case: str
  patient: str
  orientation: str = ''  # directions of the file's axes, fastest first, such as LPS

  @property
  def spacing_mm(self) -> tuple[float, float, float]:
    """Distance between neighbouring voxels along D, H and W."""
    d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0)
    return float(d), float(h), float(w)

  @property
  def truth(self) -> np.ndarray:
    """Label of a scan that must have one."""
    if self.label is None:
      raise InputError(f'{self.case}: the scan has no truth; add its mask or leave the case out.')
    return self.label


def read_metaimage(path: Path) -> tuple[np.ndarray, np.ndarray]:
  """Reads a file by SimpleITK: voxels, [D, H, W], and affine as `read_nifti`."""
  import SimpleITK  # here, as everywhere: 90 MiB that NIfTI and prepared slices do not need

  with report_unreadable(path):
    _require_valid(path)
    if path.suffix.lower() in ('.mhd', '.mha'):
      metaimage.require_whole(path)
    with silence_libraries():
      image = SimpleITK.ReadImage(str(path))
  voxels = SimpleITK.GetArrayFromImage(image)
  # A trailing axis of length 1 is none.
  is_volume = image.GetDimension() > 2 and set(image.GetSize()[3:]) <= {1}
  components = image.GetNumberOfComponentsPerPixel()
  if not is_volume or components != 1 or voxels.dtype.kind not in 'iuf':
    raise InputError(
      f'{path}: has {image.GetDimension()} dimensions with {components} values a voxel, '
      f'{image.GetPixelIDTypeAsString()}; expected a volume of 3 dimensions with one number for '
      'each voxel. Convert the file.'
    )
  return voxels.reshape(voxels.shape[-3:]), _itk_affine(image)


def _require_valid(path: Path) -> None:
  """Refuses a header for ITK's reader in which something has to be guessed."""
  if path.suffix.lower() in ('.mhd', '.mha'):
    metaimage.require_valid(path)
  elif path.suffix.lower() == '.nrrd':
    nrrd.require_valid(path)


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
  """Reads a NIfTI file.

  Returns:
    Voxels, [D, H, W] or [D, H, W, M], and the affine of (d, h, w) to RAS millimetres, [4, 4].
  """
  with report_unreadable(path):
    found = nifti.read(path)
  # The columns follow the axes: (x, y, z) becomes (d, h, w).
  return np.moveaxis(found.voxels, (0, 1, 2), (2, 1, 0)), found.affine[:, [2, 1, 0, 3]]


def read_header(path: Path) -> tuple[tuple[int, int, int], np.ndarray]:
  """Reads numbers of voxels (D, H, W) and affine, as stored, of a file other than DICOM."""
  if pictures.is_picture(path):
    return (1, *pictures.read_size(path)[:2]), pictures.AFFINE
  with report_unreadable(path):
    if is_nifti(path):
      found = nifti.read_header(path)
      size, affine = found.header.get_data_shape(), found.affine[:, [2, 1, 0, 3]]
    else:
      _require_valid(path)
      header: Any = itk_header(path)
      size = header.GetSize()
      affine = _itk_affine(header) if len(size) > 2 else np.eye(4)
  width, height, depth, *_ = (*map(int, size), 0, 0)
  shape = (depth, height, width)
  if not all(shape):
    raise InputError(f'{path}: has {shape} voxels (D, H, W); expected a volume. Convert the file.')
  require_affine(path, affine)
  return shape, affine


def find_unsure(path: Path) -> str:
  """Returns how the axes of a volume are taken, if its header does not say it clearly; else ''.

  Source: ITK's identity direction; of NIfTI see `nifti.find_unsure`.
  """
  ending = path.suffix.lower()
  if not is_nifti(path) and ending not in ('.mhd', '.mha', '.nrrd'):
    return ''  # DICOM always says it, and a picture never
  with report_unreadable(path):
    if is_nifti(path):
      return nifti.find_unsure(nifti.read_header(path).header)
    is_told = (nrrd if ending == '.nrrd' else metaimage).has_directions(path)
  return '' if is_told else nifti.UNSURE.format('L, P, S')


def count_channels(path: Path) -> int:
  """Returns the number of channels in a file other than DICOM, from its header."""
  if pictures.is_picture(path):
    return pictures.read_size(path)[2]
  if not is_nifti(path):
    return 1  # others are refused when they are read
  with report_unreadable(path):
    return int(([*nifti.read_header(path).header.get_data_shape(), 1, 1])[3])


def itk_header(path: Path) -> Any:
  """Returns SimpleITK's reader of a file, which has read the header alone."""
  import SimpleITK

  reader = SimpleITK.ImageFileReader()
  reader.SetFileName(str(path))
  with silence_libraries():
    reader.ReadImageInformation()
  return reader


def _itk_affine(image: Any) -> np.ndarray:
  """Returns the affine of the first three axes of an image, or of a reader, of SimpleITK."""
  spacing = np.asarray(image.GetSpacing())
  axes = np.reshape(image.GetDirection(), (len(spacing), len(spacing))) * spacing
  return affine_from_lps(axes[:3, 2::-1], image.GetOrigin()[:3])


def is_nifti(path: Path) -> bool:
  """Returns whether a file is one for `read_nifti`, by its name."""
  return path.name.lower().endswith(('.nii', '.nii.gz'))


def make_volume(
  case: Case,
  *,
  image: np.ndarray,
  affine: np.ndarray,
  label: np.ndarray | None = None,
  label_affine: np.ndarray | None = None,
) -> Volume:
  """Combines a scan and its truth and reorients both.

  Args:
    case: Names of scan and patient, and the files that errors name.
    image: Intensities, [D, H, W] or [D, H, W, M], any numeric type, axes in the order of the file.
    affine: Affine of the image's (d, h, w) to RAS millimetres, [4, 4].
    label: Class of each voxel, [D, H, W], whole numbers, on the grid of the image.
    label_affine: Affine of the truth, if its file has one; it must agree with that of the image.

  Returns:
    Volume with axes to head, back and left, see `along`.
  """
  require_affine(case.image[0], affine)
  image = image[..., None] if image.ndim == 3 else image
  if not image.size:
    raise InputError(
      f'{case.image[0]}: the scan is empty, {image.shape[:3]} voxels (D, H, W); expected some. '
      'Export it again.'
    )
  if label is not None:
    label_affine = affine if label_affine is None else label_affine
    label = on_grid(case.label[0], label, label_affine, case.image[0], image.shape[:3], affine)
    label = whole_numbers(label, case.label[0])
  directions = ''.join(str(code) for code in nibabel.aff2axcodes(affine))[::-1]
  volume = Volume(image, label, affine, case.case, case.patient, orientation=directions)
  return along(volume, 'axial')


def along(volume: Volume, slice_axis: str) -> Volume:
  """Returns the same scan, in any orientation, with its axes as in SLICE_AXES.

  It is made by flips and transposes alone: no voxel changes its value or its place.
  """
  turn = nibabel.orientations.ornt_transform(
    nibabel.io_orientation(volume.affine),
    nibabel.orientations.axcodes2ornt(SLICE_AXES[slice_axis]),
  )

  def turned(voxels: np.ndarray, dtype: type) -> np.ndarray:
    with np.errstate(over='ignore'):  # infinite then, which is refused where it matters
      return np.ascontiguousarray(nibabel.apply_orientation(voxels, turn), dtype)

  return dataclasses.replace(
    volume,
    image=turned(volume.image, np.float32),
    label=None if volume.label is None else turned(volume.label, np.uint8),
    affine=volume.affine @ nibabel.orientations.inv_ornt_aff(turn, volume.image.shape[:3]),
  )


def list_sides(slice_axis: str) -> tuple[str, str, str, str]:
  """Returns the patient's side at the upper, right, lower and left border of a slice.

  A letter each, of R right, L left, A front, P back, S head and I feet.
  """
  return _list_sides(*SLICE_AXES[slice_axis][1:])


def find_sides(affine: np.ndarray) -> tuple[str, str, str, str]:
  """Returns what `list_sides` does of the slices of a volume with this affine, [4, 4].

  Where it lies obliquely, the sides are the nearest ones.
  """
  _, down, right = map(str, nibabel.aff2axcodes(affine))
  return _list_sides(down, right)


def _list_sides(down: str, right: str) -> tuple[str, str, str, str]:
  """Returns the sides at the borders of a slice whose rows and columns go to these."""
  return _OPPOSITE[down], right, down, _OPPOSITE[right]


def turn_like(voxels: np.ndarray, affine: np.ndarray, like: np.ndarray) -> np.ndarray:
  """Returns voxels, [D, H, W, ...], with axes in another order or direction: undoes `along`.

  Both affines, [4, 4], are those of one grid: as the voxels are, and as the result shall be.
  """
  return np.ascontiguousarray(nibabel.apply_orientation(voxels, _turn(affine, like)))


def _turn(affine: np.ndarray, like: np.ndarray) -> np.ndarray:
  """Returns the orientation transform between affines of one grid; see `turn_like`."""
  # Exact, while directions determined again might not be: they are ambiguous at 45 degrees.
  steps = np.linalg.solve(like[:3, :3], affine[:3, :3])
  axes = np.abs(steps).argmax(axis=0)
  return np.stack([axes, np.sign(steps[axes, range(3)])], axis=1)


def on_grid(
  path: Path,
  voxels: np.ndarray,
  affine: np.ndarray,
  scan: Path,
  scan_shape: tuple[int, ...],
  scan_affine: np.ndarray,
) -> np.ndarray:
  """Returns a channel or a mask, [D, H, W], with its axes in the order and direction of its scan.

  It is refused if its voxels then do not lie where those of the scan do, see `require_grid`, or if
  it is turned though one of both does not say clearly where its axes point.
  """
  require_affine(scan, scan_affine)
  require_affine(path, affine)
  turn = _turn(affine, scan_affine)
  if voxels.ndim == 3 and sorted(turn[:, 0]) == [0, 1, 2]:
    affine = affine @ nibabel.orientations.inv_ornt_aff(turn, voxels.shape)
    voxels = nibabel.apply_orientation(voxels, turn)
  require_grid(path, voxels.shape, affine, scan, scan_shape, scan_affine)
  lengths = np.take(voxels.shape, turn[:, 0].astype(int))  # as in the file
  # Else both are stored alike, voxel on voxel.
  if ((turn != _UNTURNED).any(axis=1) & (lengths > 1)).any():
    require_sure(path, scan)
  return voxels


def require_sure(path: Path, scan: Path) -> None:
  """Refuses a file and its scan if the header of one does not say clearly where its axes point."""
  unsure = {one: text for one in (path, scan) if (text := find_unsure(one))}
  if unsure:
    (first, text), *_ = unsure.items()
    other = (scan if first == path else path).name
    both = f'nor is that of {other} clear' if len(unsure) > 1 else f'but that of {other} is clear'
    reason, *_ = text.split(';')
    raise UnsureError(
      f'{first}: {reason}, {both}; expected clear headers, or voxels that are stored alike, as '
      'one may be a mirror image of the other. Export it again, or copy the header of the other if '
      'their voxels match.'
    )


def require_grid(
  path: Path,
  shape: tuple[int, ...],
  affine: np.ndarray,
  scan: Path,
  scan_shape: tuple[int, ...],
  scan_affine: np.ndarray,
) -> None:
  """Refuses a channel or a mask whose voxels do not lie where those of its scan do.

  It must have three axes, D, H, W, and lie as `nifti.require_grid` says.
  """
  if len(shape) != 3:
    raise InputError(
      f'{path}: has {len(shape)} axes, {" x ".join(map(str, shape))}; expected three, and one '
      'number for each voxel: of masks its class. Convert the file.'
    )
  try:
    nifti.require_grid(shape, affine, scan.name, scan_shape, scan_affine)
  except nifti.HeaderError as error:
    raise InputError(f'{path}: {error}') from error


def affine_from_lps(axes: np.ndarray, origin: Sequence[float]) -> np.ndarray:
  """Returns the affine in RAS, NIfTI's world, for axes and origin in LPS, that of ITK and DICOM."""
  affine = np.eye(4)
  affine[:3, :3] = axes
  affine[:3, 3] = origin
  return np.diag((-1.0, -1.0, 1.0, 1.0)) @ affine


def whole_numbers(label: np.ndarray, path: Path) -> np.ndarray:
  """Returns a mask as uint8; refuses values that are none but for the rounding of a scaling."""
  with np.errstate(invalid='ignore'):
    whole = np.rint(label).astype(np.uint8)
  if not np.allclose(whole, label, rtol=0, atol=_ROUNDING):
    raise InputError(
      f'{path}: the mask holds values from {label.min()} to {label.max()} that are not all whole '
      'numbers from 0 to 255; expected class numbers. Replace the file.'
    )
  return whole


def require_affine(path: Path, affine: np.ndarray) -> None:
  """Refuses an affine that no scan can have, by which nothing can be turned or measured."""
  try:
    nifti.require_possible(affine)
  except nifti.HeaderError as error:
    raise InputError(f'{path}: {error}') from error
