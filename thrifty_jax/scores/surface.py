"""Distances between the surfaces of two masks, in the unit of their spacing."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def extended_axes(shape: Sequence[int]) -> tuple[int, ...]:
  """Axes along which a volume has several voxels; of a single voxel the first one.

  Across an axis of length 1 there are no neighbours, hence no surface: the surface of a mask in a
  picture, [1, H, W], is its outline.
  """
  return tuple(axis for axis, length in enumerate(shape) if length > 1) or (0,)


def surface_voxels(mask: np.ndarray) -> np.ndarray:
  """Voxels of a mask, bool, with a neighbour along one of its axes outside of it.

  Outside the array is background, so that only an empty mask has an empty surface.
  """
  return mask & ~ndimage.binary_erosion(mask)


def distances_mm(
  first: np.ndarray, second: np.ndarray, *, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
  """Distances from each surface voxel of one mask to the nearest of the other, centre to centre.

  Args:
    first: Non-empty mask, [D, H, W], bool.
    second: Non-empty mask of the same shape.
    spacing_mm: Distances between voxels along D, H and W; in pixels, where these are the unit.

  Returns:
    Distances from first to second, [voxels on first's surface], and from second to first, [voxels
    on second's surface]; float64, each in the order of the voxels in memory.
  """
  if not (first.any() and second.any()):
    raise ValueError('a mask is empty; distances need a surface on both sides')
  axes = extended_axes(first.shape)
  first, second = (mask.squeeze(tuple({0, 1, 2} - {*axes})) for mask in (first, second))
  # Both masks lie within the box, so cropping to it moves no surface.
  (box,) = ndimage.find_objects((first | second).view(np.uint8))
  first, second = surface_voxels(first[box]), surface_voxels(second[box])
  spacing = np.asarray(spacing_mm, np.float64)[[*axes]]
  return _to_nearest(first, second, spacing), _to_nearest(second, first, spacing)


def _to_nearest(start: np.ndarray, target: np.ndarray, spacing: np.ndarray) -> np.ndarray:
  """Distance of each voxel of start to the nearest one of target, [voxels of start]."""
  # The transform returns the nearest voxels, as the distances of all voxels of the box, most of
  # which are on neither surface, would take twice the time and memory.
  nearest = ndimage.distance_transform_edt(
    ~target, sampling=spacing, return_distances=False, return_indices=True
  )
  steps = np.asarray(nearest)[:, start] - np.stack(np.nonzero(start))  # [axes, voxels]
  return np.linalg.norm(steps * spacing[:, None], axis=0)
