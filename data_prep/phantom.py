"""Generated scans in real layouts: for tests, and for a run without any data.

A body with an organ, and two blobs as bright elsewhere, so that brightness alone does not identify
it. Patients differ in size, spacing, orientation, brightness and noise. A seed gives one set.
"""

import dataclasses
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
from nibabel.affines import from_matvec
from scipy import ndimage
from scipy.spatial import transform

from data_prep import promise12
from data_prep.data_sets import About
from thrifty_jax import files
from thrifty_jax.errors import InputError
from thrifty_jax.scans.volumes import Case

PATIENTS = 10
read_case, read_classes = promise12.read_case, promise12.read_classes
ABOUT = About(
  'Slices of made-up scans.',
  note='Made-up scans: scores on them say nothing about real ones.',
)

# Directions of the stored axes D, H, W: as most scanners write, upside down, rotated by 180
# degrees, feet first, transposed.
ORIENTATIONS = ('SPL', 'SAL', 'SAR', 'IPL', 'SLP')
_SIZES = ((8, 40, 48), (10, 48, 48), (7, 36, 40), (9, 44, 32))  # D, H, W
_TILTS = (0, 0, 12, -20)  # degrees, about the axes to the left and to the head in turn


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
  """A generated scan, axes to head, back and left."""

  image: np.ndarray  # brightness, about 0 to 1, [D, H, W], float32
  label: np.ndarray  # 1 in the organ, [D, H, W], uint8
  affine: np.ndarray  # of (d, h, w) to RAS millimetres, [4, 4]; oblique for some patients


def find_cases(raw_dir: Path) -> list[Case]:
  """Returns the scans of the raw folder, which are generated first if it does not exist."""
  if not raw_dir.exists():
    write_promise12(raw_dir, patients=PATIENTS, seed=0)
  if not (raw_dir / 'TrainingData').is_dir():
    raise InputError(
      f'{raw_dir}: there is no TrainingData in it; made-up scans are written only to a folder that '
      'does not exist yet. Name another by --config.data.raw_dir.'
    )
  return promise12.find_cases(raw_dir)


def make_scan(*, patient: int, seed: int) -> Scan:
  """Generates the scan of a patient, with the seed of the whole data set."""
  random = np.random.default_rng((seed, patient))
  shape = _SIZES[patient % len(_SIZES)]
  spacing_mm = np.array([random.uniform(2.5, 4.0), *[random.uniform(0.8, 1.6)] * 2])
  grid = coordinates(shape)  # the organ lies near the middle, a little to the front
  middle = random.uniform((-0.12, -0.22, -0.12), (0.12, 0.02, 0.12))
  organ = ellipsoid(grid, middle, random.uniform((0.7, 0.32, 0.32), (0.9, 0.45, 0.45)))
  body = ellipsoid(grid, np.zeros(3), np.array([9.0, 0.92, 0.92]))
  bright = organ
  for side in (-1, 1):
    middle = np.array([0.0, 0.6, side * 0.5]) + random.uniform(-0.05, 0.05, 3)
    bright = bright | ellipsoid(grid, middle, np.array([0.9, 0.2, 0.2]))
  image = ndimage.gaussian_filter(0.35 * body + 0.4 * bright, (0, 0.6, 0.6))
  shading = 1 + 0.2 * (grid @ random.uniform(-1, 1, 3))
  noise = ndimage.gaussian_filter(random.standard_normal(shape), (0, 0.5, 0.5))
  image = (image * shading + 0.06 * noise).astype(np.float32)
  affine = make_affine(patient=patient, spacing_mm=spacing_mm, origin_mm=random.uniform(-50, 50, 3))
  return Scan(image=image, label=organ.astype(np.uint8), affine=affine)


def make_affine(*, patient: int, spacing_mm: np.ndarray, origin_mm: np.ndarray) -> np.ndarray:
  """Returns an affine, [4, 4], with axes to head, back and left; oblique for some patients."""
  axes = np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]])  # head, back, left in RAS
  tilt = _TILTS[patient % len(_TILTS)]
  turn = transform.Rotation.from_euler('xz', [tilt, tilt / 2], degrees=True).as_matrix()
  return from_matvec(turn @ axes * spacing_mm, origin_mm)


def turn(voxels: np.ndarray, affine: np.ndarray, orientation: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns voxels and affine of the same scan with axes in another order or direction.

  Voxels are [D, H, W] or [D, H, W, M], the affine leads from (d, h, w) to RAS millimetres, [4, 4],
  and the orientation names the directions of the new axes, such as 'SPL' for head, back, left.
  """
  turn = nibabel.orientations.ornt_transform(
    nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(orientation)
  )
  there = affine @ nibabel.orientations.inv_ornt_aff(turn, voxels.shape[:3])
  return np.ascontiguousarray(nibabel.apply_orientation(voxels, turn)), there


def itk_image(voxels: np.ndarray, affine: np.ndarray, orientation: str) -> SimpleITK.Image:
  """Returns the scan as an image for a file, with its axes as by `turn`."""
  stored, affine = turn(voxels, affine, orientation)
  affine = np.diag((-1.0, -1.0, 1.0, 1.0)) @ affine
  spacing = np.linalg.norm(affine[:3, :3], axis=0)
  image = SimpleITK.GetImageFromArray(stored)
  image.SetSpacing(spacing[::-1].tolist())
  image.SetDirection((affine[:3, :3] / spacing)[:, ::-1].ravel().tolist())
  image.SetOrigin(affine[:3, 3].tolist())
  return image


def write_promise12(folder: Path, *, patients: int, seed: int) -> None:
  """Writes a raw folder like that of PROMISE12: TrainingData/CaseNN.mhd, its voxels and masks.

  Voxels are in .zraw files, those of every sixth case in .raw files. TestData has a scan without a
  mask. The folder appears complete or not at all.
  """
  with files.whole_folder(folder) as unfinished:
    for patient in range(patients + 1):
      tested = patient == patients
      place = unfinished / ('TestData' if tested else 'TrainingData')
      place.mkdir(exist_ok=True)
      scan = make_scan(patient=patient, seed=seed)
      brightness = np.clip(scan.image, 0, None) * 400 * (1 + patient % 4)  # MR has no unit
      voxels = {'': brightness.astype(np.int16), promise12.MASK: scan.label.astype(np.int8)}
      for name in [''] if tested else voxels:
        SimpleITK.WriteImage(
          itk_image(voxels[name], scan.affine, ORIENTATIONS[patient % len(ORIENTATIONS)]),
          str(place / f'Case{patient:02d}{name}.mhd'),
          useCompression=patient % 6 != 5,
        )


def coordinates(shape: tuple[int, ...]) -> np.ndarray:
  """Returns coordinates from -1 to 1 along each axis, [D, H, W, 3]."""
  return np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing='ij'), axis=-1)


def ellipsoid(grid: np.ndarray, middle: np.ndarray, radii: np.ndarray) -> np.ndarray:
  """Returns a mask, True inside, [D, H, W]; grid [D, H, W, 3] in the unit of middle and radii."""
  return (((grid - middle) / radii) ** 2).sum(axis=-1) < 1
