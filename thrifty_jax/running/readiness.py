"""What must be there before a stage starts: what the stages before it leave, and its settings."""

from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import settings, stages
from thrifty_jax.errors import InputError
from thrifty_jax.stages import Stage


def require(stage: Stage, config: ConfigDict, workdir: Path) -> None:
  """Refuses to start a stage without what the stages before it leave.

  Raises:
    InputError: With the file that is missing or no longer fits, and the remedy.
  """
  if stage is stages.SEARCH and configs.searches(config) and config.search.max_parameters:
    from thrifty_jax.searching import budget  # imports JAX, which takes seconds

    budget.require_possible(config)
  if stage is stages.RETRAIN:
    from thrifty_jax.training import genotypes

    genotypes.require_trainable(config, workdir)
  if stage is stages.EVALUATE and not (workdir / 'model').is_dir():
    raise InputError(f'{workdir / "model"}: there is no model; train one with --stage=retrain')
  if stage is stages.REPORT and not any((workdir / name).exists() for name in settings.ALL):
    raise InputError(f'{workdir}: there is no run to report on; expected the folder of a run')
  if stage is stages.DESCRIBE and config.model.name == 'thrifty':
    path = stages.genotype_file(config, workdir)
    if not path.is_file():
      raise InputError(
        f'{path}: there is no genotype to describe; name one, for example '
        '--config.genotype=thrifty_jax/genotypes/thrifty_0.61m.json'
      )


def fill_in_recorded(config: ConfigDict, workdir: Path) -> None:
  """Fills in, in place, what the config leaves to the data by what it was when the run was made.

  Args:
    config: Settings of this call.
    workdir: Folder of the run.

  Raises:
    InputError: If there is no run, or its config lacks such a field or has a value that cannot be.
  """
  left = configs.left_to_data(config)
  if not left:
    return
  require(stages.REPORT, config, workdir)
  before = stages.read_recorded(workdir)
  for name in left:
    try:
      value = tuple(before[name]) if isinstance(before[name], list) else before[name]
      config.update_from_flattened_dict({name: value})
    except (KeyError, TypeError) as error:
      raise InputError(
        f'{workdir / "config.json"}: has no {name} that can be used; restore the file, or set '
        f'--config.{name}'
      ) from error
  configs.validate(config)


def is_prepared(config: ConfigDict) -> bool:
  """Whether the slices of this data set and these settings lie ready."""
  from data_prep import data_sets, prepare

  _, unpaired = data_sets.find_pairs(config)  # never prepared: the check lists them
  return not unpaired and prepare.prepared_dir(config).is_dir()
