"""What is done to a scan's image before a network sees it: recorded with slices and with models."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from thrifty_jax.errors import InputError
from thrifty_jax.settings import SLICE_AXES

RESIZING = ('linear', 'nearest')
# Between which the limits of intensities lie: percentiles, and what scanners store.
_LIMITS = {'percentiles': (0, 100), 'window': (-1e9, 1e9)}
FLIPS = ('up_down', 'left_right')  # fields augment.flip_... of the config


def image_settings(data: ConfigDict) -> dict[str, Any]:
  """All that the image of a slice depends on, as JSON would hold it.

  Prepared slices and a model's preprocessing.json both hold these, under these names, so that a
  model's own description is what `data_prep.slices.image_to_slices` repeats its preparation from.

  Args:
    data: The section `data` of the config.

  Raises:
    InputError: If `intensity` is unknown.
  """
  limits = {'percentiles': data.percentiles, 'window': data.window}
  if data.intensity not in limits:
    raise InputError(f'data.intensity is {data.intensity!r}; expected percentiles or window.')
  return {
    'slice_axis': data.slice_axis,
    'image_size': data.image_size,
    'intensity': data.intensity,
    data.intensity: [float(limit) for limit in limits[data.intensity]],
    'clahe_clip_limit': float(data.clahe_clip_limit),
    'resize': data.resize,
    'curvature_flow_iterations': data.curvature_flow_iterations,
    'curvature_flow_time_step': float(data.curvature_flow_time_step),
  }


def check_image_settings(spec: Mapping[str, Any]) -> dict[str, bool]:
  """Whether each of these, read back from a file, can be what `image_settings` gave."""

  def number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most  # True is none

  limits = spec.get('intensity')
  pair = spec.get(limits) if limits in ('percentiles', 'window') else None
  iterations = spec.get('curvature_flow_iterations')
  step = spec.get('curvature_flow_time_step')
  return {
    'slice_axis': spec.get('slice_axis') in SLICE_AXES,
    'intensity': isinstance(pair, list)
    and len(pair) == 2
    and all(number(one, *_LIMITS[str(limits)]) for one in pair)
    and pair[0] < pair[1],
    'clahe_clip_limit': number(spec.get('clahe_clip_limit'), 0, 1),
    'resize': spec.get('resize') in RESIZING,
    'curvature_flow_iterations': type(iterations) is int and number(iterations, 0, 1000),
    'curvature_flow_time_step': number(step, 0, 1e6) and step != 0,
  }
