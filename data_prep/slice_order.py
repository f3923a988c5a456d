"""Whether the slices of a scan follow one another, told from what they show.

No header says so in NIfTI, NRRD or MetaImage. But neighbours look alike, and a slice further away
looks less so: where a later slice is clearly the more similar one, the order is not that of the
body, or the slice between is damaged.
"""

import numpy as np

_PIXELS = (
  32  # on each side of the small pictures that are compared: enough for shapes, little noise
)
# A later slice must be this much nearer than the next one. Distances grow with the square of the
# step, so a slice that was put two places too late gives a quarter.
_NEARER = 0.5


def out_of_order(image: np.ndarray) -> tuple[int, ...]:
  """The slices that do not follow those before them.

  Args:
    image: Intensities of one channel, [D, H, W].

  Returns:
    Their indices along D, rising; all of them where every second slice was stored first. Empty
    where nothing is wrong or fewer than 5 slices show anything.
  """
  distance, shown = _distances(image)
  if len(shown) < 5:
    return ()
  count = len(shown)
  even_first = np.argsort(np.concatenate([np.arange(0, count, 2), np.arange(1, count, 2)]))
  if _length(distance, even_first) < _NEARER * _length(distance, np.arange(count)):
    return tuple(int(d) for d in shown)
  next_one, second = np.diagonal(distance, 1)[:-1], np.diagonal(distance, 2)
  third = np.append(np.diagonal(distance, 3), np.inf)
  late = (np.minimum(second, third) < _NEARER * next_one) & (next_one > np.median(next_one))
  return tuple(int(d) for d in shown[np.flatnonzero(late) + 1])


def _distances(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """One minus the correlation of every two slices, [D', D'], and the indices of these slices, [D'].

  Slices that show next to nothing are left out: empty ones are all alike.
  """
  height, width = (max(1, -(-side // _PIXELS)) for side in image.shape[1:])
  rows, columns = image.shape[1] // height, image.shape[2] // width
  blocks = image[:, : rows * height, : columns * width]
  small = blocks.reshape(len(image), rows, height, columns, width).mean(axis=(2, 4))
  small = small.reshape(len(image), -1)
  small = small - small.mean(axis=1, keepdims=True)
  norms = np.linalg.norm(small, axis=1)
  shown = np.flatnonzero(norms > 0.05 * norms.max())
  unit = small[shown] / norms[shown, None]
  return 1 - unit @ unit.T, shown


def _length(distance: np.ndarray, order: np.ndarray) -> float:
  """Sum of the distances from slice to slice in an order."""
  return float(distance[order[:-1], order[1:]].sum())
