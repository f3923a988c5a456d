"""How pictures are drawn for a network: whole, or in windows as fine as their masks need."""

from collections.abc import Callable, Sequence

import numpy as np

from thrifty_jax import labels
from thrifty_jax.errors import InputError
from thrifty_jax.scans import slices, windows
from thrifty_jax.scans.volumes import Case

# DSC of a mask with itself, drawn smaller and back, that a reduction has to leave: the most that
# a network could reach.
KEPT = 0.98
_FACTORS = (16.0, 12.0, 8.0, 6.0, 4.0, 3.0, 2.0, 1.5)  # reductions that are tried
_MASKS = 20  # masks that are looked at, at most


def choose_reduction(
  cases: Sequence[Case], read_mask: Callable[[Case], np.ndarray], *, image_size: int
) -> float:
  """Returns the reduction by which pictures are cut into windows of a side; 0 draws them whole.

  Whole is chosen where it leaves the masks nearly as they are, in every class, mean over masks;
  else the largest reduction that does, and 1 if none does. `read_mask` returns classes, [H, W].
  """
  masks = []
  for index in sorted({*np.linspace(0, len(cases) - 1, min(len(cases), _MASKS)).astype(int)}):
    try:
      masks.append(read_mask(cases[index]))
    except InputError:  # the check reports it
      continue
  if not masks:
    return 0.0
  whole = float(np.median([max(mask.shape) for mask in masks])) / image_size
  if whole <= 1 or measure_kept(masks, whole) >= KEPT:
    return 0.0
  smaller = [factor for factor in _FACTORS if factor < whole]
  return next((one for one in smaller if measure_kept(masks, one) >= KEPT), 1.0)


def measure_kept(masks: Sequence[np.ndarray], reduction: float) -> float:
  """Returns the DSC of masks, classes [H, W], with themselves after a reduction.

  It is the mean over the masks that have a class, of the class that loses most; 1 without any.
  """
  counts = measure_kept_by_class(masks, reduction)
  means = [np.mean([twice / size for twice, size in own]) for own in counts.values()]
  return min(map(float, means), default=1.0)


def measure_kept_by_class(
  masks: Sequence[np.ndarray], reduction: float, regions: labels.Regions = ()
) -> dict[int, list[tuple[int, int]]]:
  """Returns for each class what its DSC is the ratio of, in each of the masks that have it.

  These are twice the pixels that a mask, [H, W], has in common with itself after a reduction, and
  the pixels of both; sums over slices give the DSC of a volume.
  """
  counts: dict[int, list[tuple[int, int]]] = {}
  for mask in masks:
    small = slices.draw_label(mask, windows.reduced(mask.shape, reduction))
    back = slices.draw_label(small, mask.shape)
    back, mask = labels.leave_out_ignored(back, mask)
    for k in labels.to_classes(np.unique(mask[mask > 0]).tolist(), regions):
      after, before = (labels.belongs(one, k, regions) for one in (back, mask))
      twice, size = 2 * int((after & before).sum()), int(after.sum() + before.sum())
      counts.setdefault(k, []).append((twice, size))
  return counts
