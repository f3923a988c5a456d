"""The planes of slices in one command, each in a folder of its own."""

import dataclasses
from pathlib import Path

from thrifty_jax import config as configs
from thrifty_jax import stages
from thrifty_jax.errors import InputError
from thrifty_jax.running import readiness, run_data
from thrifty_jax.running.command_line import Command
from thrifty_jax.settings import SLICE_AXES

FOLDER = 'planes'  # in the workdir
_GENOTYPE = Path(configs.__file__).with_name('genotypes') / 'lean_0.42m.json'


def make_commands(command: Command) -> tuple[Command, dict[str, Command]]:
  """Returns the command with the plane that it takes by itself, and the command of each plane.

  They have one network, config.genotype or else a lean one, no teacher, and one split, that of the
  run. The fields that the data determines are filled in.

  Raises:
    InputError: If the scans are pictures, or the command asks for folds, a baseline or a start from
      a model.
  """
  if command.folds:
    raise InputError('--stage=planes: compares in one fold; leave out --folds')
  config = command.config.copy_and_resolve_references()
  if not configs.has_genotype(config):
    raise InputError(
      f'--stage=planes: config.model.name is {config.model.name!r}; a lean network compares the '
      'planes, leave the variant out'
    )
  if config.retrain.start_from:
    raise InputError(
      '--stage=planes: does not start from a model, whose plane is settled; leave out '
      '--config.retrain.start_from'
    )
  config.retrain.teacher = config.data.unlabelled = ''  # a teacher has a plane of its own
  if not config.genotype:
    configs.set_model(config, 'lean')
    config.model.norm, config.model.deep_supervision = 'none', False  # those of cells
    config.genotype = str(_GENOTYPE)
  (usual,) = run_data.fill_in([dataclasses.replace(command, config=config)])
  if usual.config.data.unit == 'pixels':
    raise InputError('--stage=planes: pictures have no planes; expected volumes')
  for name in ('validation_patients', 'test_patients'):  # by a splits.json of the run
    config.data[name] = usual.config.data[name]
  each = []
  for plane in SLICE_AXES:
    config.data.slice_axis = plane
    folder = command.workdir / FOLDER / plane
    one = config.copy_and_resolve_references()
    each.append(dataclasses.replace(command, config=one, workdir=folder))
  found = dict(zip(SLICE_AXES, run_data.fill_in(each), strict=True))
  for one in found.values():
    readiness.require(stages.RETRAIN, one.config, one.workdir)
  return usual, found
