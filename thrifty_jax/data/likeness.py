"""What the training scans were like, kept with a model, and how another scan is unlike them.

A mask of a scan unlike all that a network saw may look as sure as any other. Intensities are those
of slices as the network sees them, which compare whatever a scanner's unit; lengths are those of
the native grid. Ranges say nothing of single patients. An export has a copy of this file beside its
script, so it needs numpy alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np

# The factor by which a value may lie outside the range of the training scans, and how it and the
# range are printed. Augmentation enlarges and shrinks by about a quarter; spacing and number of
# slices show that a scan was taken in another way.
_LIMITS = {
  'slices': (2.0, '{:.0f} slices', '{:.0f} to {:.0f}'),
  'slice_spacing_mm': (1.5, 'slices {:.3g} mm apart', '{:.3g} to {:.3g} mm'),
  'pixel_spacing_mm': (1.5, 'pixels of {:.3g} mm', '{:.3g} to {:.3g} mm'),
  'field_of_view_mm': (1.25, 'a field of view of {:.0f} mm', '{:.0f} to {:.0f} mm'),
}
# A picture has one slice and no millimetres; a pixel has the side 1.
_PICTURE_LIMITS = {
  'field_of_view_mm': (2.0, '{:.0f} pixels on the longer side', '{:.0f} to {:.0f}'),
}
_THICK = 1.5  # ratio of a slice's thickness to its pixels from which it counts as thick
PERCENTILES = (5, 50, 95)
_SHADE = 0.15  # the same for intensities in [0, 1]: what augmentation adds or takes away

Measures = dict[str, list[float]]  # one or two values of each
Ranges = dict[str, tuple[float, float]]  # least and most of each measure
NEEDED = tuple(_LIMITS)  # measures of which every model has the range


def measure(
  image: np.ndarray, native_shape: Sequence[int], spacing_mm: Sequence[float]
) -> Measures:
  """Measures what is compared of a scan.

  The slices, [D, S, S, M], float16 in [0, 1], are those before normalisation; shape and spacing are
  those of the native voxels along D (across slices), H and W.
  """
  channels = np.moveaxis(image, -1, 0)
  shades = [np.percentile(channel.astype(np.float32), PERCENTILES) for channel in channels]
  return describe(shades, native_shape, spacing_mm)


def describe(
  shades: Sequence[np.ndarray], native_shape: Sequence[int], spacing_mm: Sequence[float]
) -> Measures:
  """Returns what `measure` does, given the PERCENTILES of each channel of the slices."""
  sides = np.multiply(native_shape, spacing_mm)[1:]
  found = {
    'slices': [float(native_shape[0])],
    'slice_spacing_mm': [float(spacing_mm[0])],
    'pixel_spacing_mm': [float(side) for side in spacing_mm[1:]],
    'field_of_view_mm': [float(sides.max())],
  }
  for m, values in enumerate(shades):
    found |= {f'intensity_{m}_p{p}': [float(s)] for p, s in zip(PERCENTILES, values, strict=True)}
  return found


def merge(found: Sequence[Mapping[str, Sequence[float]]]) -> Ranges:
  """Returns the ranges over several scans or ranges, of the measures that all have."""
  names = [name for name in found[0] if all(name in one for one in found)]
  values = {name: [value for one in found for value in one[name]] for name in names}
  return {name: (min(each), max(each)) for name, each in values.items()}


def find_unlike(
  scan: Mapping[str, Sequence[float]],
  training: Mapping[str, Sequence[float]],
  *,
  slice_axis: str,
  unit: str = 'mm',
) -> list[str]:
  """Returns a line for each measure of a scan that lies outside the range of the training scans.

  `slice_axis` is the axis that the model's slices lie across, `unit` pixels for pictures.
  """
  lines = []
  trained_on_thick = training['slice_spacing_mm'][0] >= _THICK * training['pixel_spacing_mm'][1]
  if trained_on_thick and max(scan['pixel_spacing_mm']) >= _THICK * scan['slice_spacing_mm'][0]:
    lines.append(
      f'it was taken in thick slices that are not {slice_axis}, as those in training were'
    )
  limits = _PICTURE_LIMITS if unit == 'pixels' else _LIMITS
  for name, (factor, text, span) in limits.items():
    least, most = training[name]
    for value in dict.fromkeys(scan[name]):
      if not least / factor <= value <= most * factor:
        lines.append(f'{text.format(value)}, in training {span.format(least, most)}')
  for name in (name for name in scan if name.startswith('intensity') and name in training):
    (shade,), (least, most) = scan[name], training[name]
    if not least - _SHADE <= shade <= most + _SHADE:
      _, channel, percentile = name.split('_')
      lines.append(
        f'channel {channel}: {percentile[1:]} % of its intensities lie below {shade:.2f} of the '
        f'range that the network sees, in training below {least:.2f} to {most:.2f}'
      )
  return lines
