"""Formats scores in percent and millimetres, or pixels, and counts, for console and report."""

from collections.abc import Mapping, Sequence

import numpy as np

from thrifty_jax import words
from thrifty_jax.run_files import (
  Compared,
  Evaluated,
  Figures,
  Floor,
  Overlap,
  Rival,
  ScoredMasks,
)
from thrifty_jax.scores import agreement, statistics

_FRACTIONS = ('dsc', 'nsd')
# How a difference treats patients of whom only one of two has a score, see compare_paired.
INVENTED = 'in a difference, a class rightly left empty counts 1 where the other invents it'


def label_metrics(unit: str) -> dict[str, str]:
  """Returns the name of each metric with its unit; `unit` is that of distances.

  As in the field's papers, scores from 0 to 1 in files are percentages here.
  """
  return {
    'dsc': 'DSC, %',
    'hd95_mm': f'HD95, {unit}',
    'assd_mm': f'ASSD, {unit}',
    'max_distance_mm': f'maximum, {unit}',
    'nsd': 'NSD, %',
    'ravd_percent': 'RAVD, %',
  }


def format_number(value: float | None, metric: str = 'dsc') -> str:
  """Formats a value of a metric to two decimals: `90.12`, or `+3.40` for a signed metric."""
  if value is None:
    return '–'
  sign = '+' if metric == 'ravd_percent' else ''
  return f'{100 * value if metric in _FRACTIONS else value:{sign}.2f}'


def format_macs(macs: float) -> str:
  """Formats a number of multiplications with at least three digits: `4.57 G`, `188 M`."""
  unit, letter = find_unit(macs)
  count = macs / unit
  return f'{count:.{2 - (count >= 10) - (count >= 100)}f} {letter}'


def find_unit(count: float) -> tuple[float, str]:
  """Returns the unit to write a count in, and its letter: a billion, else a million or a thousand.

  It is the largest that the count reaches; a thousand also for less than that.
  """
  if count >= 1e9:
    return 1e9, 'G'
  return (1e6, 'M') if count >= 1e6 else (1e3, 'k')


def format_spread(figures: Figures | Overlap, metric: str = 'dsc') -> str:
  """Formats mean and deviation, `90.12 ± 1.30`; only the mean if there is no deviation."""
  found = getattr(figures, metric)
  if found is None:
    return format_number(None)
  text = format_number(found.mean, metric)
  return text if found.std is None else f'{text} ± {format_number(found.std, metric).lstrip("+")}'


def format_interval(figures: Figures | Overlap, metric: str = 'dsc') -> str:
  """Formats the 95% interval of the mean, `88.20 to 91.90`; '' if there is none."""
  found = getattr(figures, metric)
  return (
    ' to '.join(format_number(end, metric) for end in found.ci95) if found and found.ci95 else ''
  )


def describe_flags(summary: Evaluated | ScoredMasks) -> str:
  """Describes the missed and invented classes; '' if there are none."""
  scan = words.choose(summary.unit).scan
  return '; '.join(
    f'{name} was {flag} in {count} {scan}{"s" * (count != 1)}'
    for flag in ('missed', 'invented')
    for name, figures in summary.classes.items()
    if (count := getattr(figures, flag))
  )


def describe_unscored(summary: Evaluated | ScoredMasks) -> str:
  """Describes how many patients have a score of a class where not all have; '' if all have."""
  scan, patients = words.choose(summary.unit).scan, _count_patients(summary.patients)
  return '; '.join(
    f'{name} is scored in {figures.scored} of {patients}'
    f' and rightly empty in {figures.rightly_empty} {scan}{"s" * (figures.rightly_empty != 1)}'
    for name, figures in summary.classes.items()
    if figures.scored is not None and figures.scored < summary.patients
  )


def describe_several(summary: Evaluated | ScoredMasks) -> str:
  """Describes how the scans of a patient combine; '' where each patient has one."""
  of = words.choose(summary.unit)
  return (
    f'of a patient with several {of.scan}s {of.element}s are summed and distances averaged'
    if len(summary.cases) > summary.patients
    else ''
  )


def describe_exceptions(summary: Evaluated | ScoredMasks) -> dict[str, str]:
  """Describes what a page says below the scores, '' where there is nothing to say."""
  return {
    'flagged': describe_flags(summary),
    'several': describe_several(summary),
    'unscored': describe_unscored(summary),
  }


