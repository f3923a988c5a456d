"""Voxels without a value: NaN, which SPM and nilearn write outside the head."""

import dataclasses

import numpy as np

from thrifty_jax.scans.volumes import Volume


def fill(volume: Volume) -> Volume:
  """Returns the scan with the lowest value of the channel where it has NaN.

  An infinite voxel, and a channel without any value, stay as they are, to be refused.
  """
  missing = np.isnan(volume.image)
  if not missing.any():
    return volume
  axes = (0, 1, 2)
  lowest = np.where(missing, np.inf, volume.image).min(axis=axes)  # [M]
  return dataclasses.replace(volume, image=np.where(missing, lowest, volume.image))
