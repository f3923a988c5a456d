"""The course of search and retraining as plots, from the lines of their metrics.jsonl."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.networks import space
from thrifty_jax.reporting import health, plots, run_files


def retrain_plots(workdir: Path, retrained: Mapping[str, Any] | None) -> list[str]:
  """Loss and DSC over the epochs of the retraining."""
  lines = run_files.lines(workdir / 'retrain', run_files.RETRAIN_LINE)
  if not lines:
    return []
  best = (retrained or {}).get('best_epoch')
  mark = None if best is None else (best, 'kept')
  loss = _curve(lines, 'loss', 'training')
  scores = [
    _curve(lines, 'dsc', 'training, soft', plots.SECOND, scale=100),
    _curve(lines, 'validation_dsc', 'validation patients', plots.ACCENT, scale=100),
  ]
  return [
    plots.curves([loss], name='retrain-loss', y_label='Training loss', mark=mark, legend=False),
    plots.curves(scores, name='retrain-dsc', y_label='DSC, %', mark=mark),
  ]


def search_plots(workdir: Path) -> list[str]:
  """Losses and DSC over the epochs of the search."""
  lines = run_files.search_lines(workdir)
  if not lines:
    return []
  warm = [line['epoch'] for line in lines if line.get('architecture_loss') is not None]
  mark = (warm[0], 'architecture learns') if warm and warm[0] != lines[0]['epoch'] else None
  losses = [
    _curve(lines, 'weight_loss', 'weights', plots.SECOND),
    _curve(lines, 'architecture_loss', 'architecture', plots.ACCENT),
  ]
  score = _curve(lines, 'architecture_dsc', 'architecture half', plots.ACCENT, scale=100)
  return [
    plots.curves(losses, name='search-loss', y_label='Loss', mark=mark),
    plots.curves(
      [score], name='search-dsc', y_label='DSC on the architecture half, %', mark=mark, legend=False
    ),
  ]


def search_health(workdir: Path) -> dict[str, Any] | None:
  """What the figures of a finished search say about its result; None where there are none."""
  lines, found = run_files.search_lines(workdir), workdir / 'search' / 'genotype.json'
  return health.health(lines, genotypes.load(found)) if lines and found.exists() else None


def alpha_plots(workdir: Path) -> dict[str, dict[str, Any]]:
  """Per kind of cell: a plot of every edge's weights over the epochs, and the operations shown."""
  lines, chosen = run_files.search_lines(workdir), run_files.chosen_operations(workdir)
  found: dict[str, dict[str, Any]] = {}
  for kind in space.CELL_KINDS if lines else ():
    pictures, legend = [], {}
    count = len(lines[0][f'{kind}_alphas'])
    highest = max(max(map(max, line[f'{kind}_alphas'])) for line in lines)
    highest = max(highest, *(max(line[f'{kind}_betas']) for line in lines))
    for index, (node, source) in enumerate(space.edges_of(count)[:count]):
      names = space.candidates(space.resample_of(kind, source), chosen)
      for name in names:
        shown = legend.setdefault(space.operation(name).colour.name, [])
        short = name.removeprefix(f'{kind}_').removesuffix('_3x3')
        shown += [short] if short not in shown else []
      weights = [
        plots.Curve(
          name=name,
          x=[line['epoch'] for line in lines],
          y=[line[f'{kind}_alphas'][index][place] for line in lines],
          colour=plots.operation_colour(name),
        )
        for place, name in enumerate(names)
      ]
      beta = plots.Curve(
        name='edge',
        x=[line['epoch'] for line in lines],
        y=[line[f'{kind}_betas'][index] for line in lines],
        colour=plots.INK,
        dashed=True,
      )
      title = f'{space.state_name(source)} → node{node + 1}'
      picture = plots.curves(
        [*weights, beta],
        name=f'{kind}-edge{index}',
        y_label=title,
        y_limits=(0, 1.05 * highest),
        legend=False,
        size=(2.7, 1.75),
      )
      pictures.append(Markup(picture))
    found[kind] = {'plots': pictures, 'legend': legend}
  return found


def _curve(
  lines: Sequence[Mapping[str, Any]],
  field: str,
  name: str,
  colour: str = plots.ACCENT,
  *,
  scale: float = 1.0,
) -> plots.Curve:
  """A field over the epochs; lines without it leave a gap."""
  values = [line.get(field) for line in lines]
  return plots.Curve(
    name=name,
    x=[line['epoch'] for line in lines],
    y=[None if value is None else scale * value for value in values],
    colour=colour,
  )
