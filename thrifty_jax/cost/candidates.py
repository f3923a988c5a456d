"""Finds the networks whose cost is asked for: model folders, genotype files, or a config's own."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import model_folder, records
from thrifty_jax.allowed import one_of, within
from thrifty_jax.cost import costs
from thrifty_jax.cost.costs import Candidate
from thrifty_jax.networks import genotype
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.networks.model_spec import make_untrained_spec
from thrifty_jax.predicting import segment


@dataclasses.dataclass(frozen=True)
class MadeFor:
  """What a genotype file may say of the network that a race makes of it.

  Attributes:
    modalities: Channels of a slice, with those of the neighbouring slices.
    classes: Number of classes, with the background.
    channels, depth: Channels at full size, and levels below it, of a network of cells.
    norm: Norm of a network of cells.
  """

  modalities: Annotated[int, within(1, 1024)] = 1
  classes: Annotated[int, within(2, 1024)] = 2
  channels: Annotated[int, within(1, 1024)] = 32
  depth: Annotated[int, within(3, 6)] = 5
  norm: Annotated[str, one_of('group', 'batch')] = 'group'

  @classmethod
  def of_config(cls, config: ConfigDict) -> 'MadeFor':
    """Returns what the networks of a config are made for."""
    data, model = config.data, config.model
    copies = 2 * data.context + 1
    norm = 'batch' if model.norm == 'batch' else 'group'
    return cls(copies * data.modalities, len(data.classes), model.channels, model.depth, norm)


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
  found = [
    Candidate(name, model_folder.load(segment.find_model(name, 'models'))) for name in models
  ]
  for name in genotypes:
    found += _load_genotype(name, cells)
  return [costs.resize(candidate, size) for candidate in found]


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
    return [_make(name, config, found)]
  candidates = []
  for channels, norm in cells or [(made_for.channels, made_for.norm)]:
    config.model.update({'channels': channels, 'norm': norm})
    title = f'{name} {channels}:{norm}' if len(cells) > 1 else name
    candidates.append(_make(title, config, found))
  return candidates


def of_config(name: str, config: ConfigDict, found: Genotype | LeanShape | None) -> Candidate:
  """Returns the configured network with random weights, for slices of config.cost.size.

  Args:
    name: Name of the network.
    config: Settings of the network and its slices.
    found: Genotype of the network, None for a baseline.
  """
  size = config.cost.size or config.data.image_size
  return costs.resize(_make(name, config, found), size)


def _make(name: str, config: ConfigDict, found: Genotype | LeanShape | None) -> Candidate:
  return Candidate(name, costs.make_random(make_untrained_spec(config), found))
