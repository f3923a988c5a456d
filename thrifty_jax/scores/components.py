"""Largest connected component of a class, kept if that helps on the validation patients."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def keep_largest(prediction: np.ndarray, classes: Sequence[int]) -> np.ndarray:
  """Turns all but the largest component of some classes into background.

  Args:
    prediction: Class of each voxel, [D, H, W], integers.
    classes: Numbers of the classes; others are unchanged.

  Returns:
    A new array, [D, H, W]. Components are connected by faces; among equally large ones the first in
    memory is kept.
  """
  result = prediction.copy()
  for index in classes:
    pieces, count = ndimage.label(prediction == index)
    if count > 1:
      largest = np.bincount(pieces.reshape(-1))[1:].argmax() + 1
      result[(pieces > 0) & (pieces != largest)] = 0
  return result
