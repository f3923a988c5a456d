"""Largest connected component of a class, kept if that helps on the validation patients."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from thrifty_jax import labels

_BAND_VOXELS = 1 << 24  # whose pieces are numbered at a time, in 4 bytes each: bounds the memory


def keep_largest(
  prediction: np.ndarray, classes: Sequence[int], regions: labels.Regions = ()
) -> np.ndarray:
  """Turns all but the largest component of some classes into what is around: background.

  Around a region that lies in another it is the label of that one.

  Args:
    prediction: Label of each voxel, [D, H, W], uint8.
    classes: Numbers of the classes; others are unchanged.
    regions: Regions that the classes are.

  Returns:
    A new array, [D, H, W]. Components are connected by faces; among equally large ones the first in
    memory is kept.
  """
  result = prediction.copy()
  # A single slice is divided into bands of rows, a volume into slices.
  voxels = result[0] if len(result) == 1 else result
  for index in classes:
    sizes, joined = [0], []  # of the pieces in each band, and pairs of pieces that touch
    above = np.zeros(voxels.shape[1:], np.int64)
    bands = [*_label(voxels, index, regions)] if voxels.size <= _BAND_VOXELS else None
    for _, pieces in bands or _label(voxels, index, regions):
      sizes += np.bincount(pieces.ravel())[len(sizes) :].tolist()
      pairs = np.stack([above, pieces[0]])[:, (above > 0) & (pieces[0] > 0)]
      joined.append(np.unique(pairs, axis=1))
      above = pieces[-1]
    touching = np.concatenate(joined, axis=1)
    graph = sparse.coo_array((np.ones(touching.shape[1]), touching), shape=2 * (len(sizes),))
    count, components = csgraph.connected_components(graph, directed=False)
    if count > 2:  # the first is piece 0, the background
      largest = np.bincount(components, weights=sizes).argmax()
      around = labels.around(index, regions)
      for band, pieces in bands or _label(voxels, index, regions):
        band[(pieces > 0) & (components[pieces] != largest)] = around
  return result


def _label(
  voxels: np.ndarray, index: int, regions: labels.Regions
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields bands of voxels and the pieces of a class in each, numbered from 1 over all bands."""
  step = max(1, _BAND_VOXELS // max(1, voxels[0].size))
  before = 0
  for first in range(0, len(voxels), step):
    band = voxels[first : first + step]
    pieces, count = ndimage.label(labels.belongs(band, index, regions))
    if before:
      pieces[pieces > 0] += before
    before += count
    yield band, pieces
