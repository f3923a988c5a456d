"""The networks that are measured, with random weights."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

import thrifty_jax
from benchmarks import measure
from thrifty_jax import config as configs
from thrifty_jax.model_folder import LoadedModel
from thrifty_jax.networks import build, genotype
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.networks.model_spec import make_spec

PAPER = Path(thrifty_jax.__file__).parent / 'genotypes' / 'thrifty_0.61m.json'
BASELINES = ('unet', 'unet_plus_plus')
MEAN, STD = 0.3, 0.25  # arbitrary, for intensities in [0, 1]


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds --model, --channels and --depth."""
  text = "thrifty (of the paper's size), unet, unet_plus_plus, or the file of a genotype"
  measure.several(parser, 'model', 'thrifty', *BASELINES, type=str, help=text)
  parser.add_argument('--channels', type=measure.positive, default=32, help='of cells')
  parser.add_argument('--depth', type=measure.positive, default=5, help='likewise')


@dataclasses.dataclass(frozen=True)
class Network:
  """A network of one modality and two classes.

  Attributes:
    name: Name thrifty, one of BASELINES, or the file of a genotype.
    size: Side of the square slices.
    norm: Norm of a baseline, none or group; networks of a genotype have their own.
    channels, depth: Sizes of a network of cells; those of others are fixed.
  """

  name: str
  size: int
  norm: str = 'none'
  channels: int = 32
  depth: int = 5

  def __post_init__(self):
    """Refuses a genotype that cannot be used, without starting JAX.

    Raises:
      InputError: If its file is missing, damaged or of another depth.
    """
    self.genotype()

  def genotype(self) -> genotype.Genotype | LeanShape | None:
    """Returns the genotype, None for a baseline."""
    if self.name in BASELINES:
      return None
    path = PAPER if self.name == 'thrifty' else Path(self.name)
    found = genotype.load_any(path)
    genotype.require_depth(found, self.depth, place=str(path))
    return found

  def describe(self) -> dict[str, Any]:
    """Returns its attributes by name; None for those that a lean network does not have."""
    lacks = ('norm', 'channels', 'depth') if isinstance(self.genotype(), LeanShape) else ()
    return dataclasses.asdict(self) | dict.fromkeys(lacks)

  def member(self) -> LoadedModel:
    """Returns the network with random weights, as if loaded from a model's folder."""
    config = configs.default()
    found = self.genotype()
    config.model.update({'channels': self.channels, 'depth': self.depth, 'norm': self.norm})
    if isinstance(found, LeanShape):
      configs.set_lean(config)
    else:
      config.model.name = self.name if found is None else 'thrifty'
    config.data.update({'classes': ('background', 'organ'), 'image_size': self.size})
    spec = make_spec(config, {'mean': np.full(1, MEAN), 'std': np.full(1, STD)})
    shapes = build.find_shapes(build.build(spec, found), spec.image_channels)
    return LoadedModel(spec, found, '', build.initialise(shapes, seed=0))


def of(asked: argparse.Namespace, name: str, size: int, norm: str = 'none') -> Network:
  """Returns the network of the options of `add_options`."""
  return Network(name, size, norm, asked.channels, asked.depth)
