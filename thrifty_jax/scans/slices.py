"""Conversion between a volume on its native grid and the square slices of networks."""

import functools
from collections.abc import Sequence

import numpy as np
from scipy import sparse, special
from skimage import exposure, transform

from thrifty_jax.scans.preprocessing import ImageSettings
from thrifty_jax.scans.volumes import Volume

_NATIVE_CHUNK = 16  # slices enlarged to the native grid at a time: bounds the memory
_EQUAL = 1e-6  # smaller differences between shares of a pixel are rounding


def to_slices(volume: Volume, settings: ImageSettings) -> tuple[np.ndarray, np.ndarray]:
  """Returns `image_to_slices` of a scan and the slices of its truth, [D, S, S], uint8.

  A pixel of the truth is the class with the largest share of it. The nearest voxel alone would
  shift the truth by up to half a voxel against the image at the common factor 2.
  """
  return image_to_slices(volume, settings), _label_to_square(volume.truth, settings.image_size)


def image_to_slices(volume: Volume, settings: ImageSettings) -> np.ndarray:
  """Returns the square slices of a scan, [D, S, S, M], float16 in [0, 1].

  Intensities are mapped by the volume's own percentiles or by a fixed window and clipped. A slice
  is equalised (optional), padded with 0 to a square around it, resized, linearly with anti-aliasing
  or to the nearest voxel, and smoothed (optional).
  """
  depth, _, _, modalities = volume.image.shape
  image = np.empty((depth, settings.image_size, settings.image_size, modalities), np.float16)
  for m in range(modalities):
    for d, plane in enumerate(_unit_range(volume.image[..., m], settings)):
      image[d, ..., m] = np.clip(_to_square(plane, settings), 0.0, 1.0)
  return image


def to_native(scores: np.ndarray, native_size: tuple[int, int]) -> np.ndarray:
  """Returns scores of square slices, [D, S, S, K], on the native grid, [D, H, W, K], float32.

  It is the inverse of `to_slices` for the truth, and linear: classes could not be interpolated, so
  use `largest_class` afterwards.
  """
  height, width = native_size
  side = max(height, width)
  top, left = (side - height) // 2, (side - width) // 2
  native = np.empty((scores.shape[0], height, width, scores.shape[-1]), np.float32)
  for d, k in np.ndindex(scores.shape[0], scores.shape[-1]):
    square = _resize(scores[d, ..., k].astype(np.float32), side)
    native[d, ..., k] = square[top : top + height, left : left + width]
  return native


