"""The section about --stage=compare: table, scores of the patients, scores over milliseconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from thrifty_jax.reporting import inputs, patients, plots
from thrifty_jax.run_files import Compared, Spread
from thrifty_jax.scores import tables

# Kind of a rival -> its words and colour.
KINDS = {
  'searched': ('searched', plots.ACCENT),
  'random': ('random', plots.MUTED),
  'given': ('given', plots.INK),
  'baseline': ('U-Net, UNet++', plots.SECOND),
}
OTHER = ('other', plots.MUTED)  # of a kind that another version of the program wrote
_OF_PAPER = ('unet', 'unet_plus_plus', 'thrifty')  # rivals in the order of the paper's table
_RADIUS = 3.0  # of a dot, in points
# Where a name may stand, the best first: points from the dot, and what of the name is there.
_AROUND = (
  *((6, 0, 'left', 'center'), (-6, 0, 'right', 'center')),
  *((0, 6, 'center', 'bottom'), (0, -6, 'center', 'top')),
  *((5, 8, 'left', 'bottom'), (5, -8, 'left', 'top')),
  *((-5, 8, 'right', 'bottom'), (-5, -8, 'right', 'top')),
)


class _Dot(NamedTuple):
  """A network in the picture; the place of its dot has the score in percent."""

  label: str
  kind: str
  ms: float
  dsc: Spread

  @property
  def place(self) -> tuple[float, float]:
    return self.ms, 100 * self.dsc.mean


def gather(workdir: Path, part: str, *, paper: Sequence[Mapping[str, str]]) -> dict[str, Any]:
  """Gathers the content of the section; `part` is the word for what a network sees at once.

  `paper` has the rows of the paper's table.
  """
  found = inputs.read_compared(workdir)
  if found is None:
    return {'compared': None}
  compared, rows = found
  random = [
    (rival.mean.dsc.mean, rival.difference)
    for rival in compared.rivals
    if rival.kind == 'random' and rival.mean.dsc and rival.difference is not None
  ]
  mean, difference = np.mean(random, axis=0) if random else (None, None)
  times = [one for rival in compared.rivals for one in rival.timed]
  return {
    'compared': compared,
    'compared_dots': patients.plot_rivals(
      rows, {rival.name: rival.label for rival in compared.rivals}
    ),
    'compared_front': draw(compared, part) if times else '',
    'compared_times': times,
    'compared_invented': tables.INVENTED if any(r.mean.invented for r in compared.rivals) else '',
    'random_mean': mean,
    'random_gain': None if difference is None else -difference,
    'paper_of': dict(zip(_OF_PAPER, paper, strict=True)),
  }


def draw(compared: Compared, part: str) -> Markup:
  """Draws the DSC of every timed network over its milliseconds, with its name, as SVG."""
  dots = [
    _Dot(rival.label, rival.kind, rival.ms, rival.mean.dsc)
    for rival in compared.rivals
    if rival.ms and rival.mean.dsc
  ]
  with matplotlib.rc_context(plots.STYLE):
    figure, axes = plots.start_front(part)
    for dot in dots:
      _, colour = KINDS.get(dot.kind, OTHER)
      axes.scatter(*dot.place, s=26, color=colour, linewidths=0, zorder=3)
      if dot.dsc.ci95:
        ends = [100 * end for end in dot.dsc.ci95]
        axes.plot([dot.ms] * 2, ends, color=colour, linewidth=1.2, alpha=0.4, zorder=2.5)
    for kind in dict.fromkeys(dot.kind for dot in dots):
      words, colour = KINDS.get(kind, OTHER)
      axes.scatter([], [], s=26, color=colour, linewidths=0, label=words)
    axes.margins(x=0.15)
    figure.legend(loc='outside lower center', ncols=len(KINDS), labelcolor=plots.MUTED)
    _name(figure, axes, dots)
    return plots.to_svg(figure, 'rivals-front')


def _name(figure: Figure, axes: Axes, dots: Sequence[_Dot]) -> None:
  """Writes the name of each network beside its dot, where there is no other name or dot."""
  figure.draw_without_rendering()  # which places the axes
  pixels = figure.dpi / 72  # of a point
  centres = [axes.transData.transform(dot.place) for dot in dots]
  taken = [Bbox([centre - _RADIUS * pixels, centre + _RADIUS * pixels]) for centre in centres]
  for dot in dots:
    texts = [
      axes.annotate(
        plots.plain(dot.label), dot.place, xytext=(x, y), textcoords='offset points', ha=ha, va=va,
        fontsize=7.5, color=plots.INK,
      )
      for x, y, ha, va in _AROUND
    ]  # fmt: skip
    boxes = [text.get_window_extent() for text in texts]
    free = [
      not any(map(box.overlaps, taken)) and axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
      for box in boxes
    ]
    chosen = free.index(True) if any(free) else 0
    taken.append(boxes[chosen])
    for number, text in enumerate(texts):
      if number != chosen:
        text.remove()
