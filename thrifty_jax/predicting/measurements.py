"""Figures of a mask, a row for each class: size, mean intensity and where it lies."""

from collections.abc import Sequence

import nibabel
import numpy as np
from scipy import ndimage

from thrifty_jax import labels
from thrifty_jax.scans import bands
from thrifty_jax.scans.bands import Picture

_ANATOMICAL = ('left_right', 'back_front', 'foot_head')  # axes of the RAS world


def measure(
  image: Picture,
  mask: np.ndarray,
  *,
  scan: str,
  classes: tuple[str, ...],
  affine: np.ndarray,
  regions: labels.Regions = (),
) -> list[dict[str, str]]:
  """Measures each foreground class of a mask on the grid of its scan's file.

  Args:
    image: Intensities with axes as in the file, [D, H, W, M], or [H, W, M] of a picture.
    mask: Label of each voxel, [D, H, W] or [H, W], uint8.
    scan: Name of the scan.
    classes: Names of the classes, background first.
    affine: Affine of voxel indices (d, h, w, 1) to RAS millimetres, [4, 4]; of a picture, whose
      figures are in pixels, x and y, it is not used.
    regions: Regions that the classes are, see labels.py.

  Returns:
    A row for each class: name of the scan, number and name of the class; the number of voxels and
    their volume in ml, or of pixels; the mean intensity as stored and its standard deviation, of
    each channel; the first and the last voxel of the box around the class, from 0, along the axes
    of the file, x the fastest; and the sides of that box in mm, each under the anatomical axis that
    is nearest to it, or in pixels. What a class without voxels does not have is empty.
  """
  voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
  counts, sums, squares = _count_and_sum(image, mask, labels.count(len(classes), regions))
  boxes = ndimage.find_objects(mask, max_label=len(counts) - 1)
  rows = []
  for number in range(1, len(classes)):
    own = [*(regions[number - 1] if regions else (number,))]
    count, box = int(counts[own].sum()), _span([boxes[label - 1] for label in own])
    means = sums[own].sum(axis=0) / max(count, 1)
    row = {'scan': scan, 'number': str(number), 'class': classes[number]}
    if mask.ndim == 2:
      row['pixels'] = str(count)
    else:
      row |= {'voxels': str(count), 'volume_ml': f'{count * voxel_ml:.6g}'}
    deviations = np.sqrt(np.maximum(squares[own].sum(axis=0) / max(count, 1) - means**2, 0))
    for m, mean in enumerate(means):
      channel = f'_{m}' if len(means) > 1 else ''
      row[f'mean_intensity{channel}'] = f'{mean:.6g}' if count else ''
      row[f'std_intensity{channel}'] = f'{deviations[m]:.6g}' if count else ''
    for axis, part in zip('xyz', reversed(box or mask.ndim * (None,)), strict=False):
      row[f'{axis}_first'], row[f'{axis}_last'] = (
        (str(part.start), str(part.stop - 1)) if part else ('', '')
      )
    rows.append(row | _measure_box(box, mask.ndim, affine))
  return rows


def _span(boxes: Sequence[tuple[slice, ...] | None]) -> tuple[slice, ...] | None:
  """Returns the box around some boxes, where there are any; else None."""
  axes = zip(*(box for box in boxes if box), strict=True)
  sides = [(min(one.start for one in axis), max(one.stop for one in axis)) for axis in axes]
  return tuple(slice(*side) for side in sides) or None


def _measure_box(box: tuple[slice, ...] | None, axes: int, affine: np.ndarray) -> dict[str, str]:
  """Returns the sides of a box by their columns, empty without a box."""
  sides = [part.stop - part.start for part in box] if box else None
  if axes == 2:
    return {
      f'extent_{axis}_pixels': str(sides[place]) if sides else ''
      for axis, place in (('x', 1), ('y', 0))
    }
  spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
  nearest = [*nibabel.io_orientation(affine)[:, 0]]
  return {
    f'extent_{name}_mm': f'{sides[place] * spacing_mm[place]:.6g}' if sides else ''
    for name, place in ((name, nearest.index(axis)) for axis, name in enumerate(_ANATOMICAL))
  }


def _count_and_sum(
  image: Picture, mask: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the voxels of each label, [L], and sums of intensities and of squares, [L, M].

  Slices, or rows of a picture, are read a few at a time.
  """
  counts = np.zeros(classes, np.int64)
  sums, squares = np.zeros((2, classes, image.shape[-1]))
  for part in bands.split(len(mask), mask[0].size):
    numbers = mask[part]
    found = np.bincount(numbers.ravel(), minlength=classes)
    counts += found
    if found[1:].any():
      band = image[part]
      for number in np.flatnonzero(found[1:]) + 1:
        values = band[numbers == number].astype(np.float64)
        sums[number] += values.sum(axis=0)
        squares[number] += (values**2).sum(axis=0)
  return counts, sums, squares
