"""CHAOS: the liver in contrast-enhanced CT, 20 labelled patients.

Layout of the raw folder: Train_Sets/CT/<id>/DICOM_anon/*.dcm and Ground/liver_GT_NNN.png. The masks
follow the order of the slices' file names, not of their positions. Folder numbers are all that is
kept of a patient: no DICOM tag but geometry and rescaling is read.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from data_prep import builder, volumes
from data_prep.volumes import Case, Volume
from thrifty_jax.errors import InputError

NOTE = ''

_PADDING = 4000  # stored outside the round field of view of some scans; no tissue reaches it
_AIR = -1000  # Hounsfield units
PADDING = (_PADDING, _AIR)  # models record both, as what they segment is prepared alike


def find_cases(raw_dir: Path) -> list[Case]:
  """The labelled scans; each is a patient of its own.

  Args:
    raw_dir: The folder that holds Train_Sets.

  Raises:
    InputError: If there are none, or the numbers of slices and masks differ.
  """
  folder = raw_dir / 'Train_Sets' / 'CT'
  patients = [path for path in folder.glob('*') if path.is_dir() and path.name.isdigit()]
  if not patients:
    raise InputError(
      f'{folder}: no CHAOS CT there. Read the terms at https://chaos.grand-challenge.org, download '
      'CHAOS_Train_Sets.zip (891 MB) from Zenodo record 3431873 and unpack it so that '
      f'{folder}/1/DICOM_anon exists, or set --config.data.raw_dir; --config=configs/brain.py runs '
      'without a download.'
    )
  return [_find_case(path) for path in sorted(patients, key=lambda path: int(path.name))]


def read_case(case: Case) -> Volume:
  """Reads the slices in Hounsfield units and their masks."""
  image, affine = volumes.read_dicom_series(case.image)
  label = np.stack([_read_mask(path, image.shape[1:]) for path in case.label])
  return volumes.make_volume(
    case, image=np.where(image >= _PADDING, _AIR, image), affine=affine, label=label
  )


class Chaos(tfds.core.ShardBasedBuilder, skip_registration=True):
  """Slices of the liver."""

  VERSION = builder.VERSION
  name = 'chaos'

  def _info(self) -> tfds.core.DatasetInfo:
    return builder.info(
      self,
      description='Axial slices of contrast-enhanced abdominal CT with the liver outlined.',
      homepage='https://chaos.grand-challenge.org',
      citation='Kavur et al. 2021, Medical Image Analysis 69, doi:10.1016/j.media.2020.101950',
    )

  def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[..., Any]]]:
    return builder.shards(self, read_case)


BUILDER = Chaos


def _find_case(folder: Path) -> Case:
  image = tuple(sorted((folder / 'DICOM_anon').glob('*.dcm')))
  label = tuple(sorted((folder / 'Ground').glob('*.png')))
  if len(image) != len(label) or not image:
    raise InputError(
      f'{folder}: {len(image)} slices in DICOM_anon and {len(label)} masks in Ground; expected as '
      'many of each. Unpack CHAOS_Train_Sets.zip again.'
    )
  name = f'ct{int(folder.name):02d}'
  return Case(case=name, patient=name, image=image, label=label)


def _read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
  """1 in the liver, [H, W], uint8, from a mask of one bit or of 0 and 255."""
  try:
    with PIL.Image.open(path) as picture:
      mask = np.asarray(picture.convert('L'))
  except (OSError, SyntaxError) as error:  # Pillow reports a broken PNG as a SyntaxError
    raise InputError(
      f'{path}: the mask cannot be read; expected an intact PNG. Unpack it again.'
    ) from error
  if mask.shape != size:
    raise InputError(
      f'{path}: the mask has {mask.shape} pixels (H, W), its slice {size}; expected one size. '
      'Replace it.'
    )
  return (mask > 0).astype(np.uint8)
