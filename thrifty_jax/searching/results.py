"""What the variables of a search stand for, and what a finished one leaves behind."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import files, logbook, records
from thrifty_jax.networks import genotype, parameters
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.grid import Architecture, architecture_weights
from thrifty_jax.run_files import OfSeed, Seeds
from thrifty_jax.searching import budget

TABLE = 'seeds.json'  # in the folder of the stage, where there were several searches


class Searched(NamedTuple):
  """The result of one search.

  Attributes:
    seed: Of the search.
    folder: With its genotype.json and metrics.jsonl.
    genotype: What was found.
    parameters: Of its network.
    epochs: That it took.
  """

  seed: int
  folder: Path
  genotype: Genotype
  parameters: int
  epochs: int


def derive(architecture: Architecture, config: ConfigDict) -> Genotype:
  """The genotype that the architecture variables stand for now."""
  weights, space = _weights(architecture, config), parameters.space_of(config)
  if limit := config.search.max_parameters:
    return budget.derive(weights, space, limit=limit)
  return genotype.derive(
    weights, nodes=space.nodes, edges_per_node=space.edges_per_node, depth=space.depth
  )


def size(architecture: Architecture, config: ConfigDict) -> dict[str, Any]:
  """The expected parameters, whole, and the penalty where there is a limit."""
  expected = parameters.expected(architecture, parameters.space_of(config))
  added = budget.penalty_of(config)
  found: dict[str, Any] = {'expected_parameters': round(float(expected))}
  return found if added is None else {**found, 'penalty': float(added(architecture))}


def weights_as_lists(architecture: Architecture, config: ConfigDict) -> dict[str, Any]:
  """down_alphas [E][N], down_betas [E], as much for up, path_gates [G][2], for metrics.jsonl."""
  return {
    f'{kind}_{name}': [np.asarray(value).round(6).tolist() for value in values]
    for kind, part in _weights(architecture, config).items()
    for name, values in part.items()
  }


def save(
  folder: Path,
  architecture: Architecture,
  config: ConfigDict,
  *,
  seed: int,
  epochs: int,
  planned: Sequence[int],
) -> Searched:
  """Writes <folder>/genotype.json, with scores and where it came from.

  Args:
    folder: Of the search, with its metrics.jsonl.
    architecture: Its variables after the last step.
    config: Of the run.
    seed: Of the search.
    epochs: That are done.
    planned: Epochs it was to take, from call to call.
  """
  found = derive(architecture, config)
  count = parameters.count(found, parameters.space_of(config))
  provenance = {
    'data': config.data.name,
    'seed': seed,
    'fold': config.data.fold,
    'epochs': epochs,
    'planned_epochs': list(planned),
    'depth': config.model.depth,
    'parameters': count,  # of the network at this width
    'channels': config.model.channels,
    'search': config.search.to_dict(),
  }
  scores = genotype.all_scores(
    _weights(architecture, config), nodes=config.model.nodes, depth=config.model.depth
  )
  genotype.save(folder / 'genotype.json', found, scores=scores, provenance=provenance)
  return Searched(seed, folder, found, count, epochs)


def keep_best(folder: Path, searches: Sequence[Searched]) -> Searched:
  """Makes the search with the highest DSC on the architecture half the result of the stage.

  That is the supernet's DSC of the last epoch, under augmentation. Of equal ones the first wins.

  Args:
    folder: Of the stage, which gets the genotype.json and metrics.jsonl of the best one, and
      seeds.json, which tells what each came to.
    searches: One or several; one alone has left its files in the folder already.
  """
  best = searches[0]
  if len(searches) > 1:
    scores = [_last_dsc(one) for one in searches]
    best = searches[int(np.argmax(scores))]
    table = tuple(
      OfSeed(one.seed, dsc, one.parameters, one.epochs)
      for one, dsc in zip(searches, scores, strict=True)
    )
    _say(table, best)
    records.write(folder / TABLE, Seeds(best.seed, table))
    for name in ('metrics.jsonl', 'genotype.json'):  # the latter says that the stage is done
      files.write_bytes(folder / name, (best.folder / name).read_bytes())
  logbook.say('genotype', f'{folder / "genotype.json"}, {best.parameters:,} parameters')
  return best


def _last_dsc(one: Searched) -> float:
  """On the architecture half, in [0, 1]."""
  return logbook.Logbook(one.folder).entries()[-1]['architecture_dsc']


def _say(table: Sequence[OfSeed], best: Searched) -> None:
  logbook.say('seed', 'DSC on the architecture half   parameters   epochs')
  for seed, dsc, count, epochs in map(dataclasses.astuple, table):
    picked = '   picked' if seed == best.seed else ''
    logbook.say(str(seed), f'{dsc:>28.4f}   {count:>10,}   {epochs:>6}{picked}')


def _weights(architecture: Architecture, config: ConfigDict) -> dict[str, Any]:
  """Softmax weights as numpy arrays."""
  return jax.device_get(architecture_weights(architecture, nodes=config.model.nodes))
