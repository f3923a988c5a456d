"""The section about a race: the front as a picture, the table, the chosen networks, a sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from thrifty_jax import logbook, records
from thrifty_jax.drawings import drawing, lean_drawing
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.reporting import inputs, plots, raced_time
from thrifty_jax.run_files import COSTS, COURSE, Raced, Retrained
from thrifty_jax.scores import statistics

TITLES = {'search': 'The race', 'front': 'The front'}  # folder -> heading
# Source of a network -> words for its kind and their colour; all others are lean.
KINDS = {'unet': ('narrow U-Net', plots.SECOND), 'genotype': ('given genotype', plots.MUTED)}
LEAN = ('lean network', plots.ACCENT)
HEIGHT = 3.7  # of the picture in inches, with the legend


@dataclass(frozen=True)
class Evaluation:
  """The section of a training's config.json about scores."""

  protocol: str = ''


@dataclass(frozen=True)
class Settings:
  """The part of a training's config.json that says what its DSC is."""

  evaluate: Evaluation = Evaluation()


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
  intervals = {
    one.name: found for one in raced if (found := _find_interval(workdir, one)) is not None
  }
  drawn = [one for one in raced if one.validation_dsc is not None]
  in_full = [one for one in drawn if _is_full(one)]
  others = [one for one in drawn if not _is_full(one) and one.rung == last]
  return {
    'sentence': write_sentence(raced, part),
    'picture': draw(
      raced,
      budgets=sorted({*budgets, *met}),
      part=part,
      name=f'front-{name}',
      intervals=intervals,
    ),
    'finalists': finalists,
    'others': [one for one in raced if one.rung < last],
    'unmet': [f'{budget:g}' for budget in budgets if budget not in met],
    'full': bool(full),
    # What is in the picture besides the networks that were trained in full: other finalists, the
    # intervals of either, and networks that left earlier.
    'rivals': bool(others),
    'intervals': bool(intervals),
    'all_intervals': all(one.name in intervals for one in in_full),
    'race_intervals': any(one.validation_ci95 for one in others),
    'faint': any(one.rung < last for one in drawn),
    **{
      title: f'{name}/{file}' if (workdir / name / file).exists() else ''
      for title, file in (('course', COURSE), ('costs', COSTS))
    },
    'evaluated': inputs.read_evaluated(workdir / full[0]) if full else None,
    'scored': any(one.test_dsc is not None for one in raced),
    # A single one is drawn as the run's own architecture.
    'drawn': [(one, _draw(workdir / one.genotype)) for one in chosen] if len(chosen) > 1 else [],
    'size': raced[0].size,
    'threads': raced[0].threads,
    'machine': raced[0].machine,
    'last': last,
    'length': logbook.format_length(finalists[0].epochs, finalists[0].minutes),
  }


def _find_interval(workdir: Path, one: Raced) -> tuple[float, float] | None:
  """Returns the 95% interval of the validation DSC of full trainings; None if it has none.

  A patient's DSC is the mean over the seeds, as in the choice. The DSC of the protocol pooled_2d,
  which is no mean over patients, has no interval, nor has one of which a file is gone.
  """
  found = []
  for place in one.full:
    settings = records.read_optional(workdir / place / 'config.json', Settings)
    trained = records.read_optional(workdir / place / 'retrain' / 'summary.json', Retrained)
    if not settings or settings.evaluate.protocol != 'volume' or not trained:
      return None
    found.append({patient.patient: patient.dsc for patient in trained.patients})
  both = sorted(set.intersection(*map(set, found))) if found else ()
  if not both:
    return None
  values = np.array([np.mean([scores[patient] for scores in found]) for patient in both])
  return statistics.bootstrap_interval(values)


