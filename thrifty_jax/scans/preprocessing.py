"""Settings of a scan's image before a network sees it, recorded with slices and with models."""

import dataclasses
from typing import Annotated, Any

from ml_collections import ConfigDict

from thrifty_jax import records
from thrifty_jax.allowed import ABOVE_0, REDUCTION, SHARE, one_of, within
from thrifty_jax.settings import SLICE_AXES

RESIZING = ('linear', 'nearest')
FLIPS = ('up_down', 'left_right', 'diagonal')  # fields augment.flip_... of the config
Limit = Annotated[float, within(-1e9, 1e9)]  # what scanners store, or a percentile


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSettings:
  """All that the image of a slice depends on.

  Prepared slices and a model's preprocessing.json both hold these, under these names.
  """

  slice_axis: Annotated[str, one_of(*SLICE_AXES)]
  image_size: Annotated[int, within(1, 1 << 14)]  # side S of a square slice, in pixels
  # 0: a slice is drawn whole to that side; from 1: it is reduced so often and cut into windows
  reduction: Annotated[float, REDUCTION] = 0.0
  # What becomes 0 and 1, ascending: percentiles of the scan or intensities as the scanner stores
  # them; the other is None.
  intensity: Annotated[str, one_of('percentiles', 'window')]
  percentiles: tuple[Limit, Limit] | None = None
  window: tuple[Limit, Limit] | None = None
  clahe_clip_limit: Annotated[float, SHARE]  # of the adaptive equalisation of a slice; 0 is none
  resize: Annotated[str, one_of(*RESIZING)]
  curvature_flow_iterations: Annotated[int, within(0, 1000)]  # steps of smoothing; 0 is none
  curvature_flow_time_step: Annotated[float, ABOVE_0]

  @property
  def limits(self) -> tuple[float, float]:
    """Percentiles or intensities that become 0 and 1."""
    return getattr(self, self.intensity)


def image_settings(data: ConfigDict) -> ImageSettings:
  """Returns the settings in the section `data` of the config."""
  low, high = map(float, data[data.intensity])
  return ImageSettings(
    slice_axis=data.slice_axis,
    image_size=data.image_size,
    reduction=float(data.reduction),
    intensity=data.intensity,
    **{data.intensity: (low, high)},
    clahe_clip_limit=float(data.clahe_clip_limit),
    resize=data.resize,
    curvature_flow_iterations=data.curvature_flow_iterations,
    curvature_flow_time_step=float(data.curvature_flow_time_step),
  )


# Values at which slices do not record a setting, as those prepared before it was there lack it.
UNRECORDED = {
  'reduction': 0.0,
  'regions': '',
  'ignore': 0,
  'colours': [],
  'unit': 'mm',
  'nan_is_lowest': False,
}


def slice_settings(data: ConfigDict) -> dict[str, Any]:
  """Returns what prepared slices depend on besides the scans, as JSON values; no fold is in it."""
  found = {
    'name': data.name,
    **records.to_json(image_settings(data)),
    'classes': list(data.classes),
    'regions': data.regions,
    'ignore': data.ignore,
    'modalities': data.modalities,
    'colours': list(data.colours),
    'unit': data.unit,
    'nan_is_lowest': data.nan_is_lowest,
  }
  return {name: value for name, value in found.items() if value != UNRECORDED.get(name)}
