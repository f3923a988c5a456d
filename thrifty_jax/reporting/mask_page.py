"""The page about a folder of masks: what a run's page shows of its scores, without a network."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thrifty_jax import labels, pages, words
from thrifty_jax.reporting import patients
from thrifty_jax.run_files import ScoredMasks
from thrifty_jax.scans import overlays, volumes
from thrifty_jax.scores import mask_pairs, tables
from thrifty_jax.scores.mask_pairs import Found, Meaning

_LARGEST = 768  # pixels on the longer side of a slice on the page


def render(
  summary: ScoredMasks,
  rows: Sequence[Mapping[str, Any]],
  found: Found,
  meaning: Meaning,
  *,
  others: Sequence[Sequence[Mapping[str, Any]]] = (),
) -> str:
  """Returns the page; the best, the median and the worst patient are read again for pictures.

  `rows` are those of scores.csv; `others` has those of the other masks, if there are any.
  """
  names = ('these masks', 'other masks')
  named = zip(names, (rows, *others), strict=False)
  dots = [{**row, 'rival': label} for label, of in named for row in of]
  content = {
    'evaluated': summary,
    'model': 'masks',
    'of': tables.describe_patients(summary),
    'place': '',
    'words': words.choose(summary.unit),
    'metrics': tables.label_metrics(summary.unit),
    **tables.describe_exceptions(summary),
    'unused': [path.name for path in found.unused],
    'rows': rows,
    'dots': patients.plot_rivals(dots, {name: name for name in names}),
    'against': tables.describe_difference(summary),
    'viewers': [_draw(*chosen, found, meaning, summary.unit) for chosen in patients.choose(rows)],
    'differences': overlays.DIFFERENCES,
    'class_colours': overlays.line_colours(meaning.truths.colours),
    'colours': {},
    'dark_colours': {},
  }
  return pages.render(
    'masks.html.j2',
    content,
    percent=tables.format_number,
    spread=tables.format_spread,
    interval=tables.format_interval,
  )


def _draw(
  which: str, patient: str, dsc: float, found: Found, meaning: Meaning, unit: str
) -> dict[str, Any]:
  """Pictures the first case of a patient in slices across its thickest axis, without its scan."""
  pair = next(pair for pair in found.pairs if pair.patient == patient)
  volume = mask_pairs.read(pair, meaning)
  steps = np.round(np.divide(volume.spacing_mm, min(volume.spacing_mm)), 1)  # 0.01 is no thickness
  axis = [*volumes.SLICE_AXES][int(steps.argmax())]
  volume = volumes.along(volume, axis)
  _, height, width = np.multiply(volume.truth.shape, volume.spacing_mm)
  every = -(-max(volume.truth.shape[1:]) // _LARGEST)
  truth, mask = (
    labels.innermost(array[:, ::every, ::every].astype(np.uint8), meaning.regions)
    for array in (volume.truth, volume.image[..., 0])
  )
  return {
    'which': which,
    'patient': patient,
    'case': pair.case,
    'dsc': dsc,
    'sides': volumes.list_sides(axis) if unit == 'mm' else (),
    'frames': overlays.draw_frames(
      np.zeros_like(truth), truth, mask, overlays.line_colours(meaning.truths.colours)
    )
    | {'aspect': round(width / height, 4)},  # of the slice in millimetres, not of its pixels
  }