def draw(
  raced: Sequence[Raced],
  *,
  budgets: Sequence[float],
  part: str,
  name: str,
  intervals: Mapping[str, tuple[float, float]],
) -> Markup:
  """Draws validation and test DSC over milliseconds, and lines at the budgets, as SVG.

  Dots have the DSC of the full training; hollow is a network that has none beside others that do,
  at the DSC of the race. Networks that left before the last rung are pale; one that diverged is
  left out.

  Args:
    raced: Networks to draw.
    budgets: Milliseconds of the lines.
    part: Word for what a network sees at once.
    name: Name of the picture, unique on the page.
    intervals: Ends of the intervals of full trainings, in [0, 1], by the network's name.
  """
  last = max(one.rung for one in raced)
  any_full = any(_is_full(one) for one in raced)
  with matplotlib.rc_context(plots.STYLE):
    figure, axes = plots.start_front(part)
    for budget in budgets:
      axes.axvline(budget, color=plots.MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    for kind, colour in (LEAN, *KINDS.values()):
      shown = [one for one in raced if kind_of(one) == kind and one.validation_dsc is not None]
      for one in shown:
        is_hollow, is_pale = any_full and not _is_full(one), one.rung < last
        ends = None if is_pale else one.validation_ci95
        ends = intervals.get(one.name) if _is_full(one) else ends
        _draw_dot(axes, one, colour, ends, is_hollow=is_hollow, is_pale=is_pale)
      if shown:
        axes.scatter([], [], s=26, color=colour, linewidths=0, label=kind)
    if any_full:
      axes.scatter([], [], s=26, color=plots.INK, linewidths=0, label='trained in full')
    if any_full and any(not _is_full(one) and one.validation_dsc is not None for one in raced):
      _draw_hollow(axes, ([], []), plots.INK, label='in the race only')
    if any(one.test_dsc is not None for one in raced):
      axes.scatter([], [], s=13, marker='D', color=plots.INK, label='test patients')
    figure.set_figheight(HEIGHT)
    figure.legend(loc='outside lower center', ncols=3, labelcolor=plots.MUTED)
    return plots.to_svg(figure, name)


def _draw_dot(
  axes: Axes,
  one: Raced,
  colour: str,
  interval: tuple[float, float] | None,
  *,
  is_hollow: bool,
  is_pale: bool,
) -> None:
  """Draws the scores of a network, and a ring around the one to take."""
  dsc, opacity = 100 * _dsc(one), 0.35 if is_pale else 1.0
  if is_hollow:
    _draw_hollow(axes, (one.ms, dsc), colour, alpha=opacity, zorder=2.7)
  else:
    axes.scatter(one.ms, dsc, s=26, color=colour, alpha=opacity, linewidths=0, zorder=3)
  if interval:
    ends = [100 * end for end in interval]
    axes.plot([one.ms] * 2, ends, color=colour, linewidth=1.2, alpha=0.6, zorder=2.5)
  if one.test_dsc is not None:
    axes.scatter(one.ms, 100 * one.test_dsc, s=13, marker='D', color=plots.INK, zorder=3.5)
  if one.knee:
    axes.scatter(one.ms, dsc, s=120, facecolors='none', edgecolors=plots.INK, linewidths=1.3)


def _draw_hollow(axes: Axes, place: tuple[Any, Any], colour: str, **style: Any) -> None:
  """Draws a hollow dot at milliseconds and DSC in percent."""
  axes.scatter(*place, s=22, facecolors=plots.GROUND, edgecolors=colour, linewidths=1.2, **style)


def write_sentence(raced: Sequence[Raced], part: str = 'slice') -> str:
  """Says which network to take, and what the next faster and the next better one cost.

  `raced` has the fastest first; told of are those chosen for a budget or trained in full.
  """
  taken = next((one for one in raced if one.knee), None)
  if taken is None:
    return 'No network that reached the end of the race is within a budget.'
  text = (
    f'Take {taken.name}, a {kind_of(taken)} ({taken.title}): {taken.ms:.1f} ms a {part} of '
    f'{taken.size} x {taken.size} pixels in {_way(taken)}, and {_percent(_dsc(taken))} % DSC on '
    'the validation patients'
  )
  if taken.precision == 'int8' and taken.int8_validation_dsc is not None:
    text += f', {_percent(taken.int8_validation_dsc)} % in 8 bits'
  rivals = [one for one in raced if one.chosen or one.full]
  faster = [one for one in rivals if one.ms < taken.ms][-1:]
  better = [one for one in rivals if _dsc(one) > _dsc(taken) and one not in faster][:1]
  others = [f'the next faster one, {_beside(one, taken)}' for one in faster]
  others += [f'the next better one, {_beside(one, taken)}' for one in better]
  text += '; ' + ', and '.join(others) if others else ''
  if taken.source != 'unet':
    return f'{text}.'
  return f'{text}. A narrow U-Net wins: {_reason(raced, taken)}.'


def _reason(raced: Sequence[Raced], taken: Raced) -> str:
  """Says why a network is the one to take, by the trainings that chose; see racing/choice.py."""
  any_full = any(_is_full(one) for one in raced)
  peers = [one for one in raced if (_is_full(one) if any_full else one.rung == taken.rung)]
  if all(_dsc(one) <= _dsc(taken) for one in peers):
    return f'no other shape that {"was trained in full" if any_full else "raced"} is better'
  if sum(one.chosen for one in raced) > 1:
    return 'of the chosen ones that are nearly as good as the best it is the fastest'
  where = 'trained in full' if any_full else 'in the last rung'
  within = f'within its budget{"s" * (len(taken.budgets_ms) > 1)}'
  return f'of those {where} and {within} that are level with the best it is the fastest'


def kind_of(one: Raced) -> str:
  """Returns the kind of a network in words."""
  words, _ = KINDS.get(one.source, LEAN)
  return words


def _way(one: Raced) -> str:
  """Returns the runtime and the precision that the milliseconds of a network are of, in words."""
  return raced_time.describe_way(one.runtime, one.precision)


def _beside(one: Raced, taken: Raced) -> str:
  """Says what another network takes, and how good it is beside the one to take."""
  points = round(100 * (_dsc(one) - _dsc(taken)), 1)
  told = f'{abs(points)} points {"better" if points > 0 else "worse"}' if points else 'as good'
  way = f' in {_way(one)}' if _way(one) != _way(taken) else ''
  return f'{one.name}, takes {one.ms:.1f} ms{way} and is {told}'


def _is_full(one: Raced) -> bool:
  """Returns whether a network was trained in full."""
  return one.full_validation_dsc is not None


def _dsc(one: Raced) -> float:
  """Returns the validation DSC, after the full trainings if there are any."""
  full = one.full_validation_dsc
  return (one.validation_dsc or 0.0) if full is None else full


def _percent(dsc: float) -> str:
  """Formats a DSC in [0, 1] in percent."""
  return f'{100 * dsc:.1f}'


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
