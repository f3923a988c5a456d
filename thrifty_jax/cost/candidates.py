"""Finds the networks whose cost is asked for: model folders, genotype files, or a config's own."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import model_folder, records
from thrifty_jax.allowed import within
from thrifty_jax.cost import costs
from thrifty_jax.cost.costs import Candidate
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.networks.model_spec import make_spec
from thrifty_jax.predicting import segment


@dataclasses.dataclass(frozen=True)
class MadeFor:
  """What a genotype file may say of the network that a race makes of it.

  Attributes:
    modalities: Channels of a slice, with those of the neighbouring slices.
    classes: Number of classes, with the background.
    channels, depth: Channels at full size, and levels below it, of a network of cells.
  """

  modalities: Annotated[int, within(1, 1024)] = 1
  classes: Annotated[int, within(2, 1024)] = 2
  channels: Annotated[int, within(1, 1024)] = 32
  depth: Annotated[int, within(3, 6)] = 5

  @classmethod
  def of_config(cls, config: ConfigDict) -> 'MadeFor':
    """Returns what the networks of a config are made for."""
    data, model = config.data, config.model
    copies = 2 * data.context + 1
    return cls(copies * data.modalities, len(data.classes), model.channels, model.depth)


def load(
  models: Sequence[str],
  genotypes: Sequence[str],
  *,
  size: int,
  cells: Sequence[tuple[int, str]] = (),
) -> list[Candidate]:
  """Returns the networks of model folders and of genotype files for slices of this side in pixels.

  A network of a genotype has one channel and two classes, and of cells the default's sizes, unless
  its file says otherwise, as those of a race do. Of cells there is one for each of `cells`, which
  are channels and norm.
  """
  found = [_load_model(name) for name in models]
  for name in genotypes:
    found += _load_genotype(name, cells)
  return [costs.resize(candidate, size) for candidate in found]


def _load_model(name: str) -> Candidate:
  folders = segment.find_models(Path(name))
  if len(folders) > 1:
    raise InputError(
      f'--models={name}: has a model for each fold; name one of them, as {folders[0].parent}'
    )
  return Candidate(name, model_folder.load(folders[0]))


def _load_genotype(name: str, cells: Sequence[tuple[int, str]]) -> list[Candidate]:
  found = genotype.load_any(name)
  config = configs.default()
  config.model.name = 'lean' if isinstance(found, LeanShape) else 'thrifty'
  value = genotype.read_provenance(name).get(genotype.MADE_FOR, {})
  made_for = records.parse(value, MadeFor, name, remedy='correct it, or use another genotype')
  config.data.modalities = made_for.modalities
  config.data.classes = tuple(map(str, range(made_for.classes)))
  config.model.update({'channels': made_for.channels, 'depth': made_for.depth})
  genotype.require_depth(found, config.model.depth, place=name)
  if isinstance(found, LeanShape):
    return [Candidate(name, _random_of(config, found).member)]
  candidates = []
  for channels, norm in cells or [(made_for.channels, 'group')]:
    config.model.update({'channels': channels, 'norm': norm})
    title = f'{name} {channels}:{norm}' if len(cells) > 1 else name
    candidates.append(Candidate(title, _random_of(config, found).member))
  return candidates


def of_config(config: ConfigDict, found: Genotype | LeanShape | None) -> Candidate:
  """Returns the configured network with random weights, for slices of config.cost.size.

  `found` is its genotype, None for a baseline.
  """
  size = config.cost.size or config.data.image_size
  return costs.resize(_random_of(config, found), size)


def _random_of(config: ConfigDict, found: Genotype | LeanShape | None) -> Candidate:
  # The time does not depend on the normalisation of the slices.
  statistics = {'mean': np.zeros(config.data.modalities), 'std': np.ones(config.data.modalities)}
  return Candidate(config.model.name, costs.make_random(make_spec(config, statistics), found))
