"""Made-up scans in real layouts: for tests, and for a run without any data.

A body with an organ and two blobs of the organ's brightness elsewhere, so that brightness alone
does not tell it. Every patient has another size, spacing, orientation, brightness and noise. The
same seed gives the same files.
"""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import SimpleITK
import tensorflow_datasets as tfds
from scipy import ndimage

from data_prep import builder, promise12
from data_prep.volumes import Case, Volume

PATIENTS = 10
NOTE = 'Made-up scans: scores on them say nothing about real ones.'

# Where the stored axes D, H, W point to: as most scanners write, upside down, turned half round,
# feet first, transposed.
ORIENTATIONS = ('SPL', 'SAL', 'SAR', 'IPL', 'SLP')
_SIZES = ((8, 40, 48), (10, 48, 48), (7, 36, 40), (9, 44, 32))  # D, H, W


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
  """A made-up scan, axes to head, back and left.

  Attributes:
    image: Brightness, about 0 to 1, [D, H, W], float32.
    label: 1 in the organ, [D, H, W], uint8.
    affine: From (d, h, w) to RAS millimetres, [4, 4].
  """

  image: np.ndarray
  label: np.ndarray
  affine: np.ndarray


def find_cases(raw_dir: Path) -> list[Case]:
  """The scans of the raw folder, which are made first if there is no such folder."""
  if not raw_dir.exists():
    write_promise12(raw_dir, patients=PATIENTS, seed=0)
  return promise12.find_cases(raw_dir)


def read_case(case: Case) -> Volume:
  """Reads a scan and its mask."""
  return promise12.read_case(case)


class Phantom(tfds.core.ShardBasedBuilder, skip_registration=True):
  """Slices of made-up scans."""

  VERSION = builder.VERSION
  name = 'phantom'

  def _info(self) -> tfds.core.DatasetInfo:
    return builder.info(self, description='Slices of made-up scans.', homepage='', citation='')

  def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[..., Any]]]:
    return builder.shards(self, read_case)


BUILDER = Phantom


def make_scan(*, patient: int, seed: int) -> Scan:
  """One made-up scan.

  Args:
    patient: Number of the patient.
    seed: Of the whole data set.
  """
  random = np.random.default_rng((seed, patient))
  shape = _SIZES[patient % len(_SIZES)]
  spacing_mm = np.array([random.uniform(2.5, 4.0), *[random.uniform(0.8, 1.6)] * 2])
  # Coordinates from -1 to 1 along each axis; the organ lies near the middle, a little to the front.
  grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing='ij'), axis=-1)
  middle = random.uniform((-0.12, -0.22, -0.12), (0.12, 0.02, 0.12))
  organ = _ellipsoid(grid, middle, random.uniform((0.7, 0.32, 0.32), (0.9, 0.45, 0.45)))
  body = _ellipsoid(grid, np.zeros(3), np.array([9.0, 0.92, 0.92]))
  blobs = [
    _ellipsoid(
      grid,
      np.array([0.0, 0.6, side * 0.5]) + random.uniform(-0.05, 0.05, 3),
      np.array([0.9, 0.2, 0.2]),
    )
    for side in (-1, 1)
  ]
  image = 0.35 * body + 0.4 * (organ | blobs[0] | blobs[1])
  image = ndimage.gaussian_filter(image, (0, 0.6, 0.6))
  shading = 1 + 0.2 * (grid @ random.uniform(-1, 1, 3))
  noise = ndimage.gaussian_filter(random.standard_normal(shape), (0, 0.5, 0.5))
  image = (image * shading + 0.06 * noise).astype(np.float32)
  affine = np.eye(4)
  affine[:3, :3] = (
    np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]]) * spacing_mm
  )  # head, back, left in RAS
  affine[:3, 3] = random.uniform(-50, 50, 3)
  return Scan(image=image, label=organ.astype(np.uint8), affine=affine)


def turned(
  voxels: np.ndarray, affine: np.ndarray, orientation: str
) -> tuple[np.ndarray, np.ndarray]:
  """The same scan with its axes another way round.

  Args:
    voxels: [D, H, W] or [D, H, W, M].
    affine: From (d, h, w) to RAS millimetres, [4, 4].
    orientation: Where the new axes D, H, W point to, such as 'SPL' for head, back, left.

  Returns:
    Voxels and affine.
  """
  turn = nibabel.orientations.ornt_transform(
    nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(orientation)
  )
  there = affine @ nibabel.orientations.inv_ornt_aff(turn, voxels.shape[:3])
  return np.ascontiguousarray(nibabel.apply_orientation(voxels, turn)), there


