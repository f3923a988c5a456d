"""Detects wrong orders of a scan's slices from their contents.

Headers of NIfTI, NRRD and MetaImage do not show them. But where a later slice is clearly more
similar than the next, the order is not that of the body, or the slice between is damaged.
"""

import numpy as np

_PIXELS = 32  # on each side of the pictures that are compared: enough for shapes, little noise
# Ratio of distances: a later slice must be this much nearer than the next one. Distances grow with
# the square of the step, so a slice that is two places too late gives a quarter.
_NEARER = 0.5


def find_out_of_order(image: np.ndarray) -> tuple[int, ...]:
  """Returns the slices of a channel, [D, H, W], that do not follow those before them.

  They are ascending indices along D; all of them if every second slice was stored first, none if
  fewer than 5 slices show anything.
  """
  height, width = (max(1, -(-side // _PIXELS)) for side in image.shape[1:])
  rows, columns = image.shape[1] // height, image.shape[2] // width
  blocks = image[:, : rows * height, : columns * width]
  small = blocks.reshape(len(image), rows, height, columns, width).mean(axis=(2, 4))
  small = small.reshape(len(image), -1)
  contrast = small.std(axis=1)
  shown = np.flatnonzero(contrast > 0.05 * contrast.max())  # nearly empty slices are all alike
  if len(shown) < 5:
    return ()
  distance = 1 - np.corrcoef(small[shown])
  order = np.arange(len(shown))
  even_first = np.argsort(np.concatenate([order[::2], order[1::2]]))
  lengths = [distance[way[:-1], way[1:]].sum() for way in (even_first, order)]  # slice to slice
  if lengths[0] < _NEARER * lengths[1]:
    return tuple(shown.tolist())
  next_one, second = np.diagonal(distance, 1)[:-1], np.diagonal(distance, 2)
  third = np.append(np.diagonal(distance, 3), np.inf)
  late = (np.minimum(second, third) < _NEARER * next_one) & (next_one > np.median(next_one))
  return tuple(shown[np.flatnonzero(late) + 1].tolist())
