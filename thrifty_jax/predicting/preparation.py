"""Prepares slices of a new scan as those of a model's training were prepared."""

import dataclasses

import numpy as np

from thrifty_jax.errors import InputError
from thrifty_jax.networks.model_spec import ModelSpec
from thrifty_jax.scans import slices, volumes
from thrifty_jax.scans.volumes import Volume


def turn(volume: Volume, spec: ModelSpec) -> Volume:
  """Turns a scan with axes in any orientation to the slice axis of a model, without its truth.

  Raises:
    InputError: If the scan is empty, has another number of channels, or has a channel that is
      non-finite or constant.
  """
  image = volume.image
  if image.shape[-1] != spec.modalities and spec.of_pictures:
    raise InputError(
      f'the picture has {image.shape[-1]} channel(s), but the model was trained on '
      f'{spec.modalities}; a picture in grey has 1, one in colours 3: convert it'
    )
  if image.shape[-1] != spec.modalities:
    raise InputError(
      f'the scan has {image.shape[-1]} channel(s), but the model was trained on {spec.modalities}; '
      'give all of them, in files CASE_0000, CASE_0001, ... or on the fourth axis'
    )
  if not image.size:
    raise InputError(f'the scan is empty, it has {image.shape[:3]} voxels (D, H, W)')
  # The same order as for training: axial when they are read, then along the slices; in float32, in
  # which what is finite and not constant in the file may be neither.
  volume = volumes.along(dataclasses.replace(volume, label=None), 'axial')
  image = volume.image
  if not np.isfinite(image).all():
    remedy = 'thrifty_jax.predict takes NaN as the lowest value by --nan_is_lowest; else '
    raise InputError(
      'the scan has non-finite voxels, NaN or infinite; '
      f'{"" if np.isinf(image).any() else remedy}export it again'
    )
  if (image.min(axis=(0, 1, 2)) == image.max(axis=(0, 1, 2))).any():
    raise InputError('all voxels of a channel are the same; expected an image')
  return volumes.along(volume, spec.image.slice_axis)


def prepare(volume: Volume, spec: ModelSpec) -> np.ndarray:
  """Slices of a scan from `turn`, [D, S, S, M], float16 in [0, 1], not normalised."""
  if spec.padding:
    first, value = spec.padding
    image = np.where(volume.image >= first, np.float32(value), volume.image)
    volume = dataclasses.replace(volume, image=image)
  return slices.image_to_slices(volume, spec.image)
