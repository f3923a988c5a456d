"""Errors and oddities in a data set, found from the figures of its scans (survey.py)."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from data_prep.survey import Scan

# Modified z-score above which a value counts as an outlier (Iglewicz and Hoaglin, 1993); 0.6745 of
# a standard deviation is the median absolute deviation of a normal distribution.
_OUTLIER, _NORMAL_MAD = 3.5, 0.6745
_ENOUGH = 5  # scans: a median of fewer is unreliable
# However similar the others are, a scan is reported only when it also deviates by this factor.
_FACTORS = {'spacing': 1.25, 'shape': 1.5, 'intensity': 2.0, 'volume': 1.5}
_OFFSET = 0.5  # the same for the darkest voxels, in ranges of the intensities
# An oddity of more scans than this is a property of the set, reported in one line.
_COMMON, _FEW = 0.1, 3  # a share of the scans, and how many are never too many
_NAMED = 5  # scans named in such a line
_POSSIBLE_MM = (0.05, 15.0)  # spacing; beyond, the unit is most often not the millimetre
_THICK = 1.5  # times: a side of the voxel this much longer than the others is the thick one


@dataclasses.dataclass(frozen=True)
class Finding:
  """An error or a warning.

  Attributes:
    text: Text that names the scan or file and the problem, and where useful what to do.
    case: Name of the scan; '' for the whole set.
    is_error: Whether it must be corrected before training.
  """

  text: str
  case: str = ''
  is_error: bool = False


def find(scans: Sequence[Scan], classes: Sequence[str]) -> list[Finding]:
  """Returns what is odd about the scans, each by itself and compared with the others.

  Args:
    scans: Scans of the data set that could be measured.
    classes: Names of the K classes, background first.
  """
  if not scans:
    return []
  return [*_twins(scans), *_slices(scans), *_masks(scans, classes), *_outliers(scans, classes)]


def far_off(values: np.ndarray, *, least: float) -> np.ndarray:
  """Returns which values are outliers, by a rule that outliers themselves do not affect.

  Args:
    values: Values of N scans, [N]; NaN, which is no outlier, for a scan without one.
    least: Distance from the median that an outlier exceeds in any case.

  Returns:
    [N] bool: more than 3.5 robust standard deviations and `least` from the median; all False with
    fewer than 5 values.
  """
  there = np.isfinite(values)
  if there.sum() < _ENOUGH:
    return np.zeros(len(values), bool)
  distance = np.abs(values - np.median(values[there]))
  limit = _OUTLIER / _NORMAL_MAD * np.median(distance[there])
  return there & (distance > max(limit, least))


def plain(value: float) -> str:
  """Returns a figure with three digits or more, never with an exponent."""
  return f'{value:.0f}' if abs(value) >= 100 else f'{value:.3g}'


def _twins(scans: Sequence[Scan]) -> Iterator[Finding]:
  """Yields scans with the same voxels, the same mask, or the same visit under two names."""
  images = _firsts(scans, 'image_digest')
  for scan, twin in zip(scans, images, strict=True):
    if twin is scan:
      continue
    text = f'{scan.case}: every voxel is that of {twin.case}: one scan under two names'
    if scan.patient == twin.patient:
      yield Finding(text, scan.case)
    else:
      text += ', so that a patient may be trained on and tested. Remove one.'
      yield Finding(text, scan.case, is_error=True)
  labels = _firsts(scans, 'label_digest')
  yield from _told(
    [
      label.patient != scan.patient and image is scan
      for scan, image, label in zip(scans, images, labels, strict=True)
    ],
    scans,
    lambda i: f'its mask is, voxel for voxel, that of {labels[i].case}, another patient',
    'masks are, voxel for voxel, those of other patients',
  )
  studies = _firsts(scans, 'study_digest')
  yield from _told(
    [study.patient != scan.patient for scan, study in zip(scans, studies, strict=True)],
    scans,
    lambda i: (
      f'its files name the same visit as those of {studies[i].case}: patient {scans[i].patient} '
      f'may be {studies[i].patient}'
    ),
    'files name the same visit as those of other patients, who may be one',
  )


def _firsts(scans: Sequence[Scan], name: str) -> list[Scan]:
  """Returns for each scan the first one with the same digest, or itself without a digest."""
  first: dict[str, Scan] = {}
  digests = [getattr(scan, name) for scan in scans]
  return [
    first.setdefault(digest, scan) if digest else scan
    for scan, digest in zip(scans, digests, strict=True)
  ]


def _slices(scans: Sequence[Scan]) -> Iterator[Finding]:
  """Yields findings about the order and spacing of the slices."""
  spacing = np.array([scan.spacing_mm for scan in scans])
  yield from _told(
    [bool(scan.disordered) for scan in scans],
    scans,
    lambda i: (
      f'{_numbers(scans[i].disordered)} of {scans[i].shape[0]} looks less like the slice before '
      'than later slices do: out of order, or damaged'
    ),
    'slices look out of order, or damaged',
  )
  yield from _told(
    [bool(scan.blank) for scan in scans],
    scans,
    lambda i: f'{_numbers(scans[i].blank)} shows nothing, but has a mask',
    'slices with a mask show nothing',
  )
  possible = (_POSSIBLE_MM[0] <= spacing) & (spacing <= _POSSIBLE_MM[1])
  yield from _told(
    [not all(row) for row in possible],
    scans,
    lambda i: f'spacing {_sides(spacing[i])} mm; is it in millimetres?',
    f'the spacing is not from {_POSSIBLE_MM[0]:g} to {_POSSIBLE_MM[1]:g} mm',
  )
  ordered = np.sort(spacing, axis=1)
  thick = (ordered[:, 2] > _THICK * ordered[:, 1]) & (spacing[:, 0] < ordered[:, 2])
  yield from _told(
    thick,
    scans,
    lambda i: f'thick slices lie along another axis than data.slice_axis ({_sides(spacing[i])} mm)',
    'thick slices lie along another axis than data.slice_axis',
  )


def _masks(scans: Sequence[Scan], classes: Sequence[str]) -> Iterator[Finding]:
  """Yields scans in which a class has no voxel."""
  volumes = np.array([scan.volume_ml for scan in scans])
  empty = np.asarray(volumes.sum(axis=1) == 0)
  yield from _told(empty, scans, lambda i: 'the mask is empty', 'the mask is empty')
  for k, name in enumerate(classes[1:]):
    text = f'no voxel of {name}'
    yield from _told((volumes[:, k] == 0) & ~empty, scans, lambda i, text=text: text, text)


def _outliers(scans: Sequence[Scan], classes: Sequence[str]) -> Iterator[Finding]:
  """Yields scans that are far from the median of the set."""
  for name, unit, values, kind in _quantities(scans, classes):
    positive = np.where(values > 0, values, np.nan)
    yield from _outliers_of(name, unit, values, np.log(positive), np.log(_FACTORS[kind]), scans)
  for m, of_channel in enumerate(_channels(scans)):
    dark, spread = of_channel[:, 0], np.median(of_channel[:, 2] - of_channel[:, 0])
    name = f'darkest intensity{_channel(m, scans)}'
    yield from _outliers_of(name, '', dark, dark / spread, _OFFSET, scans)


def _outliers_of(
  name: str,
  unit: str,
  values: np.ndarray,
  scaled: np.ndarray,
  least: float,
  scans: Sequence[Scan],
) -> Iterator[Finding]:
  """Yields the outliers of one quantity, whose `scaled` values have comparable distances."""
  flagged = far_off(scaled, least=least)
  there = values[np.isfinite(scaled)]
  if not flagged.any():
    return
  median = f'the median is {plain(np.median(there))}'
  yield from _told(
    flagged,
    scans,
    lambda i: f'{name} {plain(values[i])}{unit}; {median}',
    f'{name} differs much: {plain(there.min())} to {plain(there.max())}{unit}, {median}',
  )


def _quantities(
  scans: Sequence[Scan], classes: Sequence[str]
) -> Iterator[tuple[str, str, np.ndarray, str]]:
  """Yields name, unit, values [N] and kind of each quantity that is compared by factors."""
  spacing = np.array([scan.spacing_mm for scan in scans])
  shape = np.array([scan.shape for scan in scans])
  yield 'slice spacing', ' mm', spacing[:, 0], 'spacing'
  yield 'pixel spacing', ' mm', np.sqrt(spacing[:, 1] * spacing[:, 2]), 'spacing'
  yield 'number of slices', '', shape[:, 0], 'shape'
  yield 'height of a slice', ' pixels', shape[:, 1], 'shape'
  if (shape[:, 1] != shape[:, 2]).any():
    yield 'width of a slice', ' pixels', shape[:, 2], 'shape'
  for m, of_channel in enumerate(_channels(scans)):
    name = f'range of intensities{_channel(m, scans)}'
    yield name, '', of_channel[:, 2] - of_channel[:, 0], 'intensity'
  volumes = np.array([scan.volume_ml for scan in scans])
  for k, name in enumerate(classes[1:]):
    yield f'volume of {name}', ' ml', volumes[:, k], 'volume'


def _channels(scans: Sequence[Scan]) -> np.ndarray:
  """Returns the percentiles of all scans by channel, [M, N, 3]."""
  return np.stack([scan.intensity for scan in scans], axis=1)


def _channel(number: int, scans: Sequence[Scan]) -> str:
  return f' of channel {number + 1}' if len(scans[0].intensity) > 1 else ''


def _told(
  flagged: Sequence[bool] | np.ndarray,
  scans: Sequence[Scan],
  each: Callable[[int], str],
  together: str,
) -> Iterator[Finding]:
  """Yields a warning for each flagged scan, or one for all if there are many."""
  found = np.flatnonzero(flagged).tolist()
  if len(found) <= max(_FEW, _COMMON * len(scans)):
    yield from (Finding(f'{scans[i].case}: {each(i)}', scans[i].case) for i in found)
    return
  names = ', '.join(scans[i].case for i in found[:_NAMED])
  more = ', ...' if len(found) > _NAMED else ''
  yield Finding(f'{len(found)} of {len(scans)} scans: {together} ({names}{more})')


def _numbers(slices: Sequence[int]) -> str:
  """Returns `slice 3`, `slice 3, 8` and so on."""
  return f'slice {", ".join(map(str, slices[:_NAMED]))}' + (', ...' if len(slices) > _NAMED else '')


def _sides(spacing_mm: np.ndarray) -> str:
  return ' x '.join(plain(side) for side in spacing_mm)
