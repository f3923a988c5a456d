"""Ranges of the training scans, kept with a model, and comparison of other scans with them.

A network is unreliable on scans unlike those of its training, even if its mask looks as confident.
Everything is measured on slices as the network sees them and on their native grid, so that
intensities compare whatever unit a scanner has; ranges reveal nothing about single patients.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from thrifty_jax.data import batching

# Factors by which a value may exceed the range of the training scans. Augmentation scales by about
# a quarter; spacing and number of slices show that a scan was acquired in another way.
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
_SHADE = 0.15  # the same for intensities in [0, 1], as a difference: about that of augmentation

Measures = dict[str, list[float]]
NEEDED = tuple(_FACTORS)  # every model has their ranges


def measure(
  image: np.ndarray, native_shape: Sequence[int], spacing_mm: Sequence[float]
) -> Measures:
  """Returns the measures of a scan that are compared.

  Args:
    image: Slices of the scan before normalisation, [D, S, S, M], float16 in [0, 1].
    native_shape: Numbers of voxels, D (across slices), H, W.
    spacing_mm: Distances of voxels along D, H, W.

  Returns:
    Values by name, one or two each: number and distance of slices, sides of a pixel, longer side of
    a slice, and percentiles of the intensity of each channel.
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


def of_training(prepared: batching.Prepared, patients: Iterable[str]) -> Measures:
  """Returns the range, [least, most], of each value over the scans of these patients.

  Every slice is read once; one scan is in memory at a time.
  """
  patients = set(patients)
  found = []
  for case in prepared.cases:
    if case.patient in patients:
      examples = batching.Examples(prepared, (case,))
      image = examples.read(np.arange(len(examples)))['image']
      found.append(measure(image, case.native_shape, case.spacing_mm))
  return merged(found)


def merged(found: Sequence[Mapping[str, Sequence[float]]]) -> Measures:
  """Returns least and most of each value that all scans or ranges have."""
  names = [name for name in found[0] if all(name in one for one in found)]
  values = {name: [value for one in found for value in one[name]] for name in names}
  return {name: [min(each), max(each)] for name, each in values.items()}


def unlike(
  scan: Mapping[str, Sequence[float]], training: Mapping[str, Sequence[float]], *, slice_axis: str
) -> list[str]:
  """Describes what of a scan lies outside the ranges of the training scans; [] if nothing.

  Args:
    scan: Measures of the scan.
    training: Ranges of the training scans.
    slice_axis: Axis across the model's slices.
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
  """Returns whether thick slices were trained on, and the scan has them along another axis."""
  thick = training['slice_spacing_mm'][0] >= 1.5 * training['pixel_spacing_mm'][1]
  return thick and max(scan['pixel_spacing_mm']) >= 1.5 * scan['slice_spacing_mm'][0]
