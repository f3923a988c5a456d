"""Progress and results of a search: its figures in each epoch, and the genotype at the end."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import files, logbook, records
from thrifty_jax.data import mesh
from thrifty_jax.networks import build, genotype, parameters
from thrifty_jax.networks.architecture import Architecture, ArchitectureWeights
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.grid import architecture_weights
from thrifty_jax.networks.space import space_of
from thrifty_jax.run_files import OfSeed, Seeds
from thrifty_jax.searching import budget
from thrifty_jax.searching.bilevel import SearchState
from thrifty_jax.searching.steps import Halves
from thrifty_jax.training import autosave, hosts
from thrifty_jax.training.train_data import Figures


@dataclasses.dataclass
class Progress(autosave.Progress):
  """Progress of a search: that of every loop, and what its end depends on."""

  NOTED = ('epoch', 'unchanged')

  state: SearchState
  derived_from: Architecture  # at the end of the last epoch, to compare the next genotype with
  unchanged: int = 0  # epochs since the genotype changed
  for_weights: Figures = dataclasses.field(default_factory=lambda: Figures('search', 0))
  for_architecture: Figures = dataclasses.field(default_factory=lambda: Figures('search', 0))

  def is_finished(self, settings: ConfigDict) -> bool:
    """Returns whether all epochs are done or the genotype was unchanged for `patience` epochs."""
    return self.epoch >= settings.epochs or 0 < settings.patience <= self.unchanged

  def shown(self) -> dict[str, str]:
    """Returns the figures of the present epoch for the progress bar; {} while one half has none."""
    if not self.for_architecture.steps:
      return {}
    loss, dsc = self.for_weights.mean('weight_loss'), self.for_architecture.dsc()
    return {'loss': f'{loss:.3f}', 'dsc': f'{100 * dsc:.1f} %'}

  def arrays(self) -> dict[str, Any]:
    """Returns the arrays of the progress, a pytree."""
    return {'state': self.state._asdict(), 'derived_from': self.derived_from}

  def set_arrays(self, arrays: Any) -> None:
    """Sets the state and the variables that the last genotype was derived from."""
    self.state, self.derived_from = SearchState(**arrays['state']), arrays['derived_from']


class Searched(NamedTuple):
  """The result of one search."""

  folder: Path  # with its genotype.json and metrics.jsonl
  genotype: Genotype
  figures: OfSeed
  seconds: float  # of its epochs


def describe(config: ConfigDict, halves: Halves, state: SearchState) -> None:
  """Prints the supernet and the patients of a search before its first step."""
  settings = config.search
  if settings.seeds > 1:
    seeds = f'{halves.epochs[0].seed} of {config.seed} to {config.seed + settings.seeds - 1}'
    logbook.say('seed', f'{seeds}, searched one after the other')
  logbook.say('supernet', f'{build.count(state.params):,} weights, {settings.channels} channels')
  weights, architecture = map(len, halves.patients)
  logbook.say(
    'halves',
    f'{weights} patients for the weights, {architecture} for the architecture; '
    f'{halves.steps} steps an epoch',
  )
  expected = size(state.architecture, config)['expected_parameters']
  limit = f'; the limit is {settings.max_parameters:,}' if settings.max_parameters else ''
  logbook.say('derived', f'{expected:,} parameters on average at the start{limit}')


def end_epoch(
  config: ConfigDict, progress: Progress, log: logbook.Logbook, *, warm_up: bool
) -> None:
  """Writes the figures of the epoch and counts it."""
  for_weights, for_architecture = progress.for_weights, progress.for_architecture
  for_weights.flush()
  for_architecture.flush()
  architecture = progress.state.architecture
  same = derive(architecture, config) == derive(progress.derived_from, config)
  progress.unchanged = progress.unchanged + 1 if same and not warm_up else 0
  progress.derived_from = architecture
  log.append(
    {
      'epoch': progress.epoch + 1,
      'step': progress.step,
      'weight_loss': for_weights.mean('weight_loss'),
      'weight_gradient': for_weights.mean('weight_gradient'),
      'architecture_loss': None if warm_up else for_architecture.mean('architecture_loss'),
      'architecture_dsc': for_architecture.dsc(),
      'unchanged_epochs': progress.unchanged,
      'seconds': time.monotonic() - progress.began,
      **size(architecture, config),
      **weights_as_lists(architecture, config),
    }
  )
  progress.end_epoch()


def foretell(
  config: ConfigDict, progress: Progress, halves: Halves, *, seconds: float, warm_up: bool
) -> None:
  """Prints when the searches will be done, by the seconds of the steps of the last epoch.

  An epoch of both half steps takes twice as long as one that trains only the weights, if both are
  of the first order; else the first epoch of both tells.
  """
  settings = config.search
  if progress.is_finished(settings) or (warm_up and settings.order != 'first'):
    return
  weights, both = (seconds, 2 * seconds) if warm_up else (seconds / 2, seconds)

  def take(done: int) -> float:
    """Returns the seconds of a search from so many epochs on."""
    left = range(done, settings.epochs)
    return sum(weights if epoch < settings.warmup_epochs else both for epoch in left)

  others = config.seed + settings.seeds - 1 - halves.epochs[0].seed  # that are not begun
  minutes, epochs = config.retrain.minutes, config.retrain.epochs
  training = f'{minutes:g} min' if minutes else f'{epochs} epochs'
  progress.foretell(
    'the search',
    take(progress.epoch) + others * take(0),
    then=f'a training of {training} may follow, and tells its own time',
  )


def derive(architecture: Architecture, config: ConfigDict) -> Genotype:
  """Returns the genotype of the present architecture variables."""
  weights, space = _weights(architecture, config), space_of(config)
  if limit := config.search.max_parameters:
    return budget.derive(weights, space, limit=limit)
  return genotype.derive(weights, space)


def size(architecture: Architecture, config: ConfigDict) -> dict[str, Any]:
  """Returns the expected parameters, rounded, and the penalty if there is a limit."""
  expected = parameters.expected(architecture, space_of(config))
  found: dict[str, Any] = {'expected_parameters': round(float(expected))}
  if penalty := budget.penalty_of(config):
    found['penalty'] = float(penalty(architecture))
  return found


def weights_as_lists(architecture: Architecture, config: ConfigDict) -> dict[str, Any]:
  """Returns lists for metrics.jsonl: down_alphas [E][N], down_betas [E], also up_*, path_gates."""
  weights = _weights(architecture, config)
  found = {
    'down_alphas': weights.down.alphas,
    'down_betas': weights.down.betas,
    **({} if weights.gates is None else {'path_gates': weights.gates}),
    'up_alphas': weights.up.alphas,
    'up_betas': weights.up.betas,
  }
  return {
    name: [np.asarray(value).round(6).tolist() for value in values]
    for name, values in found.items()
  }


def save(
  folder: Path, progress: Progress, config: ConfigDict, log: logbook.Logbook, *, seed: int
) -> Searched:
  """Writes <folder>/genotype.json with scores and provenance, and returns the result."""
  architecture = progress.state.architecture
  found = derive(architecture, config)
  count = parameters.count(found, space_of(config))
  provenance = {
    'data': config.data.name,
    'seed': seed,
    'fold': config.data.fold,
    'epochs': progress.epoch,
    'planned_epochs': list(progress.planned),
    'depth': config.model.depth,
    'parameters': count,  # of the network at this width
    'channels': config.model.channels,
    'search': config.search.to_dict(),
  }
  scores = genotype.compute_scores(_weights(architecture, config), space_of(config))
  genotype.save(folder / 'genotype.json', found, scores=scores, provenance=provenance)
  lines = log.entries()
  # Only the first of several processes has the lines of an earlier call.
  dsc = hosts.share_first(lines[-1]['architecture_dsc'] if hosts.is_first() else None)
  seconds = sum(line['seconds'] for line in lines)
  return Searched(folder, found, OfSeed(seed, dsc, count, progress.epoch), seconds)


def keep_best(folder: Path, searches: Sequence[Searched]) -> Genotype:
  """Makes the search with the highest DSC on the architecture half the result of the stage.

  That is the supernet's DSC in the last epoch, with augmentation; of equal ones the first is kept.
  The files of a single search are in place. Of several, those of the best one are copied to the
  folder, and seeds.json has the figures of all.
  """
  best = max(searches, key=lambda one: one.figures.architecture_dsc)
  if len(searches) > 1:
    logbook.say('seed', 'DSC on the architecture half, %   parameters   epochs')
    for one in searches:
      seed, dsc, count, epochs = dataclasses.astuple(one.figures)
      picked = '   picked' if one is best else ''
      logbook.say(str(seed), f'{100 * dsc:>31.2f}   {count:>10,}   {epochs:>6}{picked}')
    table = Seeds(best.figures.seed, tuple(one.figures for one in searches))
    records.write(folder / 'seeds.json', table)
    for name in ('metrics.jsonl', 'genotype.json'):  # the latter marks the stage as done
      files.write_bytes(folder / name, (best.folder / name).read_bytes())
  logbook.say('genotype', f'{folder / "genotype.json"}, {best.figures.parameters:,} parameters')
  return best.genotype


def _weights(architecture: Architecture, config: ConfigDict) -> ArchitectureWeights:
  """Returns the softmax weights as numpy arrays.

  They are computed of copies on the host. Of arrays on several devices every small operation is
  one of all of them: while a sum over processes is under way on a CPU, dozens of these take the
  threads that it needs, and all processes stand still.
  """
  variables = mesh.fetch(architecture)
  return jax.device_get(architecture_weights(variables, nodes=config.model.nodes))
