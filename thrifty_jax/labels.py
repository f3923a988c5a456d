"""What the numbers in a mask mean: a class is one label, or a region of several.

A mask has one label a voxel, 0 for the background, or IGNORED. Classes are what a network finds and
what is scored. Without regions class k is label k. A region is a set of labels, as in nnU-Net: the
score of class k, beside that of class 0, says whether a voxel lies in it. Two regions have no label
in common, or the later one lies in the earlier. Exports have a copy of this file.
"""

from collections.abc import Sequence

import numpy as np

IGNORED = 255  # of a voxel that nobody labelled: it has no loss and no score
# Labels of each class from class 1 on, first the one that is written where the class was found;
# () where each class is one label.
Regions = tuple[tuple[int, ...], ...]


def parse(text: str) -> Regions:
  """Reads regions as settings have them, '1,2,3 2,3 3'; '' is none."""
  return tuple(tuple(map(int, one.split(','))) for one in text.split())


def format_text(regions: Regions) -> str:
  """Returns the text that `parse` reads."""
  return ' '.join(','.join(map(str, labels)) for labels in regions)


def count(classes: int, regions: Regions = ()) -> int:
  """Returns the number of labels, background included, of so many classes, likewise."""
  return 1 + max(map(max, regions)) if regions else classes


def describe(classes: Sequence[str], regions: Regions = ()) -> str:
  """Returns the names of the classes, background first, and the labels of regions in a line."""
  if not regions:
    return ', '.join(classes)
  listed = (
    f'{name} ({", ".join(map(str, sorted(one)))})'
    for name, one in zip(classes[1:], regions, strict=True)
  )
  return ', '.join((classes[0], *listed))


def find_fault(classes: Sequence[str], regions: Regions) -> str:
  """Returns what is wrong with the regions of classes, whose names begin with the background."""
  names, sets = classes[1:], [{*one} for one in regions]
  if len(names) != len(sets):
    return f'there are {len(sets)} regions for {len(names)} classes besides the background'
  for name, labels, one in zip(names, regions, sets, strict=True):
    if not one or len(one) < len(labels) or not 0 < min(one) <= max(one) < IGNORED:
      return f'{name} has the labels {list(labels)}; expected different ones, 1 to {IGNORED - 1}'
  if lost := sorted({*range(1, count(0, regions))}.difference(*sets)):
    return f'label {lost[0]} is in no region'
  for later, inner in enumerate(sets):
    for earlier, outer in enumerate(sets[:later]):
      first, second = names[earlier], names[later]
      if inner == outer:
        return f'{first} and {second} have the same labels'
      if outer < inner:
        return f'{second} would be written over {first}, which lies in it; name {second} first'
      if inner & outer and not inner < outer:
        return f'{first} and {second} overlap, but neither lies in the other: one mask lacks both'
  for name, labels, one in zip(names, regions, sets, strict=True):
    own = one.difference(*(other for other in sets if other < one))
    if own and labels[0] not in own:
      return (
        f'{name} would be written as label {labels[0]}, which is that of a region in it; expected '
        f'{" or ".join(map(str, sorted(own)))}'
      )
  return ''


def belongs(mask: np.ndarray, number: int, regions: Regions = ()) -> np.ndarray:
  """Returns whether each voxel of a mask, of whole numbers up to 255, is of a class, from 1."""
  if not regions:
    return mask == number
  table = np.zeros(256, bool)
  table[[*regions[number - 1]]] = True
  return table[mask]


def foreground(mask: np.ndarray) -> np.ndarray:
  """Returns whether each voxel of a mask has a label other than the background."""
  return (mask > 0) & (mask != IGNORED)


def to_classes(found: Sequence[int], regions: Regions = ()) -> list[int]:
  """Returns the numbers of the classes that have one of the labels, which are no background."""
  if not regions:
    return [*found]
  return [k for k, labels in enumerate(regions, start=1) if not {*labels}.isdisjoint(found)]


def choose(scores: np.ndarray, regions: Regions = ()) -> np.ndarray:
  """Returns the label by the scores of the classes, [..., K] to [...], uint8.

  It is the class with the largest score, the first of equals; of regions each whose score is above
  that of class 0 writes its label, later ones over earlier.
  """
  if regions:
    mask = np.zeros(scores.shape[:-1], np.uint8)
    for number, (written, *_) in enumerate(regions, start=1):
      mask[scores[..., number] > scores[..., 0]] = written
    return mask
  if scores.shape[-1] == 2:  # argmax takes ten times as long
    return (scores[..., 1] > scores[..., 0]).astype(np.uint8)
  return scores.argmax(-1).astype(np.uint8)


def around(number: int, regions: Regions = ()) -> int:
  """Returns the label that a voxel has once it is no more of a class: that of the next region."""
  outer = [one for one in regions if {*one} > {*regions[number - 1]}]
  return min(outer, key=len)[0] if outer else 0


def innermost(mask: np.ndarray, regions: Regions = ()) -> np.ndarray:
  """Returns the smallest class of each voxel, by which it is drawn, uint8; 0 where ignored."""
  table = np.arange(256, dtype=np.uint8)
  for number, labels in sorted(enumerate(regions, start=1), key=lambda one: -len(one[1])):
    table[[*labels]] = number
  table[IGNORED] = 0
  return table[mask]


def mark_ignored(mask: np.ndarray, ignore: int) -> np.ndarray:
  """Returns a mask of bytes in which the label `ignore` is IGNORED; 0 is none.

  A ValueError says that the mask has the number of IGNORED as a label.
  """
  if ignore != IGNORED and (mask == IGNORED).any():
    raise ValueError(f'holds the label {IGNORED}; expected labels up to {IGNORED - 1}')
  return np.where(mask == ignore, np.uint8(IGNORED), mask) if ignore else mask


def leave_out_ignored(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns a prediction and its truth, both background where the truth is ignored."""
  ignored = truth == IGNORED
  if not ignored.any():
    return prediction, truth
  return np.where(ignored, 0, prediction), np.where(ignored, 0, truth)