def native_classes(
  scores: Sequence[np.ndarray], native_size: tuple[int, int], *, probabilities: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns the classes of the voxels of the native grid, computed a few slices at a time.

  Args:
    scores: Class scores, [D, S, S, K] float32, of one or more networks; S may differ. The class
      with the largest score is chosen; of several networks, whose scores have to be logits, the
      one with the largest mean probability.
    native_size: Height H and width W of the native slices.
    probabilities: Whether probabilities are returned as well.

  Returns:
    Class, [D, H, W], uint8, and foreground probabilities, [K - 1, D, H, W], float32, or None.
  """
  depth, classes = len(scores[0]), scores[0].shape[-1]
  mask = np.empty((depth, *native_size), np.uint8)
  shares = np.empty((classes - 1, *mask.shape), np.float32) if probabilities else None
  for first in range(0, depth, _NATIVE_CHUNK):
    part = slice(first, first + _NATIVE_CHUNK)
    native = [to_native(one[part], native_size) for one in scores]
    if len(native) == 1 and shares is None:
      mask[part] = largest_class(native[0])
      continue
    mean = np.stack([special.softmax(one, axis=-1) for one in native]).mean(axis=0)
    mask[part] = largest_class(native[0] if len(native) == 1 else mean)
    if shares is not None:
      shares[:, part] = np.moveaxis(mean[..., 1:], -1, 0)
  return mask, shares


def largest_class(scores: np.ndarray) -> np.ndarray:
  """Returns the class with the largest score, the first of equals, [..., K] to [...], uint8."""
  if scores.shape[-1] == 2:  # argmax takes ten times as long
    return (scores[..., 1] > scores[..., 0]).astype(np.uint8)
  return scores.argmax(-1).astype(np.uint8)


def _unit_range(image: np.ndarray, settings: ImageSettings) -> np.ndarray:
  """Maps the limits to 0 and 1 and clips values outside, [D, H, W], float32."""
  low, high = settings.limits
  if settings.intensity == 'percentiles':
    low, high = np.percentile(image, (low, high))
    if low == high:  # nearly all voxels are equal, as in a scan that is mostly masked out
      low, high = image.min(), image.max()
  unit = image - np.float32(low)
  unit /= np.float32(high - low)
  return np.clip(unit, 0.0, 1.0, out=unit)


def _to_square(plane: np.ndarray, settings: ImageSettings) -> np.ndarray:
  """Equalises, pads with 0, resizes and smooths a slice in [0, 1], [H, W] to [S, S], float32."""
  plane = plane.astype(np.float32)
  limit, iterations = settings.clahe_clip_limit, settings.curvature_flow_iterations
  if (
    limit and plane.min() < plane.max()
  ):  # CLAHE, which first maps the darkest and brightest to 0, 1
    plane = exposure.equalize_adapthist(plane, clip_limit=limit).astype(np.float32)
  order = {'nearest': 0, 'linear': 1}[settings.resize]
  plane = _resize(_pad(plane[None])[0], settings.image_size, order=order)
  if iterations:
    import SimpleITK  # here: most data sets do not need ITK

    # Smooths along edges and not across them, after Sethian, "Level set methods" (1996).
    plane = SimpleITK.GetArrayFromImage(
      SimpleITK.CurvatureFlow(
        SimpleITK.GetImageFromArray(plane),
        timeStep=settings.curvature_flow_time_step,
        numberOfIterations=iterations,
      )
    )
  return plane


def _label_to_square(label: np.ndarray, size: int) -> np.ndarray:
  """Returns the class with the largest share of each pixel, [D, H, W] to [D, S, S], uint8."""
  padded = _pad(label)
  if padded.shape[1] == size:
    return padded
  result = np.zeros((len(padded), size, size), np.uint8)
  for d in np.flatnonzero(padded.any(axis=(1, 2))):  # most slices of most scans show no organ
    largest = np.zeros((size, size), np.float32)
    for k in np.flatnonzero(np.bincount(padded[d].reshape(-1))):
      share = _resize(padded[d] == k, size)
      # Equal halves, which every second size has, go to the lower class.
      larger = share > largest + _EQUAL
      largest[larger], result[d][larger] = share[larger], k
  return result


def _pad(planes: np.ndarray) -> np.ndarray:
  """Pads [D, H, W] to [D, N, N] with N = max(H, W), the slice in the middle."""
  height, width = planes.shape[1:]
  if height == width:
    return planes
  side = max(height, width)
  top, left = (side - height) // 2, (side - width) // 2
  return np.pad(planes, ((0, 0), (top, side - height - top), (left, side - width - left)))


def _resize(plane: np.ndarray, size: int, *, order: int = 1) -> np.ndarray:
  """Resizes a square plane, float32, with the corners (not centres) of both grids aligned.

  Order 1 is linear and blurs first if the plane is reduced; 0 takes the nearest pixel.
  """
  plane = plane.astype(np.float32, copy=False)
  if len(plane) == size:
    return plane
  weights = _weights(len(plane), size, order)
  return np.ascontiguousarray((weights @ (weights @ plane).T).T)


@functools.lru_cache(maxsize=64)
def _weights(old: int, new: int, order: int) -> sparse.csr_array:
  """Returns the weight of each old pixel of a row in each new one, [new, old], float32.

  scikit-image resizes the unit vectors once, and a product with the sparse result resizes any
  plane: 7 to 14 times faster than resizing each, and equal up to the last bits of float32.
  """
  blur = order > 0 and new < old
  resized = transform.resize(np.eye(old), (new, old), order=order, mode='edge', anti_aliasing=blur)
  return sparse.csr_array(resized.astype(np.float32))
