"""Conversion between a volume on its native grid and the square slices of networks.

A slice is drawn whole to S x S pixels; or, where `ImageSettings.reduction` is set, it is reduced by
that factor and cut into T windows of S x S pixels, which then count as slices: D is D T below.
Exports have a copy of this file.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from thrifty_jax import labels
from thrifty_jax.scans import windows
from thrifty_jax.scans.resizing import ORDERS, resize

if TYPE_CHECKING:  # as exports are without these modules
  from thrifty_jax.scans.preprocessing import ImageSettings
  from thrifty_jax.scans.volumes import Volume

_NATIVE_CHUNK = 16  # slices enlarged to the native grid at a time: bounds the memory
_EQUAL = 1e-6  # smaller differences between shares of a pixel are rounding


def to_slices(volume: 'Volume', settings: 'ImageSettings') -> tuple[np.ndarray, np.ndarray]:
  """Returns `image_to_slices` of a scan and the slices of its truth, [D, S, S], uint8.

  A pixel of the truth is the label with the largest share of it, IGNORED among them. The nearest
  voxel alone would shift the truth by up to half a voxel against the image at the common factor 2.
  """
  label = np.concatenate([_draw_label(plane, settings) for plane in volume.truth])
  return image_to_slices(volume, settings), label


def image_to_slices(volume: 'Volume', settings: 'ImageSettings') -> np.ndarray:
  """Returns the square slices of a scan, [D, S, S, M], float16 in [0, 1].

  Intensities are mapped by the volume's own percentiles or by a fixed window and clipped. A slice
  is equalised (optional), padded with 0 to a square around it, resized, linearly with anti-aliasing
  or to the nearest voxel, and smoothed (optional).
  """
  channels = []
  for m in range(volume.image.shape[-1]):
    planes = _unit_range(volume.image[..., m], settings)
    # Slice by slice, so that no copy of the scan in float32 is kept.
    drawn = [np.float16(_draw_image(plane, settings).clip(0.0, 1.0)) for plane in planes]
    channels.append(np.concatenate(drawn))
  return np.stack(channels, axis=-1)


def to_native(
  scores: np.ndarray, native_size: tuple[int, int], *, reduction: float = 0.0
) -> np.ndarray:
  """Returns scores of square slices, [D, S, S, K], on the native grid, [D, H, W, K], float32.

  It is the inverse of `to_slices` for the truth, and linear: classes could not be interpolated, so
  use `labels.choose` afterwards. The reduction is that of the settings.
  """
  height, width = native_size
  frame, (top, left) = _frame(native_size, reduction)
  planes = join(scores, native_size, reduction=reduction)
  native = np.empty((len(planes), height, width, scores.shape[-1]), np.float32)
  for d, k in np.ndindex(len(native), scores.shape[-1]):
    plane = resize(planes[d, ..., k], frame)
    native[d, ..., k] = plane[top : top + height, left : left + width]
  return native


def join(parts: np.ndarray, native_size: tuple[int, int], *, reduction: float) -> np.ndarray:
  """Returns the reduced slices that windows were cut from, [D T, S, S, K] to [D, H', W', K].

  They are float32; slices that are drawn whole are returned as they are.
  """
  if not reduction:
    return parts
  count = count_windows(native_size, parts.shape[1], reduction)
  size = windows.reduced(native_size, reduction)
  joined = np.empty((len(parts) // count, *size, parts.shape[-1]), np.float32)
  for d, own in enumerate(np.split(parts, len(joined))):
    joined[d] = windows.join(own.astype(np.float32, copy=False), size)
  return joined


def native_classes(
  scores: Sequence[np.ndarray],
  native_size: tuple[int, int],
  *,
  reductions: Sequence[float] = (0.0,),
  probabilities: bool = False,
  regions: labels.Regions = (),
) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns the labels of the voxels of the native grid, computed a few slices at a time.

  Args:
    scores: Class scores, [D, S, S, K] float32, of one or more networks; S may differ. They decide
      as `labels.choose` says; of several networks, whose scores have to be logits, the mean
      probabilities.
    native_size: Height H and width W of the native slices.
    reductions: Reduction by the settings of each network.
    probabilities: Whether probabilities are returned as well.
    regions: Regions that the classes are, see labels.py.

  Returns:
    Label, [D, H, W], uint8, and foreground probabilities, [K - 1, D, H, W], float32, or None.
  """
  counts = [
    count_windows(native_size, one.shape[1], reduction)
    for one, reduction in zip(scores, reductions, strict=True)
  ]
  depth, classes = len(scores[0]) // counts[0], scores[0].shape[-1]
  mask = np.empty((depth, *native_size), np.uint8)
  shares = np.empty((classes - 1, *mask.shape), np.float32) if probabilities else None
  for first in range(0, depth, _NATIVE_CHUNK):
    part = slice(first, first + _NATIVE_CHUNK)
    native = [
      to_native(one[first * n : (first + _NATIVE_CHUNK) * n], native_size, reduction=r)
      for one, n, r in zip(scores, counts, reductions, strict=True)
    ]
    mask[part], found = choose_classes(native, probabilities=probabilities, regions=regions)
    if shares is not None:
      shares[:, part] = found
  return mask, shares


