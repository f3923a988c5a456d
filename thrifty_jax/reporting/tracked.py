"""What the trackers of a run get of its evaluation."""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax.reporting import patients
from thrifty_jax.run_files import Evaluated, Figures, Spread
from thrifty_jax.scans import overlays
from thrifty_jax.tracking.trackers import Trackers


def send_scores(config: ConfigDict, workdir: Path, evaluated: Evaluated) -> None:
  """Sends the scores, and for a tracker on this machine pictures of three patients."""
  pictures = {}
  if 'tensorboard' in config.trackers:
    colours = overlays.line_colours(config.data.colours)
    pictures = patients.draw_middles(workdir, evaluated, colours)
  trackers = Trackers(config, workdir, 'evaluate')
  trackers.add_scores(list_scores(evaluated), pictures)
  trackers.close()


def list_scores(evaluated: Evaluated) -> dict[str, float]:
  """Returns the mean of every score, and of every class behind its name; no name of a patient."""
  found = _list(evaluated.mean, '')
  for name, figures in evaluated.classes.items():
    found |= _list(figures, f'{name}/')
  return found


def _list(figures: Figures, prefix: str) -> dict[str, float]:
  values = {one.name: getattr(figures, one.name) for one in dataclasses.fields(figures)}
  means = {name: v.mean if isinstance(v, Spread) else v for name, v in values.items()}
  return {prefix + name: mean for name, mean in means.items() if mean is not None}
