"""Ways to slice the scans in one command, planes or sizes, each in a folder of its own."""

import dataclasses
import math
from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import stages
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.running import readiness, run_data
from thrifty_jax.running.command_line import Command
from thrifty_jax.settings import SLICE_AXES

SHARES = (0.5, 0.75)  # sizes that are compared with the run's own
_GENOTYPE = Path(configs.__file__).with_name('genotypes') / 'lean_0.42m.json'


def make_commands(command: Command) -> tuple[Command, dict[str, Command]]:
  """Returns the command with the slices that it takes by itself, and a command for each kind.

  They have one network, config.genotype or else a lean one, no teacher, and one split, that of the
  run. The fields that the data determines are filled in.

  Raises:
    InputError: If the scans do not come in such kinds, or the command asks for folds, a baseline or
      a start from a model.
  """
  stage = command.stage
  if command.folds:
    raise InputError(f'--stage={stage}: compares in one fold; leave out --folds')
  config = command.config.copy_and_resolve_references()
  if not configs.has_genotype(config):
    raise InputError(
      f'--stage={stage}: config.model.name is {config.model.name!r}; a lean network compares the '
      f'{stage}, leave the variant out'
    )
  if config.retrain.start_from:
    raise InputError(
      f'--stage={stage}: does not start from a model, whose slices are settled; leave out '
      '--config.retrain.start_from'
    )
  config.retrain.teacher = config.data.unlabelled = ''  # a teacher has slices of its own
  if not config.genotype:
    configs.set_lean(config)
    config.genotype = str(_GENOTYPE)
  (usual,) = run_data.fill_in([dataclasses.replace(command, config=config)])
  list_kinds = _list_planes if stage == stages.PLANES.name else _list_sizes
  kinds = list_kinds(usual.config)
  for name in ('validation_patients', 'test_patients'):  # by a splits.json of the run
    config.data[name] = usual.config.data[name]
  each = []
  for name, changes in kinds.items():
    one = config.copy_and_resolve_references()
    one.data.update(changes)
    each.append(dataclasses.replace(command, config=one, workdir=command.workdir / stage / name))
  found = dict(zip(kinds, run_data.fill_in(each), strict=True))
  for one in found.values():
    readiness.require(stages.RETRAIN, one.config, one.workdir)
  return usual, found


def _list_planes(config: ConfigDict) -> dict[str, dict]:
  """Returns the changes of section data for each plane, by its name."""
  if config.data.unit == 'pixels':
    raise InputError('--stage=planes: pictures have no planes; expected volumes')
  return {plane: {'slice_axis': plane} for plane in SLICE_AXES}


def _list_sizes(config: ConfigDict) -> dict[str, dict]:
  """Returns the changes of section data for each size, the largest of which is that of the run.

  The others are multiples of what the network fills a slice up to, as it takes no less time for
  others.
  """
  data = config.data
  if data.reduction:
    raise InputError(
      f'--stage=sizes: data.reduction is {data.reduction:g}, by which pictures are cut into '
      'windows; expected 0, which draws slices whole'
    )
  genotype = genotypes.load_any(config.genotype)
  step = 2 ** (genotype.halvings if isinstance(genotype, LeanShape) else config.model.depth)
  sizes = {step * math.floor(share * data.image_size / step + 0.5) for share in SHARES}
  least = max(step, 2**config.model.depth)  # of any config
  smaller = sorted(size for size in sizes if least <= size < data.image_size)
  if not smaller:
    raise InputError(
      f'--stage=sizes: config.data.image_size is {data.image_size}, and the network fills slices '
      f'up to multiples of {step} pixels; no smaller size of at least {least} is left to compare'
    )
  # What could follow from the size otherwise is settled.
  settled = {'slice_axis': data.slice_axis, 'reduction': 0.0}
  return {str(size): {'image_size': size, **settled} for size in (*smaller, data.image_size)}