def choose_classes(
  native: Sequence[np.ndarray], *, probabilities: bool, regions: labels.Regions = ()
) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns labels, [...] uint8, and foreground probabilities, [K - 1, ...], or None.

  Scores of one or more networks, [..., K], are combined as `native_classes` says.
  """
  if len(native) == 1 and not probabilities:
    return labels.choose(native[0], regions), None
  mean = np.stack([_probabilities(one, regions) for one in native]).mean(axis=0)
  mask = labels.choose(native[0] if len(native) == 1 else mean, regions)
  return mask, np.moveaxis(mean[..., 1:], -1, 0)


def count_windows(native_size: tuple[int, int], side: int, reduction: float) -> int:
  """Returns the number T of squares that a native slice becomes; 1 without a reduction."""
  return windows.count(windows.reduced(native_size, reduction), side) if reduction else 1


def _probabilities(logits: np.ndarray, regions: labels.Regions) -> np.ndarray:
  """Returns the probability of each class, [..., K]; beside regions that of class 0 is a half."""
  if regions:
    return special.expit(logits - logits[..., :1])
  return special.softmax(logits, axis=-1)


def _unit_range(image: np.ndarray, settings: 'ImageSettings') -> np.ndarray:
  """Maps the limits to 0 and 1 and clips values outside, [D, H, W], float32."""
  low, high = settings.limits
  if settings.intensity == 'percentiles':
    low, high = np.percentile(image, (low, high))
    if low == high:  # nearly all voxels are equal, as in a scan that is mostly masked out
      low, high = image.min(), image.max()
  return clip_to_unit(image, low, high)


def clip_to_unit(image: np.ndarray, low: float, high: float) -> np.ndarray:
  """Maps low to 0 and high to 1 and clips values outside, float32; 0 if both are equal."""
  if low == high:
    return np.zeros(image.shape, np.float32)
  unit = image - np.float32(low)
  unit /= np.float32(high - low)
  return np.clip(unit, 0.0, 1.0, out=unit)


def _draw_image(plane: np.ndarray, settings: 'ImageSettings') -> np.ndarray:
  """Equalises, resizes and smooths a slice in [0, 1], [H, W] to [T, S, S], float32."""
  plane = plane.astype(np.float32)
  limit, iterations = settings.clahe_clip_limit, settings.curvature_flow_iterations
  if limit and plane.min() < plane.max():
    from skimage import exposure  # here: most data sets do not need it

    # CLAHE, which first maps the darkest and brightest to 0, 1.
    plane = exposure.equalize_adapthist(plane, clip_limit=limit).astype(np.float32)
  order, size = ORDERS[settings.resize], _drawn_size(plane, settings)
  plane = resize(_pad(plane, settings.reduction), size, order=order)
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
  return windows.cut(plane, settings.image_size)


def _draw_label(label: np.ndarray, settings: 'ImageSettings') -> np.ndarray:
  """Returns the class with the largest share of each pixel, [H, W] to [T, S, S], uint8."""
  size = _drawn_size(label, settings)
  padded = _pad(label, settings.reduction)
  if (label == labels.IGNORED).all():  # nor is what lies around it worth to be drawn
    padded = np.full_like(padded, labels.IGNORED)
  return windows.cut(draw_label(padded, size), settings.image_size)


def draw_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Returns the class with the largest share of each pixel of another size, [H, W], uint8."""
  if label.shape == size:
    return label
  result = np.zeros(size, np.uint8)
  if not label.any():  # most slices of most scans show no organ
    return result
  largest = np.zeros(size, np.float32)
  for k in np.flatnonzero(np.bincount(label.reshape(-1))):
    share = resize(label == k, size)
    # Equal halves, which every second size has, go to the lower class.
    larger = share > largest + _EQUAL
    largest[larger], result[larger] = share[larger], k
  return result


def _drawn_size(plane: np.ndarray, settings: 'ImageSettings') -> tuple[int, int]:
  """Returns height and width to which a native slice is resized."""
  if settings.reduction:
    return windows.reduced(plane.shape, settings.reduction)
  return settings.image_size, settings.image_size


def _frame(size: tuple[int, int], reduction: float) -> tuple[tuple[int, int], tuple[int, int]]:
  """Returns the size of what is resized, a square around a whole slice, and the slice's corner."""
  side = max(size)
  if reduction:
    return size, (0, 0)
  return (side, side), ((side - size[0]) // 2, (side - size[1]) // 2)


def _pad(plane: np.ndarray, reduction: float) -> np.ndarray:
  """Pads a slice that is drawn whole with 0 to a square, the slice in the middle."""
  frame, corner = _frame(plane.shape, reduction)
  if frame == plane.shape:
    return plane
  margins = [
    (at, all_ - at - own) for all_, at, own in zip(frame, corner, plane.shape, strict=True)
  ]
  return np.pad(plane, margins)
