"""Plots the course of search and retraining from the lines of their metrics.jsonl."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from thrifty_jax.networks import space
from thrifty_jax.reporting import plots
from thrifty_jax.reporting.inputs import RetrainLine, SearchLine

_EDGES = (plots.ACCENT, plots.SECOND, plots.INK, plots.MUTED)  # colours, then the same dashed


def plot_retraining(lines: Sequence[RetrainLine], best_epoch: int | None) -> list[Markup]:
  """Plots loss and DSC over the epochs of the retraining; marks best_epoch if it is known."""
  if not lines:
    return []
  mark = None if best_epoch is None else (best_epoch, 'kept')
  loss = _curve(lines, 'loss', 'training')
  scores = [
    _curve(lines, 'dsc', 'training, soft', plots.SECOND, scale=100),
    _curve(lines, 'validation_dsc', 'validation patients', scale=100),
  ]
  return [
    plots.draw_curves(
      [loss], name='retrain-loss', y_label='Training loss', mark=mark, legend=False
    ),
    plots.draw_curves(scores, name='retrain-dsc', y_label='DSC, %', mark=mark),
  ]


def plot_search(lines: Sequence[SearchLine]) -> list[Markup]:
  """Plots losses and DSC over the epochs of the search."""
  if not lines:
    return []
  warm = [line.epoch for line in lines if line.architecture_loss is not None]
  mark = (warm[0], 'architecture learns') if warm and warm[0] != lines[0].epoch else None
  losses = [
    _curve(lines, 'weight_loss', 'weights', plots.SECOND),
    _curve(lines, 'architecture_loss', 'architecture'),
  ]
  score = _curve(lines, 'architecture_dsc', 'architecture half', scale=100)
  return [
    plots.draw_curves(losses, name='search-loss', y_label='Loss', mark=mark),
    plots.draw_curves(
      [score], name='search-dsc', y_label='DSC on the architecture half, %', mark=mark, legend=False
    ),
  ]


def plot_weights(lines: Sequence[SearchLine], chosen: Sequence[str]) -> dict[str, dict[str, Any]]:
  """Plots, per kind of cell, every edge's weights over the epochs; lists the operations shown.

  `chosen` are the names of the candidate operations; () means all.
  """
  return {kind: _plot_cell(kind, lines, chosen) for kind in space.CELL_KINDS if lines}


def _plot_cell(
  kind: space.CellKind, lines: Sequence[SearchLine], chosen: Sequence[str]
) -> dict[str, Any]:
  """Plots of a cell's operations, edge by edge, and of its edges, and the operations shown."""
  epochs = [line.epoch for line in lines]
  alphas = [getattr(line, f'{kind}_alphas') for line in lines]  # [epochs][E][N]
  highest = max(max(map(max, edges)) for edges in alphas)
  pictures, legend = [], {}
  count = len(alphas[0])
  for index, (node, source) in enumerate(space.edges_of(count)[:count]):
    names = space.candidates(space.resample_of(kind, source), chosen)
    curves = []
    for place, name in enumerate(names):
      short = name.removeprefix(f'{kind}_').removesuffix('_3x3')
      legend.setdefault(space.operation(name).colour.name, {})[short] = None
      own = [edges[index][place] for edges in alphas]
      curves.append(plots.Curve(short, epochs, own, plots.operation_colour(name)))
    picture = plots.draw_curves(
      curves,
      name=f'{kind}-edge{index}',
      y_label=f'{space.state_name(source)} → node{node + 1}',
      y_limits=(0, 1.1 * highest),
      legend=False,
      leader=True,
      size=(2.7, 1.75),
    )
    pictures.append(picture)
  return {'plots': pictures, 'legend': legend, 'edges': _plot_edges(kind, lines)}


def _plot_edges(kind: space.CellKind, lines: Sequence[SearchLine]) -> list[Markup]:
  """Plots the weights of the edges into each node of a cell, which sum to 1 at a node."""
  betas = [getattr(line, f'{kind}_betas') for line in lines]  # [epochs][E]
  of_node: dict[int, list[plots.Curve]] = {}
  count = len(betas[0])
  for index, (node, source) in enumerate(space.edges_of(count)[:count]):
    own = [edges[index] for edges in betas]
    curves = of_node.setdefault(node, [])
    colour = _EDGES[len(curves) % len(_EDGES)]
    curves.append(
      plots.Curve(
        f'from {space.state_name(source)}',
        [line.epoch for line in lines],
        own,
        colour,
        dashed=len(curves) >= len(_EDGES),
      )
    )
  return [
    plots.draw_curves(
      curves, name=f'{kind}-into{node}', y_label=f'into node{node + 1}', y_limits=(0, 1)
    )
    for node, curves in of_node.items()
  ]


def _curve(
  lines: Sequence[RetrainLine] | Sequence[SearchLine],
  field: str,
  name: str,
  colour: str = plots.ACCENT,
  *,
  scale: float = 1.0,
) -> plots.Curve:
  """Curve of a field over the epochs, with gaps at lines without it."""
  values = [getattr(line, field) for line in lines]
  scaled = [None if value is None else scale * value for value in values]
  return plots.Curve(name, [line.epoch for line in lines], scaled, colour)
