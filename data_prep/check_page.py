"""Results of the check: as text for the console, and as one page with a picture of each scan."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_prep import data_sets
from data_prep.findings import Finding, plain
from data_prep.survey import Scan
from thrifty_jax import files, pages
from thrifty_jax.scans import overlays
from thrifty_jax.scans.volumes import Case

PAGE = 'check.html'
_COLUMNS = 100  # width of the console
_LEFT_OUT = ('axes', 'intensity', 'patient')  # columns dropped, in this order, from a wider table
_LONGEST = 24  # characters of a name in the console's table


@dataclasses.dataclass(frozen=True, eq=False)
class Checked:
  """Results of the check.

  Attributes:
    config: Settings of the run.
    cases: All scans that have a mask.
    split: Names of the patients under train, validation and test; empty where they cannot be split.
    scans: Figures of the scans that can be trained on.
    findings: Errors and warnings.
  """

  config: ConfigDict
  cases: Sequence[Case]
  split: Mapping[str, Sequence[str]]
  scans: Sequence[Scan]
  findings: Sequence[Finding]

  def select(self, *, errors: bool) -> list[Finding]:
    """Returns the findings that stop a run, or those that do not."""
    return [finding for finding in self.findings if finding.is_error == errors]


def text(checked: Checked) -> str:
  """Returns a table with a row for each scan, then errors and warnings, 100 columns wide."""
  lines = _listed(checked) if checked.cases else []
  if any(finding.case for finding in checked.findings):
    lines.append('E has an error, w a warning:')
  counts = []
  for title, errors in (('error', True), ('warning', False)):
    found = checked.select(errors=errors)
    lines += [_paragraph(f'{title:<8} {finding.text}') for finding in found]
    counts.append(f'{len(found)} {title}{"s" * (len(found) != 1)}')
  return '\n'.join([*lines, f'{", ".join(counts)}.'])


def write(checked: Checked, workdir: Path) -> Path:
  """Writes check.html, one self-contained page, and returns its path."""
  return files.write_text(workdir / PAGE, pages.render('check.html.j2', _content(checked)))


def _content(checked: Checked) -> dict[str, Any]:
  """Returns the values that the page's template reads."""
  data, rows = checked.config.data, _rows(checked)
  several = len({case.patient for case in checked.cases}) < len(checked.cases)
  return {
    'data': data.name,
    'raw_dir': data_sets.raw_dir(checked.config).name,
    'note': data_sets.module(checked.config).ABOUT.note,
    'classes': data.classes[1:],
    'plain': plain,
    'slice_axis': data.slice_axis,
    'rows': rows,
    'pictures': [row for row in rows if row['scan']],
    'percentiles': _percentiles(checked),
    'several': several,
    'split': checked.split,
    'errors': [finding.text for finding in checked.select(errors=True)],
    'warnings': [finding.text for finding in checked.select(errors=False)],
    'patients': len({case.patient for case in checked.cases}),
    'class_colours': overlays.CLASS_COLOURS,
    'colours': {},
    'dark_colours': {},
  }


def _listed(checked: Checked) -> list[str]:
  """Returns the lines of the table and the explanation of its columns."""
  table, left_out = _table([{' ': row['mark'], **row['cells']} for row in _rows(checked)])
  lines = [table]
  if 'intensity' not in left_out:
    lines.append(f'intensity: {_percentiles(checked)}')
  if 'ml' not in left_out:
    lines.append(_paragraph(f'ml: {", ".join(checked.config.data.classes[1:])}'))
  if left_out:
    lines.append(f'too wide for this table, see {PAGE}: {", ".join(left_out)}')
  return lines


def _rows(checked: Checked) -> list[dict[str, Any]]:
  """Returns a row for each case: its cells, its mark and its figures (None where it has none)."""
  scans = {scan.case: scan for scan in checked.scans}
  part_of = {name: part for part, names in checked.split.items() for name in names}
  wrong, odd = ({f.case for f in checked.select(errors=errors)} for errors in (True, False))
  return [
    {
      'mark': 'E' if case.case in wrong else 'w' if case.case in odd else '',
      'scan': scans.get(case.case),
      'cells': {
        'case': case.case,
        'patient': case.patient,
        'split': part_of.get(case.patient, '-'),
        **_figures(scans.get(case.case)),
      },
    }
    for case in checked.cases
  ]


def _figures(scan: Scan | None) -> dict[str, str]:
  """Returns the figures of a scan as text, dashes where it could not be measured."""
  titles = ('D x H x W', 'spacing mm', 'axes', 'intensity', 'ml')
  if scan is None:
    return dict.fromkeys(titles, '-')
  values = (
    'x'.join(map(str, scan.shape)),
    ' '.join(f'{step:.2f}' for step in scan.spacing_mm),
    scan.orientation or '-',
    ' '.join(f'{plain(low)}..{plain(high)}' for low, _, high in scan.intensity),
    ' '.join(plain(volume_ml) for volume_ml in scan.volume_ml),
  )
  return dict(zip(titles, values, strict=True))


def _table(rows: Sequence[Mapping[str, str]]) -> tuple[str, list[str]]:
  """Returns a line per row, at most 100 characters wide, and the columns that were left out."""
  names = ('case', 'patient')
  short = [{**row, **{name: _shortened(row[name]) for name in names}} for row in rows]
  widths = {title: max(len(title), *(len(row[title]) for row in short)) for title in rows[0]}
  if all(row['patient'] == row['case'] for row in rows):
    del widths['patient']
  left_out = []
  for title in _LEFT_OUT:
    if title in widths and sum(widths.values()) + 2 * (len(widths) - 1) > _COLUMNS:
      del widths[title]
      left_out.append(title)
  lines = [{title: title for title in widths}, *short]
  text = '\n'.join(
    '  '.join(line[title].ljust(width) for title, width in widths.items()).rstrip()
    for line in lines
  )
  return text, left_out


def _shortened(name: str) -> str:
  """Returns the name, or both ends of a long one, as names of scans often differ at the end."""
  half = _LONGEST // 2
  return name if len(name) <= _LONGEST else f'{name[: half - 1]}…{name[-half:]}'


def _paragraph(line: str) -> str:
  """Returns the line wrapped to 100 characters, paths unbroken."""
  return '\n'.join(
    textwrap.wrap(
      line, _COLUMNS, subsequent_indent=9 * ' ', break_long_words=False, break_on_hyphens=False
    )
  )


def _percentiles(checked: Checked) -> str:
  """Returns the explanation of the column of intensities."""
  channels = checked.config.data.modalities
  return '0.5 to 99.5 percentile' + (f' of {channels} channels' if channels > 1 else '')
