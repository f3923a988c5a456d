"""Settings of slices as most tests want them: axial, by percentiles, without filters."""

from typing import Any

from thrifty_jax.scans.preprocessing import ImageSettings


def make(**changes: Any) -> ImageSettings:
  """Returns settings for 16 x 16 pixels, with some of them changed."""
  plain: dict[str, Any] = {
    'slice_axis': 'axial',
    'image_size': 16,
    'intensity': 'percentiles',
    'percentiles': (0.5, 99.5),
    'clahe_clip_limit': 0.0,
    'resize': 'linear',
    'curvature_flow_iterations': 0,
    'curvature_flow_time_step': 0.125,
  }
  return ImageSettings(**plain | changes)


def make_window(low: float, high: float, **changes: Any) -> ImageSettings:
  """Returns settings in which two intensities become 0 and 1."""
  return make(intensity='window', percentiles=None, window=(low, high), **changes)
