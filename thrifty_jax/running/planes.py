"""The planes of slices in one command, each in a folder of its own."""

import dataclasses
from pathlib import Path

from thrifty_jax import config as configs
from thrifty_jax.errors import InputError
from thrifty_jax.running import run_data
from thrifty_jax.running.command_line import Command
from thrifty_jax.settings import SLICE_AXES

FOLDER = 'planes'  # in the workdir
_GENOTYPE = Path(configs.__file__).with_name('genotypes') / 'lean_0.42m.json'


def make_commands(command: Command) -> tuple[str, dict[str, Command]]:
  """Returns the plane that a run takes by itself, and the command of each plane.

  They have one network, config.genotype or else a lean one, and one split, that of the run. The
  fields that the data determines are filled in.

  Raises:
    InputError: If the scans are pictures, or the command asks for folds, a baseline or a start from
      a model.
  """
  if command.folds:
    raise InputError('--stage=planes: compares in one fold; leave out --folds')
  if not configs.has_genotype(command.config):
    raise InputError(
      f'--stage=planes: config.model.name is {command.config.model.name!r}; a lean network '
      'compares the planes, leave the variant out'
    )
  if command.config.retrain.start_from:
    raise InputError(
      '--stage=planes: does not start from a model, whose plane is settled; leave out '
      '--config.retrain.start_from'
    )
  (usual,) = run_data.fill_in([command])
  if usual.config.data.unit == 'pixels':
    raise InputError('--stage=planes: pictures have no planes; expected volumes')
  each = []
  for plane in SLICE_AXES:
    config = command.config.copy_and_resolve_references()
    for name in ('validation_patients', 'test_patients'):  # by a splits.json of the run
      config.data[name] = usual.config.data[name]
    config.data.slice_axis = plane
    if not config.genotype:
      configs.set_model(config, 'lean')
      config.genotype = str(_GENOTYPE)
    folder = command.workdir / FOLDER / plane
    each.append(dataclasses.replace(command, config=config, workdir=folder))
  return usual.config.data.slice_axis, dict(zip(SLICE_AXES, run_data.fill_in(each), strict=True))