def describe_largest(summary: Evaluated) -> str:
  """Lists the classes of which only the largest piece counts, and in how many of several folds."""
  folds = summary.of_folds
  counts = {
    name: sum(name in one.largest_component for one in folds) for name in summary.largest_component
  }
  return ', '.join(
    name + f' in {count} of {len(folds)} folds' * bool(folds) for name, count in counts.items()
  )


def format_evaluation(summary: Evaluated) -> str:
  """Formats the tables of an evaluation: DSC beside the floors, then distances."""
  title = (
    f'{count_patients(summary)}, native grid, mean ± deviation; protocol {summary.protocol}'
    f'{"" if summary.held_out else ", not held out"}'
  )
  notes = []
  if summary.floors:
    notes.append(f'(floors were fitted on the training {words.choose(summary.unit).part}s)')
  if pieces := describe_largest(summary):
    notes.append(f'(only the largest piece of {pieces} counts: on validation it helped)')
  notes += _list_exceptions(summary)
  notes += [summary.note] if summary.note else []
  if summary.suspects:
    notes.append('masks to look at, which disagree most with the network:')
    notes += [f'  {agreement.describe(one)}' for one in summary.suspects]
  floors = summary.floors.values()
  pooled = [format_number(one.mean.pooled_2d_dsc) for one in (summary, *floors)]
  overlap = [
    *_overlap(summary, summary.model, summary.floors),
    ['pooled 2D', pooled[0], '', *pooled[1:]],
  ]
  return _below(title, overlap, _distances(summary, summary.model), notes)


def format_masks(summary: ScoredMasks) -> str:
  """Formats the tables of masks that any program made: DSC, then distances."""
  title = f'{describe_patients(summary)}, grid of the truths, mean ± deviation'
  notes = _list_exceptions(summary)
  if count := len(summary.missing):
    notes.append(f'(not counted: {count} truth{"s have" if count > 1 else " has"} no mask)')
  if summary.against:
    notes.append(f'(against {summary.against.masks}: {describe_difference(summary)})')
  return _below(title, _overlap(summary, 'masks'), _distances(summary, 'masks'), notes)


def describe_difference(summary: ScoredMasks) -> str:
  """Describes the other masks and how much the masks are ahead of them; '' if there are none."""
  against = summary.against
  if against is None:
    return ''
  text = f'mean DSC {format_spread(against.mean)} %'
  if against.difference is None:
    return text
  text += f'; difference {100 * against.difference:+.2f}, '
  if against.p_value is None:
    text += 'no test on so few patients'
  else:
    p_value = format_p(against.p_value)
    p_value = p_value if p_value.startswith('<') else f'= {p_value}'
    text += f'p {p_value} by the paired Wilcoxon test over patients'
  return text + f'; {INVENTED}' * bool(summary.mean.invented or against.mean.invented)


def format_p(value: float | None) -> str:
  """Formats the p of a test, a dash without one."""
  if value is None:
    return '–'
  return f'{value:.3f}' if value >= 0.0005 else '< 0.001'


def describe_patients(summary: ScoredMasks) -> str:
  """Describes the number of patients and, where it differs, of cases: `8 patients, 9 cases`."""
  text, cases = _count_patients(summary.patients), len(summary.cases)
  return text if cases == summary.patients else f'{text}, {cases} cases'


def _list_exceptions(summary: Evaluated | ScoredMasks) -> list[str]:
  """Describes in lines what was missed or invented, and what has no score."""
  notes = []
  if text := describe_flags(summary):
    rule = f'DSC 0, distances the diagonal of the {words.choose(summary.unit).scan}'
    notes.append(f'({text}: {"; ".join(filter(None, (rule, describe_several(summary))))})')
  if text := describe_unscored(summary):
    notes.append(f'({text}{": the means are over the others" * bool(summary.mean.dsc)})')
  return notes


def _below(
  title: str, overlap: list[list[str]], distances: list[list[str]], notes: Sequence[str]
) -> str:
  """Joins a title, two tables of cells and notes."""
  lines = [*align(overlap), '', *align(distances), *notes]
  return '\n'.join([title, *(f'  {line}' if line else '' for line in lines)])


def count_patients(summary: Evaluated) -> str:
  """Describes the number of patients and their split, `8 test patients`."""
  return _count_patients(summary.patients, f'{summary.split} patient')


def _count_patients(count: int, named: str = 'patient') -> str:
  return f'{count} {named}{"s" * (count != 1)}'


