"""Generated scans in the layouts of the Decathlon and of nnU-Net, with the traps of real folders.

Two classes of foreground, a first patient with two scans, files in every orientation, thick slices
along any axis, a hidden file beside the scans, and a test image without a mask. Their middle slices
are also pictures in colours, in a folder of images and one of masks.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
from nibabel.affines import from_matvec
from PIL import Image, ImageColor

from data_prep import phantom
from data_prep.phantom import Scan
from thrifty_jax import files
from thrifty_jax.scans import volumes

CLASSES = ('background', 'left part', 'right part')
COLOURS = ('#000000', '#ff0000', '#0000ff')  # of the classes in masks that are pictures

_STORED = (*phantom.ORIENTATIONS, 'LIP', 'RSA')  # the last two: sagittal slices one after the other
_RAS = {'S': (0, 0, 1), 'I': (0, 0, -1), 'P': (0, -1, 0), 'L': (-1, 0, 0)}


def make_scan(*, number: int, seed: int, slice_axis: str = 'axial') -> Scan:
  """Returns a scan of phantom.py in thick slices along an axis of SLICE_AXES, its organ in two."""
  scan = phantom.make_scan(patient=number, seed=seed)
  spacing_mm = np.linalg.norm(scan.affine[:3, :3], axis=0)
  axes = np.transpose([_RAS[to] for to in volumes.SLICE_AXES[slice_axis]])
  affine = from_matvec(axes * spacing_mm, scan.affine[:3, 3])
  label = scan.label.copy()
  label[..., label.shape[-1] // 2 :] *= 2
  return dataclasses.replace(scan, label=label, affine=affine)


def make_picture(*, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the middle slice of a scan in colours, [H, W, 3] uint8, and its mask, [H, W] uint8."""
  scan = make_scan(number=number, seed=seed)
  bright = np.clip(scan.image[len(scan.image) // 2], 0, 1)
  colours = np.stack([bright, 0.7 * bright, 1 - bright], axis=-1)
  return np.round(255 * colours).astype(np.uint8), scan.label[len(scan.label) // 2]


def write_pictures(folder: Path, *, patients: int, seed: int, ending: str = '.png') -> None:
  """Writes images/00_photo.png and masks/00_drawn.png, in COLOURS, and so on; see `_write`."""
  palette = np.array([ImageColor.getrgb(colour) for colour in COLOURS], np.uint8)
  with files.whole_folder(folder) as unfinished:
    images, masks = unfinished / 'images', unfinished / 'masks'
    images.mkdir()
    masks.mkdir()
    lines = ['case,patient']
    for number in range(patients + 1):
      image, label = make_picture(number=number, seed=seed)
      Image.fromarray(image).save(images / f'{number:02d}_photo{ending}')
      Image.fromarray(palette[label]).save(masks / f'{number:02d}_drawn{ending}')
      lines.append(f'{number:02d}_photo,p{max(number, 1)}')
    (images / 'Thumbs.db').write_bytes(b'\xd0\xcf\x11\xe0')  # as Windows leaves it there
    (unfinished / 'patients.csv').write_text('\n'.join(lines) + '\n')


def write_decathlon(folder: Path, *, patients: int, seed: int, slice_axis: str = 'axial') -> None:
  """Writes scan_000.nii.gz and so on, with two channels of MR on the fourth axis; see `_write`."""
  description = {
    'name': 'Made-up',
    'modality': {'0': 'T1', '1': 'T2'},
    'labels': {str(number): name for number, name in enumerate(CLASSES)},
    'numTraining': patients + 1,
  }

  def files_of(name: str, channels: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {f'{name}.nii.gz': np.stack(channels, axis=-1)}

  _write(folder, description, files_of, _save_nifti, patients, seed, slice_axis)


def write_nnunet(
  folder: Path,
  *,
  patients: int,
  seed: int,
  channels: Sequence[str] = ('T1', 'T2'),
  ending: str = '.nii.gz',
  slice_axis: str = 'axial',
) -> None:
  """Writes scan_000_0000 and so on, a file for each of one or two channels; see `_write`.

  If the first is CT, intensities are in HU. SimpleITK writes the format of the ending.
  """
  description = {
    'channel_names': {str(number): name for number, name in enumerate(channels)},
    'labels': {name: number for number, name in enumerate(CLASSES)},
    'numTraining': patients + 1,
    'file_ending': ending,
  }
  darker = 1000 if channels[0] == 'CT' else 0

  def files_of(name: str, made: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {f'{name}_{n:04d}{ending}': made[n] - np.int16(darker) for n in range(len(channels))}

  def save(path: Path, voxels: np.ndarray, affine: np.ndarray, to: str) -> None:
    SimpleITK.WriteImage(phantom.itk_image(voxels, affine, to), str(path), useCompression=True)

  _write(folder, description, files_of, save, patients, seed, slice_axis)


def _write(
  folder: Path,
  description: Mapping[str, Any],
  files_of: Callable[[str, Sequence[np.ndarray]], Mapping[str, np.ndarray]],
  save: Callable[[Path, np.ndarray, np.ndarray, str], None],
  patients: int,
  seed: int,
  slice_axis: str,
) -> None:
  """Writes a raw folder, complete or not at all, with one scan more than patients.

  The same seed writes the same scans, whose thick slices lie along the slice axis. The layouts
  differ by dataset.json, by the files of a scan and their voxels, and by how one is saved.
  """
  ending = description.get('file_ending', '.nii.gz')
  with files.whole_folder(folder) as unfinished:
    images, labels, test = (unfinished / name for name in ('imagesTr', 'labelsTr', 'imagesTs'))
    for made in (images, labels, test):
      made.mkdir()
    lines = ['case,patient']
    for number in range(patients + 2):  # one more for the first patient, and one for testing
      scan = make_scan(number=number, seed=seed, slice_axis=slice_axis)
      to, name = _STORED[number % len(_STORED)], f'scan_{number:03d}'
      bright = (np.clip(scan.image, 0, None) * 1000).astype(np.int16)
      tested = number == patients + 1
      for file, voxels in files_of(name, (bright, 1500 - bright)).items():
        save((test if tested else images) / file, voxels, scan.affine, to)
      if not tested:
        save(labels / f'{name}{ending}', scan.label, scan.affine, to)
        lines.append(f'{name},p{max(number, 1)}')
    # macOS leaves such a file beside each file on some disks.
    (images / f'._scan_000{ending}').write_bytes(b'\x00\x05\x16\x07')
    (unfinished / 'dataset.json').write_text(json.dumps(description))
    (unfinished / 'patients.csv').write_text('\n'.join(lines) + '\n')


def _save_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray, orientation: str) -> None:
  """Saves [D, H, W] or [D, H, W, M]; a NIfTI file has its axes in the order W, H, D, M."""
  stored, affine = phantom.turn(voxels, affine, orientation)
  image = nibabel.Nifti1Image(np.moveaxis(stored, (0, 1, 2), (2, 1, 0)), affine[:, [2, 1, 0, 3]])
  nibabel.save(image, path)
