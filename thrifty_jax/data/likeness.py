"""What the training scans were like, kept with a model, and how another scan is unlike them.

A network knows nothing of what it never saw: a mask of such a scan may look as sure as any other.
All is measured on slices as the network sees them and on their native grid, so that intensities
compare whatever unit a scanner has; ranges say nothing of single patients.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from thrifty_jax.data import batching

# How far beyond the range of the training scans a value may be. Augmentation enlarges and shrinks
# by about a quarter; spacing and number of slices tell that a scan was taken in another way.
_FACTORS = {
  'slices': 2.0,
  'slice_spacing_mm': 1.5,
  'pixel_spacing_mm': 1.5,
  'field_of_view_mm': 1.25,
}
_TEXTS = {
  'slices': ('{:.0f} slices', '{:.0f} to {:.0f}'),
  'slice_spacing_mm': ('slices {:.3g} mm apart', '{:.3g} to {:.3g} mm'),
  'pixel_spacing_mm': ('pixels of {:.3g} mm', '{:.3g} to {:.3g} mm'),
  'field_of_view_mm': ('a field of view of {:.0f} mm', '{:.0f} to {:.0f} mm'),
}
_PERCENTILES = (5, 50, 95)
_SHADE = 0.15  # likewise for intensities in [0, 1]: what augmentation adds or takes away

Measures = dict[str, list[float]]
Ranges = dict[str, tuple[float, float]]  # the least and the most of each measure
NEEDED = tuple(_FACTORS)  # of which every model has the range


def measure(
  image: np.ndarray, native_shape: Sequence[int], spacing_mm: Sequence[float]
) -> Measures:
  """What is compared of a scan.

  Args:
    image: Its slices before normalisation, [D, S, S, M], float16 in [0, 1].
    native_shape: Voxels of the scan, D (across slices), H, W.
    spacing_mm: Distances of neighbouring voxels along the same axes, mm.

  Returns:
    Values by name, one or two each: number and distance of slices, pixels' sides, longer side of a
    slice, and percentiles of the intensity of each channel.
  """
  sides = np.multiply(native_shape, spacing_mm)[1:]
  found = {
    'slices': [float(native_shape[0])],
    'slice_spacing_mm': [float(spacing_mm[0])],
    'pixel_spacing_mm': [float(side) for side in spacing_mm[1:]],
    'field_of_view_mm': [float(sides.max())],
  }
  for m in range(image.shape[-1]):
    shades = np.percentile(image[..., m].astype(np.float32), _PERCENTILES)
    found |= {f'intensity_{m}_p{p}': [float(s)] for p, s in zip(_PERCENTILES, shades, strict=True)}
  return found


def of_training(prepared: batching.Prepared, patients: Iterable[str]) -> Ranges:
  """The range, [least, most], of each value over the scans of these patients.

  Every slice is read once; one scan is in memory at a time.
  """
  return merged(
    [
      measure(prepared.read(case)['image'], case.native_shape, case.spacing_mm)
      for case in prepared.cases_of(patients)
    ]
  )


def merged(found: Sequence[Mapping[str, Sequence[float]]]) -> Ranges:
  """Least and most of each value that all have, over several scans, or over several ranges."""
  names = [name for name in found[0] if all(name in one for one in found)]
  values = {name: [value for one in found for value in one[name]] for name in names}
  return {name: (min(each), max(each)) for name, each in values.items()}


def unlike(
  scan: Mapping[str, Sequence[float]], training: Mapping[str, Sequence[float]], *, slice_axis: str
) -> list[str]:
  """In what a scan lies outside the range of the training scans, in words; [] where in nothing.

  Args:
    scan: Its measures.
    training: The ranges of the training scans.
    slice_axis: Along which the model looks at slices.
  """
  lines = []
  if _lies_across(scan, training):
    lines.append(
      f'it was taken in thick slices that are not {slice_axis}, as those in training were'
    )
  for name, factor in _FACTORS.items():
    (least, most), (text, span) = training[name], _TEXTS[name]
    for value in dict.fromkeys(scan[name]):
      if not least / factor <= value <= most * factor:
        lines.append(f'{text.format(value)}, in training {span.format(least, most)}')
  shades = [name for name in scan if name.startswith('intensity') and name in training]
  for name in shades:
    (shade,), (least, most) = scan[name], training[name]
    if not least - _SHADE <= shade <= most + _SHADE:
      _, channel, percentile = name.split('_')
      lines.append(
        f'channel {channel}: {percentile[1:]} % of its intensities lie below {shade:.2f} of the '
        f'range that the network sees, in training below {least:.2f} to {most:.2f}'
      )
  return lines


def _lies_across(
  scan: Mapping[str, Sequence[float]], training: Mapping[str, Sequence[float]]
) -> bool:
  """Whether thick slices were trained on, and those of the scan lie along another axis."""
  thick = training['slice_spacing_mm'][0] >= 1.5 * training['pixel_spacing_mm'][1]
  return thick and max(scan['pixel_spacing_mm']) >= 1.5 * scan['slice_spacing_mm'][0]