def format_comparison(summary: Compared) -> str:
  """Formats the table of a comparison, a line per network."""
  labels, seeds = label_metrics(summary.unit), len(summary.rivals[0].seeds_dsc)
  timed = any(rival.timed for rival in summary.rivals)
  head = [
    '',
    'parameters',
    'GMAC',
    *['ms'] * timed,
    labels['dsc'],
    *[f'{seeds} seeds'] * (seeds > 1),
  ]
  lines = [[*head, 'difference', 'p', labels['hd95_mm'], 'pooled 2D', 'rate', 'training']]
  for rival in summary.rivals:
    lines.append(
      [
        rival.label,
        f'{rival.parameters:,.0f}',
        f'{rival.macs / 1e9:.2f}',
        *['–' if rival.ms is None else f'{rival.ms:.2f}'] * timed,
        format_spread(rival.mean),
        *[format_seeds(rival)] * (seeds > 1),
        '' if rival.difference is None else f'{100 * rival.difference:+.2f}',
        '' if rival.p_value is None else format_p(rival.p_value),
        format_spread(rival.mean, 'hd95_mm'),
        format_number(rival.mean.pooled_2d_dsc),
        ' '.join(f'{rate:g}' for rate in dict.fromkeys(rival.learning_rates)),
        f'{rival.seconds / 60:.1f} min',
      ]
    )
  title = (
    f'{summary.patients} {summary.split} patients of fold{"s" * (len(summary.folds) > 1)} '
    f'{", ".join(map(str, summary.folds))}, native grid, mean ± deviation'
    f'{" over patients" * (seeds > 1)}{"" if summary.held_out else ", not held out"}'
  )
  notes = [f'difference to: {summary.rivals[0].label}; p: paired Wilcoxon test']
  if seeds > 1:
    notes.append(f'{seeds} seeds: mean and deviation of the mean over patients')
  if any(rival.mean.invented for rival in summary.rivals):
    notes.append(INVENTED)
  return '\n  '.join([title, *align(lines), f'({"; ".join(notes)})'])


def format_seeds(rival: Rival) -> str:
  """Formats mean and deviation over the seeds of the mean DSC, `84.12 ± 0.35`; `–` without one."""
  found = [dsc for dsc in rival.seeds_dsc if dsc is not None]
  if not found:
    return format_number(None)
  mean, deviation = statistics.mean_and_deviation(np.array(found))
  return f'{format_number(mean)} ± {format_number(deviation)}'


def _overlap(
  summary: Evaluated | ScoredMasks, name: str, floors: Mapping[str, Floor] | None = None
) -> list[list[str]]:
  """Cells with the DSC of what has a name, its interval and the floors' DSC."""
  names, floors = {'mean_mask': 'mean mask', 'intensity_thresholds': 'thresholds'}, floors or {}
  lines = [['DSC, %', name, '95% interval', *(names.get(one, one) for one in floors)]]
  for (of, own), *beside in zip(_results(summary), *map(_results, floors.values()), strict=True):
    others = (format_spread(one) for _, one in beside)
    lines.append([of, format_spread(own), format_interval(own) or '–', *others])
  return lines


def _distances(summary: Evaluated | ScoredMasks, name: str) -> list[list[str]]:
  """Cells with the HD95, ASSD and NSD of what has a name."""
  labels = label_metrics(summary.unit)
  near = f'NSD at {summary.nsd_tolerance_mm:g} {summary.unit}, %'
  lines = [[name, labels['hd95_mm'], labels['assd_mm'], near]]
  for of, own in _results(summary):
    lines.append([of, *(format_spread(own, metric) for metric in ('hd95_mm', 'assd_mm', 'nsd'))])
  return lines


def _results(summary: Evaluated | ScoredMasks | Floor) -> list[tuple[str, Figures | Overlap]]:
  """Figures of the classes and, if there are several, their mean."""
  classes: list[tuple[str, Figures | Overlap]] = [*summary.classes.items()]
  return [*classes, ('mean', summary.mean)] if len(classes) > 1 else classes


def align(lines: Sequence[Sequence[str]], *, left: int | None = None) -> list[str]:
  """Aligns the cells of the lines in columns, only the first `left` ones to the left if given."""
  columns = []
  for place, cells in enumerate(zip(*lines, strict=True)):
    justify = str.ljust if left is None or place < left else str.rjust
    columns.append([justify(cell, max(map(len, cells))) for cell in cells])
  return ['  '.join(line).rstrip() for line in zip(*columns, strict=True)]
