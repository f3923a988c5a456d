"""Errors and oddities in a data set, found from the figures of its scans (survey.py)."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_prep import placement
from data_prep.survey import Scan
from thrifty_jax import words
from thrifty_jax.scans import turns
from thrifty_jax.words import Words, list_some

# Modified z-score above which a value counts as an outlier (Iglewicz and Hoaglin, 1993); 0.6745 of
# a standard deviation is the median absolute deviation of a normal distribution.
_OUTLIER, _NORMAL_MAD = 3.5, 0.6745
_ENOUGH = 5  # scans: a median of fewer is unreliable
# However similar the others are, a scan is reported only when it also deviates by this factor.
_FACTORS = {'spacing': 1.25, 'shape': 1.5, 'intensity': 2.0, 'volume': 1.5}
_OFFSET = 0.5  # the same for the darkest voxels, in ranges of the intensities
# An oddity of more scans than this is a property of the set, reported in one line.
_COMMON, _FEW = 0.1, 3  # a share of the scans, and how many are never too many
_POSSIBLE_MM = (0.05, 15.0)  # spacing; beyond, the unit is most often not the millimetre
_AIR = -500.0  # HU: below lies what surrounds a patient in CT; no MR has such values
_COARSE = 0.9  # DSC of masks with themselves, drawn small, below which that is reported
_THICK = 1.5  # times: a side of the voxel this much longer than the others is the thick one


@dataclasses.dataclass(frozen=True)
class Finding:
  """A warning, or an error, which must be corrected before training."""

  text: str  # names the scan or file and the problem, and where useful what to do
  case: str = ''  # name of the scan; '' for the whole set
  is_error: bool = False


def find(
  scans: Sequence[Scan],
  classes: Sequence[str],
  *,
  slice_axis: str = 'axial',
  unit: str = 'mm',
  intensity: str = 'window',
) -> list[Finding]:
  """Returns what is odd about scans of these classes, each by itself and beside the others.

  `unit` is that of lengths, pixels for pictures; `intensity` is data.intensity.
  """
  if not scans:
    return []
  names = words.choose(unit)
  return [
    *_twins(scans, names),
    *_oddities(scans, classes, names),
    *_misplaced(scans, slice_axis, names),
    *_constant(scans, names),
    *_coarse(scans, classes),
    *(_hounsfield(scans) if (unit, intensity) == ('mm', 'percentiles') else ()),
    *_outliers(scans, classes, unit),
  ]


def find_outliers(values: np.ndarray, *, least: float) -> np.ndarray:
  """Returns which values are outliers, [N] bool, by a rule that outliers do not affect.

  They are more than 3.5 robust standard deviations, and more than `least`, from the median of the
  values [N]. NaN, of a scan without a value, is none, and of fewer than 5 values none is.
  """
  there = np.isfinite(values)
  if there.sum() < _ENOUGH:
    return np.zeros(len(values), bool)
  distance = np.abs(values - np.median(values[there]))
  limit = _OUTLIER / _NORMAL_MAD * np.median(distance[there])
  return there & (distance > max(limit, least))


def format_figure(value: float) -> str:
  """Returns a figure with three digits or more, never with an exponent."""
  return f'{value:.0f}' if abs(value) >= 100 else f'{value:.3g}'


def _twins(scans: Sequence[Scan], names: Words) -> Iterator[Finding]:
  """Yields scans with the same voxels under two names."""
  for scan, twin in _firsts(scans, 'image_digest').items():
    text = (
      f'{scan.case}: every {names.element} is that of {twin.case}: one {names.scan} under two names'
    )
    if scan.patient == twin.patient:
      yield Finding(text, scan.case)
    else:
      text += ', so that a patient may be trained on and tested. Remove one.'
      yield Finding(text, scan.case, is_error=True)


def _firsts(scans: Sequence[Scan], digest: str) -> dict[Scan, Scan]:
  """Returns the first scan with the same digest, for each scan that is not the first itself."""
  first = {getattr(scan, digest): scan for scan in reversed(scans)}
  twins = {scan: first[getattr(scan, digest)] for scan in scans if getattr(scan, digest)}
  return {scan: twin for scan, twin in twins.items() if twin is not scan}


def _oddities(scans: Sequence[Scan], classes: Sequence[str], names: Words) -> Iterator[Finding]:
  """Yields what is odd about single scans, and about two of different patients, rule by rule."""
  images, masks, visits = (_firsts(scans, f'{name}_digest') for name in ('image', 'label', 'study'))
  masks = {scan: first for scan, first in masks.items() if scan not in images}
  rules = [
    _rules(scan, classes, names, masks.get(scan, scan), visits.get(scan, scan)) for scan in scans
  ]
  for rule in zip(*rules, strict=True):
    texts = {scan: text for scan, (_, odd, text) in zip(scans, rule, strict=True) if odd}
    yield from _warnings(scans, texts, rule[0][0], names)


def _rules(
  scan: Scan, classes: Sequence[str], names: Words, mask: Scan, visit: Scan
) -> Iterator[tuple[str, bool, str]]:
  """Yields for each rule a text about many scans, whether this one is odd, and a text about it."""
  yield (
    f'masks are, {names.element} for {names.element}, those of other patients',
    mask.patient != scan.patient,
    f'its mask is, {names.element} for {names.element}, that of {mask.case}, another patient',
  )
  yield (
    'files name the same visit as those of other patients, who may be one',
    visit.patient != scan.patient,
    f'its files name the same visit as those of {visit.case}: patient {scan.patient} may be '
    f'{visit.patient}',
  )
  yield (
    'slices look out of order, or damaged',
    bool(scan.disordered),
    f'slice {list_some(scan.disordered)} of {scan.shape[0]} looks less like the slice before than '
    'later slices do: out of order, or damaged',
  )
  if names.scan == 'picture':
    plane, text = 'picture', 'shows nothing, but has a mask'
  else:
    plane, text = 'slice', f'slice {list_some(scan.blank)} shows nothing, but has a mask'
  yield f'{plane}s with a mask show nothing', bool(scan.blank), text
  yield 'headers do not say clearly where their axes point', bool(scan.unsure), scan.unsure
  spacing = ' x '.join(format_figure(side) for side in scan.spacing_mm)
  (low, high), (least, second, largest) = _POSSIBLE_MM, sorted(scan.spacing_mm)
  yield (
    f'the spacing is not from {low:g} to {high:g} mm',
    least < low or largest > high,
    f'spacing {spacing} mm; is it in millimetres?',
  )
  text = 'thick slices lie along another axis than data.slice_axis'
  thick = largest > _THICK * second and scan.spacing_mm[0] < largest
  yield text, thick, f'{text} ({spacing} mm)'
  empty = not scan.class_size.any()
  yield 'the mask is empty', empty, 'the mask is empty'
  for name, size in zip(classes[1:], scan.class_size, strict=True):
    text = f'no {names.element} of {name}'
    yield text, not empty and not size, text
  for number, name in enumerate(classes[1:]):
    text = f'{name} has no contour on a slice between others that have one'
    yield text, any(scan.gaps[number : number + 1]), text


def _misplaced(scans: Sequence[Scan], slice_axis: str, names: Words) -> Iterator[Finding]:
  """Yields scans whose masks lie on something else than those of the others."""
  measured = [(scan, scan.placement) for scan in scans if scan.placement is not None]
  texts = {}
  for n, turn in placement.find_misplaced([found for _, found in measured]).items():
    text = 'its mask lies on something else than the masks of the others'
    if turn:
      text += f'; {turns.describe(turn, slice_axis)} it would lie on the same'
    texts[measured[n][0]] = f'{text}: look at its picture'
  yield from _warnings(scans, texts, 'masks lie on something else than those of the others', names)


def _constant(scans: Sequence[Scan], names: Words) -> Iterator[Finding]:
  """Yields channels that have one value in a scan, and as errors those that have it in all."""
  everywhere = set.intersection(*({*scan.constant} for scan in scans))
  for number in sorted(everywhere):
    yield Finding(
      f'channel {number + 1} is the same in every {names.element} of every {names.scan}; expected '
      f'one that shows something. Save the {names.scan}s without it, or in grey.',
      is_error=True,
    )
  texts = {}
  for scan in scans:
    if some := [str(number + 1) for number in scan.constant if number not in everywhere]:
      one = f'channel {", ".join(some)} is' if len(some) < len(scan.intensity) else 'it is'
      texts[scan] = f'{one} the same in every {names.element}, and shows nothing'
  yield from _warnings(scans, texts, 'a channel shows nothing', names)


def _coarse(scans: Sequence[Scan], classes: Sequence[str]) -> Iterator[Finding]:
  """Yields classes of which little is left as the network sees them, as errors if nothing is."""
  for number, name in enumerate(classes[1:]):
    kept = np.array([scan.kept[number] for scan in scans if scan.kept is not None])
    kept = kept[np.isfinite(kept)]
    if kept.size and (most := float(kept.mean())) < _COARSE:
      left = f'a DSC of {most:.2f} with itself, the most that a network can reach'
      yield Finding(
        f'drawn by data.image_size and data.reduction, {name} keeps {left if most else "no pixel"}'
        '. Raise data.image_size, or lower data.reduction where it is set.',
        is_error=not most,
      )


def _hounsfield(scans: Sequence[Scan]) -> Iterator[Finding]:
  """Yields a warning if every channel of most scans looks like CT."""
  darkest = np.array([scan.intensity[:, 0].max() for scan in scans])
  count = int((darkest < _AIR).sum())
  if 2 * count > len(scans):
    yield Finding(
      f'intensities of {count} of {len(scans)} scans reach down to '
      f'{format_figure(np.median(darkest))}, as Hounsfield units of CT do, but each scan gets its '
      'own percentiles. If it is CT, set --config.data.intensity=window: one window for all, '
      'learned from the training patients.'
    )


def _outliers(scans: Sequence[Scan], classes: Sequence[str], unit: str) -> Iterator[Finding]:
  """Yields scans that are far from the median of the set."""
  names = words.choose(unit)
  for name, suffix, values, scaled, least in _quantities(scans, classes, unit):
    flagged = np.flatnonzero(find_outliers(scaled, least=least)).tolist()
    if flagged:
      there = values[np.isfinite(scaled)]
      median = f'the median is {format_figure(np.median(there))}'
      texts = {scans[i]: f'{name} {format_figure(values[i])}{suffix}; {median}' for i in flagged}
      span = f'{format_figure(there.min())} to {format_figure(there.max())}{suffix}'
      yield from _warnings(scans, texts, f'{name} differs much: {span}, {median}', names)


def _quantities(
  scans: Sequence[Scan], classes: Sequence[str], unit: str
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray, float]]:
  """Yields name, unit, values [N], these on a comparable scale [N], an outlier's least distance."""

  def by_factor(name: str, unit: str, values: np.ndarray, kind: str) -> tuple:
    logarithms = np.log(np.where(values > 0, values, np.nan))
    return name, unit, values, logarithms, np.log(_FACTORS[kind])

  spacing = np.array([scan.spacing_mm for scan in scans])
  yield by_factor('slice spacing', ' mm', spacing[:, 0], 'spacing')
  yield by_factor('pixel spacing', ' mm', np.sqrt(spacing[:, 1] * spacing[:, 2]), 'spacing')
  slices, height, width = np.transpose([scan.shape for scan in scans])
  yield by_factor('number of slices', '', slices, 'shape')
  part = words.choose(unit).part
  yield by_factor(f'height of a {part}', ' pixels', height, 'shape')
  if (height != width).any():
    yield by_factor(f'width of a {part}', ' pixels', width, 'shape')
  channels = np.stack([scan.intensity for scan in scans], axis=1)  # [M, N, 3]
  names = [f' of channel {m + 1}' if len(channels) > 1 else '' for m in range(len(channels))]
  spread = channels[..., 2] - channels[..., 0]
  for name, values in zip(names, spread, strict=True):
    yield by_factor(f'range of intensities{name}', '', values, 'intensity')
  what, of = words.choose(unit).size, ' pixels' if unit == 'pixels' else ' ml'
  for name, size in zip(classes[1:], np.transpose([s.class_size for s in scans]), strict=True):
    yield by_factor(f'{what} of {name}', of, size, 'volume')
  for name, dark, ranges in zip(names, channels[..., 0], spread, strict=True):
    yield f'darkest intensity{name}', '', dark, dark / (np.median(ranges) or np.inf), _OFFSET


def _warnings(
  scans: Sequence[Scan], texts: Mapping[Scan, str], together: str, names: Words
) -> Iterator[Finding]:
  """Yields a warning for each scan with a text, or one for all of them if there are many."""
  if len(texts) <= max(_FEW, _COMMON * len(scans)):
    yield from (Finding(f'{scan.case}: {text}', scan.case) for scan, text in texts.items())
  else:
    some = list_some([scan.case for scan in texts])
    yield Finding(f'{len(texts)} of {len(scans)} {names.scan}s: {together} ({some})')
