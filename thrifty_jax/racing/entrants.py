"""The networks that may race: known shapes, narrow U-Nets, drawn, mutated and given ones."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax.cost.candidates import MadeFor
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.networks import lean_space
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.networks.lean_space import LeanShape, Level

SOURCES = ('unet', 'known', 'drawn', 'mutant', 'genotype')


@dataclasses.dataclass(frozen=True)
class Entrant:
  """A network that may race.

  Attributes:
    name: Name of its files.
    source: Origin, one of SOURCES.
    genotype: Its shape or cells.
    channels: Channels of a network of cells at full size; 0 for a shape.
    parent: Name of the network that it was mutated from, else ''.
  """

  name: str
  source: str
  genotype: LeanShape | Genotype
  channels: int = 0
  parent: str = ''

  @property
  def title(self) -> str:
    """Short description."""
    if isinstance(self.genotype, LeanShape):
      return self.genotype.title
    return f'{self.name.rpartition("_")[0]}, {self.channels} channels'


class _Form(NamedTuple):
  """Shapes of all sizes: widths are multiples of the first, `top` counts its level's convolutions.

  The other levels have two convolutions on the way down, and all have `decoder` on the way up.
  """

  name: str
  stem: int
  growth: Sequence[float]
  top: int = 2
  decoder: int = 1
  skip: str = 'add'

  def make(self, first: int) -> LeanShape:
    """Returns the shape whose highest level has so many channels."""
    levels = tuple(
      Level(
        width=round(first * factor / lean_space.MULTIPLE) * lean_space.MULTIPLE,
        encoder=2 if number else self.top,
        decoder=self.decoder,
        block='plain',
      )
      for number, factor in enumerate(self.growth)
    )
    return LeanShape(levels, self.stem, up='transposed', skip=self.skip, norm='batch')


# Forms that did well by hand, the better ones first, see docs/results.md.
_FORMS = (
  _Form('cone', 2, (1, 2, 4, 8)),
  _Form('wedge', 2, (1, 3, 6, 12)),
  _Form('double', 2, (1, 2, 4, 8), decoder=2, skip='concat'),
  _Form('slender', 2, (1, 1.5, 2, 3, 4)),
  _Form('full', 1, (1, 2, 4, 8, 16), top=1),
  _Form('deep', 2, (1, 2, 4, 8, 16)),
  _Form('column', 2, (1, 1, 1, 1, 1)),
  _Form('quarter', 4, (1, 2, 4, 8)),
)
_FIRST = (8, 16, 24, 32, 48, 64)  # widths of their highest levels
_WIDTHS = (4, 6, 8, 12, 16, 24, 32)  # of U-Nets at full size
_DRAWN = re.compile(r'drawn_\d+')  # names of those drawn
_TRIES = 500  # mutations of a network until no other is expected


def list_known() -> list[Entrant]:
  """Lists the shapes of forms known to do well, each form in all its sizes."""
  return [
    Entrant(f'{form.name}_{first}', 'known', form.make(first))
    for form in _FORMS
    for first in _FIRST
  ]


def list_unets() -> list[Entrant]:
  """Lists narrow U-Nets: the usual ones of every width first, then lighter ones."""
  kinds = itertools.product(('concat', 'add'), (2, 1), (5, 4), ('transposed', 'nearest'))
  return [
    Entrant(
      f'unet_{width}_{levels}_{decoder}_{skip}_{up}',
      'unet',
      lean_space.unet(width, levels=levels, decoder=decoder, up=up, skip=skip),
    )
    for skip, decoder, levels, up in kinds
    for width in _WIDTHS
  ]


def list_given(config: ConfigDict) -> list[Entrant]:
  """Lists the networks of config.front.genotypes; cells once for each number of channels.

  Raises:
    InputError: If a file is no genotype, or its network has the name of another one, or such a name
      as the race gives to those that it draws and mutates.
  """
  found = []
  for path in map(Path, config.front.genotypes):
    genotype = genotypes.load_any(path)
    genotypes.require_depth(genotype, config.model.depth, place=str(path))
    if isinstance(genotype, LeanShape):
      found.append(Entrant(path.stem, 'genotype', genotype))
      continue
    found += [
      Entrant(f'{path.stem}_{channels}', 'genotype', genotype, channels)
      for channels in config.front.channels
    ]
  names = [one.name for one in [*list_known(), *list_unets(), *found]]
  for name in names:
    ancestor = re.sub(r'(_\d+_\d+)+$', '', name)
    may_mutate = ancestor != name and (ancestor in names or _DRAWN.fullmatch(ancestor))
    if names.count(name) > 1 or may_mutate or _DRAWN.fullmatch(name):
      raise InputError(
        f'config.front.genotypes: another network of the race is named {name!r}, or may be; rename '
        'the file'
      )
  return found


def draw(
  generator: np.random.Generator, known: Iterable[LeanShape | Genotype]
) -> Iterator[Entrant]:
  """Yields shapes drawn at random without end, none of them twice or known.

  A name has the place in the sequence, so that it stands for the same shape whatever is known.
  """
  seen = _find_effective(known)
  for number in itertools.count(1):
    shape = lean_space.draw(generator)
    if shape.effective not in seen:
      seen.add(shape.effective)
      yield Entrant(f'drawn_{number}', 'drawn', shape)


def mutate(
  parent: Entrant, name: str, generator: np.random.Generator, known: Iterable[LeanShape | Genotype]
) -> Iterator[Entrant]:
  """Yields mutations of a lean network, none of them twice or known, until others are rare.

  They are named after their places in the sequence, as those of `draw` are.
  """
  assert isinstance(parent.genotype, LeanShape)
  seen = _find_effective(known)
  for number in range(1, _TRIES + 1):
    shape = lean_space.mutate(parent.genotype, generator)
    if shape.effective not in seen:
      seen.add(shape.effective)
      yield Entrant(f'{name}_{number}', 'mutant', shape, parent=parent.name)


def leave_out(found: Iterable[Entrant], others: Iterable[Entrant]) -> list[Entrant]:
  """Returns those of the networks that are none of the others, by another name."""
  twins = _find_effective(one.genotype for one in others)
  return [one for one in found if not _find_effective([one.genotype]) & twins]


def _find_effective(known: Iterable[LeanShape | Genotype]) -> set[LeanShape]:
  return {shape.effective for shape in known if isinstance(shape, LeanShape)}


def save(path: Path, entrant: Entrant, config: ConfigDict) -> None:
  """Writes the genotype file of a network with where it comes from and what it is made for."""
  made_for = MadeFor.of_config(configure(config, entrant, path))
  provenance = {'source': entrant.source, 'parent': entrant.parent, genotypes.MADE_FOR: made_for}
  told = {name: value for name, value in provenance.items() if value}
  genotypes.save(path, entrant.genotype, provenance=told)


def configure(config: ConfigDict, entrant: Entrant, path: Path) -> ConfigDict:
  """Returns a config with the network of an entrant, whose genotype file is `path`."""
  settings = config.copy_and_resolve_references()
  if entrant.channels:
    configs.set_model(settings, 'thrifty')
    settings.model.channels = entrant.channels
  else:
    configs.set_lean(settings)
  settings.genotype = str(path)
  settings.search.max_ms, settings.search.max_macs = 0.0, 0  # these are the race's
  return settings
