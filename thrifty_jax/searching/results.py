"""Results of a search: the figures of each epoch, and the genotype at the end."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import files, logbook, records
from thrifty_jax.networks import build, genotype, parameters
from thrifty_jax.networks.architecture import Architecture, ArchitectureWeights
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.grid import architecture_weights
from thrifty_jax.networks.space import space_of
from thrifty_jax.run_files import OfSeed, Seeds
from thrifty_jax.searching import budget
from thrifty_jax.searching.bilevel import SearchState
from thrifty_jax.searching.progress import Progress
from thrifty_jax.searching.steps import Halves
from thrifty_jax.training import hosts

TABLE = 'seeds.json'  # in the folder of the stage, if there were several searches


class Searched(NamedTuple):
  """The result of one search.

  Attributes:
    seed: Seed of the search.
    folder: Folder with its genotype.json and metrics.jsonl.
    genotype: Genotype that was found.
    parameters: Parameters of its network.
    epochs: Number of epochs.
    architecture_dsc: DSC of the supernet on the architecture half in the last epoch, in [0, 1].
    seconds: Time that the epochs took.
  """

  seed: int
  folder: Path
  genotype: Genotype
  parameters: int
  epochs: int
  architecture_dsc: float
  seconds: float


def describe(config: ConfigDict, halves: Halves, state: SearchState) -> None:
  """Prints the supernet and the patients of a search before its first step."""
  if config.search.seeds > 1:
    last = config.seed + config.search.seeds - 1
    text = f'{halves.epochs[0].seed} of {config.seed} to {last}, searched one after the other'
    logbook.say('seed', text)
  count = build.count(state.params)
  logbook.say('supernet', f'{count:,} weights, {config.search.channels} channels')
  weights, architecture = halves.patients
  logbook.say(
    'halves',
    f'{len(weights)} patients for the weights, {len(architecture)} for the architecture; '
    f'{halves.steps} steps an epoch',
  )
  expected = size(state.architecture, config)['expected_parameters']
  limit = config.search.max_parameters
  text = f'{expected:,} parameters on average at the start'
  logbook.say('derived', text + (f'; the limit is {limit:,}' if limit else ''))


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


def derive(architecture: Architecture, config: ConfigDict) -> Genotype:
  """Returns the genotype of the present architecture variables."""
  weights, space = _weights(architecture, config), space_of(config)
  if limit := config.search.max_parameters:
    return budget.derive(weights, space, limit=limit)
  return genotype.derive(weights, space)


def size(architecture: Architecture, config: ConfigDict) -> dict[str, Any]:
  """Returns the expected parameters, rounded, and the penalty if there is a limit."""
  expected = parameters.expected(architecture, space_of(config))
  added = budget.penalty_of(config)
  found: dict[str, Any] = {'expected_parameters': round(float(expected))}
  return found if added is None else {**found, 'penalty': float(added(architecture))}


def weights_as_lists(architecture: Architecture, config: ConfigDict) -> dict[str, Any]:
  """Returns lists for metrics.jsonl: down_alphas [E][N], down_betas [E], also up_*, path_gates."""
  weights = _weights(architecture, config)
  found = {'down_alphas': weights.down.alphas, 'down_betas': weights.down.betas}
  if weights.gates is not None:
    found['path_gates'] = weights.gates
  found |= {'up_alphas': weights.up.alphas, 'up_betas': weights.up.betas}
  return {
    name: [np.asarray(value).round(6).tolist() for value in values]
    for name, values in found.items()
  }


def save(
  folder: Path, progress: Progress, config: ConfigDict, *, seed: int, seconds: float
) -> Searched:
  """Writes <folder>/genotype.json with scores and provenance.

  Args:
    folder: Folder of the search, with its metrics.jsonl.
    progress: Progress at the end of the search.
    config: Settings of the run.
    seed: Seed of the search.
    seconds: Time that its epochs took.
  """
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
  # Only the first of several processes has the lines of an earlier call.
  dsc = hosts.share_first(
    logbook.Logbook(folder).entries()[-1]['architecture_dsc'] if hosts.is_first() else None
  )
  return Searched(seed, folder, found, count, progress.epoch, dsc, seconds)


def keep_best(folder: Path, searches: Sequence[Searched]) -> Searched:
  """Makes the search with the highest DSC on the architecture half the result of the stage.

  That is the supernet's DSC in the last epoch, with augmentation. Of equal ones the first is kept.

  Args:
    folder: Folder of the stage, to which the genotype.json and metrics.jsonl of the best search are
      written, and seeds.json with the result of each.
    searches: Results of one or several searches; the files of a single one are already in place.
  """
  best = max(searches, key=lambda one: one.architecture_dsc)
  if len(searches) > 1:
    table = tuple(
      OfSeed(one.seed, one.architecture_dsc, one.parameters, one.epochs) for one in searches
    )
    logbook.say('seed', 'DSC on the architecture half   parameters   epochs')
    for one in searches:
      picked = '   picked' if one is best else ''
      figures = f'{one.architecture_dsc:>28.4f}   {one.parameters:>10,}   {one.epochs:>6}{picked}'
      logbook.say(str(one.seed), figures)
    records.write(folder / TABLE, Seeds(best.seed, table))
    for name in ('metrics.jsonl', 'genotype.json'):  # the latter marks the stage as done
      files.write_bytes(folder / name, (best.folder / name).read_bytes())
  logbook.say('genotype', f'{folder / "genotype.json"}, {best.parameters:,} parameters')
  return best


def _weights(architecture: Architecture, config: ConfigDict) -> ArchitectureWeights:
  """Returns the softmax weights as numpy arrays."""
  return jax.device_get(architecture_weights(architecture, nodes=config.model.nodes))
