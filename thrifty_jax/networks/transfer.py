"""What a network can take of the weights of another that has the same genotype.

The two may differ in the channels of their input and in their classes.
"""

from typing import Any, NamedTuple

import numpy as np

from thrifty_jax.networks import build
from thrifty_jax.networks.model_spec import ModelSpec


class Slot(NamedTuple):
  """Slices of a tensor that come from the model: those `there` in its tensor, `here` in the new."""

  axis: int
  here: list[int]
  there: list[int]


def plan(net: Any, spec: ModelSpec, other_net: Any, other: ModelSpec) -> dict[str, Slot | None]:
  """Plans what is taken from a model, by names of tensors; None stands for a whole tensor.

  Tensors that depend on neither the channels of the input nor the classes are taken whole. Channels
  are known by the slice that they come from, seen from the middle one, if scans have as many
  channels, and classes by their names, if a foreground class is among them. What is not listed
  stays as it was drawn.
  """
  shapes, others = (
    build.find_shapes(one, its.image_channels) for one, its in ((net, spec), (other_net, other))
  )
  more_channels = build.find_shapes(net, spec.image_channels + 1)
  more_classes = build.find_shapes(net.copy(classes=len(spec.classes) + 1), spec.image_channels)
  planned: dict[str, Slot | None] = {}
  for name, (shape, _) in shapes.items():
    if name not in others:
      continue
    slot = None
    for larger, pairs, count, its in (
      (more_channels, _channel_pairs(spec, other), spec.image_channels, other.image_channels),
      (more_classes, _class_pairs(spec, other), len(spec.classes), len(other.classes)),
    ):
      if (axis := _find_axis(shape, larger.get(name, (shape, ''))[0])) is None:
        continue
      groups = range(shape[axis] // count)  # pixels of a square that are channels, see LeanNetwork
      here = [group * count + ours for group in groups for ours, _ in pairs]
      there = [group * its + theirs for group in groups for _, theirs in pairs]
      slot = Slot(axis, here, there)
      if here == there == [*range(shape[axis])] and shape == others[name][0]:
        slot = None
    if slot is None and shape == others[name][0]:
      planned[name] = None
    elif slot and slot.here:
      planned[name] = slot
  return planned


def _channel_pairs(spec: ModelSpec, other: ModelSpec) -> list[tuple[int, int]]:
  """Returns the numbers of the same channels of the input of two networks."""
  if spec.modalities != other.modalities:
    return []
  count, near = spec.modalities, min(spec.context, other.context)
  return [
    ((spec.context + offset) * count + m, (other.context + offset) * count + m)
    for offset in range(-near, near + 1)
    for m in range(count)
  ]


def _class_pairs(spec: ModelSpec, other: ModelSpec) -> list[tuple[int, int]]:
  """Returns the numbers of classes of the same name in two networks, or regions in both."""
  if bool(spec.regions) != bool(other.regions):  # what their scores say differs
    return []
  common = [name for name in spec.classes if name in other.classes]
  if not {*spec.classes[1:]} & {*other.classes[1:]}:
    return []
  return [(spec.classes.index(name), other.classes.index(name)) for name in common]


def _find_axis(shape: Any, larger: Any) -> int | None:
  """Returns the axis in which two shapes differ; None if in none, or in their number of axes."""
  axes = [axis for axis, (a, b) in enumerate(zip(shape, larger, strict=False)) if a != b]
  return axes[0] if axes and len(shape) == len(larger) else None


def fill(ours: Any, theirs: Any, slot: Slot | None) -> np.ndarray:
  """Returns a tensor with the slices of another in their place; all of it for a slot of None."""
  if slot is None:
    return np.asarray(theirs)
  filled = np.moveaxis(np.array(ours), slot.axis, 0)
  filled[slot.here] = np.moveaxis(np.asarray(theirs), slot.axis, 0)[slot.there]
  return np.moveaxis(filled, 0, slot.axis)
