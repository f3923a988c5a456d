"""Figures of a mask, a row for each class: size, mean intensity and where it lies."""

import numpy as np
from scipy import ndimage

from thrifty_jax.scans.volumes import Volume


def measure(
  volume: Volume, mask: np.ndarray, *, classes: tuple[str, ...], of_pictures: bool
) -> list[dict[str, str]]:
  """Measures each foreground class of a mask on the grid of its scan's file.

  Args:
    volume: Scan with axes as in its file, image [D, H, W, M].
    mask: Class of each voxel, [D, H, W], uint8.
    classes: Names of the classes, background first.
    of_pictures: Whether the scan is a picture: its figures are in pixels, x and y.

  Returns:
    A row for each class: name of the scan, number and name of the class; the number of voxels and
    their volume in ml, or of pixels; the mean intensity as stored, of each channel; and the first
    and the last voxel of the box around the class, from 0, along the axes of the file, x the
    fastest. What a class without voxels does not have is empty.
  """
  voxel_ml = abs(np.linalg.det(volume.affine[:3, :3])) / 1000
  axes = ('x', 'y') if of_pictures else ('x', 'y', 'z')
  numbers = range(1, len(classes))
  counts = np.bincount(mask.reshape(-1), minlength=len(classes))
  boxes = ndimage.find_objects(mask, max_label=len(classes) - 1)
  channels = [volume.image[..., m] for m in range(volume.image.shape[-1])]
  rows = []
  for number, box in zip(numbers, boxes, strict=True):
    count = int(counts[number])
    row = {'scan': volume.case, 'number': str(number), 'class': classes[number]}
    if of_pictures:
      row['pixels'] = str(count)
    else:
      row |= {'voxels': str(count), 'volume_ml': f'{count * voxel_ml:.6g}'}
    for m, channel in enumerate(channels):
      name = f'mean_intensity_{m}' if len(channels) > 1 else 'mean_intensity'
      inside = channel[box][mask[box] == number] if box else ()
      row[name] = f'{np.mean(inside, dtype=np.float64):.6g}' if count else ''
    for axis, part in zip(axes, reversed(box or 3 * (None,)), strict=False):
      row[f'{axis}_first'], row[f'{axis}_last'] = (
        (str(part.start), str(part.stop - 1)) if part else ('', '')
      )
    rows.append(row)
  return rows
