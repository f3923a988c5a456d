"""The section about a race: the front as a picture, the table, the chosen networks, a sentence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes

from thrifty_jax import records
from thrifty_jax.drawings import drawing, lean_drawing
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.reporting import inputs, plots
from thrifty_jax.run_files import Raced

TITLES = {'search': 'The race', 'front': 'The front'}  # folder -> heading
# Source of a network -> words for its kind and their colour; all others are lean.
KINDS = {'unet': ('narrow U-Net', plots.SECOND), 'genotype': ('given genotype', plots.MUTED)}
LEAN = ('lean network', plots.ACCENT)


def gather(workdir: Path, part: str) -> list[dict[str, Any]]:
  """Gathers the content of the section for each front.json of a run; [] if there is none.

  `part` is the word for what a network sees at once.
  """
  found = []
  for folder, title in TITLES.items():
    raced = records.read_optional(workdir / folder / 'front.json', tuple[Raced, ...])
    if raced:
      found.append({'title': title, **_describe(raced, workdir, part, name=folder)})
  return found


def advise(workdir: Path, part: str) -> str:
  """Says which network to take by the last race of a run; '' if there was none, or no winner."""
  advice = ''
  for folder in TITLES:
    raced = records.read_optional(workdir / folder / 'front.json', tuple[Raced, ...]) or ()
    if any(one.knee for one in raced):
      advice = write_sentence(raced, part)
  return advice


def _describe(raced: Sequence[Raced], workdir: Path, part: str, *, name: str) -> dict[str, Any]:
  last = max(one.rung for one in raced)
  finalists = [one for one in raced if one.rung == last]
  chosen = [one for one in raced if one.chosen]
  met = {budget for one in raced for budget in one.budgets_ms}
  # Older versions left none; those of config.json may be of a later command.
  budgets = records.read_optional(workdir / name / 'budgets.json', tuple[float, ...]) or ()
  full = [place for one in raced for place in one.full]
  return {
    'sentence': write_sentence(raced, part),
    'picture': draw(raced, budgets=sorted({*budgets, *met}), part=part, name=f'front-{name}'),
    'finalists': finalists,
    'others': [one for one in raced if one.rung < last],
    'unmet': [f'{budget:g}' for budget in budgets if budget not in met],
    'full': bool(full),
    'evaluated': inputs.read_evaluated(workdir / full[0]) if full else None,
    'scored': any(one.test_dsc is not None for one in raced),
    # A single one is drawn as the run's own architecture.
    'drawn': [(one, _draw(workdir / one.genotype)) for one in chosen] if len(chosen) > 1 else [],
    'size': raced[0].size,
    'threads': raced[0].threads,
    'machine': raced[0].machine,
    'last': last,
    'epochs': finalists[0].epochs,
  }


def draw(raced: Sequence[Raced], *, budgets: Sequence[float], part: str, name: str) -> Markup:
  """Draws validation and test DSC over milliseconds, and lines at the budgets, as SVG.

  Networks that left the race before the last rung are pale; one that diverged is left out.
  """
  last = max(one.rung for one in raced)
  with matplotlib.rc_context(plots.STYLE):
    figure, axes = plots.start_front(part)
    for budget in budgets:
      axes.axvline(budget, color=plots.MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    for kind, colour in (LEAN, *KINDS.values()):
      shown = [one for one in raced if kind_of(one) == kind and one.validation_dsc is not None]
      for one in shown:
        _draw_dot(axes, one, colour, is_finalist=one.rung == last)
      if shown:
        axes.scatter([], [], s=26, color=colour, linewidths=0, label=kind)
    axes.legend(loc='best', labelcolor=plots.MUTED)
    return plots.to_svg(figure, name)


def _draw_dot(axes: Axes, one: Raced, colour: str, *, is_finalist: bool) -> None:
  """Draws the scores of a network, and a ring around the one to take."""
  dsc, opacity = 100 * (one.validation_dsc or 0), 1.0 if is_finalist else 0.3
  axes.scatter(one.ms, dsc, s=26, color=colour, alpha=opacity, linewidths=0, zorder=3)
  if one.validation_ci95 and is_finalist:
    ends = [100 * end for end in one.validation_ci95]
    axes.plot([one.ms] * 2, ends, color=colour, linewidth=1.2, alpha=0.6, zorder=2.5)
  if one.test_dsc is not None:
    axes.scatter(one.ms, 100 * one.test_dsc, s=24, marker='D', color=plots.INK, zorder=3.5)
  if one.knee:
    axes.scatter(one.ms, dsc, s=120, facecolors='none', edgecolors=plots.INK, linewidths=1.3)


def write_sentence(raced: Sequence[Raced], part: str = 'slice') -> str:
  """Says which network to take, and what the next faster and the next better one cost.

  `raced` has the fastest first; told of are those chosen for a budget or trained in full.
  """
  taken = next((one for one in raced if one.knee), None)
  if taken is None:
    return 'No network reached the end of the race.'
  text = (
    f'Take {taken.name}, a {kind_of(taken)} ({taken.title}): {taken.ms:.1f} ms a {part} of '
    f'{taken.size} x {taken.size} pixels and {_percent(taken)} % DSC on the validation patients'
  )
  rivals = [one for one in raced if one.chosen or one.full]
  faster = [one for one in rivals if one.ms < taken.ms][-1:]
  better = [one for one in rivals if _dsc(one) > _dsc(taken) and one not in faster][:1]
  others = [f'the next faster one, {_beside(one, taken)}' for one in faster]
  others += [f'the next better one, {_beside(one, taken)}' for one in better]
  text += '; ' + ', and '.join(others) if others else ''
  peers = [one for one in raced if one.rung == taken.rung]
  beaten = any(_dsc(one) > _dsc(taken) for one in rivals)
  beaten |= any((one.validation_dsc or 0) > (taken.validation_dsc or 0) for one in peers)
  narrow = taken.source == 'unet' and not beaten
  return f'{text}.{" A narrow U-Net wins: no other shape that raced is better." if narrow else ""}'


def kind_of(one: Raced) -> str:
  """Returns the kind of a network in words."""
  words, _ = KINDS.get(one.source, LEAN)
  return words


def _beside(one: Raced, taken: Raced) -> str:
  points = round(100 * (_dsc(one) - _dsc(taken)), 1)
  told = f'{abs(points)} points {"better" if points > 0 else "worse"}' if points else 'as good'
  return f'{one.name}, takes {one.ms:.1f} ms and is {told}'


def _dsc(one: Raced) -> float:
  """Returns the validation DSC, after the full trainings if there are any."""
  return one.full_validation_dsc or one.validation_dsc or 0.0


def _percent(one: Raced) -> str:
  return f'{100 * _dsc(one):.1f}'


def _draw(path: Path) -> list[Markup]:
  """Draws the network of a genotype file; [] if the file is gone."""
  if not path.exists():
    return []
  found = genotypes.load_any(path)
  if isinstance(found, LeanShape):
    return [Markup(lean_drawing.draw_shape(found).inline())]
  scores = drawing.edge_scores(path)
  return [
    Markup(drawing.draw_cell(kind, getattr(found, kind), scores[kind]).inline())
    for kind in drawing.TITLES
  ]
