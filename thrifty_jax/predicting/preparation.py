"""Prepares slices of a new scan as those of a model's training were prepared."""

import dataclasses

import numpy as np

from thrifty_jax.errors import InputError
from thrifty_jax.networks.model_spec import ModelSpec
from thrifty_jax.scans import bands, slices, volumes
from thrifty_jax.scans.bands import Picture
from thrifty_jax.scans.levels import Levels
from thrifty_jax.scans.volumes import Volume


def turn(volume: Volume, spec: ModelSpec) -> Volume:
  """Turns a scan with axes in any orientation to the slice axis of a model, without its truth.

  Raises:
    InputError: If the scan is empty, has another number of channels, or has a channel that is
      non-finite, or of a volume constant.
  """
  image = volume.image
  _require_channels(image.shape[-1], spec)
  if not image.size:
    raise InputError(f'the scan is empty, it has {image.shape[:3]} voxels (D, H, W)')
  # The same order as for training: axial when they are read, then along the slices; in float32, in
  # which what is finite and not constant in the file may be neither.
  volume = volumes.along(dataclasses.replace(volume, label=None), 'axial')
  image = volume.image
  _require_image(image, image.min(axis=(0, 1, 2)) == image.max(axis=(0, 1, 2)), spec)
  return volumes.along(volume, spec.image.slice_axis)


def survey(picture: Picture, spec: ModelSpec) -> list[Levels]:
  """Returns the levels of a picture's channels; refuses what `turn` refuses."""
  _require_channels(picture.shape[-1], spec)
  if not all(picture.shape):
    raise InputError(f'the picture is empty, it has {picture.shape[:2]} pixels (H, W)')
  found = bands.find_levels(picture)
  for values, _ in found:
    _require_image(values, len(values) == 1, spec)
  return found


def _require_channels(count: int, spec: ModelSpec) -> None:
  if count != spec.modalities and spec.of_pictures:
    raise InputError(
      f'the picture has {count} channel(s), but the model was trained on {spec.modalities}; a '
      'picture in grey has 1, one in colours 3: convert it, or name grey ones of one scan '
      'CASE_0000, CASE_0001, ... in the order of the channels of the training'
    )
  if count != spec.modalities:
    raise InputError(
      f'the scan has {count} channel(s), but the model was trained on {spec.modalities}; give all '
      'of them, in files CASE_0000, CASE_0001, ... or on the fourth axis'
    )


def _require_image(values: np.ndarray, constant: np.ndarray | bool, spec: ModelSpec) -> None:
  """Refuses values of which some are non-finite, and channels of volumes that are constant."""
  if not np.isfinite(values).all():
    lowest = '--nan_is_lowest of thrifty_jax.predict, or nan_is_lowest=True of segment_file,'
    remedy = f'{lowest} takes NaN as the lowest value; else '
    raise InputError(
      'the scan has non-finite voxels, NaN or infinite; '
      f'{"" if np.isinf(values).any() else remedy}export it again'
    )
  if not spec.of_pictures and np.any(constant):
    raise InputError('all voxels of a channel are the same; expected an image')


def prepare(volume: Volume, spec: ModelSpec) -> np.ndarray:
  """Slices of a scan from `turn`, [D, S, S, M], float16 in [0, 1], not normalised."""
  if spec.padding:
    first, value = spec.padding
    image = np.where(volume.image >= first, np.float32(value), volume.image)
    volume = dataclasses.replace(volume, image=image)
  return slices.image_to_slices(volume, spec.image)
