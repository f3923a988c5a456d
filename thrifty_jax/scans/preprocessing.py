"""Settings of a scan's preprocessing, recorded with slices and with models."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from thrifty_jax import fields
from thrifty_jax.errors import InputError
from thrifty_jax.settings import SLICE_AXES

RESIZING = ('linear', 'nearest')
FLIPS = ('up_down', 'left_right')  # names in the config's fields augment.flip_...
_MOST_STORED = 1e9  # limit of stored intensities, positive or negative


def _limits(intensity: str, least: float, most: float) -> fields.Fits:
  """Checks for two ascending numbers if intensities are mapped in this way, for None otherwise."""
  both = fields.numbers(2, least, most)

  def fits(value: Any, found: Mapping[str, Any]) -> bool:
    if found['intensity'] != intensity:
      return value is None
    return both(value, found) and value[0] < value[1]

  return fits


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSettings:
  """Everything that the image of a slice depends on.

  Prepared slices and a model's preprocessing.json record these under these names, so that a scan is
  prepared for a model like the slices of its training, see `slices.image_to_slices`.

  Attributes:
    slice_axis: Axis across the slices, one of SLICE_AXES.
    image_size: Side S of a square slice, in pixels.
    intensity: Name of the attribute by which intensities are mapped, 'percentiles' or 'window'.
    percentiles: Percentiles of the scan's own intensities that become 0 and 1, ascending, in
      [0, 100]; else None.
    window: Intensities as the scanner stores them that become 0 and 1, ascending; else None.
    clahe_clip_limit: Limit of the adaptive equalisation of a slice, in [0, 1]; 0 is none.
    resize: 'linear' or 'nearest'.
    curvature_flow_iterations: Steps by which a slice is smoothed; 0 is not at all.
    curvature_flow_time_step: Length of such a step, above 0.
  """

  slice_axis: str = fields.field(fields.one_of(*SLICE_AXES))
  image_size: int = fields.field(fields.whole(1, 1 << 14))
  intensity: str = fields.field(fields.one_of('percentiles', 'window'))
  percentiles: tuple[float, float] | None = fields.field(
    _limits('percentiles', 0, 100), left_out=True, default=None
  )
  window: tuple[float, float] | None = fields.field(
    _limits('window', -_MOST_STORED, _MOST_STORED), left_out=True, default=None
  )
  clahe_clip_limit: float = fields.field(fields.number(0, 1))
  resize: str = fields.field(fields.one_of(*RESIZING))
  curvature_flow_iterations: int = fields.field(fields.whole(0, 1000))
  curvature_flow_time_step: float = fields.field(
    lambda value, found: value != 0 and fields.number(0, 1e6)(value, found)
  )

  @property
  def limits(self) -> tuple[float, float]:
    """Percentiles or intensities that become 0 and 1."""
    return getattr(self, self.intensity)


def image_settings(data: ConfigDict) -> ImageSettings:
  """Returns the settings of the config.

  Args:
    data: Section `data` of the config.

  Raises:
    InputError: If `intensity` is unknown.
  """
  limits = {'percentiles': data.percentiles, 'window': data.window}
  if data.intensity not in limits:
    raise InputError(f'data.intensity is {data.intensity!r}; expected percentiles or window.')
  low, high = map(float, limits[data.intensity])
  return ImageSettings(
    slice_axis=data.slice_axis,
    image_size=data.image_size,
    intensity=data.intensity,
    **{data.intensity: (low, high)},
    clahe_clip_limit=float(data.clahe_clip_limit),
    resize=data.resize,
    curvature_flow_iterations=data.curvature_flow_iterations,
    curvature_flow_time_step=float(data.curvature_flow_time_step),
  )


def slice_settings(data: ConfigDict) -> dict[str, Any]:
  """Returns everything but the scans that prepared slices depend on, as JSON values.

  Folds are not among them: the slices serve every fold.

  Args:
    data: Section `data` of the config.
  """
  return {
    'name': data.name,
    **fields.to_json(image_settings(data)),
    'classes': list(data.classes),
    'modalities': data.modalities,
  }
