"""Figures of a mask, a row for each class: size, mean intensity and where it lies."""

import numpy as np
from scipy import ndimage

from thrifty_jax.scans import bands
from thrifty_jax.scans.bands import Picture


def measure(
  image: Picture,
  mask: np.ndarray,
  *,
  scan: str,
  classes: tuple[str, ...],
  affine: np.ndarray,
) -> list[dict[str, str]]:
  """Measures each foreground class of a mask on the grid of its scan's file.

  Args:
    image: Intensities with axes as in the file, [D, H, W, M], or [H, W, M] of a picture.
    mask: Class of each voxel, [D, H, W] or [H, W], uint8.
    scan: Name of the scan.
    classes: Names of the classes, background first.
    affine: Affine of voxel indices to millimetres, [4, 4]; of a picture, whose figures are in
      pixels, x and y, it is not used.

  Returns:
    A row for each class: name of the scan, number and name of the class; the number of voxels and
    their volume in ml, or of pixels; the mean intensity as stored, of each channel; and the first
    and the last voxel of the box around the class, from 0, along the axes of the file, x the
    fastest. What a class without voxels does not have is empty.
  """
  voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
  counts, means = _count_and_average(image, mask, len(classes))
  boxes = ndimage.find_objects(mask, max_label=len(classes) - 1)
  rows = []
  for number, box in enumerate(boxes, start=1):
    count = int(counts[number])
    row = {'scan': scan, 'number': str(number), 'class': classes[number]}
    if mask.ndim == 2:
      row['pixels'] = str(count)
    else:
      row |= {'voxels': str(count), 'volume_ml': f'{count * voxel_ml:.6g}'}
    for m, mean in enumerate(means[number]):
      name = f'mean_intensity_{m}' if means.shape[1] > 1 else 'mean_intensity'
      row[name] = f'{mean:.6g}' if count else ''
    for axis, part in zip('xyz', reversed(box or mask.ndim * (None,)), strict=False):
      row[f'{axis}_first'], row[f'{axis}_last'] = (
        (str(part.start), str(part.stop - 1)) if part else ('', '')
      )
    rows.append(row)
  return rows


def _count_and_average(
  image: Picture, mask: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the number of voxels of each class, [K], and their mean intensities, [K, M].

  Slices, or rows of a picture, are read a few at a time.
  """
  counts = np.zeros(classes, np.int64)
  sums = np.zeros((classes, image.shape[-1]))
  for part in bands.split(len(mask), mask[0].size):
    numbers = mask[part]
    found = np.bincount(numbers.ravel(), minlength=classes)
    counts += found
    if found[1:].any():
      band = image[part]
      for number in np.flatnonzero(found[1:]) + 1:
        sums[number] += band[numbers == number].sum(axis=0, dtype=np.float64)
  return counts, sums / np.maximum(counts, 1)[:, None]
