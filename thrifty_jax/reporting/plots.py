"""Plots as SVG for a page, in its font and small enough for one column on a phone.

matplotlib draws with placeholder colours, which are replaced by the page's CSS variables, so that a
picture follows the reader's light or dark scheme.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

from thrifty_jax.networks import space
from thrifty_jax.scores import statistics

# Placeholder colour in matplotlib -> variable of the page. Placeholders are never displayed.
COLOURS = {
  '#0a0b01': 'var(--ink)',
  '#0a0b02': 'var(--muted)',
  '#0a0b03': 'var(--line)',
  '#0a0b04': 'var(--accent)',
  '#0a0b05': 'var(--second)',
  '#0a0b06': 'var(--ground)',
}
INK, MUTED, GRID, ACCENT, SECOND, GROUND = COLOURS
_OPERATIONS = {row.colour.name: f'#0a0c{i:02x}' for i, row in enumerate(space.OPERATIONS)}
COLOURS |= {drawn: f'var(--op-{name})' for name, drawn in _OPERATIONS.items()}
LONGEST = 60  # letters of a name at most
POINTS = 240  # of a curve at most; more are not visible and enlarge the page

STYLE = {
  'svg.fonttype': 'none',
  'svg.hashsalt': 'thrifty_jax',  # makes the page reproducible
  'font.size': 8.5,
  'text.color': INK,
  'axes.edgecolor': MUTED,
  'axes.labelcolor': MUTED,
  'axes.facecolor': 'none',
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.linewidth': 0.8,
  'axes.grid': True,
  'axes.axisbelow': True,
  'axes.titlesize': 9,
  'axes.titlelocation': 'left',
  'grid.color': GRID,
  'grid.linewidth': 0.7,
  'xtick.color': MUTED,
  'ytick.color': MUTED,
  'xtick.major.size': 0,
  'ytick.major.size': 0,
  'legend.frameon': False,
  'legend.handlelength': 1.4,
  'lines.linewidth': 1.5,
  'figure.facecolor': 'none',
}


@dataclass(frozen=True)
class Curve:
  """A line of a plot: x and y of equal length; y is None at missing values."""

  name: str
  x: Sequence[float]
  y: Sequence[float | None]
  colour: str = ACCENT
  dashed: bool = False


def operation_colour(name: str) -> str:
  """Colour of an operation, for a Curve."""
  return _OPERATIONS[space.operation(name).colour.name]


def draw_curves(
  lines: Sequence[Curve],
  *,
  name: str,
  y_label: str = '',
  y_limits: tuple[float, float] | None = None,
  mark: tuple[float, str] | None = None,
  size: tuple[float, float] = (4.3, 2.5),
  legend: bool = True,
  leader: bool = False,
) -> Markup:
  """Draws lines over epochs as an SVG element; those without values are left out.

  Args:
    lines: Curves to draw.
    name: Name of the picture, unique on the page.
    y_label: Text above the y axis, at the left.
    y_limits: Ends of the y axis; None fits them to the values.
    mark: Position and text of a vertical line.
    size: Width and height in inches.
    legend: Whether the picture names the lines.
    leader: Whether it names the line that ends highest, at its end.
  """
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.add_subplot()
    for line in lines:
      x, y = _thinned(line)
      if len(x):
        style = {'color': line.colour, 'linestyle': (0, (3, 2)) if line.dashed else 'solid'}
        # A line needs two points.
        axes.plot(x, y, label=line.name, marker='o' if len(x) == 1 else '', markersize=4, **style)
    if y_limits:
      axes.set_ylim(*y_limits)
    if mark:
      axes.axvline(mark[0], color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
      axes.annotate(
        mark[1], (mark[0], 1), xycoords=('data', 'axes fraction'), xytext=(3, -8),
        textcoords='offset points', color=MUTED, fontsize=7.5,
      )  # fmt: skip
    ends = [
      (y[-1], x[-1], line) for line in lines for x, y in (_thinned(line),) if leader and len(x)
    ]
    if ends:
      last, at, line = max(ends, key=lambda end: end[0])
      axes.annotate(
        line.name, (at, last), xytext=(0, 3), textcoords='offset points', ha='right', fontsize=7.5,
        color=INK,
      )  # fmt: skip
    axes.set_xlabel('epoch')
    axes.set_title(y_label, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator('auto', integer=True))
    if legend and axes.get_legend_handles_labels()[0]:
      axes.legend(loc='best', labelcolor=MUTED)
    return to_svg(figure, name)


def draw_dots(groups: Mapping[str, Mapping[str, Sequence[float]]], *, name: str) -> Markup:
  """Draws a dot per patient, the mean and its interval, a row per class and network, as SVG.

  `groups` have the DSC of each patient, in percent, by class and network; the first stands out, and
  one without any is left out.
  """
  rows = [
    (group, row, values)
    for group, of_group in groups.items()
    for row, values in of_group.items()
    if values
  ]
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(4.6, 0.55 + 0.52 * len(rows)), layout='constrained')
    axes = figure.add_subplot()
    lowest = min((min(values) for _, _, values in rows), default=0)
    margin = max(100 - lowest, 2) / 40  # half a dot, which would be cut at the ends
    axes.set_xlim(lowest - margin, 100 + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
    for y, (group, row, values) in enumerate(rows):
      first = row == next(iter(groups[group]))
      # The vertical spread is not random, so that the page is reproducible.
      offset = np.arange(len(values)) % 3 - 1 if len(values) > 3 else np.zeros(len(values))
      dot = ACCENT if first else MUTED
      axes.scatter(values, y + 0.12 * offset, s=26, color=dot, alpha=0.65, linewidths=0, zorder=3)
      if interval := statistics.bootstrap_interval(np.asarray(values)):
        axes.plot(interval, [y, y], color=INK, linewidth=1.6, alpha=0.45, zorder=3.5)
      axes.plot([np.mean(values)] * 2, [y - 0.22, y + 0.22], color=INK, linewidth=1.6, zorder=4)
      text = plain(f'{group}: {row}' if len(groups) > 1 else row)
      # The name is above its dots, not beside them, so that it is legible on a phone.
      place, colour = axes.get_yaxis_transform(), INK if first else MUTED
      axes.text(0, y - 0.34, text, transform=place, color=colour)
    axes.set_ylim(len(rows) - 0.65, -0.8)
    axes.set_yticks([])
    axes.spines['left'].set_visible(False)
    axes.set_xlabel('DSC of a patient, %')
    return to_svg(figure, name)


def start_front(part: str) -> tuple[Figure, Axes]:
  """Starts a picture of scores in percent over milliseconds a part, on a logarithmic axis."""
  figure = Figure(figsize=(4.8, 3.1), layout='constrained')
  axes = figure.add_subplot()
  axes.set_xscale('log')
  axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter(FormatStrFormatter('%g'))
  axes.xaxis.set_minor_locator(NullLocator())
  axes.set_xlabel(f'ms a {part}')
  axes.set_title('DSC, %', color=INK)
  return figure, axes


def plain(text: str) -> str:
  """Returns a text that matplotlib draws as it is: what is between dollar signs is a formula."""
  return ''.join(filter(str.isprintable, text))[:LONGEST].replace('$', r'\$')


def _thinned(line: Curve) -> tuple[np.ndarray, np.ndarray]:
  """Existing values, evenly thinned to POINTS; the last one is kept."""
  kept = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None and np.isfinite(y)]
  if len(kept) > POINTS:
    kept = [kept[int(i)] for i in np.linspace(0, len(kept) - 1, POINTS)]
  array = np.asarray(kept, float).reshape(-1, 2)
  return array[:, 0], array[:, 1]


def to_svg(figure: Figure, name: str) -> Markup:
  """Converts a figure to an SVG element that can share a page with others."""
  file = io.StringIO()
  figure.savefig(file, format='svg', transparent=True, metadata={'Date': None, 'Creator': None})
  text = file.getvalue()
  text = text[text.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
  # Ids must be unique on a page, so each picture gets its own.
  text = re.sub(r'(\bid="|href="#|url\(#)(?=[^")])', rf'\g<1>{name}-', text)
  for drawn, variable in COLOURS.items():
    text = text.replace(drawn, variable)
  text = re.sub(r'(font: [\d.]+px) [^;\"]*', r'\1 var(--font)', text)
  text = re.sub(r'font-family: [^;"]*', 'font-family: var(--font)', text)
  return Markup(text.strip())
