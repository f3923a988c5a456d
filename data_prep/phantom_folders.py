"""Generated scans in the layouts of the Decathlon and of nnU-Net, with the traps of real folders.

Two channels or one, two classes of foreground, a first patient with two scans, files in every
orientation, thick slices along any axis, a hidden file beside the scans, and a test image without
a mask.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK

from data_prep import phantom
from data_prep.phantom import Scan
from thrifty_jax.scans import volumes

CLASSES = ('background', 'left part', 'right part')

_STORED = (*phantom.ORIENTATIONS, 'LIP', 'RSA')  # the last two: sagittal slices one after the other
_RAS = {'S': (0, 0, 1), 'I': (0, 0, -1), 'P': (0, -1, 0), 'L': (-1, 0, 0)}


def make_scan(*, number: int, seed: int, slice_axis: str = 'axial') -> Scan:
  """A scan of phantom.py in thick slices along an axis, its organ in two parts.

  Args:
    number: Number of the scan.
    seed: Seed of the whole data set.
    slice_axis: One of volumes.SLICE_AXES, which gives the directions of the result's axes.
  """
  scan = phantom.make_scan(patient=number, seed=seed)
  spacing_mm = np.linalg.norm(scan.affine[:3, :3], axis=0)
  affine = scan.affine.copy()
  affine[:3, :3] = np.transpose([_RAS[to] for to in volumes.SLICE_AXES[slice_axis]]) * spacing_mm
  label = scan.label.copy()
  label[..., label.shape[-1] // 2 :] *= 2
  return dataclasses.replace(scan, label=label, affine=affine)


def write_decathlon(folder: Path, *, patients: int, seed: int, slice_axis: str = 'axial') -> None:
  """Writes scan_000.nii.gz and so on, with two channels of MR on the fourth axis.

  Args:
    folder: Raw folder (config.data.raw_dir). It appears complete or not at all.
    patients: Number of patients; there is one scan more.
    seed: Seed of the data set; the same seed writes the same scans.
    slice_axis: Axis of the thick slices.
  """

  def write(images: Path, name: str, channels: Sequence[np.ndarray], scan: Scan, to: str) -> None:
    _write_nifti(images / f'{name}.nii.gz', np.stack(channels, axis=-1), scan.affine, to)

  description = {
    'name': 'Made-up',
    'modality': {'0': 'T1', '1': 'T2'},
    'labels': {str(number): name for number, name in enumerate(CLASSES)},
    'numTraining': patients + 1,
  }
  _write(folder, write, _write_nifti, description, '.nii.gz', patients, seed, slice_axis)


def write_nnunet(
  folder: Path,
  *,
  patients: int,
  seed: int,
  channels: Sequence[str] = ('T1', 'T2'),
  ending: str = '.nii.gz',
  slice_axis: str = 'axial',
) -> None:
  """Writes scan_000_0000 and so on, a file for each channel.

  Args:
    folder: Raw folder (config.data.raw_dir). It appears complete or not at all.
    patients: Number of patients; there is one scan more.
    seed: Seed of the data set; the same seed writes the same scans.
    channels: Names of the channels, one or two; if the first is CT, intensities are in HU.
    ending: Ending of the files, a format that SimpleITK writes.
    slice_axis: Axis of the thick slices.
  """

  def write_volume(path: Path, voxels: np.ndarray, affine: np.ndarray, to: str) -> None:
    SimpleITK.WriteImage(phantom.itk_image(voxels, affine, to), str(path), useCompression=True)

  def write(images: Path, name: str, made: Sequence[np.ndarray], scan: Scan, to: str) -> None:
    for number, voxels in enumerate(made[: len(channels)]):
      voxels = voxels - 1000 if channels[0] == 'CT' else voxels
      write_volume(images / f'{name}_{number:04d}{ending}', voxels, scan.affine, to)

  description = {
    'channel_names': {str(number): name for number, name in enumerate(channels)},
    'labels': {name: number for number, name in enumerate(CLASSES)},
    'numTraining': patients + 1,
    'file_ending': ending,
  }
  _write(folder, write, write_volume, description, ending, patients, seed, slice_axis)


def _write(
  folder: Path,
  write_image: Callable[[Path, str, Sequence[np.ndarray], Scan, str], None],
  write_label: Callable[[Path, np.ndarray, np.ndarray, str], None],
  description: Mapping[str, Any],
  ending: str,
  patients: int,
  seed: int,
  slice_axis: str,
) -> None:
  """Writes the folder; the first four arguments describe the differences between the layouts."""
  with phantom.whole_folder(folder) as unfinished:
    images, labels, test = (unfinished / name for name in ('imagesTr', 'labelsTr', 'imagesTs'))
    for made in (images, labels, test):
      made.mkdir()
    lines = ['case,patient']
    for number in range(patients + 2):  # one more for the first patient, and one for testing
      scan = make_scan(number=number, seed=seed, slice_axis=slice_axis)
      to, name = _STORED[number % len(_STORED)], f'scan_{number:03d}'
      bright = (np.clip(scan.image, 0, None) * 1000).astype(np.int16)
      last = number == patients + 1
      write_image(test if last else images, name, (bright, 1500 - bright), scan, to)
      if not last:
        write_label(labels / f'{name}{ending}', scan.label, scan.affine, to)
        lines.append(f'{name},p{max(number, 1)}')
    # macOS leaves such a file beside each file on some disks.
    (images / f'._scan_000{ending}').write_bytes(b'\x00\x05\x16\x07')
    (unfinished / 'dataset.json').write_text(json.dumps(description))
    (unfinished / 'patients.csv').write_text('\n'.join(lines) + '\n')


def _write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray, orientation: str) -> None:
  """Writes [D, H, W] or [D, H, W, M]; a NIfTI file has its axes in the order W, H, D, M."""
  stored, affine = phantom.turned(voxels, affine, orientation)
  image = nibabel.Nifti1Image(np.moveaxis(stored, (0, 1, 2), (2, 1, 0)), affine[:, [2, 1, 0, 3]])
  nibabel.save(image, path)
