"""Made-up scans in the layout of CHAOS' archive, with the traps of the real one, for the tests.

    Train_Sets/CT/<id>/DICOM_anon/*.dcm and Ground/liver_GT_NNN.png
    Train_Sets/MR/<id>/T1DUAL/DICOM_anon/{InPhase,OutPhase}/*.dcm and Ground/*.png
    Train_Sets/MR/<id>/T2SPIR/DICOM_anon/*.dcm and Ground/*.png

An abdomen of ellipsoids: the liver lies high on the right, as it does in people, so that masks in
the wrong order do not fit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import SimpleITK
from scipy import ndimage

from data_prep import phantom
from data_prep.phantom import Scan
from thrifty_jax import files

# Of air, fat, gut, gas, liver, right and left kidney, spleen: Hounsfield units; MR has no unit.
LEVELS = {
  'CT': (-1000, -100, 40, -700, 110, 180, 170, 125),
  'InPhase': (0, 700, 300, 20, 600, 420, 400, 350),
  'OutPhase': (0, 650, 250, 20, 580, 440, 420, 330),
  'T2SPIR': (0, 60, 300, 10, 260, 700, 720, 520),
}
GREYS = (0, 63, 126, 189, 252)  # of the classes in the masks of MR
NAME = 'Doe^Jane'  # as a careless archive would have it; no output may

_NOISE = 15.0  # standard deviation, in the unit of the levels
# Of the stored axes: as most scanners write, turned half round, feet first, sagittal.
_STORED = ('SPL', 'SAR', 'IPL', 'LIP')
_SIZES = ((10, 32, 36), (12, 36, 32), (9, 32, 32), (11, 28, 32))  # D, H, W
_PLACES = {  # head, back, left from -1 to 1, and radii; what is further down lies over it
  'fat': ((0.0, 0.0, 0.0), (9.0, 0.92, 0.92)),
  'gut': ((0.0, 0.0, 0.0), (9.0, 0.72, 0.76)),
  'gas': ((-0.8, -0.3, 0.1), (0.7, 0.3, 0.5)),
  'liver': ((0.4, -0.1, -0.45), (0.5, 0.55, 0.35)),
  'right kidney': ((-0.35, 0.5, -0.45), (0.4, 0.2, 0.2)),
  'left kidney': ((-0.25, 0.5, 0.45), (0.4, 0.2, 0.2)),
  'spleen': ((0.45, 0.3, 0.65), (0.4, 0.25, 0.2)),
}


def make_scan(*, patient: int, seed: int, protocol: str) -> Scan:
  """One made-up abdomen; the protocols of a patient lie on one grid.

  Args:
    patient: Number of the patient, from 0.
    seed: Of the whole data set.
    protocol: One of LEVELS.

  Returns:
    Intensities as the protocol has them, float32, and classes 0 to 4; of CT the liver alone.
  """
  random = np.random.default_rng((seed, patient, protocol == 'CT'))
  shape = _SIZES[patient % len(_SIZES)]
  spacing_mm = np.array([random.uniform(2.0, 2.8), *[random.uniform(0.8, 1.6)] * 2])
  origin_mm = random.uniform(-50, 50, 3)
  grid = phantom.coordinates(shape)
  tissue = np.zeros(shape, np.uint8)
  for number, (middle, radii) in enumerate(_PLACES.values(), start=1):
    moved = middle + random.uniform(-0.05, 0.05, 3)
    tissue[phantom.ellipsoid(grid, moved, np.array(radii))] = number
  image = np.array(LEVELS[protocol], np.float32)[tissue]
  image = ndimage.gaussian_filter(image, (0, 0.3, 0.3))
  image += random.normal(0, _NOISE, shape)
  label = np.where(tissue > 3, tissue - 3, 0)
  if protocol == 'CT':
    label *= label == 1
  return Scan(
    image=image.astype(np.float32),
    label=label.astype(np.uint8),
    affine=phantom.make_affine(patient=patient, spacing_mm=spacing_mm, origin_mm=origin_mm),
  )


def write(folder: Path, *, patients: int, seed: int) -> None:
  """Writes a raw folder as CHAOS_Train_Sets.zip unpacks to, CT and MR of different people.

  Of CT both ways of naming the slices, padding around the field of view, masks of one bit and of 0
  and 255. File names follow rising, falling and interleaved positions; SliceThickness is never the
  step; slices are axial, some turned or oblique, and sagittal; names of people are left in; macOS
  has been there.

  Args:
    folder: What config.data.raw_dir names. It appears complete or not at all.
    patients: Of CT, 1 and so on, and of MR.
    seed: The same seed writes the same scans.
  """
  with files.whole_folder(folder) as unfinished:
    for patient in range(patients):
      place = unfinished / 'Train_Sets'
      _write_ct(place / 'CT' / str(patient + 1), patient, seed)
      _write_mr(place / 'MR' / str(patient + 1), patient, seed)


def write_slice(path: Path, pixels: np.ndarray, tags: Mapping[str, str]) -> None:
  """Writes one slice as DICOM.

  Args:
    path: Its file.
    pixels: [H, W], integers, or what the rescaling in the tags makes of integers.
    tags: Values by tag, '0020|0032' and so on; PixelSpacing among them.
  """
  plane = SimpleITK.GetImageFromArray(pixels)
  down, across = map(float, tags['0028|0030'].split('\\'))
  plane.SetSpacing((across, down))
  for tag, value in tags.items():
    plane.SetMetaData(tag, value)
  writer = SimpleITK.ImageFileWriter()
  writer.KeepOriginalImageUIDOn()
  writer.SetFileName(str(path))
  writer.Execute(plane)


def read_slice(path: Path) -> tuple[np.ndarray, dict[str, str]]:
  """What `write_slice` has written: pixels, [H, W], and the tags."""
  plane = SimpleITK.ReadImage(str(path))
  return SimpleITK.GetArrayFromImage(plane)[0], {
    tag: plane.GetMetaData(tag) for tag in plane.GetMetaDataKeys()
  }


def file_order(slices: int, patient: int) -> np.ndarray:
  """Which slice along the stored axis each file of a patient holds, in the order of their names."""
  rising = np.arange(slices)
  return (rising, rising[::-1], np.r_[rising[::2], rising[1::2]])[patient % 3]


def _write_ct(folder: Path, patient: int, seed: int) -> None:
  scan = make_scan(patient=patient, seed=seed, protocol='CT')
  hounsfield = np.round(scan.image).astype(np.int16)
  hounsfield[:, :2, :2] = 4000 + patient  # padding
  stored = _STORED[patient % len(_STORED)]
  image = phantom.itk_image(hounsfield, scan.affine, stored)
  count = range(image.GetDepth())
  names = [f'IMG-0004-{d + 1:05d}' if patient % 2 else f'i{d:04d},0000b' for d in count]
  tags = {'0008|0060': 'CT', '0028|1052': '-1024', '0028|1053': '1'}
  _write_series(folder / 'DICOM_anon', image, names, patient, tags)
  label, _ = phantom.turn(scan.label * np.uint8(255), scan.affine, stored)
  masks = [f'liver_GT_{d:03d}' for d in count]
  _write_masks(folder / 'Ground', label, masks, patient, mode='L' if patient % 2 else '1')


def _write_mr(folder: Path, patient: int, seed: int) -> None:
  stored = _STORED[patient % len(_STORED)]
  for protocol, place, first, step in (
    ('OutPhase', 'T1DUAL/DICOM_anon/OutPhase', 1, 2),
    ('InPhase', 'T1DUAL/DICOM_anon/InPhase', 2, 2),
    ('T2SPIR', 'T2SPIR/DICOM_anon', 1, 1),
  ):
    scan = make_scan(patient=patient, seed=seed, protocol=protocol)
    brightness = np.clip(scan.image, 0, None).astype(np.int16)
    image = phantom.itk_image(brightness, scan.affine, stored)
    names = [f'IMG-0003-{first + step * d:05d}' for d in range(image.GetDepth())]
    _write_series(folder / place, image, names, patient, {'0008|0060': 'MR'})
    if protocol != 'OutPhase':
      label, _ = phantom.turn(np.array(GREYS, np.uint8)[scan.label], scan.affine, stored)
      _write_masks(folder / place.split('/')[0] / 'Ground', label, names, patient, mode='L')


def _write_series(
  folder: Path,
  image: SimpleITK.Image,
  names: Sequence[str],
  patient: int,
  tags: Mapping[str, str],
) -> None:
  """Writes the slices of an image, which file holds which as `file_order` says."""
  folder.mkdir(parents=True)
  (folder / f'._{names[0]}.dcm').write_bytes(b'\x00\x05\x16\x07')  # as macOS leaves on some disks
  direction, (across, down, _) = image.GetDirection(), image.GetSpacing()
  uid = f'1.2.826.0.1.3680043.2.1125.{patient + 1}'
  pixels = SimpleITK.GetArrayFromImage(image)
  for number, d in enumerate(file_order(len(names), patient)):
    position = image.TransformIndexToPhysicalPoint((0, 0, int(d)))
    geometry = {
      '0018|0050': '3.2',  # SliceThickness, which is not the step
      '0020|0032': '\\'.join(f'{x:.6f}' for x in position),
      '0020|0037': '\\'.join(f'{direction[i]:.8f}' for i in (0, 3, 6, 1, 4, 7)),
      '0028|0030': f'{down:.8f}\\{across:.8f}',
    }
    ids = {
      '0008|0018': f'{uid}.1.{number + 1}',
      '0010|0010': NAME,
      '0020|000d': uid,
      '0020|000e': f'{uid}.1',
      '0020|0013': str(number + 1),
    }
    write_slice(folder / f'{names[number]}.dcm', pixels[d], {**geometry, **ids, **tags})


def _write_masks(
  folder: Path, label: np.ndarray, names: Sequence[str], patient: int, *, mode: str
) -> None:
  """Writes the masks, grey values [D, H, W], in the order of the files of the slices."""
  folder.mkdir()
  for name, d in zip(names, file_order(len(label), patient), strict=True):
    PIL.Image.fromarray(label[d]).convert(mode).save(folder / f'{name}.png')
