"""The plane in which the masks of a data set were drawn, where voxels do not tell it.

Who draws a mask slice by slice moves its border back and forth from one slice to the next, while
within a slice it is smooth. A network that sees the same slices learns what was decided in them.
"""

from collections.abc import Callable, Sequence

import nibabel
import numpy as np

from thrifty_jax import labels
from thrifty_jax.errors import InputError
from thrifty_jax.scans.volumes import SLICE_AXES, Case

_MASKS = 20  # masks that are looked at, at most
# Share of the changes of class along an axis that the next voxel takes back. The hippocampus of the
# Decathlon has 0.08 along the axis of its coronal slices, 0.06 and 0.01 along the others.
_LEAST = 0.03
_CLEAR = 1.2  # times that of any other axis


def find_axis(
  cases: Sequence[Case], read_mask: Callable[[Case], tuple[np.ndarray, np.ndarray]]
) -> str | None:
  """Returns the axis of the slices in which masks were drawn, one of SLICE_AXES; None if unclear.

  `read_mask` returns the labels of a scan, [X, Y, Z], and their affine, [4, 4].
  """
  changes, back = np.zeros((2, 3))
  for index in sorted({*np.linspace(0, len(cases) - 1, min(len(cases), _MASKS)).astype(int)}):
    try:
      label, affine = read_mask(cases[index])
    except InputError:  # the check reports it
      continue
    found = count_changes(label, affine)
    changes, back = changes + found[0], back + found[1]
  share = back / np.maximum(changes, 1)
  second, largest = np.sort(share)[1:]
  if largest < max(_LEAST, _CLEAR * second):
    return None
  return tuple(SLICE_AXES)[int(share.argmax())]


def count_changes(label: np.ndarray, affine: np.ndarray) -> np.ndarray:
  """Returns how often labels change along each axis of SLICE_AXES, and at once change back, [2, 3].

  Voxels beside one without a label do not count.
  """
  turn = nibabel.orientations.ornt_transform(
    nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(SLICE_AXES['axial'])
  )
  axes = np.argsort(turn[:, 0])  # that of the labels for each of the result
  counts = np.zeros((2, 3))
  for number, axis in enumerate(axes):
    along = np.moveaxis(label, int(axis), 0)
    known = along != labels.IGNORED
    changed = (along[1:] != along[:-1]) & known[1:] & known[:-1]
    counts[:, number] = changed.sum(), (changed[1:] & changed[:-1]).sum()
  return counts
