"""CHAOS, MR: liver, kidneys and spleen, 20 labelled patients; code shared by its two sequences.

Layout of the raw folder, `<id>` 1 2 3 5 8 10 13 15 19 to 22, 31 to 34, 36 to 39:

    Train_Sets/MR/<id>/T1DUAL/DICOM_anon/InPhase/*.dcm and OutPhase/*.dcm, Ground/*.png
    Train_Sets/MR/<id>/T2SPIR/DICOM_anon/*.dcm, Ground/*.png

In and out phase come from one echo train: one grid and one set of masks, named after the slices in
phase. The patients are not those of the CT scans, even where numbers agree; T1 and T2 of one number
are one person, but lie on two grids, so each sequence is a data set of its own.

Source: the challenge's page on its data, and its notes in the archive.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep import chaos, data_sets, slice_masks
from thrifty_jax import words
from thrifty_jax.errors import InputError
from thrifty_jax.scans import dicom, volumes
from thrifty_jax.scans.volumes import Case, Volume

# Lowest and highest grey value of each class, both included: liver about 63, right kidney 126, left
# kidney 189, spleen 252 (the archive's notes).
GREYS = ((0, 0), (55, 70), (110, 135), (175, 200), (240, 255))
_LIVER, _KIDNEYS = 1, (2, 3)


def describe(description: str) -> data_sets.About:
  """Returns the description that is recorded with the slices of a sequence."""
  return dataclasses.replace(chaos.ABOUT, description=description, padding=None)


def find_cases(raw_dir: Path, sequence: str, channels: Sequence[str]) -> list[Case]:
  """Returns the labelled scans of a sequence, T1DUAL or T2SPIR; each is a patient of its own.

  Channels are folders within DICOM_anon, '' for itself. Masks are named after slices of the first.
  """
  patients = chaos.find_patients(raw_dir, 'MR')
  return data_sets.find_cases(
    [(f'mr{int(path.name):02d}', path / sequence) for path in patients],
    functools.partial(_find_case, channels=channels),
  )


def read_case(case: Case) -> Volume:
  """Reads the channels and their masks: 1 liver, 2 right kidney, 3 left kidney, 4 spleen."""
  count = len(case.label)
  files = [case.image[first : first + count] for first in range(0, len(case.image), count)]
  channels = [dicom.read_series(paths) for paths in files]
  affine, shape = channels[0].affine, channels[0].voxels.shape
  for paths, other in zip(files, channels, strict=True):
    volumes.require_grid(paths[0], other.voxels.shape, other.affine, files[0][0], shape, affine)
  greys = slice_masks.read_masks(case.label, shape[1:])
  label = np.stack([_classes(p, grey) for p, grey in zip(case.label, greys, strict=True)])
  image = np.stack([series.voxels for series in channels], axis=-1)
  volume = volumes.make_volume(case, image=image, affine=affine, label=label[channels[0].order])
  _require_upright(case, volume.truth)
  return volume


def _find_case(name: str, folder: Path, channels: Sequence[str]) -> Case:
  places = [folder / 'DICOM_anon' / channel for channel in channels]
  if not places[0].is_dir() and slice_masks.find_files(folder / 'DICOM_anon', '.dcm'):
    raise InputError(
      f'{folder / "DICOM_anon"}: holds slices of both phases; expected {" and ".join(channels)} in '
      'folders of their own. This is an older release: download CHAOS_Train_Sets.zip from Zenodo '
      'record 3431873.'
    )
  image, label = slice_masks.find_pairs(places[0], folder / 'Ground', ahead=(0,))
  for place in places[1:]:
    other = slice_masks.find_files(place, '.dcm')
    if len(other) != len(label):
      raise InputError(
        f'{place}: {len(other)} slices, but {places[0].name} has {len(label)}; expected as many. '
        'Unpack CHAOS_Train_Sets.zip again.'
      )
    image += other
  return Case(case=name, patient=name, image=image, label=label)


def _classes(path: Path, grey: np.ndarray) -> np.ndarray:
  """Returns the classes of grey values, [H, W], uint8."""
  known = np.full(256, 255, np.uint8)
  for number, (low, high) in enumerate(GREYS):
    known[low : high + 1] = number
  classes = known[grey]
  if (classes == 255).any():
    listed = words.list_some(np.unique(grey[classes == 255]).tolist())
    raise InputError(
      f'{path}: the mask has the grey values {listed}; expected 63 in the liver, 126 and 189 in '
      'the kidneys, 252 in the spleen. Replace it by the file of Zenodo record 3431873: older '
      'releases have others.'
    )
  return classes


def _require_upright(case: Case, truth: np.ndarray) -> None:
  """Refuses masks in the reverse order: a liver reaches the diaphragm, kidneys never do."""
  liver, kidneys = (np.isin(truth, k).sum(axis=(1, 2)) for k in (_LIVER, _KIDNEYS))
  if not liver.any() or not kidneys.any():
    return
  heights = np.arange(len(truth))
  if np.average(heights, weights=liver) < np.average(heights, weights=kidneys):
    raise InputError(
      f'{case.label[0].parent}: in the masks the liver lies below the kidneys; expected masks in '
      'the order of the file names. Unpack them again.'
    )
