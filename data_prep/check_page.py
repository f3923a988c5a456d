"""Results of the check: as text for the console, and as one page with a picture of each scan."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_prep import data_sets, dicom_folder
from data_prep.findings import Finding, format_figure
from data_prep.survey import Scan
from thrifty_jax import files, logbook, pages, words
from thrifty_jax.scans import overlays, volumes
from thrifty_jax.scans.volumes import Case

PAGE = 'check.html'
_COLUMNS = 100  # width of the console
_LEFT_OUT = ('axes', 'intensity', 'patient')  # columns dropped, in this order, from a wider table
_FILES = ('series', 'mask')  # columns that name files
_LONGEST = 24  # characters of a name in the console's table


@dataclasses.dataclass(frozen=True, eq=False)
class Checked:
  """Results of the check."""

  config: ConfigDict
  cases: Sequence[Case]  # all that have a mask
  split: Mapping[str, Sequence[str]]  # patients of train, validation, test; {} if there is no split
  scans: Sequence[Scan]  # those that can be trained on
  findings: Sequence[Finding]
  told: Sequence[tuple[str, str]] = ()  # titles and texts about what the data set is, for a person
  having: str = ''  # how many patients of each part of the split have each class

  def select(self, *, errors: bool) -> list[Finding]:
    """Returns the findings that stop a run, or those that do not."""
    return [finding for finding in self.findings if finding.is_error == errors]


def format_table(checked: Checked) -> str:
  """Returns a table with a row for each scan, then errors and warnings, 100 columns wide."""
  lines = _listed(checked) if checked.cases else []
  lines += [_paragraph(f'classes: {checked.having}')] if checked.having else []
  if any(finding.case for finding in checked.findings):
    lines.append('E has an error, w a warning:')
  counts = []
  for title, errors in (('error', True), ('warning', False)):
    found = checked.select(errors=errors)
    texts = [finding.text for finding in found]
    if not errors:  # of which an error that ends the run says that all are listed
      whole = [finding.text for finding in found if not finding.case]
      of_case = [(one.case, one.text.removeprefix(f'{one.case}: ')) for one in found if one.case]
      scan = words.choose(checked.config.data.unit).scan
      texts = whole + logbook.fold(of_case, unit=scan, where=PAGE)
    lines += [_paragraph(f'{title:<8} {text}') for text in texts]
    counts.append(f'{len(found)} {title}{"s" * (len(found) != 1)}')
  return '\n'.join([*lines, f'{", ".join(counts)}.'])


def write(checked: Checked, workdir: Path) -> Path:
  """Writes check.html, one self-contained page, and returns its path."""
  data, rows = checked.config.data, _rows(checked)
  patients = {case.patient for case in checked.cases}
  page = {
    'data': data_sets.find_title(checked.config),
    'told': [(title, text) for title, text in checked.told if title not in ('classes', 'split')],
    'named': [title for title in _FILES if title in (rows[0]['cells'] if rows else ())],
    'note': data_sets.find_module(checked.config).ABOUT.note,
    'classes': data.classes[1:],
    'plain': format_figure,
    'slice_axis': data.slice_axis,
    'sides': volumes.list_sides(data.slice_axis) if data.unit == 'mm' else (),
    'words': words.choose(data.unit),
    'figures': [*_figures(None, data.unit)][:-1],
    'size_unit': _size_unit(data.unit),
    'rows': rows,
    'pictures': [row for row in rows if row['scan']],
    'percentiles': _percentiles(checked),
    'several': len(patients) < len(checked.cases),
    'split': checked.split,
    'having': checked.having,
    'errors': [finding.text for finding in checked.select(errors=True)],
    'warnings': [finding.text for finding in checked.select(errors=False)],
    'patients': len(patients),
    'class_colours': overlays.line_colours(data.colours),
    'colours': {},
    'dark_colours': {},
  }
  return files.write_text(workdir / PAGE, pages.render('check.html.j2', page))


def _rows(checked: Checked) -> list[dict[str, Any]]:
  """Returns a row for each case: its cells, its mark and its figures (None where it has none)."""
  scans, named = {scan.case: scan for scan in checked.scans}, _name_files(checked)
  part_of = {name: part for part, names in checked.split.items() for name in names}
  wrong, odd = ({f.case for f in checked.select(errors=errors)} for errors in (True, False))
  return [
    {
      'mark': 'E' if case.case in wrong else 'w' if case.case in odd else '',
      'scan': scans.get(case.case),
      'cells': {
        'case': case.case,
        **named.get(case.case, {}),
        'patient': case.patient,
        'split': part_of.get(case.patient, '-'),
        **_figures(scans.get(case.case), checked.config.data.unit),
      },
    }
    for case in checked.cases
  ]


def _name_files(checked: Checked) -> dict[str, dict[str, str]]:
  """Returns the files of each case, by _FILES; {} where the names of cases say which they are."""
  cases, place = [case for case in checked.cases if case.label], data_sets.raw_dir(checked.config)
  if cases and cases[0].segments:
    return {
      case.case: dict(zip(_FILES, dicom_folder.name_files(case, place), strict=True))
      for case in cases
    }
  alike = all(case.label[0].name.startswith(f'{case.case}.') for case in cases)
  if checked.config.data.name != 'folder' or alike:
    return {}
  return {case.case: {'mask': case.label[0].name} for case in cases}


def _size_unit(unit: str) -> str:
  """Returns the unit of the sizes of classes; `unit` is that of lengths."""
  return 'pixels' if unit == 'pixels' else 'ml'


def _figures(scan: Scan | None, unit: str) -> dict[str, str]:
  """Returns the figures of a scan as text, the sizes last, dashes where it was not measured."""
  of_pictures = unit == 'pixels'
  names = ('H x W',) if of_pictures else ('D x H x W', 'spacing mm', 'axes')
  if scan is None:
    return dict.fromkeys((*names, 'intensity', _size_unit(unit)), '-')
  grid = (
    'x'.join(map(str, scan.shape[1:] if of_pictures else scan.shape)),
    ' '.join(f'{step:.2f}' for step in scan.spacing_mm),
    scan.orientation or '-',
  )
  return {
    **dict(zip(names, grid, strict=False)),
    'intensity': ' '.join(
      f'{format_figure(low)}..{format_figure(high)}' for low, _, high in scan.intensity
    ),
    _size_unit(unit): ' '.join(map(format_figure, scan.class_size)),
  }


def _listed(checked: Checked) -> list[str]:
  """Returns the lines of the table, at most 100 characters wide, and what its columns mean."""
  rows = [{' ': row['mark'], **row['cells']} for row in _rows(checked)]
  several = any(row['patient'] != row['case'] for row in rows)
  for row in rows:
    row.update({n: _shortened(row[n]) for n in ('case', *_FILES, 'patient') if n in row})
  widths = {title: max(len(title), *(len(row[title]) for row in rows)) for title in rows[0]}
  if not several:
    del widths['patient']
  left_out = []
  for title in _LEFT_OUT:
    if title in widths and sum(widths.values()) + 2 * (len(widths) - 1) > _COLUMNS:
      del widths[title]
      left_out.append(title)
  lines = [
    '  '.join(row[title].ljust(width) for title, width in widths.items()).rstrip()
    for row in ({title: title for title in widths}, *rows)
  ]
  if 'intensity' in widths:
    lines.append(f'intensity: {_percentiles(checked)}')
  data = checked.config.data
  lines.append(_paragraph(f'{_size_unit(data.unit)}: {", ".join(data.classes[1:])}'))
  if left_out:
    lines.append(f'too wide for this table, see {PAGE}: {", ".join(left_out)}')
  return lines


def _shortened(name: str) -> str:
  """Returns the name, or both ends of a long one, as names of scans often differ at the end."""
  half = _LONGEST // 2
  return name if len(name) <= _LONGEST else f'{name[: half - 1]}…{name[-half:]}'


def _paragraph(line: str) -> str:
  """Returns the line wrapped to 100 characters, paths unbroken."""
  wrapper = textwrap.TextWrapper(_COLUMNS, subsequent_indent=9 * ' ')
  wrapper.break_long_words = wrapper.break_on_hyphens = False
  return wrapper.fill(line)


def _percentiles(checked: Checked) -> str:
  """Returns the explanation of the column of intensities."""
  channels = checked.config.data.modalities
  return '0.5 to 99.5 percentile' + (f' of {channels} channels' if channels > 1 else '')
