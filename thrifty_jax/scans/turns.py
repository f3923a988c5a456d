"""The ways in which a mask may lie over its scan: mirrored, or turned by right angles."""

import itertools

import numpy as np

from thrifty_jax.scans.volumes import SLICE_AXES

# Rows and columns of a slice exchanged, then axes [D, H, W] mirrored; the first changes nothing.
TURNS = tuple(itertools.product((False, True), *[(False, True)] * 3))
_SIDES = {'S': 'head to feet', 'I': 'head to feet', 'P': 'front to back', 'L': 'left to right'}


def turn(label: np.ndarray, index: int) -> np.ndarray:
  """Returns a mask [D, H, W] after one of TURNS; an exchange needs square slices."""
  exchanged, *mirrored = TURNS[index]
  label = label.swapaxes(1, 2) if exchanged else label
  return np.flip(label, tuple(axis for axis in range(3) if mirrored[axis]))


def describe(index: int, slice_axis: str) -> str:
  """Describes one of TURNS by its index, such as `mirrored left to right`; '' for the first."""
  exchanged, *mirrored = TURNS[index]
  axes = [_SIDES[to] for to, on in zip(SLICE_AXES[slice_axis], mirrored, strict=True) if on]
  words = ['with rows and columns exchanged'] * exchanged
  return ' and '.join([*words, *([f'mirrored {" and ".join(axes)}'] if axes else [])])