def itk_image(voxels: np.ndarray, affine: np.ndarray, orientation: str) -> SimpleITK.Image:
  """The same scan as a file would hold it, with its axes stored another way round.

  Args:
    voxels: [D, H, W].
    affine: From (d, h, w) to RAS millimetres, [4, 4].
    orientation: Where the stored axes D, H, W point to, such as 'SPL' for head, back, left.
  """
  stored, affine = turned(voxels, affine, orientation)
  affine = np.diag((-1.0, -1.0, 1.0, 1.0)) @ affine
  spacing = np.linalg.norm(affine[:3, :3], axis=0)
  image = SimpleITK.GetImageFromArray(stored)
  image.SetSpacing(spacing[::-1].tolist())
  image.SetDirection((affine[:3, :3] / spacing)[:, ::-1].ravel().tolist())
  image.SetOrigin(affine[:3, 3].tolist())
  return image


def write_promise12(folder: Path, *, patients: int, seed: int) -> None:
  """Writes a raw folder like PROMISE12's: TrainingData/CaseNN.mhd, .zraw and the masks.

  Args:
    folder: What config.data.raw_dir names. It appears complete or not at all.
    patients: Number of cases, Case00 and so on.
    seed: The same seed writes the same scans.
  """
  with whole_folder(folder) as unfinished:
    training = unfinished / 'TrainingData'
    training.mkdir()
    for patient in range(patients):
      scan = make_scan(patient=patient, seed=seed)
      brightness = np.clip(scan.image, 0, None) * 400 * (1 + patient % 4)  # MR has no unit
      orientation = ORIENTATIONS[patient % len(ORIENTATIONS)]
      for name, voxels in (
        ('', brightness.astype(np.int16)),
        (promise12.MASK, scan.label.astype(np.int8)),
      ):
        image = itk_image(voxels, scan.affine, orientation)
        SimpleITK.WriteImage(
          image, str(training / f'Case{patient:02d}{name}.mhd'), useCompression=True
        )


def write_chaos(folder: Path, *, patients: int, seed: int) -> None:
  """Writes a raw folder like CHAOS': Train_Sets/CT/<id>/DICOM_anon and Ground, with its traps.

  Both ways of naming the slices, file names in the order of falling and of rising positions, a
  wrong SliceThickness, padding around the field of view, masks of one bit and of 0 and 255.

  Args:
    folder: What config.data.raw_dir names. It appears complete or not at all.
    patients: Number of patients, 1 and so on.
    seed: The same seed writes the same scans.
  """
  with whole_folder(folder) as unfinished:
    for patient in range(patients):
      _write_chaos_patient(
        unfinished / 'Train_Sets' / 'CT' / str(patient + 1),
        make_scan(patient=patient, seed=seed),
        patient,
      )


def _write_chaos_patient(folder: Path, scan: Scan, patient: int) -> None:
  (folder / 'DICOM_anon').mkdir(parents=True)
  (folder / 'Ground').mkdir()
  hounsfield = np.round(scan.image * 400 - 100).astype(np.int16)
  hounsfield[:, :2, :2] = 4000 + patient  # padding
  image = itk_image(hounsfield, scan.affine, 'IPL' if patient % 2 else 'SPL')
  label = SimpleITK.GetArrayFromImage(
    itk_image(scan.label, scan.affine, 'IPL' if patient % 2 else 'SPL')
  )
  direction = image.GetDirection()
  writer = SimpleITK.ImageFileWriter()
  writer.KeepOriginalImageUIDOn()
  for d in range(image.GetDepth()):
    plane = image[:, :, d]
    tags = {
      '0008|0060': 'CT',
      '0018|0050': '3.2',  # SliceThickness, which is not the step
      '0020|0013': str(d + 1),
      '0020|000d': f'1.2.826.0.1.3680043.2.1125.{patient + 1}',
      '0020|000e': f'1.2.826.0.1.3680043.2.1125.{patient + 1}.1',
      '0020|0032': '\\'.join(f'{x:.6f}' for x in image.TransformIndexToPhysicalPoint((0, 0, d))),
      '0020|0037': '\\'.join(f'{direction[i]:g}' for i in (0, 3, 6, 1, 4, 7)),
      '0028|1052': '-1024',
      '0028|1053': '1',
    }
    for tag, value in tags.items():
      plane.SetMetaData(tag, value)
    name = f'IMG-0004-{d + 1:05d}.dcm' if patient % 2 else f'i{d:04d},0000b.dcm'
    writer.SetFileName(str(folder / 'DICOM_anon' / name))
    writer.Execute(plane)
    mask = PIL.Image.fromarray(label[d] * np.uint8(255))
    (mask if patient % 2 else mask.convert('1')).save(folder / 'Ground' / f'liver_GT_{d:03d}.png')


def _ellipsoid(grid: np.ndarray, middle: np.ndarray, radii: np.ndarray) -> np.ndarray:
  """True inside; grid [D, H, W, 3]."""
  return (((grid - middle) / radii) ** 2).sum(axis=-1) < 1


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
  """A folder to write to that gets its name when all is written."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f'.{folder.name}.'))
  try:
    yield unfinished
    unfinished.chmod(0o755)
    os.replace(unfinished, folder)
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)
